//! Days that no longer take writes, spans that lie outside of every day, and setting up.

use std::time::Duration;

use serde_json::{Value, json as value};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange};
use trace_store::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use trace_store::{Eraser, SearchIndexer, ServiceCatalog, StoreError, TraceSearch};

use super::documents::{Bench, TODAY, ids};
use super::engine::json;
use crate::fixture::{NOW, Request, span, trace_id};
use crate::harness::query;

const DAY: u64 = 24 * 3_600 * 1_000_000_000;
const ENGINES: [&str; 2] = ["FARSPAN_TEST_ELASTICSEARCH", "FARSPAN_TEST_OPENSEARCH"];

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

fn block(bench: &Bench, index: &str, is_blocked: bool) {
    let path = format!("/{}/_settings", bench.name(index));
    json(&bench.url, "PUT", &path, &value!({ "index.blocks.write": is_blocked }));
}

#[tokio::test]
async fn a_late_span_that_neither_its_day_nor_the_companion_takes_is_told_in_the_engines_words() {
    for engine in ENGINES {
        let mut bench = Bench::on(engine, |config| ElasticsearchConfig {
            bulk_tries_max: 3,
            backoff_min: Duration::from_millis(1),
            ..config
        })
        .await;
        let late = format!("{TODAY}-late");
        bench.index(&Request::of("web", &[span(1, 0, "a")])).await;
        block(&bench, TODAY, true);
        bench.index(&Request::of("web", &[span(2, 0, "a")])).await;
        block(&bench, &late, true);
        let third = bench.log.append(&Request::of("web", &[span(3, 0, "a")]));
        let error = bench.store.index(std::slice::from_ref(&third)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        let words = error.to_string();
        for word in [bench.name(&late).as_str(), "cluster_block_exception", "index write"] {
            assert!(words.contains(word), "{words}");
        }
        block(&bench, &late, false);
        bench.store.index(&[third]).await.unwrap();
        SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
        assert_eq!((bench.count(TODAY), bench.count(&late)), (1, 2));
        assert_eq!(bench.find(Filter::All).await.len(), 3);
    }
}

/// Whatever makes days read-only by their template leaves their companions alone.
#[tokio::test]
async fn a_companion_that_is_there_for_days_takes_what_comes_late_and_is_no_day_to_the_engine() {
    for engine in ENGINES {
        let mut bench = Bench::on(engine, |config| config).await;
        let prefix = &bench.config.index_prefix;
        let days = format!("/_component_template/{prefix}-farspan-days");
        let marked = value!({ "template": { "settings": { "index.priority": 77 } } });
        json(&bench.url, "PUT", &days, &marked);
        let late = format!("{TODAY}-late");
        bench.index(&Request::of("web", &[span(1, 0, "a")])).await;
        for index in [TODAY, "service-2026-09-21"] {
            block(&bench, index, true);
        }
        bench.index(&Request::of("web", &[span(2, 0, "a")])).await;
        bench.clock.set_wall(NOW.plus(20 * DAY));
        bench.store = bench.another().await;
        let later =
            Request { receive_time: NOW.plus(20 * DAY), ..Request::of("web", &[span(3, 0, "b")]) };
        bench.index(&later).await;
        assert_eq!((bench.count(TODAY), bench.count(&late)), (1, 2));
        assert_eq!(bench.count("service-2026-09-21-late"), 1);
        assert_eq!(bench.find(Filter::All).await.len(), 3);
        for (index, is_marked) in
            [(TODAY, true), (&late, false), ("service-2026-09-21-late", false)]
        {
            let path = format!("/{}/_settings", bench.name(index));
            let settings = json(&bench.url, "GET", &path, &Value::Null).to_string();
            assert_eq!(settings.contains(r#""priority":"77""#), is_marked, "{index}: {settings}");
        }
    }
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
