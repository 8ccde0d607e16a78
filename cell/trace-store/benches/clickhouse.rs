//! What raw spans into ClickHouse cost against bare inserts of the same rows, and an hour's P99 out
//! of the roll-up. Prints its figures.
//!
//! `tests/engines/clickhouse.sh start`, then
//! `FARSPAN_TEST_CLICKHOUSE=http://127.0.0.1:8123 cargo bench -p trace-store --bench clickhouse`;
//! the environment says how many spans a round inserts (`CLICKHOUSE_SPANS`, 300,000 where it says
//! nothing) and how many the hour holds (`CLICKHOUSE_HOUR_SPANS`, 10,000,000).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::sync::Arc;
use std::time::Instant;

use proto::{DurationSketch, LoggedBatch};
use service_kit::SystemClock;
use trace_model::{Clock, SpanKind, StatusCode, TenantId, TimeRange, UnixNanos};
use trace_store::clickhouse::init;
use trace_store::{
    ClickhouseConfig, ClickhouseMetricsStore, ClickhouseSpans, MetricsStore, RedQuery, SpanWriter,
};

#[path = "bare/clickhouse.rs"]
mod bare;
mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use bare::{client, drop_database, insert, rows_of};
use measure::{median, print_medians, timed};
use workload::{REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const BLOCK: usize = 100_000;
const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn config(engine: &str, name: &str) -> ClickhouseConfig {
    let config =
        ClickhouseConfig::new(engine, format!("farspan_bench_{name}_{}", std::process::id()));
    ClickhouseConfig { insert_block_rows: BLOCK, insert_block_bytes: 128 << 20, ..config }
}

async fn compare_inserts(engine: &str, clock: &Arc<dyn Clock>) {
    let spans = usize::try_from(number_of("CLICKHOUSE_SPANS", 300_000)).expect("a number");
    let mut workload = Workload::new(7, 50_000);
    workload.now = clock.now().0 - HOUR;
    let (ours, bare) = (config(engine, "ours"), config(engine, "bare"));
    init(&ours).await.expect("an engine");
    init(&bare).await.expect("an engine");
    let writer =
        ClickhouseSpans::connect(ours.clone(), Arc::clone(clock)).await.expect("an engine");
    let bare_client = client(&bare);
    let (mut own_rounds, mut bare_rounds) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let requests = spans.div_ceil(REQUEST_SPANS);
        let batches: Vec<LoggedBatch> = (0..requests).map(|_| workload.request()).collect();
        let rows: Vec<_> = batches.iter().flat_map(rows_of).collect();
        let write = timed(rows.len(), async {
            for batches in batches.chunks(16) {
                writer.write(batches).await.expect("an engine");
            }
            writer.flush(clock.now(), true).await.expect("an engine");
        });
        let insert = timed(rows.len(), insert(&bare_client, &rows, BLOCK));
        let (own, other) = if round % 2 == 0 {
            let own = write.await;
            (own, insert.await)
        } else {
            let other = insert.await;
            (write.await, other)
        };
        println!(
            "round {round}: ours {:.0} rows/s, bare {:.0} rows/s",
            own.per_second, other.per_second
        );
        // The first one warms both up.
        if round > 0 {
            own_rounds.push(own);
            bare_rounds.push(other);
        }
    }
    // The bare side's rows are made before the clock runs; ours come out of OTLP's bytes.
    print_medians("row", &own_rounds, &bare_rounds);
    for config in [ours, bare] {
        drop_database(&config).await;
    }
}

/// An hour of twenty services, as spans and as the aggregator would have counted them in twelve
/// flushes a minute.
async fn fill_hour(config: &ClickhouseConfig, start: u64, spans: u64) {
    let client = client(config);
    let generate = format!(
        "INSERT INTO otel_traces (Timestamp, TraceId, SpanId, SpanName, SpanKind, ServiceName, \
         Duration, StatusCode, Tenant, AppendTime) \
         SELECT fromUnixTimestamp64Nano(toInt64({start} + number * {HOUR} / {spans})), \
         lower(hex(MD5(toString(number)))), lower(hex(number)), \
         concat('GET /', toString(cityHash64(number) % 50)), 'Server', \
         concat('service-', toString(number % 20)), \
         toUInt64(exp(13 + 6 * (cityHash64(number, 1) % 100000) / 100000)), \
         if(cityHash64(number, 2) % 100 = 0, 'Error', 'Unset'), 'default', now() \
         FROM numbers({spans})"
    );
    client.query(&generate).execute().await.expect("spans");
    let count = "INSERT INTO red_services_inbox SELECT 'default', ServiceName, \
         toStartOfMinute(Timestamp), 'server', if(StatusCode = 'Error', 'error', 'unset'), false, \
         now(), 0, count(), count(), \
         sumMap(map(toInt16(floor(log(Duration) / log(1.01 / 0.99))), toUInt64(1))), 0, \
         min(Duration), max(Duration), sum(Duration), max((Duration, unhex(TraceId))) \
         FROM otel_traces WHERE intDiv(toSecond(Timestamp), 5) = {flush:UInt8} \
         GROUP BY ServiceName, toStartOfMinute(Timestamp), StatusCode";
    for flush in 0..12_u8 {
        client.query(count).param("flush", flush).execute().await.expect("counts");
    }
}

async fn ask_for_p99(store: &ClickhouseMetricsStore, range: TimeRange, what: &str) {
    let mut millis = Vec::new();
    let mut p99 = 0.0;
    for question in 0..200 {
        let query = RedQuery {
            tenant: TenantId::default(),
            service: Some(format!("service-{}", question % 20).into()),
            by_operation: false,
            range,
        };
        let start = Instant::now();
        let rows = store.red(&query).await.expect("an answer");
        let mut durations = DurationSketch::default();
        for (key, row) in rows.iter().filter(|(key, _)| key.kind == SpanKind::Server) {
            assert!(key.status != StatusCode::Ok);
            durations.merge(&row.durations);
        }
        p99 = durations.quantile(0.99).expect("durations");
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    println!(
        "hour of P99 of a service, {what}: P50 {:.1} ms, P95 {:.1} ms ({:.1} ms is the P99)",
        millis[100],
        millis[190],
        p99 / 1e6
    );
}

async fn hour_of_p99(engine: &str, clock: &Arc<dyn Clock>) {
    let spans = number_of("CLICKHOUSE_HOUR_SPANS", 10_000_000);
    let config = config(engine, "hour");
    init(&config).await.expect("an engine");
    let start = clock.now().0 / HOUR * HOUR - 2 * HOUR;
    fill_hour(&config, start, spans).await;
    let range = TimeRange { start: UnixNanos(start), end: UnixNanos(start + HOUR) };
    let store = ClickhouseMetricsStore::connect(config.clone(), Arc::clone(clock))
        .await
        .expect("an engine");
    ask_for_p99(&store, range, "twelve flushes a minute, as they were inserted").await;
    let client = client(&config);
    client.query("OPTIMIZE TABLE red_services FINAL").execute().await.expect("a merge");
    ask_for_p99(&store, range, "merged").await;
    let rows: u64 =
        client.query("SELECT count() FROM red_services").fetch_one().await.expect("a count");
    for (what, sql) in [
        (
            "the view's digests, by the engine",
            "SELECT quantilesTDigestWeightedMerge(0.5, 0.9, 0.95, 0.99)(digest) \
             FROM red_services WHERE tenant = 'default' AND service = 'service-7'",
        ),
        (
            "all spans of the service, by the engine",
            "SELECT quantilesTDigest(0.5, 0.9, 0.95, 0.99)(Duration) FROM otel_traces \
             WHERE ServiceName = 'service-7'",
        ),
    ] {
        let mut millis = Vec::new();
        let mut found = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            found = client.query(sql).fetch_one::<Vec<f32>>().await.expect("quantiles");
            millis.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        println!("{what}: P50 {:.1} ms ({:.1} ms is the P99)", median(&mut millis), found[3] / 1e6);
    }
    println!("{spans} spans are {rows} rows of the roll-up");
    drop_database(&config).await;
}

fn main() {
    let engine = std::env::var("FARSPAN_TEST_CLICKHOUSE").expect("the address of an engine");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("one");
    let load = std::fs::read_to_string("/proc/loadavg").expect("procfs");
    println!("load {}", load.trim());
    runtime.block_on(async {
        compare_inserts(&engine, &clock).await;
        hour_of_p99(&engine, &clock).await;
    });
}
