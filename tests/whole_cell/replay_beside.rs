//! A replay while a sender sends: live consumption goes on, no answer changes. And one between two times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::Value;

use crate::federation::PATIENCE;
use crate::http::{eventually, get};
use crate::parts::{Parts, TRACES};
use crate::replay::{documents, replayed, told, until_all_is_stored};
use crate::whole_cell::line_of;

/// Between requests of the sender.
const PAUSE: Duration = Duration::from_secs(1);
/// Records a second of a replay, so that it lasts while questions are asked. Where a machine is so busy that
/// it is over before all were, the next one goes at half the rate, and so on.
const RATE: u32 = 50;
const LEAST_RATE: u32 = 5;

/// What is answered of traces that are whole and of a service to which nothing more is sent: all of it but
/// how far it reaches.
async fn answers(parts: &Parts) -> Vec<Value> {
    let [first, last] = [parts.trace_ids().next().unwrap(), parts.trace_ids().next_back().unwrap()];
    let mut found = Vec::new();
    for path in [
        format!("traces/{first}"),
        format!("traces/{last}"),
        "search?service=cart&tag=http.route:/cart/%7Bid%7D&limit=500".to_owned(),
        "search?service=cart&operation=serve&limit=500".to_owned(),
        "red?service=cart".to_owned(),
        "edges".to_owned(),
    ] {
        let mut json = answered(parts, &path).await;
        let told = json.as_object_mut().unwrap();
        let what = ["resourceSpans", "traces", "series", "edges"];
        told.retain(|name, _| what.contains(&name.as_str()));
        assert_eq!(told.len(), 1, "{path}: {json}");
        found.push(json);
    }
    found
}

/// An answer that is complete, or only behind for a moment and says so. On a busy machine one may come too
/// late, which is said as well: it is asked for again.
async fn answered(parts: &Parts, path: &str) -> Value {
    let url = format!("http://{}/api/farspan/v1/{path}", parts.gateway);
    eventually("the region answers", PATIENCE, || async {
        let answer = get(&url).await?;
        let json = answer.json();
        let line = line_of(&json);
        let is_told = line.starts_with("complete") || line.contains("(behind its promise");
        if answer.status == 200 && is_told { Ok(json) } else { Err(format!("{path}: {json}")) }
    })
    .await
}

/// Into the cell's own stores, while a sender sends and questions are asked.
pub(crate) async fn beside_a_sender(parts: &mut Parts) {
    for group in ["search-indexer", "storage-writer"] {
        let mut rate = RATE;
        while !is_seen_beside_a_sender(parts, group, rate).await {
            rate /= 2;
            assert!(rate >= LEAST_RATE, "{group}: no replay lasted for a round of questions");
        }
    }
}

/// One replay at this rate; says whether it lasted until all questions were answered and more documents were
/// counted than before.
async fn is_seen_beside_a_sender(parts: &mut Parts, group: &str, rate: u32) -> bool {
    let before = answers(parts).await;
    assert_eq!(before[2]["traces"].as_array().map_or(0, Vec::len), 30, "{before:?}");
    let (stored, records) = (told(|| documents(parts.name())).await, parts.records());
    let is_over = AtomicBool::new(false);
    let going = || !is_over.load(Ordering::Relaxed);
    let replaying = async {
        let arguments = [group, "--from", "earliest", "--rate", &rate.to_string()];
        let summary = replayed(parts, &arguments).await;
        is_over.store(true, Ordering::Relaxed);
        summary
    };
    let sending = async {
        let mut sent = Vec::new();
        while going() {
            sent.extend(parts.send_one().await);
            tokio::time::sleep(PAUSE).await;
        }
        sent
    };
    // Answers stay, and what is sent meanwhile is indexed meanwhile.
    let asking = async {
        let (mut asked, mut last) = (0, stored);
        while going() {
            assert_eq!(answers(parts).await, before);
            let found = told(|| documents(parts.name())).await;
            if going() {
                (asked, last) = (asked + 1, found);
            }
        }
        (asked, last)
    };
    let (summary, sent, (asked, last)) = tokio::join!(replaying, sending, asking);
    println!(
        "{group} at {rate}/s: {} sent, asked {asked} times, {stored} became {last}",
        sent.len()
    );
    parts.note(sent);
    let [replayed, spans] = ["records", "spans"].map(|what| summary[what].as_u64().unwrap());
    let most = parts.records() + parts.repeated();
    assert!((records..=most).contains(&replayed), "{records} to {most}: {summary}");
    // Thirty records are calls, of two spans each.
    let most = replayed + 30 + parts.repeated();
    assert!((replayed + 30..=most).contains(&spans), "{most}: {summary}");
    until_all_is_stored(parts).await;
    assert_eq!(answers(parts).await[2..], before[2..]);
    asked >= 1 && last > stored
}

/// A moment before which everything was appended that was acknowledged, and behind which all else will be:
/// the log knows milliseconds.
async fn moment() -> String {
    let millis = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap()
    };
    let moment = millis() + 1;
    while millis() < moment {
        tokio::task::yield_now().await;
    }
    Timestamp::from_millisecond(moment).unwrap().to_string()
}

/// What was sent between two times, and nothing else; and what was sent within some time.
pub(crate) async fn between_two_times(parts: &mut Parts) {
    let from = moment().await;
    parts.send(3).await;
    let until = moment().await;
    parts.send(2).await;
    until_all_is_stored(parts).await;
    let view = format!("{}t", parts.name());
    let between = ["search-indexer", "--from", &from, "--until", &until];
    let summary = replayed(parts, &[&between[..], &["--into", &view]].concat()).await;
    let sent = 3 * TRACES as u64;
    let is_sent = |summary: &Value, what: &str| {
        let most = sent + parts.repeated();
        summary[what].as_u64().is_some_and(|found| (sent..=most).contains(&found))
    };
    assert!(is_sent(&summary, "records") && is_sent(&summary, "spans"), "{sent}: {summary}");
    assert_eq!(told(|| documents(&view)).await, sent);
    let summary = replayed(parts, &between).await;
    assert!(is_sent(&summary, "records"), "{sent}: {summary}");
    let view = format!("{}h", parts.name());
    replayed(parts, &["search-indexer", "--from", "1h", "--into", &view]).await;
    assert_eq!(told(|| documents(&view)).await, parts.sent());
    assert_eq!(told(|| documents(parts.name())).await, parts.sent());
}
