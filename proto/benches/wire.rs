//! The wire walk and the regrouping, one core.
//!
//! `cargo bench -p proto --bench wire`. 512 spans of 10 attributes, 8 spans a trace.
#![allow(missing_docs, clippy::allow_attributes, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use proto::wire::{SpanHeader, fields};
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};

const SPANS: u64 = 512;

fn span(seed: u64) -> Vec<u8> {
    let mixed = |seed: u64| seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let attributes = (0..10)
        .map(|place| {
            let text = any_value::Value::StringValue(format!("value {place} of span {seed}"));
            let value = Some(AnyValue { value: Some(text) });
            KeyValue { key: format!("attribute.{place}"), value, ..KeyValue::default() }
        })
        .collect();
    Span {
        trace_id: [mixed(seed / 8), mixed(seed / 8 + 1_000_003)].concat(),
        span_id: mixed(seed + 77).to_vec(),
        name: format!("operation {}", seed % 40),
        start_time_unix_nano: 1_790_000_000_000_000_000,
        end_time_unix_nano: 1_790_000_000_000_001_000,
        attributes,
        ..Span::default()
    }
    .encode_to_vec()
}

fn source() -> BatchSource {
    BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c1".into(),
        receive_time: UnixNanos(5),
        digest: 77,
    }
}

fn built(spans: &[(TraceId, Vec<u8>)]) -> SpanBatch {
    let mut builder = SpanBatchBuilder::with_capacity(spans.len());
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (trace_id, span) in spans {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, span);
    }
    builder.finish(source()).unwrap()
}

fn wire(criterion: &mut Criterion) {
    let spans: Vec<_> = (0..SPANS)
        .map(|seed| {
            let bytes = span(seed);
            let trace_id = SpanHeader::read(&bytes).unwrap().trace_id;
            (TraceId::try_from(trace_id).unwrap(), bytes)
        })
        .collect();
    let encoded = built(&spans).encoded().clone();
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Elements(SPANS));
    group.bench_function("fields", |bencher| {
        bencher.iter(|| {
            let walked = spans.iter().map(|(_, span)| fields(black_box(span)).count());
            walked.sum::<usize>()
        });
    });
    group.bench_function("header", |bencher| {
        bencher.iter(|| {
            for (_, span) in &spans {
                let _header = black_box(SpanHeader::read(black_box(span)).unwrap());
            }
        });
    });
    group.bench_function("regroup", |bencher| bencher.iter(|| built(black_box(&spans))));
    group.bench_function("decode a batch", |bencher| {
        let clone = || encoded.clone();
        bencher.iter_batched(
            clone,
            |bytes| SpanBatch::decode(bytes).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
