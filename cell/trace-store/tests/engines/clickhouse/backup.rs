//! A database that was lost comes back from its backup, by the statements of docs/OPERATIONS.md.

use clickhouse::Client;
use trace_store::MetricsStore;

use super::Database;
use super::crashes::{assert_counted_once, full_delta};

#[tokio::test]
async fn a_database_that_was_lost_comes_back_from_its_backup_and_counts_on() {
    let database = Database::new().await;
    let store = database.metrics().await;
    for next in 1..=3 {
        store.apply(full_delta(next)).await.unwrap();
    }
    let insert =
        "INSERT INTO otel_traces (Timestamp, TraceId, AppendTime) VALUES (now(), 'a', now())";
    database.run(insert).await;
    let name = &database.config.database;
    // Of no database: it is away in between.
    let client = Client::default().with_url(&database.engine);
    let run = async |sql: String| client.query(&sql).execute().await.unwrap();
    run(format!("BACKUP DATABASE {name} TO Disk('backups', '{name}')")).await;
    store.apply(full_delta(4)).await.unwrap();
    run(format!("DROP DATABASE {name} SYNC")).await;
    run(format!("RESTORE DATABASE {name} FROM Disk('backups', '{name}')")).await;
    assert_counted_once(&database, 3).await;
    assert_eq!(database.number("SELECT count() FROM otel_traces WHERE TraceId = 'a'").await, 1);
    // Its group begins before the backup: what is held is not counted again, what came later is.
    let store = database.metrics().await;
    for next in 2..=5 {
        store.apply(full_delta(next)).await.unwrap();
    }
    assert_counted_once(&database, 5).await;
}
