//! A delta counts once, wherever the way to the engine breaks and whoever dies.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use proto::DurationSketch;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trace_model::{Coverage, SpanKind, StatusCode, TraceId, UnixNanos};
use trace_store::{
    ClickhouseMetricsStore, EdgeKey, EdgeRow, Eraser, MemoryMetricsStore, MetricsDelta,
    MetricsStore, RedKey, RedQuery, RedRow,
};

use super::agreement::{assert_same, random_delta, recent};
use super::proxy::{Fault, Proxy};
use super::{Database, clock, engine, is_fenced, is_unavailable};
use crate::metrics::{MINUTE, tenant};

/// A delta that has rows in every table, on two days in each.
pub(super) fn full_delta(next: u64) -> MetricsDelta {
    let mut covered = Coverage::none(5);
    covered.extend(0, next);
    let (mut red, mut edges) = (Vec::new(), Vec::new());
    let trace = |number: u64| TraceId::from_bytes(u128::from(number + 1).to_be_bytes()).unwrap();
    for day in 0..2 {
        let minute = UnixNanos(recent() - day * 24 * 60 * MINUTE);
        let mut durations = DurationSketch::default();
        durations.add(next * 1_000);
        durations.add(0);
        for operation in [None, Some("GET /")] {
            let key = RedKey {
                tenant: tenant("default"),
                minute,
                service: "web".into(),
                operation: operation.map(Into::into),
                kind: SpanKind::Server,
                status: StatusCode::Unset,
            };
            let exemplar = Some((next * 1_000, trace(next)));
            let durations = durations.clone();
            red.push((key, RedRow { seen: 2, estimated: 20.0, durations, exemplar }));
        }
        let key = EdgeKey {
            tenant: tenant("default"),
            bucket: minute,
            caller: "web".into(),
            callee: "cart".into(),
            is_error: false,
        };
        edges.push((
            key,
            EdgeRow { seen: 1, estimated: 10.0, durations, traces: vec![trace(next)] },
        ));
    }
    let checkpoint = format!("<{next}>").into_bytes();
    MetricsDelta { red, edges, covered, checkpoint, extends_checkpoint: !next.is_multiple_of(2) }
}

/// Also what dashboards read: the view's digests stand in the rows that count.
pub(super) async fn assert_counted_once(database: &Database, deltas: u64) {
    for table in ["red_services", "red_operations"] {
        let seen = database.number(&format!("SELECT sum(seen) FROM {table}")).await;
        assert_eq!(seen, deltas * 4, "{table}");
        let sketched = format!("SELECT sum(zeros + arraySum(mapValues(buckets))) FROM {table}");
        assert_eq!(database.number(&sketched).await, deltas * 4, "{table}");
        let digests: Vec<Vec<f64>> = database
            .ask(&format!(
                "SELECT arrayMap(nanos -> toFloat64(nanos), \
                 quantilesTDigestWeightedMerge(0.5, 0.9, 0.95, 0.99)(digest)) FROM {table}"
            ))
            .await;
        // As many zeros as other durations: a delta that is in the digest twice would move it.
        let largest = deltas as f64 * 1_000.0;
        assert!(digests[0][3] <= largest * 1.02, "{table}: {digests:?} of {largest}");
    }
    assert_eq!(database.number("SELECT sum(seen) FROM edges").await, deltas * 2);
}

/// Applies a delta while the request after `passing` more is broken; says whether one was.
async fn apply_broken(
    (store, proxy): (&ClickhouseMetricsStore, &Proxy),
    delta: &MetricsDelta,
    (passing, fault): (usize, Fault),
) -> bool {
    proxy.break_after(passing, fault);
    let applied = store.apply(delta.clone()).await;
    let has_broken = proxy.has_broken();
    assert!(has_broken || applied.is_ok(), "{applied:?}");
    assert!(applied.is_ok() || is_unavailable(&applied), "{applied:?}");
    has_broken
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Recovery {
    /// The same process tries again.
    SameStore,
    /// Another one takes over, asks where it stands and tries again.
    NewStore,
    /// Another one takes over, and the log gives more at once than it did.
    LargerDelta,
}

async fn breaks_at_every_request(fault: fn() -> Fault, recovery: Recovery) {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    let memory = MemoryMetricsStore::new();
    let mut store = database.metrics().await;
    store.checkpoint().await.unwrap();
    let (mut next, mut passing) = (0, 0);
    loop {
        next += 1;
        let delta = full_delta(next);
        let has_broken = apply_broken((&store, &proxy), &delta, (passing, fault())).await;
        match recovery {
            Recovery::SameStore => {}
            Recovery::NewStore | Recovery::LargerDelta => store = database.metrics().await,
        }
        let (covered, _) = store.checkpoint().await.unwrap();
        let is_counted = covered == delta.covered;
        if recovery == Recovery::LargerDelta && !is_counted {
            // What was not counted comes again, together with what was logged since.
            next += 1;
            let mut larger = full_delta(next);
            larger.red.extend(delta.red.clone());
            larger.edges.extend(delta.edges.clone());
            larger.checkpoint = [delta.checkpoint.clone(), larger.checkpoint].concat();
            larger.extends_checkpoint = delta.extends_checkpoint;
            memory.apply(larger.clone()).await.unwrap();
            store.apply(larger).await.unwrap();
        } else {
            memory.apply(delta.clone()).await.unwrap();
            store.apply(delta).await.unwrap();
        }
        assert_same(&memory, &store, &format!("request {passing} of {recovery:?}")).await;
        if !has_broken {
            break;
        }
        passing += 1;
    }
    assert!(passing > 9, "an apply has {passing} requests");
    assert_counted_once(&database, next).await;
}

#[tokio::test]
async fn a_request_that_never_arrives_is_made_up_for_by_the_same_process() {
    breaks_at_every_request(|| Fault::Before, Recovery::SameStore).await;
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_counts_once_in_the_same_process() {
    breaks_at_every_request(|| Fault::After, Recovery::SameStore).await;
}

#[tokio::test]
async fn a_request_that_never_arrives_is_made_up_for_by_the_next_process() {
    breaks_at_every_request(|| Fault::Before, Recovery::NewStore).await;
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_counts_once_in_the_next_process() {
    breaks_at_every_request(|| Fault::After, Recovery::NewStore).await;
}

#[tokio::test]
async fn the_next_process_may_cut_its_deltas_otherwise() {
    breaks_at_every_request(|| Fault::After, Recovery::LargerDelta).await;
}

#[tokio::test]
async fn a_delta_that_is_sent_three_times_counts_once_also_when_the_engine_remembers_no_token() {
    let database = Database::new().await;
    let memory = MemoryMetricsStore::new();
    for window in [1_000, 0] {
        for table in ["red_services", "red_operations", "edges", "edge_traces"] {
            database
                .run(&format!(
                    "ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {window}"
                ))
                .await;
        }
        let delta = full_delta(if window > 0 { 1 } else { 2 });
        memory.apply(delta.clone()).await.unwrap();
        for _ in 0..3 {
            let store = database.metrics().await;
            store.apply(delta.clone()).await.unwrap();
            store.apply(delta.clone()).await.unwrap();
            // As if the process had died before it could say that the delta is counted.
            let last = "sequence = (SELECT max(sequence) FROM metrics_progress)";
            database
                .run(&format!(
                    "ALTER TABLE metrics_progress DELETE WHERE step = 'applied' AND {last}"
                ))
                .await;
        }
        assert_same(&memory, &database.metrics().await, "three times").await;
    }
    assert_counted_once(&database, 2).await;
}

#[tokio::test]
async fn the_process_that_counted_before_is_refused() {
    let database = Database::new().await;
    let (older, newer) = (database.metrics().await, database.metrics().await);
    older.apply(full_delta(1)).await.unwrap();
    newer.apply(full_delta(2)).await.unwrap();
    for _ in 0..2 {
        let refused = older.apply(full_delta(3)).await;
        assert!(is_fenced(&refused), "{refused:?}");
    }
    newer.apply(full_delta(3)).await.unwrap();
    // Questions are nobody's alone.
    let query = RedQuery {
        tenant: tenant("default"),
        service: None,
        by_operation: false,
        range: trace_model::TimeRange::ALL,
    };
    assert_eq!(older.red(&query).await.unwrap().iter().map(|(_, row)| row.seen).sum::<u64>(), 12);
}

#[tokio::test]
async fn processes_take_turns_and_whoever_only_looks_takes_none() {
    let database = Database::new().await;
    let (one, other) = (database.metrics().await, database.metrics().await);
    for turn in 0..3 {
        let next = turn * 2;
        assert_eq!(one.checkpoint().await.unwrap().0.next.get(&0).copied().unwrap_or(0), next);
        one.apply(full_delta(next + 1)).await.unwrap();
        // Another looks how far it is: that takes nothing away.
        assert_eq!(other.covered().await.unwrap().next.get(&0), Some(&(next + 1)));
        other.checkpoint().await.unwrap();
        // A delta of the one before is refused, also one that covers more than the other's.
        assert!(is_fenced(&one.apply(full_delta(next + 9)).await));
        other.apply(full_delta(next + 2)).await.unwrap();
    }
    assert_counted_once(&database, 6).await;
}

#[tokio::test]
async fn a_trace_that_another_process_erases_leaves_what_is_counted_afterwards() {
    let database = Database::new().await;
    let (counting, asking) = (database.metrics().await, database.metrics().await);
    counting.apply(full_delta(1)).await.unwrap();
    let erased = TraceId::from_bytes(2_u128.to_be_bytes()).unwrap();
    let receipt = asking.erase(&tenant("default"), erased).await.unwrap();
    assert!(receipt.files > 0, "{receipt:?}");
    for next in 2..=3 {
        let mut delta = full_delta(next);
        for (_, row) in &mut delta.red {
            row.exemplar = Some((u64::MAX / 2, erased));
        }
        for (_, row) in &mut delta.edges {
            row.traces.push(erased);
        }
        counting.apply(delta).await.unwrap();
    }
    let id = erased.to_string();
    for (table, column) in [
        ("red_services", "toString(exemplar.2)"),
        ("red_operations", "toString(exemplar.2)"),
        ("edge_traces", "arrayStringConcat(traces)"),
        ("metrics_deltas", "body"),
    ] {
        let sql =
            format!("SELECT count() FROM {table} WHERE position({column}, unhex('{id}')) > 0");
        assert_eq!(database.number(&sql).await, 0, "{table}");
    }
    assert_eq!(database.number("SELECT sum(seen) FROM red_services").await, 12);
}

/// An engine of the test's own, to be killed.
struct Engine {
    port: u16,
    name: String,
}

impl Engine {
    fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let engine = Self { port, name: format!("kill-{}-{port}", std::process::id()) };
        engine.script("start");
        engine.script("wait");
        engine
    }

    fn script(&self, command: &str) {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let done = Command::new(root.join("tests/engines/clickhouse.sh"))
            .args([command, &self.name])
            .env("HTTP_PORT", self.port.to_string())
            .output()
            .unwrap();
        assert!(done.status.success(), "{command}: {done:?}");
    }

    /// kill -9.
    fn kill(&self) {
        self.script("kill");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.script("clean");
        }
    }
}

#[tokio::test]
async fn an_engine_that_is_killed_between_any_two_inserts_counts_a_delta_once() {
    let engine = Arc::new(Engine::start());
    let mut database = Database::at(&format!("http://127.0.0.1:{}", engine.port));
    trace_store::clickhouse::init(&database.config).await.unwrap();
    let proxy = Proxy::before(&database.config.url).await;
    database.config.url.clone_from(&proxy.url);
    let memory = MemoryMetricsStore::new();
    let seed = clock().now().0;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = database.metrics().await;
    let (mut next, mut passing) = (0, 0);
    loop {
        next += 1;
        let mut delta = full_delta(next);
        let more = random_delta(&mut random, next);
        delta.red.extend(more.red);
        delta.edges.extend(more.edges);
        let killed = Arc::clone(&engine);
        let kill = Fault::Hook(Arc::new(move || killed.kill()));
        let has_broken = apply_broken((&store, &proxy), &delta, (passing, kill)).await;
        if has_broken {
            engine.script("start");
            engine.script("wait");
        }
        if passing % 2 == 0 {
            store = database.metrics().await;
        }
        memory.apply(delta.clone()).await.unwrap();
        store.apply(delta).await.unwrap();
        assert_same(&memory, &store, &format!("killed at request {passing}")).await;
        if !has_broken {
            break;
        }
        passing += 1;
    }
    assert!(passing > 9, "an apply has {passing} requests");
}
