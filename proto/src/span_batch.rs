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

mod build;
mod contexts;
mod decode;
mod erase;

use std::sync::Arc;

use bytes::Bytes;
use trace_model::ids::InvalidId;
use trace_model::merge::{Envelope, content_hash_in};
use trace_model::names::InvalidName;
use trace_model::sampling_threshold::Threshold;
use trace_model::{
    Region, ScopeContext, SpanId, SpanKey, StoredSpan, TenantId, TraceId, UnixNanos,
};

pub use self::build::SpanBatchBuilder;
pub use self::contexts::KnownContexts;
use self::contexts::contexts_at;
use crate::wire::{SpanHeader, WireError};

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
    /// How many spans follow; none where they were erased.
    pub span_count: u32,
}

impl TraceSlice {
    /// Whether its spans were erased: only the place is left, under an id that names nothing.
    #[must_use]
    pub const fn is_erased(&self) -> bool {
        self.span_count == 0
    }
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

/// Where a context stands in the encoded form: start and end of the resource frame, then of the
/// scope frame.
type ContextRange = (usize, usize, usize, usize);

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

    /// The hash of each of [`Self::contexts`] ([`trace_model::merge::context_hash`]).
    #[must_use]
    pub fn context_hashes(&self) -> &[u64] {
        &self.context_hashes
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

    fn from_parts(
        source: BatchSource,
        encoded: Bytes,
        (contexts, known): (&[ContextRange], Option<&mut KnownContexts>),
        traces: Vec<TraceSlice>,
        spans: Vec<SpanSlice>,
    ) -> Self {
        let (contexts, context_hashes) = contexts_at(&encoded, contexts, known);
        Self { source, encoded, contexts, context_hashes, traces, spans }
    }
}

fn slice(bytes: &[u8], offset: u32, length: u32) -> &[u8] {
    let start = offset as usize;
    bytes.get(start..start.saturating_add(length as usize)).unwrap_or(&[])
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

#[cfg(test)]
mod tests;
