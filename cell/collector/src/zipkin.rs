//! Zipkin v2 JSON into OTLP: one resource for each service, ids padded, microseconds made
//! nanoseconds, tags attributes, annotations events.
//!
//! Follows what users of the OpenTelemetry Collector's Zipkin receiver are used to, but that an
//! `error` tag of any value marks an error, as Zipkin defines it, and stays readable as the status
//! message. Each span is written as protobuf before the next one is read: nothing is built that
//! would be much larger than the JSON, and what is over a limit is not built at all. A span that
//! cannot be translated is rejected alone.
//! Source: Zipkin API v2 (`zipkin2-api.yaml`); OpenTelemetry, *Transformation to Zipkin*.

mod parts;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use proto::wire::{bytes_field_len, put_bytes_field, put_field_start, tags as wire};
use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use trace_model::{SpanId, TraceId};

use self::parts::{read_events, read_tags};
use crate::config::SpanLimits;
use crate::error::ExportError;
use crate::receipt::{RejectReason, Rejections};

/// What is wanted, as the end of "the body is not".
const WANTED: &str = "a JSON list of Zipkin spans";

/// Spans by the service that sent them, as fields of a `ScopeSpans`; "" where none is named.
type ByService = BTreeMap<String, Vec<u8>>;

/// A request as OTLP protobuf.
#[derive(Debug, Default)]
pub(crate) struct Translated {
    /// `ExportTraceServiceRequest`.
    pub(crate) body: Bytes,
    /// The spans that are not in it.
    pub(crate) rejected: Rejections,
}

/// How much longer than the JSON what is made of it can be, at most.
pub(crate) const GROWTH_MAX: usize = 2;

/// The request as OTLP protobuf. More spans than allowed are refused as soon as they are met.
pub(crate) fn translate(json: &[u8], limits: &SpanLimits) -> Result<Translated, ExportError> {
    let (by_service, rejected) = (ByService::new(), Rejections::default());
    let mut reader = ListReader { limits, by_service, rejected, spans: 0 };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer.deserialize_seq(&mut reader).and_then(|()| deserializer.end());
    if reader.spans > limits.spans_max {
        return Err(ExportError::TooManySpans { spans_max: limits.spans_max });
    }
    read.map_err(|error| ExportError::MalformedJson(WANTED, error.to_string()))?;
    let mut body = Vec::new();
    for (service, spans) in reader.by_service {
        put_resource_spans(&mut body, service, &spans);
    }
    Ok(Translated { body: body.into(), rejected: reader.rejected })
}

/// Reads the list span by span: a span is translated before the next one is looked at.
struct ListReader<'l> {
    limits: &'l SpanLimits,
    by_service: ByService,
    rejected: Rejections,
    spans: usize,
}

impl<'de> Visitor<'de> for &mut ListReader<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of spans")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<&RawValue>()? {
            self.spans += 1;
            if self.spans > self.limits.spans_max {
                return Err(serde::de::Error::custom("too many spans"));
            }
            match read_span(raw.get(), self.limits) {
                Ok((service, span)) => {
                    let spans = self.by_service.entry(service).or_default();
                    put_bytes_field(spans, wire::SCOPE_SPANS_SPANS, &span);
                }
                Err(reason) => self.rejected.add(reason, 1),
            }
        }
        Ok(())
    }
}

/// A span of Zipkin's API. What it does not name is ignored; what may be long is read apart.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan<'a> {
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
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
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

/// The service and the span as protobuf.
fn read_span(json: &str, limits: &SpanLimits) -> Result<(String, Vec<u8>), RejectReason> {
    let unreadable = RejectReason::Unreadable;
    let mut sent: ZipkinSpan<'_> = serde_json::from_str(json).map_err(|_| unreadable)?;
    let trace_id: TraceId = sent.trace_id.parse().map_err(|_| RejectReason::BadTraceId)?;
    let span_id = padded_span_id(&sent.id).ok_or(RejectReason::BadSpanId)?;
    let parent = match sent.parent_id.as_deref() {
        None | Some("") => None,
        Some(parent) => Some(padded_span_id(parent).ok_or(unreadable)?),
    };
    let mut tags = read_tags(sent.tags.take(), limits.attributes_max)?;
    let events = read_events(sent.annotations.take(), limits.parts_max)?;
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
        status: status(&mut tags),
        attributes: attributes(sent, tags),
        ..Span::default()
    };
    let mut span = span.encode_to_vec();
    span.extend_from_slice(&events);
    Ok((service.unwrap_or_default(), span))
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

fn attributes(sent: ZipkinSpan<'_>, tags: BTreeMap<String, String>) -> Vec<KeyValue> {
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

/// A `ResourceSpans` with one scope, around spans that are fields already.
fn put_resource_spans(output: &mut Vec<u8>, service: String, spans: &[u8]) {
    let is_named = !service.is_empty();
    let attributes = is_named.then(|| text("service.name", service)).into_iter().collect();
    let resource = Resource { attributes, ..Resource::default() }.encode_to_vec();
    let scope = InstrumentationScope { name: "zipkin".into(), ..InstrumentationScope::default() };
    let scope = scope.encode_to_vec();
    let in_scope = bytes_field_len(wire::SCOPE_SPANS_SCOPE, scope.len()) + spans.len();
    let in_resource = bytes_field_len(wire::RESOURCE_SPANS_RESOURCE, resource.len())
        + bytes_field_len(wire::RESOURCE_SPANS_SCOPE_SPANS, in_scope);
    put_field_start(output, wire::REQUEST_RESOURCE_SPANS, in_resource);
    put_bytes_field(output, wire::RESOURCE_SPANS_RESOURCE, &resource);
    put_field_start(output, wire::RESOURCE_SPANS_SCOPE_SPANS, in_scope);
    put_bytes_field(output, wire::SCOPE_SPANS_SCOPE, &scope);
    output.extend_from_slice(spans);
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
