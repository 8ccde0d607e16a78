//! Schema: made, made again, checked, refused.

use std::sync::Arc;
use std::time::Duration;

use service_kit::ManualClock;
use trace_store::cassandra::SCHEMA;
use trace_store::{CassandraStore, Migration, Schema, SpanWriter as _, StoreError};

use super::Bench;
use crate::cassandra::cluster;
use crate::fixture::{NOW, Request, span, trace_id};

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

static STEPS: [Migration; 2] = [
    Migration {
        to: 2,
        what: "a column",
        statements: &["ALTER TABLE {store}.services ADD owner text"],
    },
    Migration {
        to: 3,
        what: "a table",
        statements: &["CREATE TABLE IF NOT EXISTS {store}.notes (note text PRIMARY KEY)"],
    },
];
static NEXT: Schema = Schema { version: 3, steps: &STEPS };

#[tokio::test]
async fn a_schema_goes_forward_step_by_step_while_the_old_release_writes_on() {
    let mut bench = Bench::new("migrated").await;
    let config = cluster::config(&bench.keyspace);
    bench.write(&Request::of("web", &[span(1, 0, "a")])).await;
    bench.flush().await;
    let status = CassandraStore::status(&config).await.unwrap();
    assert_eq!((status.schema, &status.differences[..]), (Some(1), &[][..]));
    assert_eq!(status.covered[0].1, bench.store.durable());
    let planned = CassandraStore::migrate(&config, &NEXT, true).await.unwrap();
    assert_eq!((planned.found, planned.wanted, &planned.steps[..]), (1, 3, &STEPS[..]));
    assert_eq!(CassandraStore::status(&config).await.unwrap().schema, Some(1));
    // As if a try before had been cut off behind its statement.
    let statement = STEPS[0].statements[0].replace("{store}", &bench.keyspace);
    bench.session.query_unpaged(statement, ()).await.unwrap();
    assert_eq!(CassandraStore::migrate(&config, &NEXT, false).await.unwrap(), planned);
    let mut noted =
        bench.rows::<(String, i32)>("SELECT component, version FROM {}.schema_version").await;
    noted.sort();
    let expected = [("trace-store", 3), ("trace-store step 2", 2), ("trace-store step 3", 3)];
    assert_eq!(noted, expected.map(|(component, version)| (component.to_owned(), version)));
    // Who was there reads and writes on; what was there has nothing in what is new.
    bench.write(&Request::of("cart", &[span(2, 0, "b")])).await;
    assert_eq!((bench.read(trace_id(1)).await.len(), bench.read(trace_id(2)).await.len()), (1, 1));
    let text = "UPDATE {}.services SET owner = 'team' WHERE tenant = 't' AND day = 1 AND bucket = 0 AND service = 's'";
    bench.session.query_unpaged(text.replace("{}", &bench.keyspace), ()).await.unwrap();
    let mut owners =
        bench.rows::<(String, Option<String>)>("SELECT service, owner FROM {}.services").await;
    owners.sort();
    let owner = |(service, owner): &(String, Option<String>)| (service.clone(), owner.is_some());
    let owners: Vec<_> = owners.iter().map(owner).collect();
    assert_eq!(owners, [("cart".into(), false), ("s".into(), true), ("web".into(), false)]);
    assert_eq!(CassandraStore::migrate(&config, &NEXT, false).await.unwrap().steps, []);
    let refusals = [
        CassandraStore::connect(config.clone(), bench.clock.clone()).await.err(),
        CassandraStore::init(&config).await.err(),
        CassandraStore::migrate(&config, &SCHEMA, false).await.err(),
    ];
    for refused in refusals {
        let is_newer = matches!(refused, Some(StoreError::NewerFormat { found: 3, known: 1, .. }));
        assert!(is_newer, "{refused:?}");
    }
    let text = "UPDATE {}.schema_version SET version = 0 WHERE component = 'trace-store'";
    bench.session.query_unpaged(text.replace("{}", &bench.keyspace), ()).await.unwrap();
    for refused in [
        CassandraStore::connect(config.clone(), bench.clock.clone()).await.err(),
        CassandraStore::init(&config).await.err(),
    ] {
        let refused = refused.unwrap().to_string();
        assert!(refused.contains("store migrate"), "{refused}");
    }
}
