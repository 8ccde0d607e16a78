//! Zipkin v2 JSON into OTLP: one resource for each service, ids padded, microseconds made
//! nanoseconds, tags attributes, annotations events.
//!
//! Follows what users of the OpenTelemetry Collector's Zipkin receiver are used to, but that an
//! `error` tag of any value marks an error, as Zipkin defines it, and stays readable as the status
//! message. A span that cannot be translated becomes an empty one, which validation rejects and
//! counts like any other.
//! Source: Zipkin API v2 (`zipkin2-api.yaml`); OpenTelemetry, *Transformation to Zipkin*.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use trace_model::{SpanId, TraceId};

use crate::error::ExportError;

/// Spans by the service that sent them; "" where none is named.
type ByService = BTreeMap<String, Vec<Span>>;

/// The request as OTLP protobuf. More spans than allowed are refused as soon as they are met.
pub(crate) fn translate(json: &[u8], spans_max: usize) -> Result<Bytes, ExportError> {
    let mut reader = ListReader { by_service: ByService::new(), spans: 0, spans_max };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer.deserialize_seq(&mut reader).and_then(|()| deserializer.end());
    if reader.spans > spans_max {
        return Err(ExportError::TooManySpans { spans_max });
    }
    read.map_err(|error| ExportError::MalformedJson(error.to_string()))?;
    let resource_spans = reader.by_service.into_iter().map(resource_spans).collect();
    Ok(ExportTraceServiceRequest { resource_spans }.encode_to_vec().into())
}

/// Reads the list span by span: a span is translated before the next one is looked at.
struct ListReader {
    by_service: ByService,
    spans: usize,
    spans_max: usize,
}

impl<'de> Visitor<'de> for &mut ListReader {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of spans")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<&RawValue>()? {
            self.spans += 1;
            if self.spans > self.spans_max {
                return Err(serde::de::Error::custom("too many spans"));
            }
            let (service, span) = read_span(raw.get()).unwrap_or_default();
            self.by_service.entry(service).or_default().push(span);
        }
        Ok(())
    }
}

/// A span of Zipkin's API. What it does not name is ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan {
    trace_id: String,
    id: String,
    parent_id: Option<String>,
    name: Option<String>,
    kind: Option<String>,
    /// Microseconds since the epoch.
    timestamp: Option<u64>,
    /// Microseconds.
    duration: Option<u64>,
    local_endpoint: Option<Endpoint>,
    remote_endpoint: Option<Endpoint>,
    annotations: Option<Vec<Annotation>>,
    tags: Option<BTreeMap<String, String>>,
    debug: Option<bool>,
    shared: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    /// Microseconds since the epoch.
    timestamp: u64,
    value: String,
}

/// The service and the span; `None` where it cannot be one.
fn read_span(json: &str) -> Option<(String, Span)> {
    let mut sent: ZipkinSpan = serde_json::from_str(json).ok()?;
    let trace_id: TraceId = sent.trace_id.parse().ok()?;
    let span_id = padded_span_id(&sent.id)?;
    let parent = match sent.parent_id.as_deref() {
        None | Some("") => None,
        Some(parent) => Some(padded_span_id(parent)?),
    };
    let mut tags = sent.tags.take().unwrap_or_default();
    let start = sent.timestamp.unwrap_or(0).saturating_mul(1_000);
    let service = sent.local_endpoint.as_mut().and_then(|local| local.service_name.take());
    let span = Span {
        trace_id: trace_id.as_bytes().to_vec(),
        span_id: span_id.as_bytes().to_vec(),
        trace_state: tags.remove("w3c.tracestate").unwrap_or_default(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.as_bytes().to_vec()),
        name: sent.name.take().unwrap_or_default(),
        kind: kind(sent.kind.as_deref(), &mut tags) as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(sent.duration.unwrap_or(0).saturating_mul(1_000)),
        events: sent.annotations.take().unwrap_or_default().into_iter().map(event).collect(),
        status: status(&mut tags),
        attributes: attributes(sent, tags),
        ..Span::default()
    };
    Some((service.unwrap_or_default(), span))
}

/// Ids of up to 16 hex digits; Zipkin senders may leave leading zeros away.
fn padded_span_id(text: &str) -> Option<SpanId> {
    format!("{text:0>16}").parse().ok()
}

fn kind(kind: Option<&str>, tags: &mut BTreeMap<String, String>) -> SpanKind {
    match kind {
        Some("CLIENT") => SpanKind::Client,
        Some("SERVER") => SpanKind::Server,
        Some("PRODUCER") => SpanKind::Producer,
        Some("CONSUMER") => SpanKind::Consumer,
        _ if tags.get("span.kind").is_some_and(|word| word == "internal") => {
            tags.remove("span.kind");
            SpanKind::Internal
        }
        _ => SpanKind::Unspecified,
    }
}

/// OpenTelemetry's exporters say the status in two tags; Zipkin says `error`.
fn status(tags: &mut BTreeMap<String, String>) -> Option<Status> {
    let code = match tags.remove("otel.status_code").as_deref() {
        Some("OK" | "STATUS_CODE_OK") => StatusCode::Ok,
        Some("ERROR" | "STATUS_CODE_ERROR") => StatusCode::Error,
        _ => StatusCode::Unset,
    };
    let description = tags.remove("otel.status_description");
    let error = tags.get("error").filter(|value| *value != "false").cloned();
    if error.as_deref() == Some("true") {
        tags.remove("error");
    }
    let code = if error.is_some() { StatusCode::Error } else { code };
    let said = error.filter(|value| value != "true");
    let message = description.or(said).unwrap_or_default();
    let is_said = code != StatusCode::Unset || !message.is_empty();
    is_said.then_some(Status { message, code: code as i32 })
}

fn attributes(sent: ZipkinSpan, tags: BTreeMap<String, String>) -> Vec<KeyValue> {
    let mut attributes: Vec<_> = tags.into_iter().map(|(key, value)| text(&key, value)).collect();
    let local = sent.local_endpoint.unwrap_or_default();
    let remote = sent.remote_endpoint.unwrap_or_default();
    attributes.extend(local.ipv4.or(local.ipv6).map(|address| text("net.host.ip", address)));
    attributes.extend(local.port.map(|port| number("net.host.port", port)));
    attributes.extend(remote.service_name.map(|name| text("peer.service", name)));
    attributes.extend(remote.ipv4.or(remote.ipv6).map(|address| text("net.peer.ip", address)));
    attributes.extend(remote.port.map(|port| number("net.peer.port", port)));
    attributes.extend(sent.debug.map(|value| flag("zipkin.debug", value)));
    attributes.extend(sent.shared.map(|value| flag("zipkin.shared", value)));
    attributes
}

fn event(annotation: Annotation) -> Event {
    let time_unix_nano = annotation.timestamp.saturating_mul(1_000);
    Event { time_unix_nano, name: annotation.value, ..Event::default() }
}

fn resource_spans((service, spans): (String, Vec<Span>)) -> ResourceSpans {
    let is_named = !service.is_empty();
    let attributes = is_named.then(|| text("service.name", service)).into_iter().collect();
    let scope = InstrumentationScope { name: "zipkin".into(), ..InstrumentationScope::default() };
    ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value))
}

fn number(key: &str, value: u16) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value.into()))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, any_value::Value::BoolValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

#[cfg(test)]
mod tests;
