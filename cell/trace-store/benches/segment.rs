//! What storing, reading and searching spans costs. Prints CPU a span and bytes a span of a large
//! store first, then criterion's figures.
//!
//! `cargo bench -p trace-store --bench segment`; the number of spans stored for reads and searches
//! is the environment's to say (`STORE_SPANS`; 3,000,000 where it says nothing).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use service_kit::ManualClock;
use tokio::runtime::Runtime;
use trace_model::query::{CompareOp, Field, Literal, Place};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange, UnixNanos};
use trace_store::{EmbeddedStore, EmbeddedStoreConfig, SpanWriter, TraceReader, TraceSearch};

mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use measure::cpu_nanos;
use workload::{BEGIN, REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn resident_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap_or(0) / 1024
}

struct Filled {
    store: Arc<EmbeddedStore>,
    workload: Workload,
    _directory: tempfile::TempDir,
}

/// Fills a store and prints what it cost.
fn fill(runtime: &Runtime, spans: usize) -> Filled {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(ManualClock::at(BEGIN));
    let config = EmbeddedStoreConfig::at(directory.path());
    let store = EmbeddedStore::open(config, clock).expect("a store");
    // 3 million spans within 15 minutes.
    let mut workload = Workload::new(1, 3_333);
    let (mut cpu, mut raw_bytes, mut stored) = (0, 0, 0);
    while stored < spans {
        let requests: Vec<_> = (0..32).map(|_| workload.request()).collect();
        raw_bytes += requests.iter().map(|request| request.batch.encoded().len()).sum::<usize>();
        stored += requests.len() * REQUEST_SPANS;
        let before = cpu_nanos();
        runtime.block_on(store.write(&requests)).expect("written");
        cpu += cpu_nanos() - before;
    }
    let before = cpu_nanos();
    runtime.block_on(SpanWriter::flush(&*store, BEGIN, true)).expect("sealed");
    cpu += cpu_nanos() - before;
    let figures = store.figures();
    println!(
        "stored {} spans in {} segments: {:.2} us CPU a span (write, seal, index), {:.1} B a span \
         on disk, {:.0} B a span as sent; {} MiB anonymous memory",
        figures.spans,
        figures.segments,
        cpu as f64 / stored as f64 / 1e3,
        figures.bytes as f64 / figures.spans as f64,
        raw_bytes as f64 / stored as f64,
        resident_mebibytes(),
    );
    Filled { store, workload, _directory: directory }
}

fn query(filter: Filter, filled: &Filled) -> SearchQuery {
    let range =
        TimeRange { start: BEGIN.minus(60_000_000_000), end: UnixNanos(filled.workload.now) };
    SearchQuery { tenant: TenantId::default(), filter, range, limit: 20, before: None }
}

fn equals(field: Field, value: &str) -> Filter {
    Filter::Compare { field, op: CompareOp::Eq, literal: Literal::Text(value.to_owned()) }
}

fn tag(key: &str, value: &str) -> Filter {
    equals(Field::Attribute { place: Place::Any, key: key.to_owned() }, value)
}

fn searches() -> Vec<(&'static str, Filter)> {
    let service = || equals(Field::Service, "payment");
    vec![
        ("service", service()),
        ("service_error", Filter::And(vec![service(), equals(Field::Status, "error")])),
        ("rare_value", tag("user.id", "user-123456")),
        ("rare_value_of_service", Filter::And(vec![service(), tag("user.id", "user-000777")])),
        ("absent_value", tag("user.id", "user-none")),
        ("common_value", tag("customer.tier", "team")),
    ]
}

/// Prints the CPU time of so many calls: on a busy machine the only figure that can be compared.
fn print_cpu(what: &str, calls: usize, mut call: impl FnMut(usize)) {
    (0..calls / 10).for_each(&mut call);
    let before = cpu_nanos();
    (0..calls).for_each(&mut call);
    let micros = (cpu_nanos() - before) as f64 / calls as f64 / 1e3;
    println!("{what}: {micros:.1} us CPU");
}

fn store_benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let spans = std::env::var("STORE_SPANS").ok().and_then(|text| text.parse().ok());
    let filled = fill(&runtime, spans.unwrap_or(3_000_000));
    let tenant = TenantId::default();
    let ids = filled.workload.sample.clone();
    let read = |id| black_box(runtime.block_on(filled.store.read_trace(&tenant, id)));
    print_cpu("trace by id", 5_000, |call| {
        drop(read(ids[call * 7_919 % ids.len()]));
    });
    print_cpu("absent trace by id", 5_000, |call| {
        let id = (call as u128 + 1).to_be_bytes();
        drop(read(trace_model::TraceId::from_bytes(id).expect("an id")));
    });
    for (name, filter) in searches() {
        let query = query(filter, &filled);
        print_cpu(name, 50, |_| {
            drop(black_box(runtime.block_on(filled.store.search(&query))));
        });
    }
    let mut next = 0;
    criterion.bench_function("trace_by_id", |bencher| {
        bencher.iter(|| {
            next = (next + 7_919) % ids.len();
            let read = runtime.block_on(filled.store.read_trace(&tenant, ids[next]));
            black_box(read.expect("read"))
        });
    });
    criterion.bench_function("absent_trace_by_id", |bencher| {
        let absent = trace_model::TraceId::from_bytes([7; 16]).expect("an id");
        bencher.iter(|| black_box(runtime.block_on(filled.store.read_trace(&tenant, absent))));
    });
    for (name, filter) in searches() {
        let query = query(filter, &filled);
        let begin = Instant::now();
        let answer = runtime.block_on(filled.store.search(&query)).expect("searched");
        println!(
            "{name}: first {:?}, {} traces, {:?}",
            begin.elapsed(),
            answer.matches.len(),
            answer.stats
        );
        criterion.bench_function(&format!("search_{name}"), |bencher| {
            bencher.iter(|| black_box(runtime.block_on(filled.store.search(&query))));
        });
    }
}

fn write_benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let requests: Vec<_> = {
        let mut workload = Workload::new(2, 100_000);
        (0..64).map(|_| workload.request()).collect()
    };
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Elements((requests.len() * REQUEST_SPANS) as u64));
    group.sample_size(10);
    group.bench_function("32768_spans", |bencher| {
        let fresh = || {
            let directory = tempfile::tempdir().expect("a directory");
            let clock = Arc::new(ManualClock::at(BEGIN));
            let config = EmbeddedStoreConfig::at(directory.path());
            (EmbeddedStore::open(config, clock).expect("a store"), directory)
        };
        let run = |(store, directory): (Arc<EmbeddedStore>, tempfile::TempDir)| {
            runtime.block_on(store.write(&requests)).expect("written");
            runtime.block_on(SpanWriter::flush(&*store, BEGIN, true)).expect("sealed");
            directory
        };
        bencher.iter_batched(fresh, run, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, store_benches, write_benches);
criterion_main!(benches);
