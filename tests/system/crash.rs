//! kill -9 in the middle of everything: what was acknowledged is read back, by id and by search.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, hex, now_nanos, random_trace_id, request, span, text};
use crate::http::{eventually, get, send};
use crate::ledger::Ledger;

/// Kills of the cell, at random moments of a running load.
const CYCLES: usize = 30;
/// Senders at once.
const SENDERS: usize = 4;

/// Sends traces of three spans until told to stop; notes those that were acknowledged.
async fn load(otlp_http: u16, mark: String, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let url = format!("http://127.0.0.1:{otlp_http}/v1/traces");
    let headers = [("content-type", "application/x-protobuf")];
    while !stop.load(Ordering::Relaxed) {
        let trace = random_trace_id();
        let spans = [(1, 0), (2, 1), (3, 1)].map(|(id, parent)| {
            let mut span = span(trace, id, parent, "work");
            span.attributes.push(text("crash.mark", &mark));
            span
        });
        let body = encode(&request("crash-load", spans.to_vec()));
        match send(http::Method::POST, &url, &headers, body).await {
            Ok(answer) if answer.status.is_success() => ledger.note(trace, &[1, 2, 3]),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_kills_lose_no_acknowledged_span() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let started = now_nanos();
    let mut federation = Federation::start(&["eu-west-1"], &[]).await;
    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let port = federation.regions[0].ports.otlp_http;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let load = load(port, "m1".to_owned(), Arc::clone(&ledger), Arc::clone(&stop));
            tokio::spawn(load)
        })
        .collect();
    for cycle in 0..CYCLES {
        let before = ledger.len();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        federation.kill_cell(0);
        federation.start_cell(0);
        federation.wait_ready(0).await;
        eventually("the load goes on", PATIENCE, || async {
            if ledger.len() > before { Ok(()) } else { Err(format!("cycle {cycle}")) }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
    read_back_by_id(&federation, &ledger).await;
    read_back_by_search(&federation, &ledger, started).await;
}

async fn read_back_by_id(federation: &Federation, ledger: &Ledger) {
    let entries = ledger.entries();
    println!("{} traces acknowledged over {CYCLES} kills", entries.len());
    assert!(entries.len() > CYCLES);
    for (trace, spans) in entries {
        let expected: Vec<_> = spans.iter().map(|id| hex(&id.to_be_bytes())).collect();
        eventually("an acknowledged trace is read by id", PATIENCE, || async {
            let (line, found) = federation.certified(0, &trace).await?;
            let is_whole = line.starts_with("complete") && found == expected;
            if is_whole { Ok(()) } else { Err(format!("{} {line} {found:?}", hex(&trace))) }
        })
        .await;
    }
}

/// Pages through a search by attribute until every acknowledged trace was found.
async fn read_back_by_search(federation: &Federation, ledger: &Ledger, started: u64) {
    let wanted: BTreeSet<_> = ledger.entries().iter().map(|(trace, _)| hex(trace)).collect();
    eventually("every acknowledged trace is found by search", PATIENCE, || async {
        let found = search_all(federation, started).await?;
        let lacking: Vec<_> = wanted.difference(&found).take(3).collect();
        if lacking.is_empty() {
            Ok(())
        } else {
            Err(format!("{} found, lacking {lacking:?}", found.len()))
        }
    })
    .await;
}

async fn search_all(federation: &Federation, started: u64) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let url = format!(
            "{}/api/farspan/v1/search?service=crash-load&tag=crash.mark:m1&start={}&limit=500{cursor}",
            federation.gateway_url(0),
            started / 1_000,
        );
        let answer = get(&url).await?;
        let json = answer.json();
        let traces = json["traces"].as_array().ok_or_else(|| json.to_string())?;
        found
            .extend(traces.iter().filter_map(|trace| trace["traceId"].as_str()).map(str::to_owned));
        match json["nextCursor"].as_str() {
            Some(next) if !traces.is_empty() => cursor = format!("&cursor={next}"),
            _ => return Ok(found),
        }
    }
}
