//! The first stage: is this an export request, and which of its spans are good.
//!
//! One shallow walk counts what the request holds, before anything is allocated for it; one deep
//! walk judges the spans. Spans and contexts stay slices of the body.

use proto::wire::{FieldRef, SpanHeader, WireError, fields, tags};
use trace_model::{SpanId, TraceId};

use crate::config::SpanLimits;
use crate::deep_check::{check_resource_frame, check_scope_frame, check_span};
use crate::error::ExportError;
use crate::receipt::{RejectReason, Rejections};

/// `ResourceSpans.deprecated_instrumentation_library_spans`: senders of before 2022 put their spans
/// there. Its message has the layout of `ScopeSpans`, so it is read as one.
const LIBRARY_SPANS: u32 = 1000;

/// A request whose spans were judged.
#[derive(Debug)]
pub struct Validated<'a> {
    /// Frames of the resources that have good spans: `ResourceSpans` without scopes.
    pub resources: Vec<Vec<u8>>,
    /// Place of the resource, and frame, of each scope that has good spans.
    pub scopes: Vec<(u32, Vec<u8>)>,
    /// The good spans.
    pub spans: Vec<ValidSpan<'a>>,
    /// The others.
    pub rejected: Rejections,
}

/// A span that passed the deep check.
#[derive(Clone, Copy, Debug)]
pub struct ValidSpan<'a> {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its header fields.
    pub header: SpanHeader<'a>,
    /// Place of its scope in [`Validated::scopes`].
    pub scope: u32,
    /// Its bytes as sent.
    pub bytes: &'a [u8],
}

/// Judges the spans of a request (`ExportTraceServiceRequest`).
pub fn validate<'a>(body: &'a [u8], limits: &SpanLimits) -> Result<Validated<'a>, ExportError> {
    let spans = count_spans(body, limits)?;
    let mut walk = Walk {
        limits,
        validated: Validated {
            resources: Vec::new(),
            scopes: Vec::new(),
            spans: Vec::with_capacity(spans),
            rejected: Rejections::default(),
        },
    };
    for field in fields(body) {
        let field = field?;
        if field.number == tags::REQUEST_RESOURCE_SPANS {
            walk.resource_spans(field.value.bytes()?)?;
        }
    }
    Ok(walk.validated)
}

/// Counts the spans on the wire, down to their lengths only; refuses what holds too much and what
/// is not framed as an export request. Allocates nothing.
pub fn count_spans(body: &[u8], limits: &SpanLimits) -> Result<usize, ExportError> {
    let (mut resources, mut scopes, mut spans) = (0_usize, 0_usize, 0_usize);
    for resource in fields(body) {
        let resource = resource?;
        if resource.number != tags::REQUEST_RESOURCE_SPANS {
            continue;
        }
        resources += 1;
        for scope in fields(resource.value.bytes()?) {
            let scope = scope?;
            if !is_scope_spans(&scope) {
                continue;
            }
            scopes += 1;
            for span in fields(scope.value.bytes()?) {
                spans += usize::from(is_span(&span?)?);
            }
        }
        if resources.max(scopes).max(spans) > limits.spans_max {
            return Err(ExportError::TooManySpans { spans_max: limits.spans_max });
        }
    }
    Ok(spans)
}

fn is_scope_spans(field: &FieldRef<'_>) -> bool {
    matches!(field.number, tags::RESOURCE_SPANS_SCOPE_SPANS | LIBRARY_SPANS)
}

fn is_span(field: &FieldRef<'_>) -> Result<bool, WireError> {
    if field.number != tags::SCOPE_SPANS_SPANS {
        return Ok(false);
    }
    field.value.bytes().map(|_| true)
}

struct Walk<'a, 'l> {
    limits: &'l SpanLimits,
    validated: Validated<'a>,
}

impl<'a> Walk<'a, '_> {
    fn resource_spans(&mut self, resource_spans: &'a [u8]) -> Result<(), WireError> {
        let frame = frame_without(resource_spans, is_scope_spans)?;
        let is_good = check_resource_frame(&frame, self.limits).is_ok();
        let mut resource = Context { bytes: frame.len(), frame, place: None, is_good };
        for field in fields(resource_spans) {
            let field = field?;
            if is_scope_spans(&field) {
                self.scope_spans(field.value.bytes()?, &mut resource)?;
            }
        }
        Ok(())
    }

    fn scope_spans(
        &mut self,
        scope_spans: &'a [u8],
        resource: &mut Context,
    ) -> Result<(), WireError> {
        let frame = frame_without(scope_spans, |field| field.number == tags::SCOPE_SPANS_SPANS)?;
        let is_good = resource.is_good && check_scope_frame(&frame, self.limits).is_ok();
        let bytes = resource.bytes.saturating_add(frame.len());
        let mut scope = Context { bytes, frame, place: None, is_good };
        for field in fields(scope_spans) {
            let field = field?;
            if field.number == tags::SCOPE_SPANS_SPANS {
                self.span(field.value.bytes()?, resource, &mut scope);
            }
        }
        Ok(())
    }

    #[inline]
    fn span(&mut self, bytes: &'a [u8], resource: &mut Context, scope: &mut Context) {
        match self.judge_within(bytes, scope) {
            Ok(span) => {
                let scope = self.place_of(scope, resource);
                self.validated.spans.push(ValidSpan { scope, ..span });
            }
            Err(reason) => self.validated.rejected.add(reason, 1),
        }
    }

    #[inline]
    fn judge_within(
        &self,
        bytes: &'a [u8],
        scope: &Context,
    ) -> Result<ValidSpan<'a>, RejectReason> {
        if !scope.is_good {
            return Err(RejectReason::BadContext);
        }
        if scope.bytes.saturating_add(bytes.len()) > self.limits.span_bytes_max {
            return Err(RejectReason::SpanTooLarge);
        }
        judge(bytes, self.limits)
    }

    /// The place of a scope, which it and its resource get with their first good span: contexts
    /// without spans cost nothing.
    #[inline]
    fn place_of(&mut self, scope: &mut Context, resource: &mut Context) -> u32 {
        if let Some(place) = scope.place {
            return place;
        }
        let validated = &mut self.validated;
        let resource_place = *resource.place.get_or_insert_with(|| {
            validated.resources.push(std::mem::take(&mut resource.frame));
            last_place(validated.resources.len())
        });
        validated.scopes.push((resource_place, std::mem::take(&mut scope.frame)));
        *scope.place.insert(last_place(validated.scopes.len()))
    }
}

/// A resource or a scope on the way.
struct Context {
    frame: Vec<u8>,
    /// Of its frame, and of those around it.
    bytes: usize,
    place: Option<u32>,
    is_good: bool,
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

/// Judges one span. Its scope is filled in by the caller.
#[inline]
fn judge<'a>(bytes: &'a [u8], limits: &SpanLimits) -> Result<ValidSpan<'a>, RejectReason> {
    let header = check_span(bytes, limits)?;
    let trace_id = TraceId::try_from(header.trace_id).map_err(|_| RejectReason::BadTraceId)?;
    SpanId::try_from(header.span_id).map_err(|_| RejectReason::BadSpanId)?;
    Ok(ValidSpan { trace_id, header, scope: 0, bytes })
}

/// Counts are bounded by [`SpanLimits::spans_max`] long before they could not be said.
fn last_place(length: usize) -> u32 {
    u32::try_from(length.saturating_sub(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
