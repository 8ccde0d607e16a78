//! Cuts a batch out of a request and writes its encoded form: each span is copied once.

use bytes::Bytes;
use trace_model::TraceId;
use trace_model::sampling_threshold::Threshold;

use super::{
    BatchSource, ContextRange, InvalidBatch, KnownContexts, SpanBatch, TraceSlice, VERSION,
    span_slice,
};
use crate::wire::{SpanHeader, WireError, put_varint};

/// Cuts a batch out of a request: borrows the request, copies each span once, in `finish`.
#[derive(Debug)]
pub struct SpanBatchBuilder<'a> {
    resources: Vec<Vec<u8>>,
    scopes: Vec<(u32, Vec<u8>)>,
    traces: Vec<PendingTrace>,
    /// Of more than one trace: a record of the log has one alone.
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

    /// Adds a record without spans: its place is kept, its trace was erased.
    pub(super) fn add_erased(&mut self, trace_id: TraceId, threshold: Threshold) {
        self.place_of(trace_id, threshold);
    }

    /// The place of a trace, which is a new one where it is not known.
    fn place_of(&mut self, trace_id: TraceId, threshold: Threshold) -> u32 {
        let next = place_of_last(self.traces.len() + 1);
        if let Some(first) = self.traces.first() {
            if self.by_id.is_empty() {
                self.by_id.insert(first.trace_id, 0);
            }
            let place = *self.by_id.entry(trace_id).or_insert(next);
            if place != next {
                return place;
            }
        }
        self.traces.push(PendingTrace { trace_id, threshold, span_count: 0 });
        next
    }

    fn add(&mut self, trace_id: TraceId, threshold: Threshold, span: PendingSpan<'a>) {
        let is_first = self.traces.len() == 1
            && self.traces.first().is_some_and(|first| first.trace_id == trace_id);
        let trace = if is_first { 0 } else { self.place_of(trace_id, threshold) };
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
        self.finish_with(source, None)
    }

    /// The same, with contexts that batches before it had.
    pub fn finish_knowing(
        self,
        source: BatchSource,
        known: &mut KnownContexts,
    ) -> Result<SpanBatch, InvalidBatch> {
        self.finish_with(source, Some(known))
    }

    fn finish_with(
        self,
        source: BatchSource,
        known: Option<&mut KnownContexts>,
    ) -> Result<SpanBatch, InvalidBatch> {
        let frames: usize = self.resources.iter().map(Vec::len).sum::<usize>()
            + self.scopes.iter().map(|(_, frame)| frame.len()).sum::<usize>();
        let fixed = 256 + source.collector.len() + 8 * (self.resources.len() + self.scopes.len());
        let capacity =
            fixed + frames + self.traces.len() * 32 + self.span_bytes + self.spans.len() * 6;
        let mut output = Vec::with_capacity(capacity);
        put_source(&mut output, &source);
        let contexts = self.put_contexts(&mut output)?;
        let (traces, starts) = self.put_traces(&mut output);
        // The spans of one trace are in order.
        let order = (traces.len() > 1).then(|| order_by_trace(&self.spans, starts));
        let mut spans = Vec::with_capacity(self.spans.len());
        for place in 0..self.spans.len() {
            let place = order
                .as_ref()
                .map_or(Some(place), |order| order.get(place).map(|place| *place as usize));
            let Some(pending) = place.and_then(|place| self.spans.get(place)) else { continue };
            put_varint(&mut output, u64::from(pending.scope));
            put_varint(&mut output, pending.bytes.len() as u64);
            let header = match pending.header {
                Some(header) => header,
                None => SpanHeader::read(pending.bytes)?,
            };
            spans.push(span_slice(pending.scope, output.len(), pending.bytes, &header)?);
            output.extend_from_slice(pending.bytes);
        }
        let encoded = Bytes::from(output);
        Ok(SpanBatch::from_parts(source, encoded, (&contexts, known), traces, spans))
    }

    fn put_contexts(&self, output: &mut Vec<u8>) -> Result<Vec<ContextRange>, InvalidBatch> {
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
