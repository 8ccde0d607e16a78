//! The one that counts: its place in the log, and the delta in its hands.
//!
//! open → note the delta → its blocks → how far. What fails stays in hand and is finished first by
//! the next call; what a crash leaves is found in the journal by the next one that opens.

use trace_model::{Clock, Coverage, TenantId, TraceId, UnixNanos};

use super::encode;
use super::erased::{Erased, Scrub};
use super::journal;
use super::progress::{self, Position};
use super::question;
use crate::clickhouse::block::Block;
use crate::clickhouse::client::Engine;
use crate::clickhouse::tables::{
    DELTAS_A_PARTITION, METRICS_DELTAS, METRICS_PROGRESS, PROGRESS_A_PARTITION,
};
use crate::memory_metrics::covers_more;
use crate::port::{MetricsDelta, StoreError};

/// A delta on its way into the tables.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    /// How far the log is counted with it.
    pub(super) covered: Coverage,
    pub(super) extends: bool,
    pub(super) state: Vec<u8>,
    pub(super) blocks: Vec<Block>,
    /// Blocks that another process may have stored.
    is_recovered: bool,
    /// It is in the journal under this writer's epoch.
    is_noted: bool,
    /// Blocks that are stored, and that were sent.
    landed: usize,
    tried: usize,
}

impl Pending {
    /// One that the journal holds; what it is made of follows.
    pub(super) fn recovered(sequence: u64) -> Self {
        Self { sequence, is_recovered: true, ..Self::default() }
    }
}

/// The writer's side.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Since this process counts.
    epoch: Option<u64>,
    /// The last delta that is counted.
    position: Position,
    pending: Option<Pending>,
    erased: Erased,
    /// Traces may have been erased by others since the last look.
    is_erased_stale: bool,
    /// The first partitions of journal and progress that may still be there.
    oldest: Oldest,
}

#[derive(Clone, Copy, Debug, Default)]
struct Oldest {
    deltas: u64,
    progress: u64,
}

impl Writer {
    /// Becomes the one that counts, or makes sure to be it still, and finishes what is in hand.
    pub(super) async fn settle(
        &mut self,
        engine: &Engine,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let now = clock.now();
        match self.epoch {
            None => self.open(engine, now).await?,
            Some(epoch) if progress::newest_epoch(engine).await? > epoch => {
                return Err(StoreError::Fenced);
            }
            Some(_) => {}
        }
        self.finish(engine, now).await
    }

    async fn open(&mut self, engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
        self.erased = Erased::read(engine).await?;
        let newest = progress::newest_epoch(engine).await?;
        if newest == progress::CLOSED {
            return Err(StoreError::Unavailable(format!(
                "the counts of the database {} are being swapped, or were swapped away: `farspan replay \
                 --group metrics-aggregator --into NAME --swap` finishes what it has begun",
                engine.config.database
            )));
        }
        let epoch = newest.saturating_add(1).max(now.0);
        self.position = progress::position(engine).await?;
        progress::note(engine, epoch, progress::Step::Opened, &self.position, now).await?;
        let first = journal::first(engine).await?;
        self.oldest = Oldest {
            deltas: first / DELTAS_A_PARTITION,
            progress: progress::first(engine).await? / PROGRESS_A_PARTITION,
        };
        self.pending = journal::pending(engine, self.position.sequence.saturating_add(1)).await?;
        self.epoch = Some(epoch);
        Ok(())
    }

    /// Counts a delta that says something new.
    pub(super) async fn apply(
        &mut self,
        engine: &Engine,
        mut delta: MetricsDelta,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        // Earlier incarnations are not kept: a delta that names them says nothing new by that.
        delta.covered.earlier.clear();
        if !covers_more(&self.position.covered, &delta.covered) {
            return Ok(());
        }
        if self.is_erased_stale {
            self.look_for_erasures(engine).await?;
        }
        self.pending = Some(self.prepare(engine, delta, now).await?);
        self.finish(engine, now).await
    }

    async fn prepare(
        &self,
        engine: &Engine,
        delta: MetricsDelta,
        now: UnixNanos,
    ) -> Result<Pending, StoreError> {
        let MetricsDelta { red, edges, covered: new, checkpoint, extends_checkpoint } = delta;
        let mut red = encode::summed(red);
        let mut edges = encode::summed_edges(edges);
        self.erased.forget_in(&mut red, &mut edges);
        let lists = question::held_lists(engine, &edges).await?;
        encode::join_lists(&mut edges, lists);
        let sequence = self.position.sequence.saturating_add(1);
        let blocks = encode::blocks(&red, &edges, &encode::Batch::of(sequence, now, engine))?;
        let mut covered = self.position.covered.clone();
        covered.join(&new);
        covered.earlier.clear();
        Ok(Pending {
            sequence,
            covered,
            extends: extends_checkpoint,
            state: checkpoint,
            blocks,
            ..Pending::default()
        })
    }

    /// Journal → blocks → progress, from where it stands.
    async fn finish(&mut self, engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
        let (Some(epoch), Some(pending)) = (self.epoch, &mut self.pending) else { return Ok(()) };
        if !pending.is_noted {
            journal::note(engine, epoch, pending).await?;
            pending.is_noted = true;
        }
        while let Some(block) = pending.blocks.get(pending.landed) {
            let is_in_doubt = pending.is_recovered || pending.tried > pending.landed;
            pending.tried = pending.landed.saturating_add(1);
            block.land(engine, is_in_doubt).await?;
            pending.landed = pending.tried;
        }
        let position = Position { sequence: pending.sequence, covered: pending.covered.clone() };
        progress::note(engine, epoch, progress::Step::Applied, &position, now).await?;
        let is_whole = !pending.extends;
        self.position = position;
        self.pending = None;
        self.is_erased_stale = true;
        self.tidy(engine, is_whole).await;
        Ok(())
    }

    /// What may fail behind a delta that is counted; it is tried again behind the next one.
    async fn tidy(&mut self, engine: &Engine, is_whole: bool) {
        let dropped = if is_whole { self.drop_old(engine).await } else { Ok(()) };
        let done = match dropped {
            Ok(()) => self.look_for_erasures(engine).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "metrics are counted, but what is behind them is not tidied up");
        }
    }

    /// Drops the partitions in which nothing is needed since a whole state was written.
    async fn drop_old(&mut self, engine: &Engine) -> Result<(), StoreError> {
        let sequence = self.position.sequence;
        let places = [
            (&METRICS_DELTAS, &mut self.oldest.deltas, sequence / DELTAS_A_PARTITION),
            (&METRICS_PROGRESS, &mut self.oldest.progress, sequence / PROGRESS_A_PARTITION),
        ];
        for (table, oldest, newest) in places {
            while *oldest < newest {
                let sql = format!("ALTER TABLE {} DROP PARTITION {oldest}", table.name);
                engine.execute(engine.books(&sql)).await?;
                *oldest = oldest.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Takes traces that others have erased meanwhile out of what was counted meanwhile.
    async fn look_for_erasures(&mut self, engine: &Engine) -> Result<(), StoreError> {
        let found = Erased::read(engine).await?;
        for (tenant, trace_id) in found.since(&self.erased) {
            Scrub::counts(tenant, *trace_id, self.position.sequence).run(engine).await?;
        }
        self.erased = found;
        self.is_erased_stale = false;
        Ok(())
    }

    /// How far the log is counted, and the aggregator's state there.
    pub(super) async fn checkpoint(
        &self,
        engine: &Engine,
    ) -> Result<(Coverage, Vec<u8>), StoreError> {
        let state = journal::state(engine, self.position.sequence).await?;
        Ok((self.position.covered.clone(), state))
    }

    /// Erases a trace: noted first, so that it cannot come back; then out of all tables.
    pub(super) async fn erase(
        &mut self,
        engine: &Engine,
        (tenant, trace_id): (&TenantId, TraceId),
        clock: &dyn Clock,
    ) -> Result<u64, StoreError> {
        Erased::note(engine, tenant, trace_id, clock.now()).await?;
        self.erased.add(tenant, trace_id);
        if self.pending.is_some() {
            self.settle(engine, clock).await?;
        }
        let position = progress::position(engine).await?;
        let scrub = Scrub::counts(tenant, trace_id, position.sequence);
        let tables = scrub.run(engine).await?;
        Scrub::wait_until_gone(engine, &tables).await
    }
}
