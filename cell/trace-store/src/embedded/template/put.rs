//! Parts back into the bytes of a span.

use proto::wire::put_varint;

use super::{Code, Part, RowFacts, SIGN, varint_length};
use crate::embedded::numbers::unzigzag;

/// Appends the part as it was sent.
pub(crate) fn put_part(output: &mut Vec<u8>, part: &Part<'_>, facts: &RowFacts) {
    match part.tag.code {
        Code::Whole | Code::Unknown => output.extend_from_slice(part.text),
        Code::TraceId => put_field(output, 0x0a, facts.trace_id.as_bytes()),
        Code::SpanId => put_field(output, 0x12, facts.span_id.as_bytes()),
        Code::TraceState => put_field(output, 0x1a, part.text),
        Code::Parent => put_field(output, 0x22, part.text),
        Code::ParentEmpty => put_field(output, 0x22, &[]),
        Code::Name => put_field(output, 0x2a, part.text),
        Code::Kind => output.extend_from_slice(&[0x30, part.tag.argument]),
        Code::Start => put_fixed64(output, 0x39, facts.start),
        Code::End => put_fixed64(output, 0x41, facts.end),
        Code::StatusAlone => match part.tag.argument.checked_sub(1) {
            None => output.extend_from_slice(&[0x7a, 0]),
            Some(code) => output.extend_from_slice(&[0x7a, 2, 0x18, code]),
        },
        Code::Status => put_field(output, 0x7a, part.text),
        Code::Flags => {
            output.extend_from_slice(&[0x85, 0x01]);
            output.extend(part.number.to_le_bytes().iter().take(4));
        }
        Code::Count => {
            output.push(part.tag.argument << 3);
            put_varint(output, part.number);
        }
        Code::Text | Code::Int | Code::Double | Code::Bool | Code::Other => {
            put_attribute(output, part);
        }
        Code::Event => put_field(output, 0x5a, part.text),
        Code::EventAt => put_event(output, part, facts),
        Code::Link => put_field(output, 0x6a, part.text),
    }
}

pub(super) fn put_field(output: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    output.push(tag);
    put_varint(output, payload.len() as u64);
    output.extend_from_slice(payload);
}

fn put_fixed64(output: &mut Vec<u8>, tag: u8, value: u64) {
    output.push(tag);
    output.extend_from_slice(&value.to_le_bytes());
}

fn put_event(output: &mut Vec<u8>, part: &Part<'_>, facts: &RowFacts) {
    output.push(0x5a);
    put_varint(output, part.text.len() as u64 + 9);
    let time = facts.start.wrapping_add(unzigzag(part.number).cast_unsigned());
    put_fixed64(output, 0x09, time);
    output.extend_from_slice(part.text);
}

fn put_attribute(output: &mut Vec<u8>, part: &Part<'_>) {
    let code = part.tag.code;
    let head_length = if code == Code::Text {
        1 + varint_length(part.text.len() as u64)
    } else if code == Code::Int {
        1 + varint_length(part.number ^ SIGN)
    } else if code == Code::Double {
        9
    } else {
        usize::from(code == Code::Bool) * 2
    };
    let length = head_length + part.text.len();
    let sized = |length: usize| 1 + varint_length(length as u64) + length;
    output.push(0x4a);
    put_varint(output, (sized(part.key.len()) + sized(length)) as u64);
    put_field(output, 0x0a, part.key);
    output.push(0x12);
    put_varint(output, length as u64);
    if code == Code::Text {
        output.push(0x0a);
        put_varint(output, part.text.len() as u64);
    } else if code == Code::Int {
        output.push(0x18);
        put_varint(output, part.number ^ SIGN);
    } else if code == Code::Double {
        put_fixed64(output, 0x21, part.number);
    } else if code == Code::Bool {
        output.extend_from_slice(&[0x10, u8::from(part.number != 0)]);
    }
    output.extend_from_slice(part.text);
}
