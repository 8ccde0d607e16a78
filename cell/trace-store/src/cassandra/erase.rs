//! Erases a trace: into the list first, so that nobody gives or takes it any more; then doubts, index
//! rows and spans, in an order in which a failure leaves enough to go on from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use proto::wire::SpanHeader;
use trace_model::time::place;
use trace_model::{TenantId, TraceId, UnixNanos};

use super::announce::by_partition;
use super::engine::Engine;
use super::erased::SKEW;
use super::hours::buckets;
use super::places::{bigint, day_of, hour_of, key_of, service_bucket, slot_of};
use super::read::{TracePage, TracePages};
use super::schema::retention_seconds;
use super::store::CassandraStore;
use crate::port::{Eraser, ErasureReceipt, StoreError};

/// Where a piece of the trace is announced and indexed. Names are keys.
#[derive(Debug, Default)]
struct Traces {
    /// Service, day, slot.
    services: BTreeSet<(String, i32, i16)>,
    /// Service, day, operation, kind, slot.
    operations: BTreeSet<(String, i32, String, i8, i16)>,
    /// Service, hour, placement time.
    times: BTreeSet<(String, i32, i64)>,
}

impl Traces {
    fn of(page: &TracePage) -> Self {
        let mut traces = Self::default();
        for (stored, received) in page.spans.iter().zip(&page.received) {
            let Ok(header) = SpanHeader::read(&stored.span) else { continue };
            let service = key_of(&stored.context.service).into_owned();
            let name = std::str::from_utf8(header.name).unwrap_or("");
            let operation = key_of(name).into_owned();
            let kind = header.kind.cast_signed();
            for received in received {
                let (start, end) = (UnixNanos(header.start), UnixNanos(header.end));
                let placed = place(start, end, *received).time;
                let (day, slot) = (day_of(placed), slot_of(placed));
                traces.services.insert((service.clone(), day, slot));
                traces.operations.insert((service.clone(), day, operation.clone(), kind, slot));
                traces.times.insert((service.clone(), hour_of(placed), bigint(placed.0)));
            }
        }
        traces
    }
}

#[async_trait]
impl Eraser for CassandraStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let engine = self.engine().await?;
        self.erased.add(&engine, tenant, trace_id).await?;
        let mut newest = self.clock.now();
        let mut spans = 0;
        let pages = TracePages::new(Arc::clone(&engine), tenant.clone(), trace_id);
        let mut pages = pages.with_received();
        while let Some(page) = pages.next_page().await? {
            spans += page.spans.len() as u64;
            // A row of the index is dated by a copy of the span whose time it has.
            newest = page.received.iter().flatten().copied().fold(newest, UnixNanos::max);
            let traces = Traces::of(&page);
            self.doubt(&engine, tenant, &traces).await?;
            self.delete_index(&engine, (tenant, trace_id), traces.times, ahead(newest)).await?;
        }
        let trace = trace_id.as_bytes().as_slice();
        // Shard 0 last: it names the others, should this be done again.
        for shard in pages.shards().iter().rev() {
            let values = (ahead(newest), tenant.as_str(), trace, *shard);
            engine.execute(&engine.statements.delete_spans, values).await?;
        }
        Ok(ErasureReceipt { files: 0, spans })
    }
}

/// The date of a deletion: later than what was written, and than what is written by those that do
/// not know of it yet.
fn ahead(newest: UnixNanos) -> i64 {
    bigint(newest.plus(u64::try_from(SKEW.as_nanos()).unwrap_or(0)).micros())
}

impl CassandraStore {
    /// Marks slots as doubtful, for longer than anything lives that was in them until now.
    async fn doubt(
        &self,
        engine: &Engine,
        tenant: &TenantId,
        traces: &Traces,
    ) -> Result<(), StoreError> {
        let day = std::time::Duration::from_secs(24 * 3_600);
        let ttl = retention_seconds(self.config.retention.saturating_add(day));
        let tenant = tenant.as_str();
        let services = traces.services.iter().map(|(service, day, slot)| {
            let bucket = service_bucket(service);
            ((*day, bucket), (ttl, vec![*slot], tenant, *day, bucket, service))
        });
        let rows = by_partition(services);
        engine.write_all(&engine.statements.doubt_service, &rows).await?;
        let operations = traces.operations.iter().map(|(service, day, operation, kind, slot)| {
            ((service, *day), (ttl, vec![*slot], tenant, service, *day, operation, *kind))
        });
        let rows = by_partition(operations);
        engine.write_all(&engine.statements.doubt_operation, &rows).await
    }

    /// Removes the rows of the index that may be the trace's: those of its times, in every bucket
    /// that is announced.
    async fn delete_index(
        &self,
        engine: &Engine,
        (tenant, trace_id): (&TenantId, TraceId),
        times: BTreeSet<(String, i32, i64)>,
        timestamp: i64,
    ) -> Result<(), StoreError> {
        let trace = trace_id.as_bytes().as_slice();
        let mut known: BTreeMap<(String, i32), Vec<i32>> = BTreeMap::new();
        let mut rows = Vec::new();
        for (service, hour, newest) in times {
            let key = (service.clone(), hour);
            if !known.contains_key(&key) {
                let of = (hour.div_euclid(24), hour);
                known.insert(key.clone(), buckets(engine, tenant, &service, of).await?);
            }
            for bucket in known.get(&key).into_iter().flatten() {
                let values =
                    (timestamp, tenant.as_str(), service.clone(), hour, *bucket, newest, trace);
                rows.push(((service.clone(), hour, *bucket), values));
            }
        }
        let rows = by_partition(rows.into_iter());
        engine.write_all(&engine.statements.delete_index, &rows).await
    }
}
