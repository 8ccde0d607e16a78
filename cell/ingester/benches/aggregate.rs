//! What the metrics-aggregator costs a span: requests of 512 spans, 8 spans a trace, 6 services,
//! 500 B a span; every trace in two requests, so that half of the edges wait for their parent.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench says what went wrong by failing"
)]

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ingester::{AggregatorConfig, AggregatorMetrics, GroupHandler, MetricsAggregator};
use proto::wire::{put_bytes_field, put_varint};
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, TenantId, TraceId, UnixNanos};
use trace_store::MemoryMetricsStore;

const START: u64 = 1_800_000_000_000_000_000;
const SERVICES: [&str; 6] = ["web", "cart", "payment", "inventory", "fraud", "mail"];
const SPANS_PER_BATCH: u64 = 512;

fn resource(service: &str) -> Vec<u8> {
    let (mut value, mut pair, mut resource, mut frame) = (vec![], vec![], vec![], vec![]);
    put_bytes_field(&mut value, 1, service.as_bytes());
    put_bytes_field(&mut pair, 1, b"service.name");
    put_bytes_field(&mut pair, 2, &value);
    put_bytes_field(&mut resource, 1, &pair);
    put_bytes_field(&mut frame, 1, &resource);
    frame
}

fn span(trace: u64, id: u64, parent: u64, start: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    put_bytes_field(&mut bytes, 1, &u128::from(trace).to_be_bytes());
    put_bytes_field(&mut bytes, 2, &id.to_be_bytes());
    if parent > 0 {
        put_bytes_field(&mut bytes, 4, &parent.to_be_bytes());
    }
    put_bytes_field(&mut bytes, 5, format!("GET /resource/{}", id % 20).as_bytes());
    put_varint(&mut bytes, 6 << 3);
    put_varint(&mut bytes, 1 + id % 3);
    for (number, time) in [(7_u64, start), (8, start + 1_000_000 + id * 7_919 % 90_000_000)] {
        put_varint(&mut bytes, number << 3 | 1);
        bytes.extend_from_slice(&time.to_le_bytes());
    }
    put_bytes_field(&mut bytes, 9, &[b'x'; 400]);
    bytes
}

/// Batch `place` of the log: the odd ones hold the second halves of the traces before them.
fn batch(place: u64) -> LoggedBatch {
    let mut builder = SpanBatchBuilder::new();
    let scopes = SERVICES.map(|service| {
        let resource = builder.add_resource(resource(service));
        builder.add_scope(resource, Vec::new())
    });
    let start = START + place * 5_000_000;
    let mut spans = Vec::new();
    for trace in 0..SPANS_PER_BATCH / 4 {
        let trace = (place / 2) * 1_000 + trace + 1;
        for half in 0..4 {
            let id = trace * 10 + (place % 2) * 4 + half + 1;
            let parent = if id % 10 == 1 { 0 } else { id - 1 };
            let trace_id = TraceId::from_bytes(u128::from(trace).to_be_bytes()).unwrap();
            spans.push((
                trace_id,
                usize::try_from(id % 6).unwrap(),
                span(trace, id, parent, start),
            ));
        }
    }
    for (trace_id, service, bytes) in &spans {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, *scopes.get(*service).unwrap(), bytes);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: UnixNanos(start),
        digest: place,
    };
    let batch = Arc::new(builder.finish(source).unwrap());
    let count = u64::try_from(batch.traces().len()).unwrap();
    let range = LogRange { partition: 0, first: place * count, next: (place + 1) * count };
    LoggedBatch { incarnation: 1, range, append_time: UnixNanos(start), batch }
}

fn aggregate(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches: Vec<_> = (0..1_000).map(batch).collect();
    let mut group = criterion.benchmark_group("metrics_aggregator");
    group.sample_size(10);
    group.throughput(Throughput::Elements(SPANS_PER_BATCH * 1_000));
    let open = || {
        let (config, metrics) = (AggregatorConfig::default(), AggregatorMetrics::default());
        let opened =
            MetricsAggregator::open(Arc::new(MemoryMetricsStore::new()), (1, 1), config, metrics);
        runtime.block_on(opened).expect("an empty store opens").0
    };
    group.bench_function("count", |bencher| {
        bencher.iter_batched(
            open,
            |mut aggregator| {
                for batch in &batches {
                    let handled = aggregator.handle(std::slice::from_ref(batch));
                    runtime.block_on(handled).expect("counting does not fail");
                }
                aggregator
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("count_and_flush_whole", |bencher| {
        bencher.iter_batched(
            open,
            |mut aggregator| {
                for batch in &batches {
                    let handled = aggregator.handle(std::slice::from_ref(batch));
                    runtime.block_on(handled).expect("counting does not fail");
                    let now = batch.append_time;
                    runtime.block_on(aggregator.tick(now, None, false)).expect("memory is there");
                }
                runtime.block_on(aggregator.tick(UnixNanos(START), None, true)).expect("as above");
                aggregator
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, aggregate);
criterion_main!(benches);
