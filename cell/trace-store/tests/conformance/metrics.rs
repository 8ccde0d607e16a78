//! What every metrics store does, whatever its adapter. What only one has (files, faults, formats) is
//! tested beside it.

use std::any::Any;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use proto::DurationSketch;
use trace_model::{Coverage, SpanKind, StatusCode, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::port::EdgeTraceQuery;
use trace_store::{EdgeKey, EdgeRow, Eraser, MetricsDelta, MetricsStore, RedKey, RedQuery, RedRow};

pub(crate) const MINUTE: u64 = 60_000_000_000;
const BUCKET: u64 = 10 * MINUTE;
pub(crate) const INCARNATION: u64 = 5;
/// A minute at which a bucket starts.
pub(crate) const START: u64 = 2_000_000 * BUCKET;

/// What every adapter is.
pub(crate) trait Adapter: MetricsStore + Eraser {}

impl<A: MetricsStore + Eraser> Adapter for A {}

/// A store of its own for a test, with what must live as long.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Adapter>,
    pub(crate) _kept: Box<dyn Any + Send>,
}

/// How an adapter is opened, empty.
pub(crate) type Open = fn() -> BoxFuture<'static, Bench>;

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn trace(number: u64) -> TraceId {
    TraceId::from_bytes(u128::from(number + 1).to_be_bytes()).unwrap()
}

pub(crate) fn red(
    minute: u64,
    service: &str,
    operation: Option<&str>,
    nanos: &[u64],
) -> (RedKey, RedRow) {
    let key = RedKey {
        tenant: tenant("default"),
        minute: UnixNanos(START + minute * MINUTE),
        service: service.into(),
        operation: operation.map(Into::into),
        kind: SpanKind::Server,
        status: StatusCode::Unset,
    };
    let mut row = RedRow::default();
    for (place, duration) in (0_u64..).zip(nanos) {
        row.seen += 1;
        row.estimated += 2.0;
        row.durations.add(*duration);
        if row.exemplar.is_none_or(|(slowest, _)| *duration > slowest) {
            row.exemplar = Some((*duration, trace(place)));
        }
    }
    (key, row)
}

pub(crate) fn edge(
    bucket: u64,
    callee: &str,
    is_error: bool,
    traces: &[u64],
) -> (EdgeKey, EdgeRow) {
    let key = EdgeKey {
        tenant: tenant("default"),
        bucket: UnixNanos(START + bucket * BUCKET),
        caller: "web".into(),
        callee: callee.into(),
        is_error,
    };
    let mut durations = DurationSketch::default();
    for number in traces {
        durations.add(1_000 + number);
    }
    let seen = traces.len() as u64;
    let traces = traces.iter().rev().map(|number| trace(*number)).collect();
    (key, EdgeRow { seen, estimated: 3.0, durations, traces })
}

pub(crate) fn covered(next: u64) -> Coverage {
    let mut covered = Coverage::none(INCARNATION);
    covered.extend(0, next);
    covered
}

pub(crate) fn delta(
    next: u64,
    red: Vec<(RedKey, RedRow)>,
    edges: Vec<(EdgeKey, EdgeRow)>,
) -> MetricsDelta {
    let checkpoint = format!("state at {next}").into_bytes();
    MetricsDelta { red, edges, covered: covered(next), checkpoint, extends_checkpoint: false }
}

pub(crate) fn minutes(first: u64, end: u64) -> TimeRange {
    TimeRange { start: UnixNanos(START + first * MINUTE), end: UnixNanos(START + end * MINUTE) }
}

pub(crate) fn query(service: Option<&str>, by_operation: bool, range: TimeRange) -> RedQuery {
    RedQuery { tenant: tenant("default"), service: service.map(Into::into), by_operation, range }
}

pub(crate) async fn series(store: &dyn MetricsStore, query: &RedQuery) -> Vec<(u64, String, u64)> {
    let rows = store.red(query).await.unwrap();
    let short = |(key, row): &(RedKey, RedRow)| {
        let operation = key.operation.as_deref().unwrap_or("");
        ((key.minute.0 - START) / MINUTE, format!("{}/{operation}", key.service), row.seen)
    };
    rows.iter().map(short).collect()
}

pub(crate) async fn traces(
    store: &dyn MetricsStore,
    callee: &str,
    only_errors: bool,
    limit: usize,
) -> Vec<u64> {
    traces_and_cut(store, callee, only_errors, limit).await.0
}

/// The traces, and whether there may have been more.
async fn traces_and_cut(
    store: &dyn MetricsStore,
    callee: &str,
    only_errors: bool,
    limit: usize,
) -> (Vec<u64>, bool) {
    let query = EdgeTraceQuery {
        tenant: tenant("default"),
        caller: "web".into(),
        callee: callee.into(),
        only_errors,
        range: minutes(0, 60),
        limit,
    };
    let found = store.edge_traces(&query).await.unwrap();
    let number = |id: &TraceId| u64::try_from(u128::from_be_bytes(*id.as_bytes())).unwrap() - 1;
    (found.trace_ids.iter().map(number).collect(), found.is_cut)
}

/// What a store holds, to compare two.
pub(crate) async fn everything(store: &dyn MetricsStore) -> String {
    let mut found = String::new();
    for by_operation in [false, true] {
        for (key, row) in store.red(&query(None, by_operation, minutes(0, 600))).await.unwrap() {
            let sketch = (row.durations.count(), row.durations.quantile(0.5));
            let counts = (row.seen, row.estimated, row.exemplar, sketch);
            found.push_str(&format!("{key:?} {counts:?}\n"));
        }
    }
    for (key, row) in store.edges(&tenant("default"), minutes(0, 600)).await.unwrap() {
        found.push_str(&format!("{key:?} {} {} {:?}\n", row.seen, row.estimated, row.traces));
    }
    let (covered, checkpoint) = store.checkpoint().await.unwrap();
    assert_eq!(store.covered().await.unwrap(), covered);
    found.push_str(&format!("{covered:?} {checkpoint:?}"));
    found
}

pub(crate) fn some_delta(next: u64, minute: u64, service: u8) -> MetricsDelta {
    let service = ["web", "cart", "fraud"][usize::from(service % 3)];
    let rows = vec![
        red(minute, service, None, &[next * 100, 7]),
        red(minute, service, Some("op"), &[next * 100, 7]),
    ];
    let mut delta =
        delta(next, rows, vec![edge(minute / 10, service, next.is_multiple_of(2), &[next])]);
    delta.extends_checkpoint = !next.is_multiple_of(3);
    delta
}

pub(crate) async fn counts_are_summed_over_deltas(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    for next in 1..=10 {
        let rows = vec![red(0, "web", None, &[next * 1_000_000, 5]), red(next, "web", None, &[7])];
        store.apply(delta(next, rows, vec![])).await.unwrap();
    }
    let rows = store.red(&query(Some("web"), false, minutes(0, 1))).await.unwrap();
    let [(_, row)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(
        (row.seen, row.durations.count(), row.exemplar),
        (20, 20, Some((10_000_000, trace(0))))
    );
    assert!((row.estimated - 40.0).abs() < 1e-9);
    let median = row.durations.quantile(0.99).unwrap();
    assert!((median / 9_000_000.0 - 1.0).abs() < 0.011, "{median}");
}

pub(crate) async fn a_delta_that_covers_nothing_new_is_not_counted_again(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    let first = delta(10, vec![red(0, "web", None, &[1])], vec![edge(0, "cart", false, &[1])]);
    store.apply(first.clone()).await.unwrap();
    store.apply(first).await.unwrap();
    store.apply(delta(9, vec![red(0, "web", None, &[1])], vec![])).await.unwrap();
    let mut older = delta(99, vec![red(0, "web", None, &[1])], vec![]);
    older.covered.incarnation = INCARNATION - 1;
    store.apply(older).await.unwrap();
    let found = series(store, &query(None, false, minutes(0, 9))).await;
    assert_eq!(found, [(0, "web/".to_owned(), 1)]);
    assert_eq!(store.edges(&tenant("default"), minutes(0, 9)).await.unwrap()[0].1.seen, 1);
    let mut newer = delta(1, vec![red(0, "web", None, &[1])], vec![]);
    newer.covered.incarnation = INCARNATION + 1;
    store.apply(newer).await.unwrap();
    assert_eq!(series(store, &query(None, false, minutes(0, 9))).await[0].2, 2);
}

pub(crate) async fn a_query_gives_its_tenant_service_level_and_minutes_alone(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    for minute in 0..60 {
        let mut rows = Vec::new();
        for service in ["cart", "web", "web2"] {
            rows.push(red(minute, service, None, &[1, 2]));
            rows.push(red(minute, service, Some("GET /"), &[1]));
            rows.push(red(minute, service, Some("PUT /"), &[2]));
        }
        let mut foreign = red(minute, "web", None, &[9]);
        foreign.0.tenant = tenant("other");
        rows.push(foreign);
        store.apply(delta(minute + 1, rows, vec![])).await.unwrap();
    }
    let hour = series(store, &query(Some("web"), false, minutes(0, 60))).await;
    let expected: Vec<_> = (0..60).map(|minute| (minute, "web/".to_owned(), 2)).collect();
    assert_eq!(hour, expected);
    let part = series(store, &query(Some("web"), true, minutes(10, 12))).await;
    let names: Vec<_> = part.iter().map(|row| (row.0, &*row.1)).collect();
    let expected = [(10, "web/GET /"), (10, "web/PUT /"), (11, "web/GET /"), (11, "web/PUT /")];
    assert_eq!(names, expected);
    assert_eq!(series(store, &query(None, false, minutes(0, 60))).await.len(), 180);
    assert_eq!(series(store, &query(Some("nobody"), false, minutes(0, 60))).await, []);
    let half = TimeRange {
        start: UnixNanos(START + 30_000_000_000),
        end: UnixNanos(START + 31_000_000_000),
    };
    assert_eq!(series(store, &query(Some("web"), false, half)).await.len(), 1);
}

/// All series that a question is for, page by page.
pub(crate) async fn red_in_pages(
    store: &dyn MetricsStore,
    query: &RedQuery,
    rows_max: usize,
) -> Vec<(RedKey, RedRow)> {
    let mut found: Vec<(RedKey, RedRow)> = Vec::new();
    loop {
        let after = found.last().map(|(key, _)| key.clone());
        let page = store.red_page(query, after.as_ref(), rows_max).await.unwrap();
        assert!(page.rows.len() <= rows_max);
        let has_ended = page.rows.is_empty();
        assert!(!(has_ended && page.has_more), "a page of nothing before the end");
        found.extend(page.rows);
        if !page.has_more {
            return found;
        }
    }
}

/// All edges of a range, page by page.
pub(crate) async fn edges_in_pages(
    store: &dyn MetricsStore,
    tenant: &TenantId,
    range: TimeRange,
    edges_max: usize,
) -> Vec<(EdgeKey, EdgeRow)> {
    let mut found: Vec<(EdgeKey, EdgeRow)> = Vec::new();
    loop {
        let place = |(key, _): &(EdgeKey, EdgeRow)| (key.caller.clone(), key.callee.clone());
        let after = found.last().map(place);
        let page = store.edges_page(tenant, range, after.as_ref(), edges_max).await.unwrap();
        assert!(page.rows.len() <= 2 * edges_max);
        assert!(!(page.rows.is_empty() && page.has_more), "a page of nothing before the end");
        found.extend(page.rows);
        if !page.has_more {
            return found;
        }
    }
}

pub(crate) async fn pages_put_together_are_the_whole(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    for next in 1..=12 {
        let mut rows = Vec::new();
        for service in ["cart", "web", "x'y", "ü"] {
            for minute in [next, next / 2] {
                let mut failed = red(minute, service, None, &[next]);
                failed.0.status = StatusCode::Error;
                let mut called = red(minute, service, Some("GET /"), &[next, 3]);
                called.0.kind = SpanKind::Client;
                rows.extend([red(minute, service, None, &[1, next]), failed, called]);
                rows.push(red(minute, service, Some("GET /a"), &[next]));
            }
        }
        let edges = ["cart", "fraud", "ü"].map(|callee| {
            let is_error = next.is_multiple_of(3);
            edge(next / 4, callee, is_error, &[next])
        });
        store.apply(delta(next, rows, edges.into())).await.unwrap();
    }
    let range = minutes(1, 9);
    for (service, by_operation) in [(None, false), (None, true), (Some("web"), true)] {
        let query = query(service, by_operation, range);
        let whole = store.red(&query).await.unwrap();
        assert!(whole.len() >= 16, "{}", whole.len());
        for rows_max in [1, 2, 5, whole.len(), 10_000] {
            let pages = red_in_pages(store, &query, rows_max).await;
            assert_eq!(format!("{pages:?}"), format!("{whole:?}"), "{rows_max} {query:?}");
        }
        let past = store.red_page(&query, whole.last().map(|(key, _)| key), 5).await.unwrap();
        assert!(past.rows.is_empty() && !past.has_more);
    }
    let tenant = tenant("default");
    let whole = store.edges(&tenant, minutes(0, 60)).await.unwrap();
    assert_eq!(whole.len(), 6, "{whole:?}");
    for edges_max in [1, 2, 3, 10_000] {
        let pages = edges_in_pages(store, &tenant, minutes(0, 60), edges_max).await;
        assert_eq!(format!("{pages:?}"), format!("{whole:?}"), "{edges_max}");
    }
}

pub(crate) async fn edges_are_summed_over_the_buckets_of_a_range(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    for next in 1..=4 {
        let edges = vec![edge(next, "cart", false, &[next]), edge(next, "cart", true, &[next, 90])];
        store.apply(delta(next, vec![], edges)).await.unwrap();
    }
    let found = store.edges(&tenant("default"), minutes(15, 35)).await.unwrap();
    let short: Vec<_> = found
        .iter()
        .map(|(key, row)| ((key.bucket.0 - START) / BUCKET, key.is_error, row.seen))
        .collect();
    assert_eq!(short, [(1, false, 3), (1, true, 6)]);
    assert!(found.iter().all(|(_, row)| row.durations.count() == row.seen));
    assert!(store.edges(&tenant("other"), minutes(0, 60)).await.unwrap().is_empty());
}

pub(crate) async fn traces_of_an_edge_come_newest_first_each_once_and_bounded(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    store.apply(delta(1, vec![], vec![edge(0, "cart", false, &[1, 2])])).await.unwrap();
    store.apply(delta(2, vec![], vec![edge(0, "cart", false, &[3, 1])])).await.unwrap();
    store.apply(delta(3, vec![], vec![edge(1, "cart", true, &[4])])).await.unwrap();
    store.apply(delta(4, vec![], vec![edge(1, "fraud", true, &[5])])).await.unwrap();
    assert_eq!(traces(store, "cart", false, 10).await, [4, 1, 3, 2]);
    assert_eq!(traces(store, "cart", false, 2).await, [4, 1]);
    assert_eq!(traces(store, "cart", true, 10).await, [4]);
    assert_eq!(traces(store, "nobody", false, 10).await, [0_u64; 0]);
    let many: Vec<_> = (100..300).collect();
    store.apply(delta(5, vec![], vec![edge(2, "cart", false, &many)])).await.unwrap();
    store.apply(delta(6, vec![], vec![edge(2, "cart", false, &[7])])).await.unwrap();
    let found = traces(store, "cart", false, 100).await;
    assert_eq!((found.len(), found[0], found[1]), (100, 7, 299));
}

pub(crate) async fn traces_of_an_edge_are_cut_where_a_bucket_may_have_had_more(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    let (few, many): (Vec<_>, Vec<_>) = ((1..10).collect(), (100..240).collect());
    store.apply(delta(1, vec![], vec![edge(0, "cart", true, &few)])).await.unwrap();
    store.apply(delta(2, vec![], vec![edge(1, "cart", false, &many[..70])])).await.unwrap();
    let found = traces_and_cut(store, "cart", false, 500).await;
    assert_eq!((found.0.len(), found.1), (79, false));
    // The next of the same bucket push the oldest out.
    store.apply(delta(3, vec![], vec![edge(1, "cart", false, &many[70..])])).await.unwrap();
    let found = traces_and_cut(store, "cart", false, 500).await;
    assert_eq!((found.0.len(), found.0[0], found.1), (137, 239, true));
    // Whoever asks for less than is kept is given all that was asked for.
    let found = traces_and_cut(store, "cart", false, 100).await;
    assert_eq!((found.0.len(), found.1), (100, false));
    let found = traces_and_cut(store, "cart", true, 500).await;
    assert_eq!((found.0.len(), found.1), (9, false));
}

pub(crate) async fn the_checkpoint_is_replaced_or_extended(open: Open) {
    let bench = open().await;
    let store = &*bench.store;
    assert_eq!(store.checkpoint().await.unwrap().1, b"");
    store.apply(delta(1, vec![], vec![])).await.unwrap();
    for (next, text) in [(2, "+a"), (3, ""), (4, "+b")] {
        let checkpoint = text.as_bytes().to_vec();
        let extending =
            MetricsDelta { checkpoint, extends_checkpoint: true, ..delta(next, vec![], vec![]) };
        store.apply(extending).await.unwrap();
    }
    assert_eq!(store.checkpoint().await.unwrap(), (covered(4), b"state at 1+a+b".to_vec()));
    store.apply(delta(5, vec![], vec![])).await.unwrap();
    assert_eq!(store.checkpoint().await.unwrap(), (covered(5), b"state at 5".to_vec()));
    assert_eq!(store.covered().await.unwrap(), covered(5));
}

pub(crate) async fn an_erased_trace_leaves_exemplars_and_edges_and_no_count_and_does_not_come_back(
    open: Open,
) {
    let bench = open().await;
    let store = &*bench.store;
    let some = |next: u64| {
        let rows = vec![red(0, "web", None, &[next, 1]), red(next, "web", Some("op"), &[9])];
        let mut foreign = edge(0, "cart", false, &[0]);
        foreign.0.tenant = tenant("other");
        delta(next, rows, vec![edge(0, "cart", false, &[0, next]), foreign])
    };
    for next in 1..=12 {
        store.apply(some(next)).await.unwrap();
    }
    store.erase(&tenant("default"), trace(0)).await.unwrap();
    store.erase(&tenant("default"), trace(0)).await.unwrap();
    store.apply(some(13)).await.unwrap();
    let rows = store.red(&query(None, false, minutes(0, 60))).await.unwrap();
    assert!(rows.iter().all(|(_, row)| row.exemplar.is_none_or(|held| held.1 != trace(0))));
    assert_eq!(rows.iter().map(|(_, row)| row.seen).sum::<u64>(), 26);
    let found = traces(store, "cart", false, 100).await;
    assert_eq!(found, (1..=13).rev().collect::<Vec<_>>());
    let foreign = store.edges(&tenant("other"), minutes(0, 60)).await.unwrap();
    assert_eq!(foreign[0].1.traces, [trace(0)]);
}

macro_rules! conformance {
    ($open:path: $($fact:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $fact() {
                crate::metrics::$fact($open).await;
            }
        )*
    };
}

macro_rules! every_fact {
    ($open:path) => {
        $crate::metrics::conformance!(
            $open: counts_are_summed_over_deltas,
            a_delta_that_covers_nothing_new_is_not_counted_again,
            a_query_gives_its_tenant_service_level_and_minutes_alone,
            edges_are_summed_over_the_buckets_of_a_range,
            pages_put_together_are_the_whole,
            traces_of_an_edge_come_newest_first_each_once_and_bounded,
            traces_of_an_edge_are_cut_where_a_bucket_may_have_had_more,
            the_checkpoint_is_replaced_or_extended,
            an_erased_trace_leaves_exemplars_and_edges_and_no_count_and_does_not_come_back,
        );
    };
}

pub(crate) use {conformance, every_fact};
