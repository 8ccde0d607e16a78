//! Sealed segments into a new one: merging several, leaving out erased traces, building a lost index
//! anew. Inputs are read block by block, so that memory stays at one block an input.

use std::sync::Arc;

use trace_model::time::place;
use trace_model::{TenantId, TraceId, UnixNanos};

use super::block_decode::{Block, RebuiltRow};
use super::block_encode::{Row, Source};
use super::cache::SegmentCache;
use super::contexts::ReadContext;
use super::seal::sort_and_deduplicate;
use super::segment_read::Segment;
use super::segment_write::SegmentWriter;
use crate::StoreError;

/// A segment being read from its first to its last trace.
struct Input<'a> {
    segment: &'a Segment,
    contexts: Arc<Vec<ReadContext>>,
    next_block: usize,
    block: Option<Block>,
    next_run: usize,
}

/// A span on its way from one segment to another.
struct MovedRow {
    row: RebuiltRow,
    context: u32,
    source: Source,
}

impl<'a> Input<'a> {
    fn open(segment: &'a Segment, cache: &SegmentCache) -> Result<Self, StoreError> {
        let contexts = segment.contexts(cache)?;
        Ok(Self { segment, contexts, next_block: 0, block: None, next_run: 0 })
    }

    /// The trace that comes next.
    fn peek(&mut self) -> Result<Option<(TenantId, TraceId)>, StoreError> {
        loop {
            if let Some(block) = &self.block
                && let Some(run) = block.traces.get(self.next_run)
            {
                let meta = self.segment.blocks.get(self.next_block.saturating_sub(1));
                let tenant = meta.and_then(|meta| self.segment.tenant(meta.tenant));
                let (tenant, _) =
                    tenant.ok_or_else(|| self.segment.damaged(&"a tenant that is not there"))?;
                return Ok(Some((tenant.clone(), run.trace_id)));
            }
            if self.next_block >= self.segment.blocks.len() {
                return Ok(None);
            }
            self.segment.read_ahead_from(self.next_block);
            self.block = Some(self.segment.block(self.next_block)?);
            self.next_block += 1;
            self.next_run = 0;
        }
    }

    /// Takes the rows of the trace that comes next; of a long trace those of one block.
    fn take(
        &mut self,
        writer: &mut SegmentWriter,
        moved: &mut Vec<MovedRow>,
    ) -> Result<(), StoreError> {
        let Some(block) = &mut self.block else { return Ok(()) };
        let Some(run) = block.traces.get(self.next_run).copied() else { return Ok(()) };
        self.next_run += 1;
        let rows = block.rebuild(&run, run.first..run.first + run.rows);
        for row in rows.map_err(|error| self.segment.damaged(&error))? {
            let context = self.contexts.get(row.context as usize);
            let source = block.source_table.get(row.source);
            let (Some(context), Some(source)) = (context, source) else {
                return Err(self.segment.damaged(&"a context that is not there"));
            };
            let context = writer.intern(&context.context);
            moved.push(MovedRow { row, context, source: source.clone() });
        }
        Ok(())
    }
}

/// Writes what the segments hold, but for traces that are dropped. Gives the number of spans
/// dropped.
pub(crate) fn write_segments(
    writer: &mut SegmentWriter,
    segments: &[Arc<Segment>],
    cache: &SegmentCache,
    is_dropped: &dyn Fn(&TenantId, TraceId) -> bool,
) -> Result<u64, StoreError> {
    let inputs = segments.iter().map(|segment| Input::open(segment, cache));
    let mut inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let mut dropped = 0;
    loop {
        let mut next: Option<(TenantId, TraceId)> = None;
        for input in &mut inputs {
            if let Some(found) = input.peek()? {
                next = Some(next.map_or(found.clone(), |least| least.min(found)));
            }
        }
        let Some(next) = next else { return Ok(dropped) };
        let is_dropped = is_dropped(&next.0, next.1);
        let mut moved = Vec::new();
        for input in &mut inputs {
            while input.peek()?.as_ref() == Some(&next) {
                if is_dropped {
                    dropped += input.skip();
                } else {
                    input.take(writer, &mut moved)?;
                }
            }
        }
        if !moved.is_empty() {
            write_trace(writer, &next, &moved)?;
        }
    }
}

impl Input<'_> {
    /// Steps over the rows of the trace that comes next; gives their number.
    fn skip(&mut self) -> u64 {
        let run = self.block.as_ref().and_then(|block| block.traces.get(self.next_run));
        self.next_run += 1;
        run.map_or(0, |run| run.rows as u64)
    }
}

fn write_trace(
    writer: &mut SegmentWriter,
    trace: &(TenantId, TraceId),
    moved: &[MovedRow],
) -> Result<(), StoreError> {
    let rows = moved.iter().map(|moved| {
        let (start, end) = (UnixNanos(moved.row.facts.start), UnixNanos(moved.row.facts.end));
        Row {
            bytes: &moved.row.bytes,
            facts: moved.row.facts,
            kind: moved.row.kind,
            status: moved.row.status,
            context: moved.context,
            source: &moved.source,
            placed: place(start, end, moved.source.envelope.receive_time).time.0,
        }
    });
    let mut rows: Vec<Row<'_>> = rows.collect();
    sort_and_deduplicate(&mut rows);
    writer.push_trace(&trace.0, trace.1, &rows)
}
