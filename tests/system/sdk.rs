//! The OpenTelemetry Rust SDK as the client: what it was told to send comes back, span by span and
//! field by field, and so does OTLP JSON by hand.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use opentelemetry::trace::{
    Event, Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Array, Context, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::resource::v1 as resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use opentelemetry_proto::tonic::trace::v1::TracesData;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos};
use crate::http::{eventually, send};
use crate::whole::compare;

fn provider(service: &'static str, port: u16) -> SdkTracerProvider {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .build()
        .unwrap();
    let resource = Resource::builder_empty()
        .with_attributes([KeyValue::new("service.name", service), KeyValue::new("zone", "z-1")]);
    SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build()
}

fn attribute(key: &str, value: Any) -> common::KeyValue {
    common::KeyValue {
        key: key.to_owned(),
        value: Some(common::AnyValue { value: Some(value) }),
        ..common::KeyValue::default()
    }
}

fn string(text: &str) -> Any {
    Any::StringValue(text.to_owned())
}

/// A span with its resource and scope as they stand in an export.
fn exported(
    service: &str,
    scope: common::InstrumentationScope,
    schema_url: &str,
    span: otlp::Span,
) -> otlp::ResourceSpans {
    let attributes =
        vec![attribute("service.name", string(service)), attribute("zone", string("z-1"))];
    otlp::ResourceSpans {
        resource: Some(resource::Resource { attributes, ..resource::Resource::default() }),
        scope_spans: vec![otlp::ScopeSpans {
            scope: Some(scope),
            spans: vec![span],
            schema_url: schema_url.to_owned(),
        }],
        ..otlp::ResourceSpans::default()
    }
}

/// `SpanFlags` of OTLP: sampled, and that the sender knows whether the parent is remote.
const LOCAL: u32 = 0x101;
/// The same, of a parent that is remote.
const REMOTE: u32 = 0x301;

/// When the spans of the SDK begin, and nanoseconds after it.
#[derive(Clone, Copy, Debug)]
struct Start(u64);

impl Start {
    fn nanos(self, after: u64) -> u64 {
        self.0 + after
    }

    fn time(self, after: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.nanos(after))
    }
}

/// Begins a trace in one service, with every field that a span has but events and links.
fn web_span(web: &SdkTracerProvider, start: Start) -> (SpanContext, otlp::ResourceSpans) {
    let scope = InstrumentationScope::builder("web-lib")
        .with_version("1.2")
        .with_schema_url("https://schema.example/1")
        .with_attributes([KeyValue::new("scope.key", true)])
        .build();
    let tracer = web.tracer_with_scope(scope);
    let list = Value::Array(Array::String(vec![StringValue::from("a"), StringValue::from("b")]));
    let mut span = tracer
        .span_builder("GET /cart")
        .with_kind(SpanKind::Server)
        .with_start_time(start.time(0))
        .with_attributes([
            KeyValue::new("int", i64::MIN),
            KeyValue::new("double", 2.5),
            KeyValue::new("bool", true),
            KeyValue::new("text", "ü€😀"),
            KeyValue::new("list", list),
        ])
        .start(&tracer);
    span.end_with_timestamp(start.time(5_000_001));
    let context = span.span_context().clone();
    let values = ["a", "b"].map(|text| common::AnyValue { value: Some(string(text)) });
    let expected = otlp::Span {
        trace_id: context.trace_id().to_bytes().to_vec(),
        span_id: context.span_id().to_bytes().to_vec(),
        name: "GET /cart".to_owned(),
        kind: otlp::span::SpanKind::Server.into(),
        flags: LOCAL,
        start_time_unix_nano: start.nanos(0),
        end_time_unix_nano: start.nanos(5_000_001),
        attributes: vec![
            attribute("int", Any::IntValue(i64::MIN)),
            attribute("double", Any::DoubleValue(2.5)),
            attribute("bool", Any::BoolValue(true)),
            attribute("text", string("ü€😀")),
            attribute("list", Any::ArrayValue(common::ArrayValue { values: values.into() })),
        ],
        status: Some(otlp::Status::default()),
        ..otlp::Span::default()
    };
    let scope = common::InstrumentationScope {
        name: "web-lib".to_owned(),
        version: "1.2".to_owned(),
        attributes: vec![attribute("scope.key", Any::BoolValue(true))],
        ..common::InstrumentationScope::default()
    };
    (context, exported("web", scope, "https://schema.example/1", expected))
}

/// Goes on with it in another, with an event, a link and a status.
fn cart_span(cart: &SdkTracerProvider, parent: &SpanContext, start: Start) -> otlp::ResourceSpans {
    let state: TraceState = "vendor=value".parse().unwrap();
    let (trace, id) = (parent.trace_id(), parent.span_id());
    let remote = SpanContext::new(trace, id, TraceFlags::SAMPLED, true, state);
    let tracer = cart.tracer("cart-lib");
    let mut span = tracer
        .span_builder("load cart")
        .with_kind(SpanKind::Consumer)
        .with_start_time(start.time(1_000))
        .with_events(vec![Event::new(
            "cache miss",
            start.time(2_000),
            vec![KeyValue::new("cache.key", "c-1"), KeyValue::new("size", 1_i64 << 40)],
            0,
        )])
        .with_links(vec![Link::new(remote.clone(), vec![KeyValue::new("why", "follows")], 0)])
        .start_with_context(&tracer, &Context::new().with_remote_span_context(remote));
    span.set_status(Status::error("no such cart"));
    span.end_with_timestamp(start.time(4_000_000));
    let link = otlp::span::Link {
        trace_id: trace.to_bytes().to_vec(),
        span_id: id.to_bytes().to_vec(),
        trace_state: "vendor=value".to_owned(),
        attributes: vec![attribute("why", string("follows"))],
        flags: REMOTE,
        ..otlp::span::Link::default()
    };
    let event = otlp::span::Event {
        time_unix_nano: start.nanos(2_000),
        name: "cache miss".to_owned(),
        attributes: vec![
            attribute("cache.key", string("c-1")),
            attribute("size", Any::IntValue(1 << 40)),
        ],
        ..otlp::span::Event::default()
    };
    let expected = otlp::Span {
        trace_id: trace.to_bytes().to_vec(),
        span_id: span.span_context().span_id().to_bytes().to_vec(),
        trace_state: "vendor=value".to_owned(),
        parent_span_id: id.to_bytes().to_vec(),
        name: "load cart".to_owned(),
        kind: otlp::span::SpanKind::Consumer.into(),
        flags: REMOTE,
        start_time_unix_nano: start.nanos(1_000),
        end_time_unix_nano: start.nanos(4_000_000),
        events: vec![event],
        links: vec![link],
        status: Some(otlp::Status { code: 2, message: "no such cart".to_owned() }),
        ..otlp::Span::default()
    };
    let scope = common::InstrumentationScope {
        name: "cart-lib".to_owned(),
        ..common::InstrumentationScope::default()
    };
    exported("cart", scope, "", expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rust_sdk_sends_to_two_regions_comes_back_as_one_trace() {
    let federation = Federation::start(&["eu-west-1", "us-east-1"], &[]).await;
    let web = provider("web", federation.regions[0].ports.otlp_grpc);
    let cart = provider("cart", federation.regions[1].ports.otlp_grpc);
    let start = Start(now_nanos());
    let (context, web_spans) = web_span(&web, start);
    let cart_spans = cart_span(&cart, &context, start);
    for provider in [web, cart] {
        tokio::task::spawn_blocking(move || provider.shutdown().unwrap()).await.unwrap();
    }
    let expected = TracesData { resource_spans: vec![web_spans, cart_spans] };
    eventually("both regions' spans, equal", PATIENCE, || async {
        let trace_id = context.trace_id().to_bytes();
        compare(&expected, &federation.trace_spans(0, &trace_id).await?)
    })
    .await;
}

/// An export in JSON to the letter of the specification.
fn json_export(start: u64) -> Bytes {
    let body = serde_json::json!({ "resourceSpans": [{
        "resource": { "attributes": [
            { "key": "service.name", "value": { "stringValue": "json" } },
            { "key": "zone", "value": { "stringValue": "z-1" } },
        ], "later": { "deep": [1, { "x": null }] } },
        "scopeSpans": [{
            "scope": { "name": "s", "version": "1", "droppedAttributesCount": 3 },
            "spans": [{
                "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19B7EC3C1B174",
                "parentSpanId": "EEE19b7ec3c1b173", "traceState": "a=b", "flags": 257,
                "name": "by hand", "kind": 5, "startTimeUnixNano": start.to_string(),
                "endTimeUnixNano": start + 7, "droppedEventsCount": 2, "later": [[]],
                "attributes": [
                    { "key": "i", "value": { "intValue": "9007199254740993" } },
                    { "key": "j", "value": { "intValue": -7 } },
                    { "key": "d", "value": { "doubleValue": 1e300 } },
                    { "key": "b", "value": { "bytesValue": "AAEC" } },
                    { "key": "m", "value": { "kvlistValue": { "values": [
                        { "key": "x", "value": { "arrayValue": { "values": [
                            { "boolValue": true }, {} ] } } }] } } },
                ],
                "events": [{ "timeUnixNano": (start + 1).to_string(), "name": "e",
                    "attributes": [{ "key": "k", "value": { "stringValue": "v" } }] }],
                "links": [{ "traceId": "5b8efff798038103d269b633813fc60d",
                    "spanId": "EEE19B7EC3C1B175", "traceState": "c=d", "flags": 1 }],
                "status": { "code": 2, "message": "bad" },
            }],
            "schemaUrl": "https://schema.example/scope",
        }],
    }] });
    Bytes::from(body.to_string())
}

/// What it stands for.
fn json_meant(start: u64) -> TracesData {
    let list =
        vec![common::AnyValue { value: Some(Any::BoolValue(true)) }, common::AnyValue::default()];
    let list = attribute("x", Any::ArrayValue(common::ArrayValue { values: list }));
    let span = otlp::Span {
        trace_id: JSON_TRACE.to_vec(),
        span_id: vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74],
        parent_span_id: vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x73],
        trace_state: "a=b".to_owned(),
        flags: 257,
        name: "by hand".to_owned(),
        kind: 5,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 7,
        dropped_events_count: 2,
        attributes: vec![
            attribute("i", Any::IntValue(9_007_199_254_740_993)),
            attribute("j", Any::IntValue(-7)),
            attribute("d", Any::DoubleValue(1e300)),
            attribute("b", Any::BytesValue(vec![0, 1, 2])),
            attribute("m", Any::KvlistValue(common::KeyValueList { values: vec![list] })),
        ],
        events: vec![otlp::span::Event {
            time_unix_nano: start + 1,
            name: "e".to_owned(),
            attributes: vec![attribute("k", string("v"))],
            ..otlp::span::Event::default()
        }],
        links: vec![otlp::span::Link {
            trace_id: [&JSON_TRACE[..15], &[0x0d]].concat(),
            span_id: vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x75],
            trace_state: "c=d".to_owned(),
            flags: 1,
            ..otlp::span::Link::default()
        }],
        status: Some(otlp::Status { code: 2, message: "bad".to_owned() }),
        ..otlp::Span::default()
    };
    let scope = common::InstrumentationScope {
        name: "s".to_owned(),
        version: "1".to_owned(),
        dropped_attributes_count: 3,
        ..common::InstrumentationScope::default()
    };
    let expected = exported("json", scope, "https://schema.example/scope", span);
    TracesData { resource_spans: vec![expected] }
}

const JSON_TRACE: [u8; 16] = [
    0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c,
];

#[tokio::test(flavor = "multi_thread")]
async fn otlp_json_to_the_letter_comes_back_equal_and_as_json_again() {
    let federation = Federation::start(&["eu-west-1", "us-east-1"], &[]).await;
    let start = now_nanos();
    let (body, expected) = (json_export(start), json_meant(start));
    let otlp = |index: usize| {
        format!("http://127.0.0.1:{}/v1/traces", federation.regions[index].ports.otlp_http)
    };
    let json = [("content-type", "application/json")];
    let answer = send(Method::POST, &otlp(1), &json, body).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.json()), (200, serde_json::json!({})));
    eventually("the JSON span in another region, equal", PATIENCE, || async {
        compare(&expected, &federation.trace_spans(0, &JSON_TRACE).await?)
    })
    .await;
    // What the gateway gives as JSON is an export as well: sent on, it is the same span again.
    let shown = federation.trace_json(0, &JSON_TRACE).await.unwrap();
    let other = hex(&JSON_TRACE).replacen("5b", "5c", 1);
    let text = String::from_utf8(shown.body.to_vec()).unwrap();
    let text = text.replace(&hex(&JSON_TRACE), &other);
    let answer = send(Method::POST, &otlp(0), &json, Bytes::from(text)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.json()), (200, serde_json::json!({})));
    let mut trace = JSON_TRACE;
    trace[0] = 0x5c;
    let mut expected = expected;
    expected.resource_spans[0].scope_spans[0].spans[0].trace_id = trace.to_vec();
    compare(&expected, &federation.trace_spans(0, &trace).await.unwrap()).unwrap();
}
