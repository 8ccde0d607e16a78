//! `metrics_deltas`: deltas as they will be counted, and the aggregator's states.
//!
//! A delta is there when all of its rows are; until then it is as if it had not been written. Of two
//! with one sequence the one of the later epoch counts: whoever opens writes what it finds again
//! under its own epoch before it counts it.

use bytes::Bytes;
use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;
use serde::de::{Deserializer, Error as DeError, Visitor};

use super::progress::{cover_of, put_cover};
use super::writer::Pending;
use crate::clickhouse::block::{Block, Day};
use crate::clickhouse::client::Engine;
use crate::clickhouse::row_binary::Rows;
use crate::clickhouse::tables::{METRICS_DELTAS, of_blocks};
use crate::port::StoreError;
use trace_model::Coverage;

/// Bytes of the aggregator's state in one row.
const STATE_BYTES: usize = 4 << 20;

const COVER: u8 = 0;
const BLOCK: u8 = 1;
const STATE: u8 = 2;

/// One row, to be written.
struct Entry<'a> {
    part: u8,
    block: Option<&'a Block>,
    body: &'a [u8],
}

/// Writes a delta down. Repeating it is harmless.
pub(super) async fn note(engine: &Engine, epoch: u64, pending: &Pending) -> Result<(), StoreError> {
    let states = pending.state.chunks(STATE_BYTES);
    let state_rows = states.len();
    let mut entries = vec![Entry { part: COVER, block: None, body: &[] }];
    entries.extend(pending.blocks.iter().map(|block| Entry {
        part: BLOCK,
        block: Some(block),
        body: &block.body,
    }));
    entries.extend(states.map(|body| Entry { part: STATE, block: None, body }));
    let counts = [short(entries.len())?, short(state_rows)?];
    let mut rows = Rows::of(METRICS_DELTAS.columns);
    let last = entries.len().saturating_sub(1);
    for (place, entry) in entries.iter().enumerate() {
        put(&mut rows, (epoch, counts, short(place)?), pending, entry);
        if rows.len() >= engine.config.insert_block_bytes || place == last {
            let full = std::mem::replace(&mut rows, Rows::of(METRICS_DELTAS.columns));
            engine.insert(&METRICS_DELTAS, &full.finish(), None).await?;
        }
    }
    Ok(())
}

fn short(count: usize) -> Result<u32, StoreError> {
    u32::try_from(count).map_err(|_| StoreError::Refused("a delta of too many blocks".to_owned()))
}

fn put(
    rows: &mut Rows,
    (epoch, [count, state_rows], place): (u64, [u32; 2], u32),
    pending: &Pending,
    entry: &Entry<'_>,
) {
    rows.u64(pending.sequence);
    rows.u64(epoch);
    rows.u32(count);
    rows.u32(place);
    rows.byte(entry.part);
    rows.u32(state_rows);
    if entry.part == COVER {
        put_cover(rows, &pending.covered);
    } else {
        put_cover(rows, &Coverage::none(0));
    }
    rows.boolean(pending.extends);
    rows.text(entry.block.map_or("", |block| block.table.name));
    rows.u64(entry.block.map_or(0, |block| block.number));
    rows.boolean(entry.block.is_some_and(|block| block.day.is_outlying));
    rows.u32(entry.block.map_or(0, |block| block.day.day));
    rows.bytes(entry.body);
}

#[derive(Debug, Deserialize, Row)]
struct EpochRow {
    epoch: u64,
    wanted: u32,
    held: u64,
}

#[derive(Debug, Deserialize, Row)]
struct EntryRow {
    part: i8,
    incarnation: u64,
    partitions: Vec<u32>,
    nexts: Vec<u64>,
    extends: bool,
    target: String,
    block: u64,
    is_outlying: bool,
    day: u32,
    body: Body,
}

/// The delta of this sequence, if it was written whole.
pub(super) async fn pending(engine: &Engine, sequence: u64) -> Result<Option<Pending>, StoreError> {
    let epochs = engine.books(
        "SELECT epoch, max(rows) AS wanted, uniqExact(place) AS held FROM metrics_deltas \
         WHERE sequence = {sequence:UInt64} GROUP BY epoch ORDER BY epoch DESC",
    );
    let epochs: Vec<EpochRow> = engine.rows(epochs.param("sequence", sequence)).await?;
    let is_whole = |row: &EpochRow| u64::from(row.wanted) == row.held;
    let Some(EpochRow { epoch, .. }) = epochs.into_iter().find(is_whole) else { return Ok(None) };
    let entries = engine.books(
        "SELECT part, incarnation, partitions, nexts, extends, target, block, is_outlying, day, \
         body FROM metrics_deltas \
         WHERE sequence = {sequence:UInt64} AND epoch = {epoch:UInt64} \
         ORDER BY place LIMIT 1 BY place",
    );
    let entries = entries.param("sequence", sequence).param("epoch", epoch);
    let mut pending = Pending::recovered(sequence);
    for entry in engine.rows::<EntryRow>(entries).await? {
        match u8::try_from(entry.part) {
            Ok(COVER) => {
                pending.extends = entry.extends;
                pending.covered = cover_of(entry.incarnation, entry.partitions, entry.nexts);
            }
            Ok(STATE) => pending.state.extend_from_slice(&entry.body.0),
            Ok(_) | Err(_) => pending.blocks.push(block_of(entry)?),
        }
    }
    Ok(Some(pending))
}

fn block_of(entry: EntryRow) -> Result<Block, StoreError> {
    let Some(table) = of_blocks(&entry.target) else {
        return Err(StoreError::Damaged(format!("a delta for the table {:?}", entry.target)));
    };
    let day = Day { is_outlying: entry.is_outlying, day: entry.day };
    Ok(Block { table, number: entry.block, day, body: Bytes::from(entry.body.0) })
}

/// The sequence of the first delta that is still there.
pub(super) async fn first(engine: &Engine) -> Result<u64, StoreError> {
    let first: Vec<u64> =
        engine.rows(engine.books("SELECT min(sequence) FROM metrics_deltas")).await?;
    Ok(first.into_iter().min().unwrap_or(0))
}

#[derive(Debug, Deserialize, Row)]
struct StateRow {
    body: Body,
}

/// The aggregator's state once this delta is counted: the last whole one and what was appended.
pub(super) async fn state(engine: &Engine, applied: u64) -> Result<Vec<u8>, StoreError> {
    let whole = engine.books(
        "SELECT max(sequence) FROM metrics_deltas \
         WHERE part = 'cover' AND NOT extends AND sequence <= {applied:UInt64}",
    );
    let whole: Vec<u64> = engine.rows(whole.param("applied", applied)).await?;
    let whole = whole.into_iter().max().unwrap_or(0);
    let between = |query: Query| query.param("whole", whole).param("applied", applied);
    let wanted = engine.books(
        "SELECT argMax(state_rows, epoch) FROM metrics_deltas \
         WHERE part = 'cover' AND sequence BETWEEN {whole:UInt64} AND {applied:UInt64} \
         GROUP BY sequence",
    );
    let wanted: Vec<u32> = engine.rows(between(wanted)).await?;
    let states = engine.books(
        "SELECT body FROM metrics_deltas \
         WHERE part = 'state' AND sequence BETWEEN {whole:UInt64} AND {applied:UInt64} \
         AND (sequence, epoch) IN (SELECT sequence, max(epoch) FROM metrics_deltas \
         WHERE part = 'cover' AND sequence BETWEEN {whole:UInt64} AND {applied:UInt64} \
         GROUP BY sequence) ORDER BY sequence, place LIMIT 1 BY sequence, place",
    );
    let states: Vec<StateRow> = engine.rows(between(states)).await?;
    let wanted: usize = wanted.into_iter().map(|rows| rows as usize).sum();
    if states.len() != wanted {
        let found = states.len();
        let what = format!("{found} of {wanted} rows of the aggregator's state are there");
        return Err(StoreError::Damaged(what));
    }
    Ok(states.into_iter().flat_map(|row| row.body.0).collect())
}

/// The bytes of a `String` column.
#[derive(Debug)]
struct Body(Vec<u8>);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Body;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E: DeError>(self, bytes: &[u8]) -> Result<Body, E> {
                Ok(Body(bytes.to_vec()))
            }

            fn visit_byte_buf<E: DeError>(self, bytes: Vec<u8>) -> Result<Body, E> {
                Ok(Body(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
