//! What is lost or set aside is named in the answers that it may be missing from, and only there, until
//! it is taken up, given up, or was never lost.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ingester::{DeadLetterConfig, DeadLetters};
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use span_log::port::STORAGE_WRITER;
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, TenantId, TraceId, UnixNanos};

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id, span};
use crate::http::{eventually, get};

/// Exit code and output of an operator's command on a region's cell.
fn dead_letters(federation: &Federation, arguments: &[&str]) -> (Option<i32>, String) {
    let data = federation.cell_data(0);
    let output = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["dead-letters", "--json", "--data-dir"])
        .arg(data)
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// What is set aside and lost.
fn listed(federation: &Federation) -> serde_json::Value {
    let (code, text) = dead_letters(federation, &["list"]);
    assert_eq!(code, Some(0), "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn until(federation: &Federation, trace: &[u8], line: &str, spans: &[u64]) {
    let expected: Vec<_> = spans.iter().map(|id| hex(&id.to_be_bytes())).collect();
    eventually("the answer", PATIENCE, || async {
        let found = federation.certified(0, trace).await?;
        let is_so = found.0.starts_with(line) && found.1 == expected;
        if is_so { Ok(()) } else { Err(format!("{found:?}\n{}", federation.last_words())) }
    })
    .await;
}

async fn send_one(federation: &Federation) -> [u8; 16] {
    let trace = random_trace_id();
    federation
        .send_spans(0, "web", vec![span(trace, 1, 0, "GET /"), span(trace, 2, 1, "work")])
        .await;
    trace
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

const WHOLE: &str = "complete: 1 of 1 regions";

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_made_anew_keeps_the_old_traces_and_its_loss_is_named_until_it_is_dropped() {
    let mut federation = Federation::start(&["eu-west-1"], &[]).await;
    let old = send_one(&federation).await;
    until(&federation, &old, WHOLE, &[1, 2]).await;
    federation.stop_cell(0);
    std::fs::remove_dir_all(federation.cell_data(0).join("log")).unwrap();
    federation.start_cell(0);
    federation.wait_ready(0).await;
    // Spans of it may have come in after the last that was published of the old log.
    until(&federation, &old, "partial", &[1, 2]).await;
    let new = send_one(&federation).await;
    until(&federation, &new, "partial", &[1, 2]).await;
    let lost = listed(&federation)["lost"].as_array().unwrap().clone();
    assert_eq!((lost.len(), lost[0]["cause"].as_str()), (1, Some("recreated")));
    let id = lost[0]["id"].as_str().unwrap();
    assert_eq!(dead_letters(&federation, &["drop", id]).0, Some(0));
    assert_eq!(dead_letters(&federation, &["drop", id]).0, Some(1), "it is gone");
    // The promise of the old log is kept by what the store had of it.
    for trace in [old, new] {
        until(&federation, &trace, WHOLE, &[1, 2]).await;
    }
    federation.kill_cell(0);
    federation.start_cell(0);
    federation.wait_ready(0).await;
    for trace in [old, new] {
        until(&federation, &trace, WHOLE, &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_log_stops_no_cell_and_loses_nothing_that_the_store_has() {
    let mut federation = Federation::start(&["eu-west-1"], &[]).await;
    let first = send_one(&federation).await;
    until(&federation, &first, WHOLE, &[1, 2]).await;
    federation.stop_cell(0);
    let data = federation.cell_data(0);
    copy(&data.join("log"), &data.join("copy"));
    federation.start_cell(0);
    federation.wait_ready(0).await;
    let mut traces = vec![first];
    for _ in 0..20 {
        traces.push(send_one(&federation).await);
    }
    for trace in &traces {
        until(&federation, trace, WHOLE, &[1, 2]).await;
    }
    federation.stop_cell(0);
    std::fs::remove_dir_all(data.join("log")).unwrap();
    std::fs::rename(data.join("copy"), data.join("log")).unwrap();
    federation.start_cell(0);
    federation.wait_ready(0).await;
    assert!(listed(&federation)["lost"].as_array().unwrap().is_empty());
    for _ in 0..5 {
        traces.push(send_one(&federation).await);
    }
    for trace in &traces {
        until(&federation, trace, WHOLE, &[1, 2]).await;
    }
}

/// Puts a trace of two spans into a dead letter of storage-writer, as if no store had taken it.
fn bury(directory: &Path, trace: [u8; 16]) {
    use prost::Message;
    let letters = DeadLetters::open(DeadLetterConfig::new(directory.to_owned())).unwrap();
    let spans = [1, 2].map(|id| span(trace, id, id - 1, "buried").encode_to_vec());
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for bytes in &spans {
        let trace_id = TraceId::from_bytes(trace).unwrap();
        builder.add_span(trace_id, Threshold::KEEP_ALL, scope, bytes);
    }
    let now = UnixNanos(now_nanos());
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "eu-west-1-collector".into(),
        receive_time: now,
        digest: 1,
    };
    let logged = LoggedBatch {
        incarnation: 1,
        range: LogRange { partition: 0, first: 0, next: 1 },
        append_time: now,
        batch: Arc::new(builder.finish(source).unwrap()),
    };
    letters.put(STORAGE_WRITER, "as a test wants it", &logged).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_named_for_its_traces_alone_and_a_retry_brings_them_back() {
    let mut federation = Federation::start(&["eu-west-1"], &[]).await;
    let other = send_one(&federation).await;
    until(&federation, &other, WHOLE, &[1, 2]).await;
    federation.stop_cell(0);
    let (buried, dropped) = (random_trace_id(), random_trace_id());
    for trace in [buried, dropped] {
        bury(&federation.cell_data(0).join("dead-letters"), trace);
    }
    federation.start_cell(0);
    federation.wait_ready(0).await;
    until(&federation, &other, WHOLE, &[1, 2]).await;
    for trace in [buried, dropped] {
        let answer = federation.trace_json(0, &trace).await.unwrap();
        assert_eq!(answer.status, 503, "something may be there: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    assert_eq!(federation.trace_json(0, &random_trace_id()).await.unwrap().status, 404);
    let letters = listed(&federation)["letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0]["reason"].as_str(), Some("as a test wants it"));
    let (code, shown) = dead_letters(&federation, &["show", "1"]);
    assert!(code == Some(0) && shown.contains(&hex(&buried)), "{shown}");
    let (code, text) = dead_letters(&federation, &["retry", "1"]);
    assert_eq!(code, Some(0), "{text}");
    until(&federation, &buried, WHOLE, &[1, 2]).await;
    assert_eq!(dead_letters(&federation, &["retry", "1"]).0, Some(1), "it is gone");
    assert_eq!(dead_letters(&federation, &["drop", "2"]).0, Some(0));
    assert_eq!(dead_letters(&federation, &["show", "2"]).0, Some(1));
    assert_eq!(federation.trace_json(0, &dropped).await.unwrap().status, 404);
    // The store has them: over a crash too.
    federation.kill_cell(0);
    federation.start_cell(0);
    federation.wait_ready(0).await;
    until(&federation, &buried, WHOLE, &[1, 2]).await;
    assert!(listed(&federation)["letters"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_the_log_and_every_group_and_no_cell_no_answer() {
    let mut federation = Federation::start(&["eu-west-1"], &[]).await;
    let url = format!("http://127.0.0.1:{}/readyz", federation.regions[0].ports.cell_admin);
    let answer = get(&url).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    for name in [
        "cell",
        "metadata-publisher",
        "metrics-aggregator",
        "search-indexer",
        "span-log",
        "storage-writer",
    ] {
        assert!(text.contains(&format!("{name}: ok\n")), "{name} is not in {text}");
    }
    federation.kill_cell(0);
    let (code, text) = dead_letters(&federation, &["list"]);
    assert!(code == Some(4) && text.contains("no cell answers"), "{text}");
}
