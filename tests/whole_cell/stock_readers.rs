//! What OPERATIONS.md says that readers see who have the engines' own clients and nothing of ours: its
//! commands and its SQL, word for word but for where the engines are and which trace is looked for.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use opentelemetry_proto::tonic::trace::v1::{Span, Status, TracesData};
use prost::Message as _;
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::counts::{Names, clickhouse_text, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span};
use crate::http::eventually;
use crate::running_engines::{Engine, Engines, scripts, share_engines};
use crate::whole_cell::{REGION, set_up, yaml};

const HANDBOOK: &str = include_str!("../../docs/OPERATIONS.md");

/// The service that the handbook's dashboards look at.
const SERVICE: &str = "cart";
const CALLER: &str = "web";
/// Spans of a trace: a call, what it calls, and a part of that which fails.
const SPANS: [(u64, &str); 3] = [(1, "call"), (2, "serve"), (3, "charge")];
const TRACES: usize = 20;
const PARTITIONS: usize = 4;
/// A span of the fixture takes a millisecond.
const NANOS: u64 = 1_000_000;

/// The clients that the handbook calls, in its order. `clickhouse client` speaks to a port that the engine of
/// these tests lacks: the same question goes to it by `curl`.
const CLIENTS: [&str; 7] = [
    "kafka-console-consumer.sh",
    "kafka-consumer-groups.sh",
    "cqlsh",
    "cqlsh",
    "curl",
    "clickhouse",
    "curl",
];

/// What stands in the first fence behind these words of the handbook.
fn fenced(behind: &str) -> &'static str {
    let rest = HANDBOOK.split_once(behind).unwrap_or_else(|| panic!("{behind} is not there")).1;
    let block = rest.split("```").nth(1).unwrap();
    block.split_once('\n').unwrap().1
}

fn commands() -> Vec<&'static str> {
    let commands: Vec<_> = fenced("A look at each, with its own client").lines().collect();
    let clients: Vec<_> = commands.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(clients, CLIENTS, "each is looked at by a test");
    commands
}

/// What a command asks, between its quotes.
fn quoted(command: &str) -> &str {
    command.split('"').nth(1).unwrap()
}

/// The region, with the names that everything has by default, and what it was sent.
struct Reader<'a> {
    engines: &'a Engines,
    path: String,
    traces: Vec<[u8; 16]>,
}

/// The folders of the stock clients, before those of the machine.
fn path() -> String {
    let bin = |script: &str| {
        let output = Command::new(scripts().join(script)).arg("bin").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    format!("{}:{}:{}", bin("kafka.sh"), bin("cassandra.sh"), std::env::var("PATH").unwrap())
}

impl Reader<'_> {
    /// A command of the handbook, for the engines and a trace of the test.
    fn meant(&self, command: &str) -> String {
        let address = |engine| self.engines.address(engine);
        let cassandra = address(Engine::Cassandra).replace(':', " ");
        command
            .replace("k1:9092", &address(Engine::Kafka))
            .replace("cqlsh c1 ", &format!("cqlsh {cassandra} "))
            .replace("e1:9200", &address(Engine::Elasticsearch))
            .replace("ch1:8123", &address(Engine::Clickhouse))
            .replace("TRACEID", &hex(&self.traces[0]))
    }

    /// Runs it as a person does who has pasted it.
    async fn run(&self, command: &str) -> Result<Vec<u8>, String> {
        let meant = self.meant(command);
        assert_ne!(meant, command, "it names an engine");
        let mut shell = Command::new("timeout");
        shell.args(["60", "bash", "-c", &meant]).env("PATH", &self.path).stdin(Stdio::null());
        let output: Output = spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("{meant}: {output:?}"))
        }
    }

    /// Waits until what it prints is what the check wants of it.
    async fn until(&self, command: &str, check: impl Fn(&str) -> bool) {
        eventually(command, PATIENCE, || async {
            let printed = String::from_utf8_lossy(&self.run(command).await?).into_owned();
            if check(&printed) { Ok(()) } else { Err(printed) }
        })
        .await;
    }
}

fn spans_of(trace: [u8; 16]) -> TracesData {
    let [(first, call), (second, serve), (third, charge)] = SPANS;
    let failed = Status { code: 2, ..Status::default() };
    let called = vec![
        span(trace, second, first, serve),
        Span { status: Some(failed), ..span(trace, third, second, charge) },
    ];
    let mut body = request(CALLER, vec![span(trace, first, 0, call)]);
    body.resource_spans.extend(request(SERVICE, called).resource_spans);
    body
}

async fn send(federation: &Federation) -> Vec<[u8; 16]> {
    let traces: Vec<_> = std::iter::repeat_with(random_trace_id).take(TRACES).collect();
    for trace in &traces {
        let body = encode(&spans_of(*trace));
        eventually("a trace is acknowledged", PATIENCE, || federation.export(0, body.clone()))
            .await;
    }
    traces
}

/// A record is the spans of one trace as OTLP, under its id and its tenant, with one header.
fn is_a_record(printed: &[u8], traces: &[[u8; 16]]) -> bool {
    let at = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|at| at == wanted);
    let Some(header) = at(printed, b"farspan:") else { return false };
    let rest = &printed[header..];
    traces.iter().any(|trace| {
        let key = [b"\t", &trace[..], b"default\t"].concat();
        let Some(place) = at(rest, &key) else { return false };
        let value = rest[place + key.len()..].strip_suffix(b"\n").unwrap();
        let read = TracesData::decode(value).unwrap();
        let resources = read.resource_spans.iter().flat_map(|one| &one.scope_spans);
        let spans: Vec<_> = resources.flat_map(|scope| &scope.spans).collect();
        let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
        let sent = SPANS.map(|(id, _)| id.to_be_bytes().to_vec());
        spans.iter().all(|span| span.trace_id == trace) && ids == BTreeSet::from(sent)
    })
}

/// Every partition of the topic, of which the group has left nothing.
fn has_read_all(printed: &str) -> bool {
    let rows = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_group = |row: &Vec<&str>| row.starts_with(&["storage-writer", "spans-raw"]);
    let rows: Vec<_> = rows.filter(of_group).collect();
    let read: usize = rows.iter().filter_map(|row| row[3].parse::<usize>().ok()).sum();
    // One that has no record has no commit.
    let is_read = |row: &Vec<&str>| row[5] == "0" || row[3..6] == ["-", "0", "-"];
    rows.len() == PARTITIONS && rows.iter().all(is_read) && read >= TRACES
}

/// Cells of a table that `cqlsh` has printed, of rows that begin with a number.
fn cells(printed: &str) -> Vec<Vec<&str>> {
    let rows = printed.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row[0].parse::<u64>().is_ok()).collect()
}

impl Reader<'_> {
    async fn look_at_kafka(&self, commands: &[&str]) {
        eventually("a record is printed", PATIENCE, || async {
            let printed = self.run(commands[0]).await?;
            let words = || String::from_utf8_lossy(&printed).into_owned();
            if is_a_record(&printed, &self.traces) { Ok(()) } else { Err(words()) }
        })
        .await;
        self.until(commands[1], has_read_all).await;
    }

    async fn look_at_cassandra(&self, commands: &[&str], since: u64) {
        let day = |nanos: u64| nanos / 86_400_000_000_000;
        self.until(commands[0], |printed| {
            let days = cells(printed);
            let is_day = |row: &Vec<&str>| {
                let found: u64 = row[0].parse().unwrap();
                row.len() == 1 && (day(since)..=day(now_nanos())).contains(&found)
            };
            let progress = (1..=PARTITIONS)
                .any(|rows| printed.trim_end().ends_with(&format!("({rows} rows)")));
            days.iter().any(is_day) && progress
        })
        .await;
        self.until(commands[1], |printed| {
            let rows = cells(printed);
            let spans = rows.iter().filter(|row| row[0] == "2").map(|row| row[1].to_owned());
            let sent = SPANS.map(|(id, _)| format!("0x{}", hex(&id.to_be_bytes())));
            let has = |part: &str| rows.iter().any(|row| row[0] == part);
            spans.collect::<BTreeSet<_>>() == BTreeSet::from(sent) && has("1") && !has("0")
        })
        .await;
    }

    async fn look_at_elasticsearch(&self, command: &str) {
        self.until(command, |printed| {
            let found: Value = serde_json::from_str(printed).unwrap_or_default();
            let hits = found["hits"]["hits"].as_array().map_or(0, Vec::len);
            let first = &found["hits"]["hits"][0]["_source"];
            found["hits"]["total"]["value"] == SPANS.len()
                && (hits, &first["traceID"]) == (1, &Value::from(hex(&self.traces[0])))
        })
        .await;
    }

    async fn look_at_clickhouse(&self, commands: &[&str]) {
        assert_eq!(quoted(commands[0]), quoted(commands[1]), "both ask the same");
        self.until(commands[1], |printed| {
            let rows: BTreeSet<_> = printed.lines().map(str::to_owned).collect();
            rows == BTreeSet::from(SPANS.map(|(_, name)| format!("{name}\t{NANOS}")))
        })
        .await;
    }

    /// The rows of a dashboard, by their columns.
    async fn until_rows(&self, sql: &str, check: impl Fn(&[Vec<String>]) -> bool) {
        let url = format!("http://{}", self.engines.address(Engine::Clickhouse));
        eventually(sql, PATIENCE, || async {
            let text = clickhouse_text(&url, sql).await?;
            let columns = |line: &str| line.split('\t').map(str::to_owned).collect();
            let rows: Vec<Vec<String>> = text.lines().map(columns).collect();
            if check(&rows) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    async fn look_at_dashboards(&self) {
        let questions: Vec<_> = fenced("## Dashboards on ClickHouse")
            .split(";\n")
            .filter(|sql| !sql.trim().is_empty())
            .collect();
        let [slow, rates, edges] = questions[..] else { panic!("{questions:?}") };
        let number = |text: &str| text.parse::<f64>().unwrap();
        let all = TRACES.to_string();
        self.until_rows(slow, |rows| {
            let is_right = |row: &Vec<String>| (0.9..1.1).contains(&number(&row[1]));
            !rows.is_empty() && rows.iter().all(is_right)
        })
        .await;
        self.until_rows(rates, |rows| {
            let spans = |name: &str, errors: &str| {
                let of = rows.iter().filter(|row| row[1] == name && row[3] == errors);
                of.map(|row| number(&row[2]) * 60.0).sum::<f64>().round().to_string()
            };
            let names: BTreeSet<_> = rows.iter().map(|row| row[1].as_str()).collect();
            names == BTreeSet::from(["charge", "serve"])
                && [spans("serve", "0"), spans("charge", "1")] == [all.as_str(); 2]
        })
        .await;
        self.until_rows(edges, |rows| {
            let [row] = rows else { return false };
            *row == [CALLER, SERVICE, all.as_str(), "0", "1"]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_see_what_the_handbook_says() {
    let turn = share_engines().await;
    // The names that the handbook has, which are the defaults.
    let names = Names::new("farspan");
    let since = now_nanos();
    let extra = yaml(&turn.engines, &names).replacen("  prefix: farspan.\n", "", 1);
    set_up(&extra).await;
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let traces = send(&federation).await;
    let spans = (TRACES * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &names, spans).await;
    let reader = Reader { engines: &turn.engines, path: path(), traces };
    let commands = commands();
    reader.look_at_kafka(&commands[..2]).await;
    reader.look_at_cassandra(&commands[2..4], since).await;
    reader.look_at_elasticsearch(commands[4]).await;
    reader.look_at_clickhouse(&commands[5..]).await;
    reader.look_at_dashboards().await;
}
