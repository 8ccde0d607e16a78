//! What nodes say of themselves, after rows were written.

use std::time::Duration;

use trace_store::cassandra::figures;

use super::{Bench, cluster, received};
use crate::fixture::{span, trace_id};

#[tokio::test]
async fn a_node_tells_how_long_its_writes_and_reads_took() {
    let mut bench = Bench::new("figures").await;
    for number in 1..=20 {
        bench.write(&received(0, "web", &[span(number, 0, "root")])).await;
    }
    assert_eq!(bench.read(trace_id(1)).await.len(), 1);
    let asked = figures(&cluster::config(&bench.keyspace)).await.unwrap();
    assert!(!asked.nodes.is_empty());
    let node = &asked.nodes[0];
    assert!(node.is_up && node.version.is_some(), "{node:?}");
    assert!(node.tokens.is_some_and(|tokens| tokens > 0), "{node:?}");
    let local = node.local.as_ref().unwrap();
    // A request takes longer than a tenth of a millisecond anywhere: the unit is right.
    let is_plausible = |time: Option<Duration>| {
        time.is_some_and(|time| {
            (Duration::from_micros(100)..Duration::from_secs(60)).contains(&time)
        })
    };
    assert!(is_plausible(local.write_p99) && is_plausible(local.read_p99), "{local:?}");
    assert!(!local.data_directories.is_empty(), "{local:?}");
}
