//! What the engine says of itself; what it keeps no table of is not known, with its name.

use trace_store::clickhouse::figures;

use super::Database;

#[tokio::test]
async fn an_engine_tells_its_disks_and_parts_and_names_the_tables_that_it_lacks() {
    let database = Database::new().await;
    let asked = figures(&database.config).await.unwrap();
    let disks = asked.disks.unwrap();
    assert!(!disks.is_empty());
    for disk in &disks {
        assert!(disk.free_bytes > 0 && disk.free_bytes < disk.total_bytes, "{disk:?}");
    }
    let parts = database
        .number("SELECT count() FROM system.parts WHERE active AND database = currentDatabase()");
    assert!(asked.parts_max.unwrap() <= parts.await.max(1));
    assert_eq!(asked.mutations.unwrap().stuck, 0);
    assert_eq!(asked.replicas.unwrap().read_only, 0);
    let kept = "SELECT count() FROM system.tables WHERE database = 'system' AND name = 'query_log'";
    if database.number(kept).await == 0 {
        assert_eq!(asked.inserts.unwrap_err(), "this engine keeps no system.query_log");
    } else {
        assert!(asked.inserts.is_ok());
    }
}
