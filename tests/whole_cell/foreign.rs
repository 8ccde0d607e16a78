//! What others have written into a topic of theirs is in every store once, whatever dies meanwhile.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::counts::{Names, until_each_holds_after_kills};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id};
use crate::http::{eventually, get};
use crate::ledger::Ledger;
use crate::load::SPANS;
use crate::poison::dead_letters;
use crate::running_engines::share_engines;
use crate::whole_cell::{REGION, SERVICE, set_up, until_all_is_read_back, yaml};

/// Records of one round, and traces of a record.
const RECORDS: usize = 12;
const TRACES: usize = 8;
/// Kills, each while records are taken.
const KILLS: usize = 3;

/// An export as a line of OTLP JSON: many traces, as a collector's exporter writes them.
fn export(ledger: &Ledger, more: Option<serde_json::Value>) -> String {
    let mut spans: Vec<serde_json::Value> = more.into_iter().collect();
    for _ in 0..TRACES {
        let trace = random_trace_id();
        for id in SPANS {
            let parent = if id == 1 { String::new() } else { hex(&(id / 2).to_be_bytes()) };
            spans.push(span(&trace, id, &parent, "work"));
        }
        ledger.note(trace, &SPANS);
    }
    let service = json!([{ "key": "service.name", "value": { "stringValue": SERVICE } }]);
    let resource_spans = json!([{
        "resource": { "attributes": service }, "scopeSpans": [{ "spans": spans }],
    }]);
    json!({ "resourceSpans": resource_spans }).to_string()
}

fn span(trace: &[u8; 16], id: u64, parent: &str, name: &str) -> serde_json::Value {
    let start = now_nanos();
    json!({
        "traceId": hex(trace), "spanId": hex(&id.to_be_bytes()), "parentSpanId": parent,
        "name": name, "kind": 2,
        "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000_000).to_string(),
        "attributes": [{ "key": "http.route", "value": { "stringValue": "/cart/{id}" } }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_records_are_in_every_store_once_though_the_cell_dies_while_it_takes_them() {
    let turn = share_engines().await;
    let names = Names::new("foreign");
    let topic = format!("{}-otlp_spans", names.name);
    turn.engines.create_topic(&topic, 3).await;
    let since = now_nanos();
    let section =
        format!("  partitions: 4\n  foreign: {{topics: [{topic}], encoding: otlp_json}}\n");
    let extra = yaml(&turn.engines, &names).replace("  partitions: 4\n", &section);
    set_up(&extra).await;
    let ledger = Ledger::default();
    // A span that no record of the log can hold goes alone, and poison stops nobody.
    let large = span(&random_trace_id(), 7, "", &"x".repeat(910_000));
    let mut lines = format!("no export\n{}\n", export(&ledger, Some(large)));
    for _ in 0..RECORDS {
        writeln!(lines, "{}", export(&ledger, None)).unwrap();
    }
    turn.engines.produce(&topic, &lines).await;
    let mut federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    for pause in (0..).map(|kill| Duration::from_millis(40 + 130 * kill)).take(KILLS) {
        let lines = (0..RECORDS).map(|_| export(&ledger, None) + "\n");
        turn.engines.produce(&topic, &lines.collect::<String>()).await;
        tokio::time::sleep(pause).await;
        federation.kill_cell(0);
        federation.start_cell(0);
        federation.wait_ready(0).await;
    }
    until_all_is_read_back(&federation, &ledger, since).await;
    let spans = (ledger.len() * SPANS.len()) as u64;
    assert_eq!(ledger.len(), (1 + RECORDS + RECORDS * KILLS) * TRACES);
    until_each_holds_after_kills(&turn.engines, &names, spans).await;
    let metrics = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    eventually("nothing lags", PATIENCE, || async {
        let text = String::from_utf8_lossy(&get(&metrics).await?.body).into_owned();
        let is_done = text.contains("farspan_foreign_lag_records 0\n")
            && text.contains("farspan_foreign_assigned_partitions 3\n");
        let of_these = |line: &&str| line.contains("farspan_foreign");
        let shown = || text.lines().filter(of_these).collect::<Vec<_>>().join("\n");
        if is_done { Ok(()) } else { Err(shown()) }
    })
    .await;
    let (code, listed) = dead_letters(&federation, &["list"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let runs = listed["steppedOver"].as_array().unwrap();
    let reasons: Vec<&str> = runs.iter().filter_map(|run| run["reason"].as_str()).collect();
    let told = |words: &str| reasons.iter().filter(|reason| reason.contains(words)).count();
    assert_eq!((code, runs.len()), (Some(0), 2), "{listed}");
    assert_eq!((told("not JSON of"), told("1 with more bytes")), (1, 1), "{listed}");
    assert!(runs.iter().all(|run| run["topic"] == topic.as_str()), "{listed}");
}
