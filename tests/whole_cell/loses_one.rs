//! One broker of three dies, one data centre of two: senders notice nothing, and all is answered.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clusters::Clusters;
use crate::counts::{Names, cassandra, until_all_hold};
use crate::federation::{Federation, PATIENCE};
use crate::fixture::{hex, now_nanos};
use crate::http::eventually;
use crate::load::{Load, Refusal, SPANS};
use crate::running_engines::share_engines;
use crate::whole_cell::{REGION, set_up, until_all_is_read_back};

/// From a loss on, what was acknowledged before and what comes then is acknowledged and answered, on a machine
/// that does nothing else.
const WITHIN: Duration = Duration::from_secs(15);

/// Whether the machine is asked for that: where `FARSPAN_TEST_OUTAGE` is set, as for other measures. Elsewhere a
/// busy one may take longer than the log waits for a new leader, and then says so to the sender.
fn is_measured() -> bool {
    std::env::var_os("FARSPAN_TEST_OUTAGE").is_some()
}

/// Enough that each of 6 partitions has some, but for 3 times in 1,000,000.
const OF_ALL_PARTITIONS: usize = 80;

fn span_ids() -> Vec<String> {
    SPANS.map(|id| hex(&id.to_be_bytes())).to_vec()
}

/// A trace is answered whole, within what is left of the time. Never is an answer complete that lacks some of it.
async fn until_whole(federation: &Federation, what: &str, trace: &[u8], since: Instant) {
    let within = if is_measured() { WITHIN } else { PATIENCE };
    eventually(what, within.saturating_sub(since.elapsed()), || async {
        let (line, found) = federation.certified(0, trace).await?;
        let is_complete = line.starts_with("complete");
        assert!(!is_complete || found == span_ids(), "{what}: {line} {found:?}");
        let is_whole = found == span_ids() && is_complete;
        if is_whole {
            Ok(())
        } else {
            Err(format!("{line} {found:?}\n{}", federation.last_words()))
        }
    })
    .await;
}

/// No sender was refused, and none waited for longer than it may; where that is not asked for, those who were
/// refused were told to come again.
fn assert_unnoticed(load: &Load, what: &str) {
    let (refusals, slowest) = (load.refusals(), load.slowest());
    println!("{what}: acknowledged within {slowest:?}, {} refusals", refusals.len());
    if is_measured() {
        assert_eq!(refusals, [], "{what}: no sender is refused");
        assert!(slowest < WITHIN, "{what}: {slowest:?}");
    }
    let is_retryable = |refusal: &Refusal| *refusal == Refusal::Status(503, true);
    assert!(refusals.iter().all(is_retryable), "{what}: {refusals:?}");
}

async fn lose_a_broker(clusters: &Clusters, federation: &Federation, load: &Load, old: &[u8]) {
    let broker = clusters.leading_broker().await;
    load.slowest();
    clusters.kill_broker(broker);
    let lost = Instant::now();
    until_whole(federation, "what was there is answered without the broker", old, lost).await;
    load.acknowledges(OF_ALL_PARTITIONS).await;
    assert_unnoticed(load, "a broker dies");
    let fresh = load.next_acknowledged().await;
    until_whole(federation, "and so is what comes", &fresh, Instant::now()).await;
    clusters.start_broker_again(broker).await;
}

/// How a data centre is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Killed,
    Stopped,
}

async fn lose_a_datacenter(
    clusters: &Clusters,
    (federation, load): (&Federation, &Load),
    (datacenter, loss): (usize, Loss),
    old: &[u8],
) {
    let what = format!("data centre {datacenter} is {loss:?}");
    let signal = match loss {
        Loss::Killed => Signal::KILL,
        Loss::Stopped => Signal::STOP,
    };
    clusters.signal_datacenter(datacenter, signal);
    let lost = Instant::now();
    until_whole(federation, &format!("{what}: the old"), old, lost).await;
    println!("{what}: answered after {:?}", lost.elapsed());
    let fresh = load.next_acknowledged().await;
    until_whole(federation, &format!("{what}: the new"), &fresh, Instant::now()).await;
    match loss {
        Loss::Killed => clusters.start_datacenter_again(datacenter).await,
        Loss::Stopped => clusters.signal_datacenter(datacenter, Signal::CONT),
    }
    assert_unnoticed(load, &what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_and_a_data_centre_of_two_are_lost_and_no_sender_or_answer_lacks_them() {
    let turn = share_engines().await;
    let clusters = Clusters::start().await;
    let names = Names::new("losesone");
    let since = now_nanos();
    let extra = clusters.yaml(&turn.engines, &names);
    set_up(&extra).await;
    let federation = Federation::start(&[REGION], &[(REGION, &extra)]).await;
    let mut load = Load::start(&federation);
    let old = load.next_acknowledged().await;
    until_whole(&federation, "a trace is whole", &old, Instant::now()).await;
    lose_a_broker(&clusters, &federation, &load, &old).await;
    // The nearer one stands, and dies; the other stands.
    for (datacenter, loss) in [(1, Loss::Stopped), (1, Loss::Killed), (2, Loss::Stopped)] {
        lose_a_datacenter(&clusters, (&federation, &load), (datacenter, loss), &old).await;
    }
    load.stop().await;
    assert_unnoticed(&load, "afterwards");
    println!("{} traces acknowledged", load.ledger.len());
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_all_hold(&turn.engines, &clusters.nodes(), &names, spans).await;

    // One that stays away is taken out of the keyspace, and the cell writes on as it is.
    clusters.signal_datacenter(1, Signal::KILL);
    let [_, other] = clusters.nodes();
    let alter = format!(
        "ALTER KEYSPACE {} WITH replication = {{'class': 'NetworkTopologyStrategy', 'dc2': 1}}",
        names.name
    );
    cassandra(&other, &alter).await.unwrap();
    let mut load = Load::start(&federation);
    load.acknowledges(5).await;
    load.stop().await;
    let more = (load.ledger.len() * SPANS.len()) as u64;
    until_all_hold(&turn.engines, &[other], &names, spans + more).await;
}
