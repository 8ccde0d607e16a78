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

use bytes::Bytes;
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::Transport;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::LoggedBatch;
use serde_json::{Value, json};
use trace_store::{ElasticsearchConfig, ElasticsearchStore, SearchIndexer};

mod measure;
#[path = "../tests/conformance/workload.rs"]
mod workload;

use measure::{BenchClock, print_medians, timed};
use workload::{REQUEST_SPANS, Workload};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each kind.
const ROUNDS: usize = 5;
/// Requests of a call, about 4 MiB: what a consumer reads at once.
const CALL_REQUESTS: usize = 16;
/// Documents of a page, when what was written is read back for the bare side.
const PAGE: usize = 5_000;

/// A program that knows nothing but the client.
#[derive(Debug)]
struct Bare {
    transport: Transport,
    in_flight: usize,
}

impl Bare {
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Bytes {
        let kind: Option<&[(&str, &str)]> = None;
        let mut headers = HeaderMap::new();
        let words =
            if path.contains("_bulk") { "application/x-ndjson" } else { "application/json" };
        headers.insert("content-type", words.parse().expect("a header"));
        let body = Some(body).filter(|body| !body.is_empty());
        let sent = self.transport.send(method, path, headers, kind, body, None).await;
        let answer = sent.expect("an answer");
        let status = answer.status_code();
        let body = answer.bytes().await.expect("a body");
        assert!(status.is_success() || status.as_u16() == 404, "{path}: {status} {body:?}");
        body
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method, path, Bytes::from(body)).await;
        serde_json::from_slice(&answer).expect("JSON")
    }

    /// Sends the bodies and looks at nothing but whether an item failed.
    async fn write(&self, bodies: Vec<Bytes>) {
        let mut running = FuturesUnordered::new();
        let is_good = |answer: Bytes| assert_eq!(&answer[..], br#"{"errors":false}"#, "all taken");
        for body in bodies {
            if running.len() >= self.in_flight {
                running.next().await.map(is_good);
            }
            running.push(self.send(Method::Post, "/_bulk?filter_path=errors", body));
        }
        while let Some(answer) = running.next().await {
            is_good(answer);
        }
    }

    /// The documents that were written since `after` under `prefix`, as bodies for another prefix.
    async fn bodies(&self, prefixes: (&str, &str), bytes_max: usize) -> (Vec<Bytes>, usize) {
        let indices = format!("/{}.*-jaeger-span-*", prefixes.0);
        self.ask(Method::Post, &format!("{indices}/_refresh"), &Value::Null).await;
        let (mut bodies, mut body, mut documents) = (Vec::new(), Vec::<u8>::new(), 0);
        let path = format!("{indices}/_search?scroll=5m");
        let question = json!({ "size": PAGE, "sort": ["_doc"] });
        let mut page = self.ask(Method::Post, &path, &question).await;
        loop {
            let hits = page["hits"]["hits"].as_array().expect("hits");
            if hits.is_empty() {
                break;
            }
            for hit in hits {
                let index = hit["_index"].as_str().expect("a name");
                let index = index.replacen(prefixes.0, prefixes.1, 1);
                let action = json!({ "create": { "_index": index, "_id": hit["_id"] } });
                body.extend(format!("{action}\n{}\n", hit["_source"]).into_bytes());
                documents += 1;
                if body.len() >= bytes_max {
                    bodies.push(Bytes::from(std::mem::take(&mut body)));
                }
            }
            let more = json!({ "scroll": "5m", "scroll_id": page["_scroll_id"] });
            page = self.ask(Method::Post, "/_search/scroll", &more).await;
        }
        let done = json!({ "scroll_id": page["_scroll_id"] });
        self.ask(Method::Delete, "/_search/scroll", &done).await;
        if !body.is_empty() {
            bodies.push(Bytes::from(body));
        }
        (bodies, documents)
    }

    async fn remove(&self, prefix: &str) {
        let path = format!("/{prefix}*?expand_wildcards=all");
        let names = self.ask(Method::Get, &path, &Value::Null).await;
        for name in names.as_object().into_iter().flat_map(serde_json::Map::keys) {
            self.ask(Method::Delete, &format!("/{name}"), &Value::Null).await;
        }
    }
}

/// A round of ours into an empty prefix, then the same documents by the bare side into another.
async fn round(
    address: &str,
    bare: &Bare,
    requests: &[LoggedBatch],
    number: usize,
) -> ((f64, f64), (f64, f64)) {
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
    let transport = Transport::single_node(&address).expect("a transport");
    let bare = Bare { transport, in_flight };
    let mut workload = Workload::new(7, 1_000_000);
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for number in 0..=ROUNDS {
        let requests: Vec<_> =
            (0..spans.div_ceil(REQUEST_SPANS)).map(|_| workload.request()).collect();
        let (own, other) = round(&address, &bare, &requests, number).await;
        println!("round {number}: ours {:.0} documents/s, bare {:.0} documents/s", own.0, other.0);
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
