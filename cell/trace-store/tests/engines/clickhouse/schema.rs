//! Making a database, and making it again.

use std::time::Duration;

use trace_store::clickhouse::{SCHEMA_VERSION, ddl, init, schema_version};
use trace_store::{ClickhouseMetricsStore, ClickhouseSpans, StorageTiers, StoreError};

use super::{Database, clock};

#[tokio::test]
async fn a_database_is_made_once_and_a_newer_one_is_refused() {
    let database = Database::named();
    assert_eq!(schema_version(&database.config).await.unwrap(), None);
    for _ in 0..2 {
        init(&database.config).await.unwrap();
        assert_eq!(schema_version(&database.config).await.unwrap(), Some(SCHEMA_VERSION));
    }
    assert_eq!(database.number("SELECT count() FROM schema_version").await, 1);
    database.run("INSERT INTO schema_version VALUES (2, now())").await;
    let refused = [
        init(&database.config).await,
        ClickhouseMetricsStore::connect(database.config.clone(), clock()).await.map(|_| ()),
        ClickhouseSpans::connect(database.config.clone(), clock()).await.map(|_| ()),
    ];
    for refused in refused {
        let is_newer = matches!(refused, Err(StoreError::NewerFormat { found: 2, known: 1, .. }));
        assert!(is_newer, "{refused:?}");
    }
}

#[tokio::test]
async fn a_retention_that_is_changed_is_changed_in_the_tables_and_old_parts_move_before_they_go() {
    let database = Database::new().await;
    let tables = ["red_services", "red_operations", "edges", "edge_traces", "otel_traces"];
    let definition = async |table: &str| {
        let sql = format!(
            "SELECT create_table_query FROM system.tables \
             WHERE database = currentDatabase() AND name = '{table}'"
        );
        database.ask::<String>(&sql).await.remove(0)
    };
    for table in tables {
        let before = definition(table).await;
        assert!(before.contains("toIntervalSecond(2592000)"), "{before}");
    }
    let mut changed = database.config.clone();
    changed.retention = Duration::from_secs(7 * 86_400);
    init(&changed).await.unwrap();
    for table in tables {
        let after = definition(table).await;
        assert!(after.contains("toIntervalSecond(604800)"), "{after}");
        assert!(!after.contains("2592000"), "{after}");
    }
    let mut database = Database::named();
    database.config.storage = Some(StorageTiers {
        policy: "tiered".to_owned(),
        volume: "warm".to_owned(),
        after: Duration::from_secs(3_600),
    });
    init(&database.config).await.unwrap();
    // What arrived long ago moves at once.
    database
        .run(
            "INSERT INTO otel_traces (Timestamp, TraceId, AppendTime) \
             SELECT now() - 7200, 'a', now() - 7200",
        )
        .await;
    let disk = "SELECT disk_name FROM system.parts \
                WHERE database = currentDatabase() AND table = 'otel_traces' AND active";
    let moved = tokio::time::timeout(Duration::from_secs(60), async {
        while database.ask::<String>(disk).await != ["warm"] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    moved.await.unwrap();
}

#[tokio::test]
async fn the_statements_are_what_the_engine_has() {
    let database = Database::new().await;
    for statement in ddl(&database.config) {
        let Some(rest) = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ") else { continue };
        let name = rest.split([' ', '(']).next().unwrap().split('.').next_back().unwrap();
        let sql = format!(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = '{name}'"
        );
        assert_eq!(database.number(&sql).await, 1, "{name}");
    }
}
