//! A trace in the JSON of Jaeger's query service, after OpenTelemetry's *OpenTelemetry to Jaeger
//! Transformation*: kind, status, scope and tracestate become tags, links references of type
//! `FOLLOWS_FROM`, events logs, resources processes. Times are microseconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Number, Value};
use trace_model::span::{Event, Resource};
use trace_model::{AnyValue, Attribute, Certificate, Region, Span, SpanKind, StatusCode, Verdict};

use crate::assembled::TraceAnswer;

/// Integers beyond this are strings: readers in JavaScript would round them.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

#[derive(Debug, Serialize)]
pub(super) struct JaegerTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<SpanJson>,
    processes: BTreeMap<String, ProcessJson>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    flags: u32,
    operation_name: String,
    references: Vec<ReferenceJson>,
    start_time: u64,
    duration: u64,
    tags: Vec<TagJson>,
    logs: Vec<LogJson>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferenceJson {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Clone, Debug, Serialize)]
struct TagJson {
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: Value,
}

#[derive(Debug, Serialize)]
struct LogJson {
    timestamp: u64,
    fields: Vec<TagJson>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessJson {
    service_name: String,
    tags: Vec<TagJson>,
}

impl JaegerTrace {
    /// The trace, in the order of a waterfall, with what is missing as warnings.
    pub(super) fn new(answer: &TraceAnswer) -> Self {
        let (trace, unreadable) = answer.assemble();
        let warnings = warnings(&answer.certificate, unreadable);
        let mut processes = Processes::default();
        let mut spans: Vec<SpanJson> = trace
            .nodes
            .iter()
            .map(|node| {
                let process_id = processes.id_of(&node.span.resource, &node.region);
                span_json(&node.span, process_id)
            })
            .collect();
        if let Some(first) = spans.first_mut() {
            first.warnings.clone_from(&warnings);
        }
        let trace_id = answer.spans.trace_id().to_string();
        Self { trace_id, spans, processes: processes.found, warnings }
    }
}

/// What a reader must know: what is missing, what is withheld, what could not be read.
fn warnings(certificate: &Certificate, unreadable: usize) -> Option<Vec<String>> {
    let mut warnings = Vec::new();
    let is_partial = certificate.verdict() == Verdict::Partial;
    if is_partial || certificate.withheld().next().is_some() {
        warnings.push(format!("farspan: {certificate}"));
    }
    if unreadable > 0 {
        warnings.push(format!("farspan: {unreadable} spans cannot be read and are not shown"));
    }
    (!warnings.is_empty()).then_some(warnings)
}

/// Processes by resource and region; equal ones have one id.
#[derive(Default)]
struct Processes {
    found: BTreeMap<String, ProcessJson>,
    by_address: HashMap<(*const Resource, Region), String>,
    by_content: HashMap<(String, Region), String>,
}

impl Processes {
    fn id_of(&mut self, resource: &Arc<Resource>, region: &Region) -> String {
        let address = (Arc::as_ptr(resource), region.clone());
        if let Some(id) = self.by_address.get(&address) {
            return id.clone();
        }
        let next = format!("p{}", self.found.len().saturating_add(1));
        let content = (format!("{resource:?}"), region.clone());
        let id = self.by_content.entry(content).or_insert(next.clone()).clone();
        if id == next {
            self.found.insert(id.clone(), process_json(resource, region));
        }
        self.by_address.insert(address, id.clone());
        id
    }
}

fn process_json(resource: &Resource, region: &Region) -> ProcessJson {
    let named = resource.attributes.iter().filter(|attribute| attribute.key != "service.name");
    let mut tags: Vec<TagJson> = named.map(tag).collect();
    tags.push(text_tag("farspan.region", region.as_str()));
    ProcessJson { service_name: (*resource.service).to_owned(), tags }
}

fn span_json(span: &Span, process_id: String) -> SpanJson {
    SpanJson {
        trace_id: span.trace_id.to_string(),
        span_id: span.span_id.to_string(),
        // W3C: the low byte are the trace flags, above it are OTLP's own bits.
        flags: span.flags & 0xff,
        operation_name: span.name.clone(),
        references: references(span),
        start_time: span.start.micros(),
        duration: span.duration_nanos() / 1_000,
        tags: span_tags(span),
        logs: span.events.iter().map(log).collect(),
        process_id,
        warnings: None,
    }
}

fn references(span: &Span) -> Vec<ReferenceJson> {
    let parent = span.parent_span_id.map(|parent| ReferenceJson {
        ref_type: "CHILD_OF",
        trace_id: span.trace_id.to_string(),
        span_id: parent.to_string(),
    });
    let links = span.links.iter().map(|link| ReferenceJson {
        ref_type: "FOLLOWS_FROM",
        trace_id: link.trace_id.to_string(),
        span_id: link.span_id.to_string(),
    });
    parent.into_iter().chain(links).collect()
}

fn span_tags(span: &Span) -> Vec<TagJson> {
    let mut tags: Vec<TagJson> = span.attributes.iter().map(tag).collect();
    if span.kind != SpanKind::Unspecified {
        tags.push(text_tag("span.kind", span.kind.word()));
    }
    match span.status {
        StatusCode::Unset => {}
        StatusCode::Ok => tags.push(text_tag("otel.status_code", "OK")),
        StatusCode::Error => {
            tags.push(text_tag("otel.status_code", "ERROR"));
            if !span.attributes.iter().any(|attribute| attribute.key == "error") {
                tags.push(TagJson { key: "error".to_owned(), kind: "bool", value: true.into() });
            }
        }
    }
    for (key, text) in [
        ("otel.status_description", &span.status_message),
        ("otel.scope.name", &span.scope.name),
        ("otel.scope.version", &span.scope.version),
        ("w3c.tracestate", &span.trace_state),
    ] {
        if !text.is_empty() {
            tags.push(text_tag(key, text));
        }
    }
    tags
}

fn log(event: &Event) -> LogJson {
    let has_own = event.attributes.iter().any(|attribute| attribute.key == "event");
    let name = (!has_own && !event.name.is_empty()).then(|| text_tag("event", &event.name));
    let fields = name.into_iter().chain(event.attributes.iter().map(tag)).collect();
    LogJson { timestamp: event.time.micros(), fields }
}

fn text_tag(key: &str, text: &str) -> TagJson {
    TagJson { key: key.to_owned(), kind: "string", value: text.into() }
}

fn tag(attribute: &Attribute) -> TagJson {
    let (kind, value) = match &attribute.value {
        AnyValue::Empty => ("string", Value::from("")),
        AnyValue::Str(text) => ("string", Value::from(text.as_str())),
        AnyValue::Bool(value) => ("bool", Value::from(*value)),
        AnyValue::Int(value) if value.unsigned_abs() > SAFE_INTEGER_MAX => {
            ("int64", Value::from(value.to_string()))
        }
        AnyValue::Int(value) => ("int64", Value::from(*value)),
        AnyValue::Double(value) => ("float64", double(*value)),
        AnyValue::Bytes(bytes) => ("binary", Value::from(STANDARD.encode(bytes))),
        AnyValue::Array(_) | AnyValue::KvList(_) => {
            ("string", Value::from(plain(&attribute.value).to_string()))
        }
    };
    TagJson { key: attribute.key.clone(), kind, value }
}

/// JSON has no number for what is not finite: a word stands for it.
fn double(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number)
}

/// Lists and maps as plain JSON, which Jaeger shows as text.
fn plain(value: &AnyValue) -> Value {
    match value {
        AnyValue::Empty => Value::Null,
        AnyValue::Str(text) => Value::from(text.as_str()),
        AnyValue::Bool(value) => Value::from(*value),
        AnyValue::Int(value) => Value::from(*value),
        AnyValue::Double(value) => double(*value),
        AnyValue::Bytes(bytes) => Value::from(STANDARD.encode(bytes)),
        AnyValue::Array(list) => list.iter().map(plain).collect(),
        AnyValue::KvList(list) => {
            list.iter().map(|pair| (pair.key.clone(), plain(&pair.value))).collect()
        }
    }
}

#[cfg(test)]
mod tests;
