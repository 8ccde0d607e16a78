//! What stands in the engine: Jaeger's shape, each span once, and what others read and wrote.

use std::sync::Arc;

use serde_json::{Value, json};
use service_kit::ManualClock;
use trace_model::query::{CompareOp, Field, Literal, Pattern, Place};
use trace_model::{Filter, LogPosition, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use trace_store::{Eraser, SearchIndexer, ServiceCatalog, StoreError, TraceSearch};

use super::engine::{Tidy, config, connect, http, json, url};
use crate::fixture::{INCARNATION, Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::{equals, query, tag};

/// A store with an index prefix of its own.
pub(super) struct Bench {
    pub(super) url: String,
    pub(super) config: ElasticsearchConfig,
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<ElasticsearchStore>,
    pub(super) log: Log,
    // The directory goes before what removes its indices.
    _directory: tempfile::TempDir,
    _tidy: Tidy,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::with(|config| config).await
    }

    pub(super) async fn with(
        change: impl FnOnce(ElasticsearchConfig) -> ElasticsearchConfig,
    ) -> Self {
        Self::on("FARSPAN_TEST_ELASTICSEARCH", change).await
    }

    /// On the engine whose address the variable has.
    pub(super) async fn on(
        variable: &str,
        change: impl FnOnce(ElasticsearchConfig) -> ElasticsearchConfig,
    ) -> Self {
        Self::at(url(variable), change).await
    }

    /// On the engine at this address.
    pub(super) async fn at(
        url: String,
        change: impl FnOnce(ElasticsearchConfig) -> ElasticsearchConfig,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = change(config(&url, directory.path()));
        let tidy = Tidy {
            url: url.clone(),
            prefix: config.index_prefix.clone(),
            directory: directory.path().to_owned(),
        };
        let clock = Arc::new(ManualClock::at(NOW));
        let store = connect(config.clone(), clock.clone()).await;
        Self { url, config, clock, store, log: Log::new(), _directory: directory, _tidy: tidy }
    }

    /// Another process on the same indices.
    pub(super) async fn another(&self) -> Arc<ElasticsearchStore> {
        ElasticsearchStore::connect(self.config.clone(), self.clock.clone()).await.unwrap()
    }

    pub(super) async fn index(&mut self, request: &Request) {
        let batch = self.log.append(request);
        self.store.index(&[batch]).await.unwrap();
        SearchIndexer::flush(&*self.store, NOW, true).await.unwrap();
    }

    pub(super) async fn find(&self, filter: Filter) -> Vec<TraceId> {
        ids(&self.store.search(&query(filter)).await.unwrap().matches)
    }

    /// The name of an index of the default tenant.
    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}.default-jaeger-{rest}", self.config.index_prefix)
    }

    /// Counts documents, once the engine has opened what was made a moment ago.
    pub(super) fn count(&self, rest: &str) -> u64 {
        let opened = format!(
            "/_cluster/health/{}?wait_for_status=yellow&timeout=30s&expand_wildcards=all",
            self.name(rest)
        );
        json(&self.url, "GET", &opened, &Value::Null);
        let path = format!("/{}/_count", self.name(rest));
        json(&self.url, "GET", &path, &Value::Null)["count"].as_u64().unwrap()
    }

    fn ask(&self, rest: &str, body: &Value) -> Value {
        json(&self.url, "POST", &format!("/{}/_search", self.name(rest)), body)
    }
}

pub(super) fn ids(matches: &[trace_model::TraceMatch]) -> Vec<TraceId> {
    matches.iter().map(|found| found.trace_id).collect()
}

/// The day of [`NOW`].
pub(super) const TODAY: &str = "span-2026-09-21";

fn checkout(trace: u64) -> opentelemetry_proto::tonic::trace::v1::Span {
    let mut span = span(trace, 0, "POST /checkout");
    span.attributes = vec![
        attribute(
            "http.status_code",
            opentelemetry_proto::tonic::common::v1::any_value::Value::IntValue(200),
        ),
        attribute("customer", text("anna")),
    ];
    span
}

/// As Jaeger's reader asks for traces: match, range, and a tag in each place that it may stand in.
fn jaegers_question(service: &str, operation: &str, key: &str, value: &str) -> Value {
    let nested = |path: &str| {
        json!({ "nested": { "path": path, "query": { "bool": { "must": [
            { "match": { (format!("{path}.key")): { "query": key } } },
            { "regexp": { (format!("{path}.value")): { "value": value } } },
        ] } } } })
    };
    let object = |path: &str| {
        let field = format!("{path}.{}", key.replace('.', "@"));
        json!({ "bool": { "must": { "regexp": { (field): { "value": value } } } } })
    };
    let millis = NOW.millis();
    json!({
        "size": 0,
        "aggregations": { "traceIDs": {
            "terms": { "field": "traceID", "size": 20, "order": [{ "startTime": "desc" }] },
            "aggregations": { "startTime": { "max": { "field": "startTime" } } },
        } },
        "query": { "bool": { "must": [
            { "range": { "duration": { "gte": 200, "lte": 300 } } },
            { "range": { "startTimeMillis": { "gte": millis - 1_000, "lte": millis + 1_000 } } },
            { "match": { "process.serviceName": { "query": service } } },
            { "match": { "operationName": { "query": operation } } },
            { "bool": { "should": [
                object("tag"), object("process.tag"),
                nested("tags"), nested("process.tags"), nested("logs.fields"),
            ] } },
        ] } },
    })
}

#[tokio::test]
async fn a_stock_jaegers_questions_find_our_documents() {
    let mut bench = Bench::new().await;
    bench.index(&Request::of("shop", &[checkout(1), checkout(2), span(3, 0, "GET /")])).await;
    let found = |operation: &str, value: &str| {
        let question = jaegers_question("shop", operation, "http.status_code", value);
        let answer = bench.ask(TODAY, &question);
        answer["aggregations"]["traceIDs"]["buckets"].as_array().unwrap().len()
    };
    assert_eq!(found("POST /checkout", "200"), 2);
    assert_eq!(found("POST /checkout", "500"), 0);
    let kind = jaegers_question("shop", "GET /", "span.kind", "server");
    assert_eq!(
        bench.ask(TODAY, &kind)["aggregations"]["traceIDs"]["buckets"][0]["key"],
        trace_id(3).to_string()
    );
    let by_id = json!({
        "query": { "bool": { "must": [
            { "term": { "traceID": trace_id(1).to_string() } },
            { "range": { "startTimeMillis": { "gte": 0, "lte": NOW.millis() + 1 } } },
        ] } },
        "size": 100, "track_total_hits": true,
        "sort": [{ "startTime": { "order": "asc" } }, { "spanID": { "order": "asc" } }],
    });
    let document = bench.ask(TODAY, &by_id)["hits"]["hits"][0]["_source"].clone();
    assert_eq!(document["spanID"], "0000000000000001");
    assert_eq!(document["process"]["serviceName"], "shop");
    assert_eq!(document["duration"], 250);
    assert_eq!(document["tags"][1]["value"], 200);
    assert_eq!(document["tags"][1]["type"], "int64");
    let services = json!({ "size": 0, "aggregations": {
        "distinct_services": { "terms": { "field": "serviceName", "size": 10 } },
    } });
    let answer = bench.ask("service-2026-09-21", &services);
    assert_eq!(answer["aggregations"]["distinct_services"]["buckets"][0]["key"], "shop");
    let prefix = bench.store.jaeger_prefix(&TenantId::default());
    assert_eq!(format!("{prefix}-jaeger-{TODAY}"), bench.name(TODAY));
    assert_eq!(bench.count("span-read"), 3);
}

/// A document as Jaeger's writer makes it, of a trace id of 64 bits.
fn jaegers_document(start: UnixNanos) -> Value {
    json!({
        "traceID": "00000000000000ab", "spanID": "000000000000000c", "operationName": "legacy",
        "references": [{ "refType": "CHILD_OF", "traceID": "00000000000000ab", "spanID": "01" }],
        "startTime": start.micros(), "startTimeMillis": start.millis(), "duration": 1_500,
        "tags": [
            { "key": "span.kind", "type": "string", "value": "client" },
            { "key": "error", "type": "bool", "value": true },
            { "key": "attempt", "type": "int64", "value": 3 },
        ],
        "logs": [{ "timestamp": start.micros(), "fields": [
            { "key": "event", "type": "string", "value": "retry" },
        ] }],
        "process": { "serviceName": "billing", "tags": [
            { "key": "host", "type": "string", "value": "h1" },
        ] },
    })
}

#[tokio::test]
async fn a_document_that_a_jaeger_wrote_is_found_among_ours() {
    for tags_are_nested in [false, true] {
        let mut bench = Bench::with(|config| ElasticsearchConfig {
            jaeger_tags_are_nested: tags_are_nested,
            ..config
        })
        .await;
        let at = |id: u64| NOW.plus(id * 1_000_000);
        bench.index(&Request::of("shop", &[span(1, 0, "a"), span(2, 9, "b")])).await;
        let path = format!("/{}/_doc/x?refresh=true", bench.name(TODAY));
        json(&bench.url, "PUT", &path, &jaegers_document(at(5)));
        let service = json!({ "serviceName": "billing", "operationName": "legacy" });
        let path = format!("/{}/_doc/y?refresh=true", bench.name("service-2026-09-21"));
        json(&bench.url, "PUT", &path, &service);
        let legacy: TraceId = "ab".parse().unwrap();
        assert_eq!(bench.find(Filter::All).await, [trace_id(2), legacy, trace_id(1)]);
        for filter in [
            equals(Field::Service, "billing"),
            equals(Field::Operation, "legacy"),
            equals(Field::Kind, "client"),
            equals(Field::Status, "error"),
            tag("attempt", "3"),
            tag("host", "h1"),
            tag("event", "retry"),
            tag("service.name", "billing"),
            Filter::Matches {
                field: Field::Attribute { place: Place::Resource, key: "host".to_owned() },
                pattern: Pattern::new("^h[0-9]$").unwrap(),
            },
            Filter::Compare {
                field: Field::Duration,
                op: CompareOp::Eq,
                literal: Literal::Int(1_500_000),
            },
        ] {
            assert_eq!(bench.find(filter.clone()).await, [legacy], "{filter:?}");
        }
        assert!(bench.find(tag("attempt", "4")).await.is_empty());
        assert!(bench.find(tag("span.kind", "client")).await.is_empty());
        let range = TimeRange { start: at(5), end: at(6) };
        let within = SearchQuery { range, ..query(Filter::All) };
        assert_eq!(ids(&bench.store.search(&within).await.unwrap().matches), [legacy]);
        let second =
            SearchQuery { before: Some((at(9), trace_id(2))), limit: 1, ..query(Filter::All) };
        assert_eq!(ids(&bench.store.search(&second).await.unwrap().matches), [legacy]);
        let tenant = TenantId::default();
        let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
        assert_eq!(services, ["billing".into(), "shop".into()]);
        let operations = bench.store.operations(&tenant, "billing", TimeRange::ALL).await.unwrap();
        assert_eq!(&*operations[0].name, "legacy");
        assert_eq!(bench.store.erase(&tenant, legacy).await.unwrap().spans, 1);
        assert_eq!(bench.find(Filter::All).await, [trace_id(2), trace_id(1)]);
    }
}

#[tokio::test]
async fn documents_are_the_distinct_spans_however_often_they_are_indexed() {
    let mut bench = Bench::new().await;
    let mut twin = span(1, 0, "a");
    twin.kind = 3;
    let spans = [span(1, 0, "a"), span(1, 0, "a"), twin, span(2, 0, "a"), span(2, 1, "b")];
    let batch = bench.log.append(&Request::of("web", &spans));
    for _ in 0..3 {
        bench.store.index(std::slice::from_ref(&batch)).await.unwrap();
        bench.another().await.index(std::slice::from_ref(&batch)).await.unwrap();
    }
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
    assert_eq!(bench.count(TODAY), 4);
    assert_eq!(bench.store.metrics().documents.get(), 4 + 3);
    let matches = bench.store.search(&query(Filter::All)).await.unwrap().matches;
    assert_eq!(matches.iter().map(|found| found.matched_spans).sum::<u32>(), 4);
}

#[tokio::test]
async fn what_is_covered_is_found_by_another_process() {
    let mut bench = Bench::new().await;
    let reader = bench.another().await;
    let batch = bench.log.append(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")]));
    bench.store.index(&[batch]).await.unwrap();
    let first = LogPosition { partition: 0, offset: 0 };
    assert!(!bench.store.indexed().covers(INCARNATION, first));
    let own = bench.store.search(&query(Filter::All)).await.unwrap();
    assert!(own.covered.covers(INCARNATION, first) && own.matches.len() == 2);
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
    assert!(bench.store.indexed().covers(INCARNATION, first));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        bench.clock.advance(std::time::Duration::from_secs(2));
        let answer = reader.search(&query(Filter::All)).await.unwrap();
        if answer.covered.covers(INCARNATION, first) {
            assert_eq!(answer.matches.len(), 2);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never covered");
    }
    // A writer that lags behind takes nothing back.
    let late = bench.another().await;
    assert!(late.indexed().covers(INCARNATION, LogPosition { partition: 0, offset: 1 }));
    let mut log = Log::new();
    late.index(&[log.append(&Request::of("web", &[span(1, 0, "a")]))]).await.unwrap();
    SearchIndexer::flush(&*late, NOW, true).await.unwrap();
    assert!(
        bench
            .another()
            .await
            .indexed()
            .covers(INCARNATION, LogPosition { partition: 0, offset: 1 })
    );
}

#[tokio::test]
async fn a_trace_erased_by_one_process_is_refused_by_another() {
    let mut bench = Bench::new().await;
    let another = bench.another().await;
    bench.index(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")])).await;
    another.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    bench.index(&Request::of("web", &[span(1, 7, "late"), span(2, 7, "c")])).await;
    assert_eq!(bench.find(Filter::All).await, [trace_id(2)]);
    assert_eq!(bench.count("span-*"), 2);
    assert_eq!(bench.store.metrics().erased_spans.get(), 1);
    let reopened = bench.another().await;
    reopened.index(&[bench.log.append(&Request::of("web", &[span(1, 8, "later")]))]).await.unwrap();
    assert_eq!(bench.find(Filter::All).await, [trace_id(2)]);
    let services = bench.store.services(&TenantId::default(), TimeRange::ALL).await.unwrap();
    assert_eq!(services, ["web".into()]);
    let again = another.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!(again.spans, 0);
}

/// What a writer wrote that was killed before it heard of the erasure.
#[tokio::test]
async fn documents_of_an_erased_trace_that_appear_behind_its_back_go_when_its_spans_come_again() {
    let mut bench = Bench::new().await;
    let batch = bench.log.append(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")]));
    bench.store.index(std::slice::from_ref(&batch)).await.unwrap();
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
    let find = json!({ "query": { "term": { "traceID": trace_id(1).to_string() } } });
    let document = bench.ask(TODAY, &find)["hits"]["hits"][0].clone();
    bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    let id = document["_id"].as_str().unwrap();
    let path = format!("/{}/_doc/{id}?refresh=true", bench.name(TODAY));
    json(&bench.url, "PUT", &path, &document["_source"]);
    assert_eq!(bench.count(TODAY), 2);
    bench.another().await.index(&[batch]).await.unwrap();
    assert_eq!(bench.count(TODAY), 1);
    assert_eq!(bench.find(Filter::All).await, [trace_id(2)]);
}

/// A service that only the erased trace had, and that another process takes for listed.
#[tokio::test]
async fn a_service_whose_entry_was_erased_is_listed_again_when_it_comes_again() {
    let mut bench = Bench::new().await;
    let another = bench.another().await;
    bench.index(&Request::of("fraud", &[span(1, 0, "a")])).await;
    another.index(&[bench.log.append(&Request::of("fraud", &[span(1, 0, "a")]))]).await.unwrap();
    let tenant = TenantId::default();
    another.erase(&tenant, trace_id(1)).await.unwrap();
    let services = async || bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
    assert!(services().await.is_empty());
    let mut log = Log::new();
    bench.store.index(&[log.append(&Request::of("fraud", &[span(2, 0, "a")]))]).await.unwrap();
    assert_eq!(services().await, ["fraud".into()]);
}

#[tokio::test]
async fn a_search_that_has_to_look_at_too_much_says_so() {
    let mut bench =
        Bench::with(|config| ElasticsearchConfig { candidates_max: 100, ..config }).await;
    let spans: Vec<_> = (0..150).map(|trace| span(trace, 0, "a")).collect();
    bench.index(&Request::of("web", &spans)).await;
    let pattern = Pattern::new("^b$").unwrap();
    let rare = Filter::Matches { field: Field::Operation, pattern };
    let found = bench.store.search(&query(rare)).await;
    assert!(matches!(found, Err(StoreError::Unsupported(_))), "{found:?}");
    let exact = bench.store.search(&query(equals(Field::Operation, "b"))).await.unwrap();
    assert!(exact.matches.is_empty());
}

#[tokio::test]
async fn pages_go_on_over_traces_of_one_moment_and_past_a_huge_trace() {
    let mut bench =
        Bench::with(|config| ElasticsearchConfig { candidates_max: 4_000, ..config }).await;
    let many: Vec<_> = (0..300).map(|trace| span(trace, 5, "a")).collect();
    bench.index(&Request::of("web", &many)).await;
    // Newer, and more than the search may look at one by one.
    for part in 0..4_u64 {
        let huge: Vec<_> = (0..1_500).map(|id| span(1_000, 10 + part * 1_500 + id, "a")).collect();
        bench.index(&Request::of("web", &huge)).await;
    }
    for filter in [
        Filter::All,
        Filter::Matches { field: Field::Operation, pattern: Pattern::new("a").unwrap() },
    ] {
        let mut pages = Vec::new();
        let mut search = SearchQuery { limit: 70, ..query(filter) };
        loop {
            let matches = bench.store.search(&search).await.unwrap().matches;
            let Some(last) = matches.last() else { break };
            search.before = Some((last.newest_match, last.trace_id));
            pages.extend(matches);
        }
        assert_eq!(pages.len(), 301);
        assert_eq!(pages[0].trace_id, trace_id(1_000));
        assert!(pages.windows(2).all(|pair| pair[0].order_key() < pair[1].order_key()));
    }
}

#[tokio::test]
async fn a_closed_day_and_a_day_that_is_gone_are_not_an_empty_answer_alike() {
    let mut bench = Bench::new().await;
    bench.index(&Request::of("web", &[span(1, 0, "a")])).await;
    let path = format!("/{}/_close", bench.name(TODAY));
    json(&bench.url, "POST", &path, &Value::Null);
    let found = bench.store.search(&query(Filter::All)).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
    http(&bench.url, "DELETE", &format!("/{}", bench.name(TODAY)), "");
    assert!(bench.find(Filter::All).await.is_empty());
    // The writer does not stumble over an index that was removed under it.
    bench.index(&Request::of("web", &[span(2, 0, "b")])).await;
    assert_eq!(bench.find(Filter::All).await, [trace_id(2)]);
}
