//! A run of records of one log partition while it fills, and once it is cut.

use std::collections::BTreeMap;

use trace_model::UnixNanos;
use xxhash_rust::xxh3::Xxh3;

use super::progress::Range;
use crate::clickhouse::block::{Block, Day};
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::tables::OTEL_TRACES;

/// Rows of one day.
#[derive(Debug)]
struct DayRows {
    rows: Rows,
    /// Where each row ends: its last column is the number of the block, known when the run is cut.
    ends: Vec<usize>,
}

/// A run that fills.
#[derive(Debug)]
pub(super) struct OpenRun {
    range: Range,
    days: BTreeMap<Day, DayRows>,
    /// Bytes that its first day is likely to have.
    likely: usize,
    spans: usize,
    bytes: usize,
    pub(super) opened: UnixNanos,
}

impl OpenRun {
    /// A run that is likely to have so many bytes, as the last one had.
    pub(super) const fn new(first: u64, opened: UnixNanos, likely: usize) -> Self {
        let range = Range { first, next: first };
        Self { range, days: BTreeMap::new(), likely, spans: 0, bytes: 0, opened }
    }

    pub(super) const fn spans(&self) -> usize {
        self.spans
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a span's row: `put` writes all of its columns but the block's number.
    pub(super) fn add(&mut self, day: Day, put: impl FnOnce(&mut Rows)) {
        let likely = std::mem::take(&mut self.likely);
        let day = self.days.entry(day).or_insert_with(|| {
            let mut rows = Rows::of(OTEL_TRACES.columns);
            rows.reserve(likely);
            DayRows { rows, ends: Vec::new() }
        });
        let before = day.rows.len();
        put(&mut day.rows);
        day.rows.u64(0);
        day.ends.push(day.rows.len());
        self.spans = self.spans.saturating_add(1);
        self.bytes = self.bytes.saturating_add(day.rows.len().saturating_sub(before));
    }

    /// The run of this range, though the log had less of it.
    pub(super) fn stretched(mut self, range: Option<Range>) -> Self {
        self.range = range.unwrap_or(self.range);
        self
    }

    /// The records up to here are in.
    pub(super) fn reach(&mut self, next: u64) {
        self.range.next = self.range.next.max(next);
    }

    /// Ends the run.
    pub(super) fn cut(self, incarnation: u64, partition: u32, is_in_doubt: bool) -> CutRun {
        let number = number(incarnation, partition, self.range);
        let block = |(day, mut rows): (Day, DayRows)| {
            rows.rows.number_rows(&rows.ends, number);
            Block { table: &OTEL_TRACES, number, day, body: rows.rows.finish() }
        };
        let blocks: Vec<Block> = self.days.into_iter().map(block).collect();
        CutRun {
            incarnation,
            partition,
            range: self.range,
            blocks,
            spans: self.spans,
            bytes: self.bytes,
            is_in_doubt,
            is_begun: is_in_doubt,
            landed: 0,
            tried: 0,
        }
    }
}

/// The number of a run's blocks: of this run of this log and no other.
fn number(incarnation: u64, partition: u32, range: Range) -> u64 {
    let mut hasher = Xxh3::new();
    for value in [incarnation, u64::from(partition), range.first, range.next] {
        hasher.update(&value.to_le_bytes());
    }
    hasher.digest()
}

/// A run on its way. A copy shares its blocks.
#[derive(Clone, Debug)]
pub(super) struct CutRun {
    pub(super) incarnation: u64,
    pub(super) partition: u32,
    pub(super) range: Range,
    /// One for each day.
    pub(super) blocks: Vec<Block>,
    pub(super) spans: usize,
    pub(super) bytes: usize,
    /// Another process, or this one before it was started again, may have stored it.
    pub(super) is_in_doubt: bool,
    /// It is written down as begun.
    pub(super) is_begun: bool,
    /// Blocks that are stored, and that were sent.
    pub(super) landed: usize,
    pub(super) tried: usize,
}

impl CutRun {
    /// A run of which nothing is left to be sent.
    pub(super) const fn empty(incarnation: u64, partition: u32, range: Range) -> Self {
        Self {
            incarnation,
            partition,
            range,
            blocks: Vec::new(),
            spans: 0,
            bytes: 0,
            is_in_doubt: true,
            is_begun: true,
            landed: 0,
            tried: 0,
        }
    }

    /// Which run it is.
    pub(super) const fn place(&self) -> (u64, u32, Range) {
        (self.incarnation, self.partition, self.range)
    }

    /// The number of its blocks.
    pub(super) fn number(&self) -> u64 {
        number(self.incarnation, self.partition, self.range)
    }
}
