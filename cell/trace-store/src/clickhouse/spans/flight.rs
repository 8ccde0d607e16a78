//! Runs on their way into the table, while more is taken: begun → blocks → done.
//!
//! One flight at a time, and of each partition one run in it: what a crash leaves begun is the last run
//! of its partition. What fails stays cut, and is tried again before anything more is taken.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::task::{JoinError, JoinSet};
use trace_model::UnixNanos;

use super::progress::{self, Range, Step};
use super::run::CutRun;
use super::writer::Writer;
use crate::clickhouse::client::Engine;
use crate::clickhouse::metrics::{Erased, Scrub};
use crate::clickhouse::tables::{OTEL_TRACES_TRACE_ID_TS, TRACE_TIMES, TRACE_TIMES_BY};
use crate::metrics::ClickhouseSpansMetrics;
use crate::port::StoreError;

/// So many runs, of as many partitions, are inserted at once.
const AT_ONCE: usize = 2;

/// The task that inserts, where there is one; it ends with its writer.
#[derive(Debug, Default)]
pub(super) struct Flight {
    task: JoinSet<Flown>,
    /// The last one failed: the next is waited for.
    has_failed: bool,
}

/// Runs as an insert has left them, and how it went.
#[derive(Debug)]
struct Flown {
    runs: Vec<CutRun>,
    landed: Result<(), StoreError>,
}

impl Writer {
    /// Stores all runs that are cut. What fails stays and is tried again first.
    pub(super) async fn store(
        &mut self,
        engine: &Arc<Engine>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        loop {
            self.arrive(engine, now).await?;
            if self.cut.is_empty() {
                self.flight.has_failed = false;
                return Ok(());
            }
            self.depart(engine, now).await?;
        }
    }

    /// Lets go what is cut, and settles what has arrived; waits for it only after a failure.
    pub(super) async fn store_behind(
        &mut self,
        engine: &Arc<Engine>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        if self.flight.has_failed {
            return self.store(engine, now).await;
        }
        if let Some(flown) = self.flight.task.try_join_next() {
            self.settle(engine, flown, now).await?;
        }
        if self.flight.task.is_empty() && !self.cut.is_empty() {
            self.depart(engine, now).await?;
        }
        Ok(())
    }

    /// Waits for the runs that are being stored.
    pub(super) async fn arrive(
        &mut self,
        engine: &Arc<Engine>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        match self.flight.task.join_next().await {
            Some(flown) => self.settle(engine, flown, now).await,
            None => Ok(()),
        }
    }

    /// Waits until nothing is on its way, whatever becomes of it: the writer is made anew.
    pub(super) async fn land_all(&mut self) {
        while self.flight.task.join_next().await.is_some() {}
    }

    /// Begins the first run of each partition, and lets them go.
    async fn depart(&mut self, engine: &Arc<Engine>, now: UnixNanos) -> Result<(), StoreError> {
        let begun = self.begin(engine, now).await;
        let runs = begun.inspect_err(|_| self.note_failure())?;
        if !runs.is_empty() {
            let (engine, metrics) = (Arc::clone(engine), self.metrics.clone());
            self.flight.task.spawn(async move { fly(&engine, runs, &metrics).await });
        }
        Ok(())
    }

    fn note_failure(&mut self) {
        self.flight.has_failed = true;
        self.metrics.failed_stores.inc();
    }

    /// Takes over what became of runs; those that are stored are noted as done.
    async fn settle(
        &mut self,
        engine: &Engine,
        flown: Result<Flown, JoinError>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let settled = self.try_settle(engine, flown, now).await;
        settled.inspect_err(|_| self.note_failure())
    }

    async fn try_settle(
        &mut self,
        engine: &Engine,
        flown: Result<Flown, JoinError>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let Flown { runs, landed } = match flown {
            Ok(flown) => flown,
            Err(error) => {
                // Nobody knows how far it came.
                self.cut.iter_mut().for_each(|run| run.is_in_doubt |= run.is_begun);
                return Err(StoreError::Unavailable(format!(
                    "clickhouse: an insert broke off: {error}"
                )));
            }
        };
        for run in &runs {
            if let Some(known) = self.cut.iter_mut().find(|known| known.place() == run.place()) {
                known.clone_from(run);
            }
        }
        landed?;
        let Some(incarnation) = runs.first().map(|run| run.incarnation) else { return Ok(()) };
        let done: Vec<(u32, Range)> = runs.iter().map(|run| (run.partition, run.range)).collect();
        progress::note(engine, incarnation, Step::Done, &done, now).await?;
        self.cut.retain(|known| runs.iter().all(|run| run.place() != known.place()));
        if incarnation == self.durable.incarnation {
            for (partition, range) in done {
                self.durable.extend(partition, range.next);
            }
        }
        self.look_for_erasures(engine).await
    }

    /// Writes down that the first run of each partition is begun, and gives these runs.
    async fn begin(&mut self, engine: &Engine, now: UnixNanos) -> Result<Vec<CutRun>, StoreError> {
        let Some(incarnation) = self.cut.front().map(|run| run.incarnation) else {
            return Ok(Vec::new());
        };
        self.drop_overtaken(engine, incarnation).await?;
        let mut partitions = BTreeSet::new();
        let mut firsts: Vec<&mut CutRun> = self
            .cut
            .iter_mut()
            .filter(|run| run.incarnation == incarnation && partitions.insert(run.partition))
            .collect();
        let new: Vec<(u32, Range)> = firsts
            .iter()
            .filter(|run| !run.is_begun)
            .map(|run| (run.partition, run.range))
            .collect();
        if !new.is_empty() {
            progress::note(engine, incarnation, Step::Begun, &new, now).await?;
        }
        firsts.iter_mut().for_each(|run| run.is_begun = true);
        Ok(firsts.into_iter().map(|run| run.clone()).collect())
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

/// Inserts runs, some at once; those that can be are stored, also where one fails.
async fn fly(engine: &Engine, runs: Vec<CutRun>, metrics: &ClickhouseSpansMetrics) -> Flown {
    let mut flown = Flown { runs: Vec::with_capacity(runs.len()), landed: Ok(()) };
    let mut waiting = runs.into_iter();
    let mut flying = FuturesUnordered::new();
    loop {
        while flying.len() < AT_ONCE
            && let Some(run) = waiting.next()
        {
            flying.push(land_one(engine, run, metrics));
        }
        let Some((run, landed)) = flying.next().await else { break };
        flown.runs.push(run);
        flown.landed = flown.landed.and(landed);
    }
    flown
}

async fn land_one(
    engine: &Engine,
    mut run: CutRun,
    metrics: &ClickhouseSpansMetrics,
) -> (CutRun, Result<(), StoreError>) {
    let landed = land(engine, &mut run, metrics).await;
    (run, landed)
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
