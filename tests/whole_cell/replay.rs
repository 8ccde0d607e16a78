//! The whole log replayed beside a running cell: into its own stores, into views beside them, and counts
//! that take the place of the cell's.

use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::counts::{all_counts, cassandra, clickhouse_text};
use crate::http::{eventually, send};
use crate::parts::{Parts, engine};
use crate::replay_beside::{beside_a_sender, between_two_times};

const MINUTE: Duration = Duration::from_secs(60);

/// What an engine tells of a view; on a busy machine it may not answer at once.
pub(crate) async fn told<T, F: Future<Output = Result<T, String>>>(ask: impl FnMut() -> F) -> T {
    eventually("an engine answers", MINUTE, ask).await
}

pub(crate) async fn documents(prefix: &str) -> Result<u64, String> {
    let indices = format!("{}/{prefix}.*-jaeger-span-*", engine("FARSPAN_TEST_ELASTICSEARCH"));
    send(Method::POST, &format!("{indices}/_refresh"), &[], Bytes::new()).await?;
    let counted = send(Method::GET, &format!("{indices}/_count"), &[], Bytes::new()).await?.json();
    counted["count"].as_u64().ok_or_else(|| counted.to_string())
}

async fn rows(keyspace: &str) -> Result<u64, String> {
    let cql = format!("SELECT count(*) FROM {keyspace}.spans WHERE part = 2 ALLOW FILTERING");
    cassandra(&engine("FARSPAN_TEST_CASSANDRA"), &cql).await
}

async fn clickhouse(sql: &str) -> String {
    let url = engine("FARSPAN_TEST_CLICKHOUSE");
    clickhouse_text(&url, sql).await.unwrap()
}

async fn counts(database: &str) -> [String; 2] {
    all_counts(&engine("FARSPAN_TEST_CLICKHOUSE"), database).await
}

/// Waits until the cell's own stores hold everything that was sent.
pub(crate) async fn until_all_is_stored(parts: &Parts) {
    let sent = parts.sent();
    eventually("everything is stored", 2 * MINUTE, || async {
        let found =
            [parts.counted().await?, documents(parts.name()).await?, rows(parts.name()).await?];
        (found == [sent; 3]).then_some(()).ok_or_else(|| format!("{found:?} of {sent}"))
    })
    .await;
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}\n{}\n{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.trim().lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {}", words(output)))
}

/// A whole replay; gives its summary.
pub(crate) async fn replayed(parts: &Parts, arguments: &[&str]) -> Value {
    replay_of(&parts.config(), arguments).await
}

/// The same for a cell of this file.
pub(crate) async fn replay_of(file: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.args(["replay", "--json", "--config", file, "--group"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?} {}", words(&output));
    let summary = last_json(&output);
    assert_eq!(summary["isWhole"], true, "{summary}");
    summary
}

/// Waits until it is refused for this reason. Never is it done.
async fn refused(parts: &Parts, arguments: &[&str], why: &str) {
    eventually(why, MINUTE, || async {
        let output = parts.farspan(arguments).await;
        assert!(!output.status.success(), "{arguments:?} {}", words(&output));
        let is_refused = output.status.code() == Some(2) && words(&output).contains(why);
        if is_refused { Ok(()) } else { Err(format!("{arguments:?} {}", words(&output))) }
    })
    .await;
}

/// How far each store holds the log, by what `store status` says.
async fn covers(parts: &Parts) -> Vec<(String, u64)> {
    let status = told(async || {
        let output = parts.farspan(&["store", "status", "--json"]).await;
        let is_told = output.status.code() == Some(0);
        if is_told { Ok(last_json(&output)) } else { Err(words(&output)) }
    })
    .await;
    let mut covers = Vec::new();
    for store in status["stores"].as_array().unwrap() {
        assert_eq!(store["isReachable"], true, "{store}");
        for covered in store["covered"].as_array().unwrap() {
            let next = covered["next"].as_object().unwrap().values();
            let next = next.map(|next| next.as_u64().unwrap()).sum();
            covers.push((covered["group"].as_str().unwrap().to_owned(), next));
        }
    }
    covers.sort();
    covers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_log_is_replayed_beside_a_running_cell_and_no_answer_changes() {
    let mut parts = Parts::start().await;
    parts.send(30).await;
    parts.send_calls(30).await;
    until_all_is_stored(&parts).await;
    let before = covers(&parts).await;
    let groups: Vec<&str> = before.iter().map(|(group, _)| group.as_str()).collect();
    assert_eq!(
        groups,
        ["analytics-writer", "metrics-aggregator", "search-indexer", "storage-writer"]
    );
    beside_a_sender(&mut parts).await;
    let after = covers(&parts).await;
    for ((group, before), (_, after)) in before.iter().zip(&after) {
        assert!(after >= before, "{group}: {before} {after}");
    }
    between_two_times(&mut parts).await;
    into_views(&parts).await;
    stopped_and_gone_on_with(&parts).await;
    what_cannot_be_replayed_is_refused(&parts).await;
    counts_take_the_place_of_the_cells(&mut parts).await;
    parts.end();
}

async fn into_views(parts: &Parts) {
    let view = format!("{}v", parts.name());
    for group in ["search-indexer", "storage-writer", "analytics-writer"] {
        replayed(parts, &[group, "--from", "earliest", "--into", &view]).await;
    }
    let sent = parts.sent();
    let found = (told(|| documents(&view)).await, told(|| rows(&view)).await);
    assert_eq!(found, (sent, sent));
    let sql = format!("SELECT uniqExact(TraceId, SpanId), count() FROM {view}.otel_traces");
    let raw = clickhouse(&sql);
    assert_eq!(raw.await.trim(), format!("{sent}\t{sent}"));
    // Without a place it goes on where the view ends, where nothing is left.
    let again = replayed(parts, &["search-indexer", "--into", &view]).await;
    assert_eq!(again["records"], 0, "{again}");
}

/// Ctrl-C ends a replay in order; what it says goes on with the rest.
async fn stopped_and_gone_on_with(parts: &Parts) {
    let view = format!("{}s", parts.name());
    let replay = ["replay", "--group", "search-indexer", "--into", &view];
    let mut process =
        parts.command("replay", &[&replay[..], &["--from", "earliest", "--rate", "20"]].concat());
    eventually("it has begun", MINUTE, || async {
        let text = process.output();
        (text.contains(" records/s") && process.catches_interrupts()).then_some(()).ok_or(text)
    })
    .await;
    process.interrupt();
    assert_eq!(process.code(MINUTE), Some(3), "{}", process.output());
    let text = process.output();
    let rest = text.lines().find_map(|line| line.strip_prefix("stopped; to go on: "));
    let rest: Vec<&str> = rest.unwrap_or_else(|| panic!("{text}")).split(' ').collect();
    assert!(told(|| documents(&view)).await < parts.sent());
    replayed(parts, &[&replay[2..], &rest].concat()).await;
    assert_eq!(told(|| documents(&view)).await, parts.sent());
}

async fn what_cannot_be_replayed_is_refused(parts: &Parts) {
    let replay = ["replay", "--from", "earliest", "--group"];
    let with = |more: &[&'static str]| [&replay[..], more].concat();
    refused(parts, &with(&["metadata-publisher"]), "no function of the log alone").await;
    refused(parts, &with(&["search-indexer", "--swap"]), "counts and raw spans alone").await;
    let own = [&replay[..], &["search-indexer", "--into", parts.name()]].concat();
    refused(parts, &own, "the prefix that the cell uses").await;
    let from = |place| ["replay", "--group", "search-indexer", "--from", place];
    refused(parts, &from("8:1"), "there is no partition 8: they are 0 to 7").await;
    refused(parts, &from("0:99999"), "before 99999").await;
    refused(parts, &from("yesterday"), "is no time").await;
    refused(parts, &["replay", "--group", "search-indexer"], "--from is needed").await;
    let migrated = parts.farspan(&["store", "migrate", "--dry-run"]).await;
    assert!(migrated.status.success(), "{}", words(&migrated));
    assert_eq!(words(&migrated).matches("schema version 1, nothing to do").count(), 2);
    assert_eq!(words(&migrated).matches("schema version 2, nothing to do").count(), 1);
}

async fn counts_take_the_place_of_the_cells(parts: &mut Parts) {
    let view = format!("{}m", parts.name());
    let counts_of_the_cell = counts(parts.name()).await;
    assert_eq!(counts_of_the_cell[1].lines().count(), 1, "{counts_of_the_cell:?}");
    replayed(parts, &["metrics-aggregator", "--from", "earliest", "--into", &view]).await;
    assert_eq!(counts(&view).await, counts_of_the_cell);
    // Again: nothing is counted twice.
    replayed(parts, &["metrics-aggregator", "--from", "earliest", "--into", &view]).await;
    assert_eq!(counts(&view).await, counts_of_the_cell);
    let swap = ["replay", "--group", "metrics-aggregator", "--into", &view, "--swap"];
    refused(parts, &swap, "running process(es) take part in metrics-aggregator").await;
    swap_is_done_once_and_counted_on(parts, &view, &swap).await;
}

async fn swap_is_done_once_and_counted_on(parts: &mut Parts, view: &str, swap: &[&str]) {
    parts.send(5).await;
    until_all_is_stored(parts).await;
    for ingester in 0..2 {
        parts.end_ingester(ingester);
    }
    let marked = format!(
        "INSERT INTO {}.red_services (service, minute, arrived) SELECT 'marked', now() - 7200, now()",
        parts.name()
    );
    clickhouse(&marked).await;
    // What the cell counts begins earlier now.
    refused(parts, swap, "With --yes it is done").await;
    let output = parts.farspan(&[swap, &["--yes"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let marks = |database: &str| {
        format!("SELECT count() FROM {database}.red_services WHERE service = 'marked'")
    };
    let found = [clickhouse(&marks(parts.name())).await, clickhouse(&marks(view)).await];
    assert_eq!(found, ["0\n", "1\n"]);
    refused(parts, swap, "in use since a swap").await;
    raw_spans_are_swapped_beside_them(parts).await;
    for ingester in 0..2 {
        parts.start_again(ingester);
    }
    parts.send(5).await;
    parts.send_calls(5).await;
    until_all_is_stored(parts).await;
    let edges = format!("SELECT sum(seen) FROM {}.edges", parts.name());
    assert_eq!(clickhouse(&edges).await.trim(), "35");
}

/// Nobody writes the raw spans either.
async fn raw_spans_are_swapped_beside_them(parts: &Parts) {
    let (own, view) = (parts.name(), format!("{}r", parts.name()));
    let marked = "otel_traces (ServiceName, Timestamp, AppendTime) SELECT 'marked', now(), now()";
    clickhouse(&format!("INSERT INTO {own}.{marked}")).await;
    let replay = ["replay", "--group", "analytics-writer", "--from", "earliest", "--into", &view];
    let output = parts.farspan(&[&replay[..], &["--swap"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let marks = async |database: &str| {
        let sql = format!("SELECT countIf(ServiceName = 'marked') FROM {database}.otel_traces");
        clickhouse(&sql).await.trim().to_owned()
    };
    assert_eq!([marks(own).await, marks(&view).await], ["0", "1"]);
    let rows = format!("SELECT uniqExact(TraceId, SpanId), count() FROM {own}.otel_traces");
    let sent = parts.sent();
    assert_eq!(clickhouse(&rows).await.trim(), format!("{sent}\t{sent}"));
    refused(parts, &replay, "in use since a swap").await;
}
