//! A delta as the blocks that its tables get.

use std::collections::BTreeMap;

use trace_model::{TraceId, UnixNanos};
use xxhash_rust::xxh3::Xxh3;

use crate::clickhouse::block::{Block, Day, seconds};
use crate::clickhouse::client::Engine;
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::table::Table;
use crate::clickhouse::tables::{EDGE_TRACES, EDGES, RED_OPERATIONS, RED_SERVICES};
use crate::memory_metrics::TRACES_PER_EDGE_MAX;
use crate::port::{EdgeKey, EdgeRow, RedKey, RedRow, StoreError};
use proto::DurationSketch;

/// Blocks of a delta are numbered within so many.
const BLOCKS_MAX: u64 = 1 << 16;
/// The last second that the engine's times hold (2299-12-31).
pub(super) const SECONDS_MAX: i64 = 10_413_791_999;

pub(super) type Series = BTreeMap<RedKey, RedRow>;
pub(super) type Edges = BTreeMap<EdgeKey, EdgeRow>;

/// Each series once: a row of the tables is then in one block alone.
pub(super) fn summed(rows: Vec<(RedKey, RedRow)>) -> Series {
    let mut sums = Series::new();
    for (key, row) in rows {
        sums.entry(key).or_default().merge(&row);
    }
    sums
}

/// Each edge once.
pub(super) fn summed_edges(rows: Vec<(EdgeKey, EdgeRow)>) -> Edges {
    let mut sums = Edges::new();
    for (key, row) in rows {
        sums.entry(key).or_default().merge(&row, TRACES_PER_EDGE_MAX);
    }
    sums
}

/// Puts the traces that are held behind those of the delta.
pub(super) fn join_lists(edges: &mut Edges, lists: Vec<(EdgeKey, Vec<TraceId>)>) {
    for (key, traces) in lists {
        if let Some(row) = edges.get_mut(&key) {
            let fresh = EdgeRow { traces: std::mem::take(&mut row.traces), ..EdgeRow::default() };
            let mut joined = EdgeRow { traces, ..EdgeRow::default() };
            joined.merge(&fresh, TRACES_PER_EDGE_MAX);
            row.traces = joined.traces;
        }
    }
}

/// The hash by which the traces of an edge are found.
pub(super) fn edge_hash(key: &EdgeKey, is_error: bool) -> u64 {
    let mut hasher = Xxh3::new();
    for text in [key.tenant.as_str(), &key.caller, &key.callee] {
        hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&[u8::from(is_error)]);
    hasher.digest()
}

/// Whole seconds of a minute or a bucket.
pub(super) fn time_of(time: UnixNanos) -> i64 {
    i64::try_from(time.0 / 1_000_000_000).unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
}

/// What the blocks of a delta have in common.
#[derive(Debug)]
pub(super) struct Batch {
    sequence: u64,
    arrived: UnixNanos,
    rows_max: usize,
    bytes_max: usize,
}

impl Batch {
    pub(super) const fn of(sequence: u64, arrived: UnixNanos, engine: &Engine) -> Self {
        let config = &engine.config;
        let (rows_max, bytes_max) = (config.insert_block_rows, config.insert_block_bytes);
        Self { sequence, arrived, rows_max, bytes_max }
    }
}

/// The blocks of a delta.
pub(super) fn blocks(red: &Series, edges: &Edges, batch: &Batch) -> Result<Vec<Block>, StoreError> {
    let mut filler = Filler { batch, open: BTreeMap::new(), blocks: Vec::new(), next: 0 };
    for (key, row) in red {
        let table = if key.operation.is_some() { &RED_OPERATIONS } else { &RED_SERVICES };
        let (rows, place) = filler.open(table, key.minute)?;
        put_series(rows, key, row, place)?;
        filler.close_full(table, place.day);
    }
    for (key, row) in edges {
        let (rows, place) = filler.open(&EDGES, key.bucket)?;
        put_edge(rows, key, row, place)?;
        filler.close_full(&EDGES, place.day);
    }
    for (key, row) in edges.iter().filter(|(_, row)| !row.traces.is_empty()) {
        let (rows, place) = filler.open(&EDGE_TRACES, key.bucket)?;
        put_traces(rows, key, row, place);
        filler.close_full(&EDGE_TRACES, place.day);
    }
    Ok(filler.finish())
}

/// Where a row goes.
#[derive(Clone, Copy, Debug)]
struct RowPlace {
    day: Day,
    arrived: u32,
    number: u64,
}

#[derive(Debug)]
struct Open {
    table: &'static Table,
    number: u64,
    rows: Rows,
    count: usize,
}

/// Fills blocks, one for each table and day at a time.
#[derive(Debug)]
struct Filler<'a> {
    batch: &'a Batch,
    open: BTreeMap<(&'static str, Day), Open>,
    blocks: Vec<Block>,
    next: u64,
}

impl Filler<'_> {
    fn open(
        &mut self,
        table: &'static Table,
        time: UnixNanos,
    ) -> Result<(&mut Rows, RowPlace), StoreError> {
        let arrived = self.batch.arrived;
        let day = Day::of(time, arrived);
        let (next, sequence) = (&mut self.next, self.batch.sequence);
        let open = self.open.entry((table.name, day)).or_insert_with(|| {
            let number = sequence.saturating_mul(BLOCKS_MAX).saturating_add(*next);
            *next = next.saturating_add(1);
            Open { table, number, rows: Rows::of(table.columns), count: 0 }
        });
        if *next > BLOCKS_MAX {
            return Err(StoreError::Refused("a delta of too many blocks".to_owned()));
        }
        open.count = open.count.saturating_add(1);
        let place = RowPlace { day, arrived: seconds(arrived), number: open.number };
        Ok((&mut open.rows, place))
    }

    fn close_full(&mut self, table: &'static Table, day: Day) {
        let is_full = |open: &mut Open| {
            open.count >= self.batch.rows_max || open.rows.len() >= self.batch.bytes_max
        };
        if self.open.get_mut(&(table.name, day)).is_some_and(is_full)
            && let Some(open) = self.open.remove(&(table.name, day))
        {
            self.blocks.push(open.close(day));
        }
    }

    fn finish(mut self) -> Vec<Block> {
        self.blocks.extend(self.open.into_iter().map(|((_, day), open)| open.close(day)));
        self.blocks
    }
}

impl Open {
    fn close(self, day: Day) -> Block {
        Block { table: self.table, number: self.number, day, body: self.rows.finish() }
    }
}

fn put_series(
    rows: &mut Rows,
    key: &RedKey,
    row: &RedRow,
    place: RowPlace,
) -> Result<(), StoreError> {
    rows.text(key.tenant.as_str());
    rows.text(&key.service);
    if let Some(operation) = &key.operation {
        rows.text(operation);
    }
    rows.i64(time_of(key.minute));
    rows.byte(key.kind as u8);
    rows.byte(key.status as u8);
    put_place(rows, place);
    rows.u64(row.seen);
    rows.f64(row.estimated);
    put_sketch(rows, &row.durations)?;
    let (nanos, trace_id) =
        row.exemplar.map_or((0, [0; 16]), |(nanos, trace_id)| (nanos, *trace_id.as_bytes()));
    rows.u64(nanos);
    rows.raw(&trace_id);
    Ok(())
}

fn put_edge(
    rows: &mut Rows,
    key: &EdgeKey,
    row: &EdgeRow,
    place: RowPlace,
) -> Result<(), StoreError> {
    rows.text(key.tenant.as_str());
    rows.i64(time_of(key.bucket));
    rows.text(&key.caller);
    rows.text(&key.callee);
    rows.boolean(key.is_error);
    put_place(rows, place);
    rows.u64(row.seen);
    rows.f64(row.estimated);
    put_sketch(rows, &row.durations)
}

fn put_traces(rows: &mut Rows, key: &EdgeKey, row: &EdgeRow, place: RowPlace) {
    rows.text(key.tenant.as_str());
    rows.i64(time_of(key.bucket));
    rows.u64(edge_hash(key, key.is_error));
    rows.text(&key.caller);
    rows.text(&key.callee);
    rows.boolean(key.is_error);
    put_place(rows, place);
    rows.count(row.traces.len());
    for trace_id in &row.traces {
        rows.raw(trace_id.as_bytes());
    }
}

fn put_place(rows: &mut Rows, place: RowPlace) {
    rows.boolean(place.day.is_outlying);
    rows.u32(place.arrived);
    rows.u64(place.number);
}

fn put_sketch(rows: &mut Rows, sketch: &DurationSketch) -> Result<(), StoreError> {
    let unfit = |error: &dyn std::fmt::Display| StoreError::Refused(error.to_string());
    let parts = sketch.parts().map_err(|error| unfit(&error))?;
    rows.count(parts.buckets.len());
    for (bucket, count) in &parts.buckets {
        rows.i16(i16::try_from(*bucket).map_err(|error| unfit(&error))?);
        rows.u64(*count);
    }
    rows.u64(parts.zeros);
    rows.f64(parts.shortest);
    rows.f64(parts.longest);
    rows.f64(parts.total);
    Ok(())
}
