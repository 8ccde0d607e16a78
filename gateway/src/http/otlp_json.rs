//! Spans in OTLP/JSON (OpenTelemetry protocol specification, *JSON Protobuf Encoding*): ids as hex,
//! 64-bit numbers as strings, enumerations as numbers, bytes as base64. Beside each `ResourceSpans`
//! stands the region that holds it, in a field of ours that OTLP readers skip.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, TracesData};
use prost::Message;
use serde::ser::{Serialize, SerializeMap, Serializer};
use trace_model::{Region, StoredSpan, TraceSpans};

/// The spans of one region, read back from the bytes that were sent.
#[derive(Debug)]
pub(super) struct RegionSpans {
    region: Region,
    resource_spans: Vec<ResourceSpans>,
}

/// All `ResourceSpans` of a trace, region by region.
#[derive(Debug)]
pub(super) struct OtlpJson {
    regions: Vec<RegionSpans>,
    /// Spans whose bytes are no OTLP: they are left out, and the answer says how many.
    pub(super) unreadable: usize,
}

impl OtlpJson {
    /// Reads the spans.
    pub(super) fn read(spans: &TraceSpans) -> Self {
        let mut by_region: BTreeMap<&Region, Vec<&StoredSpan>> = BTreeMap::new();
        for span in spans.iter() {
            by_region.entry(&span.envelope.region).or_default().push(span);
        }
        let (mut regions, mut unreadable) = (Vec::with_capacity(by_region.len()), 0);
        for (region, spans) in by_region {
            let resource_spans = decode(&spans).unwrap_or_else(|_| {
                let is_good = |span: &&StoredSpan| decode(&[*span]).is_ok();
                let good: Vec<&StoredSpan> = spans.iter().copied().filter(is_good).collect();
                unreadable += spans.len().saturating_sub(good.len());
                // What is read one by one is read together.
                decode(&good).unwrap_or_default()
            });
            regions.push(RegionSpans { region: region.clone(), resource_spans });
        }
        Self { regions, unreadable }
    }
}

fn decode(spans: &[&StoredSpan]) -> Result<Vec<ResourceSpans>, prost::DecodeError> {
    let bytes = proto::resplice::traces_data(spans);
    Ok(TracesData::decode(bytes.as_slice())?.resource_spans)
}

impl Serialize for OtlpJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.regions.iter().flat_map(|held| {
            let region = held.region.as_str();
            held.resource_spans.iter().map(move |spans| HeldResource { region, spans })
        }))
    }
}

struct HeldResource<'a> {
    region: &'a str,
    spans: &'a ResourceSpans,
}

impl Serialize for HeldResource<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let resource = self.spans.resource.as_ref();
        let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
        let dropped = resource.map_or(0, |resource| resource.dropped_attributes_count);
        map.serialize_entry("resource", &Attributed { attributes, dropped })?;
        map.serialize_entry("scopeSpans", &List(&self.spans.scope_spans))?;
        put_text(&mut map, "schemaUrl", &self.spans.schema_url)?;
        map.serialize_entry("farspanRegion", self.region)?;
        map.end()
    }
}

/// A message in its JSON form.
struct Json<'a, T>(&'a T);

/// A list of messages.
struct List<'a, T>(&'a [T]);

impl<'a, T> Serialize for List<'a, T>
where
    Json<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Json))
    }
}

/// Attributes and how many were dropped: the shape of `Resource`.
struct Attributed<'a> {
    attributes: &'a [KeyValue],
    dropped: u32,
}

impl Serialize for Attributed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        put_attributes(&mut map, self.attributes, self.dropped)?;
        map.end()
    }
}

impl Serialize for Json<'_, ScopeSpans> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(scope) = &self.0.scope {
            map.serialize_entry("scope", &Json(scope))?;
        }
        map.serialize_entry("spans", &List(&self.0.spans))?;
        put_text(&mut map, "schemaUrl", &self.0.schema_url)?;
        map.end()
    }
}

impl Serialize for Json<'_, InstrumentationScope> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let scope = self.0;
        let mut map = serializer.serialize_map(None)?;
        put_text(&mut map, "name", &scope.name)?;
        put_text(&mut map, "version", &scope.version)?;
        put_attributes(&mut map, &scope.attributes, scope.dropped_attributes_count)?;
        map.end()
    }
}

impl Serialize for Json<'_, Span> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let span = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("traceId", &hex(&span.trace_id))?;
        map.serialize_entry("spanId", &hex(&span.span_id))?;
        put_text(&mut map, "traceState", &span.trace_state)?;
        put_text(&mut map, "parentSpanId", &hex(&span.parent_span_id))?;
        put_count(&mut map, "flags", span.flags)?;
        map.serialize_entry("name", &span.name)?;
        map.serialize_entry("kind", &span.kind)?;
        map.serialize_entry("startTimeUnixNano", &span.start_time_unix_nano.to_string())?;
        map.serialize_entry("endTimeUnixNano", &span.end_time_unix_nano.to_string())?;
        put_attributes(&mut map, &span.attributes, span.dropped_attributes_count)?;
        put_list(&mut map, "events", &span.events)?;
        put_count(&mut map, "droppedEventsCount", span.dropped_events_count)?;
        put_list(&mut map, "links", &span.links)?;
        put_count(&mut map, "droppedLinksCount", span.dropped_links_count)?;
        if let Some(status) = &span.status {
            map.serialize_entry("status", &Json(status))?;
        }
        map.end()
    }
}

impl Serialize for Json<'_, Event> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timeUnixNano", &event.time_unix_nano.to_string())?;
        map.serialize_entry("name", &event.name)?;
        put_attributes(&mut map, &event.attributes, event.dropped_attributes_count)?;
        map.end()
    }
}

impl Serialize for Json<'_, Link> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let link = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("traceId", &hex(&link.trace_id))?;
        map.serialize_entry("spanId", &hex(&link.span_id))?;
        put_text(&mut map, "traceState", &link.trace_state)?;
        put_attributes(&mut map, &link.attributes, link.dropped_attributes_count)?;
        put_count(&mut map, "flags", link.flags)?;
        map.end()
    }
}

impl Serialize for Json<'_, Status> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        put_text(&mut map, "message", &self.0.message)?;
        map.serialize_entry("code", &self.0.code)?;
        map.end()
    }
}

impl Serialize for Json<'_, KeyValue> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("key", &self.0.key)?;
        if let Some(value) = &self.0.value {
            map.serialize_entry("value", &Json(value))?;
        }
        map.end()
    }
}

impl Serialize for Json<'_, AnyValue> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0.value.as_ref() {
            Some(Value::StringValue(text)) => map.serialize_entry("stringValue", text)?,
            Some(Value::BoolValue(value)) => map.serialize_entry("boolValue", value)?,
            Some(Value::IntValue(value)) => map.serialize_entry("intValue", &value.to_string())?,
            Some(Value::DoubleValue(value)) => put_double(&mut map, *value)?,
            Some(Value::BytesValue(bytes)) => {
                map.serialize_entry("bytesValue", &STANDARD.encode(bytes))?;
            }
            Some(Value::ArrayValue(list)) => {
                map.serialize_entry("arrayValue", &Values(&list.values))?;
            }
            Some(Value::KvlistValue(list)) => {
                map.serialize_entry("kvlistValue", &Values(&list.values))?;
            }
            _ => {}
        }
        map.end()
    }
}

/// `{"values":[…]}`
struct Values<'a, T>(&'a [T]);

impl<'a, T> Serialize for Values<'a, T>
where
    Json<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("values", &List(self.0))?;
        map.end()
    }
}

/// A double; what JSON has no number for is a word, as protobuf's JSON mapping says.
fn put_double<M: SerializeMap>(map: &mut M, value: f64) -> Result<(), M::Error> {
    let word = match value {
        value if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return map.serialize_entry("doubleValue", &value),
    };
    map.serialize_entry("doubleValue", word)
}

fn put_attributes<M: SerializeMap>(
    map: &mut M,
    attributes: &[KeyValue],
    dropped: u32,
) -> Result<(), M::Error> {
    if !attributes.is_empty() {
        map.serialize_entry("attributes", &List(attributes))?;
    }
    put_count(map, "droppedAttributesCount", dropped)
}

fn put_list<'a, M: SerializeMap, T>(
    map: &mut M,
    name: &'static str,
    list: &'a [T],
) -> Result<(), M::Error>
where
    Json<'a, T>: Serialize,
{
    if list.is_empty() {
        return Ok(());
    }
    map.serialize_entry(name, &List(list))
}

fn put_text<M: SerializeMap>(map: &mut M, name: &'static str, text: &str) -> Result<(), M::Error> {
    if text.is_empty() {
        return Ok(());
    }
    map.serialize_entry(name, text)
}

fn put_count<M: SerializeMap>(map: &mut M, name: &'static str, count: u32) -> Result<(), M::Error> {
    if count == 0 {
        return Ok(());
    }
    map.serialize_entry(name, &count)
}

/// Lower-case hex, as OTLP/JSON has its ids.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests;
