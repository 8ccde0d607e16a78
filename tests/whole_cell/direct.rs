//! A cell without Kafka: two collectors, each with a log of its own, one front over both, and stores that
//! they share. `tests/engines/all.sh` starts the engines and says where they are.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span};
use crate::http::{eventually, get, send};
use crate::parts::engine;
use crate::process::{Process, free_ports};

const STARTUP: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(60);

/// The first of a collector's five ports.
const fn first_port(collector: usize) -> usize {
    [0, 5, 20][collector]
}

struct Cell {
    directory: TempDir,
    name: String,
    ports: Vec<u16>,
    collectors: Vec<Process>,
    others: Vec<Process>,
    /// Spans that were acknowledged, each once.
    sent: u64,
}

impl Cell {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("direct{}", hex(&random_trace_id()[..6]));
        let ports = free_ports(25);
        let (collectors, others) = (Vec::new(), Vec::new());
        let mut cell = Self { directory, name, ports, collectors, others, sent: 0 };
        (0..2).for_each(|number| cell.write_collector(number));
        cell.write_front(2);
        cell.write_region();
        let made = farspan(&["store", "init", "--config", &cell.file("front")]).await;
        assert!(made.status.success(), "{made:?}");
        for number in 0..2 {
            let collector = cell.collector(number);
            cell.collectors.push(collector);
        }
        for (kind, file) in
            [("cell", "front"), ("replicator", "replicator"), ("gateway", "gateway")]
        {
            let process = cell.process(kind, file);
            cell.others.push(process);
        }
        // Collectors are ready when the front knows them.
        for admin in [4, 9, 14, 16, 18] {
            cell.wait_until_ready(cell.ports[admin]).await;
        }
        cell
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(format!("{name}.yaml")).display().to_string()
    }

    fn at(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port]))
    }

    fn process(&self, kind: &str, file: &str) -> Process {
        Process::start(file, self.directory.path(), &[kind, "--config", &self.file(file)])
    }

    fn collector(&self, number: usize) -> Process {
        self.process("cell", &format!("collector{number}"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// What all parts of the cell have in common, with the place of this one.
    fn common(&self, part: &str, first_port: usize, receiving: &str) -> String {
        let Self { name, .. } = self;
        format!(
            "kind: cell\nregion: eu-west-1\ndata_dir: '{}'\nlisten: {{{receiving}internal: '{}', admin: \
             '{}'}}\nprofile: startup\ncassandra: {{nodes: ['{}'], datacenter: dc1, keyspace: {name}, \
             replication: {{dc1: 1}}}}\nelasticsearch: {{urls: ['{}'], prefix: {name}, shards: 1}}\n",
            self.directory.path().join(part).display(),
            self.at(first_port + 3),
            self.at(first_port + 4),
            engine("FARSPAN_TEST_CASSANDRA"),
            engine("FARSPAN_TEST_ELASTICSEARCH"),
        )
    }

    fn write_collector(&self, number: usize) {
        let first = first_port(number);
        let [grpc, http, zipkin] = [0, 1, 2].map(|port| self.at(first + port));
        let receiving = format!("otlp_grpc: '{grpc}', otlp_http: '{http}', zipkin: '{zipkin}', ");
        let part = format!("collector{number}");
        let common = self.common(&part, first, &receiving);
        let own = format!("direct: {{collector: {number}}}\nhead: {{rate: 1.0}}\n");
        self.write(&part, &format!("{common}{own}"));
    }

    fn write_front(&self, collectors: usize) {
        let list = (0..collectors).map(|number| self.at(first_port(number) + 3).to_string());
        let own = format!(
            "direct: {{collectors: ['{}'], lease: 10s}}\nreplicator: http://{}\nstores: {{metrics: \
             clickhouse}}\nclickhouse: {{url: '{}', database: {}}}\n",
            list.collect::<Vec<_>>().join("', '"),
            self.at(15),
            engine("FARSPAN_TEST_CLICKHOUSE"),
            self.name,
        );
        self.write("front", &format!("{}{own}", self.common("front", 10, "")));
    }

    fn write_region(&self) {
        let replicator = format!(
            "kind: replicator\nregion: eu-west-1\ndata_dir: '{}'\nlisten: {{grpc: '{}', admin: \
             '{}'}}\ncell: http://{}\npeers: []\n",
            self.directory.path().join("replica").display(),
            self.at(15),
            self.at(16),
            self.at(13),
        );
        self.write("replicator", &replicator);
        let gateway = format!(
            "kind: gateway\nregion: eu-west-1\nlisten: {{http: '{}', admin: '{}'}}\nreplicator: \
             http://{}\ncells: [{{region: eu-west-1, address: 'http://{}'}}]\n",
            self.at(17),
            self.at(18),
            self.at(15),
            self.at(13),
        );
        self.write("gateway", &gateway);
    }

    /// Asks the running front by a command, and waits for its end.
    async fn ask_front(&self, command: &str, arguments: &[&str]) -> Output {
        let config = self.file("front");
        farspan(&[&["--json", command, "--config", &config], arguments].concat()).await
    }

    async fn wait_until_ready(&self, admin: u16) {
        let url = format!("http://127.0.0.1:{admin}/readyz");
        eventually("a process is ready", STARTUP, || async {
            let answer = get(&url).await?;
            (answer.status == 200).then_some(()).ok_or_else(|| {
                let words = self.others.iter().chain(&self.collectors).map(Process::last_words);
                format!("{answer:?}\n{}", words.collect::<Vec<_>>().join("\n"))
            })
        })
        .await;
    }

    async fn export(&self, collector: usize, body: Bytes) {
        let url = format!("http://{}/v1/traces", self.at(first_port(collector) + 1));
        let kind = [("content-type", "application/x-protobuf")];
        // A collector that has not heard its front for long refuses; a repeat of what was refused is
        // found once and counts once.
        eventually("the collector takes spans", SOON, || async {
            let answer = send(Method::POST, &url, &kind, body.clone()).await?;
            (answer.status == 200).then_some(()).ok_or_else(|| format!("{answer:?}"))
        })
        .await;
    }

    /// A trace of two spans: a call, which goes to the first collector, and what was called, which goes
    /// to the second.
    async fn send_a_call(&mut self) -> [u8; 16] {
        let id = random_trace_id();
        self.export(0, encode(&request("web", vec![span(id, 1, 0, "call")]))).await;
        self.export(1, encode(&request("cart", vec![span(id, 2, 1, "serve")]))).await;
        self.sent += 2;
        id
    }

    /// A trace of one span, at the first collector.
    async fn send_alone(&mut self) -> [u8; 16] {
        let id = random_trace_id();
        self.export(0, encode(&request("web", vec![span(id, 1, 0, "work")]))).await;
        self.sent += 1;
        id
    }

    /// How many spans of a trace are found, and what the answer says of itself.
    async fn find(&self, id: &[u8; 16]) -> Result<(usize, Value), String> {
        let url = format!("http://{}/api/farspan/v1/traces/{}", self.at(17), hex(id));
        let answer = get(&url).await?;
        let body = answer.json();
        let resources = body["resourceSpans"].as_array().into_iter().flatten();
        let scopes = resources.flat_map(|one| one["scopeSpans"].as_array().into_iter().flatten());
        let spans = scopes.map(|one| one["spans"].as_array().map_or(0, Vec::len)).sum();
        Ok((spans, body["completeness"].clone()))
    }

    /// Until so many spans are found and the answer says so of itself. Never is one complete that lacks
    /// some.
    async fn until_found(&self, what: &str, id: &[u8; 16], spans: usize, verdict: &str) -> Value {
        eventually(what, SOON, || async {
            let (found, completeness) = self.find(id).await?;
            let is_complete = completeness["verdict"] == "complete";
            assert!(!is_complete || found >= spans, "{what}: {found} spans, {completeness}");
            let is_so = found == spans && completeness["verdict"] == verdict;
            if is_so { Ok(completeness) } else { Err(format!("{found} spans, {completeness}")) }
        })
        .await
    }

    async fn clickhouse(&self, sql: &str) -> Result<u64, String> {
        let sql = sql.replace(' ', "%20").replace("DB", &self.name);
        let answer = get(&format!("{}/?query={sql}", engine("FARSPAN_TEST_CLICKHOUSE"))).await?;
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        text.parse().map_err(|_| text)
    }

    async fn until_counted(&self, spans: u64, calls: u64) {
        eventually("everything is counted once", SOON, || async {
            let seen = self.clickhouse("SELECT sum(seen) FROM DB.red_services").await?;
            let edges = self.clickhouse("SELECT sum(seen) FROM DB.edges").await?;
            let is_so = (seen, edges) == (spans, calls);
            is_so
                .then_some(())
                .ok_or_else(|| format!("{seen} of {spans} spans, {edges} of {calls}"))
        })
        .await;
    }

    /// How the region is, as the gateway sees it.
    async fn region(&self) -> Result<Value, String> {
        let answer = get(&format!("http://{}/api/farspan/v1/regions", self.at(17))).await?;
        Ok(answer.json()["regions"][0].clone())
    }

    async fn watermark(&self) -> Result<u64, String> {
        let region = self.region().await?;
        let watermark = region["watermarkUnixNano"].as_str().and_then(|text| text.parse().ok());
        watermark.ok_or_else(|| format!("{region}"))
    }

    async fn until_the_watermark_passes(&self, time: u64) {
        eventually("the watermark moves on", SOON, || async {
            let watermark = self.watermark().await?;
            (watermark > time).then_some(()).ok_or_else(|| format!("{watermark} of {time}"))
        })
        .await;
    }
}

/// Runs a command to its end.
async fn farspan(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_without_kafka_are_one_cell_and_one_that_is_gone_is_named_until_it_is_retired()
 {
    let mut cell = Cell::start().await;
    // Whole at once: each collector's tail is asked, before any store has a span.
    let first = cell.send_a_call().await;
    cell.until_found("the call is whole", &first, 2, "complete").await;
    // A sender repeats a request at the other collector; each span and the call count once.
    let body = encode(&request("web", vec![span(first, 3, 1, "again")]));
    cell.export(0, body.clone()).await;
    cell.export(1, body).await;
    cell.sent += 1;
    cell.until_found("the repeated span is there once", &first, 3, "complete").await;
    cell.until_counted(cell.sent, 1).await;
    cell.until_the_watermark_passes(now_nanos()).await;

    let second = one_is_killed_and_comes_back(&mut cell).await;
    let unseen = the_front_is_killed_and_comes_back_with_one_more(&mut cell).await;
    let third = one_is_retired(&mut cell).await;
    // What it may have had is told as lost, near it in time, until somebody has seen to that.
    let completeness = cell.until_found("it may miss spans", &third, 1, "partial").await;
    assert_eq!(completeness["regions"][0]["isDamaged"], true, "{completeness}");
    let listed = cell.ask_front("dead-letters", &["list"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["lost"][0]["cause"], "retired", "{listed}");
    assert_eq!(listed["lost"][1]["missedBy"], "metrics-aggregator", "{listed}");
    let run = listed["lost"][0]["id"].as_str().unwrap();
    let dropped = cell.ask_front("dead-letters", &["drop", run]).await;
    assert!(dropped.status.success(), "{dropped:?}");
    for (id, spans) in [(&first, 3), (&second, 2), (&unseen, 3), (&third, 1)] {
        cell.until_found("everything stored is whole", id, spans, "complete").await;
    }
    cell.until_counted(cell.sent, 4).await;
    a_retired_one_stays_retired(&mut cell, &unseen).await;
    for process in cell.others.iter_mut().chain(&mut cell.collectors) {
        let code = process.terminate(Duration::from_secs(40));
        assert_eq!(code, Some(0), "{}", process.last_words());
    }
}

async fn one_is_killed_and_comes_back(cell: &mut Cell) -> [u8; 16] {
    // One is killed: it is named, and holds the watermark.
    let second = cell.send_a_call().await;
    cell.collectors[1].kill();
    let killed_at = now_nanos();
    cell.until_named_as_away(&second).await;
    let alone = cell.send_alone().await;
    cell.until_found("the other goes on", &alone, 1, "partial").await;
    cell.until_the_region("names it", |region| region["awayCollectors"] == json!([1])).await;
    assert!(cell.watermark().await.unwrap() <= killed_at);
    // It comes back, with what it had acknowledged.
    cell.collectors[1] = cell.collector(1);
    cell.until_found("the trace is whole again", &second, 2, "complete").await;
    cell.until_the_watermark_passes(now_nanos()).await;
    cell.until_counted(cell.sent, 2).await;
    second
}

async fn the_front_is_killed_and_comes_back_with_one_more(cell: &mut Cell) -> [u8; 16] {
    // The front is killed: collectors take spans without it, and nothing of them is lost or counted
    // twice when it is there again.
    cell.others[0].kill();
    let unseen = cell.send_a_call().await;
    // It is started with one collector more.
    cell.write_collector(2);
    let added = cell.collector(2);
    cell.collectors.push(added);
    cell.write_front(3);
    cell.others[0] = cell.process("cell", "front");
    for admin in [14, 24] {
        cell.wait_until_ready(cell.ports[admin]).await;
    }
    cell.export(2, encode(&request("pay", vec![span(unseen, 3, 2, "charge")]))).await;
    cell.sent += 1;
    cell.until_found("what was taken meanwhile is whole", &unseen, 3, "complete").await;
    cell.until_the_watermark_passes(now_nanos()).await;
    cell.until_counted(cell.sent, 4).await;
    unseen
}

async fn one_is_retired(cell: &mut Cell) -> [u8; 16] {
    // Gone for good: not while it answers, nor while it might run on unseen; then durably.
    let words = cell.refuses_to_retire(1).await;
    assert!(words.contains("stop it for good"), "{words}");
    cell.until_stored(1).await;
    cell.collectors[1].kill();
    let gone_at = now_nanos();
    let words = cell.refuses_to_retire(1).await;
    assert!(words.contains("may still run"), "{words}");
    let third = cell.send_alone().await;
    cell.until_found("the other goes on", &third, 1, "partial").await;
    eventually("it is retired when it can run no more", SOON, || async {
        let retired = cell.ask_front("collectors", &["retire", "1"]).await;
        if retired.status.success() { Ok(()) } else { Err(format!("{retired:?}")) }
    })
    .await;
    cell.until_the_watermark_passes(gone_at + 2_000_000_000).await;
    cell.until_the_region("names it as retired", |region| {
        let is_named = region["retiredCollectors"] == json!([1]);
        is_named && region["hasHole"] == true && region["awayCollectors"] == Value::Null
    })
    .await;
    third
}

async fn a_retired_one_stays_retired(cell: &mut Cell, whole: &[u8; 16]) {
    // A front that is started again knows that it is retired, and goes on behind it.
    cell.others[0].kill();
    cell.others[0] = cell.process("cell", "front");
    cell.wait_until_ready(cell.ports[14]).await;
    cell.until_the_watermark_passes(now_nanos()).await;
    cell.until_found("and everything is whole", whole, 3, "complete").await;
    // It does not come back to life.
    cell.collectors[1] = cell.collector(1);
    let url = format!("http://{}/readyz", cell.at(9));
    eventually("it is told that it is retired", SOON, || async {
        let text = String::from_utf8_lossy(&get(&url).await?.body).into_owned();
        if text.contains("retired") { Ok(()) } else { Err(text) }
    })
    .await;
}

impl Cell {
    /// Until the stores hold all that a collector has taken.
    async fn until_stored(&self, number: usize) {
        eventually("the stores hold it", SOON, || async {
            let listed = self.ask_front("collectors", &["list"]).await;
            let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
            let is_so = listed[number]["notStored"] == 0;
            if is_so { Ok(()) } else { Err(format!("{listed}")) }
        })
        .await;
    }

    /// What the front says that does not retire a collector.
    async fn refuses_to_retire(&self, number: usize) -> String {
        let refused = self.ask_front("collectors", &["retire", &number.to_string()]).await;
        assert!(!refused.status.success(), "{refused:?}");
        String::from_utf8_lossy(&refused.stderr).into_owned()
    }

    /// Until an answer names the second collector as the one that is away.
    async fn until_named_as_away(&self, id: &[u8; 16]) {
        eventually("the answer names it", SOON, || async {
            let (spans, completeness) = self.find(id).await?;
            let reason = &completeness["regions"][0]["reason"];
            let is_so = completeness["verdict"] == "partial";
            let is_so = is_so && reason == "collector 1 does not answer";
            if is_so { Ok(()) } else { Err(format!("{spans} spans, {completeness}")) }
        })
        .await;
    }

    /// Until the region is so, as the gateway sees it.
    async fn until_the_region(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, SOON, || async {
            let region = self.region().await?;
            if is_so(&region) { Ok(()) } else { Err(region.to_string()) }
        })
        .await;
    }
}
