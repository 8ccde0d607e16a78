//! Records that another program put into the topic stop nobody.

use std::process::Command;

use crate::counts::Names;
use crate::federation::PATIENCE;
use crate::fixture::now_nanos;
use crate::http::{eventually, get};
use crate::load::Load;
use crate::running_engines::take_turn;
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
    let turn = take_turn().await;
    let names = Names::new("poison");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    load.next_acknowledged().await;
    turn.engines.produce(&names.topic(), "these bytes are no OTLP\nnor these\n").await;
    load.next_acknowledged().await;
    load.stop().await;
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let metrics = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    eventually("every group has stepped over both", PATIENCE, || async {
        let text = get(&metrics).await?;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        for group in GROUPS {
            let label = format!("{{group=\"{group}\"}}");
            let line = |name: &str, value: u64| format!("farspan_ingester_{name}{label} {value}\n");
            for line in [line("damaged_records_total", 2), line("lag_records", 0)] {
                if !text.contains(&line) {
                    return Err(format!("{line} is not in {text}"));
                }
            }
        }
        Ok(())
    })
    .await;
    let words = federation.last_words();
    assert!(words.contains("records are damaged and set aside"), "{words}");
    let listed = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["dead-letters", "--data-dir"])
        .arg(federation.cell_data(0))
        .arg("list")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&listed.stdout));
    assert!(listed.status.success(), "{listed:?}");
}
