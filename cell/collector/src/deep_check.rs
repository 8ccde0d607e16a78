//! The deep check: whether every nested field of a span is what its schema says and within limits,
//! in one walk over the bytes, without allocating or decoding.
//!
//! What passes here every protobuf decoder reads: readers never meet a span that they cannot show.
//! Unknown fields pass as long as they are fields.
//! Source of the field numbers: `opentelemetry/proto/{trace,common,resource}/v1/*.proto`.

use proto::wire::{SpanHeader, Value, fields, read_varint, tags};

use crate::config::SpanLimits;
use crate::receipt::RejectReason;

type Checked = Result<(), RejectReason>;

/// Checks a span; gives the header fields that it met on the way.
#[inline]
pub(crate) fn check_span<'a>(
    span: &'a [u8],
    limits: &SpanLimits,
) -> Result<SpanHeader<'a>, RejectReason> {
    let mut check = Check { limits, parts_left: limits.parts_max };
    check.span(span)
}

/// Checks the fields of a `ResourceSpans` beside its scopes.
pub(crate) fn check_resource_frame(frame: &[u8], limits: &SpanLimits) -> Checked {
    let mut check = Check { limits, parts_left: limits.parts_max };
    for field in fields(frame) {
        let field = field?;
        match field.number {
            tags::RESOURCE_SPANS_RESOURCE => check.resource(field.value.bytes()?)?,
            tags::RESOURCE_SPANS_SCHEMA_URL => check.text(field.value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks the fields of a `ScopeSpans` beside its spans.
pub(crate) fn check_scope_frame(frame: &[u8], limits: &SpanLimits) -> Checked {
    let mut check = Check { limits, parts_left: limits.parts_max };
    for field in fields(frame) {
        let field = field?;
        match field.number {
            tags::SCOPE_SPANS_SCOPE => check.scope(field.value.bytes()?)?,
            tags::SCOPE_SPANS_SCHEMA_URL => check.text(field.value)?,
            _ => {}
        }
    }
    Ok(())
}

/// `Resource.entity_refs`, and `Resource.dropped_attributes_count` before it.
const RESOURCE_DROPPED: u32 = 2;
const RESOURCE_ENTITY_REFS: u32 = 3;

struct Check<'l> {
    limits: &'l SpanLimits,
    parts_left: usize,
}

impl Check<'_> {
    fn span<'a>(&mut self, span: &'a [u8]) -> Result<SpanHeader<'a>, RejectReason> {
        let mut header = SpanHeader::default();
        let mut attributes = 0;
        for field in fields(span) {
            let field = field?;
            let value = field.value;
            match field.number {
                tags::SPAN_ATTRIBUTES => self.attribute(value, &mut attributes)?,
                tags::SPAN_TRACE_ID => header.trace_id = value.bytes()?,
                tags::SPAN_SPAN_ID => header.span_id = value.bytes()?,
                tags::SPAN_PARENT_SPAN_ID => header.parent_span_id = value.bytes()?,
                tags::SPAN_NAME => {
                    self.text(value)?;
                    header.name = value.bytes()?;
                }
                tags::SPAN_KIND => header.kind = SpanHeader::kind_of(value.varint()?),
                tags::SPAN_START => header.start = value.fixed64()?,
                tags::SPAN_END => header.end = value.fixed64()?,
                tags::SPAN_STATUS => header.status = self.status(value.bytes()?)?,
                tags::SPAN_FLAGS => header.flags = value.fixed32()?,
                tags::SPAN_EVENTS => self.event(value.bytes()?)?,
                tags::SPAN_LINKS => self.link(value.bytes()?)?,
                tags::SPAN_TRACE_STATE => self.text(value)?,
                tags::SPAN_DROPPED_ATTRIBUTES
                | tags::SPAN_DROPPED_EVENTS
                | tags::SPAN_DROPPED_LINKS => varint(value)?,
                _ => {}
            }
        }
        Ok(header)
    }

    fn status(&self, status: &[u8]) -> Result<u8, RejectReason> {
        let mut code = 0;
        for field in fields(status) {
            let field = field?;
            match field.number {
                tags::STATUS_MESSAGE => self.text(field.value)?,
                tags::STATUS_CODE => code = SpanHeader::status_of(field.value.varint()?),
                _ => {}
            }
        }
        Ok(code)
    }

    fn event(&mut self, event: &[u8]) -> Checked {
        self.part()?;
        let mut attributes = 0;
        for field in fields(event) {
            let field = field?;
            match field.number {
                1 => fixed64(field.value)?,
                2 => self.text(field.value)?,
                3 => self.attribute(field.value, &mut attributes)?,
                4 => varint(field.value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn link(&mut self, link: &[u8]) -> Checked {
        self.part()?;
        let mut attributes = 0;
        for field in fields(link) {
            let field = field?;
            match field.number {
                1 | 2 => bytes(field.value)?,
                3 => self.text(field.value)?,
                4 => self.attribute(field.value, &mut attributes)?,
                5 => varint(field.value)?,
                6 => fixed32(field.value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn resource(&mut self, resource: &[u8]) -> Checked {
        let mut attributes = 0;
        for field in fields(resource) {
            let field = field?;
            match field.number {
                tags::RESOURCE_ATTRIBUTES => self.attribute(field.value, &mut attributes)?,
                RESOURCE_DROPPED => varint(field.value)?,
                RESOURCE_ENTITY_REFS => self.entity_ref(field.value.bytes()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn entity_ref(&mut self, entity_ref: &[u8]) -> Checked {
        self.part()?;
        for field in fields(entity_ref) {
            let field = field?;
            match field.number {
                1 | 2 => self.text(field.value)?,
                3 | 4 => {
                    self.part()?;
                    self.text(field.value)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn scope(&mut self, scope: &[u8]) -> Checked {
        let mut attributes = 0;
        for field in fields(scope) {
            let field = field?;
            match field.number {
                1 | 2 => self.text(field.value)?,
                3 => self.attribute(field.value, &mut attributes)?,
                4 => varint(field.value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// One attribute of a list that holds `seen` before it.
    #[inline]
    fn attribute(&mut self, value: Value<'_>, seen: &mut usize) -> Checked {
        *seen += 1;
        if *seen > self.limits.attributes_max {
            return Err(RejectReason::TooManyAttributes);
        }
        self.key_value(value.bytes()?, 1)
    }

    #[inline]
    fn key_value(&mut self, key_value: &[u8], depth: usize) -> Checked {
        self.part()?;
        let fits = key_value.len() <= self.limits.value_bytes_max && depth <= self.limits.depth_max;
        if fits && is_plain(key_value) {
            return Ok(());
        }
        for field in fields(key_value) {
            let field = field?;
            match field.number {
                tags::KEY_VALUE_KEY => self.text(field.value)?,
                tags::KEY_VALUE_VALUE => self.any_value(field.value.bytes()?, depth)?,
                KEY_VALUE_STRINDEX => varint(field.value)?,
                _ => {}
            }
        }
        Ok(())
    }

    #[inline]
    fn any_value(&mut self, any_value: &[u8], depth: usize) -> Checked {
        if any_value.len() > self.limits.value_bytes_max.saturating_add(VALUE_HEADER_BYTES) {
            return Err(RejectReason::ValueTooLong);
        }
        if depth > self.limits.depth_max {
            return Err(RejectReason::TooDeep);
        }
        for field in fields(any_value) {
            let field = field?;
            match field.number {
                tags::ANY_STRING => self.text(field.value)?,
                2 | 3 | ANY_STRINDEX => varint(field.value)?,
                4 => fixed64(field.value)?,
                5 => self.list(field.value.bytes()?, depth)?,
                6 => self.map(field.value.bytes()?, depth)?,
                7 => bytes(field.value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn list(&mut self, list: &[u8], depth: usize) -> Checked {
        for field in fields(list) {
            let field = field?;
            if field.number == 1 {
                self.part()?;
                self.any_value(field.value.bytes()?, depth + 1)?;
            }
        }
        Ok(())
    }

    fn map(&mut self, map: &[u8], depth: usize) -> Checked {
        for field in fields(map) {
            let field = field?;
            if field.number == 1 {
                self.key_value(field.value.bytes()?, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Counts something that a reader has to allocate for.
    #[inline]
    fn part(&mut self) -> Checked {
        self.parts_left = self.parts_left.checked_sub(1).ok_or(RejectReason::TooManyParts)?;
        Ok(())
    }

    #[inline]
    fn text(&self, value: Value<'_>) -> Checked {
        let bytes = value.bytes()?;
        if bytes.len() > self.limits.value_bytes_max {
            return Err(RejectReason::ValueTooLong);
        }
        if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
            return Ok(());
        }
        Err(RejectReason::NotUtf8)
    }
}

/// Whether this is an attribute of the shape that nearly all have: a key, then a short text, truth
/// or number, all in ASCII, with nothing else beside them. What is of any other shape is walked.
#[inline]
fn is_plain(key_value: &[u8]) -> bool {
    let [KEY_TAG, key_length, rest @ ..] = key_value else { return false };
    let Some((key, rest)) = rest.split_at_checked(usize::from(*key_length)) else { return false };
    let [VALUE_TAG, value_length, value @ ..] = rest else { return false };
    let are_short = (*key_length | *value_length) < 0x80;
    if !are_short || usize::from(*value_length) != value.len() {
        return false;
    }
    match value {
        [STRING_TAG, length, text @ ..] => {
            usize::from(*length) == text.len() && key.is_ascii() && text.is_ascii()
        }
        [BOOL_TAG | INT_TAG, number] => *number < 0x80 && key.is_ascii(),
        [BOOL_TAG | INT_TAG, number @ ..] => {
            key.is_ascii() && read_varint(number).is_ok_and(|(_, rest)| rest.is_empty())
        }
        [DOUBLE_TAG, _, _, _, _, _, _, _, _] => key.is_ascii(),
        _ => false,
    }
}

/// Tags as they stand on the wire: `KeyValue.key` and `value`, `AnyValue.string_value`,
/// `bool_value`, `int_value`, `double_value`.
const KEY_TAG: u8 = 1 << 3 | 2;
const VALUE_TAG: u8 = 2 << 3 | 2;
const STRING_TAG: u8 = 1 << 3 | 2;
const BOOL_TAG: u8 = 2 << 3;
const INT_TAG: u8 = 3 << 3;
const DOUBLE_TAG: u8 = 4 << 3 | 1;

/// `KeyValue.key_strindex` and `AnyValue.string_value_strindex` belong to profiles; a decoder that
/// knows them wants numbers.
const KEY_VALUE_STRINDEX: u32 = 3;
const ANY_STRINDEX: u32 = 8;
/// Tag and length before the text of an `AnyValue`: a value of just the limit passes.
const VALUE_HEADER_BYTES: usize = 6;

fn bytes(value: Value<'_>) -> Checked {
    Ok(value.bytes().map(drop)?)
}

#[inline]
fn varint(value: Value<'_>) -> Checked {
    Ok(value.varint().map(drop)?)
}

#[inline]
fn fixed64(value: Value<'_>) -> Checked {
    Ok(value.fixed64().map(drop)?)
}

#[inline]
fn fixed32(value: Value<'_>) -> Checked {
    Ok(value.fixed32().map(drop)?)
}

#[cfg(test)]
mod tests;
