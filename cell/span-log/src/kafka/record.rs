//! A trace of a batch as the records of a topic, and back. Spans are spliced, never decoded: what
//! was sent comes back byte for byte, unknown fields included. Pure.

use proto::wire::{
    FieldRef, SpanHeader, WireError, bytes_field_len, fields, put_bytes_field, put_field_start,
    tags,
};
use proto::{
    BatchSource, InvalidBatch, KnownContexts, SpanBatch, SpanBatchBuilder, SpanSlice, TraceSlice,
};

use super::envelope::{Envelope, digest_of_part, trace_of};

/// Why a record is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordFault {
    /// Its key names no trace.
    #[error("its key names no trace")]
    Key,
    /// It has no header `farspan`: another program wrote it.
    #[error("it has no header farspan")]
    NoEnvelope,
    /// Its header cannot be read.
    #[error("its header farspan cannot be read")]
    Envelope,
    /// A newer release wrote it: passes with an upgrade.
    #[error("a newer release wrote it (version {0})")]
    Newer(u8),
    /// Its payload is not OTLP, or of another trace than its key says.
    #[error("its payload is not the OTLP of its trace")]
    Payload,
}

impl From<WireError> for RecordFault {
    fn from(_: WireError) -> Self {
        Self::Envelope
    }
}

impl From<InvalidBatch> for RecordFault {
    fn from(_: InvalidBatch) -> Self {
        Self::Payload
    }
}

/// A part of a trace that is larger than a record may be and cannot be cut further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uncuttable {
    /// Its bytes.
    pub(crate) bytes: usize,
}

/// Bytes of a span with its resource and its scope that a record of so many surely holds: what
/// [`uncuttable`] counts beside them is the starts of three fields.
pub(crate) const fn span_bytes_max(bytes_max: usize) -> usize {
    bytes_max.saturating_sub(3 * FIELD_START_MAX)
}

/// The size of a span with its frames that alone is larger than a record may be, if there is one.
pub(crate) fn uncuttable(batch: &SpanBatch, bytes_max: usize) -> Option<usize> {
    let alone = |span: &SpanSlice| {
        let field = bytes_field_len(tags::SCOPE_SPANS_SPANS, batch.bytes_of(span).len());
        let (resource, scope) = frames(batch, span.scope);
        field + resource.len() + scope.len() + 2 * FIELD_START_MAX
    };
    batch.spans().iter().map(alone).find(|bytes| *bytes > bytes_max)
}

/// Consecutive spans of one scope.
#[derive(Clone, Copy, Debug)]
struct Run {
    scope: u32,
    first: usize,
    next: usize,
    /// Bytes of its `ScopeSpans`.
    bytes: usize,
}

/// Tag and length of a field, at most.
const FIELD_START_MAX: usize = 6;

/// Writes the records of a batch's traces; keeps its scratch memory between them.
#[derive(Debug, Default)]
pub(crate) struct RecordWriter {
    runs: Vec<Run>,
    payload: Vec<u8>,
}

impl RecordWriter {
    /// Hands over the payloads of a trace in order, each of at most `bytes_max`: usually one.
    pub(crate) fn payloads(
        &mut self,
        batch: &SpanBatch,
        trace: &TraceSlice,
        bytes_max: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Uncuttable> {
        let spans = batch.spans_of(trace);
        let mut first = 0;
        while first < spans.len() {
            let next = self.cut(batch, spans, first, bytes_max)?;
            self.write(batch, spans);
            take(&self.payload);
            first = next;
        }
        Ok(())
    }

    /// Notes the runs of a payload that starts at a span; gives the first span that has no room.
    fn cut(
        &mut self,
        batch: &SpanBatch,
        spans: &[SpanSlice],
        first: usize,
        bytes_max: usize,
    ) -> Result<usize, Uncuttable> {
        self.runs.clear();
        let mut bytes = 0_usize;
        for (place, span) in spans.iter().enumerate().skip(first) {
            let length = batch.bytes_of(span).len();
            let field = bytes_field_len(tags::SCOPE_SPANS_SPANS, length);
            let is_same = self.runs.last().is_some_and(|run| run.scope == span.scope);
            let frame = batch.context_of(span).map_or(0, |context| context.scope.len());
            let resource = batch.context_of(span).map_or(0, |context| context.resource.len());
            let context = if is_same { 0 } else { resource + frame + 2 * FIELD_START_MAX };
            let grown = bytes.saturating_add(context).saturating_add(field);
            if grown > bytes_max {
                if place == first {
                    return Err(Uncuttable { bytes: grown });
                }
                return Ok(place);
            }
            bytes = grown;
            match self.runs.last_mut().filter(|_| is_same) {
                Some(run) => {
                    run.next = place + 1;
                    run.bytes += field;
                }
                None => self.runs.push(Run {
                    scope: span.scope,
                    first: place,
                    next: place + 1,
                    bytes: frame + field,
                }),
            }
        }
        Ok(spans.len())
    }

    /// Writes the noted runs: one `ResourceSpans` for neighbours of one resource.
    fn write(&mut self, batch: &SpanBatch, spans: &[SpanSlice]) {
        let Self { runs, payload: output } = self;
        output.clear();
        let is_same =
            |one: &Run, other: &Run| frames(batch, one.scope).0 == frames(batch, other.scope).0;
        for neighbours in runs.chunk_by(is_same) {
            let Some(run) = neighbours.first() else { continue };
            let (resource, _) = frames(batch, run.scope);
            let field = |run: &Run| bytes_field_len(tags::RESOURCE_SPANS_SCOPE_SPANS, run.bytes);
            let length = resource.len() + neighbours.iter().map(field).sum::<usize>();
            put_field_start(output, tags::REQUEST_RESOURCE_SPANS, length);
            output.extend_from_slice(resource);
            for run in neighbours {
                put_field_start(output, tags::RESOURCE_SPANS_SCOPE_SPANS, run.bytes);
                output.extend_from_slice(frames(batch, run.scope).1);
                for span in spans.get(run.first..run.next).unwrap_or(&[]) {
                    put_bytes_field(output, tags::SCOPE_SPANS_SPANS, batch.bytes_of(span));
                }
            }
        }
    }
}

/// Resource and scope frame.
fn frames(batch: &SpanBatch, scope: u32) -> (&[u8], &[u8]) {
    let context = batch.contexts().get(scope as usize);
    context.map_or((&[], &[]), |context| (&context.resource, &context.scope))
}

/// A record back as a batch of one trace, with contexts that records before it had.
pub(crate) fn decode(
    known: &mut KnownContexts,
    key: Option<&[u8]>,
    header: Option<&[u8]>,
    payload: &[u8],
) -> Result<SpanBatch, RecordFault> {
    let (tenant, trace_id) = key.and_then(trace_of).ok_or(RecordFault::Key)?;
    let envelope = Envelope::decode(header.ok_or(RecordFault::NoEnvelope)?)?;
    if tenant != envelope.source.tenant {
        return Err(RecordFault::Key);
    }
    let mut builder = SpanBatchBuilder::new();
    for_each_span(payload, &mut builder, |builder, scope, span| {
        let header = SpanHeader::read(span)?;
        if header.trace_id != trace_id.as_bytes() {
            return Err(WireError::WrongType);
        }
        builder.add_read_span(trace_id, envelope.threshold, scope, span, header);
        Ok(())
    })
    .map_err(|_| RecordFault::Payload)?;
    if builder.span_count() == 0 {
        return Err(RecordFault::Payload);
    }
    let digest = digest_of_part(envelope.source.digest, envelope.part);
    Ok(builder.finish_knowing(BatchSource { digest, ..envelope.source }, known)?)
}

/// Walks the spans of OTLP `TracesData`, with the place that the builder gave to the scope.
fn for_each_span<'a>(
    payload: &'a [u8],
    builder: &mut SpanBatchBuilder<'a>,
    mut take: impl FnMut(&mut SpanBatchBuilder<'a>, u32, &'a [u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let is_scope_spans = |field: &FieldRef<'_>| field.number == tags::RESOURCE_SPANS_SCOPE_SPANS;
    let is_span = |field: &FieldRef<'_>| field.number == tags::SCOPE_SPANS_SPANS;
    for resource_spans in fields(payload) {
        let resource_spans = resource_spans?;
        if resource_spans.number != tags::REQUEST_RESOURCE_SPANS {
            continue;
        }
        let resource_spans = resource_spans.value.bytes()?;
        let resource = builder.add_resource(frame_without(resource_spans, is_scope_spans)?);
        for scope_spans in fields(resource_spans) {
            let scope_spans = scope_spans?;
            if !is_scope_spans(&scope_spans) {
                continue;
            }
            let scope_spans = scope_spans.value.bytes()?;
            let scope = builder.add_scope(resource, frame_without(scope_spans, is_span)?);
            for span in fields(scope_spans) {
                let span = span?;
                if is_span(&span) {
                    take(builder, scope, span.value.bytes()?)?;
                }
            }
        }
    }
    Ok(())
}

/// The fields of a message but those left out, byte for byte.
fn frame_without(
    message: &[u8],
    is_left_out: impl Fn(&FieldRef<'_>) -> bool,
) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::new();
    for field in fields(message) {
        let field = field?;
        if !is_left_out(&field) {
            frame.extend_from_slice(field.raw);
        }
    }
    Ok(frame)
}

#[cfg(test)]
mod tests;
