//! What a program inserts into ClickHouse that knows nothing but the client: the side that the store is
//! measured against.

use clickhouse::{Client, Row};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::LoggedBatch;
use serde::Serialize;
use trace_store::ClickhouseConfig;

/// A client of the database.
pub(crate) fn client(config: &ClickhouseConfig) -> Client {
    Client::default()
        .with_url(&config.url)
        .with_database(&config.database)
        .with_setting("async_insert", "0")
        .with_setting("wait_end_of_query", "1")
}

/// A row as a program of the `clickhouse` crate would write it.
#[derive(Debug, Serialize, Row)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SpanRow {
    timestamp: i64,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    trace_state: String,
    span_name: String,
    span_kind: &'static str,
    service_name: String,
    resource_attributes: Vec<(String, String)>,
    scope_name: String,
    scope_version: String,
    span_attributes: Vec<(String, String)>,
    duration: u64,
    status_code: &'static str,
    status_message: String,
    #[serde(rename = "Events.Timestamp")]
    events_timestamp: Vec<i64>,
    #[serde(rename = "Events.Name")]
    events_name: Vec<String>,
    #[serde(rename = "Events.Attributes")]
    events_attributes: Vec<Vec<(String, String)>>,
    #[serde(rename = "Links.TraceId")]
    links_trace_id: Vec<String>,
    #[serde(rename = "Links.SpanId")]
    links_span_id: Vec<String>,
    #[serde(rename = "Links.TraceState")]
    links_trace_state: Vec<String>,
    #[serde(rename = "Links.Attributes")]
    links_attributes: Vec<Vec<(String, String)>>,
    tenant: &'static str,
    region: &'static str,
    append_time: u32,
    is_outlying: bool,
    block: u64,
}

fn pairs(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    };
    attributes.into_iter().map(|pair| (pair.key.clone(), text(&pair))).collect()
}

/// The rows of a batch, made before the clock runs.
pub(crate) fn rows_of(logged: &LoggedBatch) -> Vec<SpanRow> {
    let batch = &logged.batch;
    let mut rows = Vec::new();
    for trace in batch.traces() {
        for slice in batch.spans_of(trace) {
            let span = otlp::Span::decode(batch.bytes_of(slice)).expect("a span");
            let context = batch.context_of(slice).expect("a context");
            let resource = otlp::ResourceSpans::decode(context.resource.as_ref()).expect("one");
            let events = span.events;
            rows.push(SpanRow {
                timestamp: i64::try_from(slice.start.0).expect("before 2262"),
                trace_id: trace.trace_id.to_string(),
                span_id: slice.span_id.to_string(),
                parent_span_id: slice.parent_span_id.map(|id| id.to_string()).unwrap_or_default(),
                trace_state: span.trace_state,
                span_name: span.name,
                span_kind: "Server",
                service_name: context.service.as_ref().to_owned(),
                resource_attributes: pairs(resource.resource.unwrap_or_default().attributes),
                scope_name: "lib".to_owned(),
                scope_version: String::new(),
                span_attributes: pairs(span.attributes),
                duration: slice.end.since(slice.start),
                status_code: "Unset",
                status_message: String::new(),
                events_timestamp: events.iter().map(|_| 0).collect(),
                events_name: events.iter().map(|event| event.name.clone()).collect(),
                events_attributes: events
                    .into_iter()
                    .map(|event| pairs(event.attributes))
                    .collect(),
                links_trace_id: Vec::new(),
                links_span_id: Vec::new(),
                links_trace_state: Vec::new(),
                links_attributes: Vec::new(),
                tenant: "default",
                region: "eu-west-1",
                append_time: u32::try_from(logged.append_time.0 / 1_000_000_000).expect("now"),
                is_outlying: false,
                block: 1,
            });
        }
    }
    rows
}

/// Inserts the rows, so many at once.
pub(crate) async fn insert(client: &Client, rows: &[SpanRow], block_rows: usize) {
    for block in rows.chunks(block_rows) {
        let mut insert = client.insert::<SpanRow>("otel_traces").await.expect("an insert");
        for row in block {
            insert.write(row).await.expect("a row");
        }
        insert.end().await.expect("an acknowledgement");
    }
}

pub(crate) async fn drop_database(config: &ClickhouseConfig) {
    let sql = format!("DROP DATABASE {} SYNC", config.database);
    let client = Client::default().with_url(&config.url);
    client.query(&sql).execute().await.expect("a drop");
}
