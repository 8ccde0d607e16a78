//! Rows into the bytes of a block.
//!
//! A block holds the rows of some traces, in the order of (trace, start), in chunks: the core (what
//! every row has, and the templates), the ids (random bytes, never compressed), then the columns of
//! each token. Layout, integers as varints:
//!
//! ```text
//! chunk count, then per chunk: stored length, raw length (0: not compressed)
//! chunks
//! ```
//!
//! A block belongs to one tenant and can be read knowing nothing but the segment's contexts.

use std::sync::Arc;

use proto::wire::put_varint;
use rustc_hash::FxHashMap;
use trace_model::TraceId;
use trace_model::merge::Envelope;
use trace_model::sampling_threshold::Threshold;

use super::column::{Column, RowIndex};
use super::hash::{entry_hash, value_hash};
use super::index_build::{IndexBuilder, RowGroup};
use super::numbers::{self, zigzag};
use super::template::{Code, Part, RowFacts, Tag, read_parts};
use super::tokens::TokenTable;

/// Level of the compressor: higher ones cost CPU on the write path and give 1 to 4 % (LIMITS, c).
const ZSTD_LEVEL: i32 = 1;

mod chunks;
mod places;

use chunks::{put_chunk, put_stored};
use places::{ParentPlaces, index_nameless, index_whole};

/// Where rows come from: one export request, in one collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) threshold: Threshold,
}

/// A span on its way into a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) facts: RowFacts,
    pub(crate) kind: u8,
    pub(crate) status: u8,
    /// Place of its context in the segment.
    pub(crate) context: u32,
    pub(crate) source: &'a Source,
    /// Its placement time.
    pub(crate) placed: u64,
}

/// What is collected of the rows beside the columns.
#[derive(Debug, Default)]
struct Core {
    trace_rows: Vec<u64>,
    trace_starts: Vec<u64>,
    templates: Vec<u64>,
    starts: Vec<u64>,
    durations: Vec<u64>,
    contexts: Vec<u64>,
    sources: Vec<u64>,
    source_table: Vec<Source>,
    source_places: FxHashMap<Source, u64>,
    ids: Vec<u8>,
    span_ids: Vec<u8>,
    parent_ids: Vec<u8>,
    is_unreadable: bool,
}

/// Writes blocks, one after the other.
pub(crate) struct BlockEncoder {
    tokens: TokenTable,
    columns: Vec<Column>,
    block: u32,
    used: Vec<u32>,
    templates: Vec<u32>,
    template_numbers: FxHashMap<u32, u32>,
    core: Core,
    resolved: Vec<u32>,
    status_groups: [u64; 3],
    compressor: zstd::bulk::Compressor<'static>,
    chunk: Vec<u8>,
}

impl std::fmt::Debug for BlockEncoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BlockEncoder").field("block", &self.block).finish_non_exhaustive()
    }
}

impl BlockEncoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            tokens: TokenTable::new(),
            columns: Vec::new(),
            block: 1,
            used: Vec::new(),
            templates: Vec::new(),
            template_numbers: FxHashMap::default(),
            core: Core::default(),
            resolved: Vec::new(),
            status_groups: [0; 3],
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            chunk: Vec::new(),
        })
    }

    /// Rows taken since the last block.
    pub(crate) const fn rows(&self) -> usize {
        self.core.starts.len()
    }

    /// Adds rows of one trace, in the order of their starts.
    pub(crate) fn push_trace(
        &mut self,
        tenant: u32,
        trace_id: TraceId,
        rows: &[Row<'_>],
        index: &mut IndexBuilder,
    ) {
        let Some(first) = rows.first() else { return };
        let trace_start = first.facts.start;
        self.core.ids.extend_from_slice(trace_id.as_bytes());
        self.core.trace_rows.push(rows.len() as u64);
        self.core.trace_starts.push(trace_start);
        let parents = ParentPlaces::new(rows);
        let mut parts = Vec::with_capacity(32);
        for (place, row) in rows.iter().enumerate() {
            let group = index.row(tenant, row.context, row.placed);
            read_parts(row.bytes, &row.facts, &mut parts);
            for part in parts.iter_mut().filter(|part| part.tag.code == Code::Parent) {
                part.number = parents.distance(place, part.text);
                let outside = if part.number == 0 { part.text } else { &[] };
                self.core.parent_ids.extend_from_slice(outside);
            }
            let template = self.push_parts(&mut parts, row, group, index);
            self.push_core(row, trace_start, template);
            self.index_status(row, group, index);
        }
    }

    fn push_core(&mut self, row: &Row<'_>, trace_start: u64, template: u32) {
        let core = &mut self.core;
        core.templates.push(u64::from(template));
        core.starts.push(row.facts.start.wrapping_sub(trace_start));
        let duration = row.facts.end.wrapping_sub(row.facts.start).cast_signed();
        core.durations.push(zigzag(duration));
        core.contexts.push(u64::from(row.context));
        core.span_ids.extend_from_slice(row.facts.span_id.as_bytes());
        let last = core.sources.last().copied().unwrap_or(0);
        let last_source = usize::try_from(last).ok().and_then(|last| core.source_table.get(last));
        if last_source == Some(row.source) {
            core.sources.push(last);
            return;
        }
        let next = core.source_table.len() as u64;
        let place = match core.source_places.get(row.source) {
            Some(place) => *place,
            None => {
                core.source_places.insert(row.source.clone(), next);
                core.source_table.push(row.source.clone());
                next
            }
        };
        core.sources.push(place);
    }

    /// Puts the values into their columns; gives the template's number in the block.
    fn push_parts<'a>(
        &mut self,
        parts: &mut Vec<Part<'a>>,
        row: &Row<'a>,
        group: RowGroup,
        index: &mut IndexBuilder,
    ) -> u32 {
        let mut resolved = std::mem::take(&mut self.resolved);
        let node = self.resolve(parts, row, &mut resolved);
        self.make_columns(index.keys.operation);
        let row_index = RowIndex { group, kind: row.kind };
        for (part, token) in parts.iter().zip(&resolved) {
            let Some(column) = self.columns.get_mut(*token as usize) else { continue };
            if column.block != self.block {
                self.used.push(*token);
                self.core.is_unreadable |= !column.begin(self.block, index);
            }
            self.core.is_unreadable |= !column.push(part, &row_index, index);
            if part.tag.code == Code::Whole {
                index_whole(part.text, group, index);
            }
        }
        if !parts.iter().any(|part| matches!(part.tag.code, Code::Name | Code::Whole)) {
            index_nameless(row, group, index);
        }
        self.resolved = resolved;
        let next = u32::try_from(self.templates.len()).unwrap_or(u32::MAX);
        let number = *self.template_numbers.entry(node).or_insert(next);
        if number == next {
            self.templates.push(node);
        }
        number
    }

    /// The template of the parts; where there is no room for a new one, the parts become the span
    /// as a whole, whose template always has room.
    fn resolve<'a>(
        &mut self,
        parts: &mut Vec<Part<'a>>,
        row: &Row<'a>,
        resolved: &mut Vec<u32>,
    ) -> u32 {
        if let Some(node) = self.tokens.resolve(parts, resolved) {
            return node;
        }
        let tag = Tag { code: Code::Whole, argument: 0 };
        parts.clear();
        parts.push(Part { tag, key: &[], text: row.bytes, number: 0 });
        self.tokens.resolve(parts, resolved).unwrap_or(super::tokens::ROOT)
    }

    fn make_columns(&mut self, operation_key: u64) {
        while let Some(token) =
            u32::try_from(self.columns.len()).ok().and_then(|next| self.tokens.token(next))
        {
            self.columns.push(Column::new(token, operation_key));
        }
    }

    fn index_status(&mut self, row: &Row<'_>, group: RowGroup, index: &mut IndexBuilder) {
        let Some(groups) = self.status_groups.get_mut(usize::from(row.status)) else { return };
        if *groups & group.bit != 0 {
            return;
        }
        *groups |= group.bit;
        let text = [b'0' + row.status];
        let entry = entry_hash(index.keys.status, value_hash(&text));
        index.add(group.group, index.keys.status, entry);
        index.add_to_block(entry);
    }

    /// Appends the block's bytes and makes ready for the next one.
    pub(crate) fn finish(&mut self, output: &mut Vec<u8>) -> std::io::Result<()> {
        let mut directory = Vec::new();
        let mut body = Vec::new();
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        self.encode_core(&mut chunk);
        let mut chunk_count = 2_u64;
        put_chunk(&mut self.compressor, &chunk, &mut directory, &mut body)?;
        self.core.ids.append(&mut self.core.span_ids);
        self.core.ids.append(&mut self.core.parent_ids);
        put_stored(&self.core.ids, &mut directory, &mut body);
        for token in &self.used {
            let Some(column) = self.columns.get(*token as usize) else { continue };
            if !column.text.is_empty() {
                chunk.clear();
                column.text.encode(&mut chunk);
                put_chunk(&mut self.compressor, &chunk, &mut directory, &mut body)?;
                chunk_count += 1;
            }
            if !column.numbers.is_empty() {
                chunk.clear();
                numbers::encode(&column.numbers, &mut chunk);
                put_chunk(&mut self.compressor, &chunk, &mut directory, &mut body)?;
                chunk_count += 1;
            }
        }
        put_varint(output, chunk_count);
        output.extend_from_slice(&directory);
        output.extend_from_slice(&body);
        self.chunk = chunk;
        self.reset();
        Ok(())
    }

    fn reset(&mut self) {
        self.block = self.block.wrapping_add(1).max(1);
        self.used.clear();
        self.templates.clear();
        self.template_numbers.clear();
        self.core = Core::default();
        self.status_groups = [0; 3];
        if self.tokens.is_crowded() {
            self.tokens = TokenTable::new();
            self.columns.clear();
        }
    }
}
