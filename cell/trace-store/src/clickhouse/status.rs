//! How a database stands, for whoever operates it.

use clickhouse::Row;
use serde::Deserialize;
use trace_model::Coverage;

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::metrics::counted;
use super::schema::{SCHEMA_VERSION, version_of};
use super::spans::stored;
use super::tables;
use crate::port::{PartSize, StoreError, StoreStatus};

#[derive(Debug, Deserialize, Row)]
struct SizeRow {
    table: String,
    rows: u64,
    bytes: u64,
}

/// How the database stands; changes nothing.
///
/// # Errors
/// [`StoreError::Unavailable`] while the engine is away, and what its login is refused with.
pub async fn status(config: &ClickhouseConfig) -> Result<StoreStatus, StoreError> {
    let engine = Engine::open(config.clone())?;
    engine.greet().await?;
    let version: Vec<String> = engine.rows(engine.books_of_all("SELECT version()")).await?;
    let version = version.into_iter().next().unwrap_or_default();
    let schema = version_of(&engine).await?;
    let name = format!("ClickHouse {version}");
    let mut status = StoreStatus { engine: name, schema, ..StoreStatus::default() };
    if schema == Some(SCHEMA_VERSION) {
        status.differences = differences(&engine).await?;
        status.sizes = sizes(&engine).await?;
        let counted: Coverage = counted(&engine).await?;
        status.covered =
            vec![("metrics-aggregator", counted), ("analytics-writer", stored(&engine).await?)];
    }
    Ok(status)
}

/// Tables that are missing, and retention that is another.
async fn differences(engine: &Engine) -> Result<Vec<String>, StoreError> {
    let config = &engine.config;
    let made = engine.books(
        "SELECT name, create_table_query FROM system.tables WHERE database = {database:String}",
    );
    let made: Vec<(String, String)> = engine.rows(made.param("database", &config.database)).await?;
    let mut differences = Vec::new();
    for table in tables::ALL {
        let local = table.local(config);
        let Some((_, definition)) = made.iter().find(|(name, _)| *name == local) else {
            differences.push(format!("the table {local} is missing"));
            continue;
        };
        let expiry = table.expiry(config);
        if expiry.is_some_and(|expiry| !definition.contains(&format!("TTL {expiry} SETTINGS"))) {
            differences.push(format!("{local}: rows move or go at another time than configured"));
        }
    }
    Ok(differences)
}

async fn sizes(engine: &Engine) -> Result<Vec<PartSize>, StoreError> {
    let parts = engine.books(
        "SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts \
         WHERE database = {database:String} AND active GROUP BY table ORDER BY bytes DESC",
    );
    let rows: Vec<SizeRow> = engine.rows(parts.param("database", &engine.config.database)).await?;
    let size = |row: SizeRow| PartSize { name: row.table, rows: Some(row.rows), bytes: row.bytes };
    Ok(rows.into_iter().map(size).collect())
}
