//! The cell itself is killed again and again, and its log is read again: every store counts each span
//! once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::counts::{Names, assert_no_record_was_inserted_twice, until_each_holds_after_kills};
use crate::fixture::now_nanos;
use crate::load::{Load, SPANS};
use crate::running_engines::share_engines;
use crate::whole_cell::{start, until_all_is_read_back};

/// Kills, each at a random moment of consuming; `aimed_kills` has those at chosen moments.
const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_and_a_replay_of_the_log_count_every_span_once() {
    let turn = share_engines().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let names = Names::new("kills");
    let since = now_nanos();
    let mut federation = start(&turn.engines, &names).await;
    let mut load = Load::start(&federation);
    for _ in 0..KILLS {
        load.next_acknowledged().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..2_500))).await;
        federation.kill_cell(0);
        // What was stored before the kill and is repeated behind it has rows twice, and only by their
        // second do they differ from those of a record that was inserted twice.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        federation.start_cell(0);
        federation.wait_ready(0).await;
    }
    load.next_acknowledged().await;
    load.stop().await;
    println!("{} traces over {KILLS} kills", load.ledger.len());
    until_all_is_read_back(&federation, &load.ledger, since).await;
    let spans = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds_after_kills(&turn.engines, &names, spans).await;

    // The whole log again, for every group that keeps how far it is in Kafka.
    federation.stop_cell(0);
    for group in ["storage-writer", "search-indexer", "metrics-aggregator", "analytics-writer"] {
        turn.engines.rewind(&format!("{}.{group}", names.name), &names.topic()).await;
    }
    federation.start_cell(0);
    federation.wait_ready(0).await;
    let mut load = Load::start(&federation);
    load.next_acknowledged().await;
    load.stop().await;
    let more = (load.ledger.len() * SPANS.len()) as u64;
    until_each_holds_after_kills(&turn.engines, &names, spans + more).await;
    assert_no_record_was_inserted_twice(&turn.engines, &names).await;
}
