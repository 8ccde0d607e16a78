//! What the search store costs over Elasticsearch, against bare `_bulk` requests of the same documents
//! in the same run. The bare side sends bodies that were made before the clock runs, over the same
//! client, as many at once: it encodes nothing and looks at no item. Rounds of both alternate, so that
//! a busy machine hits both alike; medians are printed.
//!
//! `tests/engines/elasticsearch.sh start`, then
//! `FARSPAN_TEST_ELASTICSEARCH=http://127.0.0.1:9200 cargo bench -p trace-store --bench elasticsearch`;
//! the number of spans a round is the environment's to say (`STORE_SPANS`; 40,000 where it says nothing).
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

use proto::LoggedBatch;
use trace_store::{ElasticsearchConfig, ElasticsearchStore, SearchIndexer};

#[path = "bare/elasticsearch.rs"]
mod bare;
mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use bare::Bare;
use measure::{BenchClock, Timed, print_medians, timed};
use workload::{REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each kind.
const ROUNDS: usize = 5;
/// Requests of a call, about 4 MiB: what a consumer reads at once.
const CALL_REQUESTS: usize = 16;

/// A round of ours into an empty prefix, then the same documents by the bare side into another.
async fn round(
    address: &str,
    bare: &Bare,
    requests: &[LoggedBatch],
    number: usize,
) -> (Timed, Timed) {
    let prefix = format!("farspan-bench-ours-{number}");
    let other = format!("farspan-bench-bare-{number}");
    for prefix in [&prefix, &other] {
        bare.remove(prefix).await;
        let config = ElasticsearchConfig::at(address, prefix.clone());
        ElasticsearchStore::init(&config).await.expect("templates");
    }
    let config = ElasticsearchConfig::at(address, prefix.clone());
    let bytes_max = config.bulk_bytes_max;
    let clock = Arc::new(BenchClock(Instant::now()));
    let store = ElasticsearchStore::connect(config, clock).await.expect("a store");
    let ours = timed(requests.len() * REQUEST_SPANS, async {
        for call in requests.chunks(CALL_REQUESTS) {
            store.index(call).await.expect("written");
        }
    });
    let ours = ours.await;
    let (bodies, documents) = bare.bodies((&prefix, &other), bytes_max).await;
    assert_eq!(documents, requests.len() * REQUEST_SPANS, "each span is a document");
    // Both begin without a day's index: the time to make it is theirs.
    let bares = timed(documents, bare.write(bodies)).await;
    for prefix in [&prefix, &other] {
        bare.remove(prefix).await;
    }
    (ours, bares)
}

async fn run() {
    let setting = |name: &str| std::env::var(name).ok();
    let address =
        setting("FARSPAN_TEST_ELASTICSEARCH").unwrap_or("http://127.0.0.1:9200".to_owned());
    let spans: usize = setting("STORE_SPANS").and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let in_flight = ElasticsearchConfig::at(&*address, "x").bulk_in_flight_max;
    let bare = Bare::new(&address, in_flight);
    let mut workload = Workload::new(7, 1_000_000);
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for number in 0..=ROUNDS {
        let requests: Vec<_> =
            (0..spans.div_ceil(REQUEST_SPANS)).map(|_| workload.request()).collect();
        let (own, other) = round(&address, &bare, &requests, number).await;
        println!(
            "round {number}: ours {:.0} documents/s, bare {:.0} documents/s",
            own.per_second, other.per_second
        );
        // The first one warms both up.
        if number > 0 {
            ours.push(own);
            bares.push(other);
        }
    }
    print_medians("document", &ours, &bares);
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}
