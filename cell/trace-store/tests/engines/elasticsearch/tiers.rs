//! Days that no longer take writes, spans that lie outside of every day, and setting up.

use serde_json::{Value, json as value};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange};
use trace_store::elasticsearch::ElasticsearchStore;
use trace_store::{Eraser, SearchIndexer, ServiceCatalog, StoreError, TraceSearch};

use super::documents::{Bench, TODAY, ids};
use super::engine::json;
use crate::fixture::{NOW, Request, span, trace_id};
use crate::harness::query;

const DAY: u64 = 24 * 3_600 * 1_000_000_000;

#[tokio::test]
async fn a_late_span_of_a_read_only_day_goes_to_its_companion_and_nothing_is_there_twice() {
    let mut bench = Bench::new().await;
    let first = bench.log.append(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")]));
    bench.store.index(std::slice::from_ref(&first)).await.unwrap();
    for index in [TODAY, "service-2026-09-21"] {
        let path = format!("/{}/_settings", bench.name(index));
        json(&bench.url, "PUT", &path, &value!({ "index.blocks.write": true }));
    }
    let late = bench.log.append(&Request::of("web", &[span(2, 0, "b"), span(3, 0, "c")]));
    for _ in 0..3 {
        bench.store.index(&[first.clone(), late.clone()]).await.unwrap();
    }
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
    assert_eq!((bench.count(TODAY), bench.count(&format!("{TODAY}-late"))), (2, 1));
    let mut found = bench.find(Filter::All).await;
    found.sort();
    let mut all = [1, 2, 3].map(trace_id);
    all.sort();
    assert_eq!(found, all);
    let today = TimeRange { start: NOW, end: NOW.plus(1) };
    let within = SearchQuery { range: today, ..query(Filter::All) };
    assert_eq!(bench.store.search(&within).await.unwrap().matches.len(), 3);
    assert_eq!(bench.count("span-read"), 3);
    // Erasing opens the day for the deletion alone.
    let receipt = bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!(receipt.spans, 1);
    assert_eq!(bench.count(TODAY), 1);
    let settings =
        json(&bench.url, "GET", &format!("/{}/_settings", bench.name(TODAY)), &Value::Null);
    assert!(settings.to_string().contains(r#""write":"true""#), "{settings}");
}

#[tokio::test]
async fn spans_of_any_date_are_found_and_make_one_index_alone() {
    let mut bench = Bench::new().await;
    let at = |trace: u64, start: u64| {
        let mut span = span(trace, 0, "a");
        span.start_time_unix_nano = start;
        span.end_time_unix_nano = start + 1;
        span
    };
    let year = 365 * DAY;
    let spans = [
        at(1, NOW.0 - 40 * DAY),
        at(2, NOW.0 - 9 * year),
        at(3, NOW.0 + DAY / 12),
        at(4, NOW.0 - 29 * DAY),
        at(5, 0),
    ];
    bench.index(&Request::of("web", &spans)).await;
    assert_eq!(bench.count("span-outlying"), 3);
    assert_eq!(bench.count("span-2026-08-23"), 1);
    assert_eq!(bench.count(TODAY), 1);
    assert_eq!(bench.store.metrics().outlying_spans.get(), 3);
    let around = |time: u64| SearchQuery {
        range: TimeRange {
            start: trace_model::UnixNanos(time),
            end: trace_model::UnixNanos(time + 1),
        },
        ..query(Filter::All)
    };
    for (trace, time) in
        [(1, NOW.0 - 40 * DAY), (2, NOW.0 - 9 * year), (3, NOW.0 + DAY / 12), (5, NOW.0)]
    {
        let found = bench.store.search(&around(time)).await.unwrap().matches;
        assert_eq!(ids(&found), [trace_id(trace)]);
    }
    assert_eq!(bench.find(Filter::All).await.len(), 5);
}

#[tokio::test]
async fn outlying_spans_go_when_the_retention_has_passed_since_they_came() {
    let mut bench = Bench::new().await;
    let mut old = span(1, 0, "old");
    old.start_time_unix_nano -= 400 * DAY;
    old.end_time_unix_nano -= 400 * DAY;
    let late = Request { receive_time: NOW.plus(10 * DAY), ..Request::of("web", &[old.clone()]) };
    bench.index(&Request::of("cart", &[old, span(2, 0, "today")])).await;
    bench.index(&late).await;
    assert_eq!((bench.store.maintain().await.unwrap(), bench.count("span-outlying")), (0, 2));
    bench.clock.set_wall(NOW.plus(31 * DAY));
    // A span and its entry in the catalogue.
    assert_eq!((bench.store.maintain().await.unwrap(), bench.count("span-outlying")), (2, 1));
    let metrics = bench.store.metrics();
    assert_eq!((metrics.expired_documents.get(), metrics.upkeep_rounds.get()), (2, 2));
    assert_eq!(metrics.failed_upkeep_rounds.get(), 0);
    assert_eq!((bench.count(TODAY), bench.count("service-outlying")), (1, 1));
    let tenant = TenantId::default();
    let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
    assert_eq!(services, ["cart".into(), "web".into()]);
}

#[tokio::test]
async fn a_cluster_set_up_by_a_newer_release_or_by_nobody_is_refused() {
    let bench = Bench::new().await;
    let connect = || ElasticsearchStore::connect(bench.config.clone(), bench.clock.clone());
    let name = format!("/_index_template/{}-farspan-span", bench.config.index_prefix);
    let found = json(&bench.url, "GET", &name, &Value::Null);
    let mut template = found["index_templates"][0]["index_template"].clone();
    template["version"] = value!(99);
    // Elasticsearch 9 writes down when a template was made, and takes it from nobody.
    template
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !key.ends_with("_date") && !key.ends_with("_date_millis"));
    json(&bench.url, "PUT", &name, &template);
    for refused in
        [ElasticsearchStore::init(&bench.config).await.unwrap_err(), connect().await.unwrap_err()]
    {
        assert!(matches!(refused, StoreError::NewerFormat { found: 99, .. }), "{refused}");
    }
    json(&bench.url, "DELETE", &name, &Value::Null);
    let refused = connect().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    let report = ElasticsearchStore::init(&bench.config).await.unwrap();
    assert_eq!((report.replicas, report.warnings.len()), (0, 1));
    connect().await.unwrap();
}
