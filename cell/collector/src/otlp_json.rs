//! OTLP JSON into OTLP protobuf, once, while it is read: behind this, JSON goes the same way.
//!
//! What is not JSON at all is refused. A value that does not fit its field is written as a field of
//! the wrong wire type instead, so that the deep check rejects that span and its siblings are kept.
//! Nothing is built in between: the output is never much longer than the input. Values are nested
//! here as deep as they may be; of one that is deeper only so much is written as the deep check
//! needs to reject its span as too deep, and the rest is skipped without recursion.
//! Source: OpenTelemetry Protocol specification, *JSON Protobuf Encoding*; proto3 JSON mapping.

mod scalar;
mod schema;

use std::fmt;

use bytes::Bytes;
use proto::wire::put_varint;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::schema::{Field, Kind, Message, REQUEST};
use crate::error::ExportError;
use crate::receipt::Misfit;

/// What is wanted, as the end of "the body is not".
const WANTED: &str = "JSON of a trace export request";

/// The request as protobuf, and the first value that does not fit its field; values deeper than
/// `depth_max` are cut there, one level too deep.
pub(crate) fn transcode(
    json: &[u8],
    depth_max: usize,
) -> Result<(Bytes, Option<Misfit>), ExportError> {
    let mut output = Output { bytes: Vec::with_capacity(json.len() / 2), misfit: None };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // Only attribute values nest without an end, and these are counted here. What is not known is
    // skipped without recursion.
    deserializer.disable_recursion_limit();
    MessageReader { message: &REQUEST, depth_left: depth_max, output: &mut output }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| ExportError::MalformedJson(WANTED, error.to_string()))?;
    Ok((Bytes::from(output.bytes), output.misfit))
}

/// What is written, and what was met on the way.
struct Output {
    bytes: Vec<u8>,
    misfit: Option<Misfit>,
}

impl Output {
    /// Writes the field with a wire type that it does not have: no reader takes it for a value.
    fn put_misfit(&mut self, field: &Field, is_element: bool) {
        self.misfit.get_or_insert(Misfit { field: field.json, takes: field.takes(is_element) });
        let wire_type = match field.kind {
            Kind::Message(_) | Kind::Text | Kind::Hex | Kind::Base64 => 0,
            Kind::Bool
            | Kind::Double
            | Kind::Int64
            | Kind::Uint32
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Enum(_) => 2,
        };
        put_varint(&mut self.bytes, u64::from(field.number) << 3 | wire_type);
        self.bytes.push(0);
    }
}

/// Reads an object into the fields of a message.
struct MessageReader<'o> {
    message: &'static Message,
    /// Levels that attribute values below may still have.
    depth_left: usize,
    output: &'o mut Output,
}

impl<'de> DeserializeSeed<'de> for MessageReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageReader<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(FieldName(self.message))? {
            match field {
                Some(field) => {
                    map.next_value_seed(ValueReader {
                        field,
                        is_element: false,
                        depth_left: self.depth_left,
                        output: self.output,
                    })?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads a name; `None` where the message has no such field.
struct FieldName(&'static Message);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<&'static Field>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name))
    }
}

/// Reads the value of a field, or one element of it.
struct ValueReader<'o> {
    field: &'static Field,
    is_element: bool,
    depth_left: usize,
    output: &'o mut Output,
}

impl ValueReader<'_> {
    /// Whether a single value may stand here.
    const fn takes_one(&self) -> bool {
        self.is_element || !self.field.is_repeated
    }

    fn put_misfit(&mut self) {
        self.output.put_misfit(self.field, self.is_element);
    }

    fn put(mut self, is_put: impl FnOnce(&'static Field, &mut Vec<u8>) -> bool) {
        if !self.takes_one() || !is_put(self.field, &mut self.output.bytes) {
            self.put_misfit();
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let Kind::Message(message) = self.field.kind else {
            self.put_misfit();
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        if !self.takes_one() {
            self.put_misfit();
        }
        let start = self.output.bytes.len();
        // Each value is one level deeper than the one that it stands in.
        let depth_left = self.depth_left.checked_sub(usize::from(message.is_any_value()));
        match depth_left {
            Some(depth_left) => {
                MessageReader { message, depth_left, output: self.output }.visit_map(map)?;
            }
            None => while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {},
        }
        frame(&mut self.output.bytes, self.field.number, start);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        if self.takes_one() {
            self.put_misfit();
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let Self { field, depth_left, output, .. } = self;
        let is_element = true;
        while list
            .next_element_seed(ValueReader { field, is_element, depth_left, output: &mut *output })?
            .is_some()
        {}
        Ok(())
    }

    /// `null` leaves a field out; in a list it stands for an empty element, so that a span that is
    /// null is counted as rejected.
    fn visit_unit<E>(self) -> Result<(), E> {
        if self.is_element {
            let start = self.output.bytes.len();
            frame(&mut self.output.bytes, self.field.number, start);
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.put(|field, output| scalar::put_bool(field, value, output));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.put(|field, output| scalar::put_integer(field, i128::from(value), output));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.put(|field, output| scalar::put_integer(field, i128::from(value), output));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.put(|field, output| scalar::put_double(field, value, output));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.put(|field, output| scalar::put_text(field, text, output));
        Ok(())
    }
}

/// Puts tag and length before the bytes from `start` on.
fn frame(output: &mut Vec<u8>, number: u32, start: usize) {
    let length = output.len().saturating_sub(start);
    put_varint(output, u64::from(number) << 3 | 2);
    put_varint(output, length as u64);
    let header = output.len().saturating_sub(start).saturating_sub(length);
    if let Some(message) = output.get_mut(start..) {
        message.rotate_right(header);
    }
}

#[cfg(test)]
mod tests;
