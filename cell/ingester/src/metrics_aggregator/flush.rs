//! Cutting what was counted into deltas, and applying them in order.

use std::sync::Arc;

use trace_model::{Coverage, UnixNanos};
use trace_store::{MetricsDelta, MetricsStore};

use super::MetricsAggregator;
use super::checkpoint::{
    CALLS_V1, InvalidCheckpoint, Reader, WHOLE_V1, Writer, put_operations, put_section,
    put_services, put_shard, read_operations, read_services, read_shard, sections,
};
use super::config::nanos;
use super::cross_border::{self, EntryJoin, Inbox, JoinOutcome};
use super::edges::{Callee, bucket_of};
use super::operations::arrival_hour;
use super::services::Names;
use crate::handler::HandleError;
use crate::metrics::AggregatorMetrics;
use crate::spread::Pace;
use crate::storage_writer::handle_error;

/// Stands in the cover for calls joined across borders, which come from no partition: it counts the
/// flushes that have some, so that such a flush covers something new also while the log rests.
const CROSS_BORDER_PARTITION: u32 = u32::MAX;

/// A delta on its way.
#[derive(Debug)]
struct Cut {
    delta: MetricsDelta,
    /// Where the log is remembered, if the delta carries the whole state.
    whole_at: Option<Coverage>,
}

/// The way of the counts into the store.
#[derive(Debug)]
pub(super) struct Flusher {
    store: Arc<dyn MetricsStore>,
    pub(super) inbox: Inbox,
    /// What the store has counted.
    covered: Coverage,
    /// Up to where the durable state remembers the log: what the group commits.
    checkpointed: Coverage,
    cut: Option<Cut>,
    flushed_at: UnixNanos,
    whole_at: UnixNanos,
}

impl Flusher {
    pub(super) fn new(
        store: Arc<dyn MetricsStore>,
        inbox: Inbox,
        covered: Coverage,
        incarnation: u64,
    ) -> Self {
        let mut flusher = Self {
            store,
            inbox,
            covered: Coverage::none(incarnation),
            checkpointed: Coverage::none(incarnation),
            cut: None,
            flushed_at: UnixNanos(0),
            whole_at: UnixNanos(0),
        };
        if covered.incarnation == incarnation {
            flusher.covered = covered;
        }
        flusher
    }

    /// Below this offset everything is counted already.
    pub(super) fn counted_next(&self, partition: u32) -> u64 {
        self.covered.next.get(&partition).copied().unwrap_or(0)
    }

    pub(super) const fn checkpointed(&self) -> &Coverage {
        &self.checkpointed
    }

    pub(super) fn start_log(&mut self, incarnation: u64) {
        self.covered = Coverage::none(incarnation);
        self.checkpointed = Coverage::none(incarnation);
    }

    /// Applies what was cut, and tells those who wait for it.
    pub(super) async fn apply(&mut self, metrics: &AggregatorMetrics) -> Result<(), HandleError> {
        let Some(cut) = &self.cut else { return Ok(()) };
        self.store.apply(cut.delta.clone()).await.map_err(poison_waits)?;
        let Some(Cut { delta, whole_at }) = self.cut.take() else { return Ok(()) };
        metrics.flushes.inc();
        self.covered = delta.covered;
        if let Some(whole_at) = whole_at {
            metrics.checkpoint_bytes.set(i64::try_from(delta.checkpoint.len()).unwrap_or(i64::MAX));
            self.checkpointed = whole_at;
        }
        for (acknowledgement, outcome) in self.inbox.waiting.drain(..) {
            // Who no longer waits has given up; the call is counted all the same.
            let is_heard = acknowledgement.send(outcome).is_ok();
            tracing::trace!(is_heard, "a call across a border is durable");
        }
        Ok(())
    }
}

/// A delta is no record that could be set aside: it is tried again, unless another process counts.
fn poison_waits(error: trace_store::StoreError) -> HandleError {
    match handle_error(error) {
        HandleError::Poison(reason) | HandleError::Retry(reason) | HandleError::Wait(reason) => {
            HandleError::Retry(reason)
        }
        HandleError::Fenced(reason) => HandleError::Fenced(reason),
    }
}

impl MetricsAggregator {
    pub(super) fn is_flush_due(&self, now: UnixNanos, is_closing: bool) -> bool {
        let is_time = is_due(now, self.flusher.flushed_at, nanos(self.config.flush_every));
        is_closing || is_time || self.counts.rows() >= self.config.flush_rows_max
    }

    /// Cuts a delta out of what was counted, if the log or the joins have moved.
    pub(super) fn cut(&mut self, now: UnixNanos, is_closing: bool) {
        self.flusher.flushed_at = now;
        let position = self.position();
        let mut covered = self.flusher.covered.clone();
        covered.join(&position);
        if !self.flusher.inbox.fresh.is_empty() {
            let flushes = covered.next.get(&CROSS_BORDER_PARTITION).copied().unwrap_or(0);
            covered.extend(CROSS_BORDER_PARTITION, flushes.saturating_add(1));
        }
        if covered == self.flusher.covered {
            return;
        }
        let is_whole =
            is_closing || is_due(now, self.flusher.whole_at, nanos(self.config.checkpoint_every));
        let names = Names { services: &self.services, others: &self.counts.others };
        let red = self.counts.red.drain(names);
        let edges = self.counts.edges.drain(names);
        self.counts.others.clear();
        self.forget_idle();
        let checkpoint = if is_whole { self.whole_state() } else { self.fresh_calls() };
        self.flusher.inbox.fresh.clear();
        if is_whole {
            self.flusher.whole_at = now;
        }
        let delta = MetricsDelta { red, edges, covered, checkpoint, extends_checkpoint: !is_whole };
        self.flusher.cut = Some(Cut { delta, whole_at: is_whole.then_some(position) });
        let open: usize = self.shards.values().map(|shard| shard.open().len()).sum();
        self.metrics.open_traces.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Forgets what no partition will ask for again.
    fn forget_idle(&mut self) {
        let times = || self.shards.values().map(|shard| shard.now);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        // One that is gone for good stays where it was: nothing comes of it.
        let first = self.pace.as_ref().map_or(first, Pace::floor);
        self.services.retire_idle(last);
        self.counts.operations.forget_before(arrival_hour(first));
    }

    /// Counts the calls across borders that were handed in.
    pub(super) fn take_joins(&mut self, now: UnixNanos) {
        self.flusher.inbox.joined.forget(now, &self.config);
        while let Ok((join, acknowledgement)) = self.flusher.inbox.receiver.try_recv() {
            let outcome = self.take_join(&join, now);
            self.flusher.inbox.waiting.push((acknowledgement, outcome));
        }
        if self.flusher.inbox.fresh.is_empty() && self.flusher.cut.is_none() {
            // Nothing of these has to become durable: it is, or it is not counted.
            for (acknowledgement, outcome) in self.flusher.inbox.waiting.drain(..) {
                let is_heard = acknowledgement.send(outcome).is_ok();
                tracing::trace!(is_heard, "a call across a border was not new");
            }
        }
    }

    fn take_join(&mut self, join: &EntryJoin, now: UnixNanos) -> JoinOutcome {
        if *join.parent_service == *join.entry.service {
            return JoinOutcome::SameService;
        }
        let caller = self.services.find(&join.tenant, &join.parent_service, now);
        let service = self.services.find(&join.tenant, &join.entry.service, now);
        let call = cross_border::call_of(join);
        if !self.flusher.inbox.joined.note(call, now) {
            return JoinOutcome::AlreadyCounted;
        }
        self.flusher.inbox.fresh.push((call, now));
        let [caller, service] =
            [caller, service].map(|service| self.counts.others.counted_as(service, &join.tenant));
        let callee = Callee {
            service,
            is_error: join.entry.is_error,
            bucket: bucket_of(cross_border::placed(&join.entry, now)),
            duration_nanos: join.entry.duration_nanos,
            weight: join.adjusted_count,
        };
        self.counts.edges.add(caller, &callee, join.trace_id);
        self.metrics.cross_border_edges.inc();
        JoinOutcome::Counted
    }

    fn whole_state(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.incarnation);
        put_services(&mut writer, &self.services);
        put_operations(&mut writer, &self.counts.operations);
        put_calls(&mut writer, self.flusher.inbox.joined.entries().iter());
        writer.count(self.shards.len());
        for (partition, shard) in &self.shards {
            writer.number(u64::from(*partition));
            put_shard(&mut writer, shard);
        }
        let mut state = Vec::new();
        put_section(&mut state, WHOLE_V1, &writer.bytes);
        state
    }

    fn fresh_calls(&self) -> Vec<u8> {
        let fresh = &self.flusher.inbox.fresh;
        let mut state = Vec::new();
        if !fresh.is_empty() {
            let mut writer = Writer::default();
            put_calls(&mut writer, fresh.iter());
            put_section(&mut state, CALLS_V1, &writer.bytes);
        }
        state
    }

    /// Takes up the state of a checkpoint. A state of another incarnation keeps its services,
    /// operations and calls; its offsets and traces mean nothing here.
    pub(super) fn restore(&mut self, state: &[u8]) -> Result<(), InvalidCheckpoint> {
        for (tag, body) in sections(state)? {
            let mut reader = Reader { rest: body };
            match tag {
                WHOLE_V1 => self.restore_whole(&mut reader)?,
                CALLS_V1 => self.restore_calls(&mut reader)?,
                unknown => return Err(InvalidCheckpoint::Unknown(unknown)),
            }
            if !reader.rest.is_empty() {
                return Err(InvalidCheckpoint::Body);
            }
        }
        Ok(())
    }

    fn restore_whole(&mut self, reader: &mut Reader<'_>) -> Result<(), InvalidCheckpoint> {
        let incarnation = reader.number()?;
        read_services(reader, &mut self.services)?;
        read_operations(reader, &mut self.counts.operations)?;
        self.restore_calls(reader)?;
        for _ in 0..reader.count()? {
            let partition = u32::try_from(reader.number()?).map_err(|_| InvalidCheckpoint::Body)?;
            let shard = read_shard(reader)?;
            if incarnation == self.incarnation {
                self.shards.insert(partition, shard);
            }
        }
        self.flusher.checkpointed = self.position();
        Ok(())
    }

    fn restore_calls(&mut self, reader: &mut Reader<'_>) -> Result<(), InvalidCheckpoint> {
        for _ in 0..reader.count()? {
            let call = reader.fixed()?;
            let time = UnixNanos(reader.number()?);
            self.flusher.inbox.joined.note(call, time);
        }
        Ok(())
    }
}

fn put_calls<'a, Calls>(writer: &mut Writer, calls: Calls)
where
    Calls: ExactSizeIterator<Item = &'a (u64, UnixNanos)>,
{
    writer.count(calls.len());
    for (call, time) in calls {
        writer.fixed(*call);
        writer.number(time.0);
    }
}

/// Whether a period has passed; a wall clock that went back makes it due at once.
const fn is_due(now: UnixNanos, last: UnixNanos, every: u64) -> bool {
    now.0 < last.0 || now.since(last) >= every
}
