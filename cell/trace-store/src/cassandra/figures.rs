//! How each node is, in its own virtual tables (`system_views`): for those who look after a cluster.
//! Reads tables of the server's alone. Scylla has no such tables and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::cluster::Node;
use scylla::deserialize::row::DeserializeRow;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;

use super::config::CassandraConfig;
use super::engine::at_once;
use super::fault::{self, Disconnected};
use super::init::dialect;
use super::schema::Dialect;
use super::session;
use crate::port::StoreError;

/// Nodes that are asked at once.
const NODES_AT_ONCE: usize = 16;
const MIB: u64 = 1 << 20;

/// What a cluster says.
#[derive(Clone, Debug, PartialEq)]
pub struct CassandraFigures {
    /// Each node that the cluster knows.
    pub nodes: Vec<CassandraNodeFigures>,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub struct CassandraNodeFigures {
    /// Its address without the port.
    pub host: String,
    /// Whether it answers us.
    pub is_up: bool,
    /// Its release; `None` where it does not answer.
    pub version: Option<String>,
    /// Tokens that it owns (virtual nodes).
    pub tokens: Option<usize>,
    /// What its own tables say, or why they do not.
    pub local: Result<LocalFigures, String>,
}

/// What a node's virtual tables say about the keyspace and the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalFigures {
    /// P99 of the slowest table, as the node sees it as a coordinator; `None`: nothing was written.
    pub write_p99: Option<Duration>,
    /// As `write_p99`.
    pub read_p99: Option<Duration>,
    /// Bytes of the keyspace on its disks.
    pub keyspace_bytes: u64,
    /// The largest partition of the keyspace.
    pub partition_bytes_max: u64,
    /// Tombstones that a read meets, at P99 of the worst table.
    pub tombstones_p99: f64,
    /// Requests that wait in its thread pools.
    pub pending_tasks: u64,
    /// Compactions and other work on files under way.
    pub table_tasks: u64,
    /// Where its data lies; it does not say how full that is.
    pub data_directories: Vec<String>,
}

/// Asks every node of the cluster.
///
/// # Errors
/// When no session can be made. A node that does not answer is a node that is down.
pub async fn figures(config: &CassandraConfig) -> Result<CassandraFigures, StoreError> {
    let session = session::open(config, &Counter::default()).await;
    let session = session.map_err(Disconnected::into_error)?;
    let dialect = Box::pin(dialect(&session)).await?;
    let state = session.get_cluster_state();
    let asking = state.get_nodes_info().iter().map(|node| {
        Box::pin(async {
            let asked = Asked { session: &session, node, config };
            Ok::<_, StoreError>(asked.figures(dialect).await)
        })
    });
    let mut nodes = at_once(NODES_AT_ONCE, asking.collect()).await?;
    nodes.sort_by(|one, other| one.host.cmp(&other.host));
    Ok(CassandraFigures { nodes })
}

/// One node, asked itself: its tables are its own.
struct Asked<'a> {
    session: &'a Session,
    node: &'a Arc<Node>,
    config: &'a CassandraConfig,
}

/// P99 or the like of a table, in the unit of its name.
type TableRow = (String, String, Option<f64>, Option<i64>);

impl Asked<'_> {
    async fn figures(&self, dialect: Dialect) -> CassandraNodeFigures {
        let host = self.node.address.ip().to_string();
        let own = self.rows::<(String, Option<Vec<String>>)>(
            "SELECT release_version, tokens FROM system.local".to_owned(),
        );
        let own = match own.await {
            Ok(rows) => rows.into_iter().next(),
            Err(error) => {
                let local = Err(error.to_string());
                return CassandraNodeFigures {
                    host,
                    is_up: false,
                    version: None,
                    tokens: None,
                    local,
                };
            }
        };
        let (version, tokens) = own.unzip();
        let tokens = tokens.flatten().map(|tokens| tokens.len());
        let local = match dialect {
            Dialect::Scylla => Err("Scylla has no system_views: see its own metrics".to_owned()),
            Dialect::Cassandra => self.local().await.map_err(|error| error.to_string()),
        };
        CassandraNodeFigures { host, is_up: true, version, tokens, local }
    }

    async fn local(&self) -> Result<LocalFigures, StoreError> {
        Ok(LocalFigures {
            write_p99: self.p99("coordinator_write_latency").await?,
            read_p99: self.p99("coordinator_read_latency").await?,
            keyspace_bytes: self.mebibytes("disk_usage").await?.iter().sum(),
            partition_bytes_max: self
                .mebibytes("max_partition_size")
                .await?
                .into_iter()
                .max()
                .unwrap_or(0),
            tombstones_p99: worst(&self.table("tombstones_per_read", "p99th").await?)
                .unwrap_or(0.0),
            pending_tasks: self.pending().await?,
            table_tasks: self.table_tasks().await?,
            data_directories: self.data_directories().await?,
        })
    }

    async fn p99(&self, table: &str) -> Result<Option<Duration>, StoreError> {
        // The column says milliseconds and holds seconds: the server's timers count microseconds, and
        // the view takes them for nanoseconds (Cassandra 5.0, `LatencyTableMetric`).
        let seconds = worst(&self.table(table, "p99th_ms").await?);
        Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
    }

    /// Rows of a histogram by table, of our keyspace.
    async fn table(&self, view: &str, column: &str) -> Result<Vec<TableRow>, StoreError> {
        let text =
            format!("SELECT keyspace_name, table_name, {column}, count FROM system_views.{view}");
        let rows = self.rows::<TableRow>(text).await?;
        Ok(rows.into_iter().filter(|row| row.0 == self.config.keyspace).collect())
    }

    async fn mebibytes(&self, view: &str) -> Result<Vec<u64>, StoreError> {
        let text = format!("SELECT keyspace_name, table_name, mebibytes FROM system_views.{view}");
        let rows = self.rows::<(String, String, Option<i64>)>(text).await?;
        let own = rows.into_iter().filter(|row| row.0 == self.config.keyspace);
        Ok(own.map(|row| unsigned(row.2).saturating_mul(MIB)).collect())
    }

    async fn pending(&self) -> Result<u64, StoreError> {
        let text = "SELECT name, pending_tasks FROM system_views.thread_pools".to_owned();
        let rows = self.rows::<(String, Option<i32>)>(text).await?;
        // The stages of requests; others queue what may wait.
        let is_request = |name: &str| {
            ["MutationStage", "ReadStage", "Native-Transport-Requests"].contains(&name)
        };
        let pending = rows.into_iter().filter(|row| is_request(&row.0));
        Ok(pending.map(|row| unsigned(row.1.map(i64::from))).sum())
    }

    async fn table_tasks(&self) -> Result<u64, StoreError> {
        let text = "SELECT keyspace_name, kind FROM system_views.sstable_tasks".to_owned();
        Ok(self.rows::<(String, Option<String>)>(text).await?.len() as u64)
    }

    async fn data_directories(&self) -> Result<Vec<String>, StoreError> {
        let text = "SELECT name, value FROM system_views.settings \
                    WHERE name = 'data_file_directories'";
        let rows = self.rows::<(String, Option<String>)>(text.to_owned()).await?;
        let value = rows.into_iter().find_map(|row| row.1).unwrap_or_default();
        Ok(directories(&value))
    }

    async fn rows<R>(&self, text: String) -> Result<Vec<R>, StoreError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let policy =
            SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(Arc::clone(self.node)), None);
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::One)
            .request_timeout(Some(self.config.request_timeout))
            .load_balancing_policy(policy)
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .build();
        let mut statement = Statement::new(text);
        statement.set_execution_profile_handle(Some(profile.into_handle()));
        let asked = Box::pin(self.session.query_unpaged(statement, ())).await;
        let result = asked.map_err(|error| fault::of_request(&error))?;
        let result = result.into_rows_result().map_err(|error| fault::of_answer(&error))?;
        let rows = result.rows::<R>().map_err(|error| fault::of_types(&error))?;
        rows.map(|row| row.map_err(|error| fault::of_row(&error))).collect()
    }
}

/// The largest value of the tables that have counted anything.
fn worst(rows: &[TableRow]) -> Option<f64> {
    let counted = rows.iter().filter(|row| unsigned(row.3) > 0).filter_map(|row| row.2);
    counted.filter(|value| value.is_finite()).reduce(f64::max)
}

fn unsigned(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// A list as the server prints it: `[a, b]`.
fn directories(value: &str) -> Vec<String> {
    let inner = value.trim().trim_start_matches('[').trim_end_matches(']');
    let names = inner.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Releases and how many nodes have each, for those who compare.
impl CassandraFigures {
    /// How many nodes run each release.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<&str, usize> {
        let mut versions = BTreeMap::new();
        for version in self.nodes.iter().filter_map(|node| node.version.as_deref()) {
            *versions.entry(version).or_insert(0) += 1;
        }
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_table_counts_and_one_without_requests_does_not() {
        let row = |value, count| ("k".to_owned(), "t".to_owned(), value, count);
        assert_eq!(worst(&[row(Some(3.0), Some(1)), row(Some(9.0), Some(0))]), Some(3.0));
        assert_eq!(worst(&[row(None, Some(1)), row(Some(f64::NAN), Some(5))]), None);
        assert_eq!(worst(&[]), None);
    }

    #[test]
    fn a_list_of_directories_is_read_as_the_server_prints_it() {
        assert_eq!(directories("[/a/b, /c]"), ["/a/b", "/c"]);
        assert_eq!(directories("/a"), ["/a"]);
        assert_eq!(directories("[]"), Vec::<String>::new());
    }
}
