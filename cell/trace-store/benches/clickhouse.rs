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

use clickhouse::{Client, Row};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::{DurationSketch, LoggedBatch};
use serde::Serialize;
use service_kit::SystemClock;
use trace_model::{Clock, SpanKind, StatusCode, TenantId, TimeRange, UnixNanos};
use trace_store::clickhouse::init;
use trace_store::{
    ClickhouseConfig, ClickhouseMetricsStore, ClickhouseSpans, MetricsStore, RedQuery, SpanWriter,
};

mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use measure::{cpu_nanos, median};
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

fn client(config: &ClickhouseConfig) -> Client {
    Client::default()
        .with_url(&config.url)
        .with_database(&config.database)
        .with_setting("async_insert", "0")
        .with_setting("wait_end_of_query", "1")
}

/// A row as a program of the `clickhouse` crate would write it.
#[derive(Debug, Serialize, Row)]
#[serde(rename_all = "PascalCase")]
struct SpanRow {
    timestamp: i64,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    trace_state: String,
    span_name: String,
    span_kind: &'static str,
    service_name: String,
    resource_attributes: Vec<(String, String)>,
    scope_name: String,
    scope_version: String,
    span_attributes: Vec<(String, String)>,
    duration: u64,
    status_code: &'static str,
    status_message: String,
    #[serde(rename = "Events.Timestamp")]
    events_timestamp: Vec<i64>,
    #[serde(rename = "Events.Name")]
    events_name: Vec<String>,
    #[serde(rename = "Events.Attributes")]
    events_attributes: Vec<Vec<(String, String)>>,
    #[serde(rename = "Links.TraceId")]
    links_trace_id: Vec<String>,
    #[serde(rename = "Links.SpanId")]
    links_span_id: Vec<String>,
    #[serde(rename = "Links.TraceState")]
    links_trace_state: Vec<String>,
    #[serde(rename = "Links.Attributes")]
    links_attributes: Vec<Vec<(String, String)>>,
    tenant: &'static str,
    region: &'static str,
    append_time: u32,
    is_outlying: bool,
    block: u64,
}

fn pairs(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    };
    attributes.into_iter().map(|pair| (pair.key.clone(), text(&pair))).collect()
}

/// The rows of a batch, made before the clock runs.
fn rows_of(logged: &LoggedBatch) -> Vec<SpanRow> {
    let batch = &logged.batch;
    let mut rows = Vec::new();
    for trace in batch.traces() {
        for slice in batch.spans_of(trace) {
            let span = otlp::Span::decode(batch.bytes_of(slice)).expect("a span");
            let context = batch.context_of(slice).expect("a context");
            let resource = otlp::ResourceSpans::decode(context.resource.as_ref()).expect("one");
            let events = span.events;
            rows.push(SpanRow {
                timestamp: i64::try_from(slice.start.0).expect("before 2262"),
                trace_id: trace.trace_id.to_string(),
                span_id: slice.span_id.to_string(),
                parent_span_id: slice.parent_span_id.map(|id| id.to_string()).unwrap_or_default(),
                trace_state: span.trace_state,
                span_name: span.name,
                span_kind: "Server",
                service_name: context.service.as_ref().to_owned(),
                resource_attributes: pairs(resource.resource.unwrap_or_default().attributes),
                scope_name: "lib".to_owned(),
                scope_version: String::new(),
                span_attributes: pairs(span.attributes),
                duration: slice.end.since(slice.start),
                status_code: "Unset",
                status_message: String::new(),
                events_timestamp: events.iter().map(|_| 0).collect(),
                events_name: events.iter().map(|event| event.name.clone()).collect(),
                events_attributes: events
                    .into_iter()
                    .map(|event| pairs(event.attributes))
                    .collect(),
                links_trace_id: Vec::new(),
                links_span_id: Vec::new(),
                links_trace_state: Vec::new(),
                links_attributes: Vec::new(),
                tenant: "default",
                region: "eu-west-1",
                append_time: u32::try_from(logged.append_time.0 / 1_000_000_000).expect("now"),
                is_outlying: false,
                block: 1,
            });
        }
    }
    rows
}

/// Seconds and own CPU seconds of something.
async fn timed(work: impl Future<Output = ()>) -> (f64, f64) {
    let (cpu, start) = (cpu_nanos(), Instant::now());
    work.await;
    (start.elapsed().as_secs_f64(), (cpu_nanos() - cpu) as f64 / 1e9)
}

async fn insert_bare(client: &Client, rows: &[SpanRow]) {
    for block in rows.chunks(BLOCK) {
        let mut insert = client.insert::<SpanRow>("otel_traces").await.expect("an insert");
        for row in block {
            insert.write(row).await.expect("a row");
        }
        insert.end().await.expect("an acknowledgement");
    }
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
    let mut rates: [Vec<f64>; 4] = Default::default();
    for round in 0..=ROUNDS {
        let requests = spans.div_ceil(REQUEST_SPANS);
        let batches: Vec<LoggedBatch> = (0..requests).map(|_| workload.request()).collect();
        let rows: Vec<SpanRow> = batches.iter().flat_map(rows_of).collect();
        let write = async {
            for batches in batches.chunks(16) {
                writer.write(batches).await.expect("an engine");
            }
            writer.flush(clock.now(), true).await.expect("an engine");
        };
        let insert = insert_bare(&bare_client, &rows);
        let (ours, bare) = if round % 2 == 0 {
            let ours = timed(write).await;
            (ours, timed(insert).await)
        } else {
            let bare = timed(insert).await;
            (timed(write).await, bare)
        };
        let count = rows.len() as f64;
        println!(
            "round {round}: ours {:.0} rows/s ({:.2} µs CPU a row), bare {:.0} rows/s ({:.2} µs)",
            count / ours.0,
            ours.1 / count * 1e6,
            count / bare.0,
            bare.1 / count * 1e6,
        );
        if round > 0 {
            let figures =
                [count / ours.0, ours.1 / count * 1e6, count / bare.0, bare.1 / count * 1e6];
            for (rates, figure) in rates.iter_mut().zip(figures) {
                rates.push(figure);
            }
        }
    }
    let [ours_rate, ours_cpu, bare_rate, bare_cpu] = rates.map(|mut rates| median(&mut rates));
    println!(
        "medians: ours {ours_rate:.0} rows/s, {ours_cpu:.2} µs CPU a row (from OTLP bytes); bare \
         {bare_rate:.0} rows/s, {bare_cpu:.2} µs (from rows made before); {:.0} %",
        ours_rate / bare_rate * 100.0
    );
    for config in [ours, bare] {
        drop_database(&config).await;
    }
}

async fn drop_database(config: &ClickhouseConfig) {
    let sql = format!("DROP DATABASE {} SYNC", config.database);
    let client = Client::default().with_url(&config.url);
    client.query(&sql).execute().await.expect("a drop");
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
