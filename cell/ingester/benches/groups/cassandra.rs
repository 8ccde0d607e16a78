//! The group storage-writer into Cassandra, against two loops over the driver: one that writes the rows
//! that ours has written, and one that writes the same spans as a program would that needs no search:
//! one plain table.

use std::sync::Arc;

use ingester::StorageWriterMaker;
use scylla::client::session_builder::SessionBuilder;
use trace_store::{CassandraConfig, CassandraStore};

use crate::bare_cassandra::{Bare, IN_FLIGHT};
use crate::bare_cassandra_rows::SameRows;
use crate::measure::timed;
use crate::{ROUNDS, Rounds};

const KEYSPACE: &str = "farspan_bench_groups";
/// Where the rows of the round are written again.
const OTHER: &str = "farspan_bench_groups_bare";
/// Requests that the bare side writes in one go, about 4 MiB: what a group reads at once.
const CALL_REQUESTS: usize = 16;

fn config(address: &str, keyspace: &str) -> CassandraConfig {
    CassandraConfig {
        replication: [("dc1".to_owned(), 1)].into(),
        concurrency: IN_FLIGHT,
        ..CassandraConfig::at([address], keyspace, "dc1")
    }
}

/// Rounds of all sides, each into empty tables: ours first, since the others write what it wrote.
pub(crate) async fn run(address: &str, mut rounds: Rounds, mut plain: Rounds) {
    let session = SessionBuilder::new().known_node(address).build().await.expect("a session");
    for keyspace in [KEYSPACE, OTHER] {
        let drop_keyspace = format!("DROP KEYSPACE IF EXISTS {keyspace}");
        session.query_unpaged(drop_keyspace, ()).await.expect("dropped");
        CassandraStore::init(&config(address, keyspace)).await.expect("a schema");
    }
    let store = CassandraStore::connect(config(address, KEYSPACE), Arc::clone(&rounds.clock)).await;
    let store = store.expect("a store");
    let bare = Bare::open(address, OTHER).await;
    let same = SameRows::open(address, KEYSPACE, OTHER).await;
    for round in 0..=ROUNDS {
        let requests = rounds.requests();
        let topic = rounds.log.fill(&requests).await;
        let ours = topic.taken_by(|incarnation| StorageWriterMaker {
            writer: Arc::clone(&store) as _,
            incarnation,
        });
        let ours = ours.await;
        let spans = requests.iter().map(|request| request.batch.spans().len()).sum();
        let rows = same.read().await;
        assert_eq!(rows.span_count, spans, "each span is a row");
        let rewritten = timed(spans, same.write(&rows)).await;
        let bares = timed(spans, async {
            for call in requests.chunks(CALL_REQUESTS) {
                bare.write(call).await;
            }
        });
        rounds.note(round, ours, rewritten);
        plain.note(round, ours, bares.await);
        same.empty().await;
    }
    rounds.print();
    plain.print();
    for keyspace in [KEYSPACE, OTHER] {
        session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await.expect("dropped");
    }
}
