//! What the index costs: CPU for each contribution that it takes in, and pages of summaries over a
//! million traces, with the rows that each looks at.
#![expect(clippy::unwrap_used, reason = "a bench says what went wrong by failing")]

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use metadata_replicator::index::hot::HotIndex;
use prost::Message as _;
use proto::convert::index::{ServiceDictionary, contribution_from_wire, contribution_to_wire};
use proto::v1;
use trace_model::location::{Detail, Keep, RootSpan, ServiceCount, SummaryQuery};
use trace_model::{
    Contribution, Region, SpanId, TenantId, TimeRange, TraceId, UnixNanos, WriterId,
};

const NOW: u64 = 1_800_000_000_000_000_000;
const MILLI: u64 = 1_000_000;
const TRACES: u64 = 1_000_000;
const SERVICES: [&str; 6] = ["web", "cart", "payment", "inventory", "fraud", "mail"];

fn region(number: u64) -> Region {
    Region::new(if number.is_multiple_of(2) { "eu-west-1" } else { "us-east-1" }).unwrap()
}

/// A contribution of three services, an error in one of a hundred, a long one in one of a thousand;
/// a million of them lie in half an hour.
fn contribution(number: u64, origin: u64, version: u64) -> Contribution {
    let id = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(number + 1);
    let start = UnixNanos(NOW + number * 1_800 * 1_000);
    let length = if number % 1_000 == 7 { 7_000 } else { 20 + number % 300 } * MILLI;
    let is_error = number % 100 == 3;
    let service = |place: u64| {
        let name = SERVICES.iter().cycle().nth(usize::try_from((number + place) % 6).unwrap());
        Arc::<str>::from(*name.unwrap())
    };
    let mut services: Vec<_> =
        (0..3).map(|place| ServiceCount { service: service(place), spans: 3, errors: 0 }).collect();
    services.sort_unstable();
    Contribution {
        version,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes(id.to_be_bytes()).unwrap(),
        writer: WriterId { region: region(origin), incarnation: 1, partition: 0 },
        last_append: start.plus(length),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail {
            min_start: start,
            max_end: start.plus(length),
            span_count: 9,
            error_count: u32::from(is_error),
            is_lower_bound: false,
            services,
            root: Some(RootSpan {
                service: service(0),
                operation: format!("GET /resource/{}", number % 50).as_str().into(),
                start,
                span_id: SpanId::from_bytes((number + 1).to_be_bytes()).unwrap(),
                duration_nanos: length,
                is_error,
            }),
            entries: Vec::new(),
        }),
    }
}

/// A million traces, a quarter of them in two regions.
fn full() -> HotIndex {
    let mut index = HotIndex::new(5_000_000);
    for number in 0..TRACES {
        index.join(&contribution(number, 0, number + 1));
        if number % 4 == 0 {
            index.join(&contribution(number, 1, number + 1));
        }
    }
    index
}

fn take_in(criterion: &mut Criterion) {
    let count = 100_000;
    let rows: Vec<_> = (0..count).map(|number| contribution(number, 0, 1)).collect();
    let later: Vec<_> = (0..count).map(|number| contribution(number, 0, 2)).collect();
    let mut services = ServiceDictionary::default();
    let wire: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| contribution_to_wire(row, &mut |name| services.intern(name).0).encode_to_vec())
        .collect();
    let mut group = criterion.benchmark_group("contribution");
    group.sample_size(10);
    group.throughput(Throughput::Elements(count));
    let joined = || {
        let mut index = HotIndex::new(5_000_000);
        rows.iter().for_each(|row| assert!(index.join(row)));
        index
    };
    group.bench_function("join_new", |bencher| bencher.iter(joined));
    group.bench_function("join_growth", |bencher| {
        bencher.iter_batched(
            joined,
            |mut index| {
                later.iter().for_each(|row| assert!(index.join(row)));
                index
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("decode_and_join_new", |bencher| {
        let origin = region(0);
        bencher.iter(|| {
            let mut index = HotIndex::new(5_000_000);
            for bytes in &wire {
                let row = v1::Contribution::decode(bytes.as_slice()).unwrap();
                index.join(&contribution_from_wire(row, &origin, &services).unwrap());
            }
            index
        });
    });
    group.finish();
}

fn summaries(criterion: &mut Criterion) {
    let index = full();
    let megabytes = index.bytes() >> 20;
    eprintln(&format!("{TRACES} traces in {} rows take {megabytes} MiB", index.rows()));
    let all = SummaryQuery::newest(TenantId::default(), TimeRange::ALL, 20);
    let web = || Some(Arc::<str>::from("web"));
    let questions = [
        ("newest", all.clone()),
        ("service", SummaryQuery { service: web(), ..all.clone() }),
        (
            "operation",
            SummaryQuery { root_operation: Some("GET /resource/7".into()), ..all.clone() },
        ),
        ("errors", SummaryQuery { only_errors: true, ..all.clone() }),
        ("long", SummaryQuery { duration_nanos_min: 5_000 * MILLI, ..all.clone() }),
        ("errors_of_a_service", SummaryQuery { service: web(), only_errors: true, ..all.clone() }),
        (
            "nothing_in_the_largest_order",
            SummaryQuery {
                duration_nanos_min: 320 * MILLI,
                duration_nanos_max: Some(500 * MILLI),
                ..all
            },
        ),
    ];
    let mut group = criterion.benchmark_group("summaries_of_1M");
    group.sample_size(10);
    for (name, query) in questions {
        let found = index.summaries(&query);
        let (traces, rows) = (found.entries.len(), found.rows_scanned);
        eprintln(&format!("{name}: {traces} traces, {rows} rows looked at"));
        group.bench_function(name, |bencher| bencher.iter(|| index.summaries(&query)));
    }
    group.finish();
}

#[expect(clippy::print_stderr, reason = "criterion's own report goes there as well")]
fn eprintln(line: &str) {
    eprintln!("{line}");
}

criterion_group!(benches, take_in, summaries);
criterion_main!(benches);
