//! Writes batches: announce → spans → index → progress, spans and index with their accounts. What fails on the way is written
//! again whole: every row is the same the second time.

use async_trait::async_trait;
use hashbrown::HashMap;
use proto::LoggedBatch;
use trace_model::{Coverage, TenantId, UnixNanos};
use xxhash_rust::xxh3::xxh3_64;

use super::batches::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, ROW_BYTES, RowBatch, span_batches};
use super::engine::Engine;
use super::entries::encode;
use super::overflow::{hour_key, settle_hour, settle_trace, trace_key};
use super::places::{bigint, bucket_in, hour_of, key_of};
use super::plan::{IndexGroup, Item, Plan, TraceItems, sources};
use super::rows::IndexRow;
use super::store::CassandraStore;
use crate::port::{SpanWriter, StoreError};

/// So many bytes are planned and written at once: bounds memory, and what goes into the index before
/// its accounts are looked at.
const RUN_BYTES_MAX: usize = 8 << 20;

/// A trace, and its spans that are not written yet.
type Unwritten<'a> = (&'a TraceItems<'a>, &'a [Item<'a>]);

/// The rows of one index partition.
type IndexKey<'a> = (&'a str, &'a str, i32, i32);

#[async_trait]
impl SpanWriter for CassandraStore {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let engine = self.engine().await?;
        if self.progress.has_gap(batches) {
            self.progress.load(&engine).await?;
        }
        for run in runs(batches) {
            self.erased.refresh(&engine).await?;
            self.write_run(&engine, run).await?;
            self.progress.wrote(run);
        }
        Ok(())
    }

    async fn write_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        self.write_all_again(std::slice::from_ref(batch)).await
    }

    async fn write_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let engine = self.engine().await?;
        for run in runs(batches) {
            self.erased.refresh(&engine).await?;
            self.write_run(&engine, run).await?;
        }
        Ok(())
    }

    async fn flush(&self, _now: UnixNanos, force: bool) -> Result<(), StoreError> {
        if self.progress.is_durable() {
            return Ok(());
        }
        let engine = self.engine().await?;
        self.progress.flush(&engine, force).await
    }

    fn durable(&self) -> Coverage {
        self.progress.durable()
    }
}

/// The batches in runs that are written at once.
fn runs(mut batches: &[LoggedBatch]) -> impl Iterator<Item = &[LoggedBatch]> {
    std::iter::from_fn(move || {
        let length = if batches.is_empty() { return None } else { run_length(batches) };
        let (run, rest) = batches.split_at(length);
        batches = rest;
        Some(run)
    })
}

/// How many of the batches are written at once, at least one.
fn run_length(batches: &[LoggedBatch]) -> usize {
    let mut bytes = 0_usize;
    let fitting = batches.iter().take_while(|logged| {
        let rows = logged.batch.spans().len().saturating_mul(ROW_BYTES);
        bytes = bytes.saturating_add(logged.batch.encoded().len()).saturating_add(rows);
        bytes <= RUN_BYTES_MAX
    });
    fitting.count().max(1)
}

impl CassandraStore {
    async fn write_run(&self, engine: &Engine, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let (sources, expired) = sources(batches, self.retention_nanos, self.clock.now());
        let plan = Plan::of(&sources, |tenant, trace_id| self.erased.contains(tenant, trace_id));
        let levels = self.levels_of(&plan.groups);
        let notices = self.announced.notices(&plan.groups, &levels);
        if !notices.is_empty() {
            notices.write(engine).await?;
            self.announced.remember(&notices);
        }
        self.write_spans(engine, &plan).await?;
        let listed = plan.groups.iter().zip(&levels).enumerate();
        let listed =
            listed.filter(|(at, _)| !notices.unlisted.contains(at)).map(|(_, group)| group);
        let index = index_rows(listed);
        engine.write_all(&engine.statements.write_index, &index).await?;
        self.settle_hours(engine, &index).await?;
        let unlisted = plan.groups.iter().enumerate();
        let unlisted = unlisted.filter(|(at, _)| notices.unlisted.contains(at));
        let unlisted = unlisted.map(|(_, group)| group.entries.len() as u64).sum();
        self.metrics.unlisted_spans.inc_by(unlisted);
        self.metrics.expired_spans.inc_by(expired);
        self.metrics.erased_spans.inc_by(plan.erased);
        Ok(())
    }

    fn levels_of(&self, groups: &[IndexGroup<'_>]) -> Vec<u8> {
        let level = |group: &IndexGroup<'_>| {
            let tenant = &group.source.batch.source().tenant;
            let hour = hour_of(group.newest());
            let key = hour_key(self.seed, tenant, &key_of(group.service), hour);
            u8::try_from(self.levels.place(key)).unwrap_or(0)
        };
        groups.iter().map(level).collect()
    }

    /// Writes the spans of all traces; of a heavy one in rounds, between which its accounts are settled.
    async fn write_spans(&self, engine: &Engine, plan: &Plan<'_>) -> Result<(), StoreError> {
        let whole = |trace| -> Unwritten<'_> { (trace, trace.items.as_slice()) };
        let mut left: Vec<Unwritten<'_>> = plan.traces.iter().map(whole).collect();
        while !left.is_empty() {
            let mut rows = Vec::with_capacity(left.len());
            let mut wrote = Vec::with_capacity(left.len());
            for (trace, items) in &mut left {
                let key = trace_key(self.seed, trace.tenant, trace.trace_id);
                let room = (self.shards.place(key), self.shards.room(key));
                let (batches, rest) = span_batches(trace, items, room);
                let bytes: usize = batches.iter().map(|batch| batch.bytes).sum();
                wrote.push((key, bytes as u64, (trace.tenant, trace.trace_id)));
                rows.extend(batches);
                *items = rest;
            }
            engine.write_all(&engine.statements.write_span, &rows).await?;
            for (key, bytes, of) in wrote {
                if self.shards.wrote(key, bytes, self.clock.now(), 1) {
                    settle_trace(engine, &self.shards, key, of).await?;
                }
            }
            left.retain(|(_, items)| !items.is_empty());
        }
        Ok(())
    }

    /// Notes how much was written to which hours, and settles those that have grown by a chunk.
    async fn settle_hours(
        &self,
        engine: &Engine,
        index: &[RowBatch<IndexRow<'_>>],
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut of_hour: HashMap<(&str, &str, i32), u64> = HashMap::new();
        // The rows of a batch are of one partition, and so of one hour.
        for rows in index.iter().map(|batch| &batch.rows) {
            let Some(row) = rows.first() else { continue };
            let bytes: u64 = rows.iter().map(IndexRow::size).sum();
            *of_hour.entry((row.tenant, &row.service, row.hour)).or_default() += bytes;
        }
        for ((tenant, service, hour), bytes) in of_hour {
            let Ok(tenant) = TenantId::new(tenant) else { continue };
            let key = hour_key(self.seed, &tenant, service, hour);
            let width = 1 << self.levels.place(key).clamp(0, 62);
            if self.levels.wrote(key, bytes, now, width) {
                settle_hour(engine, &self.levels, key, (&tenant, service, hour)).await?;
            }
        }
        Ok(())
    }
}

/// The rows of the index, by partition.
fn index_rows<'a>(
    groups: impl Iterator<Item = (&'a IndexGroup<'a>, &'a u8)>,
) -> Vec<RowBatch<IndexRow<'a>>> {
    let mut partitions: HashMap<IndexKey<'a>, Vec<RowBatch<IndexRow<'a>>>> = HashMap::new();
    for (group, level) in groups {
        let source = group.source;
        let newest = group.newest();
        let entries = encode(newest, group.entries.iter().map(|(entry, _)| *entry));
        let row = IndexRow {
            ttl: source.ttl,
            timestamp: source.timestamp,
            region: source.batch.source().region.as_str(),
            tenant: source.batch.source().tenant.as_str(),
            service: key_of(group.service),
            hour: hour_of(newest),
            hash_bucket: bucket_in(*level, group.slice.trace_id),
            newest: bigint(newest.0),
            trace_id: group.slice.trace_id.as_bytes(),
            record: xxh3_64(&entries).cast_signed(),
            entries,
        };
        let key = (row.tenant, group.service, row.hour, row.hash_bucket);
        let bytes = row.entries.len() + ROW_BYTES;
        let batches = partitions.entry(key).or_default();
        let fitting = |batch: &&mut RowBatch<IndexRow<'a>>| {
            batch.rows.len() < BATCH_ROWS_MAX && batch.bytes + bytes <= BATCH_BYTES_MAX
        };
        match batches.last_mut().filter(fitting) {
            Some(batch) => {
                batch.bytes += bytes;
                batch.rows.push(row);
            }
            None => batches.push(RowBatch { rows: vec![row], bytes }),
        }
    }
    in_turn(partitions.into_values().collect())
}

/// The batches of all partitions, one of each in turn: those of one partition, which hold one another
/// up at their replica, are then seldom on their way at once.
fn in_turn<R>(partitions: Vec<Vec<RowBatch<R>>>) -> Vec<RowBatch<R>> {
    let mut batches = Vec::with_capacity(partitions.iter().map(Vec::len).sum());
    let mut left: Vec<_> = partitions.into_iter().map(Vec::into_iter).collect();
    while !left.is_empty() {
        left.retain_mut(|of_partition| match of_partition.next() {
            Some(batch) => {
                batches.push(batch);
                true
            }
            None => false,
        });
    }
    batches
}
