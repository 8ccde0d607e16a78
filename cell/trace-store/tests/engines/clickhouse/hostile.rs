//! Names, keys and values that mean harm: rows as they were sent, and questions that find them.

use std::collections::BTreeSet;

use clickhouse::Row;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use proto::DurationSketch;
use serde::Deserialize;
use trace_model::{Coverage, SpanKind, StatusCode, TimeRange, UnixNanos};
use trace_store::{
    ClickhouseSpans, EdgeKey, EdgeRow, MetricsDelta, MetricsStore, RedKey, RedQuery, RedRow,
    SpanWriter, StoreError,
};

use super::agreement::recent;
use super::spans::{logged, today};
use super::{Database, clock};
use crate::fixture::{Request, attribute, resource, scope, text, trace_id};
use crate::hostile_texts::{HUGE, LONG, NO_UTF_8, texts};
use crate::metrics::tenant;

/// Of a trace of its own, with the text wherever a text may stand.
fn hostile(trace: u64, hostile: &str) -> Request {
    let attributes = || vec![attribute(hostile, text(hostile))];
    let span = Span {
        attributes: attributes(),
        trace_state: hostile.to_owned(),
        status: Some(Status { code: 2, message: hostile.to_owned() }),
        events: vec![Event {
            name: hostile.to_owned(),
            attributes: attributes(),
            ..Event::default()
        }],
        links: vec![Link {
            trace_id: vec![9; 16],
            span_id: vec![8; 8],
            trace_state: hostile.to_owned(),
            attributes: attributes(),
            ..Link::default()
        }],
        ..today(trace, 0, hostile)
    };
    let resource = resource(hostile, &attributes());
    Request {
        groups: vec![(resource, scope(hostile, &attributes()), vec![span.encode_to_vec()])],
        ..Request::of("", &[])
    }
}

async fn store(spans: &ClickhouseSpans, requests: &[Request]) {
    let batches: Vec<_> = (0_u64..)
        .zip(requests)
        .scan(0, |first, (_, request)| {
            let logged = logged(0, *first, request.batch());
            *first = logged.range.next;
            Some(logged)
        })
        .collect();
    spans.write(&batches).await.unwrap();
    spans.flush(clock().now(), true).await.unwrap();
    assert_eq!(spans.durable().next[&0], batches.last().unwrap().range.next);
}

type Pairs = Vec<(String, String)>;

#[derive(Debug, Deserialize, Row)]
#[serde(rename_all = "PascalCase")]
struct Texts {
    trace_id: String,
    span_name: String,
    service_name: String,
    trace_state: String,
    status_message: String,
    scope_name: String,
    resource_attributes: Pairs,
    span_attributes: Pairs,
    #[serde(rename = "Events.Name")]
    event_names: Vec<String>,
    #[serde(rename = "Events.Attributes")]
    event_attributes: Vec<Pairs>,
    #[serde(rename = "Links.TraceState")]
    link_states: Vec<String>,
    #[serde(rename = "Links.Attributes")]
    link_attributes: Vec<Pairs>,
}

const COLUMNS: &str = "SELECT TraceId, SpanName, ServiceName, TraceState, StatusMessage, ScopeName, \
     ResourceAttributes, SpanAttributes, Events.Name, Events.Attributes, Links.TraceState, \
     Links.Attributes FROM otel_traces WHERE TraceId = {trace:String}";

async fn texts_of(database: &Database, trace: u64) -> Texts {
    let question = database.client().query(COLUMNS).param("trace", trace_id(trace).to_string());
    let mut rows = question.fetch_all::<Texts>().await.unwrap();
    assert_eq!(rows.len(), 1, "{trace}");
    rows.pop().unwrap()
}

#[tokio::test]
async fn hostile_texts_are_columns_as_they_were_sent_and_are_found_by_their_names() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let texts = texts();
    let mut requests: Vec<_> =
        (0_u64..).zip(&texts).map(|(trace, text)| hostile(trace, text)).collect();
    requests.push(Request::of("web", &[today(1_000, 0, "GET /")]));
    store(&spans, &requests).await;
    let count = "SELECT count() FROM otel_traces";
    assert_eq!(database.number(count).await, texts.len() as u64 + 1);
    for (trace, text) in (0_u64..).zip(&texts) {
        let found = texts_of(&database, trace).await;
        let pair = (text.clone(), text.clone());
        let of_resource = [("service.name".to_owned(), text.clone()), pair.clone()];
        let pairs = vec![pair];
        let is_same = found.trace_id == trace_id(trace).to_string()
            && [
                &found.span_name,
                &found.service_name,
                &found.trace_state,
                &found.status_message,
                &found.scope_name,
                &found.event_names[0],
                &found.link_states[0],
            ]
            .iter()
            .all(|found| *found == text)
            && found.resource_attributes == of_resource
            && found.span_attributes == pairs
            && (found.event_attributes, found.link_attributes)
                == (vec![pairs.clone()], vec![pairs]);
        assert!(is_same, "{text:.40}");
        let by = "WHERE ServiceName = {x:String} AND SpanName = {x:String} \
                  AND SpanAttributes[{x:String}] = {x:String} ";
        if text.len() < 1_024 {
            let found = database.client().query(&format!("{count} {by}")).param("x", text);
            assert_eq!(found.fetch_one::<u64>().await.unwrap(), 1, "{text:?}");
        }
    }
    let found = "SELECT uniqExact(ServiceName) FROM otel_traces";
    assert_eq!(database.number(found).await, texts.len() as u64 + 1);
    let found = "SELECT count() FROM otel_traces WHERE ServiceName = 'web' AND SpanName = 'GET /'";
    assert_eq!(database.number(found).await, 1);
}

#[tokio::test]
async fn a_span_that_is_no_utf_8_is_its_header_and_takes_no_other_with_it() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let mut request = Request::of("web", &[today(1, 0, "good"), today(2, 0, "bad")]);
    request.groups[0].2[1].extend(NO_UTF_8);
    request.groups[0].2.push(today(3, 0, "good").encode_to_vec());
    store(&spans, &[request]).await;
    let found = "SELECT TraceId, SpanAttributes['farspan.unreadable'] = 'true' FROM otel_traces \
                 ORDER BY TraceId";
    let mut expected = [(1, false), (2, true), (3, false)]
        .map(|(trace, is_unreadable)| (trace_id(trace).to_string(), is_unreadable));
    expected.sort();
    let found: Vec<(String, bool)> = database.ask(found).await;
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_hundred_thousand_keys_are_keys_of_rows_and_change_no_table() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let columns = "SELECT count() FROM system.columns WHERE database = currentDatabase()";
    let before = database.number(columns).await;
    let requests: Vec<Request> = (0..100_u64)
        .map(|trace| {
            let attributes = (0..1_000)
                .map(|number| attribute(&format!("key.{trace}.{number}'\\"), text("v")))
                .collect();
            Request::of("web", &[Span { attributes, ..today(trace, 0, "many") }])
        })
        .collect();
    store(&spans, &requests).await;
    let keys = "SELECT uniqExact(arrayJoin(mapKeys(SpanAttributes))) FROM otel_traces";
    assert_eq!(database.number(keys).await, 100_000);
    assert_eq!(database.number(columns).await, before);
    for (key, expected) in [(r"key.77.999'\", 1), (r"key.77.1000'\", 0)] {
        let question = "SELECT count() FROM otel_traces WHERE SpanAttributes[{key:String}] = 'v'";
        let found = database.client().query(question).param("key", key);
        assert_eq!(found.fetch_one::<u64>().await.unwrap(), expected, "{key}");
    }
}

/// Counts of each text as a service, as an operation, as caller and as callee.
fn counted(texts: &[String]) -> MetricsDelta {
    let mut covered = Coverage::none(5);
    covered.extend(0, 1);
    let mut delta = MetricsDelta { covered, ..MetricsDelta::default() };
    for (seen, text) in (1_u64..).zip(texts) {
        let mut durations = DurationSketch::default();
        durations.add(seen);
        for operation in [None, Some(text.as_str().into())] {
            let key = RedKey {
                tenant: tenant("default"),
                minute: UnixNanos(recent()),
                service: text.as_str().into(),
                operation,
                kind: SpanKind::Server,
                status: StatusCode::Unset,
            };
            let durations = durations.clone();
            delta.red.push((key, RedRow { seen, estimated: 1.0, durations, exemplar: None }));
        }
        let key = EdgeKey {
            tenant: tenant("default"),
            bucket: UnixNanos(recent()),
            caller: text.as_str().into(),
            callee: text.as_str().into(),
            is_error: false,
        };
        delta.edges.push((key, EdgeRow { seen, estimated: 1.0, durations, traces: vec![] }));
    }
    delta
}

#[tokio::test]
async fn counts_of_hostile_names_are_told_apart_and_listed_as_they_were_sent() {
    let database = Database::new().await;
    let metrics = database.metrics().await;
    let texts = texts();
    metrics.apply(counted(&texts)).await.unwrap();
    let wanted: BTreeSet<(&str, u64)> = texts.iter().map(String::as_str).zip(1..).collect();
    for by_operation in [false, true] {
        let query = |service: Option<&str>| RedQuery {
            tenant: tenant("default"),
            service: service.map(Into::into),
            by_operation,
            range: TimeRange::ALL,
        };
        let all = metrics.red(&query(None)).await.unwrap();
        let found = all.iter().map(|(key, row)| (&*key.service, row.seen)).collect();
        assert!(wanted == found, "{} of {}", all.len(), texts.len());
        let is_same =
            |key: &RedKey| key.operation.as_deref().is_none_or(|name| *name == *key.service);
        assert!(all.iter().all(|(key, _)| key.operation.is_some() == by_operation && is_same(key)));
        for (seen, text) in (1_u64..).zip(&texts) {
            match metrics.red(&query(Some(text))).await {
                Ok(found) if text.len() < LONG => assert_eq!(found[0].1.seen, seen, "{text:?}"),
                // Told and not answered short: the engine takes no parameter so long.
                Err(StoreError::Unsupported(words)) if text.len() >= LONG => {
                    assert!(words.contains(&text.len().to_string()) && words.len() < HUGE / 1_000);
                }
                other => panic!("{text:.40}: {other:?}"),
            }
        }
    }
    let edges = metrics.edges(&tenant("default"), TimeRange::ALL).await.unwrap();
    let found = edges.iter().map(|(key, row)| (&*key.caller, row.seen)).collect();
    assert!(wanted == found && edges.iter().all(|(key, _)| key.caller == key.callee));
}
