//! What is counted, and that crashes change nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proto::wire::{put_bytes_field, put_varint};
use proto::{BatchSource, SpanBatchBuilder};
use trace_model::location::EntrySpan;
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, SpanId, SpanKind, TenantId, TimeRange, TraceId};
use trace_store::port::{EdgeTraceQuery, EdgeTraces};
use trace_store::{EdgeKey, EdgeRow, MemoryMetricsStore, MetricsDelta, RedKey, RedQuery, RedRow};

use super::*;
use crate::spread::tests::FakeEnds;
use span_log::MissedRun;

const INCARNATION: u64 = 3;
const SECOND: u64 = 1_000_000_000;
/// A time at which a 10-minute bucket starts.
const START: u64 = 1_800_000_000 * SECOND;

/// A span as the tests say it.
#[derive(Clone, Debug, Hash)]
struct TestSpan {
    trace: u8,
    id: u64,
    parent: u64,
    service: String,
    name: String,
    kind: u8,
    is_error: bool,
    start: u64,
    nanos: u64,
}

fn span(trace: u8, id: u64, parent: u64, service: &str) -> TestSpan {
    TestSpan {
        trace,
        id,
        parent,
        service: service.to_owned(),
        name: "op".to_owned(),
        kind: 2,
        is_error: false,
        start: START,
        nanos: 1_000 + id,
    }
}

fn put_number(output: &mut Vec<u8>, tag: u64, value: u64) {
    put_varint(output, tag);
    put_varint(output, value);
}

fn encode(span: &TestSpan) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, 1, &[span.trace; 16]);
    put_bytes_field(&mut bytes, 2, &span.id.to_be_bytes());
    if span.parent > 0 {
        put_bytes_field(&mut bytes, 4, &span.parent.to_be_bytes());
    }
    put_bytes_field(&mut bytes, 5, span.name.as_bytes());
    put_number(&mut bytes, 6 << 3, u64::from(span.kind));
    for (number, time) in [(7_u64, span.start), (8, span.start + span.nanos)] {
        put_varint(&mut bytes, number << 3 | 1);
        bytes.extend_from_slice(&time.to_le_bytes());
    }
    let mut status = Vec::new();
    put_number(&mut status, 3 << 3, if span.is_error { 2 } else { 0 });
    put_bytes_field(&mut bytes, 15, &status);
    bytes
}

/// A resource frame with a service name.
fn resource(service: &str) -> Vec<u8> {
    let (mut value, mut pair, mut resource, mut frame) = (vec![], vec![], vec![], vec![]);
    put_bytes_field(&mut value, 1, service.as_bytes());
    put_bytes_field(&mut pair, 1, b"service.name");
    put_bytes_field(&mut pair, 2, &value);
    put_bytes_field(&mut resource, 1, &pair);
    put_bytes_field(&mut frame, 1, &resource);
    frame
}

/// Batches of one partition, at growing offsets.
#[derive(Debug)]
struct TestLog {
    partition: u32,
    next: u64,
}

impl TestLog {
    const fn new(partition: u32) -> Self {
        Self { partition, next: 0 }
    }

    /// A request with this digest, appended so many seconds after the start.
    fn batch(&mut self, digest: u64, at: u64, spans: &[TestSpan]) -> LoggedBatch {
        self.batch_of(&TenantId::default(), digest, at, spans)
    }

    fn batch_of(
        &mut self,
        tenant: &TenantId,
        digest: u64,
        at: u64,
        spans: &[TestSpan],
    ) -> LoggedBatch {
        let encoded: Vec<_> = spans.iter().map(encode).collect();
        let mut builder = SpanBatchBuilder::new();
        let mut scopes = BTreeMap::new();
        for (span, bytes) in spans.iter().zip(&encoded) {
            let scope = *scopes.entry(&span.service).or_insert_with(|| {
                let resource = builder.add_resource(resource(&span.service));
                builder.add_scope(resource, Vec::new())
            });
            let trace_id = TraceId::from_bytes([span.trace; 16]).unwrap();
            let half = Threshold::from_rate(0.5).unwrap();
            builder.add_span(trace_id, half, scope, bytes);
        }
        let source = BatchSource {
            tenant: tenant.clone(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(START + at * SECOND),
            digest,
        };
        let batch = Arc::new(builder.finish(source).unwrap());
        let first = self.next;
        self.next += batch.traces().len() as u64;
        LoggedBatch {
            incarnation: INCARNATION,
            range: LogRange { partition: self.partition, first, next: self.next },
            append_time: UnixNanos(START + at * SECOND),
            batch,
        }
    }
}

type Red = BTreeMap<RedKey, (u64, u64, u64, Option<(u64, TraceId)>)>;
type Edges = BTreeMap<EdgeKey, (u64, u64, u64, Vec<TraceId>)>;

/// Everything that a store has counted for the default tenant.
async fn counts(store: &dyn MetricsStore) -> (Red, Edges) {
    let tenant = TenantId::default();
    let mut red = Red::new();
    for by_operation in [false, true] {
        let query =
            RedQuery { tenant: tenant.clone(), service: None, by_operation, range: TimeRange::ALL };
        let short =
            |row: RedRow| (row.seen, row.estimated.to_bits(), row.durations.count(), row.exemplar);
        let rows = store.red(&query).await.unwrap();
        red.extend(rows.into_iter().map(|(key, row)| (key, short(row))));
    }
    let mut edges = Edges::new();
    for bucket in 0..60 {
        let start = UnixNanos(START + bucket * 600 * SECOND);
        let range = TimeRange { start, end: start.plus(1) };
        let short =
            |row: EdgeRow| (row.seen, row.estimated.to_bits(), row.durations.count(), row.traces);
        let rows = store.edges(&tenant, range).await.unwrap();
        edges.extend(rows.into_iter().map(|(key, row)| (key, short(row))));
    }
    (red, edges)
}

/// Calls as "caller>callee" with their number, errors marked.
async fn calls(store: &dyn MetricsStore) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for (key, row) in counts(store).await.1 {
        let mark = if key.is_error { "!" } else { "" };
        *calls.entry(format!("{}>{}{mark}", key.caller, key.callee)).or_default() += row.0;
    }
    calls
}

/// Spans counted, by service and operation.
async fn spans(store: &dyn MetricsStore) -> BTreeMap<String, u64> {
    let mut spans = BTreeMap::new();
    for (key, row) in counts(store).await.0 {
        if let Some(operation) = &key.operation {
            *spans.entry(format!("{}/{operation}", key.service)).or_default() += row.0;
        }
    }
    spans
}

async fn open(
    store: &Arc<dyn MetricsStore>,
    config: &AggregatorConfig,
) -> (MetricsAggregator, CrossBorder) {
    let metrics = AggregatorMetrics::default();
    let log = (INCARNATION, 2);
    MetricsAggregator::open(Arc::clone(store), log, config.clone(), metrics).await.unwrap()
}

fn memory() -> Arc<dyn MetricsStore> {
    Arc::new(MemoryMetricsStore::new())
}

/// Counts batches from the beginning to the end.
async fn count(config: &AggregatorConfig, batches: &[LoggedBatch]) -> Arc<dyn MetricsStore> {
    let store = memory();
    let (mut aggregator, _border) = open(&store, config).await;
    aggregator.handle(batches).await.unwrap();
    aggregator.tick(UnixNanos(START), None, true).await.unwrap();
    store
}

fn named(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn spans_are_counted_by_series_with_roll_up_estimate_and_slowest_exemplar() {
    let mut log = TestLog::new(0);
    let mut slow = span(2, 900, 0, "web");
    slow.nanos = 5_000_000;
    let mut failed = span(3, 4, 0, "web");
    (failed.is_error, failed.name) = (true, "other".to_owned());
    let batches = [log.batch(1, 0, &[span(1, 1, 0, "web"), slow, failed])];
    let (red, _) = counts(&*count(&AggregatorConfig::default(), &batches).await).await;
    let trace = |byte| TraceId::from_bytes([byte; 16]).unwrap();
    let short: Vec<_> = red
        .iter()
        .map(|(key, row)| {
            (key.operation.as_deref(), key.status.word(), row.0, f64::from_bits(row.1), row.3)
        })
        .collect();
    assert_eq!(
        short,
        [
            (None, "unset", 2, 4.0, Some((5_000_000, trace(2)))),
            (None, "error", 1, 2.0, Some((1_004, trace(3)))),
            (Some("op"), "unset", 2, 4.0, Some((5_000_000, trace(2)))),
            (Some("other"), "error", 1, 2.0, Some((1_004, trace(3)))),
        ]
    );
    assert!(red.keys().all(|key| key.minute == UnixNanos(START) && key.kind == SpanKind::Server));
}

#[tokio::test]
async fn an_edge_is_counted_when_services_differ_whichever_side_comes_first() {
    let mut failed = span(1, 3, 2, "pay");
    failed.is_error = true;
    let all = [span(1, 1, 0, "web"), span(1, 2, 1, "cart"), failed, span(1, 4, 2, "cart")];
    let expected = named(&[("web>cart", 1), ("cart>pay!", 1)]);
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
    for order in orders {
        let (mut log, mut together) = (TestLog::new(0), TestLog::new(0));
        let ordered = order.map(|place: usize| all[place].clone());
        let apart: Vec<_> = (0_u64..)
            .zip(&ordered)
            .map(|(at, span)| log.batch(at, at * 5, std::slice::from_ref(span)))
            .collect();
        let config = AggregatorConfig::default();
        assert_eq!(calls(&*count(&config, &apart).await).await, expected, "{order:?}");
        let one = [together.batch(1, 0, &ordered)];
        assert_eq!(calls(&*count(&config, &one).await).await, expected, "{order:?}");
    }
}

#[tokio::test]
async fn a_parent_that_never_comes_is_not_guessed() {
    let mut log = TestLog::new(0);
    let batches = [
        log.batch(1, 0, &[span(1, 2, 1, "cart")]),
        log.batch(2, 40, &[span(2, 9, 0, "web")]),
        log.batch(3, 41, &[span(1, 1, 0, "web")]),
    ];
    let store = count(&AggregatorConfig::default(), &batches).await;
    assert_eq!(calls(&*store).await, named(&[]));
    assert_eq!(spans(&*store).await, named(&[("cart/op", 1), ("web/op", 2)]));
}

#[tokio::test]
async fn a_span_that_client_and_server_share_is_one_call() {
    for order in [[0, 1], [1, 0]] {
        let mut client = span(1, 7, 0, "web");
        client.kind = 3;
        let halves = [client, span(1, 7, 0, "cart")];
        let mut log = TestLog::new(0);
        let batches = order
            .map(|place: usize| log.batch(place as u64, 0, std::slice::from_ref(&halves[place])));
        let store = count(&AggregatorConfig::default(), &batches).await;
        assert_eq!(calls(&*store).await, named(&[("web>cart", 1)]), "{order:?}");
    }
}

#[tokio::test]
async fn a_trace_of_two_tenants_is_two_traces() {
    let mut log = TestLog::new(0);
    let other = TenantId::new("other").unwrap();
    let batches = [
        log.batch(1, 0, &[span(1, 1, 0, "web")]),
        log.batch_of(&other, 1, 0, &[span(1, 1, 0, "web")]),
        log.batch_of(&other, 2, 1, &[span(1, 2, 1, "cart")]),
    ];
    let store = count(&AggregatorConfig::default(), &batches).await;
    assert_eq!(spans(&*store).await, named(&[("web/op", 1)]));
    assert_eq!(calls(&*store).await, named(&[]));
    let range = TimeRange { start: UnixNanos(START), end: UnixNanos(START + SECOND) };
    assert_eq!(store.edges(&other, range).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_repeated_request_counts_once_within_the_window_and_again_after_it() {
    let all = [span(1, 1, 0, "web"), span(2, 2, 0, "web")];
    for (again, expected) in [(1, 2), (60, 2), (599, 2), (700, 4)] {
        let mut log = TestLog::new(0);
        let batches = [log.batch(9, 0, &all), log.batch(9, again, &all)];
        let store = count(&AggregatorConfig::default(), &batches).await;
        assert_eq!(spans(&*store).await, named(&[("web/op", expected)]), "{again}");
    }
}

#[tokio::test]
async fn a_part_of_a_request_that_did_not_arrive_the_first_time_is_counted() {
    let mut log = TestLog::new(0);
    let batches = [
        log.batch(9, 0, &[span(1, 1, 0, "web")]),
        log.batch(9, 100, &[span(1, 1, 0, "web"), span(2, 2, 0, "web")]),
    ];
    let store = count(&AggregatorConfig::default(), &batches).await;
    assert_eq!(spans(&*store).await, named(&[("web/op", 2)]));
}

#[tokio::test]
async fn a_span_repeated_in_an_open_trace_counts_once_and_one_that_differs_twice() {
    let mut log = TestLog::new(0);
    let mut differs = span(1, 2, 1, "cart");
    differs.name = "retried".to_owned();
    let batches = [
        log.batch(1, 0, &[span(1, 1, 0, "web"), span(1, 2, 1, "cart"), span(1, 2, 1, "cart")]),
        log.batch(2, 20, &[span(1, 2, 1, "cart"), differs]),
    ];
    let store = count(&AggregatorConfig::default(), &batches).await;
    let expected = named(&[("cart/op", 1), ("cart/retried", 1), ("web/op", 1)]);
    assert_eq!(spans(&*store).await, expected);
    assert_eq!(calls(&*store).await, named(&[("web>cart", 2)]));
}

#[tokio::test]
async fn too_many_operations_of_a_minute_are_counted_together() {
    let config = AggregatorConfig { operations_max: 2, ..AggregatorConfig::default() };
    let store = memory();
    let (mut aggregator, _border) = open(&store, &config).await;
    let mut log = TestLog::new(0);
    for digest in 0..20 {
        let mut span = span(1, digest + 1, 0, "web");
        span.name = format!("op{}", digest % 5);
        aggregator.handle(&[log.batch(digest, digest, &[span])]).await.unwrap();
        aggregator.tick(UnixNanos(START + digest * 6 * SECOND), None, false).await.unwrap();
    }
    aggregator.tick(UnixNanos(START), None, true).await.unwrap();
    let expected = named(&[("web/__other__", 12), ("web/op0", 4), ("web/op1", 4)]);
    assert_eq!(spans(&*store).await, expected);
    assert_eq!(aggregator.metrics.overflow_operation_spans.get(), 12);
}

#[tokio::test]
async fn too_many_services_are_counted_together() {
    let config = AggregatorConfig { services_max: 2, ..AggregatorConfig::default() };
    let mut log = TestLog::new(0);
    let all: Vec<_> = (1..=6).map(|id| span(1, id, 0, &format!("s{id}"))).collect();
    let store = count(&config, &[log.batch(1, 0, &all)]).await;
    let expected = named(&[("__other__/__other__", 4), ("s1/op", 1), ("s2/op", 1)]);
    assert_eq!(spans(&*store).await, expected);
}

#[tokio::test]
async fn calls_of_services_without_a_place_are_counted_under_other_from_either_side() {
    let config = AggregatorConfig { services_max: 1, ..AggregatorConfig::default() };
    let mut log = TestLog::new(0);
    // web alone has a place. cart calls itself, which is no edge, and pay, which is one.
    let all = [
        span(1, 1, 0, "web"),
        span(1, 2, 1, "cart"),
        span(1, 3, 2, "cart"),
        span(1, 4, 3, "pay"),
        span(1, 5, 4, "web"),
    ];
    let store = count(&config, &[log.batch(1, 0, &all)]).await;
    let expected = named(&[("web>__other__", 1), ("__other__>__other__", 1), ("__other__>web", 1)]);
    assert_eq!(calls(&*store).await, expected);
}

#[tokio::test]
async fn every_tenant_is_counted_however_many_there_are() {
    let config = AggregatorConfig { services_max: 1, flush_rows_max: 8, ..Default::default() };
    let store = memory();
    let faulty: Arc<dyn MetricsStore> = Arc::new(Unreliable {
        inner: Arc::clone(&store),
        faults: AtomicU32::new(0b10_01_10_01_00),
    });
    let (mut aggregator, _border) = open(&faulty, &config).await;
    let mut log = TestLog::new(0);
    let tenants: Vec<_> =
        (0..200).map(|number| TenantId::new(&format!("t{number}")).unwrap()).collect();
    let calls_of = |mine, db| [span(mine, 1, 0, "mine"), span(mine, 2, 1, db)];
    let batches: Vec<_> =
        tenants.iter().map(|tenant| log.batch_of(tenant, 1, 0, &calls_of(1, "db"))).collect();
    let mut tries = 1;
    while let Err(error) = aggregator.handle(&batches).await {
        assert!(matches!(error, HandleError::Retry(_)), "{error:?}");
        tries += 1;
    }
    assert_eq!(tries, 5, "what waits is flushed before more is taken, as often as it takes");
    assert!(aggregator.counts.rows() < 8 + 3, "{}", aggregator.counts.rows());
    aggregator.tick(UnixNanos(START), None, true).await.unwrap();
    for (place, tenant) in tenants.iter().enumerate() {
        let (tenant, range) = (tenant.clone(), TimeRange::ALL);
        let edges = store.edges(&tenant, range).await.unwrap();
        let query = RedQuery { tenant, service: None, by_operation: false, range };
        let red = store.red(&query).await.unwrap();
        let counted: u64 = red.iter().map(|(_, row)| row.seen).sum();
        assert_eq!((counted, edges.len(), edges[0].1.seen), (2, 1, 1), "{place}");
        let has_other = red.iter().any(|(key, _)| &*key.service == "__other__");
        assert!(has_other && &*edges[0].0.callee == "__other__", "{place}");
    }
}

#[tokio::test]
async fn a_call_across_a_border_of_a_tenant_without_places_is_counted_under_other() {
    let config = AggregatorConfig { services_max: 1, ..AggregatorConfig::default() };
    let (store, mut now) = (memory(), START);
    let (mut aggregator, border) = open(&store, &config).await;
    let mut log = TestLog::new(0);
    let full = log.batch_of(&TenantId::new("full").unwrap(), 1, 0, &[span(1, 1, 0, "only")]);
    aggregator.handle(&[full]).await.unwrap();
    let join = entry_join("us-east-1", 1, "web");
    let outcome = offer(&mut aggregator, &border, join, &mut now).await;
    assert_eq!(outcome, JoinOutcome::Counted);
    assert_eq!(calls(&*store).await, named(&[("__other__>__other__", 1)]));
}

#[tokio::test]
async fn traces_of_an_edge_are_found_by_caller_callee_and_error() {
    let mut log = TestLog::new(0);
    let batches: Vec<_> = (1..=200_u8)
        .map(|trace| {
            let mut child = span(trace, 2, 1, "cart");
            child.is_error = trace % 2 == 0;
            log.batch(u64::from(trace), 0, &[span(trace, 1, 0, "web"), child])
        })
        .collect();
    let store = count(&AggregatorConfig::default(), &batches).await;
    let query = EdgeTraceQuery {
        tenant: TenantId::default(),
        caller: "web".into(),
        callee: "cart".into(),
        only_errors: true,
        range: TimeRange::ALL,
        limit: 1_000,
    };
    let traces = store.edge_traces(&query).await.unwrap().trace_ids;
    let bytes: Vec<_> = traces.iter().map(|trace| trace.as_bytes()[0]).collect();
    assert_eq!(bytes, (1..=100).rev().map(|half| half * 2).collect::<Vec<u8>>());
}

fn entry_join(region: &str, span_id: u8, parent: &str) -> EntryJoin {
    EntryJoin {
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes([9; 16]).unwrap(),
        region: Region::new(region).unwrap(),
        entry: EntrySpan {
            span_id: SpanId::from_bytes([span_id; 8]).unwrap(),
            parent_span_id: SpanId::from_bytes([77; 8]).unwrap(),
            service: "cart".into(),
            start: UnixNanos(START),
            duration_nanos: 5,
            is_error: false,
        },
        parent_service: parent.into(),
        adjusted_count: 1.0,
    }
}

/// Offers a join and ticks the aggregator until it is answered.
async fn offer(
    aggregator: &mut MetricsAggregator,
    border: &CrossBorder,
    join: EntryJoin,
    now: &mut u64,
) -> JoinOutcome {
    let offered = border.join_entry_span(join);
    tokio::pin!(offered);
    loop {
        *now += SECOND;
        tokio::select! {
            biased;
            outcome = &mut offered => return outcome.unwrap(),
            ticked = aggregator.tick(UnixNanos(*now), None, false) => ticked.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_call_across_a_border_is_counted_once_also_after_a_crash() {
    let (store, config) = (memory(), AggregatorConfig::default());
    let mut now = START;
    let (mut aggregator, border) = open(&store, &config).await;
    for (region, span_id, parent, expected) in [
        ("us-east-1", 1, "web", JoinOutcome::Counted),
        ("us-east-1", 1, "web", JoinOutcome::AlreadyCounted),
        ("us-east-1", 2, "web", JoinOutcome::Counted),
        ("eu-west-2", 1, "web", JoinOutcome::Counted),
        ("eu-west-2", 3, "cart", JoinOutcome::SameService),
    ] {
        let join = entry_join(region, span_id, parent);
        let outcome = offer(&mut aggregator, &border, join, &mut now).await;
        assert_eq!(outcome, expected, "{region} {span_id}");
    }
    drop(aggregator);
    let ended = border.join_entry_span(entry_join("us-east-1", 1, "web")).await;
    assert_eq!(ended, Err(cross_border::AggregatorEnded));
    let (mut aggregator, border) = open(&store, &config).await;
    for span_id in [1, 2] {
        let join = entry_join("us-east-1", span_id, "web");
        let outcome = offer(&mut aggregator, &border, join, &mut now).await;
        assert_eq!(outcome, JoinOutcome::AlreadyCounted);
    }
    assert_eq!(calls(&*store).await, named(&[("web>cart", 3)]));
}

/// A store whose answers fail as they are told to: before or after the delta is in.
#[derive(Debug)]
struct Unreliable {
    inner: Arc<dyn MetricsStore>,
    faults: AtomicU32,
}

#[async_trait]
impl MetricsStore for Unreliable {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        let fault = self.faults.load(Ordering::SeqCst) & 3;
        self.faults
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |faults| Some(faults >> 2))
            .unwrap();
        if fault == 1 {
            return Err(StoreError::Full);
        }
        self.inner.apply(delta).await?;
        if fault == 2 { Err(StoreError::Unavailable("after all".into())) } else { Ok(()) }
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        self.inner.checkpoint().await
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        self.inner.covered().await
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        self.inner.red(query).await
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        self.inner.edges(tenant, range).await
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        self.inner.edge_traces(query).await
    }
}

/// A log of two partitions: traces over services that are each partition's own, with children
/// before parents, spans and requests repeated, pauses that close traces, and too many operations.
fn some_log(seeds: &[(u8, u8, u8, u8)]) -> [Vec<LoggedBatch>; 2] {
    let mut logs = [TestLog::new(0), TestLog::new(1)];
    let mut batches = [Vec::new(), Vec::new()];
    let mut at = 0;
    let mut requests: Vec<(usize, u64, Vec<TestSpan>)> = Vec::new();
    for (digest, (trace, shape, pause, what)) in (0_u64..).zip(seeds.iter().copied()) {
        at += u64::from(pause % 25);
        let repeated = requests.get(usize::from(what)).cloned().filter(|_| what < 20);
        let (partition, digest, spans) = repeated.unwrap_or_else(|| {
            let trace = 1 + trace % 12;
            let partition = usize::from(trace % 2);
            let spans = (0..=shape % 4).map(|place| some_span(trace, shape, place, partition));
            (partition, digest, spans.collect())
        });
        requests.push((partition, digest, spans.clone()));
        batches[partition].push(logs[partition].batch(digest, at, &spans));
    }
    batches
}

fn some_span(trace: u8, shape: u8, place: u8, partition: usize) -> TestSpan {
    let id = u64::from(shape.wrapping_mul(7).wrapping_add(place * 31) % 24) + 1;
    let parent = u64::from(shape.wrapping_add(place * 5) % 25);
    let mut span = span(trace, id, parent, &format!("s{}p{partition}", id % 4));
    span.name = format!("op{}", shape % 7);
    span.is_error = shape.is_multiple_of(5);
    span.kind = 1 + shape.wrapping_add(place) % 5;
    span.start = START + u64::from(shape % 2) * 700 * SECOND;
    span.nanos = u64::from(shape) * 1_000;
    span
}

fn small_limits() -> AggregatorConfig {
    AggregatorConfig {
        operations_max: 3,
        open_bytes_max: 2 * 1_500,
        digest_bytes_max: 2 * 1_500,
        spans_per_trace_max: 9,
        trace_age_max: Duration::from_secs(90),
        checkpoint_every: Duration::from_secs(30),
        flush_rows_max: 40,
        ..AggregatorConfig::default()
    }
}

/// Steps without a crash.
const STRAIGHT: [(u8, u8); 4] = [(3, 4), (4, 4), (5, 4), (0, 4)];

/// Counts a log, and does what `plan` says between batches: goes on, ticks, or dies and starts again
/// at what was committed.
async fn count_with_crashes(
    store: &Arc<dyn MetricsStore>,
    config: &AggregatorConfig,
    batches: &[Vec<LoggedBatch>; 2],
    plan: &[(u8, u8)],
) {
    let (mut aggregator, mut _border) = open(store, config).await;
    let (mut places, mut committed, mut now) = ([0_usize; 2], Coverage::none(INCARNATION), START);
    // When the plan is at its end, the run goes straight on to its own.
    let mut plan = plan.iter().copied().chain(STRAIGHT.into_iter().cycle());
    while places[0] < batches[0].len() || places[1] < batches[1].len() {
        let (what, count) = plan.next().unwrap();
        let partition = usize::from(what % 2);
        let end = (places[partition] + usize::from(count % 5)).min(batches[partition].len());
        // What fails is tried again, as is what has to wait for the other partition.
        if aggregator.handle(&batches[partition][places[partition]..end]).await.is_ok() {
            places[partition] = end;
        }
        now += u64::from(count) * SECOND / 20 + 1;
        if what % 3 == 0 && aggregator.tick(UnixNanos(now), None, false).await.is_ok() {
            committed = aggregator.durable();
        }
        if what >= 230 {
            (aggregator, _border) = open(store, config).await;
            for (place, batches) in places.iter_mut().zip(batches) {
                let partition = batches.first().map_or(0, |batch| batch.range.partition);
                let next = committed.next.get(&partition).copied().unwrap_or(0);
                *place = batches.iter().take_while(|batch| batch.range.next <= next).count();
            }
        }
    }
    while aggregator.tick(UnixNanos(now), None, true).await.is_err() {}
}

/// The same into a store that fails now and then; gives what is in it.
async fn count_in_trouble(
    config: &AggregatorConfig,
    batches: &[Vec<LoggedBatch>; 2],
    (plan, faults): (&[(u8, u8)], u32),
) -> Arc<dyn MetricsStore> {
    let inner = memory();
    let unreliable: Arc<dyn MetricsStore> =
        Arc::new(Unreliable { inner: Arc::clone(&inner), faults: AtomicU32::new(faults) });
    count_with_crashes(&unreliable, config, batches, plan).await;
    inner
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn crashes_at_any_point_change_no_count(
        seeds in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 1..120),
        plan in proptest::collection::vec((0_u8..=255, any::<u8>()), 20..60),
        faults in any::<u32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let batches = some_log(&seeds);
            let straight = memory();
            count_with_crashes(&straight, &small_limits(), &batches, &[]).await;
            let inner = count_in_trouble(&small_limits(), &batches, (&plan, faults)).await;
            let (straight, crashed) = (counts(&*straight).await, counts(&*inner).await);
            prop_assert_eq!(straight.0, crashed.0);
            prop_assert_eq!(straight.1, crashed.1);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_damaged_or_newer_is_refused() {
    let mut log = TestLog::new(0);
    let store = count(
        &AggregatorConfig::default(),
        &[log.batch(1, 0, &[span(1, 1, 0, "web"), span(1, 3, 2, "cart")])],
    )
    .await;
    let (covered, whole) = store.checkpoint().await.unwrap();
    let mut damaged: Vec<Vec<u8>> = (1..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    damaged.push([&[9_u8][..], &whole[1..]].concat());
    for checkpoint in damaged {
        let store = memory();
        let covered = covered.clone();
        let delta = MetricsDelta { covered, checkpoint, ..MetricsDelta::default() };
        store.apply(delta).await.unwrap();
        let metrics = AggregatorMetrics::default();
        let opened =
            MetricsAggregator::open(store, (INCARNATION, 1), AggregatorConfig::default(), metrics);
        assert!(matches!(opened.await, Err(StoreError::Damaged(_))));
    }
}

#[tokio::test]
async fn records_set_aside_are_covered_and_a_new_log_starts_at_its_beginning() {
    let (store, config) = (memory(), AggregatorConfig::default());
    let (mut aggregator, _border) = open(&store, &config).await;
    let mut log = TestLog::new(0);
    let batch = log.batch(1, 0, &[span(1, 1, 0, "web")]);
    aggregator.handle(std::slice::from_ref(&batch)).await.unwrap();
    let range = LogRange { partition: 0, first: 1, next: 9 };
    let append_times = (UnixNanos(0), UnixNanos(1));
    aggregator
        .skip(&DamagedRange { range, append_times, reason: "crc".into(), stranger: None })
        .await
        .unwrap();
    aggregator.tick(UnixNanos(START), None, true).await.unwrap();
    assert_eq!(aggregator.durable().next.get(&0), Some(&9));
    let mut reborn = batch;
    reborn.incarnation = INCARNATION + 1;
    aggregator.handle(&[reborn]).await.unwrap();
    aggregator.tick(UnixNanos(START + 99 * SECOND), None, true).await.unwrap();
    let durable = aggregator.durable();
    assert_eq!((durable.incarnation, durable.next.get(&0)), (INCARNATION + 1, Some(&1)));
    assert_eq!(spans(&*store).await, named(&[("web/op", 2)]));
}

#[tokio::test]
async fn an_aggregator_that_is_made_anew_counts_nothing_twice_and_takes_calls_over() {
    let store = memory();
    let parts = AggregatorParts {
        store: Arc::clone(&store),
        log: (INCARNATION, 1),
        config: AggregatorConfig::default(),
        metrics: AggregatorMetrics::default(),
    };
    let (maker, _calls) = AggregatorMaker::new(parts);
    let mut log = TestLog::new(0);
    let batch = log.batch(1, 0, &[span(1, 1, 0, "web")]);
    let mut first = maker.make().await.unwrap();
    first.handle(std::slice::from_ref(&batch)).await.unwrap();
    first.tick(UnixNanos(START + 60 * SECOND), None, false).await.unwrap();
    assert_eq!(spans(&*store).await, named(&[("web/op", 1)]));
    // What was not flushed goes with the handler that panicked, and comes again.
    let next = log.batch(2, 1, &[span(2, 1, 0, "web")]);
    first.handle(std::slice::from_ref(&next)).await.unwrap();
    drop(first);
    let mut second = maker.make().await.unwrap();
    second.handle(&[batch, next]).await.unwrap();
    second.tick(UnixNanos(START + 120 * SECOND), None, true).await.unwrap();
    assert_eq!(spans(&*store).await, named(&[("web/op", 2)]));
}

fn spread() -> AggregatorConfig {
    spread_over(&Arc::new(FakeEnds::default()))
}

fn spread_over(ends: &Arc<FakeEnds>) -> AggregatorConfig {
    AggregatorConfig { spread_over: Some(Arc::clone(ends) as _), ..AggregatorConfig::default() }
}

const fn second(at: u64) -> UnixNanos {
    UnixNanos(START + at * SECOND)
}

#[tokio::test]
async fn what_a_silent_partition_shows_late_meets_all_that_was_near_it_in_time() {
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let ends = Arc::new(FakeEnds::default());
    ends.says(0, 0, second(0));
    ends.says(1, 3, second(4_000));
    ends.change(0, |end| end.is_away = true);
    let config = spread_over(&ends);
    let store = memory();
    let (mut aggregator, _border) = open(&store, &config).await;
    let sent = [span(1, 1, 0, "web")];
    let ahead = [
        two.batch(7, 3, &sent),
        two.batch(8, 9, &[span(2, 2, 1, "cart")]),
        two.batch(9, 2_000, &[span(3, 1, 0, "web")]),
    ];
    // An hour is read while the other is silent.
    aggregator.handle(&ahead).await.unwrap();
    aggregator.tick(second(4_000), None, false).await.unwrap();
    let late = [one.batch(7, 1, &sent), one.batch(10, 4, &[span(2, 1, 0, "web")])];
    ends.says(0, 2, second(2_000));
    aggregator.handle(&late).await.unwrap();
    aggregator.tick(second(4_100), None, true).await.unwrap();
    assert_eq!(spans(&*store).await, named(&[("cart/op", 1), ("web/op", 3)]));
    assert_eq!(calls(&*store).await, named(&[("web>cart", 1)]));
}

#[tokio::test]
async fn what_had_to_be_forgotten_before_a_silent_partition_came_is_told() {
    for open_bytes_max in [64 << 20, 2_000] {
        let mut two = TestLog::new(1);
        let ends = Arc::new(FakeEnds::default());
        ends.says(0, 4, second(0));
        ends.says(1, 100, second(4_000));
        ends.change(0, |end| end.is_away = true);
        let config = AggregatorConfig { open_bytes_max, ..spread_over(&ends) };
        let (mut aggregator, _border) = open(&memory(), &config).await;
        let ahead: Vec<_> = (1..100_u8)
            .map(|one| two.batch(one.into(), u64::from(one) * 20, &[span(one, 1, 0, "web")]))
            .collect();
        aggregator.handle(&ahead).await.unwrap();
        aggregator.tick(second(4_000), None, false).await.unwrap();
        let told = ends.missed.lock().unwrap().clone();
        if open_bytes_max > 2_000 {
            assert_eq!(told, [], "there was room for all");
            continue;
        }
        let MissedRun { group, run } = &told[0];
        assert_eq!((*group, run.range.partition, told.len()), (METRICS_AGGREGATOR, 0, 1));
        assert!(run.append_times.0 <= second(0) && run.append_times.1 > second(1_000));
    }
}

#[tokio::test]
async fn a_partition_that_can_be_read_is_not_left_far_behind() {
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let ends = Arc::new(FakeEnds::default());
    ends.says(0, 1, second(2_000));
    ends.says(1, 1, second(2_000));
    let (mut aggregator, _border) = open(&memory(), &spread_over(&ends)).await;
    let first = one.batch(1, 100, &[span(1, 1, 0, "web")]);
    let behind = two.batch(2, 900, &[span(2, 1, 0, "web")]);
    let refused = aggregator.handle(std::slice::from_ref(&behind)).await.unwrap_err();
    assert!(matches!(&refused, HandleError::Wait(why) if why.contains("partition 0")));
    // What comes first is known now, and is held up by nobody.
    aggregator.handle(&[first]).await.unwrap();
    aggregator.handle(&[behind]).await.unwrap();
}

#[tokio::test]
async fn a_call_between_spans_of_two_partitions_is_counted_once_where_traces_are_spread() {
    for is_parent_first in [true, false] {
        let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
        let parent = one.batch(1, 0, &[span(1, 1, 0, "web")]);
        let child = two.batch(2, 0, &[span(1, 2, 1, "cart")]);
        let mut batches = vec![parent, child];
        if !is_parent_first {
            batches.reverse();
        }
        assert_eq!(calls(&*count(&spread(), &batches).await).await, named(&[("web>cart", 1)]));
        // A log that keeps a trace together is not searched for its other parts.
        assert!(calls(&*count(&AggregatorConfig::default(), &batches).await).await.is_empty());
    }
}

#[tokio::test]
async fn a_request_that_is_repeated_in_another_partition_is_counted_once_where_traces_are_spread() {
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let sent = [span(1, 1, 0, "web"), span(2, 1, 0, "web")];
    let batches = [one.batch(7, 0, &sent), two.batch(7, 3, &sent), two.batch(8, 4, &sent[..1])];
    let store = count(&spread(), &batches).await;
    assert_eq!(spans(&*store).await, named(&[("web/op", 2)]));
    let apart = count(&AggregatorConfig::default(), &batches).await;
    assert_eq!(spans(&*apart).await, named(&[("web/op", 4)]));
}

#[tokio::test]
async fn a_call_whose_sides_were_counted_before_and_after_a_crash_is_counted_once() {
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let store = memory();
    let begun = one.batch(1, 0, &[span(9, 1, 0, "web")]);
    let child = two.batch(2, 1, &[span(1, 2, 1, "cart")]);
    let parent = one.batch(3, 1, &[span(1, 1, 0, "web")]);
    let (mut aggregator, _border) = open(&store, &spread()).await;
    aggregator.handle(std::slice::from_ref(&begun)).await.unwrap();
    // The whole state is written here, and only what is new after that.
    aggregator.tick(UnixNanos(START), None, false).await.unwrap();
    aggregator.handle(std::slice::from_ref(&child)).await.unwrap();
    aggregator.tick(UnixNanos(START + 6 * SECOND), None, false).await.unwrap();
    assert_eq!(aggregator.durable().next.get(&1), None, "the child is counted, and read again");
    drop(aggregator);
    let ends = Arc::new(FakeEnds::default());
    ends.says(1, 1, second(1));
    let (mut aggregator, _border) = open(&store, &spread_over(&ends)).await;
    // What is new comes behind all that was counted; that nobody can read that is worth a word.
    let parent = std::slice::from_ref(&parent);
    let refused = aggregator.handle(parent).await.unwrap_err();
    let waits = matches!(&refused, HandleError::Wait(why) if why.contains("partition 1"));
    assert!(waits, "{refused:?}");
    ends.change(1, |end| end.is_away = true);
    let refused = aggregator.handle(parent).await.unwrap_err();
    let fails = matches!(&refused, HandleError::Retry(why) if why.contains("partition 1"));
    assert!(fails, "{refused:?}");
    aggregator.handle(&[child]).await.unwrap();
    aggregator.handle(parent).await.unwrap();
    aggregator.tick(UnixNanos(START + 12 * SECOND), None, true).await.unwrap();
    assert_eq!(calls(&*store).await, named(&[("web>cart", 1)]));
    assert_eq!(spans(&*store).await, named(&[("cart/op", 1), ("web/op", 2)]));
}

#[tokio::test]
async fn a_partition_that_is_gone_for_good_holds_no_other_up() {
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let store = memory();
    let (mut aggregator, _border) = open(&store, &spread()).await;
    aggregator.handle(&[one.batch(1, 0, &[span(9, 1, 0, "web")])]).await.unwrap();
    aggregator.tick(UnixNanos(START), None, false).await.unwrap();
    let counted = two.batch(2, 1, &[span(1, 1, 0, "web")]);
    aggregator.handle(std::slice::from_ref(&counted)).await.unwrap();
    aggregator.tick(UnixNanos(START + 6 * SECOND), None, false).await.unwrap();
    drop(aggregator);
    let (mut aggregator, _border) = open(&store, &spread()).await;
    let new = [one.batch(3, 1, &[span(1, 2, 1, "cart")])];
    assert!(aggregator.handle(&new).await.is_err());
    let times = (UnixNanos(START), UnixNanos(START + SECOND));
    let range = LogRange { partition: 1, first: 0, next: 2 };
    let reason = "collector 1 was retired".to_owned();
    let gone = DamagedRange { range, append_times: times, reason, stranger: None };
    aggregator.skip(&gone).await.unwrap();
    aggregator.handle(&new).await.unwrap();
    aggregator.tick(UnixNanos(START + 12 * SECOND), None, true).await.unwrap();
    assert_eq!(spans(&*store).await, named(&[("cart/op", 1), ("web/op", 2)]));
    assert!(calls(&*store).await.is_empty(), "its caller is gone, and nobody is guessed");
}

/// Traces whose spans lie in either partition, each called by any other of its trace or by nobody; and
/// requests that are repeated, at either.
fn spread_log(seeds: &[(u8, u8)]) -> [Vec<LoggedBatch>; 2] {
    let mut logs = [TestLog::new(0), TestLog::new(1)];
    let (mut batches, mut held) = ([Vec::new(), Vec::new()], [0_u64; 4]);
    let mut all: Vec<(u64, [TestSpan; 1])> = Vec::new();
    for (digest, (trace, shape)) in (1_u64..).zip(seeds) {
        let partition = usize::from(shape % 2);
        if trace % 5 == 0
            && let Some((first, sent)) = all.get(usize::from(*shape) % all.len().max(1))
        {
            batches[partition].push(logs[partition].batch(*first, digest / 8, sent));
            continue;
        }
        let count = &mut held[usize::from(trace % 4)];
        *count += 1;
        let (id, parent) = (*count, u64::from(shape / 2 % 16));
        let parent = if parent == id { 0 } else { parent };
        let sent = [span(1 + trace % 4, id, parent, &format!("s{id}"))];
        batches[partition].push(logs[partition].batch(digest, digest / 8, &sent));
        all.push((digest, sent));
    }
    batches
}

/// The same over a quarter of an hour: traces of half a minute, one after the other, and requests that are
/// repeated within ten minutes; so that partitions are far apart where one is read first.
fn long_log(seeds: &[(u8, u8)]) -> [Vec<LoggedBatch>; 2] {
    const STEP_SECONDS: u64 = 12;
    let mut logs = [TestLog::new(0), TestLog::new(1)];
    let mut batches = [Vec::new(), Vec::new()];
    let mut all: Vec<(u64, [TestSpan; 1])> = Vec::new();
    for (digest, (what, shape)) in (1_u64..).zip(seeds) {
        let (partition, at) = (usize::from(shape % 2), digest * STEP_SECONDS);
        let recent = all.iter().filter(|(first, _)| digest - first <= 600 / STEP_SECONDS);
        let recent: Vec<_> = recent.collect();
        if what % 4 == 0
            && let Some((first, sent)) = recent.get(usize::from(*shape) % recent.len().max(1))
        {
            batches[partition].push(logs[partition].batch(*first, at, sent));
            continue;
        }
        let (trace, id) = (u8::try_from(digest / 3).unwrap() + 1, digest % 3 + 1);
        let parent = u64::from(shape / 2 % 4);
        let parent = if parent == id { 0 } else { parent };
        let sent = [span(trace, id, parent, &format!("s{id}"))];
        batches[partition].push(logs[partition].batch(digest, at, &sent));
        all.push((digest, sent));
    }
    batches
}

/// Where such logs end.
fn ends_of(batches: &[Vec<LoggedBatch>; 2]) -> Arc<FakeEnds> {
    let ends = Arc::new(FakeEnds::default());
    for (partition, batches) in (0_u32..).zip(batches) {
        let next = batches.last().map_or(0, |last| last.range.next);
        ends.says(partition, next, second(100_000));
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_is_read_first_and_however_far_apart_crashes_change_no_count(
        seeds in proptest::collection::vec(any::<(u8, u8)>(), 1..80),
        plan in proptest::collection::vec((0_u8..=255, any::<u8>()), 20..60),
        faults in any::<u32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let batches = long_log(&seeds);
            // In the order of their times, as if each had been read at once.
            let mut in_time: Vec<LoggedBatch> = batches.iter().flatten().cloned().collect();
            in_time.sort_by_key(|batch| batch.append_time);
            let straight = count(&spread(), &in_time).await;
            let config = spread_over(&ends_of(&batches));
            let inner = count_in_trouble(&config, &batches, (&plan, faults)).await;
            prop_assert_eq!(spans(&*straight).await, spans(&*inner).await);
            prop_assert_eq!(calls(&*straight).await, calls(&*inner).await);
            Ok(())
        })?;
    }

    #[test]
    fn crashes_change_no_count_of_traces_that_are_spread_whatever_is_read_first(
        seeds in proptest::collection::vec(any::<(u8, u8)>(), 1..80),
        plan in proptest::collection::vec((0_u8..=255, any::<u8>()), 20..60),
        faults in any::<u32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (batches, config) = (spread_log(&seeds), spread());
            let straight = memory();
            count_with_crashes(&straight, &config, &batches, &[]).await;
            let inner = count_in_trouble(&config, &batches, (&plan, faults)).await;
            prop_assert_eq!(spans(&*straight).await, spans(&*inner).await);
            prop_assert_eq!(calls(&*straight).await, calls(&*inner).await);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_call_between_collectors_of_services_without_a_place_is_counted_under_other() {
    let config = AggregatorConfig { services_max: 1, ..spread() };
    let (mut one, mut two) = (TestLog::new(0), TestLog::new(1));
    let web = one.batch(1, 0, &[span(1, 1, 0, "web")]);
    let cart = two.batch(2, 0, &[span(1, 2, 1, "cart"), span(1, 3, 2, "cart")]);
    let pay = one.batch(3, 0, &[span(1, 4, 3, "pay")]);
    for batches in [[&web, &cart, &pay], [&web, &pay, &cart]] {
        let store = count(&config, &batches.map(Clone::clone)).await;
        let expected = named(&[("web>__other__", 1), ("__other__>__other__", 1)]);
        assert_eq!(calls(&*store).await, expected);
    }
}
