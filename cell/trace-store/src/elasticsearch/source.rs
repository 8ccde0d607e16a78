//! A document, ours or one that Jaeger wrote, as the span that a filter judges.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use trace_model::query::{kind_of_word, status_of_word};
use trace_model::span::{Event, Link, Resource, Scope, Span, SpanKind, StatusCode};
use trace_model::{AnyValue, Attribute, SpanId, TraceId, UnixNanos};

/// What is read of a document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Source {
    operation_name: String,
    start_time: u64,
    duration: u64,
    tags: Option<Vec<Tag>>,
    tag: Option<Map<String, Value>>,
    scope_tags: Option<Vec<Tag>>,
    logs: Option<Vec<Log>>,
    references: Option<Vec<Reference>>,
    pub(super) process: Process,
    farspan: Option<Ours>,
}

/// Whose span it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Process {
    pub(super) service_name: String,
    tags: Option<Vec<Tag>>,
    tag: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    farspan: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Log {
    timestamp: u64,
    fields: Option<Vec<Tag>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    tags: Option<Vec<Tag>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ours {
    start: u64,
    end: u64,
    kind: i32,
    status: i32,
    message: String,
    unnamed: bool,
    more: More,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct More {
    tags: Vec<Tag>,
    process: Vec<Tag>,
    scope: Vec<Tag>,
    fields: Vec<Tag>,
    links: Vec<Tag>,
}

impl Source {
    /// The span, as far as a filter looks at it: it has an id, but not its own.
    pub(super) fn into_span(self, trace_id: TraceId) -> Option<Span> {
        let span_id = SpanId::from_bytes([1; 8]).ok()?;
        let is_ours = self.farspan.is_some();
        let ours = self.farspan.unwrap_or_default();
        let start =
            if is_ours { UnixNanos(ours.start) } else { UnixNanos::from_micros(self.start_time) };
        let end = if is_ours {
            UnixNanos(ours.end)
        } else {
            start.plus(self.duration.saturating_mul(1_000))
        };
        let resource = resource(self.process, ours.more.process, ours.unnamed);
        let mut attributes = attributes_of(self.tags.unwrap_or_default(), ours.more.tags);
        attributes.extend(as_fields(self.tag));
        let mut span = Span {
            trace_id,
            span_id,
            parent_span_id: None,
            trace_state: String::new(),
            flags: 0,
            name: self.operation_name,
            kind: SpanKind::from_number(ours.kind),
            start,
            end,
            attributes,
            dropped_attributes_count: 0,
            events: events(self.logs, ours.more.fields),
            dropped_events_count: 0,
            links: links(self.references, ours.more.links, (trace_id, span_id)),
            dropped_links_count: 0,
            status: StatusCode::from_number(ours.status),
            status_message: ours.message,
            resource: Arc::new(resource),
            scope: Arc::new(Scope {
                attributes: attributes_of(self.scope_tags.unwrap_or_default(), ours.more.scope),
                ..Scope::default()
            }),
        };
        if !is_ours {
            take_fields(&mut span);
        }
        Some(span)
    }
}

/// The name that Jaeger writes where a resource has none.
const JAEGERS_UNKNOWN: &str = "OTLPResourceNoServiceName";

/// The service is an attribute as well, unless none was sent or it stands among the tags.
fn resource(process: Process, more: Vec<Tag>, is_unnamed: bool) -> Resource {
    let mut attributes = attributes_of(process.tags.unwrap_or_default(), more);
    attributes.extend(as_fields(process.tag));
    let name = process.service_name;
    let is_sent = !is_unnamed && !name.is_empty() && name != JAEGERS_UNKNOWN;
    if is_sent && attributes.iter().all(|found| found.key != "service.name") {
        let value = AnyValue::Str(name.clone());
        attributes.push(Attribute { key: "service.name".to_owned(), value });
    }
    Resource { service: name.into(), attributes, ..Resource::default() }
}

fn attributes_of(nested: Vec<Tag>, more: Vec<Tag>) -> Vec<Attribute> {
    let is_attribute = |tag: &Tag| tag.farspan.as_deref() != Some("field");
    nested.into_iter().chain(more).filter(is_attribute).map(attribute).collect()
}

fn attribute(tag: Tag) -> Attribute {
    let Tag { key, kind, value, farspan } = tag;
    if farspan.is_some() {
        return Attribute { key, value: AnyValue::Empty };
    }
    let value = match (kind.as_deref(), value) {
        (Some("bool"), Value::String(text)) => text.parse().map_or(AnyValue::Empty, AnyValue::Bool),
        (Some("int64"), Value::String(text)) => text.parse().map_or(AnyValue::Empty, AnyValue::Int),
        (Some("float64"), Value::String(text)) => {
            text.parse().map_or(AnyValue::Empty, AnyValue::Double)
        }
        (Some("float64"), Value::Number(number)) => double(&number),
        (Some("binary"), _) => AnyValue::Bytes(Vec::new()),
        (_, value) => untyped(value),
    };
    Attribute { key, value }
}

fn double(number: &serde_json::Number) -> AnyValue {
    number.as_f64().map_or(AnyValue::Empty, AnyValue::Double)
}

fn untyped(value: Value) -> AnyValue {
    match value {
        Value::String(text) => AnyValue::Str(text),
        Value::Bool(value) => AnyValue::Bool(value),
        Value::Number(number) => number.as_i64().map_or_else(|| double(&number), AnyValue::Int),
        Value::Null | Value::Array(_) | Value::Object(_) => AnyValue::Empty,
    }
}

/// Tags that a Jaeger wrote as fields of an object, with another character for the dot.
fn as_fields(tags: Option<Map<String, Value>>) -> impl Iterator<Item = Attribute> {
    tags.into_iter()
        .flatten()
        .map(|(key, value)| Attribute { key: key.replace('@', "."), value: untyped(value) })
}

fn events(logs: Option<Vec<Log>>, more: Vec<Tag>) -> Vec<Event> {
    let event = |log: Log| Event {
        time: UnixNanos::from_micros(log.timestamp),
        attributes: attributes_of(log.fields.unwrap_or_default(), vec![]),
        ..Event::default()
    };
    let rest = Event { attributes: attributes_of(more, vec![]), ..Event::default() };
    logs.into_iter().flatten().map(event).chain([rest]).collect()
}

fn links(references: Option<Vec<Reference>>, more: Vec<Tag>, to: (TraceId, SpanId)) -> Vec<Link> {
    let lists = references.into_iter().flatten().map(|found| found.tags.unwrap_or_default());
    let link = |tags: Vec<Tag>| Link {
        trace_id: to.0,
        span_id: to.1,
        trace_state: String::new(),
        attributes: attributes_of(tags, vec![]),
        dropped_attributes_count: 0,
        flags: 0,
    };
    lists.chain([more]).map(link).collect()
}

/// Tags that a Jaeger makes of a span's fields become fields again.
fn take_fields(span: &mut Span) {
    let mut kept = Vec::with_capacity(span.attributes.len());
    let mut said = None;
    for attribute in std::mem::take(&mut span.attributes) {
        match (attribute.key.as_str(), &attribute.value) {
            ("span.kind", AnyValue::Str(word)) => {
                span.kind = kind_of_word(word).unwrap_or_default();
            }
            ("error", AnyValue::Bool(true)) => span.status = StatusCode::Error,
            ("otel.status_code", AnyValue::Str(word)) => {
                said = status_of_word(&word.to_lowercase());
            }
            ("otel.status_description", AnyValue::Str(text)) => {
                span.status_message.clone_from(text);
            }
            ("w3c.tracestate" | "otel.scope.name" | "otel.scope.version", AnyValue::Str(_)) => {}
            _ => kept.push(attribute),
        }
    }
    if span.status == StatusCode::Unset {
        span.status = said.unwrap_or_default();
    }
    span.attributes = kept;
}

#[cfg(test)]
mod tests;
