//! kill -9 in the middle of writing, sealing, merging and erasing: what was said to be durable is
//! there afterwards, whole and once, and the store goes on from there.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use service_kit::{ManualClock, SystemClock};
use trace_model::TenantId;
use trace_store::{
    EmbeddedStore, EmbeddedStoreConfig, Eraser, SpanWriter, TraceReader, TraceSearch,
};

use crate::fixture::{Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::{query, small_config, tag};

const CYCLES: u32 = 8;
/// Before the directory, in the argument that makes a process the writer.
const WRITER: &str = "writer-in=";
const THE_TEST: &str = "kills::what_was_durable_before_a_kill_is_whole_and_once_after_it";
/// Every such trace is erased by the writer.
const ERASED_EVERY: u64 = 50;

fn request(first: u64) -> Request {
    let spans: Vec<_> = (first..first + 10)
        .flat_map(|trace| {
            [0, 1, 2].map(|id| {
                let mut span = span(trace, id, "order");
                span.attributes = vec![attribute("order", text(&format!("o-{trace}")))];
                span
            })
        })
        .collect();
    Request::of("shop", &spans)
}

fn config(directory: &Path) -> EmbeddedStoreConfig {
    // The spans' times are made up: retention must not take them.
    let retention = std::time::Duration::from_secs(50 * 365 * 24 * 3_600);
    EmbeddedStoreConfig { segment_spans_max: 90, retention, ..small_config(directory) }
}

fn durable(store: &EmbeddedStore) -> u64 {
    store.durable().next.get(&0).copied().unwrap_or(0)
}

/// Writes until it is killed, and says after each step what is durable.
async fn write_until_killed(directory: &Path) {
    let clock = Arc::new(SystemClock::new());
    let store = EmbeddedStore::open(config(directory), clock).unwrap();
    // As a consumer after a restart: on from what is durable, a little from before once more.
    let mut log = Log { next: durable(&store).saturating_sub(20), append_time: NOW };
    loop {
        let batch = log.append(&request(log.next));
        store.write(&[batch]).await.unwrap();
        let last_erased = log.next / ERASED_EVERY * ERASED_EVERY;
        if log.next.is_multiple_of(ERASED_EVERY) {
            store.erase(&TenantId::default(), trace_id(last_erased - ERASED_EVERY)).await.unwrap();
        }
        if log.next.is_multiple_of(70) {
            store.maintain().await.unwrap();
        }
        let line = format!("durable {}\n", durable(&store));
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

/// The directory of a process that was started as the writer. The test harness takes the argument
/// for one more filter, which fits no test.
fn directory_to_write() -> Option<PathBuf> {
    std::env::args().find_map(|argument| argument.strip_prefix(WRITER).map(PathBuf::from))
}

/// Lets a writer run until it has said so many lines, kills it, gives what it said last. The writer is
/// this executable with this one test.
fn run_and_kill(directory: &Path, lines: u32) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THE_TEST, "--nocapture"])
        .arg(format!("{WRITER}{}", directory.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = 0;
    let mut heard = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, number)) = line.split_once("durable ") else { continue };
        said = number.parse().unwrap();
        heard += 1;
        if heard == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(heard >= lines, "the writer ended by itself after {heard} lines");
    said
}

#[tokio::test]
async fn what_was_durable_before_a_kill_is_whole_and_once_after_it() {
    if let Some(directory) = directory_to_write() {
        return write_until_killed(&directory).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for cycle in 0..CYCLES {
        let said = run_and_kill(directory.path(), 17 + cycle * 13);
        assert!(said > reached, "{said} after {reached}");
        let clock = Arc::new(ManualClock::at(NOW));
        let store = EmbeddedStore::open(config(directory.path()), clock).unwrap();
        assert!(durable(&store) >= said);
        store.maintain().await.unwrap();
        let tenant = TenantId::default();
        for trace in 0..said {
            let read = store.read_trace(&tenant, trace_id(trace)).await.unwrap();
            let is_erased = trace % ERASED_EVERY == 0 && trace + ERASED_EVERY < said;
            assert!(!read.is_damaged);
            if trace % ERASED_EVERY != 0 {
                assert_eq!(read.spans.len(), 3, "trace {trace} in cycle {cycle}");
            } else if is_erased {
                assert!(read.spans.is_empty(), "trace {trace} in cycle {cycle}");
            }
        }
        for trace in [1, (said / 2) | 1, said - 3] {
            let answer = store.search(&query(tag("order", &format!("o-{trace}")))).await.unwrap();
            let is_erased = trace % ERASED_EVERY == 0;
            assert!(is_erased || answer.matches.len() == 1, "trace {trace}");
        }
        reached = said;
    }
}
