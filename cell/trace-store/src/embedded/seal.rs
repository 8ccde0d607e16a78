//! Waiting batches into a sealed segment: traces in order, spans of a trace by start, each span once.

use std::cmp::Ordering;
use std::sync::Arc;

use proto::{SpanBatch, TraceSlice};
use trace_model::merge::Envelope;
use trace_model::time::place;
use trace_model::{TenantId, TraceId};

use super::block_encode::{Row, Source};
use super::pending::PendingBatch;
use super::segment_write::SegmentWriter;
use super::template::RowFacts;
use crate::StoreError;

/// The spans of one trace within one batch.
struct Part<'a> {
    tenant: &'a TenantId,
    slice: &'a TraceSlice,
    batch: &'a SpanBatch,
    envelope: &'a Arc<Envelope>,
    /// Places of the batch's contexts in the segment.
    contexts: &'a [u32],
}

/// Writes all spans of the batches but those of traces that are dropped. Gives the number of spans
/// dropped so.
pub(crate) fn write_batches(
    writer: &mut SegmentWriter,
    batches: &[PendingBatch],
    is_dropped: &dyn Fn(&TenantId, TraceId) -> bool,
) -> Result<u64, StoreError> {
    let shared: Vec<(Arc<Envelope>, Vec<u32>)> = batches
        .iter()
        .map(|pending| {
            let batch = &pending.logged.batch;
            let contexts = batch.contexts().iter().map(|context| writer.intern(context)).collect();
            (Arc::new(batch.envelope()), contexts)
        })
        .collect();
    let mut parts = Vec::new();
    let mut dropped = 0;
    for (pending, (envelope, contexts)) in batches.iter().zip(&shared) {
        let batch = pending.logged.batch.as_ref();
        let tenant = &batch.source().tenant;
        for slice in pending.traces().iter().filter(|slice| !slice.is_erased()) {
            if is_dropped(tenant, slice.trace_id) {
                dropped += u64::from(slice.span_count);
                continue;
            }
            parts.push(Part { tenant, slice, batch, envelope, contexts });
        }
    }
    parts.sort_by(|left, right| trace_of(left).cmp(&trace_of(right)));
    for trace in parts.chunk_by(|left, right| trace_of(left) == trace_of(right)) {
        write_trace(writer, trace)?;
    }
    Ok(dropped)
}

fn trace_of<'a>(part: &Part<'a>) -> (&'a TenantId, TraceId) {
    (part.tenant, part.slice.trace_id)
}

fn write_trace(writer: &mut SegmentWriter, parts: &[Part<'_>]) -> Result<(), StoreError> {
    let Some(first) = parts.first() else { return Ok(()) };
    let sources: Vec<Source> = parts
        .iter()
        .map(|part| Source { envelope: Arc::clone(part.envelope), threshold: part.slice.threshold })
        .collect();
    let mut rows =
        Vec::with_capacity(parts.iter().map(|part| part.slice.span_count as usize).sum());
    for (part, source) in parts.iter().zip(&sources) {
        for span in part.batch.spans_of(part.slice) {
            let received = source.envelope.receive_time;
            rows.push(Row {
                bytes: part.batch.bytes_of(span),
                facts: RowFacts {
                    trace_id: part.slice.trace_id,
                    span_id: span.span_id,
                    start: span.start.0,
                    end: span.end.0,
                },
                kind: span.kind,
                status: span.status,
                context: part.contexts.get(span.scope as usize).copied().unwrap_or(u32::MAX),
                source,
                placed: place(span.start, span.end, received).time.0,
            });
        }
    }
    sort_and_deduplicate(&mut rows);
    writer.push_trace(first.tenant, first.slice.trace_id, &rows)
}

/// Orders the rows of a trace by start and keeps each span once, in its least envelope (as
/// [`trace_model::TraceSpans`] does).
pub(crate) fn sort_and_deduplicate(rows: &mut Vec<Row<'_>>) {
    rows.sort_unstable_by(|left, right| {
        let key = |row: &Row<'_>| (row.facts.start, row.facts.span_id, row.kind);
        key(left).cmp(&key(right)).then_with(|| compare_twins(left, right))
    });
    rows.dedup_by(|later, kept| is_same_span(later, kept));
}

fn is_same_span(left: &Row<'_>, right: &Row<'_>) -> bool {
    (left.facts.span_id, left.kind, left.context)
        == (right.facts.span_id, right.kind, right.context)
        && left.bytes == right.bytes
}

fn compare_twins(left: &Row<'_>, right: &Row<'_>) -> Ordering {
    let content = (left.context, left.bytes).cmp(&(right.context, right.bytes));
    content.then_with(|| left.source.envelope.cmp(&right.source.envelope))
}
