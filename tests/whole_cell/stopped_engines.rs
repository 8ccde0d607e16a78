//! One engine stands or dies under a load: nothing is lost, and answers name what is missing.

use std::time::Duration;

use crate::counts::{Names, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos, random_trace_id};
use crate::http::{eventually, get};
use crate::load::{Load, Refusal, SPANS};
use crate::running_engines::{Engine, Engines, have_engines_alone};
use crate::whole_cell::{
    ROUTE, SERVICE, line_of, search, search_for, start, until_all_is_read_back,
};

const IS_AWAY: &str = "missing eu-west-1 (its trace store is away)";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Stop,
    Kill,
}

fn span_ids() -> Vec<String> {
    SPANS.map(|id| hex(&id.to_be_bytes())).to_vec()
}

async fn until_line(
    federation: &Federation,
    trace: &[u8],
    what: &str,
    is_so: impl Fn(&str) -> bool,
) {
    eventually(what, PATIENCE, || async {
        let (line, found) = federation.certified(0, trace).await?;
        let is_found = found == span_ids() && is_so(&line);
        if is_found {
            Ok(())
        } else {
            Err(format!("{line} {found:?}\n{}", federation.last_words()))
        }
    })
    .await;
}

/// By id without the trace store: fresh traces from the live tail, never called complete, and nothing
/// is proven absent.
async fn ask_without_traces(federation: &Federation, load: &Load, old: &[u8], since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "a fresh trace comes from the live tail", |line| {
        line.contains(IS_AWAY)
    })
    .await;
    let (line, _) = federation.certified(0, old).await.unwrap();
    assert!(line.contains(IS_AWAY), "{line}");
    let unknown = federation.trace_json(0, &random_trace_id()).await.unwrap();
    assert_eq!(unknown.status, 503, "no absence is proven: {unknown:?}");
    until_found_whichever_way(federation, &fresh, since).await;
}

/// By a service alone, which the trace store's tables are asked first, and by an attribute beside it, which
/// the search index is.
async fn until_found_whichever_way(federation: &Federation, fresh: &[u8], since: u64) {
    for asked in [format!("service={SERVICE}"), format!("service={SERVICE}&{ROUTE}")] {
        eventually("one store searches in the other's place", PATIENCE, || async {
            let found = search_for(federation, &asked, since, "").await?;
            let is_found = found.to_string().contains(&hex(fresh));
            if is_found && line_of(&found).starts_with("complete") {
                Ok(())
            } else {
                Err(format!("{asked}: {found}"))
            }
        })
        .await;
    }
}

/// Without the search index the trace store's tables find by service; a search that names none fails and
/// says so. By id everything is there.
async fn ask_without_search(federation: &Federation, load: &Load, since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "by id all is there", |line| line.starts_with("complete")).await;
    until_found_whichever_way(federation, &fresh, since).await;
    let services = format!("{}/api/farspan/v1/services", federation.gateway_url(0));
    let services = get(&services).await.unwrap().json();
    assert!(services.to_string().contains(SERVICE), "{services}");
    let found = search_for(federation, ROUTE, since, "").await.unwrap();
    let line = line_of(&found);
    assert!(line.starts_with("partial") && line.contains("missing eu-west-1"), "{found}");
}

/// Counts fail and say so; by id and by search everything is there.
async fn ask_without_counts(federation: &Federation, load: &Load, since: u64) {
    let fresh = load.next_acknowledged().await;
    until_line(federation, &fresh, "by id all is there", |line| line.starts_with("complete")).await;
    eventually("search goes on alone", PATIENCE, || async {
        let found = search(federation, since, "").await?;
        if found.to_string().contains(&hex(&fresh)) { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let red = format!("{}/api/farspan/v1/red?service=cell-load", federation.gateway_url(0));
    let red = get(&red).await.unwrap().json();
    assert!(line_of(&red).contains("missing eu-west-1"), "{red}");
}

async fn go_through(
    (engines, federation): (&Engines, &Federation),
    load: &Load,
    (engine, fault): (Engine, Fault),
    since: u64,
) {
    println!("{fault:?} {engine:?}");
    let old = load.next_acknowledged().await;
    until_line(federation, &old, "a trace is whole", |line| line.starts_with("complete")).await;
    match fault {
        Fault::Stop => engines.stop(engine),
        Fault::Kill => engines.kill(engine),
    }
    match engine {
        Engine::Cassandra => ask_without_traces(federation, load, &old, since).await,
        Engine::Elasticsearch => ask_without_search(federation, load, since).await,
        Engine::Clickhouse => ask_without_counts(federation, load, since).await,
        Engine::Kafka => panic!("no store"),
    }
    match fault {
        Fault::Stop => engines.go_on(engine),
        Fault::Kill => engines.start_again(engine).await,
    }
    let late = load.next_acknowledged().await;
    until_line(federation, &late, "all is there again", |line| line.starts_with("complete")).await;
    assert_eq!(load.refusals(), [], "no sender noticed anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stands_or_dies_refuses_no_sender_loses_nothing_and_its_absence_is_named() {
    let turn = have_engines_alone().await;
    let names = Names::new("stores");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    for fault in [Fault::Stop, Fault::Kill] {
        for engine in [Engine::Cassandra, Engine::Elasticsearch, Engine::Clickhouse] {
            go_through((&turn.engines, &federation), &load, (engine, fault), since).await;
        }
    }
    load.stop().await;
    println!("{} traces acknowledged", load.ledger.len());
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &names, spans).await;
}

/// Longer than the receivers wait for the log.
const LOG_STANDS: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_stands_refuses_retryably_and_what_is_repeated_is_there_once() {
    let turn = have_engines_alone().await;
    let names = Names::new("log");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    let old = load.next_acknowledged().await;
    until_line(&federation, &old, "a trace is whole", |line| line.starts_with("complete")).await;
    turn.engines.stop(Engine::Kafka);
    let stands = tokio::time::Instant::now() + LOG_STANDS;
    eventually("senders are refused", PATIENCE, || async {
        let has_refused = !load.refusals.lock().unwrap().is_empty();
        let is_over = tokio::time::Instant::now() >= stands;
        if has_refused && is_over { Ok(()) } else { Err("none was".to_owned()) }
    })
    .await;
    let unknown = federation.trace_json(0, &random_trace_id()).await.unwrap();
    assert_eq!(unknown.status, 503, "the tail may lack what the log has: {unknown:?}");
    turn.engines.go_on(Engine::Kafka);
    load.next_acknowledged().await;
    load.stop().await;
    let refusals = load.refusals();
    println!("{} refusals", refusals.len());
    let is_retryable = |refusal: &Refusal| *refusal == Refusal::Status(503, true);
    assert!(!refusals.is_empty() && refusals.iter().all(is_retryable), "{refusals:?}");
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &names, spans).await;
}
