//! A zero-copy walk over protobuf's wire format, and over OTLP's trace messages in particular.
//!
//! Nothing is allocated and nothing is decoded that was not asked for: a field is a number and a
//! slice of the input. Malformed input is an error, never a panic, and no length is trusted before
//! it is checked against what is there.
//! Source: Protocol Buffers, *Encoding*; `opentelemetry/proto/trace/v1/trace.proto`.

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A varint of more than ten bytes.
    #[error("a varint longer than ten bytes")]
    VarintTooLong,
    /// A field number of zero or a wire type that does not exist.
    #[error("a field tag that does not exist")]
    BadTag,
    /// A field has another wire type than its schema says.
    #[error("a field of the wrong wire type")]
    WrongType,
    /// A text is not UTF-8.
    #[error("a string that is not UTF-8")]
    NotUtf8,
    /// Messages are nested too deeply.
    #[error("messages nested too deeply")]
    TooDeep,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire types 3 and 4, deprecated groups: the bytes between the two tags.
    Group(&'a [u8]),
}

/// A field as it stands in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// The field's number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Tag and value as they stand: what is copied when a message is cut apart.
    pub raw: &'a [u8],
}

/// The fields of a message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Deepest nesting of groups that is skipped over.
const GROUP_DEPTH_MAX: usize = 32;

/// The fields of a message.
#[must_use]
pub const fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<FieldRef<'a>, WireError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest;
        match read_field(start) {
            Ok((number, value, rest)) => {
                self.rest = rest;
                let raw = start.get(..start.len().saturating_sub(rest.len())).unwrap_or(start);
                Some(Ok(FieldRef { number, value, raw }))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

#[inline(always)]
fn read_field(input: &[u8]) -> Result<(u32, Value<'_>, &[u8]), WireError> {
    let (tag, rest) = read_varint(input)?;
    let number = field_number(tag)?;
    let (value, rest) = read_value(tag & 7, number, rest)?;
    Ok((number, value, rest))
}

#[inline(always)]
fn field_number(tag: u64) -> Result<u32, WireError> {
    let number = u32::try_from(tag >> 3).map_err(|_| WireError::BadTag)?;
    if number == 0 || number > 0x1fff_ffff {
        return Err(WireError::BadTag);
    }
    Ok(number)
}

#[inline(always)]
fn read_value(wire_type: u64, number: u32, rest: &[u8]) -> Result<(Value<'_>, &[u8]), WireError> {
    match wire_type {
        0 => {
            let (value, rest) = read_varint(rest)?;
            Ok((Value::Varint(value), rest))
        }
        1 => {
            let (bytes, rest) = rest.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
            Ok((Value::Fixed64(u64::from_le_bytes(*bytes)), rest))
        }
        2 => {
            let (length, rest) = read_varint(rest)?;
            let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
            let (bytes, rest) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
            Ok((Value::Bytes(bytes), rest))
        }
        3 => {
            let (bytes, rest) = skip_group(rest, number, 0)?;
            Ok((Value::Group(bytes), rest))
        }
        5 => {
            let (bytes, rest) = rest.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
            Ok((Value::Fixed32(u32::from_le_bytes(*bytes)), rest))
        }
        _ => Err(WireError::BadTag),
    }
}

/// Reads one varint; gives it and the rest.
#[inline(always)]
pub fn read_varint(input: &[u8]) -> Result<(u64, &[u8]), WireError> {
    match input {
        [first, rest @ ..] if *first < 0x80 => Ok((u64::from(*first), rest)),
        [first, second, rest @ ..] if *second < 0x80 => {
            Ok((u64::from(*first & 0x7f) | (u64::from(*second) << 7), rest))
        }
        _ => read_long_varint(input),
    }
}

#[cold]
#[inline(never)]
fn read_long_varint(input: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut value = 0_u64;
    for (place, byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            if place == 9 && *byte > 1 {
                return Err(WireError::VarintTooLong);
            }
            return Ok((value, input.get(place + 1..).unwrap_or(&[])));
        }
    }
    Err(if input.len() < 10 { WireError::Truncated } else { WireError::VarintTooLong })
}

/// The content of a group up to its end tag, and the rest behind it.
#[cold]
#[inline(never)]
fn skip_group(input: &[u8], number: u32, depth: usize) -> Result<(&[u8], &[u8]), WireError> {
    if depth > GROUP_DEPTH_MAX {
        return Err(WireError::TooDeep);
    }
    let mut rest = input;
    loop {
        let content = input.len().saturating_sub(rest.len());
        let (tag, after_tag) = read_varint(rest)?;
        let found = field_number(tag)?;
        match tag & 7 {
            4 if found == number => return Ok((input.get(..content).unwrap_or(&[]), after_tag)),
            4 => return Err(WireError::BadTag),
            3 => rest = skip_group(after_tag, found, depth + 1)?.1,
            wire_type => rest = read_value(wire_type, found, after_tag)?.1,
        }
    }
}

/// Writes a varint.
#[inline]
pub fn put_varint(output: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        output.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    output.push((value & 0x7f) as u8);
}

/// Writes a length-delimited field.
pub fn put_bytes_field(output: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(output, u64::from(number) << 3 | 2);
    put_varint(output, bytes.len() as u64);
    output.extend_from_slice(bytes);
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field.
    #[inline]
    pub const fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// The text of a length-delimited field.
    #[inline]
    pub fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8)
    }

    /// A fixed 64-bit number.
    #[inline]
    pub const fn fixed64(self) -> Result<u64, WireError> {
        match self {
            Value::Fixed64(value) => Ok(value),
            Value::Varint(_) | Value::Bytes(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// A fixed 32-bit number.
    #[inline]
    pub const fn fixed32(self) -> Result<u32, WireError> {
        match self {
            Value::Fixed32(value) => Ok(value),
            Value::Varint(_) | Value::Fixed64(_) | Value::Bytes(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// A varint.
    #[inline]
    pub const fn varint(self) -> Result<u64, WireError> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Fixed64(_) | Value::Bytes(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_fields_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut raw = Vec::new();
            let mut failed = false;
            for field in fields(&bytes) {
                match field {
                    Ok(field) => raw.extend_from_slice(field.raw),
                    Err(_) => failed = true,
                }
            }
            prop_assert!(failed || raw == bytes);
            prop_assert!(bytes.starts_with(&raw));
        }

        #[test]
        fn varints_round_trip(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(read_varint(&bytes), Ok((value, &[][..])));
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_truncated() {
        assert_eq!(SpanHeader::read(&[0x0a, 0xff, 0x01]), Err(WireError::Truncated));
        assert_eq!(read_varint(&[0xff; 10]), Err(WireError::VarintTooLong));
    }

    #[test]
    fn groups_are_skipped_and_bounded() {
        let mut deep = vec![0x0b; 100];
        deep.extend(vec![0x0c; 100]);
        assert_eq!(fields(&deep).next(), Some(Err(WireError::TooDeep)));
        let shallow = [0x0b, 0x10, 0x01, 0x0c, 0x10, 0x02];
        let numbers: Vec<_> =
            fields(&shallow).map(|field| field.map(|field| field.number)).collect();
        assert_eq!(numbers, [Ok(1), Ok(2)]);
    }
}
