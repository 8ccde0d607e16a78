//! `span_blocks`: which runs of the log are begun and done.

use std::collections::BTreeMap;

use clickhouse::Row;
use serde::Deserialize;
use trace_model::UnixNanos;

use crate::clickhouse::block::seconds;
use crate::clickhouse::client::Engine;
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::tables::SPAN_BLOCKS;
use crate::port::StoreError;

/// Offsets of one partition: `first` included, `next` not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) next: u64,
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Below this everything is stored.
    pub(super) done: u64,
    /// The last run that was begun.
    pub(super) begun: Range,
}

impl Known {
    /// A run that may be stored or not.
    pub(super) fn in_doubt(&self) -> Option<Range> {
        (self.begun.next > self.done).then_some(self.begun)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Begun,
    Done,
}

#[derive(Debug, Deserialize, Row)]
struct KnownRow {
    partition: u32,
    step: i8,
    start: u64,
    end: u64,
}

/// The incarnation of no log: what is known of it closes the table.
const CLOSED: u64 = u64::MAX;

/// The newest incarnation of the log of which something is known; 0 for none.
pub(super) async fn incarnation(engine: &Engine) -> Result<u64, StoreError> {
    let newest = engine
        .books("SELECT max(incarnation) FROM span_blocks WHERE incarnation < {closed:UInt64}")
        .param("closed", CLOSED);
    Ok(engine.rows(newest).await?.into_iter().max().unwrap_or(0))
}

/// Fails where nobody may write: the table is being swapped, or was swapped away.
pub(super) async fn require_open(engine: &Engine) -> Result<(), StoreError> {
    let closed = engine
        .books("SELECT count() FROM span_blocks WHERE incarnation = {closed:UInt64}")
        .param("closed", CLOSED);
    if engine.rows::<u64>(closed).await?.into_iter().all(|rows| rows == 0) {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!(
        "the raw spans of the database {} are being swapped, or were swapped away: `farspan replay \
         --group analytics-writer --into NAME --swap` finishes what it has begun",
        engine.config.database
    )))
}

/// Lets nobody write any more who begins a turn.
pub(super) async fn close(engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
    let run = (u32::MAX, Range { first: 0, next: 1 });
    note(engine, CLOSED, Step::Begun, &[run], now).await
}

/// What is known of an incarnation's partitions.
pub(super) async fn known(
    engine: &Engine,
    incarnation: u64,
) -> Result<BTreeMap<u32, Known>, StoreError> {
    let rows = engine.books(
        "SELECT partition, step, argMax(first, next) AS start, max(next) AS end FROM span_blocks \
         WHERE incarnation = {incarnation:UInt64} GROUP BY partition, step",
    );
    let mut known: BTreeMap<u32, Known> = BTreeMap::new();
    for row in engine.rows::<KnownRow>(rows.param("incarnation", incarnation)).await? {
        let slot = known.entry(row.partition).or_default();
        if row.step == 0 {
            slot.begun = Range { first: row.start, next: row.end };
        } else {
            slot.done = row.end;
        }
    }
    Ok(known)
}

/// Writes runs of one incarnation down.
pub(super) async fn note(
    engine: &Engine,
    incarnation: u64,
    step: Step,
    runs: &[(u32, Range)],
    now: UnixNanos,
) -> Result<(), StoreError> {
    let mut rows = Rows::of(SPAN_BLOCKS.columns);
    for (partition, range) in runs {
        rows.u64(incarnation);
        rows.u32(*partition);
        rows.byte(match step {
            Step::Begun => 0,
            Step::Done => 1,
        });
        rows.u64(range.first);
        rows.u64(range.next);
        rows.u32(seconds(now));
    }
    engine.insert(&SPAN_BLOCKS, &rows.finish(), None).await
}
