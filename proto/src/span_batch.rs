//! What one export request became: its spans grouped by trace, cut out of the request's bytes, none
//! re-encoded. The unit that a collector appends and that consumer groups read.
//!
//! The encoded form (version 1; integers little-endian, lengths LEB128 varints) is
//!
//! ```text
//! version u8 = 1 | tenant | region | collector          (each: length, text)
//! receive time u64 | digest u64
//! resources: count, then each: length, bytes              (ResourceSpans without scope_spans)
//! scopes:    count, then each: resource index, length, bytes  (ScopeSpans without spans)
//! traces:    count, then each: trace id [16], threshold, spans
//! spans, trace by trace: scope index, length, bytes       (OTLP Span as sent)
//! ```

use std::sync::Arc;

use bytes::Bytes;
use trace_model::ids::InvalidId;
use trace_model::merge::{Envelope, content_hash_in, context_hash};
use trace_model::names::InvalidName;
use trace_model::sampling_threshold::Threshold;
use trace_model::{
    Region, ScopeContext, SpanId, SpanKey, StoredSpan, TenantId, TraceId, UnixNanos,
};

use crate::wire::{SpanHeader, WireError, put_varint, read_varint, service_name};

/// Where a batch comes from: the envelope that its spans share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSource {
    /// The tenant.
    pub tenant: TenantId,
    /// The region of the collector.
    pub region: Region,
    /// The collector's name.
    pub collector: Arc<str>,
    /// When the collector received the request.
    pub receive_time: UnixNanos,
    /// xxh3-64 of the request's (uncompressed) body: tells a retry of the same bytes.
    pub digest: u64,
}

/// The spans of one trace within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSlice {
    /// The trace.
    pub trace_id: TraceId,
    /// The head-sampling threshold that it passed: its adjusted count.
    pub threshold: Threshold,
    /// Place of its first span in [`SpanBatch::spans`].
    pub first_span: u32,
    /// How many spans follow.
    pub span_count: u32,
}

/// One span within a batch, with the header fields that consumers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanSlice {
    /// Place of its scope in [`SpanBatch::contexts`].
    pub scope: u32,
    offset: u32,
    length: u32,
    name_offset: u32,
    name_length: u32,
    /// Its id.
    pub span_id: SpanId,
    /// Its parent, if it names a valid one.
    pub parent_span_id: Option<SpanId>,
    /// Start as sent.
    pub start: UnixNanos,
    /// End as sent.
    pub end: UnixNanos,
    /// OTLP kind, 0 to 5.
    pub kind: u8,
    /// OTLP status code, 0 to 2.
    pub status: u8,
}

/// Spans of one request, grouped by trace. Cheap to share; see the module for the encoded form.
#[derive(Clone, Debug)]
pub struct SpanBatch {
    source: BatchSource,
    encoded: Bytes,
    contexts: Vec<Arc<ScopeContext>>,
    context_hashes: Vec<u64>,
    traces: Vec<TraceSlice>,
    spans: Vec<SpanSlice>,
}

/// Why bytes are not a span batch. None of these passes by waiting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// A version that this release does not know.
    #[error("a span batch of version {0}; this release reads version 1")]
    Version(u8),
    /// The structure does not hold.
    #[error("a span batch whose structure does not hold")]
    Structure(#[from] WireError),
    /// An id is not one.
    #[error("a span batch with an invalid id")]
    Id(#[from] InvalidId),
    /// A tenant or region is not one.
    #[error("a span batch with an invalid name")]
    Name(#[from] InvalidName),
}

const VERSION: u8 = 1;

impl SpanBatch {
    /// Where it comes from.
    #[must_use]
    pub const fn source(&self) -> &BatchSource {
        &self.source
    }

    /// The encoded form, as the log keeps it.
    #[must_use]
    pub const fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The traces, each once, in order of first appearance.
    #[must_use]
    pub fn traces(&self) -> &[TraceSlice] {
        &self.traces
    }

    /// All spans, trace by trace.
    #[must_use]
    pub fn spans(&self) -> &[SpanSlice] {
        &self.spans
    }

    /// The spans of one trace.
    #[must_use]
    pub fn spans_of(&self, trace: &TraceSlice) -> &[SpanSlice] {
        let first = trace.first_span as usize;
        self.spans.get(first..first.saturating_add(trace.span_count as usize)).unwrap_or(&[])
    }

    /// The resources and scopes that spans point to.
    #[must_use]
    pub fn contexts(&self) -> &[Arc<ScopeContext>] {
        &self.contexts
    }

    /// The resource and scope of a span of this batch.
    #[must_use]
    pub fn context_of(&self, span: &SpanSlice) -> Option<&Arc<ScopeContext>> {
        self.contexts.get(span.scope as usize)
    }

    /// The service of a span of this batch.
    #[must_use]
    pub fn service_of(&self, span: &SpanSlice) -> &str {
        self.context_of(span).map_or("", |context| &context.service)
    }

    /// The bytes of a span of this batch, as sent.
    #[must_use]
    pub fn bytes_of(&self, span: &SpanSlice) -> &[u8] {
        slice(&self.encoded, span.offset, span.length)
    }

    /// The name of a span of this batch; "" where it is not text.
    #[must_use]
    pub fn name_of(&self, span: &SpanSlice) -> &str {
        std::str::from_utf8(slice(&self.encoded, span.name_offset, span.name_length)).unwrap_or("")
    }

    /// The identity of a span of this batch.
    #[must_use]
    pub fn key_of(&self, span: &SpanSlice) -> SpanKey {
        let context = self.context_hashes.get(span.scope as usize).copied().unwrap_or(0);
        let content = content_hash_in(context, self.bytes_of(span));
        SpanKey { span_id: span.span_id, kind: span.kind, content }
    }

    /// The envelope of its spans.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        Envelope {
            receive_time: self.source.receive_time,
            region: self.source.region.clone(),
            collector: Arc::clone(&self.source.collector),
        }
    }

    /// A span of this batch as stores and tails give it back; shares the batch's bytes.
    #[must_use]
    pub fn stored_span(&self, span: &SpanSlice, envelope: &Arc<Envelope>) -> Option<StoredSpan> {
        let start = span.offset as usize;
        let end = start.checked_add(span.length as usize)?;
        if end > self.encoded.len() {
            return None;
        }
        Some(StoredSpan {
            key: self.key_of(span),
            span: self.encoded.slice(start..end),
            context: Arc::clone(self.context_of(span)?),
            envelope: Arc::clone(envelope),
        })
    }

    /// Reads the encoded form. Nothing is allocated by a count that the input cannot back.
    pub fn decode(encoded: Bytes) -> Result<Self, InvalidBatch> {
        let mut reader = Reader { all: &encoded, at: 0 };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(InvalidBatch::Version(version));
        }
        let source = read_source(&mut reader)?;
        let contexts = read_contexts(&mut reader)?;
        let traces = read_traces(&mut reader)?;
        let total: usize = traces.iter().map(|trace| trace.span_count as usize).sum();
        let mut spans = Vec::with_capacity(total.min(reader.remaining()));
        for _ in 0..total {
            spans.push(read_span(&mut reader, contexts.len())?);
        }
        if reader.remaining() > 0 {
            return Err(WireError::BadTag.into());
        }
        Ok(Self::from_parts(source, encoded, contexts, traces, spans))
    }

    fn from_parts(
        source: BatchSource,
        encoded: Bytes,
        contexts: Vec<(usize, usize, usize, usize)>,
        traces: Vec<TraceSlice>,
        spans: Vec<SpanSlice>,
    ) -> Self {
        let contexts: Vec<Arc<ScopeContext>> =
            contexts.into_iter().map(|ranges| Arc::new(context(&encoded, ranges))).collect();
        let context_hashes = contexts
            .iter()
            .map(|context| context_hash(&context.resource, &context.scope))
            .collect();
        Self { source, encoded, contexts, context_hashes, traces, spans }
    }
}

fn slice(bytes: &[u8], offset: u32, length: u32) -> &[u8] {
    let start = offset as usize;
    bytes.get(start..start.saturating_add(length as usize)).unwrap_or(&[])
}

fn context(encoded: &Bytes, ranges: (usize, usize, usize, usize)) -> ScopeContext {
    let (resource_start, resource_end, scope_start, scope_end) = ranges;
    let resource = encoded.slice(resource_start..resource_end);
    let service = service_name(&resource).ok().flatten();
    let service = service.unwrap_or(trace_model::span::UNKNOWN_SERVICE).into();
    ScopeContext { resource, scope: encoded.slice(scope_start..scope_end), service }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    const fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.all.get(self.at).ok_or(WireError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let rest = self.all.get(self.at..).ok_or(WireError::Truncated)?;
        let (value, after) = read_varint(rest)?;
        self.at += rest.len() - after.len();
        Ok(value)
    }

    fn varint_u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?).map_err(|_| WireError::Truncated)
    }

    /// The range of the next `length` bytes.
    fn range(&mut self, length: usize) -> Result<(usize, usize), WireError> {
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        if end > self.all.len() {
            return Err(WireError::Truncated);
        }
        let start = self.at;
        self.at = end;
        Ok((start, end))
    }

    fn sized_range(&mut self) -> Result<(usize, usize), WireError> {
        let length = self.varint_u32()?;
        self.range(length as usize)
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        let (start, end) = self.sized_range()?;
        let bytes = self.all.get(start..end).ok_or(WireError::Truncated)?;
        std::str::from_utf8(bytes).map_err(|_| WireError::NotUtf8)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (start, end) = self.range(N)?;
        let bytes = self.all.get(start..end).ok_or(WireError::Truncated)?;
        <[u8; N]>::try_from(bytes).map_err(|_| WireError::Truncated)
    }

    /// A count of items that take at least `bytes_min` each.
    fn count(&mut self, bytes_min: usize) -> Result<usize, WireError> {
        let count = self.varint_u32()? as usize;
        if count.saturating_mul(bytes_min) > self.remaining() {
            return Err(WireError::Truncated);
        }
        Ok(count)
    }
}

fn read_source(reader: &mut Reader<'_>) -> Result<BatchSource, InvalidBatch> {
    Ok(BatchSource {
        tenant: TenantId::new(reader.text()?)?,
        region: Region::new(reader.text()?)?,
        collector: reader.text()?.into(),
        receive_time: UnixNanos(u64::from_le_bytes(reader.array()?)),
        digest: u64::from_le_bytes(reader.array()?),
    })
}

fn read_contexts(
    reader: &mut Reader<'_>,
) -> Result<Vec<(usize, usize, usize, usize)>, InvalidBatch> {
    let count = reader.count(1)?;
    let mut resources = Vec::with_capacity(count);
    for _ in 0..count {
        resources.push(reader.sized_range()?);
    }
    let count = reader.count(2)?;
    let mut contexts = Vec::with_capacity(count);
    for _ in 0..count {
        let resource = reader.varint_u32()? as usize;
        let (start, end) = *resources.get(resource).ok_or(WireError::Truncated)?;
        let (scope_start, scope_end) = reader.sized_range()?;
        contexts.push((start, end, scope_start, scope_end));
    }
    Ok(contexts)
}

fn read_traces(reader: &mut Reader<'_>) -> Result<Vec<TraceSlice>, InvalidBatch> {
    let count = reader.count(18)?;
    let mut traces = Vec::with_capacity(count);
    let mut first_span = 0_u32;
    for _ in 0..count {
        let trace_id = TraceId::from_bytes(reader.array()?)?;
        let threshold = Threshold::from_bits(reader.varint()?);
        let span_count = reader.varint_u32()?;
        traces.push(TraceSlice { trace_id, threshold, first_span, span_count });
        first_span = first_span.checked_add(span_count).ok_or(WireError::Truncated)?;
    }
    if first_span as usize > reader.remaining() {
        return Err(WireError::Truncated.into());
    }
    Ok(traces)
}

fn read_span(reader: &mut Reader<'_>, contexts: usize) -> Result<SpanSlice, InvalidBatch> {
    let scope = reader.varint_u32()?;
    if scope as usize >= contexts {
        return Err(WireError::Truncated.into());
    }
    let (start, end) = reader.sized_range()?;
    let bytes = reader.all.get(start..end).ok_or(WireError::Truncated)?;
    span_slice(scope, start, bytes, &SpanHeader::read(bytes)?)
}

/// The slice of a span whose bytes start at `offset` of the encoded form.
fn span_slice(
    scope: u32,
    offset: usize,
    bytes: &[u8],
    header: &SpanHeader<'_>,
) -> Result<SpanSlice, InvalidBatch> {
    // `name` is a part of `bytes`: its place is the distance of the two starts.
    let name_in_span = (header.name.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    let name_in_span = if header.name.is_empty() { 0 } else { name_in_span };
    let short = |length: usize| u32::try_from(length).map_err(|_| WireError::Truncated);
    Ok(SpanSlice {
        scope,
        offset: short(offset)?,
        length: short(bytes.len())?,
        name_offset: short(offset.saturating_add(name_in_span))?,
        name_length: short(header.name.len())?,
        span_id: SpanId::try_from(header.span_id)?,
        parent_span_id: SpanId::try_from(header.parent_span_id).ok(),
        start: UnixNanos(header.start),
        end: UnixNanos(header.end),
        kind: header.kind,
        status: header.status,
    })
}

/// Cuts a batch out of a request: borrows the request, copies each span once, in `finish`.
#[derive(Debug)]
pub struct SpanBatchBuilder<'a> {
    resources: Vec<Vec<u8>>,
    scopes: Vec<(u32, Vec<u8>)>,
    traces: Vec<PendingTrace>,
    by_id: rustc_hash::FxHashMap<TraceId, u32>,
    spans: Vec<PendingSpan<'a>>,
    span_bytes: usize,
}

#[derive(Debug)]
struct PendingTrace {
    trace_id: TraceId,
    threshold: Threshold,
    span_count: u32,
}

#[derive(Clone, Copy, Debug)]
struct PendingSpan<'a> {
    trace: u32,
    scope: u32,
    bytes: &'a [u8],
    header: Option<SpanHeader<'a>>,
}

impl Default for SpanBatchBuilder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> SpanBatchBuilder<'a> {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            resources: Vec::new(),
            scopes: Vec::new(),
            traces: Vec::new(),
            by_id: rustc_hash::FxHashMap::default(),
            spans: Vec::new(),
            span_bytes: 0,
        }
    }

    /// An empty batch with room for so many spans.
    #[must_use]
    pub fn with_capacity(spans: usize) -> Self {
        Self { spans: Vec::with_capacity(spans), ..Self::new() }
    }

    /// Adds a resource frame (`ResourceSpans` without `scope_spans`); gives its place.
    pub fn add_resource(&mut self, frame: Vec<u8>) -> u32 {
        self.resources.push(frame);
        place_of_last(self.resources.len())
    }

    /// Adds a scope frame (`ScopeSpans` without `spans`) of a resource; gives its place.
    pub fn add_scope(&mut self, resource: u32, frame: Vec<u8>) -> u32 {
        self.scopes.push((resource, frame));
        place_of_last(self.scopes.len())
    }

    /// Adds a span that was validated: its ids are good and its bytes are a message.
    pub fn add_span(
        &mut self,
        trace_id: TraceId,
        threshold: Threshold,
        scope: u32,
        span: &'a [u8],
    ) {
        self.add(trace_id, threshold, PendingSpan { trace: 0, scope, bytes: span, header: None });
    }

    /// The same, of a span whose header was read from these bytes: it is not walked again.
    pub fn add_read_span(
        &mut self,
        trace_id: TraceId,
        threshold: Threshold,
        scope: u32,
        span: &'a [u8],
        header: SpanHeader<'a>,
    ) {
        let header = Some(header);
        self.add(trace_id, threshold, PendingSpan { trace: 0, scope, bytes: span, header });
    }

    fn add(&mut self, trace_id: TraceId, threshold: Threshold, span: PendingSpan<'a>) {
        let next = place_of_last(self.traces.len() + 1);
        let trace = *self.by_id.entry(trace_id).or_insert(next);
        if trace == next {
            self.traces.push(PendingTrace { trace_id, threshold, span_count: 0 });
        }
        if let Some(pending) = self.traces.get_mut(trace as usize) {
            pending.span_count += 1;
        }
        self.span_bytes += span.bytes.len();
        self.spans.push(PendingSpan { trace, ..span });
    }

    /// Spans added so far.
    #[must_use]
    pub fn span_count(&self) -> usize {
        self.spans.len()
    }

    /// Writes the encoded form and gives the batch. Fails only on spans that were not validated.
    pub fn finish(self, source: BatchSource) -> Result<SpanBatch, InvalidBatch> {
        let frames: usize = self.resources.iter().map(Vec::len).sum::<usize>()
            + self.scopes.iter().map(|(_, frame)| frame.len()).sum::<usize>();
        let fixed = 256 + source.collector.len() + 8 * (self.resources.len() + self.scopes.len());
        let capacity =
            fixed + frames + self.traces.len() * 32 + self.span_bytes + self.spans.len() * 6;
        let mut output = Vec::with_capacity(capacity);
        put_source(&mut output, &source);
        let contexts = self.put_contexts(&mut output)?;
        let (traces, starts) = self.put_traces(&mut output);
        let order = order_by_trace(&self.spans, starts);
        let mut spans = Vec::with_capacity(self.spans.len());
        for place in order {
            let Some(pending) = self.spans.get(place as usize) else { continue };
            put_varint(&mut output, u64::from(pending.scope));
            put_varint(&mut output, pending.bytes.len() as u64);
            let header = match pending.header {
                Some(header) => header,
                None => SpanHeader::read(pending.bytes)?,
            };
            spans.push(span_slice(pending.scope, output.len(), pending.bytes, &header)?);
            output.extend_from_slice(pending.bytes);
        }
        Ok(SpanBatch::from_parts(source, Bytes::from(output), contexts, traces, spans))
    }

    fn put_contexts(
        &self,
        output: &mut Vec<u8>,
    ) -> Result<Vec<(usize, usize, usize, usize)>, InvalidBatch> {
        let mut resources = Vec::with_capacity(self.resources.len());
        put_varint(output, self.resources.len() as u64);
        for frame in &self.resources {
            resources.push(put_sized(output, frame));
        }
        let mut contexts = Vec::with_capacity(self.scopes.len());
        put_varint(output, self.scopes.len() as u64);
        for (resource, frame) in &self.scopes {
            put_varint(output, u64::from(*resource));
            let (start, end) = *resources.get(*resource as usize).ok_or(WireError::Truncated)?;
            let (scope_start, scope_end) = put_sized(output, frame);
            contexts.push((start, end, scope_start, scope_end));
        }
        Ok(contexts)
    }

    /// Writes the trace table; gives it and where each trace's spans start.
    fn put_traces(&self, output: &mut Vec<u8>) -> (Vec<TraceSlice>, Vec<u32>) {
        let mut traces = Vec::with_capacity(self.traces.len());
        let mut starts = Vec::with_capacity(self.traces.len());
        let mut first_span = 0;
        put_varint(output, self.traces.len() as u64);
        for pending in &self.traces {
            let PendingTrace { trace_id, threshold, span_count } = *pending;
            output.extend_from_slice(trace_id.as_bytes());
            put_varint(output, threshold.to_bits());
            put_varint(output, u64::from(span_count));
            traces.push(TraceSlice { trace_id, threshold, first_span, span_count });
            starts.push(first_span);
            first_span += span_count;
        }
        (traces, starts)
    }
}

/// A counting sort: places of the spans, trace by trace, in the order added.
fn order_by_trace(spans: &[PendingSpan<'_>], mut starts: Vec<u32>) -> Vec<u32> {
    let mut order = vec![0_u32; spans.len()];
    for (place, span) in (0_u32..).zip(spans) {
        let Some(start) = starts.get_mut(span.trace as usize) else { continue };
        if let Some(slot) = order.get_mut(*start as usize) {
            *slot = place;
        }
        *start += 1;
    }
    order
}

fn place_of_last(length: usize) -> u32 {
    u32::try_from(length.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn put_source(output: &mut Vec<u8>, source: &BatchSource) {
    output.push(VERSION);
    for text in [source.tenant.as_str(), source.region.as_str(), &source.collector] {
        put_sized(output, text.as_bytes());
    }
    output.extend_from_slice(&source.receive_time.0.to_le_bytes());
    output.extend_from_slice(&source.digest.to_le_bytes());
}

/// Writes length and bytes; gives the range of the bytes.
fn put_sized(output: &mut Vec<u8>, bytes: &[u8]) -> (usize, usize) {
    put_varint(output, bytes.len() as u64);
    let start = output.len();
    output.extend_from_slice(bytes);
    (start, output.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> BatchSource {
        BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c1".into(),
            receive_time: UnixNanos(5),
            digest: 77,
        }
    }

    /// A span message with these ids and a name.
    fn span(trace: u8, id: u8, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        crate::wire::put_bytes_field(&mut bytes, 1, &[trace; 16]);
        crate::wire::put_bytes_field(&mut bytes, 2, &[id; 8]);
        crate::wire::put_bytes_field(&mut bytes, 5, name.as_bytes());
        bytes
    }

    fn batch(rows: &[(u8, u8)]) -> (SpanBatch, Vec<Vec<u8>>) {
        let spans: Vec<_> = rows.iter().map(|(trace, id)| span(*trace, *id, "op")).collect();
        let mut builder = SpanBatchBuilder::new();
        let resource = builder.add_resource(vec![]);
        let scope = builder.add_scope(resource, vec![]);
        for ((trace, _), bytes) in rows.iter().zip(&spans) {
            let trace_id = TraceId::from_bytes([*trace; 16]).unwrap();
            builder.add_span(trace_id, Threshold::KEEP_ALL, scope, bytes);
        }
        (builder.finish(source()).unwrap(), spans)
    }

    #[test]
    fn a_span_whose_header_was_read_is_the_same_as_one_that_is_walked() {
        let (walked, spans) = batch(&[(1, 1), (2, 2), (1, 3)]);
        let mut builder = SpanBatchBuilder::new();
        let resource = builder.add_resource(vec![]);
        let scope = builder.add_scope(resource, vec![]);
        for bytes in &spans {
            let header = SpanHeader::read(bytes).unwrap();
            let trace_id = TraceId::try_from(header.trace_id).unwrap();
            builder.add_read_span(trace_id, Threshold::KEEP_ALL, scope, bytes, header);
        }
        let read = builder.finish(source()).unwrap();
        assert_eq!(read.encoded(), walked.encoded());
        assert_eq!(read.spans(), walked.spans());
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_it_was_built(
            rows in proptest::collection::vec((1_u8..5, 1_u8..250), 0..60)
        ) {
            let (built, spans) = batch(&rows);
            let read = SpanBatch::decode(built.encoded().clone()).unwrap();
            prop_assert_eq!(read.traces(), built.traces());
            prop_assert_eq!(read.spans(), built.spans());
            prop_assert_eq!(read.source(), built.source());
            let mut found: Vec<_> = read.spans().iter().map(|span| read.bytes_of(span).to_vec()).collect();
            let mut sent = spans;
            found.sort();
            sent.sort();
            prop_assert_eq!(found, sent);
            for trace in read.traces() {
                for span in read.spans_of(trace) {
                    prop_assert_eq!(read.bytes_of(span)[2..18].to_vec(), trace.trace_id.as_bytes().to_vec());
                    prop_assert_eq!(read.name_of(span), "op");
                }
            }
        }

        #[test]
        fn any_bytes_are_a_batch_or_an_error(
            noise in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..400, flip in 0_usize..400
        ) {
            drop(SpanBatch::decode(Bytes::from(noise)));
            let (built, _) = batch(&[(1, 1), (2, 2), (1, 3)]);
            let mut bytes = built.encoded().to_vec();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 0x5a;
            }
            drop(SpanBatch::decode(Bytes::from(bytes)));
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let error = SpanBatch::decode(Bytes::from_static(&[9])).unwrap_err();
        assert_eq!(error, InvalidBatch::Version(9));
    }
}
