//! What the store costs over Cassandra, against a bare loop over the same driver in the same run:
//! rows of the same bytes written by batches of one partition, and traces of 20 spans read by page.
//! Rounds of both alternate, so that a busy machine hits both alike; medians are printed.
//!
//! `FARSPAN_TEST_CASSANDRA=127.0.0.1:19042 cargo bench -p trace-store --bench cassandra`; the number
//! of spans a round is the environment's to say (`STORE_SPANS`; 40,000 where it says nothing).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::sync::Arc;
use std::time::Instant;

use scylla::client::session_builder::SessionBuilder;
use trace_model::{TenantId, TraceId};
use trace_store::{CassandraConfig, CassandraStore, SpanWriter, TraceReader};

#[path = "bare/cassandra.rs"]
mod bare;
mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use bare::{Bare, IN_FLIGHT};
use measure::{BenchClock, median, print_medians, timed};
use workload::{BEGIN, REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each kind.
const ROUNDS: usize = 7;
/// Requests of a call, about 4 MiB: what a consumer reads at once.
const CALL_REQUESTS: usize = 16;
/// Spans of the traces that are read.
const TRACE_SPANS: u32 = 20;
const KEYSPACE: &str = "farspan_bench";

async fn write_rounds(store: &CassandraStore, bare: &Bare, spans: usize) -> Vec<TraceId> {
    let mut workload = Workload::new(7, 1_000_000);
    let (mut ours, mut bares, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let requests: Vec<_> =
            (0..spans.div_ceil(REQUEST_SPANS)).map(|_| workload.request()).collect();
        let spans = requests.len() * REQUEST_SPANS;
        for logged in &requests {
            let traces = logged.batch.traces().iter();
            let fitting = traces.filter(|slice| slice.span_count == TRACE_SPANS);
            ids.extend(fitting.map(|slice| slice.trace_id));
        }
        let written = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                store.write(call).await.expect("written");
                SpanWriter::flush(store, BEGIN, false).await.expect("flushed");
            }
        });
        let own = written.await;
        let other = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                bare.write(call).await;
            }
        });
        let other = other.await;
        println!(
            "round {round}: ours {:.0} spans/s, bare {:.0} spans/s",
            own.per_second, other.per_second
        );
        // The first one warms both up.
        if round > 0 {
            ours.push(own);
            bares.push(other);
        }
    }
    print_medians("span", &ours, &bares);
    ids
}

async fn read_rounds(store: &CassandraStore, bare: &Bare, ids: &[TraceId]) {
    let tenant = TenantId::default();
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for (at, id) in ids.iter().cycle().take(4_000).enumerate() {
        let begun = Instant::now();
        let read = store.read_trace(&tenant, *id).await.expect("read");
        let own = begun.elapsed();
        assert_eq!(read.spans.len(), TRACE_SPANS as usize, "a whole trace");
        let begun = Instant::now();
        let count = bare.read(*id).await;
        let other = begun.elapsed();
        assert_eq!(count, TRACE_SPANS as usize, "a whole trace");
        if at >= 500 {
            ours.push(own.as_secs_f64() * 1_000.0);
            bares.push(other.as_secs_f64() * 1_000.0);
        }
    }
    let (own, other) = (median(&mut ours), median(&mut bares));
    println!(
        "by id, {TRACE_SPANS} spans, {} traces: P50 {own:.2} ms, bare {other:.2} ms: {:.2} x; P95 \
         {:.2} ms, bare {:.2} ms",
        ids.len(),
        own / other,
        ours[ours.len() * 95 / 100],
        bares[bares.len() * 95 / 100],
    );
}

async fn run() {
    let setting = |name: &str| std::env::var(name).ok();
    let address = setting("FARSPAN_TEST_CASSANDRA").unwrap_or("127.0.0.1:19042".to_owned());
    let spans = setting("STORE_SPANS").and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let config = CassandraConfig {
        replication: [("dc1".to_owned(), 1)].into(),
        concurrency: IN_FLIGHT,
        ..CassandraConfig::at([address.clone()], KEYSPACE, "dc1")
    };
    let session = SessionBuilder::new().known_node(&address).build().await.expect("a session");
    let drop_keyspace = format!("DROP KEYSPACE IF EXISTS {KEYSPACE}");
    session.query_unpaged(drop_keyspace.clone(), ()).await.expect("dropped");
    CassandraStore::init(&config).await.expect("a schema");
    let clock = Arc::new(BenchClock(Instant::now()));
    let store = CassandraStore::connect(config, clock).await.expect("a store");
    let bare = Bare::open(&address, KEYSPACE).await;
    let ids = write_rounds(&store, &bare, spans).await;
    read_rounds(&store, &bare, &ids).await;
    session.query_unpaged(drop_keyspace, ()).await.expect("dropped");
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}
