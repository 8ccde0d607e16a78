//! CPU time of the span log: appends through group commit, reads, lookups in the live tail. What is
//! measured is the CPU time of all threads of the process, not the wall clock: the disk's share is
//! in `farspan bench write`.
//!
//! Spans of about 500 bytes with ten attributes, 512 to a request, 8 to a trace; the values repeat
//! as those of real services do, so compression is flattered a little.
#![expect(clippy::unwrap_used, reason = "a bench that panics has failed")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::wire::put_bytes_field;
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use service_kit::SystemClock;
use span_log::{EmbeddedConfig, EmbeddedLog, SpanLog};
use tempfile::TempDir;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};

const SPANS: u64 = 512;
const SPANS_OF_TRACE: u64 = 8;

/// CPU time of all threads, from the scheduler's account (`/proc/self/task/*/schedstat`, ns).
struct CpuTime;

fn cpu_nanos() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_task = |entry: std::io::Result<std::fs::DirEntry>| {
        let account = std::fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        account.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        cpu_nanos()
    }

    fn end(&self, start: u64) -> u64 {
        cpu_nanos().saturating_sub(start).max(1)
    }

    fn add(&self, one: &u64, other: &u64) -> u64 {
        one + other
    }

    fn zero(&self) -> u64 {
        0
    }

    #[expect(clippy::cast_precision_loss, reason = "a measured value")]
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn put_attribute(span: &mut Vec<u8>, key: &str, value: &str) {
    let mut any = Vec::new();
    put_bytes_field(&mut any, 1, value.as_bytes());
    let mut pair = Vec::new();
    put_bytes_field(&mut pair, 1, key.as_bytes());
    put_bytes_field(&mut pair, 2, &any);
    put_bytes_field(span, 9, &pair);
}

fn span(trace_id: TraceId, number: u64) -> Vec<u8> {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut span = Vec::new();
    put_bytes_field(&mut span, 1, trace_id.as_bytes());
    put_bytes_field(&mut span, 2, &(spread | 1).to_be_bytes());
    put_bytes_field(&mut span, 4, &(spread | 2).to_be_bytes());
    put_bytes_field(&mut span, 5, b"GET /api/v1/orders/{id}");
    for key in ["http.request.method", "url.scheme", "server.address", "network.protocol.version"] {
        put_attribute(&mut span, key, "checkout.internal.example");
    }
    put_attribute(&mut span, "url.path", &format!("/api/v1/orders/{}", spread % 100_000));
    put_attribute(&mut span, "user.id", &format!("user-{}", spread % 9_973));
    put_attribute(&mut span, "client.address", &format!("10.0.{}.{}", spread % 251, spread % 241));
    put_attribute(&mut span, "http.response.status_code", "200");
    put_attribute(&mut span, "thread.name", "worker-pool-3");
    put_attribute(&mut span, "code.function", "OrderController.findById");
    span
}

/// A request of its own traces.
fn request(number: u64) -> Arc<SpanBatch> {
    let rows: Vec<_> = (0..SPANS)
        .map(|place| {
            let trace = number * SPANS + place / SPANS_OF_TRACE;
            let mut bytes = [0; 16];
            let (left, right) = bytes.split_at_mut(8);
            left.copy_from_slice(&(trace + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
            right.copy_from_slice(&trace.wrapping_mul(0xa076_1d64_78bd_642f).to_be_bytes());
            let trace_id = TraceId::from_bytes(bytes).unwrap();
            (trace_id, span(trace_id, number * SPANS + place))
        })
        .collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (trace_id, span) in &rows {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, span);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "collector-1".into(),
        receive_time: UnixNanos(5),
        digest: number,
    };
    Arc::new(builder.finish(source).unwrap())
}

fn open(directory: &TempDir, cache_bytes_max: usize) -> Arc<EmbeddedLog> {
    let mut config = EmbeddedConfig::at(directory.path().to_owned());
    config.retention_bytes = 512 << 20;
    config.required_groups = Vec::new();
    config.disk_reserve_bytes = 0;
    config.cache_bytes_max = cache_bytes_max;
    EmbeddedLog::open(config, Arc::new(SystemClock::new())).unwrap()
}

async fn append_all(log: &Arc<EmbeddedLog>, requests: Vec<Arc<SpanBatch>>) {
    let mut senders = tokio::task::JoinSet::new();
    for request in requests {
        let log = Arc::clone(log);
        senders.spawn(async move { log.append(request).await.unwrap() });
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
}

fn append(criterion: &mut Criterion<CpuTime>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = open(&directory, 32 << 20);
    let requests: Vec<_> = (0..100).map(request).collect();
    let mut group = criterion.benchmark_group("append");
    for writers in [1_usize, 10, 100] {
        group.throughput(Throughput::Elements(SPANS * writers as u64));
        group.bench_function(format!("{writers} requests at once"), |bencher| {
            let taken = || requests.iter().take(writers).cloned().collect();
            let run = |requests| runtime.block_on(append_all(&log, requests));
            bencher.iter_batched(taken, run, BatchSize::PerIteration);
        });
    }
    group.throughput(Throughput::Elements(SPANS));
    let raw = requests.first().unwrap().encoded().clone();
    group.bench_function("lz4 alone", |bencher| {
        bencher.iter(|| lz4_flex::block::compress(black_box(&raw)));
    });
    group.finish();
}

async fn read_all(log: &EmbeddedLog) {
    let mut at = 0;
    while let Some(last) = log.read(0, at, 1 << 20).await.unwrap().last() {
        at = last.range.next;
    }
}

fn read(criterion: &mut Criterion<CpuTime>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(SPANS * 100));
    for (name, cache_bytes_max) in [("from segments", 0), ("from the cache", 256 << 20)] {
        let directory = tempfile::tempdir().unwrap();
        let log = open(&directory, cache_bytes_max);
        runtime.block_on(append_all(&log, (0..100).map(request).collect()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(read_all(&log)));
        });
    }
    group.finish();
}

fn tail(criterion: &mut Criterion<CpuTime>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = open(&directory, 0);
    let requests: Vec<_> = (0..100).map(request).collect();
    runtime.block_on(append_all(&log, requests.clone()));
    let tenant = TenantId::default();
    let held = requests.first().unwrap().traces().first().unwrap().trace_id;
    let absent = TraceId::from_bytes([9; 16]).unwrap();
    let mut group = criterion.benchmark_group("tail");
    for (name, trace_id) in [("held, from a segment", held), ("absent", absent)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(log.tail(&tenant, trace_id)).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(20);
    targets = append, read, tail
}
criterion_main!(benches);
