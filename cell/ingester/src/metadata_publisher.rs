//! The group `metadata-publisher`: folds log records into contributions and appends them to the
//! region's origin log.
//!
//! The log is the truth; what is open here is only a window over it. A trace that is not open is
//! folded onto the last row that was published of it, read back from the log; a record below that
//! row's version is skipped. So restarts, retries and late spans need no state of ours.
//!
//! It must never vouch (watermark, [`GroupHandler::durable`]) for a record whose contribution is
//! not durable in the origin log, and never put into that log what the locality policy withholds.

mod config;
mod duplicates;
mod let_out;
mod maker;
mod mending;
mod metrics;
mod open_trace;
mod policy;
mod publishing;
mod schedule;
mod tenants;
#[cfg(test)]
mod tests;
mod watermark;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use metadata_replicator::{ContributionLog, ReplicatorError, RowKey};
use proto::{LoggedBatch, TraceSlice};
use rustc_hash::FxBuildHasher;
use span_log::port::METADATA_PUBLISHER;
use span_log::{DamagedRange, GroupId};
use trace_model::location::{Contribution, WriterId};
use trace_model::{Clock, Coverage, Region, TraceId, UnixNanos};

use crate::handler::{GroupHandler, HandleError};
use crate::spread::Pace;
pub use config::{PublisherConfig, PublisherError, SpanLogState};
use duplicates::Repeats;
pub use let_out::LetOut;
pub use maker::PublisherMaker;
pub use metrics::PublisherMetrics;
use open_trace::OpenTrace;
pub use policy::{FixedPolicy, IndexPolicy};
use schedule::Schedule;
use tenants::Tenants;
use watermark::Progress;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TraceKey {
    tenant: u32,
    trace_id: TraceId,
    /// Each partition is a writer of its own. Of most logs one alone has records of a trace.
    partition: u32,
}

/// The group's handler: see the module.
pub struct MetadataPublisher {
    config: PublisherConfig,
    log: Arc<dyn ContributionLog>,
    policy: Arc<dyn IndexPolicy>,
    clock: Arc<dyn Clock>,
    metrics: PublisherMetrics,
    tenants: Tenants,
    open: HashMap<TraceKey, OpenTrace, FxBuildHasher>,
    held_spans: usize,
    schedule: Schedule<TraceKey>,
    repeats: Repeats,
    progress: Progress,
    last_pass: Option<Duration>,
    /// Where traces are spread: how far apart the partitions are read.
    pace: Option<Pace>,
}

impl fmt::Debug for MetadataPublisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MetadataPublisher")
            .field("region", &self.config.region)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl MetadataPublisher {
    /// Goes on from what `log` has published of the span log.
    pub fn new(
        config: PublisherConfig,
        source: &SpanLogState,
        log: Arc<dyn ContributionLog>,
        policy: Arc<dyn IndexPolicy>,
        clock: Arc<dyn Clock>,
        metrics: PublisherMetrics,
    ) -> Result<Self, PublisherError> {
        let published = log.published();
        let may_withhold = policy.may_withhold();
        let progress = Progress::resume(&config.region, source, published.as_ref(), may_withhold)?;
        let repeats = Repeats::within(config.repeat_window);
        let partitions = source.identity.partitions;
        let pace = config.spread_over.clone().map(|ends| Pace::new(ends, partitions));
        Ok(Self {
            log,
            policy,
            clock,
            metrics,
            tenants: Tenants::default(),
            open: HashMap::default(),
            held_spans: 0,
            schedule: Schedule::new(config.publish_every),
            repeats,
            progress,
            last_pass: None,
            pace,
            config,
        })
    }

    /// Folds the records of a batch that were not folded before.
    async fn fold_batch(&mut self, batch: &LoggedBatch) -> Result<(), HandleError> {
        let partition = batch.range.partition;
        let from = self.progress.next(partition);
        if batch.range.next <= from {
            return Ok(());
        }
        let tenant = self.tenants.number(&batch.batch.source().tenant);
        let resumed = self.resume_closed(batch, tenant, from).await?;
        let floor = self.floor(batch);
        let is_repeat = self.repeats.is_repeat(batch, floor);
        if is_repeat {
            self.metrics.batches_repeated.inc();
        }
        for (offset, trace) in (batch.range.first..).zip(batch.batch.traces()) {
            if offset >= from && !is_repeat && !trace.is_erased() {
                let key = TraceKey { tenant, trace_id: trace.trace_id, partition };
                self.fold_trace(batch, offset, trace, key, resumed.get(&trace.trace_id));
            }
        }
        self.progress.advance(partition, batch.range.next, batch.append_time);
        Ok(())
    }

    /// Whatever is not folded yet, of any partition, was appended then or later.
    fn floor(&mut self, batch: &LoggedBatch) -> UnixNanos {
        let Some(pace) = &mut self.pace else { return batch.append_time };
        pace.comes(batch.range.partition, batch.append_time);
        pace.floor()
    }

    /// The published rows of those traces of a batch that are not open.
    async fn resume_closed(
        &self,
        batch: &LoggedBatch,
        tenant: u32,
        from: u64,
    ) -> Result<HashMap<TraceId, Contribution, FxBuildHasher>, HandleError> {
        let row_key = |trace: &TraceSlice| RowKey {
            tenant: batch.batch.source().tenant.clone(),
            trace_id: trace.trace_id,
            incarnation: batch.incarnation,
            partition: batch.range.partition,
        };
        let partition = batch.range.partition;
        let numbered = (batch.range.first..).zip(batch.batch.traces());
        let closed = numbered.filter(|(offset, trace)| {
            let key = TraceKey { tenant, trace_id: trace.trace_id, partition };
            *offset >= from && !trace.is_erased() && !self.open.contains_key(&key)
        });
        let keys: Vec<RowKey> = closed.map(|(_, trace)| row_key(trace)).collect();
        if keys.is_empty() {
            return Ok(HashMap::default());
        }
        let rows = self.log.own_rows(&keys).await.map_err(|error| retry(&error))?;
        Ok(rows.into_iter().flatten().map(|row| (row.trace_id, row)).collect())
    }

    fn fold_trace(
        &mut self,
        batch: &LoggedBatch,
        offset: u64,
        trace: &TraceSlice,
        key: TraceKey,
        resumed: Option<&Contribution>,
    ) {
        let now = self.clock.monotonic();
        let is_new = !self.open.contains_key(&key);
        let open = self.open.entry(key).or_insert_with(|| match resumed {
            Some(row) => OpenTrace::resume(row.clone()),
            None => OpenTrace::new(writer_of(&self.config.region, batch), batch, trace),
        });
        let held_before = open.held_spans();
        let changed = open.fold(batch, offset, trace);
        self.held_spans += open.held_spans().saturating_sub(held_before);
        if is_new {
            self.metrics.traces_opened.inc();
            self.schedule.add(key, now.saturating_add(self.config.quiet_after));
        }
        if !changed {
            return;
        }
        open.seen_at = now;
        if open.first_dirty.is_none() {
            open.first_dirty = Some(offset);
            self.progress.hold(batch.range.partition, offset, batch.append_time);
            let due =
                open.published_at.map_or(now, |last| last.saturating_add(self.config.grow_every));
            self.schedule.add(key, due);
        }
    }

    /// Looks at the traces whose time has come: those with something new go out, quiet ones close.
    async fn pass(
        &mut self,
        due: Vec<TraceKey>,
        log_end: Option<UnixNanos>,
        is_forced: bool,
    ) -> Result<(), HandleError> {
        let now = self.clock.monotonic();
        let mut going = Vec::new();
        let mut quiet = Vec::new();
        for key in due {
            let Some(open) = self.open.get(&key) else { continue };
            let grown = open.published_at.map(|last| last.saturating_add(self.config.grow_every));
            let is_due = is_forced || grown.is_none_or(|due| due <= now);
            let closes_at = open.seen_at.saturating_add(self.config.quiet_after);
            let is_quiet = closes_at <= now || is_forced;
            match (open.first_dirty.is_some(), is_due, is_quiet) {
                (true, true, _) => going.push(key),
                (true, false, _) => self.schedule.add(key, grown.unwrap_or(now)),
                (false, _, true) => quiet.push(key),
                (false, _, false) => self.schedule.add(key, closes_at),
            }
            if is_quiet && open.first_dirty.is_some() && is_due {
                quiet.push(key);
            }
        }
        going.sort_unstable_by_key(|key| (key.trace_id, key.tenant, key.partition));
        going.dedup();
        if let Err(error) = self.publish(&going, log_end, now).await {
            // Whatever was due is due again.
            for key in going.into_iter().chain(quiet) {
                self.schedule.add(key, now);
            }
            return Err(error);
        }
        for key in quiet {
            if let Some(open) = self.open.remove(&key) {
                self.held_spans = self.held_spans.saturating_sub(open.held_spans());
            }
        }
        self.tenants.keep(self.open.keys().map(|key| key.tenant));
        self.metrics.traces_open.set(i64::try_from(self.open.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Records appended within this time were published, and the origin log has lost it: a hole, and
    /// durable.
    async fn note_lost(&mut self, since: UnixNanos, until: UnixNanos) -> Result<(), HandleError> {
        self.progress.note_hole(since, until);
        let now = self.clock.monotonic();
        self.publish_part(&[], None, now).await
    }

    /// The origin log was taken back up to what it says is published: what was committed beyond that
    /// is lost.
    async fn note_uncovered(&mut self, source: &SpanLogState) -> Result<(), HandleError> {
        self.progress.note_lost(source);
        let now = self.clock.monotonic();
        self.publish_part(&[], None, now).await
    }

    /// Publishes and closes the traces that wait longest until there is room again.
    async fn shed(&mut self) -> Result<(), HandleError> {
        while self.open.len() > self.config.open_traces_max
            || self.held_spans > self.config.held_spans_max
        {
            let count = (self.open.len() / 8).max(1);
            let oldest = self.schedule.take_first(count);
            if oldest.is_empty() {
                break;
            }
            self.metrics.traces_shed.inc_by(oldest.len() as u64);
            self.pass(oldest, None, true).await?;
        }
        Ok(())
    }
}

fn writer_of(region: &Region, batch: &LoggedBatch) -> WriterId {
    WriterId {
        region: region.clone(),
        incarnation: batch.incarnation,
        partition: batch.range.partition,
    }
}

/// Nothing that the origin log says is the batch's fault: it is tried again for as long as it takes.
fn retry(error: &ReplicatorError) -> HandleError {
    HandleError::Retry(error.to_string())
}

#[async_trait]
impl GroupHandler for MetadataPublisher {
    fn group(&self) -> GroupId {
        METADATA_PUBLISHER
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        if let Some(pace) = &mut self.pace {
            let progress = &self.progress;
            pace.look(|partition| progress.place(partition));
        }
        for batch in batches {
            self.fold_batch(batch).await?;
            self.shed().await?;
        }
        Ok(())
    }

    /// Timers follow the monotonic clock: `now` may jump.
    async fn tick(
        &mut self,
        _now: UnixNanos,
        log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        let now = self.clock.monotonic();
        let next = self.last_pass.map(|last| last.saturating_add(self.config.publish_every));
        if !is_closing && next.is_some_and(|next| now < next) {
            return Ok(());
        }
        self.last_pass = Some(now);
        let due = if is_closing {
            self.schedule.take_first(usize::MAX)
        } else {
            self.schedule.take_due(now)
        };
        self.pass(due, log_end, is_closing).await
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        self.progress.skip(damaged);
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.progress.durable()
    }
}
