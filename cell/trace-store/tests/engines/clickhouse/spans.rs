//! Raw spans as the exporter's readers know them.

use std::sync::Arc;

use clickhouse::Row;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::{LoggedBatch, SpanBatch};
use serde::Deserialize;
use trace_model::{LogRange, TenantId, UnixNanos};
use trace_store::{Eraser, SpanWriter};

use super::agreement::recent;
use super::{Database, clock};
use crate::fixture::{INCARNATION, Request, attribute, resource, scope, span, text, trace_id};

/// A span of a trace, of today.
pub(crate) fn today(trace: u64, id: u64, name: &str) -> otlp::Span {
    let mut span = span(trace, id, name);
    span.start_time_unix_nano = recent() + id * 1_000_000;
    span.end_time_unix_nano = span.start_time_unix_nano + 250_000;
    span
}

/// A batch where the log has it.
pub(crate) fn logged(partition: u32, first: u64, batch: SpanBatch) -> LoggedBatch {
    let next = first + batch.traces().len() as u64;
    LoggedBatch {
        incarnation: INCARNATION,
        range: LogRange { partition, first, next },
        append_time: UnixNanos(recent()),
        batch: Arc::new(batch),
    }
}

#[derive(Debug, Deserialize, Row)]
#[serde(rename_all = "PascalCase")]
struct SpanRow {
    timestamp: i64,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    trace_state: String,
    span_name: String,
    span_kind: String,
    service_name: String,
    resource_attributes: Vec<(String, String)>,
    scope_name: String,
    scope_version: String,
    span_attributes: Vec<(String, String)>,
    duration: u64,
    status_code: String,
    status_message: String,
    tenant: String,
    region: String,
    is_outlying: bool,
}

const COLUMNS: &str = "SELECT Timestamp, TraceId, SpanId, ParentSpanId, TraceState, SpanName, \
     SpanKind, ServiceName, ResourceAttributes, ScopeName, ScopeVersion, SpanAttributes, Duration, \
     StatusCode, StatusMessage, Tenant, Region, IsOutlying FROM otel_traces";

fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn rich() -> otlp::Span {
    let mut rich = today(1, 1, "GET /cart");
    rich.parent_span_id = 7_u64.to_be_bytes().to_vec();
    rich.trace_state = "ot=th:8".to_owned();
    rich.kind = 3;
    rich.status = Some(otlp::Status { message: "broken".to_owned(), code: 2 });
    let list = ArrayValue { values: vec![value(text("a")), value(Value::IntValue(-1))] };
    let map = KeyValueList { values: vec![attribute("k", Value::BoolValue(true))] };
    rich.attributes = vec![
        attribute("text", text("anna")),
        attribute("yes", Value::BoolValue(true)),
        attribute("number", Value::IntValue(-5)),
        attribute("half", Value::DoubleValue(0.5)),
        attribute("bytes", Value::BytesValue(vec![1, 2, 255])),
        attribute("list", Value::ArrayValue(list)),
        attribute("map", Value::KvlistValue(map)),
        attribute("hostile'\\\0\n", text("'; DROP TABLE otel_traces; --")),
        attribute("twice", text("1")),
        attribute("twice", text("2")),
    ];
    rich.events = vec![otlp::span::Event {
        time_unix_nano: recent() + 5,
        name: "exception".to_owned(),
        attributes: vec![attribute("message", text("no"))],
        dropped_attributes_count: 0,
    }];
    rich.links = vec![otlp::span::Link {
        trace_id: vec![9; 16],
        span_id: vec![8; 8],
        trace_state: "a=b".to_owned(),
        ..otlp::span::Link::default()
    }];
    rich
}

#[tokio::test]
async fn a_span_is_a_row_in_the_words_of_the_collectors_exporter() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let mut request = Request::of("web", &[]);
    let resource = resource("web", &[attribute("host.name", text("a"))]);
    request.groups = vec![(resource, scope("lib", &[]), vec![rich().encode_to_vec()])];
    spans.write(&[logged(0, 0, request.batch())]).await.unwrap();
    spans.flush(clock().now(), true).await.unwrap();
    let rows: Vec<SpanRow> = database.ask(COLUMNS).await;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let wanted = rich();
    assert_eq!(row.timestamp, i64::try_from(wanted.start_time_unix_nano).unwrap());
    assert_eq!(row.trace_id, trace_id(1).to_string());
    assert_eq!((&*row.span_id, &*row.parent_span_id), ("0000000000000002", "0000000000000007"));
    assert_eq!((&*row.trace_state, &*row.span_name), ("ot=th:8", "GET /cart"));
    assert_eq!((&*row.span_kind, &*row.status_code), ("Client", "Error"));
    assert_eq!((&*row.service_name, &*row.status_message), ("web", "broken"));
    assert_eq!((&*row.scope_name, &*row.scope_version), ("lib", ""));
    assert_eq!((row.duration, row.is_outlying), (250_000, false));
    assert_eq!((&*row.tenant, &*row.region), ("default", "eu-west-1"));
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
    };
    let resource = pairs(&[("service.name", "web"), ("host.name", "a")]);
    assert_eq!(row.resource_attributes, resource);
    let attributes = pairs(&[
        ("text", "anna"),
        ("yes", "true"),
        ("number", "-5"),
        ("half", "0.5"),
        ("bytes", "AQL/"),
        ("list", r#"["a",-1]"#),
        ("map", r#"{"k":true}"#),
        ("hostile'\\\0\n", "'; DROP TABLE otel_traces; --"),
        ("twice", "1"),
        ("twice", "2"),
    ]);
    assert_eq!(row.span_attributes, attributes);
    let nested = "SELECT concat(Events.Name[1], ' ', Events.Attributes[1]['message'], ' ', \
         Links.TraceId[1], ' ', Links.SpanId[1], ' ', Links.TraceState[1]) FROM otel_traces";
    let nested: Vec<String> = database.ask(nested).await;
    let (trace, span) = ("09".repeat(16), "08".repeat(8));
    assert_eq!(nested, [format!("exception no {trace} {span} a=b")]);
    // By id through the table of times, as Grafana asks.
    let times = "SELECT count() FROM otel_traces_trace_id_ts WHERE TraceId = ";
    assert_eq!(database.number(&format!("{times}'{}'", trace_id(1))).await, 1);
}

#[tokio::test]
async fn times_that_cannot_be_and_hundreds_of_days_are_stored_in_few_partitions() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let mut group = Vec::new();
    for day in 0..300_u64 {
        let mut span = today(day, 0, "old");
        span.start_time_unix_nano -= day * 86_400_000_000_000;
        group.push(span);
    }
    for (trace, start) in [(1_000, 0), (1_001, u64::MAX), (1_002, 1 << 62)] {
        let mut span = today(trace, 0, "absurd");
        span.start_time_unix_nano = start;
        group.push(span);
    }
    spans.write(&[logged(0, 0, Request::of("web", &group).batch())]).await.unwrap();
    spans.flush(clock().now(), true).await.unwrap();
    assert_eq!(database.number("SELECT count() FROM otel_traces").await, 303);
    let partitions = "SELECT uniqExact(partition_id) FROM system.parts \
         WHERE database = currentDatabase() AND table = 'otel_traces' AND active";
    assert!((30..=35).contains(&database.number(partitions).await));
    let first = "SELECT count() FROM otel_traces WHERE Timestamp < toDateTime64(1, 9, 'UTC')";
    assert_eq!(database.number(first).await, 1);
}

#[tokio::test]
async fn an_erased_trace_leaves_the_tables_and_the_memory_and_is_refused_afterwards() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let batch = |tenant: &'static str, id: u64| {
        let group = [today(1, id, "mine"), today(2, id, "other")];
        Request { tenant, ..Request::of("web", &group) }.batch()
    };
    spans
        .write(&[logged(0, 0, batch("default", 1)), logged(0, 2, batch("team-b", 1))])
        .await
        .unwrap();
    spans.flush(clock().now(), true).await.unwrap();
    spans.write(&[logged(0, 4, batch("default", 2))]).await.unwrap();
    let receipt = spans.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert!(receipt.spans == 2 && receipt.files > 0, "{receipt:?}");
    spans.write(&[logged(0, 6, batch("default", 3))]).await.unwrap();
    spans.flush(clock().now(), true).await.unwrap();
    let count = |table: &str, trace: u64| {
        format!("SELECT count() FROM {table} WHERE TraceId = '{}'", trace_id(trace))
    };
    assert_eq!(database.number(&count("otel_traces", 1)).await, 1);
    assert_eq!(database.number(&count("otel_traces", 2)).await, 4);
    assert_eq!(database.number(&count("otel_traces_trace_id_ts", 1)).await, 1);
    assert_eq!(spans.durable().next[&0], 8);
    // Another process of the group knows it as well.
    let other = database.spans().await;
    other.write(&[logged(0, 8, batch("default", 4))]).await.unwrap();
    other.flush(clock().now(), true).await.unwrap();
    assert_eq!(database.number(&count("otel_traces", 1)).await, 1);
    assert_eq!(other.erase(&TenantId::default(), trace_id(1)).await.unwrap().spans, 0);
}
