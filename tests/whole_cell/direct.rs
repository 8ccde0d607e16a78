//! A cell without Kafka: two collectors, each with a log of its own, one front over both, and stores that
//! they share. `tests/engines/all.sh` starts the engines and says where they are.

use std::time::Duration;

use serde_json::{Value, json};

use crate::direct_cell::{Cell, SOON};
use crate::fixture::{encode, now_nanos, request, span};
use crate::http::{eventually, get};

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
    cell.until_it_is_not_retired(1, "stop it for good").await;
    cell.until_stored(1).await;
    cell.collectors[1].kill();
    let gone_at = now_nanos();
    cell.until_it_is_not_retired(1, "may still run").await;
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

    /// Until the front says for this reason that it does not retire a collector. Never does it.
    async fn until_it_is_not_retired(&self, number: usize, why: &str) {
        eventually(why, SOON, || async {
            let refused = self.ask_front("collectors", &["retire", &number.to_string()]).await;
            assert!(!refused.status.success(), "{refused:?}");
            let words = String::from_utf8_lossy(&refused.stderr).into_owned();
            if words.contains(why) { Ok(()) } else { Err(words) }
        })
        .await;
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
