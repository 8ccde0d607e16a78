//! Records of the log into runs, and runs into the table.

use std::collections::{BTreeMap, VecDeque};

use proto::{LoggedBatch, TraceSlice};
use trace_model::{Coverage, TenantId, TraceId, UnixNanos};

use super::progress::{self, Known, Range, Step};
use super::row::BatchRows;
use super::run::{CutRun, OpenRun};
use crate::clickhouse::block::Day;
use crate::clickhouse::client::Engine;
use crate::clickhouse::config::ClickhouseConfig;
use crate::clickhouse::metrics::{Erased, Scrub};
use crate::clickhouse::tables::{OTEL_TRACES_TRACE_ID_TS, TRACE_TIMES, TRACE_TIMES_BY};
use crate::metrics::ClickhouseSpansMetrics;
use crate::port::StoreError;

/// So many blocks' bytes wait in memory at most.
const WAITING_BLOCKS: usize = 4;

/// One partition of the log.
#[derive(Debug)]
struct Partition {
    /// Next offset to take.
    next: u64,
    /// A run that was begun before this process and may be stored: the next one is cut as it was.
    doubt: Option<Range>,
    open: Option<OpenRun>,
}

/// What was taken and what is stored.
#[derive(Debug)]
pub(super) struct Writer {
    partitions: BTreeMap<u32, Partition>,
    /// Runs that are cut and not stored yet, oldest first.
    cut: VecDeque<CutRun>,
    /// Up to where each partition is stored; its incarnation is the one that is taken.
    durable: Coverage,
    erased: Erased,
    /// Partitions whose records were given up from an offset on.
    lost: BTreeMap<u32, u64>,
    /// Traces that are erased and may be in a run that could not be cut when they were.
    scrub_later: Vec<(TenantId, TraceId)>,
    pub(super) metrics: ClickhouseSpansMetrics,
}

impl Writer {
    pub(super) async fn open(engine: &Engine) -> Result<Self, StoreError> {
        let incarnation = progress::incarnation(engine).await?;
        let mut writer = Self {
            partitions: BTreeMap::new(),
            cut: VecDeque::new(),
            durable: Coverage::none(incarnation),
            erased: Erased::read(engine).await?,
            lost: BTreeMap::new(),
            scrub_later: Vec::new(),
            metrics: ClickhouseSpansMetrics::default(),
        };
        writer.learn(&progress::known(engine, incarnation).await?);
        Ok(writer)
    }

    pub(super) const fn durable(&self) -> &Coverage {
        &self.durable
    }

    fn learn(&mut self, known: &BTreeMap<u32, Known>) {
        for (partition, known) in known.iter().filter(|(_, known)| known.done > 0) {
            self.durable.extend(*partition, known.done);
        }
    }

    /// Takes batches; stores what makes a block. What was taken is skipped when it comes again.
    pub(super) async fn write(
        &mut self,
        engine: &Engine,
        batches: &[LoggedBatch],
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        self.store(engine, now).await?;
        for logged in batches {
            if logged.incarnation < self.durable.incarnation {
                continue;
            }
            if logged.incarnation > self.durable.incarnation {
                self.start_log(engine, logged.incarnation, now).await?;
            }
            self.enter(engine, logged, now).await?;
            self.take(&engine.config, logged, now);
            let waiting_max = engine.config.insert_block_bytes.saturating_mul(WAITING_BLOCKS);
            if self.waiting_bytes() >= waiting_max {
                self.cut_where(|_| true);
            }
            self.store(engine, now).await?;
        }
        Ok(())
    }

    /// Stores what is old enough, or all that can be cut.
    pub(super) async fn flush(
        &mut self,
        engine: &Engine,
        now: UnixNanos,
        force: bool,
    ) -> Result<(), StoreError> {
        self.store(engine, now).await?;
        let after = u64::try_from(engine.config.flush_after.as_nanos()).unwrap_or(u64::MAX);
        self.cut_where(|run| force || now.since(run.opened) >= after || now < run.opened);
        self.store(engine, now).await
    }

    /// Refuses a trace from now on.
    pub(super) fn refuse(&mut self, tenant: &TenantId, trace_id: TraceId) {
        self.erased.add(tenant, trace_id);
        if self.has_open_doubt() {
            self.scrub_later.push((tenant.clone(), trace_id));
        }
    }

    fn has_open_doubt(&self) -> bool {
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
        engine: &Engine,
        incarnation: u64,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        self.cut_where(|_| true);
        self.store(engine, now).await?;
        let known = progress::known(engine, incarnation).await?;
        self.partitions.clear();
        self.lost.clear();
        self.durable.join(&Coverage::none(incarnation));
        self.learn(&known);
        Ok(())
    }

    /// Makes sure to know where the partition stands: also when it was another process's meanwhile,
    /// which shows as a gap.
    async fn enter(
        &mut self,
        engine: &Engine,
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
        self.partitions.insert(partition, Partition { next, doubt, open: None });
        Ok(())
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
            // A run in doubt keeps its range, also where the log had less of it.
            let run = run.stretched(held.doubt.take());
            self.cut.push_back(run.cut(self.durable.incarnation, partition, is_in_doubt));
        }
    }

    fn take(&mut self, config: &ClickhouseConfig, logged: &LoggedBatch, now: UnixNanos) {
        let rows = BatchRows::of(logged);
        let partition = logged.range.partition;
        for (offset, trace) in (logged.range.first..).zip(logged.batch.traces()) {
            let Some(held) = self.partitions.get_mut(&partition) else { return };
            if offset < held.next {
                continue;
            }
            let first = held.doubt.map_or(offset, |doubt| doubt.first);
            let run = held.open.get_or_insert_with(|| OpenRun::new(first, now));
            let tenant = &logged.batch.source().tenant;
            if self.erased.holds(tenant, trace.trace_id) {
                self.metrics.erased_spans.inc_by(u64::from(trace.span_count));
            } else {
                put(run, &rows, logged, trace);
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

    /// Begun → blocks → done, for all runs that are cut. What fails stays and is tried again first.
    async fn store(&mut self, engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
        if self.cut.is_empty() {
            return Ok(());
        }
        let stored = self.store_cut(engine, now).await;
        if stored.is_err() {
            self.metrics.failed_stores.inc();
        }
        stored
    }

    async fn store_cut(&mut self, engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
        while let Some(incarnation) = self.cut.front().map(|run| run.incarnation) {
            self.drop_overtaken(engine, incarnation).await?;
            self.begin(engine, incarnation, now).await?;
            let mut done = Vec::new();
            for run in self.cut.iter_mut().filter(|run| run.incarnation == incarnation) {
                land(engine, run, &self.metrics).await?;
                done.push((run.partition, run.range));
            }
            if !done.is_empty() {
                progress::note(engine, incarnation, Step::Done, &done, now).await?;
            }
            self.cut.retain(|run| run.incarnation != incarnation);
            if incarnation == self.durable.incarnation {
                for (partition, range) in done {
                    self.durable.extend(partition, range.next);
                }
            }
        }
        self.look_for_erasures(engine).await
    }

    /// Gives up runs that another process has begun meanwhile: the partition is no longer this one's.
    /// Should it come back, it has to from there on.
    async fn drop_overtaken(
        &mut self,
        engine: &Engine,
        incarnation: u64,
    ) -> Result<(), StoreError> {
        let is_new = |run: &CutRun| run.incarnation == incarnation && !run.is_begun;
        if !self.cut.iter().any(is_new) {
            return Ok(());
        }
        let known = progress::known(engine, incarnation).await?;
        let known_of = |run: &CutRun| known.get(&run.partition).copied().unwrap_or_default();
        // The note of a run may have arrived though nobody was told.
        for run in self.cut.iter_mut().filter(|run| is_new(run)) {
            run.is_in_doubt |= known_of(run).begun == run.range;
            run.is_begun = run.is_in_doubt;
        }
        let is_overtaken = |run: &CutRun| {
            let known = known_of(run);
            is_new(run) && known.done.max(known.begun.next) > run.range.first
        };
        let overtaken = self.cut.iter().filter(|run| is_overtaken(run));
        let overtaken: Vec<(u32, u64)> =
            overtaken.map(|run| (run.partition, run.range.first)).collect();
        for (partition, first) in overtaken {
            tracing::warn!(partition, first, "another process writes this partition now");
            let lost = self.lost.entry(partition).or_insert(first);
            *lost = first.min(*lost);
            self.partitions.remove(&partition);
            self.cut.retain(|run| run.partition != partition || !is_new(run));
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        engine: &Engine,
        incarnation: u64,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let is_new = |run: &CutRun| run.incarnation == incarnation && !run.is_begun;
        let new: Vec<_> = self
            .cut
            .iter()
            .filter(|run| is_new(run))
            .map(|run| (run.partition, run.range))
            .collect();
        if !new.is_empty() {
            progress::note(engine, incarnation, Step::Begun, &new, now).await?;
        }
        for run in self.cut.iter_mut().filter(|run| run.incarnation == incarnation) {
            run.is_begun = true;
        }
        Ok(())
    }

    /// Takes traces that others have erased meanwhile out of what was stored meanwhile.
    async fn look_for_erasures(&mut self, engine: &Engine) -> Result<(), StoreError> {
        let found = Erased::read(engine).await?;
        for (tenant, trace_id) in found.since(&self.erased) {
            Scrub::spans(tenant, *trace_id).run(engine).await?;
        }
        self.erased = found;
        if !self.has_open_doubt() {
            for (tenant, trace_id) in &self.scrub_later {
                Scrub::spans(tenant, *trace_id).run(engine).await?;
            }
            self.scrub_later.clear();
        }
        Ok(())
    }
}

fn put(run: &mut OpenRun, rows: &BatchRows<'_>, logged: &LoggedBatch, trace: &TraceSlice) {
    for slice in logged.batch.spans_of(trace) {
        let day = Day::of(slice.start, logged.append_time);
        run.add(day, |row| rows.put(row, trace.trace_id, slice, day.is_outlying));
    }
}

/// Stores the blocks of a run, from where it stands.
async fn land(
    engine: &Engine,
    run: &mut CutRun,
    metrics: &ClickhouseSpansMetrics,
) -> Result<(), StoreError> {
    while let Some(block) = run.blocks.get(run.landed) {
        let is_in_doubt = run.is_in_doubt || run.tried > run.landed;
        run.is_in_doubt = is_in_doubt;
        run.tried = run.landed.saturating_add(1);
        block.land(engine, is_in_doubt).await?;
        run.landed = run.tried;
    }
    if run.is_in_doubt {
        metrics.doubtful_runs.inc();
        mend_times(engine, run).await?;
    }
    metrics.stored_spans.inc_by(u64::try_from(run.spans).unwrap_or(u64::MAX));
    Ok(())
}

/// Repeats what the view would have done for a run, since the view's table may have missed it: a
/// trace's first and last moment are the same for it.
async fn mend_times(engine: &Engine, run: &CutRun) -> Result<(), StoreError> {
    let table = OTEL_TRACES_TRACE_ID_TS.name;
    let columns: Vec<&str> =
        OTEL_TRACES_TRACE_ID_TS.columns.iter().map(|column| column.name).collect();
    let sql = format!(
        "INSERT INTO {table} ({}) SELECT {TRACE_TIMES} FROM otel_traces \
         WHERE Block = {{block:UInt64}} AND TraceId != '' GROUP BY {TRACE_TIMES_BY}",
        columns.join(", ")
    );
    engine.execute(engine.books(&sql).param("block", run.number())).await
}
