//! Spans of one trace into frames of bounded size, and frames back into spans.
//!
//! A frame stands alone: its tables of resources, scopes and envelopes are all that its spans point
//! to. Whoever unpacks trusts nothing: indexes are checked, identities are computed again from the
//! bytes, and a frame with a span of another trace is refused whole.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use trace_model::ids::InvalidId;
use trace_model::merge::{Envelope, content_hash_in, context_hash};
use trace_model::names::InvalidName;
use trace_model::span::UNKNOWN_SERVICE;
use trace_model::{Region, ScopeContext, SpanId, SpanKey, StoredSpan, TraceId, UnixNanos};

use super::id_bytes;
use crate::v1;
use crate::wire::{SpanHeader, WireError, service_name};

/// A frame is closed at this size: small enough that a reader sees progress every few seconds even
/// at 64 KiB/s, large enough that tables are shared. A single span may make a larger frame.
pub const FRAME_BYTES_TARGET: usize = 256 << 10;
/// Most spans in a frame, however small.
const FRAME_SPANS_MAX: usize = 4_096;
/// What a span costs in a frame beside its bytes: tags, lengths, indexes.
const SPAN_OVERHEAD_BYTES: usize = 16;

/// Why a frame is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// The frame is about another trace than the one asked for.
    #[error("a frame about another trace")]
    OtherTrace,
    /// A span's own bytes carry another trace id.
    #[error("a span of another trace")]
    OtherTracesSpan,
    /// A span or scope points outside of the frame's tables.
    #[error("an index outside of the frame")]
    Index,
    /// A span, scope or resource is not a message.
    #[error("bytes in a frame that are no message")]
    Structure(#[from] WireError),
    /// An id is not one.
    #[error("an invalid id in a frame")]
    Id(#[from] InvalidId),
    /// A region is not one.
    #[error("an invalid region in a frame")]
    Name(#[from] InvalidName),
}

/// Packs the spans of one trace into frames, one at a time: the next frame is built when it is
/// asked for, so that a slow reader holds no more than one.
pub struct FramePacker<I: Iterator> {
    trace_id: TraceId,
    spans: std::iter::Peekable<std::iter::Fuse<I>>,
}

impl<I: Iterator> std::fmt::Debug for FramePacker<I> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "FramePacker({})", self.trace_id)
    }
}

impl<I: Iterator<Item = StoredSpan>> FramePacker<I> {
    /// Packs these spans.
    pub fn new(trace_id: TraceId, spans: I) -> Self {
        Self { trace_id, spans: spans.fuse().peekable() }
    }
}

impl<I: Iterator<Item = StoredSpan>> Iterator for FramePacker<I> {
    type Item = v1::FindTraceResponse;

    fn next(&mut self) -> Option<Self::Item> {
        let mut frame = FrameTables::default();
        while let Some(span) = self.spans.next_if(|span| frame.has_room_for(span)) {
            frame.add(&span);
        }
        frame.finish(self.trace_id)
    }
}

/// A frame in the making. Tables are keyed by address: spans of one batch share their context and
/// envelope, and equal ones behind different addresses cost a table row and nothing else. What an
/// address stands for is held beside its place, so that no address is used again meanwhile.
#[derive(Default)]
struct FrameTables {
    resources: Vec<Bytes>,
    scopes: Vec<v1::ScopeFrame>,
    envelopes: Vec<v1::EnvelopeFrame>,
    spans: Vec<v1::SpanFrame>,
    resource_places: HashMap<Bytes, u32>,
    scope_places: HashMap<*const ScopeContext, (u32, Arc<ScopeContext>)>,
    envelope_places: HashMap<*const Envelope, (u32, Arc<Envelope>)>,
    bytes: usize,
}

impl FrameTables {
    fn has_room_for(&self, span: &StoredSpan) -> bool {
        let is_first = self.spans.is_empty();
        let grown = self.bytes.saturating_add(span.span.len());
        is_first || (grown < FRAME_BYTES_TARGET && self.spans.len() < FRAME_SPANS_MAX)
    }

    fn add(&mut self, span: &StoredSpan) {
        let scope = self.place_of_scope(&span.context);
        let envelope = self.place_of_envelope(&span.envelope);
        self.bytes += span.span.len() + SPAN_OVERHEAD_BYTES;
        self.spans.push(v1::SpanFrame { scope, envelope, span: span.span.clone() });
    }

    fn place_of_scope(&mut self, context: &Arc<ScopeContext>) -> u32 {
        if let Some((place, _)) = self.scope_places.get(&Arc::as_ptr(context)) {
            return *place;
        }
        let resource = match self.resource_places.get(&context.resource) {
            Some(place) => *place,
            None => {
                let place = place_of_next(self.resources.len());
                self.bytes += context.resource.len() + SPAN_OVERHEAD_BYTES;
                self.resources.push(context.resource.clone());
                self.resource_places.insert(context.resource.clone(), place);
                place
            }
        };
        let place = place_of_next(self.scopes.len());
        self.bytes += context.scope.len() + SPAN_OVERHEAD_BYTES;
        self.scopes.push(v1::ScopeFrame { resource, scope: context.scope.clone() });
        self.scope_places.insert(Arc::as_ptr(context), (place, Arc::clone(context)));
        place
    }

    fn place_of_envelope(&mut self, envelope: &Arc<Envelope>) -> u32 {
        if let Some((place, _)) = self.envelope_places.get(&Arc::as_ptr(envelope)) {
            return *place;
        }
        let place = place_of_next(self.envelopes.len());
        let frame = v1::EnvelopeFrame {
            region: envelope.region.as_str().to_owned(),
            collector: (*envelope.collector).to_owned(),
            receive_time_unix_nano: envelope.receive_time.0,
        };
        self.bytes += frame.region.len() + frame.collector.len() + SPAN_OVERHEAD_BYTES;
        self.envelopes.push(frame);
        self.envelope_places.insert(Arc::as_ptr(envelope), (place, Arc::clone(envelope)));
        place
    }

    fn finish(self, trace_id: TraceId) -> Option<v1::FindTraceResponse> {
        if self.spans.is_empty() {
            return None;
        }
        Some(v1::FindTraceResponse {
            trace_id: id_bytes(trace_id),
            resources: self.resources,
            scopes: self.scopes,
            envelopes: self.envelopes,
            spans: self.spans,
            summary: None,
        })
    }
}

/// The place that the next row of a table gets. Tables hold at most a frame's spans.
fn place_of_next(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The spans of a frame about this trace; the summary is left to the caller.
pub fn unpack_frame(
    frame: v1::FindTraceResponse,
    trace_id: TraceId,
) -> Result<Vec<StoredSpan>, InvalidFrame> {
    if frame.trace_id.as_ref() != trace_id.as_bytes() {
        return Err(InvalidFrame::OtherTrace);
    }
    let contexts = unpack_contexts(&frame.resources, frame.scopes)?;
    let envelopes = unpack_envelopes(frame.envelopes)?;
    let mut spans = Vec::with_capacity(frame.spans.len());
    for span in frame.spans {
        let (context, hash) = at(&contexts, span.scope)?;
        let envelope = at(&envelopes, span.envelope)?;
        spans.push(StoredSpan {
            key: key_of(&span.span, *hash, trace_id)?,
            span: span.span,
            context: Arc::clone(context),
            envelope: Arc::clone(envelope),
        });
    }
    Ok(spans)
}

fn at<T>(table: &[T], place: u32) -> Result<&T, InvalidFrame> {
    usize::try_from(place).ok().and_then(|place| table.get(place)).ok_or(InvalidFrame::Index)
}

/// The identity of a span, from its own bytes.
fn key_of(span: &[u8], context_hash: u64, trace_id: TraceId) -> Result<SpanKey, InvalidFrame> {
    let header = SpanHeader::read(span)?;
    if header.trace_id != trace_id.as_bytes() {
        return Err(InvalidFrame::OtherTracesSpan);
    }
    Ok(SpanKey {
        span_id: SpanId::try_from(header.span_id)?,
        kind: header.kind,
        content: content_hash_in(context_hash, span),
    })
}

fn unpack_contexts(
    resources: &[Bytes],
    scopes: Vec<v1::ScopeFrame>,
) -> Result<Vec<(Arc<ScopeContext>, u64)>, InvalidFrame> {
    let mut services: Vec<Arc<str>> = Vec::with_capacity(resources.len());
    for resource in resources {
        services.push(service_name(resource)?.unwrap_or(UNKNOWN_SERVICE).into());
    }
    let mut contexts = Vec::with_capacity(scopes.len());
    for scope in scopes {
        let resource = at(resources, scope.resource)?;
        let hash = context_hash(resource, &scope.scope);
        let context = ScopeContext {
            resource: resource.clone(),
            scope: scope.scope,
            service: Arc::clone(at(&services, scope.resource)?),
        };
        contexts.push((Arc::new(context), hash));
    }
    Ok(contexts)
}

fn unpack_envelopes(envelopes: Vec<v1::EnvelopeFrame>) -> Result<Vec<Arc<Envelope>>, InvalidFrame> {
    let mut unpacked = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        unpacked.push(Arc::new(Envelope {
            receive_time: UnixNanos(envelope.receive_time_unix_nano),
            region: Region::new(&envelope.region)?,
            collector: envelope.collector.into(),
        }));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests;
