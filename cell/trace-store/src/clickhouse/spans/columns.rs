//! What of a span's bytes stands in columns of `otel_traces`, written as it is walked: nothing is decoded into values of
//! its own. An array's length stands before its items and its columns stand one after the other, so a list is walked
//! once to count it and once for each of its columns.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use prost::Message;
use proto::wire::{FieldRef, WireError, fields, tags};

use crate::clickhouse::row_binary::Rows;

/// Single columns of a span, and how many events and links it has. Of a scalar field that is repeated the last one
/// counts, as proto3 asks.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) trace_state: &'a str,
    pub(super) name: &'a str,
    pub(super) status_message: &'a str,
    pub(super) events: usize,
    pub(super) links: usize,
}

impl<'a> Seen<'a> {
    pub(super) fn of(span: &'a [u8]) -> Result<Self, WireError> {
        let mut seen = Self::default();
        for field in fields(span) {
            let field = field?;
            match field.number {
                tags::SPAN_TRACE_STATE => seen.trace_state = field.value.text()?,
                tags::SPAN_NAME => seen.name = field.value.text()?,
                tags::SPAN_EVENTS => seen.events = seen.events.saturating_add(1),
                tags::SPAN_LINKS => seen.links = seen.links.saturating_add(1),
                tags::SPAN_STATUS => {
                    let message = last_of(field.value.bytes()?, tags::STATUS_MESSAGE)?;
                    if let Some(message) = message {
                        seen.status_message = message.value.text()?;
                    }
                }
                _ => {}
            }
        }
        Ok(seen)
    }
}

/// Nanoseconds as the engine's signed ones: what is beyond 2262 is said to be then.
pub(super) fn stamp(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// Writes the attributes of a message, which are its fields of this number.
pub(super) fn put_attributes(
    rows: &mut Rows,
    message: &[u8],
    number: u32,
) -> Result<(), WireError> {
    rows.count(count_of(message, number)?);
    for_each(message, number, |attribute| put_attribute(rows, attribute))
}

/// Writes the columns of a span's events: times, names, attributes.
pub(super) fn put_events(rows: &mut Rows, span: &[u8], count: usize) -> Result<(), WireError> {
    rows.count(count);
    for_each(span, tags::SPAN_EVENTS, |event| {
        let time = last_of(event, tags::EVENT_TIME)?;
        rows.i64(stamp(time.map_or(Ok(0), |time| time.value.fixed64())?));
        Ok(())
    })?;
    put_texts(rows, span, (tags::SPAN_EVENTS, tags::EVENT_NAME), count)?;
    rows.count(count);
    let number = tags::EVENT_ATTRIBUTES;
    for_each(span, tags::SPAN_EVENTS, |event| put_attributes(rows, event, number))
}

/// Writes the columns of a span's links: traces, spans, states, attributes.
pub(super) fn put_links(rows: &mut Rows, span: &[u8], count: usize) -> Result<(), WireError> {
    for id in [tags::LINK_TRACE_ID, tags::LINK_SPAN_ID] {
        rows.count(count);
        for_each(span, tags::SPAN_LINKS, |link| {
            let id = last_of(link, id)?;
            rows.hex(id.map_or(Ok(&[][..]), |id| id.value.bytes())?);
            Ok(())
        })?;
    }
    put_texts(rows, span, (tags::SPAN_LINKS, tags::LINK_TRACE_STATE), count)?;
    rows.count(count);
    let number = tags::LINK_ATTRIBUTES;
    for_each(span, tags::SPAN_LINKS, |link| put_attributes(rows, link, number))
}

/// Writes a column of texts: one field of each message of a list.
fn put_texts(
    rows: &mut Rows,
    span: &[u8],
    (list, text): (u32, u32),
    count: usize,
) -> Result<(), WireError> {
    rows.count(count);
    for_each(span, list, |item| {
        let text = last_of(item, text)?;
        rows.text(text.map_or(Ok(""), |text| text.value.text())?);
        Ok(())
    })
}

fn put_attribute(rows: &mut Rows, attribute: &[u8]) -> Result<(), WireError> {
    let (mut key, mut value) = ("", &[][..]);
    for field in fields(attribute) {
        let field = field?;
        match field.number {
            tags::KEY_VALUE_KEY => key = field.value.text()?,
            tags::KEY_VALUE_VALUE => value = field.value.bytes()?,
            _ => {}
        }
    }
    rows.text(key);
    put_value(rows, value)
}

/// Writes an `AnyValue` as the exporter does: texts as they are, bytes in base64, lists and maps as JSON.
fn put_value(rows: &mut Rows, any_value: &[u8]) -> Result<(), WireError> {
    let mut last = None;
    for field in fields(any_value) {
        let field = field?;
        last = if field.number <= tags::ANY_BYTES { Some(field) } else { last };
    }
    let Some(FieldRef { number, value, .. }) = last else {
        rows.text("");
        return Ok(());
    };
    match number {
        tags::ANY_STRING => rows.text(value.text()?),
        tags::ANY_BOOL => rows.text(if value.varint()? == 0 { "false" } else { "true" }),
        tags::ANY_INT => rows.display(value.varint()?.cast_signed()),
        tags::ANY_DOUBLE => rows.display(f64::from_bits(value.fixed64()?)),
        tags::ANY_BYTES => rows.text(&STANDARD.encode(value.bytes()?)),
        _ => {
            let value = AnyValue::decode(any_value).map_err(|_| WireError::WrongType)?;
            rows.display(json(value.value.as_ref()));
        }
    }
    Ok(())
}

/// Lists and maps of values as JSON.
fn json(value: Option<&Value>) -> serde_json::Value {
    let inner = |value: Option<&AnyValue>| json(value.and_then(|value| value.value.as_ref()));
    match value {
        // Indexes into a table of texts: profiles have one, traces do not.
        None | Some(Value::StringValueStrindex(_)) => serde_json::Value::Null,
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(value)) => (*value).into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => (*number).into(),
        Some(Value::BytesValue(bytes)) => STANDARD.encode(bytes).into(),
        Some(Value::ArrayValue(list)) => {
            list.values.iter().map(|value| inner(Some(value))).collect()
        }
        Some(Value::KvlistValue(list)) => {
            let pairs =
                list.values.iter().map(|pair| (pair.key.clone(), inner(pair.value.as_ref())));
            serde_json::Value::Object(pairs.collect())
        }
    }
}

/// The last field of this number.
fn last_of(message: &[u8], number: u32) -> Result<Option<FieldRef<'_>>, WireError> {
    let mut last = None;
    for field in fields(message) {
        let field = field?;
        last = if field.number == number { Some(field) } else { last };
    }
    Ok(last)
}

fn count_of(message: &[u8], number: u32) -> Result<usize, WireError> {
    let mut count = 0_usize;
    for field in fields(message) {
        count = count.saturating_add(usize::from(field?.number == number));
    }
    Ok(count)
}

/// Visits the messages of a list, which are the fields of this number.
fn for_each<'a>(
    message: &'a [u8],
    number: u32,
    mut visit: impl FnMut(&'a [u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    for field in fields(message) {
        let field = field?;
        if field.number == number {
            visit(field.value.bytes()?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
