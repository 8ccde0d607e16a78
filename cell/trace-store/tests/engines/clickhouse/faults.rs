//! Engines that are away, slow or talk nonsense, and names that want to be statements.

use std::time::Duration;

use proto::DurationSketch;
use tokio::net::TcpListener;
use trace_model::{Coverage, SpanKind, StatusCode, TimeRange, TraceId, UnixNanos};
use trace_store::clickhouse::init;
use trace_store::{
    ClickhouseConfig, ClickhouseMetricsStore, EdgeKey, EdgeRow, EdgeTraceQuery, MetricsDelta,
    MetricsStore, RedKey, RedQuery, RedRow, StoreError,
};

use super::agreement::recent;
use super::proxy::{Fault, Proxy};
use super::{Database, clock, engine, is_unavailable};
use crate::metrics::{MINUTE, edges_in_pages, red_in_pages, tenant};

fn everything_of(service: Option<&str>) -> RedQuery {
    RedQuery {
        tenant: tenant("default"),
        service: service.map(Into::into),
        by_operation: false,
        range: TimeRange::ALL,
    }
}

/// Many series, so that an answer is long.
fn many(services: u64, next: u64) -> MetricsDelta {
    let mut covered = Coverage::none(5);
    covered.extend(0, next);
    let series = |service: u64| {
        let mut row = RedRow { seen: 1, estimated: 1.0, ..RedRow::default() };
        row.durations.add(service + 1);
        let key = RedKey {
            tenant: tenant("default"),
            minute: UnixNanos(recent()),
            service: format!("service-{service}").into(),
            operation: None,
            kind: SpanKind::Server,
            status: StatusCode::Unset,
        };
        (key, row)
    };
    MetricsDelta { red: (0..services).map(series).collect(), covered, ..MetricsDelta::default() }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_ends_in_an_exception_is_no_answer() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    let store = database.metrics().await;
    store.apply(many(500, 1)).await.unwrap();
    assert_eq!(store.red(&everything_of(None)).await.unwrap().len(), 500);
    for fault in [Fault::Half, Fault::Exception, Fault::After] {
        proxy.break_after(0, fault);
        let answer = store.red(&everything_of(None)).await;
        assert!(proxy.has_broken());
        assert!(is_unavailable(&answer), "{answer:?}");
        let next = store.red(&everything_of(None)).await;
        assert_eq!(next.unwrap().len(), 500);
    }
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_given_up_in_time() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    database.config.query_timeout = Duration::from_millis(700);
    database.config.insert_timeout = Duration::from_millis(900);
    let store = database.metrics().await;
    for passing in 0..4 {
        proxy.break_after(passing, Fault::Silence);
        let applied = store.apply(many(3, passing as u64 + 1)).await;
        assert!(proxy.has_broken());
        assert!(is_unavailable(&applied), "{applied:?}");
    }
    proxy.break_after(0, Fault::Silence);
    assert!(is_unavailable(&store.red(&everything_of(None)).await));
    assert!(proxy.has_broken());
    // The engine's own clock ends a question that would run longer.
    let slow = database.client().query("SELECT sleepEachRow(1) FROM numbers(3)");
    let slow = slow.with_setting("max_execution_time", "0.5").execute().await;
    assert!(slow.unwrap_err().to_string().contains("159"));
}

#[tokio::test]
async fn an_engine_that_is_away_and_a_database_that_is_not_made_are_told_apart_and_may_pass() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let away = ClickhouseConfig::new(format!("http://127.0.0.1:{port}"), "nowhere");
    assert!(is_unavailable(&init(&away).await));
    let error = ClickhouseMetricsStore::connect(away, clock()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let database = Database::named();
    let error =
        ClickhouseMetricsStore::connect(database.config.clone(), clock()).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("store init"), "{error}");
    init(&database.config).await.unwrap();
    database.metrics().await.apply(many(1, 1)).await.unwrap();
    let faulty = ClickhouseConfig { database: "x y".to_owned(), ..database.config.clone() };
    assert!(matches!(init(&faulty).await, Err(StoreError::Unsupported(_))));
}

/// Names that senders may use.
fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        "'",
        "''",
        "\\",
        "\\'",
        "\\\\'; DROP TABLE red_services; --",
        "`",
        "\"",
        "?",
        "??",
        "{a:String}",
        "{tenant:String}",
        "\0",
        "a\0b",
        "\n",
        "a\tb\r\nc",
        "\u{7f}\u{1}",
        "NULL",
        "\\N",
        "[1,2]",
        "ü 日本語 🦀",
        "%00",
        "a,b)",
        "--boundary",
        "/*",
        "x' OR '1'='1",
        "FORMAT CSV",
        " ",
        "1",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("long".repeat(250_000));
    names.push("'\\".repeat(10_000));
    names
}

#[tokio::test]
async fn hostile_names_are_names() {
    let database = Database::new().await;
    let store = database.metrics().await;
    let names = hostile_names();
    let mut covered = Coverage::none(5);
    covered.extend(0, 1);
    let mut delta = MetricsDelta { covered, ..MetricsDelta::default() };
    for (place, name) in names.iter().enumerate() {
        let seen = place as u64 + 1;
        let mut durations = DurationSketch::default();
        durations.add(seen);
        for operation in [None, Some(name.as_str().into())] {
            let key = RedKey {
                tenant: tenant("x'()!*._-"),
                minute: UnixNanos(recent()),
                service: name.as_str().into(),
                operation,
                kind: SpanKind::Server,
                status: StatusCode::Unset,
            };
            let durations = durations.clone();
            delta.red.push((key, RedRow { seen, estimated: 1.0, durations, exemplar: None }));
        }
        let key = EdgeKey {
            tenant: tenant("x'()!*._-"),
            bucket: UnixNanos(recent()),
            caller: name.as_str().into(),
            callee: names[names.len() - 1 - place].as_str().into(),
            is_error: false,
        };
        let traces = vec![TraceId::from_bytes(u128::from(seen).to_be_bytes()).unwrap()];
        delta.edges.push((key, EdgeRow { seen, estimated: 1.0, durations, traces }));
    }
    store.apply(delta).await.unwrap();
    let tenant = tenant("x'()!*._-");
    for (place, name) in names.iter().enumerate() {
        for by_operation in [false, true] {
            let query = RedQuery {
                tenant: tenant.clone(),
                service: Some(name.as_str().into()),
                by_operation,
                range: TimeRange { start: UnixNanos(recent()), end: UnixNanos(recent() + MINUTE) },
            };
            let found = store.red(&query).await;
            if name.len() > 60 << 10 {
                // Told, not answered short: the engine takes no parameter so long.
                assert!(matches!(found, Err(StoreError::Unsupported(_))), "{found:?}");
                continue;
            }
            let found = found.unwrap_or_else(|error| panic!("{name:?}: {error}"));
            let [(key, row)] = &found[..] else { panic!("{name:?}: {found:?}") };
            assert_eq!((&*key.service, row.seen), (name.as_str(), place as u64 + 1));
            assert_eq!(key.operation.as_deref(), by_operation.then_some(name.as_str()));
        }
        let callee = &names[names.len() - 1 - place];
        let query = EdgeTraceQuery {
            tenant: tenant.clone(),
            caller: name.as_str().into(),
            callee: callee.as_str().into(),
            only_errors: false,
            range: TimeRange::ALL,
            limit: 10,
        };
        if name.len().max(callee.len()) <= 60 << 10 {
            assert_eq!(store.edge_traces(&query).await.unwrap().trace_ids.len(), 1, "{name:?}");
        }
    }
    let query = RedQuery {
        tenant: tenant.clone(),
        service: None,
        by_operation: true,
        range: TimeRange::ALL,
    };
    assert_eq!(store.red(&query).await.unwrap().len(), names.len());
    assert_eq!(store.edges(&tenant, TimeRange::ALL).await.unwrap().len(), names.len());
    // A page begins behind each of them.
    assert_eq!(red_in_pages(&store, &query, 1).await.len(), names.len());
    assert_eq!(edges_in_pages(&store, &tenant, TimeRange::ALL, 1).await.len(), names.len());
}

#[tokio::test]
async fn spans_of_hundreds_of_days_and_of_absurd_ones_open_few_partitions() {
    let database = Database::new().await;
    let store = database.metrics().await;
    let mut delta = many(1, 1);
    let (_, row) = delta.red[0].clone();
    for day in 0..1_500_u64 {
        let mut key = delta.red[0].0.clone();
        key.minute = UnixNanos(recent() - day * 24 * 60 * MINUTE);
        delta.red.push((key, row.clone()));
    }
    for minute in [0, u64::MAX / MINUTE * MINUTE, recent() + 400 * 24 * 60 * MINUTE] {
        let mut key = delta.red[0].0.clone();
        key.minute = UnixNanos(minute);
        delta.red.push((key, row.clone()));
    }
    store.apply(delta).await.unwrap();
    let found = store.red(&everything_of(None)).await.unwrap();
    assert_eq!(found.len(), 1_503);
    let pages = red_in_pages(&store, &everything_of(None), 100).await;
    assert_eq!(format!("{pages:?}"), format!("{found:?}"));
    let partitions = database
        .number(
            "SELECT uniqExact(partition_id) FROM system.parts \
             WHERE database = currentDatabase() AND table = 'red_services' AND active",
        )
        .await;
    assert!((30..=35).contains(&partitions), "{partitions}");
    let old = TimeRange {
        start: UnixNanos(recent() - 1_000 * 24 * 60 * MINUTE),
        end: UnixNanos(recent() - 999 * 24 * 60 * MINUTE),
    };
    let query = RedQuery { range: old, ..everything_of(Some("service-0")) };
    assert_eq!(store.red(&query).await.unwrap().len(), 1);
}
