//! Records of the log into runs, and runs into the table.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::{LoggedBatch, TraceSlice};
use trace_model::{Coverage, TenantId, TraceId, UnixNanos};

use super::flight::Flight;
use super::progress::{self, Known, Range};
use super::row::{BatchRows, ContextRows};
use super::run::{CutRun, OpenRun};
use super::window::{self, RequestKey, Window};
use crate::clickhouse::block::Day;
use crate::clickhouse::client::Engine;
use crate::clickhouse::config::ClickhouseConfig;
use crate::clickhouse::metrics::Erased;
use crate::metrics::ClickhouseSpansMetrics;
use crate::port::StoreError;

/// So many blocks' bytes wait in memory at most.
const WAITING_BLOCKS: usize = 4;

/// One partition of the log.
#[derive(Debug)]
pub(super) struct Partition {
    /// Next offset to take.
    next: u64,
    /// A run that was begun before this process and may be stored: the next one is cut as it was.
    doubt: Option<Range>,
    open: Option<OpenRun>,
    /// Bytes of the last run.
    last_bytes: usize,
    /// What was taken, to know a sender's repeats.
    window: Window,
}

/// Windows of another turn, each with the offset behind all that it knows.
type Windows = BTreeMap<u32, (u64, Window)>;

/// What was taken and what is stored.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) partitions: BTreeMap<u32, Partition>,
    /// Of partitions that were not entered yet.
    windows: Windows,
    /// Runs that are cut and not stored yet, oldest first.
    pub(super) cut: VecDeque<CutRun>,
    /// Those of them that are being stored.
    pub(super) flight: Flight,
    contexts: ContextRows,
    /// Up to where each partition is stored; its incarnation is the one that is taken.
    pub(super) durable: Coverage,
    pub(super) erased: Erased,
    /// Partitions whose records were given up from an offset on.
    pub(super) lost: BTreeMap<u32, u64>,
    /// Traces that are erased and may be in a run that could not be cut when they were.
    pub(super) scrub_later: Vec<(TenantId, TraceId)>,
    /// Whether it was seen that the table may be written.
    is_open: bool,
    pub(super) metrics: ClickhouseSpansMetrics,
}

impl Writer {
    pub(super) async fn open(engine: &Engine) -> Result<Self, StoreError> {
        let incarnation = progress::incarnation(engine).await?;
        let mut writer = Self::of_log(incarnation, Erased::read(engine).await?);
        writer.learn(&progress::known(engine, incarnation).await?);
        Ok(writer)
    }

    /// A writer that has taken nothing of a log.
    fn of_log(incarnation: u64, erased: Erased) -> Self {
        Self {
            partitions: BTreeMap::new(),
            windows: BTreeMap::new(),
            cut: VecDeque::new(),
            flight: Flight::default(),
            contexts: ContextRows::default(),
            durable: Coverage::none(incarnation),
            erased,
            lost: BTreeMap::new(),
            scrub_later: Vec::new(),
            is_open: false,
            metrics: ClickhouseSpansMetrics::default(),
        }
    }

    /// Takes over what a new turn needs of the last one: what is shown of it, and what was taken.
    pub(super) fn go_on_from(&mut self, last: &mut Self) {
        self.metrics = last.metrics.clone();
        if self.durable.incarnation == last.durable.incarnation {
            let entered = std::mem::take(&mut last.partitions).into_iter();
            self.windows = std::mem::take(&mut last.windows);
            self.windows.extend(entered.map(|(place, held)| (place, (held.next, held.window))));
        }
    }

    /// Fails where the table may not be written; asks once.
    pub(super) async fn require_open(&mut self, engine: &Engine) -> Result<(), StoreError> {
        if !self.is_open {
            progress::require_open(engine).await?;
            self.is_open = true;
        }
        Ok(())
    }

    pub(super) const fn durable(&self) -> &Coverage {
        &self.durable
    }

    fn learn(&mut self, known: &BTreeMap<u32, Known>) {
        for (partition, known) in known.iter().filter(|(_, known)| known.done > 0) {
            self.durable.extend(*partition, known.done);
        }
    }

    /// Takes batches; what makes a block is stored while more is taken. What was taken is skipped
    /// when it comes again.
    pub(super) async fn write(
        &mut self,
        engine: &Arc<Engine>,
        batches: &[LoggedBatch],
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        self.store_behind(engine, now).await?;
        for logged in batches {
            if logged.incarnation < self.durable.incarnation {
                continue;
            }
            if logged.incarnation > self.durable.incarnation {
                self.start_log(engine, logged.incarnation, now).await?;
            }
            self.enter(engine, logged, now).await?;
            self.take(&engine.config, logged, now);
            self.make_room(engine, now).await?;
            self.store_behind(engine, now).await?;
        }
        Ok(())
    }

    /// Stores what is old enough, or all that can be cut.
    pub(super) async fn flush(
        &mut self,
        engine: &Arc<Engine>,
        now: UnixNanos,
        force: bool,
    ) -> Result<(), StoreError> {
        self.store_behind(engine, now).await?;
        let after = u64::try_from(engine.config.flush_after.as_nanos()).unwrap_or(u64::MAX);
        self.cut_where(|run| force || now.since(run.opened) >= after || now < run.opened);
        match force {
            true => self.store(engine, now).await,
            false => self.store_behind(engine, now).await,
        }
    }

    /// Lets the largest run go before there is no room; waits where there is none.
    async fn make_room(&mut self, engine: &Arc<Engine>, now: UnixNanos) -> Result<(), StoreError> {
        let block = engine.config.insert_block_bytes;
        if self.cut.is_empty() && self.waiting_bytes() >= block.saturating_mul(WAITING_BLOCKS - 1) {
            let open = self.partitions.values().filter_map(|held| held.open.as_ref());
            let largest = open.map(OpenRun::bytes).max().unwrap_or(0);
            self.cut_where(|run| run.bytes() >= largest);
        }
        let waiting_max = block.saturating_mul(WAITING_BLOCKS);
        if self.waiting_bytes() >= waiting_max {
            self.arrive(engine, now).await?;
        }
        if self.waiting_bytes() >= waiting_max {
            self.cut_where(|_| true);
            self.store(engine, now).await?;
        }
        Ok(())
    }

    /// Refuses a trace from now on.
    pub(super) fn refuse(&mut self, tenant: &TenantId, trace_id: TraceId) {
        self.erased.add(tenant, trace_id);
        if self.has_open_doubt() {
            self.scrub_later.push((tenant.clone(), trace_id));
        }
    }

    pub(super) fn has_open_doubt(&self) -> bool {
        let is_open_doubt =
            |partition: &Partition| partition.doubt.is_some() && partition.open.is_some();
        self.partitions.values().any(is_open_doubt)
    }

    fn waiting_bytes(&self) -> usize {
        let open = self.partitions.values().filter_map(|partition| partition.open.as_ref());
        let cut: usize = self.cut.iter().map(|run| run.bytes).sum();
        open.map(OpenRun::bytes).sum::<usize>().saturating_add(cut)
    }

    /// A newer log: what was taken of the older one is stored, then the offsets begin anew.
    async fn start_log(
        &mut self,
        engine: &Arc<Engine>,
        incarnation: u64,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        self.cut_where(|_| true);
        self.store(engine, now).await?;
        let known = progress::known(engine, incarnation).await?;
        self.partitions.clear();
        self.windows.clear();
        self.lost.clear();
        self.durable.join(&Coverage::none(incarnation));
        self.learn(&known);
        Ok(())
    }

    /// Makes sure to know where the partition stands: also when it was another process's meanwhile,
    /// which shows as a gap.
    async fn enter(
        &mut self,
        engine: &Arc<Engine>,
        logged: &LoggedBatch,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let (partition, first) = (logged.range.partition, logged.range.first);
        if self.partitions.get(&partition).is_some_and(|held| held.next >= first) {
            return Ok(());
        }
        let doubt = self.partitions.get(&partition).and_then(|held| held.doubt);
        if doubt.is_some_and(|doubt| first < doubt.next) {
            // A hole in a run that is cut as it was before.
            return Ok(());
        }
        self.end(partition);
        self.store(engine, now).await?;
        let known = progress::known(engine, self.durable.incarnation).await?;
        let known = known.get(&partition).copied().unwrap_or_default();
        self.require_no_gap(partition, first, known.done)?;
        let mut doubt = known.in_doubt();
        if let Some(lost) = doubt.filter(|doubt| doubt.next <= first) {
            // The log gives these records no more: what is stored of them is.
            self.cut.push_back(CutRun::empty(self.durable.incarnation, partition, lost));
            doubt = None;
        }
        let next = doubt.map_or(known.done, |doubt| doubt.first);
        let window = self.window_of(partition, known.done);
        let held = Partition { next, doubt, open: None, last_bytes: 0, window };
        self.partitions.insert(partition, held);
        self.share_windows();
        Ok(())
    }

    /// What is known of a partition that is entered. All of it is stored, by this process or another;
    /// else what was taken comes again, and must not be taken for its own repeat.
    fn window_of(&mut self, partition: u32, done: u64) -> Window {
        let held = self.partitions.remove(&partition).map(|held| (held.next, held.window));
        let known = held.or_else(|| self.windows.remove(&partition));
        known.filter(|(next, _)| *next <= done).map(|(_, window)| window).unwrap_or_default()
    }

    /// Each window keeps to its share of the memory, which is less with each partition more.
    fn share_windows(&mut self) {
        let share = self.window_share();
        let entered = self.partitions.values_mut().map(|held| &mut held.window);
        let others = self.windows.values_mut().map(|(_, window)| window);
        entered.chain(others).for_each(|window| window.fit(share));
    }

    fn window_share(&self) -> usize {
        window::entries_max(self.partitions.len().saturating_add(self.windows.len()))
    }

    /// Records that were given up must come again, from this process's group or another's.
    fn require_no_gap(&mut self, partition: u32, first: u64, done: u64) -> Result<(), StoreError> {
        let Some(lost) = self.lost.get(&partition) else { return Ok(()) };
        let wanted = done.max(*lost);
        if first > wanted {
            return Err(StoreError::Unavailable(format!(
                "partition {partition} was another process's for a while; its records from \
                 {wanted} on must be read again: restart this process"
            )));
        }
        self.lost.remove(&partition);
        Ok(())
    }

    /// Cuts a partition's run, wherever it is.
    fn end(&mut self, partition: u32) {
        let Some(held) = self.partitions.get_mut(&partition) else { return };
        if let Some(run) = held.open.take() {
            let is_in_doubt = held.doubt.is_some();
            held.last_bytes = run.bytes();
            // A run in doubt keeps its range, also where the log had less of it.
            let run = run.stretched(held.doubt.take());
            self.cut.push_back(run.cut(self.durable.incarnation, partition, is_in_doubt));
        }
    }

    fn take(&mut self, config: &ClickhouseConfig, logged: &LoggedBatch, now: UnixNanos) {
        let rows = BatchRows::of(logged, &mut self.contexts);
        let request = RequestKey::of(logged.batch.source());
        let share = self.window_share();
        let partition = logged.range.partition;
        for (offset, trace) in (logged.range.first..).zip(logged.batch.traces()) {
            let Some(held) = self.partitions.get_mut(&partition) else { return };
            if offset < held.next {
                continue;
            }
            let first = held.doubt.map_or(offset, |doubt| doubt.first);
            let run = held.open.get_or_insert_with(|| OpenRun::new(first, now, held.last_bytes));
            let tenant = &logged.batch.source().tenant;
            let spans = u64::from(trace.span_count);
            if self.erased.holds(tenant, trace.trace_id) {
                self.metrics.erased_spans.inc_by(spans);
            } else if held.window.note(request.of_trace(trace), logged.append_time, share) {
                put(run, &rows, logged, trace);
            } else {
                self.metrics.repeated_spans.inc_by(spans);
            }
            let next = offset.saturating_add(1);
            run.reach(next);
            held.next = next;
            let is_full =
                run.spans() >= config.insert_block_rows || run.bytes() >= config.insert_block_bytes;
            if held.doubt.map_or(is_full, |doubt| next >= doubt.next) {
                self.end(partition);
            }
        }
    }

    /// Cuts the runs that may be cut and are asked for.
    fn cut_where(&mut self, wanted: impl Fn(&OpenRun) -> bool) {
        let is_wanted =
            |held: &Partition| held.doubt.is_none() && held.open.as_ref().is_some_and(&wanted);
        let wanted: Vec<u32> = self
            .partitions
            .iter()
            .filter(|(_, held)| is_wanted(held))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in wanted {
            self.end(partition);
        }
    }
}

fn put(run: &mut OpenRun, rows: &BatchRows<'_>, logged: &LoggedBatch, trace: &TraceSlice) {
    for slice in logged.batch.spans_of(trace) {
        let day = Day::of(slice.start, logged.append_time);
        run.add(day, |row| rows.put(row, trace.trace_id, slice, day.is_outlying));
    }
}

#[cfg(test)]
mod tests;
