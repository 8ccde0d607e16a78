//! The group storage-writer into Cassandra.

use std::sync::Arc;

use ingester::StorageWriterMaker;
use scylla::client::session_builder::SessionBuilder;
use trace_store::{CassandraConfig, CassandraStore};

use crate::bare_cassandra::{Bare, IN_FLIGHT};
use crate::measure::timed;
use crate::{ROUNDS, Rounds};

const KEYSPACE: &str = "farspan_bench_groups";
/// Requests that the bare side writes in one go, about 4 MiB: what a group reads at once.
const CALL_REQUESTS: usize = 16;

/// Rounds of both sides, into tables of their own in one keyspace.
pub(crate) async fn run(address: &str, mut rounds: Rounds) {
    let config = CassandraConfig {
        replication: [("dc1".to_owned(), 1)].into(),
        concurrency: IN_FLIGHT,
        ..CassandraConfig::at([address], KEYSPACE, "dc1")
    };
    let session = SessionBuilder::new().known_node(address).build().await.expect("a session");
    let drop_keyspace = format!("DROP KEYSPACE IF EXISTS {KEYSPACE}");
    session.query_unpaged(drop_keyspace.clone(), ()).await.expect("dropped");
    CassandraStore::init(&config).await.expect("a schema");
    let store = CassandraStore::connect(config, Arc::clone(&rounds.clock)).await.expect("a store");
    let bare = Bare::open(address, KEYSPACE).await;
    for round in 0..=ROUNDS {
        let requests = rounds.requests();
        let topic = rounds.log.fill(&requests).await;
        let ours = topic.taken_by(|incarnation| StorageWriterMaker {
            writer: Arc::clone(&store) as _,
            incarnation,
        });
        let spans = requests.iter().map(|request| request.batch.spans().len()).sum();
        let bares = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                bare.write(call).await;
            }
        });
        let (own, other) = if round % 2 == 0 {
            let own = ours.await;
            (own, bares.await)
        } else {
            let other = bares.await;
            (ours.await, other)
        };
        rounds.note(round, own, other);
    }
    rounds.print();
    session.query_unpaged(drop_keyspace, ()).await.expect("dropped");
}
