//! OTLP JSON into the words of `trace-model`: what `farspan trace` draws from. Tolerant: hex ids in
//! both cases, numbers as text, enums as numbers or names, unknown fields.

use std::sync::Arc;

use serde::Deserialize;
use trace_model::span::{Resource, Scope, UNKNOWN_SERVICE};
use trace_model::{Region, Span, SpanId, SpanKind, StatusCode, TraceId, UnixNanos};

use super::answer::{CertificateAnswer, number};

/// The answer of `/api/farspan/v1/traces/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TraceAnswer {
    resource_spans: Vec<ResourceSpans>,
    /// Whether it is whole.
    #[serde(rename = "completeness")]
    pub(super) certificate: CertificateAnswer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceSpans {
    resource: ResourceJson,
    scope_spans: Vec<ScopeSpans>,
    /// The region that holds these spans: a field of ours, beside OTLP's.
    farspan_region: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResourceJson {
    attributes: Vec<KeyValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopeSpans {
    spans: Vec<SpanJson>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KeyValue {
    key: String,
    value: serde_json::Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpanJson {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: String,
    kind: serde_json::Value,
    #[serde(deserialize_with = "number")]
    start_time_unix_nano: u64,
    #[serde(deserialize_with = "number")]
    end_time_unix_nano: u64,
    status: StatusJson,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusJson {
    code: serde_json::Value,
    message: String,
}

impl TraceAnswer {
    /// The spans with their regions, and how many could not be read.
    pub(super) fn spans(self) -> (Vec<(Span, Option<Region>)>, usize) {
        let scope = Arc::new(Scope::default());
        let (mut spans, mut unreadable) = (Vec::new(), 0);
        for group in self.resource_spans {
            let resource = Arc::new(resource(&group.resource));
            let region = Region::new(&group.farspan_region).ok();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                match read_span(span, &resource, &scope) {
                    Some(span) => spans.push((span, region.clone())),
                    None => unreadable += 1,
                }
            }
        }
        (spans, unreadable)
    }
}

fn resource(json: &ResourceJson) -> Resource {
    let service = json.attributes.iter().find(|pair| pair.key == "service.name");
    let service = service.and_then(|pair| pair.value.get("stringValue")?.as_str());
    Resource { service: service.unwrap_or(UNKNOWN_SERVICE).into(), ..Resource::default() }
}

fn read_span(json: SpanJson, resource: &Arc<Resource>, scope: &Arc<Scope>) -> Option<Span> {
    Some(Span {
        trace_id: json.trace_id.parse::<TraceId>().ok()?,
        span_id: json.span_id.parse::<SpanId>().ok()?,
        parent_span_id: json.parent_span_id.parse::<SpanId>().ok(),
        trace_state: String::new(),
        flags: 0,
        name: json.name,
        kind: SpanKind::from_number(enum_number(&json.kind, &KINDS)),
        start: UnixNanos(json.start_time_unix_nano),
        end: UnixNanos(json.end_time_unix_nano),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: Vec::new(),
        dropped_events_count: 0,
        links: Vec::new(),
        dropped_links_count: 0,
        status: StatusCode::from_number(enum_number(&json.status.code, &STATUSES)),
        status_message: json.status.message,
        resource: Arc::clone(resource),
        scope: Arc::clone(scope),
    })
}

const KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUSES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

/// The number of an enum that is written as its number or its name.
fn enum_number(value: &serde_json::Value, names: &[&str]) -> i32 {
    let number = value.as_i64().or_else(|| {
        let name = value.as_str()?;
        let place = names.iter().position(|known| *known == name)?;
        i64::try_from(place).ok()
    });
    number.and_then(|number| i32::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name",
        "value":{"stringValue":"web"}}]},"scopeSpans":[{"scope":{},"spans":[
        {"traceId":"5759E988BD862E3FE1BE46A994272793","spanId":"00000000000000a1","name":"GET /",
         "kind":"SPAN_KIND_SERVER","startTimeUnixNano":"1790000000000000000",
         "endTimeUnixNano":1790000000005000000,"status":{"code":2,"message":"boom"},"later":{}},
        {"traceId":"5759e988bd862e3fe1be46a994272793","spanId":"nonsense","name":"x"},
        {"traceId":"5759e988bd862e3fe1be46a994272793","spanId":"00000000000000a2",
         "parentSpanId":"00000000000000a1","name":"call","kind":3}]}],
        "farspanRegion":"eu-west-1"}],
        "completeness":{"verdict":"complete","text":"complete: 2 of 2 regions"}}"#;

    #[test]
    fn every_spelling_of_otlp_json_is_read_and_bad_spans_are_counted() {
        let answer: TraceAnswer = serde_json::from_str(JSON).unwrap();
        assert!(answer.certificate.is_complete());
        let (spans, unreadable) = answer.spans();
        assert_eq!((spans.len(), unreadable), (2, 1));
        let (span, region) = &spans[0];
        assert_eq!(&*span.resource.service, "web");
        assert_eq!((span.kind, span.status), (SpanKind::Server, StatusCode::Error));
        assert_eq!(span.duration_nanos(), 5_000_000);
        assert_eq!(region.as_ref().unwrap().as_str(), "eu-west-1");
        assert_eq!(spans[1].0.parent_span_id, Some(spans[0].0.span_id));
    }
}
