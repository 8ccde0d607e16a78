//! `metrics_progress`: how far the log is counted, and who counts.

use clickhouse::Row;
use serde::Deserialize;
use trace_model::{Coverage, UnixNanos};

use crate::clickhouse::block::seconds;
use crate::clickhouse::client::Engine;
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::tables::METRICS_PROGRESS;
use crate::port::StoreError;

/// The epoch behind which there is none: the counts are closed.
pub(super) const CLOSED: u64 = u64::MAX;

/// The last delta that is counted; sequence 0: none.
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    pub(super) sequence: u64,
    pub(super) covered: Coverage,
}

/// What a row says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A process counts from here on.
    Opened,
    /// A delta is counted.
    Applied,
}

#[derive(Debug, Deserialize, Row)]
struct PositionRow {
    sequence: u64,
    incarnation: u64,
    partitions: Vec<u32>,
    nexts: Vec<u64>,
}

/// Cover as a row holds it: of the present incarnation alone, which is what counts depend on.
pub(super) fn put_cover(rows: &mut Rows, covered: &Coverage) {
    rows.u64(covered.incarnation);
    rows.count(covered.next.len());
    for partition in covered.next.keys() {
        rows.u32(*partition);
    }
    rows.count(covered.next.len());
    for next in covered.next.values() {
        rows.u64(*next);
    }
}

/// Cover as a row held it.
pub(super) fn cover_of(incarnation: u64, partitions: Vec<u32>, nexts: Vec<u64>) -> Coverage {
    let next = partitions.into_iter().zip(nexts).collect();
    Coverage { next, ..Coverage::none(incarnation) }
}

/// The epoch of the process that counts; 0 before the first.
pub(super) async fn newest_epoch(engine: &Engine) -> Result<u64, StoreError> {
    let epochs: Vec<u64> =
        engine.rows(engine.books("SELECT max(epoch) FROM metrics_progress")).await?;
    Ok(epochs.into_iter().max().unwrap_or(0))
}

/// The sequence of the first row that is still there.
pub(super) async fn first(engine: &Engine) -> Result<u64, StoreError> {
    let first: Vec<u64> =
        engine.rows(engine.books("SELECT min(sequence) FROM metrics_progress")).await?;
    Ok(first.into_iter().min().unwrap_or(0))
}

pub(super) async fn position(engine: &Engine) -> Result<Position, StoreError> {
    let last = engine.books(
        "SELECT sequence, incarnation, partitions, nexts FROM metrics_progress \
         WHERE step = 'applied' ORDER BY sequence DESC, epoch DESC LIMIT 1",
    );
    let rows: Vec<PositionRow> = engine.rows(last).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(Position::default()) };
    let covered = cover_of(row.incarnation, row.partitions, row.nexts);
    Ok(Position { sequence: row.sequence, covered })
}

pub(super) async fn note(
    engine: &Engine,
    epoch: u64,
    step: Step,
    position: &Position,
    now: UnixNanos,
) -> Result<(), StoreError> {
    let mut rows = Rows::of(METRICS_PROGRESS.columns);
    rows.u64(position.sequence);
    rows.u64(epoch);
    rows.byte(match step {
        Step::Opened => 0,
        Step::Applied => 1,
    });
    put_cover(&mut rows, &position.covered);
    rows.u32(seconds(now));
    engine.insert(&METRICS_PROGRESS, &rows.finish(), None).await
}
