//! The group metrics-aggregator: records into rate, errors, durations and caller→callee edges.
//!
//! **Exactness.** Every flush is one [`trace_store::MetricsDelta`] with the log range that it covers, so a delta
//! that comes again is not counted again. What has to be remembered between records (requests seen,
//! open traces, operations let in) is a function of the log alone: time is the log's append time,
//! and limits count entries. It is written whole every minute or so, and the group commits that
//! point; after a crash the records between it and the last flush are read again, remembered and
//! not counted. So kill -9 at any point changes no count. Where a trace may lie in several partitions
//! nothing new is taken before all of them were read again: what is new is joined to all that was
//! counted, and nothing that was counted to what is new, whatever is read first. Time is then that of
//! the partition that is read last, and none is read far ahead of another that can be read.
//!
//! **Never** guess a parent: a span whose parent is not seen while its trace is open is no edge, and
//! a parent in another region is joined by [`cross_border`] or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use span_log::port::METRICS_AGGREGATOR;
use span_log::{DamagedRange, GroupId, Sharing};
use trace_model::{Coverage, UnixNanos};
use trace_store::{MetricsStore, StoreError};

use crate::handler::{GroupHandler, GroupMaker, HandleError, MakeError};
use crate::metrics::AggregatorMetrics;
use crate::spread::Pace;

mod checkpoint;
mod config;
mod count;
pub mod cross_border;
mod digests;
mod edges;
mod flush;
mod open_trace;
mod operations;
mod order;
mod red;
mod services;
mod shard;

pub use config::AggregatorConfig;
pub use cross_border::{CrossBorder, EntryJoin, JoinOutcome};

use count::{Counts, Record};
use digests::{fingerprint, request_key};
use edges::EdgeTable;
use flush::Flusher;
use operations::OperationLimits;
use services::{ServiceId, Services};
use shard::{Shard, TraceKey};

/// What an aggregator is made of.
#[derive(Clone, Debug)]
pub struct AggregatorParts {
    /// Where the counts go.
    pub store: Arc<dyn MetricsStore>,
    /// Incarnation of the log, and its number of partitions.
    pub log: (u64, u32),
    /// Limits.
    pub config: AggregatorConfig,
    /// What is counted of this.
    pub metrics: AggregatorMetrics,
}

/// Makes the group's handler, always at the end of the same hand for calls.
#[derive(Debug)]
pub struct AggregatorMaker {
    parts: AggregatorParts,
    calls: CrossBorder,
}

impl AggregatorMaker {
    /// A maker, and the hand for calls across borders into whatever it makes.
    #[must_use]
    pub fn new(parts: AggregatorParts) -> (Self, CrossBorder) {
        let calls = CrossBorder::default();
        (Self { parts, calls: calls.clone() }, calls)
    }
}

#[async_trait]
impl GroupMaker for AggregatorMaker {
    fn group(&self) -> GroupId {
        METRICS_AGGREGATOR
    }

    /// Services, operations and calls across borders are known over all partitions, and the store's
    /// checkpoint is one.
    fn sharing(&self) -> Sharing {
        Sharing::Alone
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        let opened = MetricsAggregator::open_on(self.parts.clone(), &self.calls).await;
        let failed = |error: StoreError| MakeError {
            group: METRICS_AGGREGATOR,
            reason: error.to_string(),
            is_away: error.is_retryable(),
        };
        Ok(Box::new(opened.map_err(failed)?))
    }
}

/// Counts a cell's spans.
#[derive(Debug)]
pub struct MetricsAggregator {
    config: AggregatorConfig,
    metrics: AggregatorMetrics,
    incarnation: u64,
    partitions: u32,
    services: Services,
    shards: BTreeMap<u32, Shard>,
    counts: Counts,
    flusher: Flusher,
    /// Services of the batch in hand.
    batch_services: Vec<ServiceId>,
    /// When it was ticked last.
    ticked_at: UnixNanos,
    /// Where traces are spread: how far apart the partitions are read.
    pace: Option<Pace>,
    /// Up to when all partitions have forgotten what is too old.
    forgotten_until: UnixNanos,
    /// … and what was forgotten before that, for want of room.
    forgotten_early: Option<UnixNanos>,
}

impl MetricsAggregator {
    /// Takes up where the store's checkpoint ends. Gives the aggregator and the hand for calls
    /// across borders. `incarnation` and `partitions` are the log's.
    pub async fn open(
        store: Arc<dyn MetricsStore>,
        (incarnation, partitions): (u64, u32),
        config: AggregatorConfig,
        metrics: AggregatorMetrics,
    ) -> Result<(Self, CrossBorder), StoreError> {
        let calls = CrossBorder::default();
        let parts = AggregatorParts { store, log: (incarnation, partitions), config, metrics };
        Ok((Self::open_on(parts, &calls).await?, calls))
    }

    /// The same, with a hand for calls that was given out before.
    async fn open_on(parts: AggregatorParts, calls: &CrossBorder) -> Result<Self, StoreError> {
        let AggregatorParts { store, log: (incarnation, partitions), config, metrics } = parts;
        let (covered, state) = store.checkpoint().await?;
        if covered.incarnation > incarnation {
            // The store drops what comes from an older log, as it must: say so once.
            tracing::error!(
                counted = covered.incarnation,
                log = incarnation,
                "the metrics store has counted a newer log than this one: nothing will be counted"
            );
        }
        let inbox = calls.connect();
        let operations = OperationLimits::new(config.operations_max, config.operation_entries_max);
        let edges = EdgeTable::new(config.traces_per_edge_max);
        let spans_max = config.spans_per_trace_max;
        let pace = config.spread_over.clone().map(|ends| Pace::new(ends, partitions));
        let mut aggregator = Self {
            services: Services::new(config.services_max),
            shards: BTreeMap::new(),
            counts: Counts::new(edges, operations, spans_max, metrics.clone()),
            flusher: Flusher::new(store, inbox, covered, incarnation),
            batch_services: Vec::new(),
            ticked_at: UnixNanos(0),
            pace,
            forgotten_until: UnixNanos(0),
            forgotten_early: None,
            config,
            metrics,
            incarnation,
            partitions,
        };
        let restored = aggregator.restore(&state);
        restored
            .map_err(|error| StoreError::Damaged(format!("the metrics checkpoint: {error}")))?;
        Ok(aggregator)
    }

    /// Makes what was counted durable. What was cut is applied as it was cut: a delta that grew between
    /// two tries would be counted twice where the first one had arrived after all.
    async fn flush(&mut self, now: UnixNanos, is_closing: bool) -> Result<(), HandleError> {
        self.flusher.apply(&self.metrics).await?;
        self.cut(now, is_closing);
        self.flusher.apply(&self.metrics).await
    }

    /// Takes the records of a batch below an offset.
    fn take(&mut self, logged: &LoggedBatch, below: u64) {
        if logged.incarnation != self.incarnation {
            self.start_log(logged.incarnation);
        }
        let partition = logged.range.partition;
        let mut shard = self.shards.remove(&partition).unwrap_or_default();
        let next = logged.range.next.min(below);
        if next > shard.next {
            let share = self.partitions.max(1) as usize;
            shard.advance(logged.append_time);
            let time = self.pace.as_ref().map_or(shard.now, Pace::floor);
            let early = shard.forget(time, &self.config, share, &self.metrics);
            self.forgotten_early = self.forgotten_early.max(early);
            self.find_services(logged);
            self.take_records(logged, below, &mut shard);
            shard.next = next;
        }
        self.shards.insert(partition, shard);
    }

    /// Takes the traces of a batch that were not taken: offset by offset.
    fn take_records(&mut self, logged: &LoggedBatch, below: u64, shard: &mut Shard) {
        let batch = &*logged.batch;
        let source = batch.source();
        let counted_next = self.flusher.counted_next(logged.range.partition);
        let request = request_key(&source.tenant, source.digest);
        let is_repeated = !shard.digests.is_new(request);
        let elsewhere = self.others_with(request);
        let mut fresh = Vec::with_capacity(batch.traces().len());
        for (offset, trace) in (logged.range.first..).zip(batch.traces()) {
            if offset < shard.next || offset >= below || trace.is_erased() {
                continue;
            }
            let seen_as = fingerprint(trace.trace_id);
            if is_repeated && shard.digests.has_seen(request, seen_as) {
                self.metrics.duplicate_spans.inc_by(u64::from(trace.span_count));
                continue;
            }
            if elsewhere.iter().any(|other| self.has_seen(*other, request, seen_as)) {
                self.metrics.duplicate_spans.inc_by(u64::from(trace.span_count));
                continue;
            }
            fresh.push(seen_as);
            let record = Record {
                batch,
                trace,
                services: &self.batch_services,
                now: shard.now,
                is_counted: offset < counted_next,
            };
            let key = TraceKey { tenant: source.tenant.clone(), trace_id: trace.trace_id };
            let now = shard.now;
            let home = self.home_of(&key, shard);
            let home = home.and_then(|home| self.shards.get_mut(&home)).unwrap_or(shard);
            let mut open = home.take(&key, now, &self.config);
            self.counts.take(&record, &mut open);
            home.put(key, open);
        }
        let append_time = shard.now;
        shard.digests.note(request, append_time, fresh);
    }

    fn find_services(&mut self, logged: &LoggedBatch) {
        let batch = &*logged.batch;
        let tenant = &batch.source().tenant;
        self.batch_services.clear();
        for context in batch.contexts() {
            let found = self.services.find(tenant, &context.service, logged.append_time);
            self.batch_services.push(found);
        }
        if self.batch_services.iter().any(|service| service.has_no_place()) {
            let is_other = |scope: u32| {
                let service = self.batch_services.get(scope as usize);
                service.is_some_and(|service| service.has_no_place())
            };
            let overflow = batch.spans().iter().filter(|span| is_other(span.scope)).count();
            self.metrics.overflow_service_spans.inc_by(u64::try_from(overflow).unwrap_or(0));
        }
    }

    /// A new incarnation of the log: its traces and offsets have nothing to do with the old one's.
    fn start_log(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        self.shards.clear();
        self.flusher.start_log(incarnation);
        if let Some(ends) = &self.config.spread_over {
            self.pace = Some(Pace::new(Arc::clone(ends), self.partitions));
        }
    }

    /// Next offset to take, by partition.
    fn position(&self) -> Coverage {
        let mut position = Coverage::none(self.incarnation);
        for (partition, shard) in &self.shards {
            position.extend(*partition, shard.next);
        }
        position
    }
}

#[async_trait]
impl GroupHandler for MetricsAggregator {
    fn group(&self) -> GroupId {
        METRICS_AGGREGATOR
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        self.look_around().await?;
        for batch in batches {
            // Rows are as many as names of tenants, services and operations: what is held of them is
            // bounded by flushing before more comes. A batch that was taken is not taken again, so
            // that a try that fails here may be repeated.
            if self.counts.rows() >= self.config.flush_rows_max {
                self.flush(self.ticked_at, false).await?;
            }
            self.take_in_order(batch)?;
        }
        Ok(())
    }

    async fn tick(
        &mut self,
        now: UnixNanos,
        _log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        self.ticked_at = now;
        self.look_around().await?;
        self.flusher.apply(&self.metrics).await?;
        self.take_joins(now);
        if self.is_flush_due(now, is_closing) {
            self.flush(now, is_closing).await?;
        }
        Ok(())
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        let shard = self.shards.entry(damaged.range.partition).or_default();
        shard.next = shard.next.max(damaged.range.next);
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.flusher.checkpointed().clone()
    }
}

#[cfg(test)]
mod tests;
