//! The stages of receiving, one core: validate (wire walk and deep check), enrich, sample, batch
//! (regroup by trace), and JSON transcoding is left to the request benches.
//!
//! `cargo bench -p collector --bench stages`. One request: 512 spans in 6 resources, 8 spans a
//! trace, 10 attributes and about 500 bytes a span.
#![allow(missing_docs, clippy::allow_attributes, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use collector::batch::batch;
use collector::config::SpanLimits;
use collector::enrich::enrich;
use collector::sample::sample;
use collector::validate::{count_spans, validate};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use proto::BatchSource;
use sampling::{HeadRules, RateSampler};
use trace_model::{Region, TenantId, UnixNanos};

const SPANS: u64 = 512;
const NOW: u64 = 1_790_000_000_000_000_000;

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value))
}

fn attributes(seed: u64) -> Vec<KeyValue> {
    vec![
        text("http.request.method", "POST".into()),
        text("url.path", format!("/api/v2/orders/{seed}/items")),
        attribute("http.response.status_code", any_value::Value::IntValue(200)),
        text("server.address", "orders.shop.internal".into()),
        attribute("server.port", any_value::Value::IntValue(8_443)),
        text("db.query.text", "select id, sku from items where order_id = $1".into()),
        text("customer.id", format!("customer-{:08}", seed * 7_919 % 100_000)),
        text("k8s.pod.name", format!("orders-7c9f6d5b4-{:05}", seed % 64)),
        attribute("retry", any_value::Value::BoolValue(false)),
        text("thread.name", format!("worker-{}", seed % 16)),
    ]
}

fn span(seed: u64) -> Span {
    let mixed = |seed: u64| seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let trace = seed / 8;
    Span {
        trace_id: [mixed(trace), mixed(trace + 1_000_003)].concat(),
        span_id: mixed(seed + 77).to_vec(),
        parent_span_id: if seed.is_multiple_of(8) { vec![] } else { mixed(seed + 76).to_vec() },
        name: format!("POST /api/v2/orders/{}", seed % 40),
        kind: 2,
        start_time_unix_nano: NOW - seed * 1_000,
        end_time_unix_nano: NOW,
        attributes: attributes(seed),
        status: Some(Status { code: 1, message: String::new() }),
        flags: 0x101,
        ..Span::default()
    }
}

fn request() -> Vec<u8> {
    let resource_spans = (0..6)
        .map(|place| {
            let spans = (0..SPANS).filter(|seed| seed % 6 == place).map(span).collect();
            let scope = InstrumentationScope { name: "shop.http".into(), ..Default::default() };
            let names = ["service.name", "service.version", "host.name", "deployment.environment"];
            let attributes = names.map(|name| text(name, format!("{name}-{place}"))).to_vec();
            ResourceSpans {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }],
                ..ResourceSpans::default()
            }
        })
        .collect();
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn source() -> BatchSource {
    BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c1".into(),
        receive_time: UnixNanos(NOW),
        digest: 1,
    }
}

fn stages(criterion: &mut Criterion) {
    let (body, limits) = (request(), SpanLimits::default());
    let sampler = RateSampler::new(HeadRules { rate: 0.5, honour_flags: true }).unwrap();
    let keep_all = RateSampler::new(HeadRules::default()).unwrap();
    let validated = || validate(&body, &limits).unwrap();
    let enriched = || enrich(validated(), source());
    let mut group =
        criterion.benchmark_group(format!("stages/{} B a span", body.len() as u64 / SPANS));
    group.throughput(Throughput::Elements(SPANS));
    group.bench_function("count", |bencher| {
        bencher.iter(|| count_spans(black_box(&body), &limits).unwrap());
    });
    group
        .bench_function("validate", |bencher| bencher.iter(|| validate(black_box(&body), &limits)));
    group.bench_function("enrich", |bencher| {
        bencher.iter_batched(validated, |spans| enrich(spans, source()), BatchSize::SmallInput);
    });
    group.bench_function("sample", |bencher| {
        bencher.iter_batched(enriched, |spans| sample(spans, &sampler), BatchSize::SmallInput);
    });
    group.bench_function("batch", |bencher| {
        let sampled = || sample(enriched(), &keep_all);
        bencher.iter_batched(sampled, |spans| batch(spans).unwrap(), BatchSize::SmallInput);
    });
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            batch(sample(enrich(validate(black_box(&body), &limits).unwrap(), source()), &keep_all))
        });
    });
    group.bench_function("digest", |bencher| {
        bencher.iter(|| xxhash_rust::xxh3::xxh3_64(black_box(&body)));
    });
    group.bench_function("prost decode, for comparison", |bencher| {
        bencher.iter(|| ExportTraceServiceRequest::decode(black_box(body.as_slice())).unwrap());
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
