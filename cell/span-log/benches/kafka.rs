//! CPU time of this process for appends to Kafka, acknowledged by the brokers, in the role of a
//! collector (no live tail): `FARSPAN_TEST_KAFKA=127.0.0.1:19092 cargo bench -p span-log --bench kafka`.
//!
//! Spans of about 500 bytes with ten attributes, 512 to a request, 8 to a trace, 64 partitions. What
//! is counted is the CPU time of all threads of the process (`/proc/self/task/*/schedstat`), listed
//! by thread; the brokers' is their own.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that panics has failed, and prints what it found"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::wire::put_bytes_field;
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use service_kit::SystemClock;
use span_log::kafka::TopicSettings;
use span_log::{KafkaConfig, KafkaLog, Seen, SpanLog};
use tokio::task::JoinSet;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Clock, Region, TenantId, TraceId, UnixNanos};

const SPANS: u64 = 512;
const SPANS_OF_TRACE: u64 = 8;
const REQUESTS: u64 = 2_000;

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
    let mut spans = Vec::new();
    for place in 0..SPANS {
        let trace = number * SPANS + place / SPANS_OF_TRACE;
        let mut bytes = [0; 16];
        let (left, right) = bytes.split_at_mut(8);
        left.copy_from_slice(&(trace + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
        right.copy_from_slice(&trace.wrapping_mul(0xa076_1d64_78bd_642f).to_be_bytes());
        let trace_id = TraceId::from_bytes(bytes).unwrap();
        spans.push((trace_id, span(trace_id, number * SPANS + place)));
    }
    let mut builder = SpanBatchBuilder::new();
    let mut resource = Vec::new();
    put_attribute(&mut resource, "service.name", "checkout");
    let resource = builder.add_resource(resource);
    let scope = builder.add_scope(resource, Vec::new());
    for (trace_id, span) in &spans {
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

/// CPU time by the names of threads, in nanoseconds.
fn cpu_by_thread() -> BTreeMap<String, u64> {
    let mut by_name = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let place = task.unwrap().path();
        let name = std::fs::read_to_string(place.join("comm")).unwrap_or_default();
        let account = std::fs::read_to_string(place.join("schedstat")).unwrap_or_default();
        let nanos = account.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
        *by_name.entry(name.trim().to_owned()).or_insert(0) += nanos.unwrap_or(0);
    }
    by_name
}

async fn append_all(log: &Arc<KafkaLog>, requests: &Arc<Vec<Arc<SpanBatch>>>, at_once: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..at_once {
        let (log, requests, next) = (Arc::clone(log), Arc::clone(requests), Arc::clone(&next));
        senders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= REQUESTS {
                    return;
                }
                let place = usize::try_from(number).unwrap() % requests.len();
                let batch = Arc::clone(requests.get(place).unwrap());
                while log.append(Arc::clone(&batch)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
}

#[expect(clippy::cast_precision_loss, reason = "a measured value")]
async fn measure(log: &Arc<KafkaLog>, requests: &Arc<Vec<Arc<SpanBatch>>>, at_once: u64) {
    let clock = SystemClock::new();
    let (before, started) = (cpu_by_thread(), clock.monotonic());
    append_all(log, requests, at_once).await;
    let wall = (clock.monotonic() - started).as_secs_f64();
    let mut spent: Vec<(u64, String)> = cpu_by_thread()
        .into_iter()
        .map(|(name, nanos)| (nanos - before.get(&name).copied().unwrap_or(0), name))
        .collect();
    spent.sort_unstable_by(|one, other| other.cmp(one));
    let total: u64 = spent.iter().map(|(nanos, _)| nanos).sum();
    let spans = (REQUESTS * SPANS) as f64;
    println!(
        "{at_once:>3} requests at once: {:.0} K spans per CPU-second, {:.0} K spans/s",
        spans / (total as f64 / 1e9) / 1e3,
        spans / wall / 1e3
    );
    for (nanos, name) in spent.iter().take(6) {
        println!("    {name:<16} {:.3} us a span", *nanos as f64 / 1e3 / spans);
    }
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "a bench of a real engine is told where it is")]
    let address = std::env::var("FARSPAN_TEST_KAFKA");
    let Ok(brokers) = address else {
        println!("FARSPAN_TEST_KAFKA names no broker: nothing measured");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(SystemClock::new());
        let mut config = KafkaConfig::at(vec![brokers]);
        config.prefix = format!("bench-{}-", clock.now().millis());
        config.tail = None;
        KafkaLog::init(&config, &TopicSettings::default()).await.unwrap();
        let requests: Arc<Vec<_>> = Arc::new((0..200).map(request).collect());
        for linger_ms in [0, 5] {
            config.linger = Duration::from_millis(linger_ms);
            let opened = KafkaLog::open(config.clone(), Seen::default(), clock.clone()).await;
            let log = opened.unwrap();
            println!("linger {linger_ms} ms");
            for at_once in [4, 32, 128] {
                measure(&log, &requests, at_once).await;
            }
            log.close().await.unwrap();
        }
    });
}
