//! What of OTLP's trace messages is read on the hot path: field numbers, the header of a span, the
//! service of a resource. Borrowed from the input, never judged here.
//! Source: `opentelemetry/proto/trace/v1/trace.proto`, `opentelemetry/proto/common/v1/common.proto`.

use super::{WireError, fields};

/// OTLP field numbers that the walk reads.
pub mod tags {
    /// `ExportTraceServiceRequest.resource_spans`, also `TracesData.resource_spans`.
    pub const REQUEST_RESOURCE_SPANS: u32 = 1;
    /// `ResourceSpans.resource`.
    pub const RESOURCE_SPANS_RESOURCE: u32 = 1;
    /// `ResourceSpans.scope_spans`.
    pub const RESOURCE_SPANS_SCOPE_SPANS: u32 = 2;
    /// `ResourceSpans.schema_url`.
    pub const RESOURCE_SPANS_SCHEMA_URL: u32 = 3;
    /// `ScopeSpans.scope`.
    pub const SCOPE_SPANS_SCOPE: u32 = 1;
    /// `ScopeSpans.spans`.
    pub const SCOPE_SPANS_SPANS: u32 = 2;
    /// `ScopeSpans.schema_url`.
    pub const SCOPE_SPANS_SCHEMA_URL: u32 = 3;
    /// `Resource.attributes`.
    pub const RESOURCE_ATTRIBUTES: u32 = 1;
    /// `KeyValue.key`.
    pub const KEY_VALUE_KEY: u32 = 1;
    /// `KeyValue.value`.
    pub const KEY_VALUE_VALUE: u32 = 2;
    /// `AnyValue.string_value`.
    pub const ANY_STRING: u32 = 1;
    /// `AnyValue.bool_value`.
    pub const ANY_BOOL: u32 = 2;
    /// `AnyValue.int_value`.
    pub const ANY_INT: u32 = 3;
    /// `AnyValue.double_value`.
    pub const ANY_DOUBLE: u32 = 4;
    /// `AnyValue.array_value`.
    pub const ANY_ARRAY: u32 = 5;
    /// `AnyValue.kvlist_value`.
    pub const ANY_KVLIST: u32 = 6;
    /// `AnyValue.bytes_value`.
    pub const ANY_BYTES: u32 = 7;
    /// `Span.trace_id`.
    pub const SPAN_TRACE_ID: u32 = 1;
    /// `Span.span_id`.
    pub const SPAN_SPAN_ID: u32 = 2;
    /// `Span.trace_state`.
    pub const SPAN_TRACE_STATE: u32 = 3;
    /// `Span.parent_span_id`.
    pub const SPAN_PARENT_SPAN_ID: u32 = 4;
    /// `Span.name`.
    pub const SPAN_NAME: u32 = 5;
    /// `Span.kind`.
    pub const SPAN_KIND: u32 = 6;
    /// `Span.start_time_unix_nano`.
    pub const SPAN_START: u32 = 7;
    /// `Span.end_time_unix_nano`.
    pub const SPAN_END: u32 = 8;
    /// `Span.attributes`.
    pub const SPAN_ATTRIBUTES: u32 = 9;
    /// `Span.dropped_attributes_count`.
    pub const SPAN_DROPPED_ATTRIBUTES: u32 = 10;
    /// `Span.events`.
    pub const SPAN_EVENTS: u32 = 11;
    /// `Span.dropped_events_count`.
    pub const SPAN_DROPPED_EVENTS: u32 = 12;
    /// `Span.links`.
    pub const SPAN_LINKS: u32 = 13;
    /// `Span.dropped_links_count`.
    pub const SPAN_DROPPED_LINKS: u32 = 14;
    /// `Span.status`.
    pub const SPAN_STATUS: u32 = 15;
    /// `Span.flags`.
    pub const SPAN_FLAGS: u32 = 16;
    /// `Event.time_unix_nano`.
    pub const EVENT_TIME: u32 = 1;
    /// `Event.name`.
    pub const EVENT_NAME: u32 = 2;
    /// `Event.attributes`.
    pub const EVENT_ATTRIBUTES: u32 = 3;
    /// `Link.trace_id`.
    pub const LINK_TRACE_ID: u32 = 1;
    /// `Link.span_id`.
    pub const LINK_SPAN_ID: u32 = 2;
    /// `Link.trace_state`.
    pub const LINK_TRACE_STATE: u32 = 3;
    /// `Link.attributes`.
    pub const LINK_ATTRIBUTES: u32 = 4;
    /// `Status.message`.
    pub const STATUS_MESSAGE: u32 = 2;
    /// `Status.code`.
    pub const STATUS_CODE: u32 = 3;
}

/// The fields of a span that the hot path reads, borrowed from its bytes. Ids are not judged here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanHeader<'a> {
    /// `trace_id` as sent.
    pub trace_id: &'a [u8],
    /// `span_id` as sent.
    pub span_id: &'a [u8],
    /// `parent_span_id` as sent; empty for a root.
    pub parent_span_id: &'a [u8],
    /// `name` as sent.
    pub name: &'a [u8],
    /// `kind`, 0 where it is out of range.
    pub kind: u8,
    /// `status.code`, 0 where it is out of range.
    pub status: u8,
    /// `start_time_unix_nano`.
    pub start: u64,
    /// `end_time_unix_nano`.
    pub end: u64,
    /// `flags`.
    pub flags: u32,
}

impl<'a> SpanHeader<'a> {
    /// Walks a span once. Of a scalar field that is repeated the last one counts, as proto3 asks.
    #[inline]
    pub fn read(span: &'a [u8]) -> Result<Self, WireError> {
        let mut header = Self::default();
        for field in fields(span) {
            let field = field?;
            match field.number {
                tags::SPAN_TRACE_ID => header.trace_id = field.value.bytes()?,
                tags::SPAN_SPAN_ID => header.span_id = field.value.bytes()?,
                tags::SPAN_PARENT_SPAN_ID => header.parent_span_id = field.value.bytes()?,
                tags::SPAN_NAME => header.name = field.value.bytes()?,
                tags::SPAN_KIND => header.kind = Self::kind_of(field.value.varint()?),
                tags::SPAN_START => header.start = field.value.fixed64()?,
                tags::SPAN_END => header.end = field.value.fixed64()?,
                tags::SPAN_STATUS => header.status = status_code(field.value.bytes()?)?,
                tags::SPAN_FLAGS => header.flags = field.value.fixed32()?,
                _ => {}
            }
        }
        Ok(header)
    }

    /// The kind of a number on the wire: 0 where it is out of range.
    #[inline]
    #[must_use]
    pub fn kind_of(number: u64) -> u8 {
        small(number, 5)
    }

    /// The status code of a number on the wire: 0 where it is out of range.
    #[inline]
    #[must_use]
    pub fn status_of(number: u64) -> u8 {
        small(number, 2)
    }
}

/// A small enumeration; what lies outside is 0.
fn small(value: u64, max: u8) -> u8 {
    u8::try_from(value).ok().filter(|value| *value <= max).unwrap_or(0)
}

fn status_code(status: &[u8]) -> Result<u8, WireError> {
    let mut code = 0;
    for field in fields(status) {
        let field = field?;
        if field.number == tags::STATUS_CODE {
            code = SpanHeader::status_of(field.value.varint()?);
        }
    }
    Ok(code)
}

/// `service.name` of a resource frame (`ResourceSpans` without `scope_spans`), as sent; `None` where
/// it is absent, empty or not text. Of several the last counts.
pub fn service_name(resource_frame: &[u8]) -> Result<Option<&str>, WireError> {
    let mut found = None;
    for field in fields(resource_frame) {
        let field = field?;
        if field.number != tags::RESOURCE_SPANS_RESOURCE {
            continue;
        }
        for attribute in fields(field.value.bytes()?) {
            let attribute = attribute?;
            if attribute.number == tags::RESOURCE_ATTRIBUTES
                && let Some(name) = service_name_of(attribute.value.bytes()?)?
            {
                found = Some(name);
            }
        }
    }
    Ok(found)
}

fn service_name_of(key_value: &[u8]) -> Result<Option<&str>, WireError> {
    let (mut is_service, mut name) = (false, None);
    for field in fields(key_value) {
        let field = field?;
        match field.number {
            tags::KEY_VALUE_KEY => is_service = field.value.bytes()? == b"service.name",
            tags::KEY_VALUE_VALUE => name = string_of(field.value.bytes()?)?,
            _ => {}
        }
    }
    Ok(name.filter(|name| is_service && !name.is_empty()))
}

/// The text of an `AnyValue`, where it is one.
pub fn string_of(any_value: &[u8]) -> Result<Option<&str>, WireError> {
    let mut text = None;
    for field in fields(any_value) {
        let field = field?;
        text = if field.number == tags::ANY_STRING { Some(field.value.text()?) } else { None };
    }
    Ok(text)
}
