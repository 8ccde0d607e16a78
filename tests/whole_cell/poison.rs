//! Records that another program put into the topic stop nobody.

use std::process::Command;

use crate::counts::Names;
use crate::federation::{Federation, PATIENCE};
use crate::fixture::now_nanos;
use crate::http::{eventually, get};
use crate::load::Load;
use crate::running_engines::share_engines;
use crate::whole_cell::{start, until_all_is_read_back};

const GROUPS: [&str; 5] = [
    "storage-writer",
    "search-indexer",
    "metrics-aggregator",
    "metadata-publisher",
    "analytics-writer",
];

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_spans_are_set_aside_with_a_reason_and_stop_no_group() {
    let turn = share_engines().await;
    let names = Names::new("poison");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    load.next_acknowledged().await;
    turn.engines.produce(&names.topic(), "these bytes are no OTLP\nnor these\n").await;
    load.next_acknowledged().await;
    load.stop().await;
    until_all_is_read_back(&federation, &load.ledger, since).await;
    until_each_group_has_stepped_over(&federation, 2).await;
    let words = federation.regions[0].cell.as_ref().unwrap().output();
    assert!(words.contains("and set aside group=storage-writer"), "{words}");
    // Nobody's spans were in them: no answer is short of anything.
    let (code, listed) = dead_letters(&federation, &["list"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((code, &listed["lost"]), (Some(0), &serde_json::json!([])), "{listed}");
    // Whoever looks for their writer finds where they lie, and nothing of what they hold.
    for group in GROUPS {
        let runs = listed["steppedOver"].as_array().unwrap().iter();
        let of_group = runs.filter(|run| run["group"] == group);
        let records =
            of_group.map(|run| run["next"].as_u64().unwrap() - run["first"].as_u64().unwrap());
        assert_eq!(records.sum::<u64>(), 2, "{group}: {listed}");
    }
    assert!(!listed.to_string().contains("no OTLP"), "{listed}");

    // A record under a trace's key that cannot be read is a loss, and every answer that it may be
    // missing from says so until a person has seen to it.
    let (trace, _) = load.ledger.entries()[0];
    turn.engines.produce_with_key(&names.topic(), "AAAAAAAAAAAAAAAAdefault", "garbage").await;
    eventually("the loss is named", PATIENCE, || async {
        let (line, _) = federation.certified(0, &trace).await?;
        if line.contains("missing eu-west-1 (damaged)") { Ok(()) } else { Err(line) }
    })
    .await;
    // Whoever meets it before storage-writer is past it names it again.
    until_each_group_has_stepped_over(&federation, 3).await;
    let (code, listed) = dead_letters(&federation, &["list"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((code, listed["lost"][0]["cause"].as_str()), (Some(0), Some("damaged")), "{listed}");
    let id = listed["lost"][0]["id"].as_str().unwrap();
    assert_eq!(dead_letters(&federation, &["drop", id]).0, Some(0));
    // Nothing comes behind it: the cover of the search index goes on over it all the same.
    until_all_is_read_back(&federation, &load.ledger, since).await;
}

async fn until_each_group_has_stepped_over(federation: &Federation, records: u64) {
    let metrics = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    eventually("every group has stepped over what is no span", PATIENCE, || async {
        let text = get(&metrics).await?;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        for group in GROUPS {
            let label = format!("{{group=\"{group}\"}}");
            let line = |name: &str, value: u64| format!("farspan_ingester_{name}{label} {value}\n");
            for line in [line("damaged_records_total", records), line("lag_records", 0)] {
                if !text.contains(&line) {
                    return Err(format!("{line} is not in {text}"));
                }
            }
        }
        Ok(())
    })
    .await;
}

/// Exit code and output of an operator's command on the cell.
pub(crate) fn dead_letters(federation: &Federation, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["dead-letters", "--json", "--data-dir"])
        .arg(federation.cell_data(0))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}
