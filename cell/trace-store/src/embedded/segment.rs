//! What a segment's file says of itself: its footer and the list of its blocks.

use proto::wire::put_varint;
use serde::{Deserialize, Serialize};
use trace_model::{Coverage, LogRange, TraceId};

use super::cursor::{Corrupt, Cursor};
use super::sealed_file::{Format, Section};

/// The format of segments.
pub(crate) const SEGMENT_FORMAT: Format = Format { magic: *b"FARSPSEG", version: 1 };

/// A run of the log that a segment covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoveredRange {
    pub(crate) incarnation: u64,
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) next: u64,
}

impl CoveredRange {
    pub(crate) const fn new(incarnation: u64, range: LogRange) -> Self {
        Self { incarnation, partition: range.partition, first: range.first, next: range.next }
    }
}

/// Joins runs of one partition into one.
pub(crate) fn join_ranges(ranges: impl IntoIterator<Item = CoveredRange>) -> Vec<CoveredRange> {
    let mut joined: Vec<CoveredRange> = Vec::new();
    for range in ranges {
        let same = |known: &&mut CoveredRange| {
            (known.incarnation, known.partition) == (range.incarnation, range.partition)
        };
        match joined.iter_mut().find(same) {
            Some(known) => {
                known.first = known.first.min(range.first);
                known.next = known.next.max(range.next);
            }
            None => joined.push(range),
        }
    }
    joined
}

/// Extends a cover by these runs.
pub(crate) fn extend_coverage(coverage: &mut Coverage, ranges: &[CoveredRange]) {
    for range in ranges {
        let mut other = Coverage::none(range.incarnation);
        other.extend(range.partition, range.next);
        coverage.join(&other);
    }
}

/// The footer of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentFooter {
    pub(crate) spans: u64,
    pub(crate) traces: u64,
    /// In the order of their places.
    pub(crate) tenants: Vec<String>,
    /// Placement times of the earliest and the latest span.
    pub(crate) placed_min: u64,
    pub(crate) placed_max: u64,
    /// When the log appended the last of it: retention counts from there.
    pub(crate) appended_max: u64,
    pub(crate) ranges: Vec<CoveredRange>,
    pub(crate) contexts: Section,
    pub(crate) blocks: Section,
    pub(crate) filter: Section,
}

/// A block's entry in the list of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockMeta {
    pub(crate) tenant: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) crc: u32,
    pub(crate) rows: u32,
    pub(crate) first: TraceId,
    pub(crate) last: TraceId,
    pub(crate) placed_min: u64,
    pub(crate) placed_max: u64,
}

pub(crate) fn encode_blocks(blocks: &[BlockMeta]) -> Vec<u8> {
    let mut output = Vec::new();
    put_varint(&mut output, blocks.len() as u64);
    for block in blocks {
        put_varint(&mut output, u64::from(block.tenant));
        put_varint(&mut output, block.offset);
        put_varint(&mut output, block.length);
        output.extend_from_slice(&block.crc.to_le_bytes());
        put_varint(&mut output, u64::from(block.rows));
        output.extend_from_slice(block.first.as_bytes());
        output.extend_from_slice(block.last.as_bytes());
        put_varint(&mut output, block.placed_min);
        put_varint(&mut output, block.placed_max - block.placed_min);
    }
    output
}

pub(crate) fn decode_blocks(bytes: &[u8]) -> Result<Vec<BlockMeta>, Corrupt> {
    let mut cursor = Cursor::new(bytes);
    let count = cursor.count(40)?;
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let tenant = cursor.varint_u32()?;
        let offset = cursor.varint()?;
        let length = cursor.varint()?;
        let crc = u32::from_le_bytes(cursor.array()?);
        let rows = cursor.varint_u32()?;
        let id = |bytes: [u8; 16]| TraceId::from_bytes(bytes).map_err(|_| Corrupt("a zero id"));
        let (first, last) = (id(cursor.array()?)?, id(cursor.array()?)?);
        let placed_min = cursor.varint()?;
        let placed_max = placed_min.saturating_add(cursor.varint()?);
        blocks.push(BlockMeta {
            tenant,
            offset,
            length,
            crc,
            rows,
            first,
            last,
            placed_min,
            placed_max,
        });
    }
    Ok(blocks)
}
