//! Lists services and operations: what the catalogue says of the days, exact to its slots. A slot
//! in which an erased trace was is believed only where the index still holds another one.

use std::sync::Arc;

use async_trait::async_trait;
use scylla::response::PagingState;
use trace_model::{Coverage, SpanKind, TenantId, TimeRange, TraceId, UnixNanos};

use super::announce::MORE;
use super::engine::{Engine, at_once};
use super::entries::{decode, operation_hash};
use super::fault;
use super::hours::{buckets, check_days, days};
use super::places::{
    SERVICE_BUCKETS, bigint, hour_of_slot, is_whole, key_of, slot_times, unsigned,
};
use super::store::CassandraStore;
use crate::port::{NameList, NamesFound, Operation, ServiceCatalog, StoreError};

/// Partitions of the catalogue that are read at once.
const READS_AT_ONCE: usize = 8;
/// Rows of the index that are read at once to find one that counts.
const PROBE_ROWS: i32 = 128;

/// Something listed, and what its slots say of the range.
#[derive(Debug)]
struct Listed {
    day: i32,
    key: String,
    name: String,
    kind: i8,
    is_certain: bool,
    doubts: Vec<i16>,
}

/// What the slots of a row say about a range; `None` where none of them touches it.
fn listed(
    (key, kind, name): (String, i8, Option<String>),
    (slots, doubts): (Option<Vec<i16>>, Option<Vec<i16>>),
    (day, range): (i32, TimeRange),
) -> Option<Listed> {
    let doubts = doubts.unwrap_or_default();
    let touches = |slot: &i16| {
        let (first, last) = slot_times(day, *slot);
        range.overlaps(first, last)
    };
    let slots: Vec<i16> = slots.unwrap_or_default().into_iter().filter(touches).collect();
    let (doubts, certain): (Vec<i16>, Vec<i16>) =
        slots.into_iter().partition(|slot| doubts.contains(slot));
    if key == MORE || (doubts.is_empty() && certain.is_empty()) {
        return None;
    }
    let name = name.unwrap_or_else(|| key.clone());
    Some(Listed { day, key, name, kind, is_certain: !certain.is_empty(), doubts })
}

/// What a part of the catalogue lists.
#[derive(Debug, Default)]
struct Part {
    found: Vec<Listed>,
    /// There were more names than are announced.
    is_cut: bool,
}

/// The services of a partition of the catalogue.
async fn services_of(
    engine: &Engine,
    tenant: &TenantId,
    (day, bucket): (i32, i16),
    range: TimeRange,
) -> Result<Part, StoreError> {
    type Row = (String, Option<String>, Option<Vec<i16>>, Option<Vec<i16>>);
    let mut part = Part::default();
    let see = |(key, name, slots, doubts): Row| {
        part.is_cut |= key == MORE;
        part.found.extend(listed((key, 0, name), (slots, doubts), (day, range)));
    };
    let values = (tenant.as_str(), day, bucket);
    engine.each(&engine.statements.read_services, values, see).await?;
    Ok(part)
}

#[async_trait]
impl ServiceCatalog for CassandraStore {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        let engine = self.engine().await?;
        self.erased.refresh(&engine).await?;
        let days = days(&engine, tenant, range).await?;
        check_days(days.len())?;
        let mut reads = Vec::new();
        for day in days {
            for bucket in 0..SERVICE_BUCKETS {
                reads.push(services_of(&engine, tenant, (day, bucket), range));
            }
        }
        let parts = at_once(READS_AT_ONCE, reads).await?;
        let mut services: NamesFound<Arc<str>> = NamesFound::new(self.config.names_max);
        if parts.iter().any(|part| part.is_cut) {
            services.cut();
        }
        let found = || parts.iter().flat_map(|part| &part.found);
        // What is shown in part may be several.
        if found().any(|one| !is_whole(&one.name)) {
            services.cut();
        }
        for one in found().filter(|one| one.is_certain) {
            services.insert_text(&one.name);
        }
        for one in found().filter(|one| !one.is_certain) {
            let is_known = services.contains(one.name.as_str());
            if !is_known && self.holds_any(&engine, (tenant, &one.key), one, None).await? {
                services.insert_text(&one.name);
            }
        }
        Ok(services.into_list())
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        let engine = self.engine().await?;
        self.erased.refresh(&engine).await?;
        let service = &*key_of(service);
        let mut operations = NamesFound::new(self.config.names_max);
        let days = days(&engine, tenant, range).await?;
        check_days(days.len())?;
        for day in days {
            let mut part = Part::default();
            type Row = (String, i8, Option<String>, Option<Vec<i16>>, Option<Vec<i16>>);
            let see = |(key, kind, name, slots, doubts): Row| {
                part.is_cut |= key == MORE;
                part.found.extend(listed((key, kind, name), (slots, doubts), (day, range)));
            };
            let values = (tenant.as_str(), service, day);
            engine.each(&engine.statements.read_operations, values, see).await?;
            if part.is_cut || part.found.iter().any(|one| !is_whole(&one.name)) {
                operations.cut();
            }
            for one in part.found {
                let kind = SpanKind::from_number(i32::from(one.kind));
                let operation = Operation { name: one.name.as_str().into(), kind };
                if operations.contains(&operation) {
                    continue;
                }
                // The whole name of a cut one is not known: then any operation will do.
                let wanted = is_whole(&one.name)
                    .then(|| (operation_hash(&one.name), one.kind.cast_unsigned()));
                let of = (tenant, service);
                if one.is_certain || self.holds_any(&engine, of, &one, wanted).await? {
                    operations.insert(operation);
                }
            }
        }
        Ok(operations.into_list())
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        let engine = self.engine().await?;
        self.progress.covered(&engine).await
    }
}

impl CassandraStore {
    /// Whether the index holds a span of the service (and operation) in one of the doubtful slots
    /// whose trace is not erased.
    async fn holds_any(
        &self,
        engine: &Engine,
        (tenant, service_key): (&TenantId, &str),
        one: &Listed,
        wanted: Option<(u64, u8)>,
    ) -> Result<bool, StoreError> {
        for slot in &one.doubts {
            let day = one.day;
            let hour = hour_of_slot(day, *slot);
            for bucket in buckets(engine, tenant, service_key, (day, hour)).await? {
                let of = (tenant, service_key, hour, bucket);
                if self.bucket_holds(engine, of, slot_times(day, *slot), wanted).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn bucket_holds(
        &self,
        engine: &Engine,
        (tenant, service_key, hour, bucket): (&TenantId, &str, i32, i32),
        (first, last): (UnixNanos, UnixNanos),
        wanted: Option<(u64, u8)>,
    ) -> Result<bool, StoreError> {
        let times = (bigint(first.0), bigint(last.0));
        let values = (tenant.as_str(), service_key, hour, bucket, times.0, times.1);
        let mut state = PagingState::start();
        loop {
            let statement = &engine.statements.read_index;
            let (rows, next) = engine.page(statement, values, (state, PROBE_ROWS)).await?;
            let typed = rows.rows::<(i64, &[u8], &str, &[u8])>();
            for row in typed.map_err(|error| fault::of_types(&error))? {
                let (newest, trace_id, _, entries) = row.map_err(|error| fault::of_row(&error))?;
                let Ok(trace_id) = TraceId::try_from(trace_id) else { continue };
                if self.erased.contains(tenant, trace_id) {
                    continue;
                }
                let entries = decode(UnixNanos(unsigned(newest)), entries)?;
                let holds = |(operation, kind): (u64, u8)| {
                    entries.iter().any(|entry| entry.operation == operation && entry.kind == kind)
                };
                if wanted.is_none_or(holds) {
                    return Ok(true);
                }
            }
            let Some(next) = next else { return Ok(false) };
            state = next;
        }
    }
}
