//! How tests reach an engine: adapters for the suite, stores of their own, and plain HTTP, as any
//! other client of the engine would speak it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use proto::LoggedBatch;
use serde_json::Value;
use trace_model::{Clock, Coverage, UnixNanos};
use trace_store::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use trace_store::{MemoryStore, SearchIndexer, StoreError};

use crate::assembled::Assembled;
use crate::harness::{Adapter, NAMES_LISTED, Store};

pub(super) const ELASTICSEARCH: Adapter = Adapter {
    open: |directory, clock| open(url("FARSPAN_TEST_ELASTICSEARCH"), directory, clock),
    is_durable: true,
};
pub(super) const OPENSEARCH: Adapter = Adapter {
    open: |directory, clock| open(url("FARSPAN_TEST_OPENSEARCH"), directory, clock),
    is_durable: true,
};

/// The engine's address; without one the test fails and says what to do.
#[expect(clippy::disallowed_methods, reason = "tests of engines are told where these are")]
pub(super) fn url(variable: &str) -> String {
    let script = if variable.contains("OPENSEARCH") { "opensearch" } else { "elasticsearch" };
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: start the engine with `tests/engines/{script}.sh start` and \
             `… wait`, then set it to http://127.0.0.1:9200"
        )
    })
}

/// A configuration whose indices are those of this directory's test alone.
pub(super) fn config(url: &str, directory: &Path) -> ElasticsearchConfig {
    let name = xxhash_rust::xxh3::xxh3_64(directory.as_os_str().as_encoded_bytes());
    ElasticsearchConfig {
        shards: 1,
        search_timeout: Duration::from_secs(60),
        names_max: NAMES_LISTED,
        ..ElasticsearchConfig::at(url, format!("test-{name:016x}"))
    }
}

/// Sets the cluster up and connects.
pub(super) async fn connect(
    config: ElasticsearchConfig,
    clock: Arc<dyn Clock>,
) -> Arc<ElasticsearchStore> {
    ElasticsearchStore::init(&config).await.unwrap();
    ElasticsearchStore::connect(config, clock).await.unwrap()
}

/// The stores in memory that stand for the trace store, by directory: they outlive a reopening.
static MEMORIES: Mutex<Option<HashMap<PathBuf, Arc<MemoryStore>>>> = Mutex::new(None);

fn open(
    url: String,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
) -> BoxFuture<'static, Arc<dyn Store>> {
    Box::pin(async move {
        let (store, indexer) = indexing_at(url, directory.clone(), clock).await;
        let memory = {
            let mut memories = MEMORIES.lock().unwrap();
            Arc::clone(memories.get_or_insert_default().entry(directory).or_default())
        };
        let assembled = Assembled {
            erasers: vec![store.clone(), memory.clone()],
            indexer,
            search: store.clone(),
            catalog: store,
            ..Assembled::in_memory(memory)
        };
        Arc::new(assembled) as Arc<dyn Store>
    })
}

/// A store of the indices of this directory's test, and its indexer, with which they go.
async fn indexing_at(
    url: String,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
) -> (Arc<ElasticsearchStore>, Arc<dyn SearchIndexer>) {
    let config = config(&url, &directory);
    let tidy = Tidy { url, prefix: config.index_prefix.clone(), directory };
    let store = connect(config, clock).await;
    (store.clone(), Arc::new(Tidied { store, _tidy: tidy }))
}

/// … on Elasticsearch.
pub(crate) async fn indexing(
    directory: PathBuf,
    clock: Arc<dyn Clock>,
) -> (Arc<ElasticsearchStore>, Arc<dyn SearchIndexer>) {
    indexing_at(url("FARSPAN_TEST_ELASTICSEARCH"), directory, clock).await
}

/// The indexer of a store whose indices go with its test.
#[derive(Debug)]
struct Tidied {
    store: Arc<ElasticsearchStore>,
    _tidy: Tidy,
}

#[async_trait]
impl SearchIndexer for Tidied {
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.store.index(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.store.flush(now, force).await
    }

    fn indexed(&self) -> Coverage {
        self.store.indexed()
    }
}

/// Removes a test's indices and templates, once its directory is gone.
#[derive(Debug)]
pub(super) struct Tidy {
    pub(super) url: String,
    pub(super) prefix: String,
    pub(super) directory: PathBuf,
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if !self.directory.exists() {
            remove_all(&self.url, &self.prefix);
        }
    }
}

/// Removes everything of a prefix.
pub(super) fn remove_all(url: &str, prefix: &str) {
    let listed =
        http(url, "GET", &format!("/_cat/indices/{prefix}*?h=index&expand_wildcards=all"), "");
    let indices: Vec<&str> = listed.1.split_whitespace().collect();
    for some in indices.chunks(20) {
        http(url, "DELETE", &format!("/{}", some.join(",")), "");
    }
    http(url, "DELETE", &format!("/_index_template/{prefix}-farspan-*"), "");
    http(url, "DELETE", &format!("/_component_template/{prefix}-farspan-*"), "");
}

/// A request as any client sends it: status and body.
pub(super) fn http(url: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let kind = if path.contains("/_bulk") { "application/x-ndjson" } else { "application/json" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (status, if is_chunked { unchunked(rest) } else { rest.to_owned() })
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    body
}

/// A request whose answer is JSON and a success.
pub(super) fn json(url: &str, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, text) = http(url, method, path, &body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}
