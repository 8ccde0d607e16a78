//! A region of processes: a collector, a querier, two ingesters, a replicator, a gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::Method;
use tempfile::TempDir;

use crate::fixture::{encode, hex, random_trace_id, request, span};
use crate::http::{eventually, get, send};
use crate::process::{Process, free_ports};

/// Traces of a request, of one span each.
pub(crate) const TRACES: usize = 20;
const STARTUP: Duration = Duration::from_secs(120);

/// Where an engine is.
pub(crate) fn engine(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: see tests/engines/all.sh env"))
}

/// The processes.
pub(crate) struct Parts {
    directory: TempDir,
    name: String,
    ports: Vec<u16>,
    pub(crate) gateway: SocketAddr,
    ingesters: Vec<Process>,
    others: Vec<Process>,
    trace_ids: Vec<[u8; 16]>,
    /// Traces of two spans more.
    calls: u64,
    /// Records that requests may have left in the log which were not acknowledged, and were repeated.
    repeated: AtomicU64,
}

impl Parts {
    /// Makes everything in the engines, starts every process and waits until each is ready.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("parts{}", hex(&random_trace_id()[..6]));
        let ports = free_ports(26);
        let gateway = SocketAddr::from(([127, 0, 0, 1], ports[20]));
        let mut parts = Self {
            directory,
            name,
            ports,
            gateway,
            ingesters: Vec::new(),
            others: Vec::new(),
            trace_ids: Vec::new(),
            calls: 0,
            repeated: AtomicU64::new(0),
        };
        parts.write_files();
        parts.init_stores();
        for (role, file) in [("collector", "cell0"), ("querier", "cell1")] {
            let config = parts.file(file);
            let arguments = ["cell", "--role", role, "--config", &config];
            parts.others.push(Process::start(role, parts.directory.path(), &arguments));
        }
        for kind in ["replicator", "gateway"] {
            let config = parts.file(kind);
            let arguments = [kind, "--config", &config];
            parts.others.push(Process::start(kind, parts.directory.path(), &arguments));
        }
        for place in 0..2 {
            let ingester = parts.ingester(place);
            parts.ingesters.push(ingester);
            parts.wait_until_ready(parts.ports[5 * (2 + place) + 4]).await;
        }
        for admin in [4, 9, 21, 23] {
            parts.wait_until_ready(parts.ports[admin]).await;
        }
        parts
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What everything of the cell is called in the engines.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command on the cell's file, to its end.
    pub(crate) async fn farspan(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
        command.args(arguments).args(["--config", &self.file("cell0")]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Starts a command on the cell's file.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Process {
        let file = self.file("cell0");
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--config", &file]).collect();
        Process::start(name, self.path(), &arguments)
    }

    /// The file of the cell that commands are given.
    pub(crate) fn config(&self) -> String {
        self.file("cell0")
    }

    fn file(&self, name: &str) -> String {
        self.path().join(format!("{name}.yaml")).display().to_string()
    }

    fn ingester(&self, place: usize) -> Process {
        let config = self.file(&format!("cell{}", place + 2));
        let arguments = ["cell", "--role", "ingester", "--config", &config];
        Process::start(&format!("ingester{place}"), self.path(), &arguments)
    }

    /// The engines' sections, the same for each process of the cell.
    fn stores(&self) -> String {
        let Self { name, .. } = self;
        format!(
            "profile: growth\nhead: {{rate: 1.0}}\nkafka: {{brokers: ['{}'], prefix: {name}., \
             partitions: 8, replication: 1, session_timeout: 6s}}\ncassandra: {{nodes: ['{}'], \
             datacenter: dc1, keyspace: {name}, replication: {{dc1: 1}}}}\nelasticsearch: {{urls: \
             ['{}'], prefix: {name}, shards: 1}}\nclickhouse: {{url: '{}', database: {name}}}\n",
            engine("FARSPAN_TEST_KAFKA"),
            engine("FARSPAN_TEST_CASSANDRA"),
            engine("FARSPAN_TEST_ELASTICSEARCH"),
            engine("FARSPAN_TEST_CLICKHOUSE"),
        )
    }

    fn write_files(&self) {
        let write = |name: &str, text: String| std::fs::write(self.file(name), text).unwrap();
        let local = |port: usize| format!("127.0.0.1:{}", self.ports[port]);
        for cell in 0..4 {
            let at = |place: usize| local(5 * cell + place);
            let data = self.path().join(format!("data{cell}"));
            let text = format!(
                "kind: cell\nregion: eu-west-1\ndata_dir: '{}'\nlisten: {{otlp_grpc: '{}', otlp_http: \
                 '{}', zipkin: '{}', internal: '{}', admin: '{}'}}\nreplicator: http://{}\n\
                 drain_timeout: 20s\n{}",
                data.display(),
                at(0),
                at(1),
                at(2),
                at(3),
                at(4),
                local(22),
                self.stores(),
            );
            write(&format!("cell{cell}"), text);
        }
        // Its cell is the first ingester; the other takes its place over without a replicator that
        // knows of it, as a region whose address has not been moved.
        let data = self.path().join("replica");
        let replicator = format!(
            "kind: replicator\nregion: eu-west-1\ndata_dir: '{}'\nlisten: {{grpc: '{}', admin: \
             '{}'}}\ncell: http://{}\npeers: []\n",
            data.display(),
            local(22),
            local(23),
            local(5 * 2 + 3),
        );
        write("replicator", replicator);
        let gateway = format!(
            "kind: gateway\nregion: eu-west-1\nlisten: {{http: '{}', admin: '{}'}}\nreplicator: \
             http://{}\ncells: [{{region: eu-west-1, address: 'http://{}'}}]\n",
            local(20),
            local(21),
            local(22),
            local(5 + 3),
        );
        write("gateway", gateway);
    }

    fn init_stores(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
        let made =
            command.args(["store", "init", "--config", &self.file("cell0")]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// What `farspan doctor` finds of the engines, with the file of the first ingester.
    pub(crate) async fn doctor(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
        let only = ["--json", "--only", "cell,kafka,cassandra,elasticsearch,clickhouse"];
        command.args(["doctor", "--config", &self.file("cell2")]).args(only);
        let asking = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = asking.await.unwrap();
        // The disks of a machine of tests may be full.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn wait_until_ready(&self, admin: u16) {
        let url = format!("http://127.0.0.1:{admin}/readyz");
        eventually("a process is ready", STARTUP, || async {
            let answer = get(&url).await?;
            (answer.status == 200).then_some(()).ok_or_else(|| {
                let words = self.others.iter().chain(&self.ingesters).map(Process::last_words);
                format!("{answer:?}\n{}", words.collect::<Vec<_>>().join("\n"))
            })
        })
        .await;
    }

    /// Sends so many requests, each until it is acknowledged.
    pub(crate) async fn send(&mut self, requests: usize) {
        for _ in 0..requests {
            let ids = self.send_one().await;
            self.note(ids);
        }
    }

    /// Sends a request until it is acknowledged; gives its traces, which are to be noted.
    pub(crate) async fn send_one(&self) -> Vec<[u8; 16]> {
        let ids: Vec<[u8; 16]> = (0..TRACES).map(|_| random_trace_id()).collect();
        let spans = ids.iter().map(|id| span(*id, rand::random(), 0, "work"));
        self.export(encode(&request("web", spans.collect())), TRACES as u64).await;
        ids
    }

    /// Takes traces as acknowledged.
    pub(crate) fn note(&mut self, trace_ids: Vec<[u8; 16]>) {
        self.trace_ids.extend(trace_ids);
    }

    /// Sends so many requests of one trace each: a service calls another.
    pub(crate) async fn send_calls(&mut self, requests: usize) {
        for _ in 0..requests {
            let id = random_trace_id();
            let mut body = request("web", vec![span(id, 1, 0, "call")]);
            let called = request("cart", vec![span(id, 2, 1, "serve")]);
            body.resource_spans.extend(called.resource_spans);
            self.export(encode(&body), 1).await;
            self.calls += 1;
        }
    }

    /// Sends a request of so many records until it is acknowledged.
    async fn export(&self, body: bytes::Bytes, records: u64) {
        let url = format!("http://127.0.0.1:{}/v1/traces", self.ports[1]);
        let kind = [("content-type", "application/x-protobuf")];
        eventually("a request is acknowledged", STARTUP, || async {
            let answer = send(Method::POST, &url, &kind, body.clone()).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            self.repeated.fetch_add(records, Ordering::Relaxed);
            Err(format!("{answer:?}"))
        })
        .await;
    }

    /// Spans that were acknowledged.
    pub(crate) fn sent(&self) -> u64 {
        self.trace_ids.len() as u64 + 2 * self.calls
    }

    /// Records of the log that they are at least: one for each trace.
    pub(crate) fn records(&self) -> u64 {
        self.trace_ids.len() as u64 + self.calls
    }

    /// Records that may be there besides, of requests that were repeated.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    pub(crate) fn trace_ids(&self) -> impl DoubleEndedIterator<Item = String> + '_ {
        self.trace_ids.iter().map(|id| hex(id))
    }

    /// Spans that ClickHouse has counted.
    pub(crate) async fn counted(&self) -> Result<u64, String> {
        self.ask("sum(seen)", "red_services").await
    }

    /// Rows of raw spans; where something was repeated, distinct ones: an ingester that was killed knew of it.
    pub(crate) async fn raw_rows(&self) -> Result<u64, String> {
        let what = if self.repeated() == 0 { "count()" } else { "uniqExact(TraceId,SpanId)" };
        self.ask(what, "otel_traces").await
    }

    async fn ask(&self, what: &str, table: &str) -> Result<u64, String> {
        let sql = format!("SELECT%20{what}%20FROM%20{}.{table}", self.name);
        let url = format!("{}/?query={sql}", engine("FARSPAN_TEST_CLICKHOUSE"));
        let answer = get(&url).await?;
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        text.parse().map_err(|_| text)
    }

    /// How many partitions of a group an ingester reads.
    pub(crate) async fn assigned(&self, ingester: usize, group: &str) -> Result<u64, String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[5 * (2 + ingester) + 4]);
        let text = String::from_utf8_lossy(&get(&url).await?.body).into_owned();
        let name = format!("farspan_span_log_assigned_partitions{{group=\"{group}\"}} ");
        let found = text.lines().find_map(|line| line.strip_prefix(&name));
        Ok(found.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// The ingester that counts: exactly one, when it has come to that.
    pub(crate) async fn who_counts(&self) -> usize {
        eventually("one of them counts", STARTUP, || async {
            let first = self.assigned(0, "metrics-aggregator").await?;
            let second = self.assigned(1, "metrics-aggregator").await?;
            match (first, second) {
                (8, 0) => Ok(0),
                (0, 8) => Ok(1),
                held => Err(format!("{held:?}")),
            }
        })
        .await
    }

    pub(crate) fn kill(&mut self, ingester: usize) {
        self.ingesters[ingester].kill();
    }

    /// Ends an ingester in order.
    pub(crate) fn end_ingester(&mut self, ingester: usize) {
        let code = self.ingesters[ingester].terminate(Duration::from_secs(40));
        assert_eq!(code, Some(0), "{}", self.ingesters[ingester].last_words());
    }

    pub(crate) fn start_again(&mut self, ingester: usize) {
        self.ingesters[ingester] = self.ingester(ingester);
    }

    /// Ends every process in order; each must end well.
    pub(crate) fn end(&mut self) {
        for process in self.others.iter_mut().chain(&mut self.ingesters) {
            let code = process.terminate(Duration::from_secs(40));
            assert_eq!(code, Some(0), "{}", process.last_words());
        }
    }
}
