//! The database: made, checked, never run against when it is newer.

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::table::on_cluster;
use super::tables::{self, TRACE_TIMES, TRACE_TIMES_BY};
use crate::migration::{MigrationReport, Schema, expect};
use crate::port::StoreError;

/// The version of the tables that this release makes and understands.
pub const SCHEMA_VERSION: u32 = 1;

/// The same, and the steps from older ones.
pub static SCHEMA: Schema = Schema { version: SCHEMA_VERSION, steps: &[] };

/// Makes the database, its tables and views where they are missing, and sets the retention that is
/// configured. Refuses a database of a newer release. Repeating it is harmless.
pub async fn init(config: &ClickhouseConfig) -> Result<(), StoreError> {
    let engine = Engine::open(config.clone())?;
    let mut statements = ddl(config).into_iter();
    for statement in statements.by_ref().take(BEFORE_VERSION) {
        engine.define(&statement).await?;
    }
    let found = version_of(&engine).await?;
    if found.is_some() {
        // Older tables are a person's to migrate: beside them nothing is made.
        expect(&name_of(config), found, SCHEMA_VERSION)?;
    }
    for statement in statements {
        engine.define(&statement).await?;
    }
    expire(&engine).await?;
    engine.define(&note_of(config, SCHEMA_VERSION)).await
}

/// Sets the retention of tables that were made with another one. The engine then looks at all of
/// their parts, so that this is not done without need.
async fn expire(engine: &Engine) -> Result<(), StoreError> {
    let config = &engine.config;
    for table in tables::ALL {
        let Some(expiry) = table.expiry(config) else { continue };
        let made = engine.books(
            "SELECT create_table_query FROM system.tables \
             WHERE database = {database:String} AND name = {name:String}",
        );
        let made = made.param("database", &config.database).param("name", table.local(config));
        let made: Vec<String> = engine.rows(made).await?;
        if !made.iter().any(|made| made.contains(&format!("TTL {expiry} SETTINGS"))) {
            engine.define(&table.expire(config, &expiry)).await?;
        }
    }
    Ok(())
}

/// The version of the tables, `None` where [`init`] did not run.
pub async fn schema_version(config: &ClickhouseConfig) -> Result<Option<u32>, StoreError> {
    version_of(&Engine::open(config.clone())?).await
}

/// The statements that [`init`] runs.
#[must_use]
pub fn ddl(config: &ClickhouseConfig) -> Vec<String> {
    let (database, on_cluster) = (&config.database, on_cluster(config));
    let engine = if config.cluster.is_some() {
        format!(
            "ReplicatedMergeTree('/clickhouse/tables/all/{database}/schema_version', \
             '{{shard}}-{{replica}}')"
        )
    } else {
        "MergeTree".to_owned()
    };
    let mut statements = vec![
        format!("CREATE DATABASE IF NOT EXISTS {database}{on_cluster}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {database}.schema_version{on_cluster} \
             (version UInt32, at DateTime('UTC')) ENGINE = {engine} ORDER BY version"
        ),
    ];
    for table in tables::ALL {
        statements.extend(table.statements(config));
    }
    statements.push(format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.{times}_mv{on_cluster} \
         TO {database}.{} AS SELECT {TRACE_TIMES} FROM {database}.{} \
         WHERE TraceId != '' GROUP BY {TRACE_TIMES_BY}",
        tables::OTEL_TRACES_TRACE_ID_TS.local(config),
        tables::OTEL_TRACES.local(config),
        times = tables::OTEL_TRACES_TRACE_ID_TS.name,
    ));
    statements
}

/// Statements of [`ddl`] that the question for the version needs.
const BEFORE_VERSION: usize = 2;

/// Fails unless the engine takes the login and the database is one of this release.
pub(super) async fn check(engine: &Engine) -> Result<(), StoreError> {
    engine.greet().await?;
    expect(&name_of(&engine.config), version_of(engine).await?, SCHEMA_VERSION)
}

/// A database as errors name it.
pub(super) fn name_of(config: &ClickhouseConfig) -> String {
    format!("the clickhouse database {}", config.database)
}

/// Leads the database to this schema ([`SCHEMA`] is the release's), step by step; with `is_dry_run`
/// only says which steps are due.
///
/// # Errors
/// As [`Schema::due`]; [`StoreError::Unavailable`] while the engine is away.
pub async fn migrate(
    config: &ClickhouseConfig,
    schema: &Schema,
    is_dry_run: bool,
) -> Result<MigrationReport, StoreError> {
    let engine = Engine::open(config.clone())?;
    engine.greet().await?;
    let report = schema.due(&name_of(config), version_of(&engine).await?)?;
    if is_dry_run {
        return Ok(report);
    }
    let database = &config.database;
    for step in &report.steps {
        for statement in step.statements {
            let statement = statement.replace("{store}", database);
            engine.define(&statement.replace("{on_cluster}", &on_cluster(config))).await?;
        }
        engine.define(&note_of(config, step.to)).await?;
    }
    Ok(report)
}

/// Notes a version, once.
fn note_of(config: &ClickhouseConfig, version: u32) -> String {
    let database = &config.database;
    format!(
        "INSERT INTO {database}.schema_version (version, at) SELECT {version}, now() \
         WHERE {version} NOT IN (SELECT version FROM {database}.schema_version)"
    )
}

pub(super) async fn version_of(engine: &Engine) -> Result<Option<u32>, StoreError> {
    let is_there = engine.books_of_all(
        "SELECT count() FROM system.tables \
         WHERE database = {database:String} AND name = 'schema_version'",
    );
    let found: Vec<u64> = engine.rows(is_there.param("database", &engine.config.database)).await?;
    if found == [0] {
        return Ok(None);
    }
    let versions: Vec<u32> =
        engine.rows(engine.books("SELECT version FROM schema_version")).await?;
    Ok(versions.into_iter().max())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clickhouse::config::StorageTiers;

    fn on_a_cluster() -> ClickhouseConfig {
        ClickhouseConfig {
            cluster: Some("three_by_two".to_owned()),
            storage: Some(StorageTiers {
                policy: "tiered".to_owned(),
                volume: "cold".to_owned(),
                after: Duration::from_secs(86_400),
            }),
            ..ClickhouseConfig::new("http://127.0.0.1:8123", "farspan")
        }
    }

    fn starting<'a>(statements: &'a [String], start: &str) -> &'a str {
        let found: Vec<_> =
            statements.iter().filter(|statement| statement.starts_with(start)).collect();
        let [one] = found[..] else { panic!("{start}: {found:?}") };
        one
    }

    #[test]
    fn on_a_cluster_tables_are_replicated_in_their_shard_and_distributed_over_all() {
        let statements = ddl(&on_a_cluster());
        for statement in &statements {
            assert!(statement.contains(" ON CLUSTER three_by_two"), "{statement}");
        }
        let create = "CREATE TABLE IF NOT EXISTS farspan.";
        let local = starting(&statements, &format!("{create}otel_traces_local "));
        for part in [
            "ENGINE = ReplicatedMergeTree(\
             '/clickhouse/tables/{shard}/farspan/otel_traces', '{replica}')",
            "PARTITION BY (IsOutlying, if(IsOutlying, toDate(AppendTime, 'UTC'), \
             toDate(Timestamp, 'UTC')))",
            "ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))",
            "TTL AppendTime + toIntervalSecond(2592000), \
             AppendTime + toIntervalSecond(86400) TO VOLUME 'cold'",
            "replicated_deduplication_window = 1000",
            "storage_policy = 'tiered'",
        ] {
            assert!(local.contains(part), "{part}\n{local}");
        }
        let spread = starting(&statements, &format!("{create}otel_traces ON"));
        assert!(
            spread.ends_with(
                "AS farspan.otel_traces_local ENGINE = \
                 Distributed(three_by_two, farspan, otel_traces_local, cityHash64(TraceId))"
            ),
            "{spread}"
        );
        let series = starting(&statements, &format!("{create}red_services_local "));
        assert!(
            series.contains(
                "ENGINE = ReplicatedAggregatingMergeTree(\
                 '/clickhouse/tables/{shard}/farspan/red_services', '{replica}')"
            ),
            "{series}"
        );
        let lists = starting(&statements, &format!("{create}edge_traces_local "));
        assert!(lists.contains("/edge_traces', '{replica}', block)"), "{lists}");
        // Rows enter at the shard's own inbox, so that block and view are in one place.
        let inbox = starting(&statements, &format!("{create}red_services_inbox_local "));
        assert!(inbox.ends_with("ENGINE = Null"), "{inbox}");
        let view =
            starting(&statements, "CREATE MATERIALIZED VIEW IF NOT EXISTS farspan.red_services");
        assert!(view.contains("TO farspan.red_services_local AS SELECT"), "{view}");
        assert!(view.ends_with("FROM farspan.red_services_inbox_local"), "{view}");
        // The books are one for all nodes.
        let books = starting(&statements, &format!("{create}metrics_progress "));
        assert!(
            books
                .contains("'/clickhouse/tables/all/farspan/metrics_progress', '{shard}-{replica}'"),
            "{books}"
        );
        assert!(!books.contains("TTL") && !books.contains("storage_policy"), "{books}");
    }

    #[test]
    fn on_one_engine_nothing_is_replicated_and_parts_are_synced() {
        let statements = ddl(&ClickhouseConfig::new("http://127.0.0.1:8123", "farspan"));
        for statement in &statements {
            for absent in ["CLUSTER", "Replicated", "Distributed", "storage_policy", "VOLUME"] {
                assert!(!statement.contains(absent), "{statement}");
            }
            if statement.contains("MergeTree(") {
                assert!(statement.contains("fsync_after_insert = 1"), "{statement}");
                assert!(
                    statement.contains("non_replicated_deduplication_window = 1000"),
                    "{statement}"
                );
            }
        }
    }
}
