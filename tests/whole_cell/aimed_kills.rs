//! The cell dies between a store's write and the commit of what was written, again and again: what a
//! store holds and Kafka has not committed is watched, and the moment is taken.

use crate::counts::{
    DISTINCT, Names, assert_no_record_was_inserted_twice, cassandra, clickhouse, committed,
    elasticsearch, until_each_holds_after_kills,
};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{encode, now_nanos, random_trace_id, request, span};
use crate::http::eventually;
use crate::ledger::Ledger;
use crate::running_engines::{Engine, Engines, share_engines};
use crate::whole_cell::{REGION, SERVICE, set_up, until_all_is_read_back, yaml};

/// Kills that strike between write and commit; `FARSPAN_TEST_KILLS` says another number.
const KILLS: usize = 20;
/// Traces that are sent before each.
const BURST: usize = 6;
/// Spans of a trace, of which the last is a call to another service.
const SPANS: [u64; 3] = [1, 2, 3];
const PARTITIONS: u32 = 4;

/// Whose moment is taken. The last two are read by one process at a time, which is followed only when
/// its session has ended: theirs comes less often.
const AIMS: [&str; 7] = [
    "storage-writer",
    "search-indexer",
    "storage-writer",
    "search-indexer",
    "metrics-aggregator",
    "search-indexer",
    "analytics-writer",
];

fn kills() -> usize {
    std::env::var("FARSPAN_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Spans in the store of a group, each once.
async fn stored(engines: &Engines, names: &Names, group: &str) -> Result<u64, String> {
    let name = &names.name;
    let distinct = format!("SELECT {DISTINCT} FROM {name}.otel_traces");
    let seen = format!("SELECT sum(seen) FROM {name}.red_services");
    let rows = format!("SELECT count(*) FROM {name}.spans WHERE part = 2 ALLOW FILTERING");
    match group {
        "storage-writer" => cassandra(&engines.address(Engine::Cassandra), &rows).await,
        "search-indexer" => elasticsearch(engines, name).await,
        "metrics-aggregator" => clickhouse(engines, &seen).await,
        "analytics-writer" => clickhouse(engines, &distinct).await,
        other => panic!("{other} has no store"),
    }
}

/// Spans that a group's store holds, and those of them whose records are not committed.
async fn in_between(engines: &Engines, names: &Names, group: &str) -> Result<(u64, u64), String> {
    // In this order: a commit that comes meanwhile makes it less, never more.
    let stored = stored(engines, names, group).await?;
    let of_group = format!("{}.{group}", names.name);
    let broker = engines.address(Engine::Kafka);
    let records = committed(&broker, (&of_group, &names.topic()), PARTITIONS).await?;
    Ok((stored, stored.saturating_sub(records * SPANS.len() as u64)))
}

async fn send_burst(federation: &Federation, ledger: &Ledger) {
    for _ in 0..BURST {
        let trace = random_trace_id();
        let [first, second, called] = SPANS;
        let own = vec![span(trace, first, 0, "work"), span(trace, second, first, "call")];
        let mut body = request(SERVICE, own);
        let called = request("called", vec![span(trace, called, second, "serve")]);
        body.resource_spans.extend(called.resource_spans);
        let body = encode(&body);
        eventually("a trace is acknowledged", PATIENCE, || federation.export(0, body.clone()))
            .await;
        ledger.note(trace, &SPANS);
    }
}

/// Kills the cell in the moment of a group; says whether it was in time.
async fn strike(
    (engines, names): (&Engines, &Names),
    federation: &mut Federation,
    ledger: &Ledger,
    group: &str,
) -> bool {
    let cell: &Federation = federation;
    send_burst(cell, ledger).await;
    eventually("a store holds what is not committed", PATIENCE, || async {
        let (stored, between) = in_between(engines, names, group).await?;
        if between > 0 {
            return Ok(());
        }
        if stored == (ledger.len() * SPANS.len()) as u64 {
            // Too late for this burst: the next one is looked at.
            send_burst(cell, ledger).await;
        }
        Err(format!("{group} holds {stored}\n{}", cell.last_words()))
    })
    .await;
    federation.kill_cell(0);
    // A commit may have been on its way.
    let has_struck = in_between(engines, names, group).await.unwrap().1 > 0;
    federation.start_cell(0);
    federation.wait_ready(0).await;
    has_struck
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_between_a_stores_write_and_the_commit_count_every_span_and_every_call_once() {
    let turn = share_engines().await;
    let names = Names::new("aimed");
    let since = now_nanos();
    // A process that is started again has its partitions at once, or after the shortest session.
    let section = "  partitions: 4\n  member: one\n";
    let extra = yaml(&turn.engines, &names).replace("  partitions: 4\n", section);
    set_up(&extra).await;
    let mut federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let ledger = Ledger::default();
    let (mut struck, mut missed) = (0, 0);
    while struck < kills() {
        let group = AIMS[struck % AIMS.len()];
        let begun = std::time::Instant::now();
        match strike((&turn.engines, &names), &mut federation, &ledger, group).await {
            true => struck += 1,
            false => missed += 1,
        }
        println!("{group}: {struck} kills, {missed} too late; {:?}", begun.elapsed());
        assert!(missed <= 10 + kills() / 2, "{missed} kills came too late");
    }
    let (traces, spans) = (ledger.len() as u64, (ledger.len() * SPANS.len()) as u64);
    until_each_holds_after_kills(&turn.engines, &names, spans).await;
    until_all_is_read_back(&federation, &ledger, since).await;
    let edges = format!("SELECT sum(seen) FROM {}.edges", names.name);
    eventually("every call is counted once", PATIENCE, || async {
        let found = clickhouse(&turn.engines, &edges).await?;
        if found == traces { Ok(()) } else { Err(format!("{found} of {traces}")) }
    })
    .await;
    assert_no_record_was_inserted_twice(&turn.engines, &names).await;
}
