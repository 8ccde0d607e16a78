use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use trace_model::{Certificate, RegionOutcome, RegionReport, TraceSpans};

use super::*;
use crate::fakes::{id, region, resource, stored};
use crate::room::Held;

fn attribute(key: &str, value: common::any_value::Value) -> common::KeyValue {
    let value = Some(common::AnyValue { value: Some(value) });
    common::KeyValue { key: key.to_owned(), value, ..common::KeyValue::default() }
}

fn answer(span: &otlp::Span, report: RegionReport) -> TraceAnswer {
    let mut spans = TraceSpans::new(id(5));
    spans.insert(stored(span, &resource("shop/web"), &region("eu")));
    let mut certificate = Certificate::default();
    certificate.add(report);
    TraceAnswer { spans, certificate, held: Held::default() }
}

fn full_span() -> otlp::Span {
    use common::any_value::Value as Any;
    let list =
        common::ArrayValue { values: vec![common::AnyValue { value: Some(Any::IntValue(1)) }] };
    otlp::Span {
        trace_id: vec![5; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        trace_state: "a=b".to_owned(),
        flags: 0x101,
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_790_000_000_000_001_999,
        end_time_unix_nano: 1_790_000_000_002_501_999,
        attributes: vec![
            attribute("text", Any::StringValue("x".to_owned())),
            attribute("flag", Any::BoolValue(true)),
            attribute("small", Any::IntValue(-7)),
            attribute("large", Any::IntValue(i64::MAX)),
            attribute("half", Any::DoubleValue(0.5)),
            attribute("nan", Any::DoubleValue(f64::NAN)),
            attribute("raw", Any::BytesValue(vec![1, 2, 3])),
            attribute("list", Any::ArrayValue(list)),
        ],
        events: vec![otlp::span::Event {
            time_unix_nano: 1_790_000_000_000_005_000,
            name: "retry".to_owned(),
            attributes: vec![attribute("n", Any::IntValue(2))],
            ..otlp::span::Event::default()
        }],
        links: vec![otlp::span::Link {
            trace_id: vec![8; 16],
            span_id: vec![9; 8],
            ..otlp::span::Link::default()
        }],
        status: Some(otlp::Status { code: 2, message: "boom".to_owned() }),
        ..otlp::Span::default()
    }
}

fn render(answer: &TraceAnswer) -> Value {
    serde_json::to_value(JaegerTrace::new(answer)).unwrap()
}

fn tag_of<'a>(tags: &'a Value, key: &str) -> &'a Value {
    let tags = tags.as_array().unwrap();
    tags.iter().find(|tag| tag["key"] == key).unwrap_or(&Value::Null)
}

#[test]
fn a_span_has_the_fields_that_jaeger_has() {
    let whole = RegionReport::new(region("eu"), RegionOutcome::Answered);
    let trace = render(&answer(&full_span(), whole));
    assert_eq!(trace["traceID"], "05050505050505050505050505050505");
    assert_eq!(trace["warnings"], Value::Null);
    let span = &trace["spans"][0];
    assert_eq!(span["spanID"], "0202020202020202");
    assert_eq!(span["operationName"], "GET /");
    assert_eq!(span["flags"], 1);
    assert_eq!(span["startTime"], 1_790_000_000_000_001_u64);
    assert_eq!(span["duration"], 2_500);
    let references = serde_json::json!([
        {"refType": "CHILD_OF", "traceID": "05050505050505050505050505050505",
         "spanID": "0303030303030303"},
        {"refType": "FOLLOWS_FROM", "traceID": "08080808080808080808080808080808",
         "spanID": "0909090909090909"},
    ]);
    assert_eq!(span["references"], references);
    let log = serde_json::json!([{"timestamp": 1_790_000_000_000_005_u64, "fields": [
        {"key": "event", "type": "string", "value": "retry"},
        {"key": "n", "type": "int64", "value": 2},
    ]}]);
    assert_eq!(span["logs"], log);
    assert_eq!(span["processID"], "p1");
    let process = &trace["processes"]["p1"];
    assert_eq!(process["serviceName"], "shop/web");
    assert_eq!(tag_of(&process["tags"], "farspan.region")["value"], "eu");
}

#[test]
fn tags_keep_their_types_and_carry_otlps_own_fields() {
    let whole = RegionReport::new(region("eu"), RegionOutcome::Answered);
    let trace = render(&answer(&full_span(), whole));
    let tags = &trace["spans"][0]["tags"];
    for (key, kind, value) in [
        ("text", "string", serde_json::json!("x")),
        ("flag", "bool", serde_json::json!(true)),
        ("small", "int64", serde_json::json!(-7)),
        ("large", "int64", serde_json::json!("9223372036854775807")),
        ("half", "float64", serde_json::json!(0.5)),
        ("nan", "float64", serde_json::json!("NaN")),
        ("raw", "binary", serde_json::json!("AQID")),
        ("list", "string", serde_json::json!("[1]")),
        ("span.kind", "string", serde_json::json!("server")),
        ("otel.status_code", "string", serde_json::json!("ERROR")),
        ("otel.status_description", "string", serde_json::json!("boom")),
        ("error", "bool", serde_json::json!(true)),
        ("w3c.tracestate", "string", serde_json::json!("a=b")),
    ] {
        let tag = tag_of(tags, key);
        assert_eq!((&tag["type"], &tag["value"]), (&kind.into(), &value), "{key}");
    }
}

#[test]
fn what_is_missing_is_a_warning_on_the_trace_and_on_its_first_span() {
    let late = RegionReport::new(region("us"), RegionOutcome::TimedOut);
    let trace = render(&answer(&full_span(), late));
    let warning = "farspan: partial: 0 of 1 regions; missing us (timed_out)";
    assert_eq!(trace["warnings"][0], warning);
    assert_eq!(trace["spans"][0]["warnings"][0], warning);
    let closed = RegionReport::new(region("us"), RegionOutcome::Forbidden);
    let trace = render(&answer(&full_span(), closed));
    assert!(trace["warnings"][0].as_str().unwrap().contains("withheld by us (forbidden)"));
}

#[test]
fn equal_resources_of_one_region_are_one_process() {
    let mut processes = Processes::default();
    let web = || Arc::new(Resource { service: "web".into(), ..Resource::default() });
    let (eu, us) = (region("eu"), region("us"));
    assert_eq!(processes.id_of(&web(), &eu), "p1");
    let held = [web(), web()];
    assert_eq!(processes.id_of(&held[0], &eu), "p1");
    assert_eq!(processes.id_of(&held[1], &us), "p2");
    assert_eq!(processes.found.len(), 2);
}
