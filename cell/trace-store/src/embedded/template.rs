//! A span taken apart into parts, and put together again to the identical bytes.
//!
//! A part is a protobuf field whose encoding is canonical, so that tag, lengths and wire type follow
//! from its [`Tag`] and key, and only its value has to be kept. The sequence of a span's tags and
//! keys is its *template*; spans of one kind share it. What is not canonical (varints longer than
//! needed, a scalar sent twice, a field of the wrong type) makes the whole span a single part.
//! Byte-exactness is a law here, not an effort: a span's identity is a hash of its bytes.

use proto::wire::{FieldRef, Value, fields, read_varint, tags};
use trace_model::{SpanId, TraceId};

use super::numbers::zigzag;

mod put;

pub(crate) use put::put_part;

/// What kind of part. The numbers are part of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Code {
    /// A span that is not canonical, as sent.
    Whole = 0,
    /// The trace id of the row.
    TraceId = 1,
    /// The span id of the row.
    SpanId = 2,
    /// A parent id of 8 bytes.
    Parent = 3,
    /// A parent id of no bytes.
    ParentEmpty = 4,
    /// The name.
    Name = 5,
    /// The kind; the tag's argument.
    Kind = 6,
    /// The start of the row.
    Start = 7,
    /// The end of the row.
    End = 8,
    /// W3C tracestate.
    TraceState = 9,
    /// A status without a message; the tag's argument is 0 (empty) or 1 + code.
    StatusAlone = 10,
    /// Any other status, its payload.
    Status = 11,
    /// W3C flags.
    Flags = 12,
    /// A dropped-count; the tag's argument is the field number.
    Count = 13,
    /// A text attribute.
    Text = 14,
    /// An integer attribute.
    Int = 15,
    /// A double attribute.
    Double = 16,
    /// A boolean attribute.
    Bool = 17,
    /// An attribute of bytes, a list, a map, or without a value: the payload of its `AnyValue`.
    Other = 18,
    /// An event, its payload.
    Event = 19,
    /// An event that starts with its time: the distance from the span's start, and the rest.
    EventAt = 20,
    /// A link, its payload.
    Link = 21,
    /// A field that this release does not know, with its tag.
    Unknown = 22,
}

/// A part's kind and the small constant that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) code: Code,
    pub(crate) argument: u8,
}

/// A part of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) tag: Tag,
    /// Key of an attribute, else empty.
    pub(crate) key: &'a [u8],
    /// The value, where it is bytes.
    pub(crate) text: &'a [u8],
    /// The value, where it is a number.
    pub(crate) number: u64,
}

/// What a row knows beside its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowFacts {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

const CODES: [Code; 23] = [
    Code::Whole,
    Code::TraceId,
    Code::SpanId,
    Code::Parent,
    Code::ParentEmpty,
    Code::Name,
    Code::Kind,
    Code::Start,
    Code::End,
    Code::TraceState,
    Code::StatusAlone,
    Code::Status,
    Code::Flags,
    Code::Count,
    Code::Text,
    Code::Int,
    Code::Double,
    Code::Bool,
    Code::Other,
    Code::Event,
    Code::EventAt,
    Code::Link,
    Code::Unknown,
];

impl Code {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        CODES.get(usize::from(byte)).copied()
    }

    /// Whether the value is bytes in a column of texts.
    pub(crate) const fn has_text(self) -> bool {
        matches!(
            self,
            Self::Whole
                | Self::Name
                | Self::TraceState
                | Self::Status
                | Self::Text
                | Self::Other
                | Self::Event
                | Self::EventAt
                | Self::Link
                | Self::Unknown
        )
    }

    /// Whether the value is, or has, a number in a column of numbers.
    pub(crate) const fn has_number(self) -> bool {
        matches!(
            self,
            Self::Parent
                | Self::Flags
                | Self::Count
                | Self::Int
                | Self::Double
                | Self::Bool
                | Self::EventAt
        )
    }

    pub(crate) const fn is_attribute(self) -> bool {
        matches!(self, Self::Text | Self::Int | Self::Double | Self::Bool | Self::Other)
    }

    pub(crate) const fn is_event_or_link(self) -> bool {
        matches!(self, Self::Event | Self::EventAt | Self::Link)
    }
}

impl<'a> Part<'a> {
    const fn fixed(code: Code, argument: u8) -> Self {
        Self { tag: Tag { code, argument }, key: &[], text: &[], number: 0 }
    }

    const fn text(code: Code, text: &'a [u8]) -> Self {
        Self { tag: Tag { code, argument: 0 }, key: &[], text, number: 0 }
    }

    const fn number(code: Code, number: u64) -> Self {
        Self { tag: Tag { code, argument: 0 }, key: &[], text: &[], number }
    }
}

/// Takes a span apart, into `parts`, which is emptied before.
pub(crate) fn read_parts<'a>(span: &'a [u8], facts: &RowFacts, parts: &mut Vec<Part<'a>>) {
    parts.clear();
    let mut scalars = 0_u32;
    for field in fields(span) {
        let part = field.ok().and_then(|field| read_part(&field, facts, &mut scalars));
        let Some(part) = part else {
            parts.clear();
            parts.push(Part::text(Code::Whole, span));
            return;
        };
        parts.push(part);
    }
}

#[inline]
fn read_part<'a>(field: &FieldRef<'a>, facts: &RowFacts, scalars: &mut u32) -> Option<Part<'a>> {
    if field.number > tags::SPAN_FLAGS {
        return Some(Part::text(Code::Unknown, field.raw));
    }
    if !is_minimal(field) {
        return None;
    }
    let is_repeated =
        matches!(field.number, tags::SPAN_ATTRIBUTES | tags::SPAN_EVENTS | tags::SPAN_LINKS);
    if !is_repeated {
        let bit = 1 << field.number;
        if *scalars & bit != 0 {
            return None;
        }
        *scalars |= bit;
    }
    match field.value {
        Value::Bytes(payload) => read_bytes_part(field.number, payload, facts),
        Value::Fixed64(value) => match field.number {
            tags::SPAN_START if value == facts.start => Some(Part::fixed(Code::Start, 0)),
            tags::SPAN_END if value == facts.end => Some(Part::fixed(Code::End, 0)),
            _ => None,
        },
        Value::Varint(value) => match field.number {
            tags::SPAN_KIND if value < 128 => {
                Some(Part::fixed(Code::Kind, u8::try_from(value).ok()?))
            }
            tags::SPAN_DROPPED_ATTRIBUTES
            | tags::SPAN_DROPPED_EVENTS
            | tags::SPAN_DROPPED_LINKS => Some(Part {
                tag: Tag { code: Code::Count, argument: u8::try_from(field.number).ok()? },
                ..Part::number(Code::Count, value)
            }),
            _ => None,
        },
        Value::Fixed32(value) if field.number == tags::SPAN_FLAGS => {
            Some(Part::number(Code::Flags, u64::from(value)))
        }
        Value::Fixed32(_) | Value::Group(_) => None,
    }
}

fn read_bytes_part<'a>(number: u32, payload: &'a [u8], facts: &RowFacts) -> Option<Part<'a>> {
    match number {
        tags::SPAN_ATTRIBUTES => read_attribute(payload),
        tags::SPAN_TRACE_ID if payload == facts.trace_id.as_bytes() => {
            Some(Part::fixed(Code::TraceId, 0))
        }
        tags::SPAN_SPAN_ID if payload == facts.span_id.as_bytes() => {
            Some(Part::fixed(Code::SpanId, 0))
        }
        tags::SPAN_PARENT_SPAN_ID => match payload.len() {
            0 => Some(Part::fixed(Code::ParentEmpty, 0)),
            8 => Some(Part::text(Code::Parent, payload)),
            _ => None,
        },
        tags::SPAN_NAME => Some(Part::text(Code::Name, payload)),
        tags::SPAN_TRACE_STATE => Some(Part::text(Code::TraceState, payload)),
        tags::SPAN_STATUS => Some(match payload {
            [] => Part::fixed(Code::StatusAlone, 0),
            [0x18, code @ 0..=2] => Part::fixed(Code::StatusAlone, 1 + code),
            _ => Part::text(Code::Status, payload),
        }),
        tags::SPAN_EVENTS => Some(read_event(payload, facts)),
        tags::SPAN_LINKS => Some(Part::text(Code::Link, payload)),
        _ => None,
    }
}

fn read_event<'a>(payload: &'a [u8], facts: &RowFacts) -> Part<'a> {
    let Some((time, rest)) = payload
        .split_first()
        .filter(|(tag, _)| **tag == 0x09)
        .and_then(|(_, rest)| rest.split_first_chunk::<8>())
    else {
        return Part::text(Code::Event, payload);
    };
    let distance = u64::from_le_bytes(*time).wrapping_sub(facts.start).cast_signed();
    Part { text: rest, ..Part::number(Code::EventAt, zigzag(distance)) }
}

/// `KeyValue`: key, then value, nothing else.
#[inline]
fn read_attribute(payload: &[u8]) -> Option<Part<'_>> {
    let (key, rest) = read_sized(payload, 0x0a)?;
    let (value, rest) = read_sized(rest, 0x12)?;
    if !rest.is_empty() {
        return None;
    }
    let part = read_any_value(value)?;
    Some(Part { key, ..part })
}

fn read_any_value(value: &[u8]) -> Option<Part<'_>> {
    match value {
        [] => Some(Part::text(Code::Other, value)),
        [0x0a, ..] => match read_sized(value, 0x0a)? {
            (text, []) => Some(Part::text(Code::Text, text)),
            _ => None,
        },
        [0x10, flag @ 0..=1] => Some(Part::number(Code::Bool, u64::from(*flag))),
        [0x18, varint @ ..] => {
            let (number, rest) = read_varint(varint).ok()?;
            let is_minimal = rest.is_empty() && varint.len() == varint_length(number);
            is_minimal.then_some(Part::number(Code::Int, number ^ SIGN))
        }
        [0x21, double @ ..] => {
            let bits = <[u8; 8]>::try_from(double).ok()?;
            Some(Part::number(Code::Double, u64::from_le_bytes(bits)))
        }
        [tag @ (0x2a | 0x32 | 0x3a), ..] => match read_sized(value, *tag)? {
            (_, []) => Some(Part::text(Code::Other, value)),
            _ => None,
        },
        _ => None,
    }
}

/// Integers are kept with the sign bit turned, so that their order is that of unsigned numbers.
pub(crate) const SIGN: u64 = 1 << 63;

/// A length-delimited field with this one-byte tag and a length of minimal size, and the rest.
#[inline]
fn read_sized(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, after) = read_varint(rest).ok()?;
    if rest.len() - after.len() != varint_length(length) {
        return None;
    }
    after.split_at_checked(usize::try_from(length).ok()?)
}

/// Whether tag, length and varint take the fewest bytes: then they follow from the value.
#[inline]
fn is_minimal(field: &FieldRef<'_>) -> bool {
    let tag_length = if field.number < 16 { 1 } else { 2 };
    let value_length = match field.value {
        Value::Varint(value) => varint_length(value),
        Value::Fixed64(_) => 8,
        Value::Bytes(payload) => varint_length(payload.len() as u64) + payload.len(),
        Value::Fixed32(_) => 4,
        Value::Group(_) => return false,
    };
    field.raw.len() == tag_length + value_length
}

#[inline]
pub(crate) const fn varint_length(value: u64) -> usize {
    ((70 - (value | 1).leading_zeros()) / 7) as usize
}

#[cfg(test)]
mod tests;
