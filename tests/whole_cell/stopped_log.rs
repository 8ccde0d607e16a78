//! The log of a cell, one broker, stands or dies under a load: senders are refused retryably, and what they
//! repeat is there once.

use crate::counts::{Names, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{now_nanos, random_trace_id};
use crate::http::eventually;
use crate::load::{Load, Refusal, SPANS};
use crate::outage::{Fault, Outage};
use crate::running_engines::{Engine, Engines, share_engines_but};
use crate::stopped_engines::{span_ids, until_line};
use crate::whole_cell::{start, until_all_is_read_back};

/// Traces that are sent before each outage.
const TRACES: usize = 50;

/// The log is away: nothing is acknowledged, and no answer is called complete that may lack what it has.
async fn go_through(engines: &Engines, federation: &Federation, load: &Load, fault: Fault) {
    load.acknowledges(TRACES).await;
    let old = load.next_acknowledged().await;
    until_line(federation, &old, "a trace is whole", |line| line.starts_with("complete")).await;
    let outage = Outage::begin(engines, Engine::Kafka, fault);
    eventually("senders are refused", PATIENCE, || async {
        let has_refused = !load.refusals.lock().unwrap().is_empty();
        if has_refused { Ok(()) } else { Err("none was".to_owned()) }
    })
    .await;
    let acknowledged = load.ledger.len();
    while !outage.has_lasted() {
        let unknown = federation.trace_json(0, &random_trace_id()).await.unwrap();
        assert_eq!(unknown.status, 503, "the tail may lack what the log has: {unknown:?}");
        eventually("what is stored is answered", PATIENCE, || async {
            let (line, found) = federation.certified(0, &old).await?;
            assert!(line.starts_with("partial"), "{line}");
            if found == span_ids() { Ok(()) } else { Err(format!("{line} {found:?}")) }
        })
        .await;
    }
    assert_eq!(load.ledger.len(), acknowledged, "nothing is acknowledged without the log");
    outage.end().await;
    load.acknowledges(TRACES).await;
    let late = load.next_acknowledged().await;
    until_line(federation, &late, "all is there again", |line| line.starts_with("complete")).await;
    let refusals = load.refusals();
    println!("{} refusals", refusals.len());
    let is_retryable = |refusal: &Refusal| *refusal == Refusal::Status(503, true);
    assert!(!refusals.is_empty() && refusals.iter().all(is_retryable), "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_stands_or_dies_refuses_retryably_and_what_is_repeated_is_there_once() {
    let turn = share_engines_but(Engine::Kafka).await;
    let names = Names::new("log");
    let since = now_nanos();
    let federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    for fault in [Fault::Stop, Fault::Kill] {
        go_through(&turn.engines, &federation, &load, fault).await;
    }
    load.stop().await;
    assert_eq!(load.refusals(), [], "it is there again for good");
    println!("{} traces acknowledged", load.ledger.len());
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &names, spans).await;
}
