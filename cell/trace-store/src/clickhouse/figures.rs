//! How the engine is, in its own system tables: for those who look after it. Changes nothing.
//!
//! What a table that is missing would say is not known, with the engine's own word for why: not every
//! installation keeps a query log or measures its machine.

use std::time::Duration;

use clickhouse::{Row, RowOwned, RowRead};
use serde::Deserialize;

use super::client::Engine;
use super::config::ClickhouseConfig;
use crate::port::StoreError;

/// The engine's code (`ErrorCodes.cpp`) for a table that is not there.
const UNKNOWN_TABLE: &str = "UNKNOWN_TABLE";
/// Queries of so long ago are looked at.
const LOOK_BACK: Duration = Duration::from_secs(3_600);
/// A mutation that is not done after so long is stuck.
const MUTATION_MAX: Duration = Duration::from_secs(3_600);

/// A figure, or why it is not known.
type Known<T> = Result<T, String>;

/// What an engine says; on a cluster, all of its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct ClickhouseFigures {
    /// Its disks.
    pub disks: Known<Vec<DiskFigures>>,
    /// Share of the busiest machine's processors, 0 to 1.
    pub cpu_used: Known<Option<f64>>,
    /// The most active parts that a partition of a table of the database has.
    pub parts_max: Known<u64>,
    /// Inserts into the database in the last hour.
    pub inserts: Known<Latency>,
    /// Selects from the database in the last hour.
    pub selects: Known<Latency>,
    /// Replicated tables of the database.
    pub replicas: Known<ReplicaFigures>,
    /// Mutations of the database.
    pub mutations: Known<MutationFigures>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Row, Deserialize)]
pub struct DiskFigures {
    /// The node.
    pub host: String,
    /// Its name in the engine.
    pub name: String,
    /// Bytes that it has.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// How long queries took.
#[derive(Clone, Copy, Debug, PartialEq, Row, Deserialize)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// P99 in milliseconds; not a number without any.
    pub p99_millis: f64,
}

/// Replicated tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Deserialize)]
pub struct ReplicaFigures {
    /// How many there are.
    pub count: u64,
    /// Those that take nothing.
    pub read_only: u64,
    /// By how much the slowest is behind, in seconds.
    pub delay_seconds: u64,
}

/// Mutations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Row, Deserialize)]
pub struct MutationFigures {
    /// Under way.
    pub running: u64,
    /// Of them, those that fail, or are not done after an hour.
    pub stuck: u64,
}

/// Asks the engine.
///
/// # Errors
/// When it does not answer, or does not take the login.
pub async fn figures(config: &ClickhouseConfig) -> Result<ClickhouseFigures, StoreError> {
    let engine = Engine::open(config.clone())?;
    engine.greet().await?;
    let asking = Asking { engine };
    Ok(ClickhouseFigures {
        disks: asking.disks().await,
        cpu_used: asking.cpu_used().await,
        parts_max: asking.parts_max().await,
        inserts: asking.latency("Insert").await,
        selects: asking.latency("Select").await,
        replicas: asking.replicas().await,
        mutations: asking.mutations().await,
    })
}

struct Asking {
    engine: Engine,
}

impl Asking {
    /// A system table of all nodes.
    fn table(&self, name: &str) -> String {
        match &self.engine.config.cluster {
            Some(cluster) => format!("clusterAllReplicas('{cluster}', system.{name})"),
            None => format!("system.{name}"),
        }
    }

    async fn ask<T: RowOwned + RowRead>(&self, sql: &str) -> Known<Vec<T>> {
        let query = self.engine.books_of_all(sql).param("database", &self.engine.config.database);
        self.engine.rows::<T>(query).await.map_err(|error| why(&error.to_string()))
    }

    async fn one<T: RowOwned + RowRead>(&self, sql: &str) -> Known<T> {
        let rows = self.ask::<T>(sql).await?;
        rows.into_iter().next().ok_or_else(|| "the engine gives no row".to_owned())
    }

    async fn disks(&self) -> Known<Vec<DiskFigures>> {
        // Disks that are buckets have no end.
        self.ask(&format!(
            "SELECT hostName() AS host, name, total_space AS total_bytes, \
             free_space AS free_bytes FROM {} WHERE total_space > 0 AND NOT is_remote",
            self.table("disks")
        ))
        .await
    }

    async fn cpu_used(&self) -> Known<Option<f64>> {
        let sql = format!(
            "SELECT toFloat64(value) FROM {} WHERE metric = 'OSIdleTimeNormalized'",
            self.table("asynchronous_metrics")
        );
        let idle = self.ask::<f64>(&sql).await?.into_iter().filter(|idle| idle.is_finite());
        Ok(idle.map(|idle| (1.0 - idle).clamp(0.0, 1.0)).reduce(f64::max))
    }

    async fn parts_max(&self) -> Known<u64> {
        self.one(&format!(
            "SELECT max(parts) FROM (SELECT count() AS parts FROM {} \
             WHERE active AND database = {{database:String}} \
             GROUP BY hostName(), table, partition_id)",
            self.table("parts")
        ))
        .await
    }

    async fn latency(&self, kind: &str) -> Known<Latency> {
        self.one(&format!(
            "SELECT count() AS count, toFloat64(quantile(0.99)(query_duration_ms)) AS p99_millis \
             FROM {} WHERE type = 'QueryFinish' AND query_kind = '{kind}' AND is_initial_query \
             AND event_time > now() - {} AND has(databases, {{database:String}})",
            self.table("query_log"),
            LOOK_BACK.as_secs(),
        ))
        .await
    }

    async fn replicas(&self) -> Known<ReplicaFigures> {
        self.one(&format!(
            "SELECT count() AS count, countIf(is_readonly) AS read_only, \
             toUInt64(max(absolute_delay)) AS delay_seconds FROM {} \
             WHERE database = {{database:String}}",
            self.table("replicas")
        ))
        .await
    }

    async fn mutations(&self) -> Known<MutationFigures> {
        self.one(&format!(
            "SELECT count() AS running, countIf(latest_fail_reason != '' \
             OR create_time < now() - {}) AS stuck FROM {} \
             WHERE NOT is_done AND database = {{database:String}}",
            MUTATION_MAX.as_secs(),
            self.table("mutations"),
        ))
        .await
    }
}

/// Why a figure is not known, in few words: an engine repeats the whole statement.
fn why(error: &str) -> String {
    if !error.contains(UNKNOWN_TABLE) {
        return error.to_owned();
    }
    let table = error.split("system.").nth(1).unwrap_or_default();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let name: String = table.chars().take_while(|letter| is_name(*letter)).collect();
    format!("this engine keeps no system.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_missing_is_named_and_other_errors_keep_their_words() {
        let missing = "the store is not available: clickhouse: Code: 60. DB::Exception: Unknown \
                       table expression identifier 'system.query_log'. In scope SELECT count() \
                       FROM system.query_log. (UNKNOWN_TABLE)";
        assert_eq!(why(missing), "this engine keeps no system.query_log");
        assert_eq!(why("no answer within 3 s"), "no answer within 3 s");
    }

    #[test]
    fn on_a_cluster_every_node_is_asked() {
        let config = ClickhouseConfig::new("http://127.0.0.1:8123", "farspan");
        let asking = |config| Asking { engine: Engine::open(config).unwrap() };
        assert_eq!(asking(config.clone()).table("disks"), "system.disks");
        let cluster = ClickhouseConfig { cluster: Some("three_by_two".to_owned()), ..config };
        let expected = "clusterAllReplicas('three_by_two', system.disks)";
        assert_eq!(asking(cluster).table("disks"), expected);
    }
}
