//! An engine of the test's own, killed between writes; and what its files hold after an erasure.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use service_kit::ManualClock;
use trace_model::{Filter, LogPosition, SearchQuery, TenantId};
use trace_store::elasticsearch::ElasticsearchConfig;
use trace_store::{Eraser, SearchIndexer, TraceSearch};

use super::engine::{connect, http, json};
use crate::fixture::{INCARNATION, Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::query;
use crate::killed::kill_dead;

/// A node that the project's script starts and that goes with the test.
struct Node {
    name: String,
    ports: [u16; 2],
    url: String,
}

impl Node {
    fn start(name: &str) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = [free(), free()];
        let name = format!("{name}-{}", std::process::id());
        let node = Self { name, ports, url: format!("http://127.0.0.1:{}", ports[0]) };
        node.run("start");
        node.run("wait");
        node
    }

    fn run(&self, command: &str) {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines/elasticsearch.sh");
        let status = Command::new(script)
            .args([command, &self.name])
            .env("HTTP_PORT", self.ports[0].to_string())
            .env("TRANSPORT_PORT", self.ports[1].to_string())
            .env("HEAP", "384m")
            .env("ES_FAST", "1")
            .status()
            .unwrap();
        assert!(status.success(), "{command} {}", self.name);
    }

    fn info(&self, what: &str) -> Value {
        json(&self.url, "GET", &format!("/_nodes/_local/{what}"), &Value::Null)["nodes"]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone()
    }

    fn kill(&self) {
        let pid = self.info("process")["process"]["id"].as_u64().unwrap();
        kill_dead(&pid.to_string());
    }

    fn files(&self) -> PathBuf {
        let path = &self.info("settings")["settings"]["path"]["data"];
        let path = path.as_str().or_else(|| path[0].as_str()).unwrap();
        PathBuf::from(path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.run("clean");
    }
}

fn config(node: &Node) -> ElasticsearchConfig {
    ElasticsearchConfig {
        shards: 2,
        write_timeout: Duration::from_secs(30),
        search_timeout: Duration::from_secs(30),
        ..ElasticsearchConfig::at(&node.url, "kills")
    }
}

#[tokio::test]
async fn a_killed_engine_loses_nothing_that_was_indexed_and_the_writer_goes_on_by_itself() {
    let node = Node::start("kills");
    let clock = Arc::new(ManualClock::at(NOW));
    let store = connect(config(&node), clock.clone()).await;
    let mut log = Log::new();
    let mut batches = Vec::new();
    for number in 0..40_u64 {
        let spans: Vec<_> = (0..20).map(|id| span(number * 20 + id, id, "a")).collect();
        batches.push(log.append(&Request::of("web", &spans)));
    }
    let deadline = Instant::now() + Duration::from_secs(240);
    let (mut failures, mut at, mut last) = (0, 0, String::new());
    let mut kills = vec![25, 10];
    while at < batches.len() {
        // Right after a write, with a flush behind it or not.
        if kills.pop_if(|next| *next == at).is_some() {
            node.kill();
            node.run("start");
        }
        let mut written = store.index(&batches[at..=at]).await;
        if written.is_ok() && at % 2 == 0 {
            written = SearchIndexer::flush(&*store, NOW, true).await;
        }
        match written {
            Ok(()) => at += 1,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                failures += 1;
                last = error.to_string();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        assert!(Instant::now() < deadline, "the writer did not recover: {last}");
    }
    assert!(failures > 0, "the kills were not seen");
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    node.kill();
    node.run("start");
    node.run("wait");
    let reopened = connect(config(&node), clock).await;
    let last = LogPosition { partition: 0, offset: log.next - 1 };
    assert!(reopened.indexed().covers(INCARNATION, last));
    let all = SearchQuery { limit: 1_000, ..query(Filter::All) };
    let answer = reopened.search(&all).await.unwrap();
    assert_eq!(answer.matches.len(), 800);
    assert!(answer.matches.iter().all(|found| found.matched_spans == 1));
    assert!(answer.covered.covers(INCARNATION, last));
    let count = json(&node.url, "GET", "/kills.default-jaeger-span-*/_count", &Value::Null);
    assert_eq!(count["count"], 800);
}

/// Whether a file below the directory holds the bytes.
fn holds(directory: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn an_erased_trace_is_in_no_file_of_the_engine() {
    let node = Node::start("erased");
    let store = connect(config(&node), Arc::new(ManualClock::at(NOW))).await;
    let canary = "canary4711subject";
    let mut log = Log::new();
    let mut subject = span(1, 0, canary);
    subject.attributes = vec![attribute("mail", text(canary))];
    let others: Vec<_> = (2..200).map(|trace| span(trace, 0, "other")).collect();
    let batches =
        [log.append(&Request::of(canary, &[subject])), log.append(&Request::of("web", &others))];
    store.index(&batches).await.unwrap();
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    let (status, _) = http(&node.url, "POST", "/kills*/_flush", "");
    assert_eq!(status, 200);
    let files = node.files();
    assert!(holds(&files, canary.as_bytes()), "the canary is nowhere");
    store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert!(!holds(&files, canary.as_bytes()));
    assert!(!holds(&files, trace_id(1).to_string().as_bytes()));
    assert_eq!(
        store
            .search(&SearchQuery { limit: 500, ..query(Filter::All) })
            .await
            .unwrap()
            .matches
            .len(),
        198
    );
}
