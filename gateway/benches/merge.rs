//! Merge and assembly of a large trace: 10,008 spans over three regions, a third of them sent twice.
//! Run: `cargo bench -p gateway --bench merge`
#![expect(clippy::unwrap_used, reason = "a bench stops where its own data is wrong")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gateway::{Held, TraceAnswer};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use trace_model::merge::{Envelope, content_hash};
use trace_model::{
    Certificate, Region, ScopeContext, SpanId, SpanKey, StoredSpan, TraceId, TraceSpans, UnixNanos,
};

const SPANS: u64 = 10_008;
const TRACE: [u8; 16] = [5; 16];

fn stored(number: u64, envelope: &Arc<Envelope>, context: &Arc<ScopeContext>) -> StoredSpan {
    let span_id = (number + 1).to_be_bytes();
    let parent = if number == 0 { Vec::new() } else { number.div_ceil(4).to_be_bytes().to_vec() };
    let span = Span {
        trace_id: TRACE.to_vec(),
        span_id: span_id.to_vec(),
        parent_span_id: parent,
        name: format!("operation {}", number % 50),
        kind: 2,
        start_time_unix_nano: 1_790_000_000_000_000_000 + number,
        end_time_unix_nano: 1_790_000_000_000_900_000 + number,
        ..Span::default()
    };
    let span = Bytes::from(span.encode_to_vec());
    StoredSpan {
        key: SpanKey {
            span_id: SpanId::from_bytes(span_id).unwrap(),
            kind: 2,
            content: content_hash(b"", b"", &span),
        },
        span,
        context: Arc::clone(context),
        envelope: Arc::clone(envelope),
    }
}

fn regions() -> Vec<TraceSpans> {
    let trace_id = TraceId::from_bytes(TRACE).unwrap();
    let context = Arc::new(ScopeContext {
        resource: Bytes::new(),
        scope: Bytes::new(),
        service: "web".into(),
    });
    let mut held = Vec::new();
    for (place, name) in (0_u64..).zip(["eu", "us", "ap"]) {
        let envelope = Arc::new(Envelope {
            receive_time: UnixNanos(place),
            region: Region::new(name).unwrap(),
            collector: "c".into(),
        });
        let mut spans = TraceSpans::new(trace_id);
        for number in (0..SPANS).filter(|number| number % 3 == place || number % 9 == 0) {
            spans.insert(stored(number, &envelope, &context));
        }
        held.push(spans);
    }
    held
}

fn merge_all(regions: Vec<TraceSpans>) -> TraceSpans {
    let mut all = TraceSpans::new(TraceId::from_bytes(TRACE).unwrap());
    for region in regions {
        all.merge(region);
    }
    all
}

fn merge_and_assemble(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trace_of_10008_spans");
    group.throughput(Throughput::Elements(SPANS));
    let held = regions();
    group.bench_function("merge", |bencher| {
        bencher.iter_batched(
            || held.clone(),
            |held| black_box(merge_all(held)),
            BatchSize::LargeInput,
        );
    });
    let answer = TraceAnswer {
        spans: merge_all(held),
        certificate: Certificate::default(),
        held: Held::default(),
    };
    group.bench_function("decode_and_assemble", |bencher| {
        bencher.iter(|| black_box(answer.assemble()));
    });
    group.finish();
}

criterion_group!(benches, merge_and_assemble);
criterion_main!(benches);
