//! A region on the engines: three processes, and names of its own in each engine.

use std::collections::BTreeSet;
use std::process::Command;

use futures_util::future::join_all;

use crate::counts::Names;
use crate::federation::{Federation, PATIENCE};
use crate::fixture::hex;
use crate::http::{eventually, get};
use crate::ledger::Ledger;
use crate::running_engines::{Engine, Engines};

pub(crate) const REGION: &str = "eu-west-1";
/// The service of all spans that the tests send.
pub(crate) const SERVICE: &str = "cell-load";

/// What a region's cell adds to its file.
pub(crate) fn yaml(engines: &Engines, names: &Names) -> String {
    format!(
        "profile: growth\nhead: {{rate: 1.0}}\nkafka:\n  brokers: [\"{}\"]\n  prefix: {name}.\n  \
         partitions: 4\n  replication: 1\n  session_timeout: 6s\ncassandra:\n  nodes: [\"{}\"]\n  datacenter: dc1\n  \
         keyspace: {name}\n  replication: {{dc1: 1}}\nelasticsearch:\n  urls: [\"http://{}\"]\n  \
         prefix: {name}\n  shards: 1\nclickhouse:\n  url: http://{}\n  database: {name}\n",
        engines.address(Engine::Kafka),
        engines.address(Engine::Cassandra),
        engines.address(Engine::Elasticsearch),
        engines.address(Engine::Clickhouse),
        name = names.name,
    )
}

/// The same without Kafka: the log and the counts are files of the cell's process.
pub(crate) fn yaml_without_kafka(engines: &Engines, names: &Names) -> String {
    format!(
        "profile: startup\nhead: {{rate: 1.0}}\ncassandra:\n  nodes: [\"{}\"]\n  datacenter: dc1\n  \
         keyspace: {name}\n  replication: {{dc1: 1}}\nelasticsearch:\n  urls: [\"http://{}\"]\n  \
         prefix: {name}\n  shards: 1\n",
        engines.address(Engine::Cassandra),
        engines.address(Engine::Elasticsearch),
        name = names.name,
    )
}

/// Runs `farspan store init` for a cell of this configuration.
pub(crate) async fn set_up(extra: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cell.yaml");
    let data = directory.path().display();
    std::fs::write(&file, format!("kind: cell\nregion: {REGION}\ndata_dir: {data}\n{extra}"))
        .unwrap();
    let set_up = move || {
        let output = Command::new(env!("CARGO_BIN_EXE_farspan"))
            .args(["store", "init", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        drop(directory);
        output
    };
    let output = tokio::task::spawn_blocking(set_up).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A region on the engines, set up under this name and ready.
pub(crate) async fn start(engines: &Engines, names: &Names) -> Federation {
    let extra = yaml(engines, names);
    set_up(&extra).await;
    Federation::start(&[REGION], &[(REGION, &extra)]).await
}

/// Traces that are read back at once.
const AT_ONCE: usize = 16;

/// Waits until everything that was acknowledged is read back whole, by id and by search.
pub(crate) async fn until_all_is_read_back(federation: &Federation, ledger: &Ledger, since: u64) {
    for entries in ledger.entries().chunks(AT_ONCE) {
        let reads = entries.iter().map(|(trace, spans)| until_read(federation, trace, spans));
        join_all(reads).await;
    }
    let wanted: BTreeSet<_> = ledger.entries().iter().map(|(trace, _)| hex(trace)).collect();
    eventually("every acknowledged trace is found by search", PATIENCE, || async {
        let found = search_all(federation, since).await?;
        let lacking: Vec<_> = wanted.difference(&found).take(3).collect();
        let words = || format!("{} found, lacking {lacking:?}", found.len());
        if lacking.is_empty() { Ok(()) } else { Err(words()) }
    })
    .await;
}

async fn until_read(federation: &Federation, trace: &[u8; 16], spans: &[u64]) {
    let expected: Vec<_> = spans.iter().map(|id| hex(&id.to_be_bytes())).collect();
    eventually("an acknowledged trace is read by id", PATIENCE, || async {
        let (line, found) = federation.certified(0, trace).await?;
        let is_whole = line.starts_with("complete") && found == expected;
        if is_whole { Ok(()) } else { Err(format!("{} {line} {found:?}", hex(trace))) }
    })
    .await;
}

/// Pages through a search that must be complete.
async fn search_all(federation: &Federation, since: u64) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let json = search(federation, since, &cursor).await?;
        let line = line_of(&json);
        if !line.starts_with("complete") {
            return Err(line);
        }
        let traces = json["traces"].as_array().ok_or_else(|| json.to_string())?;
        let ids = traces.iter().filter_map(|trace| trace["traceId"].as_str());
        found.extend(ids.map(str::to_owned));
        match json["nextCursor"].as_str() {
            Some(next) if !traces.is_empty() => cursor = format!("&cursor={next}"),
            _ => return Ok(found),
        }
    }
}

/// A page of a search by attribute, which the search index alone answers.
pub(crate) async fn search(
    federation: &Federation,
    since: u64,
    cursor: &str,
) -> Result<serde_json::Value, String> {
    let asked = format!("service={SERVICE}&{ROUTE}");
    search_for(federation, &asked, since, cursor).await
}

/// What every span of the load has.
pub(crate) const ROUTE: &str = "tag=http.route:/cart/%7Bid%7D";

/// The same for other words of a search.
pub(crate) async fn search_for(
    federation: &Federation,
    asked: &str,
    since: u64,
    cursor: &str,
) -> Result<serde_json::Value, String> {
    let url = format!(
        "{}/api/farspan/v1/search?{asked}&start={}&limit=500{cursor}",
        federation.gateway_url(0),
        since / 1_000,
    );
    Ok(get(&url).await?.json())
}

/// The certificate's line of an answer of ours.
pub(crate) fn line_of(json: &serde_json::Value) -> String {
    json.pointer("/completeness/text").and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}
