//! The processes of a cell without Kafka: collectors, each with a log of its own, a front over them, and the
//! region's replicator and gateway.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{encode, hex, random_trace_id, request, span};
use crate::http::{eventually, get, send};
use crate::parts::engine;
use crate::process::{Process, free_ports};

const STARTUP: Duration = Duration::from_secs(90);
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The first of a collector's five ports.
const fn first_port(collector: usize) -> usize {
    [0, 5, 20][collector]
}

pub(crate) struct Cell {
    directory: TempDir,
    name: String,
    pub(crate) ports: Vec<u16>,
    pub(crate) collectors: Vec<Process>,
    pub(crate) others: Vec<Process>,
    /// Spans that were acknowledged, each once.
    pub(crate) sent: u64,
}

impl Cell {
    pub(crate) async fn start() -> Self {
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

    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(format!("{name}.yaml")).display().to_string()
    }

    pub(crate) fn at(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port]))
    }

    pub(crate) fn process(&self, kind: &str, file: &str) -> Process {
        Process::start(file, self.directory.path(), &[kind, "--config", &self.file(file)])
    }

    pub(crate) fn collector(&self, number: usize) -> Process {
        self.process("cell", &format!("collector{number}"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// What all parts of the cell have in common, with the place of this one.
    pub(crate) fn common(&self, part: &str, first_port: usize, receiving: &str) -> String {
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

    pub(crate) fn write_collector(&self, number: usize) {
        let first = first_port(number);
        let [grpc, http, zipkin] = [0, 1, 2].map(|port| self.at(first + port));
        let receiving = format!("otlp_grpc: '{grpc}', otlp_http: '{http}', zipkin: '{zipkin}', ");
        let part = format!("collector{number}");
        let common = self.common(&part, first, &receiving);
        let own = format!("direct: {{collector: {number}}}\nhead: {{rate: 1.0}}\n");
        self.write(&part, &format!("{common}{own}"));
    }

    pub(crate) fn write_front(&self, collectors: usize) {
        let list = (0..collectors).map(|number| self.at(first_port(number) + 3).to_string());
        let own = format!(
            "direct: {{collectors: ['{}'], lease: 20s}}\nreplicator: http://{}\nstores: {{metrics: \
             clickhouse}}\nclickhouse: {{url: '{}', database: {}}}\n",
            list.collect::<Vec<_>>().join("', '"),
            self.at(15),
            engine("FARSPAN_TEST_CLICKHOUSE"),
            self.name,
        );
        self.write("front", &format!("{}{own}", self.common("front", 10, "")));
    }

    pub(crate) fn write_region(&self) {
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
    pub(crate) async fn ask_front(&self, command: &str, arguments: &[&str]) -> Output {
        let config = self.file("front");
        farspan(&[&["--json", command, "--config", &config], arguments].concat()).await
    }

    pub(crate) async fn wait_until_ready(&self, admin: u16) {
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

    pub(crate) async fn export(&self, collector: usize, body: Bytes) {
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
    pub(crate) async fn send_a_call(&mut self) -> [u8; 16] {
        let id = random_trace_id();
        self.export(0, encode(&request("web", vec![span(id, 1, 0, "call")]))).await;
        self.export(1, encode(&request("cart", vec![span(id, 2, 1, "serve")]))).await;
        self.sent += 2;
        id
    }

    /// A trace of one span, at the first collector.
    pub(crate) async fn send_alone(&mut self) -> [u8; 16] {
        let id = random_trace_id();
        self.export(0, encode(&request("web", vec![span(id, 1, 0, "work")]))).await;
        self.sent += 1;
        id
    }

    /// How many spans of a trace are found, and what the answer says of itself.
    pub(crate) async fn find(&self, id: &[u8; 16]) -> Result<(usize, Value), String> {
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
    pub(crate) async fn until_found(
        &self,
        what: &str,
        id: &[u8; 16],
        spans: usize,
        verdict: &str,
    ) -> Value {
        eventually(what, SOON, || async {
            let (found, completeness) = self.find(id).await?;
            let is_complete = completeness["verdict"] == "complete";
            assert!(!is_complete || found >= spans, "{what}: {found} spans, {completeness}");
            let is_so = found == spans && completeness["verdict"] == verdict;
            if is_so { Ok(completeness) } else { Err(format!("{found} spans, {completeness}")) }
        })
        .await
    }

    pub(crate) async fn clickhouse(&self, sql: &str) -> Result<u64, String> {
        let sql = sql.replace(' ', "%20").replace("DB", &self.name);
        let answer = get(&format!("{}/?query={sql}", engine("FARSPAN_TEST_CLICKHOUSE"))).await?;
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        text.parse().map_err(|_| text)
    }

    pub(crate) async fn until_counted(&self, spans: u64, calls: u64) {
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
    pub(crate) async fn region(&self) -> Result<Value, String> {
        let answer = get(&format!("http://{}/api/farspan/v1/regions", self.at(17))).await?;
        Ok(answer.json()["regions"][0].clone())
    }

    pub(crate) async fn watermark(&self) -> Result<u64, String> {
        let region = self.region().await?;
        let watermark = region["watermarkUnixNano"].as_str().and_then(|text| text.parse().ok());
        watermark.ok_or_else(|| format!("{region}"))
    }

    pub(crate) async fn until_the_watermark_passes(&self, time: u64) {
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
