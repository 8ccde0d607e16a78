//! The trace store stands for so long that the log would let go what storage-writer has not: senders are
//! refused before that, and all that was acknowledged is there in the end.

use crate::counts::{Names, until_each_holds};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::now_nanos;
use crate::http::{eventually, get};
use crate::load::{Load, Refusal, SPANS};
use crate::outage::{Fault, Outage};
use crate::running_engines::{Engine, share_engines_but};
use crate::whole_cell::{REGION, set_up, until_all_is_read_back, yaml};

/// The shortest that can be configured. Half of it may pass.
const RETENTION: &str = "log: {retention: 1m}\n";
const TRACES: usize = 20;
const IS_BEHIND: &str = "farspan_span_log_behind_groups{group=\"storage-writer\"} 1";

#[tokio::test(flavor = "multi_thread")]
async fn senders_are_refused_before_the_log_lets_go_what_is_not_stored_and_nothing_is_lost() {
    let turn = share_engines_but(Engine::Cassandra).await;
    let names = Names::new("behind");
    let since = now_nanos();
    let extra = yaml(&turn.engines, &names) + RETENTION;
    set_up(&extra).await;
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let mut load = Load::start(&federation);
    load.acknowledges(TRACES).await;
    let outage = Outage::begin(&turn.engines, Engine::Cassandra, Fault::Stop);
    load.acknowledges(TRACES).await;
    assert_eq!(load.refusals(), [], "the log takes what the store does not");
    eventually("senders are refused", PATIENCE, || async {
        let has_refused = !load.refusals.lock().unwrap().is_empty();
        if has_refused { Ok(()) } else { Err("none was".to_owned()) }
    })
    .await;
    let metrics = format!("http://127.0.0.1:{}/metrics", federation.regions[0].ports.cell_admin);
    let metrics = String::from_utf8(get(&metrics).await.unwrap().body.to_vec()).unwrap();
    assert!(metrics.contains(IS_BEHIND), "{metrics}");
    outage.end().await;
    load.acknowledges(TRACES).await;
    let refusals = load.refusals();
    let is_retryable = |refusal: &Refusal| *refusal == Refusal::Status(503, true);
    assert!(!refusals.is_empty() && refusals.iter().all(is_retryable), "{refusals:?}");
    load.stop().await;
    println!("{} traces acknowledged, {} refusals", load.ledger.len(), refusals.len());
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds(&turn.engines, &names, spans).await;
}
