//! What the metadata-publisher costs a contribution: requests of 512 spans, 8 spans a trace, each
//! trace whole in one request and published once, into an origin log in memory.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench says what went wrong by failing"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ingester::GroupHandler;
use ingester::metadata_publisher::{
    FixedPolicy, MetadataPublisher, PublisherConfig, PublisherMetrics, SpanLogState,
};
use metadata_replicator::{Entropy, MemoryOriginLog, MemoryRecords};
use proto::wire::{put_bytes_field, put_varint};
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use service_kit::ManualClock;
use span_log::LogIdentity;
use trace_model::locality::IndexMode;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Clock, LogRange, Region, TenantId, TraceId, UnixNanos};

const START: u64 = 1_800_000_000_000_000_000;
const SERVICES: [&str; 6] = ["web", "cart", "payment", "inventory", "fraud", "mail"];
const BATCHES: u64 = 500;
const TRACES_PER_BATCH: u64 = 64;

fn resource(service: &str) -> Vec<u8> {
    let (mut value, mut pair, mut resource, mut frame) = (vec![], vec![], vec![], vec![]);
    put_bytes_field(&mut value, 1, service.as_bytes());
    put_bytes_field(&mut pair, 1, b"service.name");
    put_bytes_field(&mut pair, 2, &value);
    put_bytes_field(&mut resource, 1, &pair);
    put_bytes_field(&mut frame, 1, &resource);
    frame
}

fn span(trace_id: TraceId, id: u64, parent: u64, start: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    put_bytes_field(&mut bytes, 1, trace_id.as_bytes());
    put_bytes_field(&mut bytes, 2, &id.to_be_bytes());
    if parent > 0 {
        put_bytes_field(&mut bytes, 4, &parent.to_be_bytes());
    }
    put_bytes_field(&mut bytes, 5, format!("GET /resource/{}", id % 20).as_bytes());
    for (number, time) in [(7_u64, start), (8, start + 1_000_000 + id * 7_919 % 90_000_000)] {
        put_varint(&mut bytes, number << 3 | 1);
        bytes.extend_from_slice(&time.to_le_bytes());
    }
    put_bytes_field(&mut bytes, 9, &[b'x'; 400]);
    bytes
}

fn batch(place: u64) -> LoggedBatch {
    let mut builder = SpanBatchBuilder::new();
    let scopes = SERVICES.map(|service| {
        let resource = builder.add_resource(resource(service));
        builder.add_scope(resource, Vec::new())
    });
    let start = START + place * 5_000_000;
    let mut spans = Vec::new();
    for trace in 0..TRACES_PER_BATCH {
        let trace = place * TRACES_PER_BATCH + trace + 1;
        let trace_id = TraceId::from_bytes(u128::from(trace).to_be_bytes()).unwrap();
        for number in 0..8 {
            let id = trace * 10 + number + 1;
            let parent = if number == 0 { 0 } else { id - 1 };
            let service = usize::try_from(number % 6).unwrap();
            spans.push((trace_id, service, span(trace_id, id, parent, start)));
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
    let first = place * TRACES_PER_BATCH;
    let range = LogRange { partition: 0, first, next: first + TRACES_PER_BATCH };
    LoggedBatch { incarnation: 1, range, append_time: UnixNanos(start), batch }
}

fn open(clock: &Arc<ManualClock>) -> MetadataPublisher {
    let region = Region::new("eu-west-1").unwrap();
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let records = Arc::new(MemoryRecords::new(region.clone()));
    let log = MemoryOriginLog::open(records, Arc::clone(&clock), Entropy::seeded(1));
    let source = SpanLogState {
        identity: LogIdentity { incarnation: 1, partitions: 1 },
        ends: BTreeMap::from([(0, BATCHES * TRACES_PER_BATCH)]),
        committed: BTreeMap::new(),
        end_time: UnixNanos(START),
    };
    let publisher = MetadataPublisher::new(
        PublisherConfig::new(region),
        &source,
        Arc::new(log),
        Arc::new(FixedPolicy(IndexMode::Full)),
        clock,
        PublisherMetrics::default(),
    );
    publisher.expect("an empty log is not behind")
}

fn publish(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches: Vec<_> = (0..BATCHES).map(batch).collect();
    let clock = Arc::new(ManualClock::at(UnixNanos(START)));
    let mut group = criterion.benchmark_group("metadata_publisher");
    group.sample_size(10);
    group.throughput(Throughput::Elements(BATCHES * TRACES_PER_BATCH));
    group.bench_function("contribution", |bencher| {
        bencher.iter_batched(
            || open(&clock),
            |mut publisher| {
                for batch in &batches {
                    let handled = publisher.handle(std::slice::from_ref(batch));
                    runtime.block_on(handled).expect("folding does not fail");
                    clock.advance(Duration::from_millis(100));
                    let ticked = publisher.tick(batch.append_time, None, false);
                    runtime.block_on(ticked).expect("memory is there");
                }
                publisher
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
