//! Embedded and ClickHouse give the same counts, and dashboards read little for them.

use std::sync::OnceLock;
use std::time::Duration;

use proto::DurationSketch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use trace_model::{Coverage, SpanKind, StatusCode, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::{
    ClickhouseMetricsStore, EdgeKey, EdgeRow, EdgeTraceQuery, EmbeddedMetricsConfig,
    EmbeddedMetricsStore, MetricsDelta, MetricsStore, RedKey, RedQuery, RedRow,
};

use super::proxy::Proxy;
use super::{Database, clock, engine};
use crate::metrics::{MINUTE, edges_in_pages, red_in_pages, tenant};

const HOUR: u64 = 60 * MINUTE;

/// The start of an hour not long ago; the same for all tests.
pub(crate) fn recent() -> u64 {
    static RECENT: OnceLock<u64> = OnceLock::new();
    *RECENT.get_or_init(|| (clock().now().0 / HOUR - 2) * HOUR)
}

fn trace(number: u64) -> TraceId {
    TraceId::from_bytes((u128::from(number) << 64 | 1).to_be_bytes()).unwrap()
}

fn pick<T: Clone>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())].clone()
}

/// A minute of today, mostly; of another day, of another decade, of tomorrow sometimes.
fn minute(random: &mut StdRng) -> UnixNanos {
    let today = recent() + random.random_range(0..90) * MINUTE;
    UnixNanos(match random.random_range(0..20) {
        0 => today - 24 * HOUR,
        1 => today - 20 * 8_760 * HOUR,
        2 => today - 40 * 24 * HOUR,
        3 => today + 20 * HOUR,
        _ => today,
    })
}

fn sketch(random: &mut StdRng) -> DurationSketch {
    let mut sketch = DurationSketch::default();
    for _ in 0..random.random_range(1..30) {
        let exponent: f64 = random.random_range(0.0..23.0);
        sketch.add(if random.random_bool(0.05) { 0 } else { exponent.exp() as u64 });
    }
    sketch
}

fn tenants(random: &mut StdRng) -> TenantId {
    pick(random, &[tenant("default"), tenant("o'brien"), tenant("team-a")])
}

fn series(random: &mut StdRng) -> (RedKey, RedRow) {
    let services = ["web", "cart", "payment"];
    let operations = [None, None, Some("GET /"), Some("GET /cart"), Some("")];
    let key = RedKey {
        tenant: tenants(random),
        minute: minute(random),
        service: pick(random, &services).into(),
        operation: pick(random, &operations).map(Into::into),
        kind: pick(random, &[SpanKind::Server, SpanKind::Client]),
        status: pick(random, &[StatusCode::Unset, StatusCode::Error]),
    };
    let durations = sketch(random);
    let seen = durations.count();
    let exemplar =
        random.random_bool(0.8).then(|| (random.random_range(0..1 << 40), trace(random.random())));
    (key, RedRow { seen, estimated: seen as f64 * 10.0, durations, exemplar })
}

fn edge(random: &mut StdRng) -> (EdgeKey, EdgeRow) {
    let key = EdgeKey {
        tenant: tenants(random),
        bucket: UnixNanos(minute(random).0 / (10 * MINUTE) * 10 * MINUTE),
        caller: pick(random, &["web", "cart"]).into(),
        callee: pick(random, &["payment", "stock"]).into(),
        is_error: random.random_bool(0.3),
    };
    let durations = sketch(random);
    let mut traces: Vec<TraceId> = Vec::new();
    let length = pick(random, &[0_usize, 1, 3, 60, 128]);
    while traces.len() < length {
        let found = trace(random.random_range(0..500));
        if !traces.contains(&found) {
            traces.push(found);
        }
    }
    (key, EdgeRow { seen: durations.count(), estimated: 3.0, durations, traces })
}

pub(crate) fn random_delta(random: &mut StdRng, next: u64) -> MetricsDelta {
    let mut covered = Coverage::none(5);
    covered.extend(0, next);
    covered.extend(7, next / 2);
    MetricsDelta {
        red: (0..random.random_range(0..60)).map(|_| series(random)).collect(),
        edges: (0..random.random_range(0..12)).map(|_| edge(random)).collect(),
        covered,
        checkpoint: format!("<{next}>").into_bytes(),
        extends_checkpoint: !next.is_multiple_of(3),
    }
}

fn assert_close(left: &DurationSketch, right: &DurationSketch, what: &str) {
    assert_eq!(left.count(), right.count(), "{what}");
    for quantile in [0.0, 0.5, 0.9, 0.99, 1.0] {
        let (left, right) = (left.quantile(quantile), right.quantile(quantile));
        let (left, right) = (left.unwrap_or(0.0), right.unwrap_or(0.0));
        assert!((left - right).abs() <= left.abs() * 0.02, "{what} {quantile}: {left} {right}");
    }
}

/// Asks both everything and compares.
pub(crate) async fn assert_equal(trusted: &dyn MetricsStore, other: &dyn MetricsStore, what: &str) {
    let ranges = [
        TimeRange::ALL,
        TimeRange { start: UnixNanos(recent()), end: UnixNanos(recent() + HOUR + 1) },
        TimeRange { start: UnixNanos(recent() - 30 * HOUR), end: UnixNanos(recent()) },
    ];
    assert_equal_in(&["default", "o'brien", "team-a", "nobody"], &ranges, trusted, other, what)
        .await;
}

/// Asks both about one tenant's all of time and compares.
pub(crate) async fn assert_same(trusted: &dyn MetricsStore, other: &dyn MetricsStore, what: &str) {
    assert_equal_in(&["default"], &[TimeRange::ALL], trusted, other, what).await;
}

async fn assert_equal_in(
    tenants: &[&str],
    ranges: &[TimeRange],
    trusted: &dyn MetricsStore,
    other: &dyn MetricsStore,
    what: &str,
) {
    for tenant in tenants.iter().map(|name| tenant(name)) {
        for range in ranges.iter().copied() {
            for (service, by_operation) in
                [(None, false), (None, true), (Some("web"), false), (Some("cart"), true)]
            {
                let service = service.map(Into::into);
                let query = RedQuery { tenant: tenant.clone(), service, by_operation, range };
                let (wanted, found) = (trusted.red(&query).await, other.red(&query).await);
                let (wanted, found) = (wanted.unwrap(), found.unwrap());
                let keys = |rows: &[(RedKey, RedRow)]| {
                    rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>()
                };
                assert_eq!(keys(&wanted), keys(&found), "{what}: {query:?}");
                let pages = red_in_pages(other, &query, 50).await;
                assert_eq!(keys(&wanted), keys(&pages), "{what}: pages of {query:?}");
                for ((key, wanted), (_, found)) in wanted.iter().zip(&found) {
                    let what = format!("{what}: {key:?}");
                    assert_eq!(wanted.seen, found.seen, "{what}");
                    assert!((wanted.estimated - found.estimated).abs() < 1e-6, "{what}");
                    assert_eq!(wanted.exemplar, found.exemplar, "{what}");
                    assert_close(&wanted.durations, &found.durations, &what);
                }
            }
            assert_edges_equal(trusted, other, &tenant, range, what).await;
        }
    }
    assert_eq!(trusted.checkpoint().await.unwrap(), other.checkpoint().await.unwrap(), "{what}");
}

async fn assert_edges_equal(
    trusted: &dyn MetricsStore,
    other: &dyn MetricsStore,
    tenant: &TenantId,
    range: TimeRange,
    what: &str,
) {
    let wanted = trusted.edges(tenant, range).await.unwrap();
    let found = other.edges(tenant, range).await.unwrap();
    assert_eq!(wanted.len(), found.len(), "{what}: edges of {tenant:?} in {range:?}");
    let pages = edges_in_pages(other, tenant, range, 3).await;
    assert_eq!(format!("{pages:?}"), format!("{found:?}"), "{what}: pages of edges");
    for ((key, wanted), (found_key, found)) in wanted.iter().zip(&found) {
        let what = format!("{what}: {key:?} in {range:?}");
        assert_eq!(key, found_key, "{what}");
        assert_eq!((wanted.seen, &wanted.traces), (found.seen, &found.traces), "{what}");
        assert!((wanted.estimated - found.estimated).abs() < 1e-6, "{what}");
        assert_close(&wanted.durations, &found.durations, &what);
        for (only_errors, limit) in [(false, 5), (true, 500), (false, 500)] {
            let query = EdgeTraceQuery {
                tenant: tenant.clone(),
                caller: key.caller.clone(),
                callee: key.callee.clone(),
                only_errors,
                range,
                limit,
            };
            let wanted = trusted.edge_traces(&query).await.unwrap();
            assert_eq!(wanted, other.edge_traces(&query).await.unwrap(), "{what}: {query:?}");
        }
    }
}

fn embedded() -> (EmbeddedMetricsStore, TempDir) {
    let directory = TempDir::new().unwrap();
    let config = EmbeddedMetricsConfig {
        memory_bytes_max: 20_000,
        ..EmbeddedMetricsConfig::new(directory.path().to_owned())
    };
    (EmbeddedMetricsStore::open(config, clock()).unwrap(), directory)
}

#[tokio::test]
async fn embedded_and_clickhouse_give_the_same_counts_edges_and_quantiles_for_the_same_deltas() {
    let seed = clock().now().0;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut database = Database::new().await;
    // Small blocks, so that a table gets several of a delta.
    database.config.insert_block_rows = 7;
    let (trusted, _directory) = embedded();
    let mut store = database.metrics().await;
    for next in 1..=24 {
        let delta = random_delta(&mut random, next);
        trusted.apply(delta.clone()).await.unwrap();
        store.apply(delta.clone()).await.unwrap();
        if next % 7 == 0 {
            store = database.metrics().await;
            store.apply(delta).await.unwrap();
        }
    }
    assert_equal(&trusted, &store, "at once").await;
    for table in ["red_services", "red_operations", "edges", "edge_traces"] {
        database.run(&format!("OPTIMIZE TABLE {table} FINAL")).await;
    }
    assert_equal(&trusted, &store, "merged").await;
    // What is counted leaves the journal: only what the state needs is left.
    let deltas = database.number("SELECT uniqExact(sequence) FROM metrics_deltas").await;
    assert!(deltas <= 24 - 16 + 1, "{deltas}");
}

fn minute_of_service(minute: u64, service: &str, number: u64) -> Vec<(RedKey, RedRow)> {
    let mut rows = Vec::new();
    for (kind, status) in [
        (SpanKind::Server, StatusCode::Unset),
        (SpanKind::Server, StatusCode::Error),
        (SpanKind::Client, StatusCode::Unset),
    ] {
        let minute = UnixNanos(recent() - 3 * HOUR + minute * MINUTE);
        let (service, tenant) = (service.into(), tenant("default"));
        let mut row = RedRow { seen: 100, estimated: 100.0, ..RedRow::default() };
        for nanos in 1..=100 {
            row.durations.add(nanos * 1_000_000 + number);
        }
        rows.push((RedKey { tenant, minute, service, operation: None, kind, status }, row));
    }
    rows
}

/// Three services, six hours, four flushes a minute.
async fn six_hours(store: &ClickhouseMetricsStore) {
    for hour in 0..6 {
        for flush in 0..4 {
            let minutes = hour * 60..(hour + 1) * 60;
            let services = ["cart", "payment", "web"];
            let rows = minutes.flat_map(|minute| {
                services.iter().flat_map(move |service| minute_of_service(minute, service, flush))
            });
            let mut covered = Coverage::none(5);
            covered.extend(0, hour * 4 + flush + 1);
            let red = rows.collect();
            store.apply(MetricsDelta { red, covered, ..MetricsDelta::default() }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_hours_p99_of_a_service_is_60_rows_a_kind_and_status_of_the_roll_up() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    let store = database.metrics().await;
    six_hours(&store).await;
    // What merges lead to, sooner.
    database.run("OPTIMIZE TABLE red_services FINAL").await;
    let from = recent() - HOUR;
    let range = TimeRange { start: UnixNanos(from), end: UnixNanos(from + HOUR) };
    proxy.take_seen();
    let service = Some("payment".into());
    let query = RedQuery { tenant: tenant("default"), service, by_operation: false, range };
    let rows = store.red(&query).await.unwrap();
    assert_eq!(rows.len(), 3 * 60);
    assert!(rows.iter().all(|(_, row)| row.seen == 400 && row.durations.count() == 400));
    let seen = proxy.take_seen();
    let [question] = &seen[..] else { panic!("{seen:?}") };
    // The rows that the answer needs are 60 a kind and status; the engine reads them by granules of
    // 128, of which the first and the last reach beyond.
    let held = format!(
        "SELECT count() FROM red_services WHERE service = 'payment' \
         AND minute >= toDateTime64({}, 0, 'UTC') AND minute < toDateTime64({}, 0, 'UTC')",
        from / 1_000_000_000,
        (from + HOUR) / 1_000_000_000,
    );
    assert_eq!(database.number(&held).await, 3 * 60);
    assert_eq!(database.number("SELECT count() FROM red_services").await, 6 * 3 * 3 * 60);
    assert!(
        (180..=180 + 2 * 128).contains(&question.read_rows),
        "{} rows were read",
        question.read_rows
    );
    // A dashboard reads the digests that the view made of the same rows.
    let digest: Vec<Vec<f64>> = database
        .ask(
            "SELECT arrayMap(nanos -> toFloat64(nanos), \
             quantilesTDigestWeightedMerge(0.5, 0.9, 0.95, 0.99)(digest)) FROM red_services \
             WHERE service = 'payment' AND kind = 'server'",
        )
        .await;
    for (found, wanted) in digest[0].iter().zip([50.0e6, 90.0e6, 95.0e6, 99.0e6]) {
        assert!((found / wanted - 1.0).abs() < 0.03, "{found} of {wanted}");
    }
}

#[tokio::test]
async fn a_question_for_more_than_the_limits_is_refused_and_not_cut() {
    let mut database = Database::new().await;
    database.config.query_rows_max = 100;
    six_hours(&database.metrics().await).await;
    let query = |service: Option<&str>, hours: u64| RedQuery {
        tenant: tenant("default"),
        service: service.map(Into::into),
        by_operation: false,
        range: TimeRange {
            start: UnixNanos(recent() - 3 * HOUR),
            end: UnixNanos(recent() - 3 * HOUR + hours * HOUR / 3),
        },
    };
    let store = database.metrics().await;
    assert_eq!(store.red(&query(Some("web"), 1)).await.unwrap().len(), 60);
    let refused = store.red(&query(None, 18)).await;
    assert!(matches!(refused, Err(trace_store::StoreError::Unsupported(_))), "{refused:?}");
    // By pages it is answered, also where a page may be larger than an answer.
    assert_eq!(red_in_pages(&store, &query(None, 18), 40).await.len(), 6 * 3 * 180);
    assert_eq!(red_in_pages(&store, &query(None, 18), 1_000).await.len(), 6 * 3 * 180);
    database.config.query_rows_max = 1_000_000;
    database.config.query_memory_bytes_max = 1 << 10;
    let refused = database.metrics().await.red(&query(None, 18)).await;
    assert!(matches!(refused, Err(trace_store::StoreError::Unsupported(_))), "{refused:?}");
    database.config.query_memory_bytes_max = 1 << 30;
    database.config.query_timeout = Duration::from_secs(20);
    assert_eq!(database.metrics().await.red(&query(None, 18)).await.unwrap().len(), 6 * 3 * 180);
}
