//! What others have written into a topic of theirs is in every store once, whatever dies meanwhile: as a
//! Collector's exporter for Kafka writes it, in either encoding.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::{Span, TracesData};
use serde_json::json;

use crate::counts::{Names, until_each_holds_after_kills};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span};
use crate::http::{eventually, get};
use crate::ledger::Ledger;
use crate::load::SPANS;
use crate::poison::dead_letters;
use crate::producer::produce_bytes;
use crate::running_engines::{Engine, Engines, share_engines};
use crate::whole_cell::{REGION, SERVICE, set_up, until_all_is_read_back, yaml};

/// Records of one round, and traces of a record.
const RECORDS: usize = 12;
const TRACES: usize = 8;
/// Kills, each while records are taken.
const KILLS: usize = 3;
const PARTITIONS: u32 = 3;

/// How the exporter was told to write.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    OtlpProto,
    OtlpJson,
}

impl Encoding {
    /// Its name here, which is the exporter's as well.
    const fn name(self) -> &'static str {
        match self {
            Self::OtlpProto => "otlp_proto",
            Self::OtlpJson => "otlp_json",
        }
    }

    /// What is said of bytes that are none of it.
    const fn refusal(self) -> &'static str {
        match self {
            Self::OtlpProto => "not an OTLP trace export request",
            Self::OtlpJson => "not JSON of",
        }
    }

    fn encode(self, export: &TracesData) -> Vec<u8> {
        match self {
            Self::OtlpProto => encode(export).to_vec(),
            Self::OtlpJson => json_of(export).into_bytes(),
        }
    }
}

fn json_of(export: &TracesData) -> String {
    let scopes = export.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let spans: Vec<_> = scopes.flat_map(|scope| &scope.spans).map(json_of_span).collect();
    let service = json!([{ "key": "service.name", "value": { "stringValue": SERVICE } }]);
    let resource_spans = json!([{
        "resource": { "attributes": service }, "scopeSpans": [{ "spans": spans }],
    }]);
    json!({ "resourceSpans": resource_spans }).to_string()
}

fn json_of_span(span: &Span) -> serde_json::Value {
    json!({
        "traceId": hex(&span.trace_id), "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id), "name": span.name, "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "attributes": [{ "key": "http.route", "value": { "stringValue": "/cart/{id}" } }],
    })
}

/// Who writes into the topic.
struct Exporter<'a> {
    engines: &'a Engines,
    topic: String,
    encoding: Encoding,
    ledger: Ledger,
}

impl Exporter<'_> {
    /// A record of many traces.
    fn export(&self, more: Option<Span>) -> Vec<u8> {
        let mut spans: Vec<Span> = more.into_iter().collect();
        for _ in 0..TRACES {
            let trace = random_trace_id();
            spans.extend(SPANS.map(|id| span(trace, id, id / 2, "work")));
            self.ledger.note(trace, &SPANS);
        }
        self.encoding.encode(&request(SERVICE, spans))
    }

    fn exports(&self) -> Vec<Vec<u8>> {
        (0..RECORDS).map(|_| self.export(None)).collect()
    }

    async fn write(&self, records: &[Vec<u8>]) {
        let broker = self.engines.address(Engine::Kafka);
        produce_bytes(&broker, (&self.topic, PARTITIONS), records).await;
    }

    /// A span that no record of the log can hold goes alone, and poison stops nobody.
    fn with_what_cannot_be_taken(&self) -> Vec<Vec<u8>> {
        let large = span(random_trace_id(), 7, 0, &"x".repeat(910_000));
        let mut records = vec![b"no export".to_vec(), self.export(Some(large))];
        records.extend(self.exports());
        records
    }
}

async fn until_nothing_lags(federation: &Federation) {
    let metrics = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    eventually("nothing lags", PATIENCE, || async {
        let text = String::from_utf8_lossy(&get(&metrics).await?.body).into_owned();
        let is_done = text.contains("farspan_foreign_lag_records 0\n")
            && text.contains(&format!("farspan_foreign_assigned_partitions {PARTITIONS}\n"));
        let of_these = |line: &&str| line.contains("farspan_foreign");
        let shown = || text.lines().filter(of_these).collect::<Vec<_>>().join("\n");
        if is_done { Ok(()) } else { Err(shown()) }
    })
    .await;
}

/// What was stepped over is listed, each once.
fn assert_listed(federation: &Federation, exporter: &Exporter<'_>) {
    let (code, listed) = dead_letters(federation, &["list"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let runs = listed["steppedOver"].as_array().unwrap();
    let reasons: Vec<&str> = runs.iter().filter_map(|run| run["reason"].as_str()).collect();
    let told = |words: &str| reasons.iter().filter(|reason| reason.contains(words)).count();
    assert_eq!((code, runs.len()), (Some(0), 2), "{listed}");
    let refusal = exporter.encoding.refusal();
    assert_eq!((told(refusal), told("1 with more bytes")), (1, 1), "{listed}");
    assert!(runs.iter().all(|run| run["topic"] == exporter.topic.as_str()), "{listed}");
}

async fn all_is_taken_once(name: &str, encoding: Encoding) {
    let turn = share_engines().await;
    let names = Names::new(name);
    let topic = format!("{name}-otlp_spans");
    turn.engines.create_topic(&topic, PARTITIONS).await;
    let since = now_nanos();
    let section = format!(
        "  partitions: 4\n  foreign: {{topics: [{topic}], encoding: {}}}\n",
        encoding.name()
    );
    let extra = yaml(&turn.engines, &names).replace("  partitions: 4\n", &section);
    set_up(&extra).await;
    let exporter = Exporter { engines: &turn.engines, topic, encoding, ledger: Ledger::default() };
    exporter.write(&exporter.with_what_cannot_be_taken()).await;
    let mut federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    for pause in (0..).map(|kill| Duration::from_millis(40 + 130 * kill)).take(KILLS) {
        exporter.write(&exporter.exports()).await;
        tokio::time::sleep(pause).await;
        federation.kill_cell(0);
        federation.start_cell(0);
        federation.wait_ready(0).await;
    }
    let ledger = &exporter.ledger;
    until_all_is_read_back(&federation, ledger, since).await;
    let spans = (ledger.len() * SPANS.len()) as u64;
    assert_eq!(ledger.len(), (1 + RECORDS + RECORDS * KILLS) * TRACES);
    until_each_holds_after_kills(&turn.engines, &names, spans).await;
    until_nothing_lags(&federation).await;
    assert_listed(&federation, &exporter);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_protobuf_is_in_every_store_once_though_the_cell_dies_while_it_takes_it() {
    all_is_taken_once("foreignproto", Encoding::OtlpProto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_json_is_in_every_store_once_though_the_cell_dies_while_it_takes_it() {
    all_is_taken_once("foreignjson", Encoding::OtlpJson).await;
}
