//! What a span costs on its way from the log into a store: the real consumer group (Kafka's client,
//! runner, handler, adapter, commits) against a bare loop of the engine's client over the same bytes,
//! in turns, so that a busy machine hits both alike. The bare side reads no log: its spans are in
//! memory before the clock runs. Prints medians, and the CPU time of this process for a span.
//!
//! ```text
//! eval $(tests/engines/all.sh env); cargo bench --workspace --bench groups -- [cassandra|elasticsearch|clickhouse]…
//! ```
//!
//! Without a name: every engine whose address the environment tells. It may also say how many spans a
//! round takes (`STORE_SPANS`, 80,000) and how many partitions the topic has (`LOG_PARTITIONS`, 4).
//! Each round fills a topic of its own before its clock runs.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../../../trace-store/benches/bare/cassandra.rs"]
mod bare_cassandra;
#[path = "../../../trace-store/benches/bare/cassandra_rows.rs"]
mod bare_cassandra_rows;
#[path = "../../../trace-store/benches/bare/clickhouse.rs"]
mod bare_clickhouse;
#[path = "../../../trace-store/benches/bare/elasticsearch.rs"]
mod bare_elasticsearch;
mod cassandra;
mod clickhouse_spans;
mod elasticsearch_search;
#[path = "../../../trace-store/benches/measure/mod.rs"]
mod measure;
mod topic;
#[path = "../../../trace-store/tests/conformance/workload.rs"]
mod workload;

use std::sync::Arc;

use proto::LoggedBatch;
use service_kit::SystemClock;
use trace_model::Clock;

use measure::{Timed, print_medians};
use workload::{REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each kind, beside a first one that warms both up.
const ROUNDS: usize = 5;
const HOUR: u64 = 3_600_000_000_000;

/// What the environment says.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number_of(name: &str, otherwise: usize) -> usize {
    setting(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Spans of one engine's rounds, and what the rounds gave.
pub(crate) struct Rounds {
    what: &'static str,
    workload: Workload,
    spans: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: topic::Place,
    ours: Vec<Timed>,
    bares: Vec<Timed>,
}

impl Rounds {
    fn new(what: &'static str, brokers: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mut workload = Workload::new(7, 50_000);
        // What is received now is kept for as long as the store's retention says.
        workload.now = clock.now().0 - HOUR;
        let log = topic::Place {
            brokers: brokers.to_owned(),
            partitions: u32::try_from(number_of("LOG_PARTITIONS", 4)).expect("a number"),
            clock: Arc::clone(&clock),
        };
        let spans = number_of("STORE_SPANS", 80_000);
        Self { what, workload, spans, clock, log, ours: Vec::new(), bares: Vec::new() }
    }

    /// The requests of the next round: no span of them was in one before.
    pub(crate) fn requests(&mut self) -> Vec<LoggedBatch> {
        (0..self.spans.div_ceil(REQUEST_SPANS)).map(|_| self.workload.request()).collect()
    }

    /// Notes rates and CPU times of a round. The first one warms both up.
    pub(crate) fn note(&mut self, round: usize, own: Timed, bare: Timed) {
        println!(
            "{} {round}: ours {:.0} spans/s ({:.1} us CPU a span), bare {:.0} ({:.1})",
            self.what, own.per_second, own.own_micros, bare.per_second, bare.own_micros
        );
        if round > 0 {
            self.ours.push(own);
            self.bares.push(bare);
        }
    }

    fn print(&self) {
        print!("through log and group into {}: ", self.what);
        print_medians("span", &self.ours, &self.bares);
    }
}

async fn run(brokers: &str, names: &[String]) {
    let address = |name: &str| {
        let is_meant = names.is_empty() || names.iter().any(|named| named == name);
        setting(&format!("FARSPAN_TEST_{}", name.to_uppercase())).filter(|_| is_meant)
    };
    if let Some(address) = address("cassandra") {
        let same = Rounds::new("Cassandra, the same rows", brokers);
        let plain = Rounds::new("Cassandra, one plain table", brokers);
        cassandra::run(&address, same, plain).await;
    }
    if let Some(address) = address("elasticsearch") {
        elasticsearch_search::run(&address, Rounds::new("Elasticsearch", brokers)).await;
    }
    if let Some(address) = address("clickhouse") {
        clickhouse_spans::run(&address, Rounds::new("ClickHouse", brokers)).await;
    }
}

fn main() {
    let Some(brokers) = setting("FARSPAN_TEST_KAFKA") else {
        println!("FARSPAN_TEST_KAFKA names no broker: nothing measured");
        return;
    };
    // Cargo adds an argument of its own.
    let names: Vec<String> =
        std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let load = std::fs::read_to_string("/proc/loadavg").expect("procfs");
    println!("load {}", load.trim());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(&brokers, &names));
}
