//! Schema: made, made again, checked, refused.

use std::sync::Arc;
use std::time::Duration;

use service_kit::ManualClock;
use trace_store::{CassandraStore, StoreError};

use super::Bench;
use crate::cassandra::cluster;
use crate::fixture::NOW;

#[tokio::test]
async fn init_can_be_repeated_and_check_names_what_differs() {
    let bench = Bench::new("schema").await;
    let config = cluster::config(&bench.keyspace);
    CassandraStore::init(&config).await.unwrap();
    assert_eq!(CassandraStore::check(&config).await.unwrap(), Vec::<String>::new());
    let mut other = config.clone();
    other.retention = Duration::from_secs(7 * 24 * 3_600);
    other.replication = [("dc1".to_owned(), 3)].into();
    let keyspace = &bench.keyspace;
    for text in [
        format!("ALTER TABLE {keyspace}.spans DROP bytes"),
        format!("ALTER TABLE {keyspace}.spans ADD more int"),
        format!("DROP TABLE {keyspace}.held"),
    ] {
        bench.session.query_unpaged(text, ()).await.unwrap();
    }
    let lines = CassandraStore::check(&other).await.unwrap();
    for part in [
        "replication dc1 is 1, not 3",
        "spans.bytes is missing",
        "spans.more is not ours",
        "the table held is missing",
        "spans: compaction compaction_window_size is 24, not 6",
        "spans: default_time_to_live is 2592000, not 604800",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:?}");
    }
}

#[tokio::test]
async fn a_newer_schema_a_missing_one_and_a_wrong_data_centre_are_refused() {
    let bench = Bench::new("newer").await;
    let clock = Arc::new(ManualClock::at(NOW));
    let mut config = cluster::config(&bench.keyspace);
    config.local_datacenter = "dc9".to_owned();
    let refused = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("\"dc9\"; there are [\"dc1\"]"), "{refused}");
    config = cluster::config("farspan_test_nowhere");
    let refused = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("store init"), "{refused}");
    let lines = CassandraStore::check(&config).await.unwrap();
    assert_eq!(lines, ["the keyspace farspan_test_nowhere is missing"]);
    let text =
        format!("UPDATE {}.schema_version SET version = 2 WHERE component = ?", bench.keyspace);
    bench.session.query_unpaged(text, ("trace-store",)).await.unwrap();
    let config = cluster::config(&bench.keyspace);
    let refusals = [
        CassandraStore::connect(config.clone(), clock).await.err(),
        CassandraStore::init(&config).await.err(),
        CassandraStore::check(&config).await.err(),
    ];
    for refused in refusals {
        let is_newer = matches!(refused, Some(StoreError::NewerFormat { found: 2, known: 1, .. }));
        assert!(is_newer, "{refused:?}");
    }
}
