//! How a cluster is, in its own figures: for those who look after it. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::Client;
use super::config::ElasticsearchConfig;
use super::names::{Kind, Names};
use crate::port::StoreError;

/// The parts of the nodes' statistics that are looked at.
const NODE_FIELDS: &str = "nodes.*.name,nodes.*.fs.total,nodes.*.os.cpu.percent,\
    nodes.*.jvm.mem.heap_used_percent,nodes.*.indices.indexing.index_t*,\
    nodes.*.indices.search.query_t*,nodes.*.thread_pool.write,nodes.*.thread_pool.search";

/// What a cluster says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ElasticsearchFigures {
    /// `green`, `yellow` or `red`.
    pub status: String,
    /// Nodes that hold data.
    pub data_nodes: u64,
    /// Shards without a place.
    pub unassigned_shards: u64,
    /// Of them, those that are the only copy.
    pub unassigned_primaries: u64,
    /// Each node.
    pub nodes: Vec<SearchNodeFigures>,
    /// Primary shards of this cell's indices of spans, in no order.
    pub shards: Vec<ShardFigures>,
    /// Indices of this cell that the engine has closed to writers since a disk is full.
    pub blocked_indices: Vec<String>,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchNodeFigures {
    /// Its name.
    pub name: String,
    /// Share of its disks that is used, 0 to 1.
    pub disk_used: Option<f64>,
    /// Share of the machine's processors, 0 to 1.
    pub cpu_used: Option<f64>,
    /// Share of the heap, 0 to 1.
    pub heap_used: Option<f64>,
    /// Mean time in the engine to index a document, since it was started.
    pub index_mean: Option<Duration>,
    /// Mean time of a shard's part of a query, since it was started.
    pub query_mean: Option<Duration>,
    /// Requests that the pools `write` and `search` have taken and refused since it was started.
    pub write: PoolFigures,
    /// As `write`.
    pub search: PoolFigures,
}

/// What a thread pool has done since its node was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PoolFigures {
    /// Done.
    #[serde(default)]
    pub completed: u64,
    /// Refused: its queue was full.
    #[serde(default)]
    pub rejected: u64,
}

/// A primary shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFigures {
    /// Its index.
    pub index: String,
    /// Its size on disk.
    pub bytes: u64,
    /// Whether its index is one of today, which still grows.
    pub is_growing: bool,
}

/// Asks a cluster. `today` is the date of indices that still grow, `YYYY-MM-DD`.
///
/// # Errors
/// When no node answers, or the cluster refuses a question.
pub async fn figures(
    config: &ElasticsearchConfig,
    today: &str,
) -> Result<ElasticsearchFigures, StoreError> {
    config.check()?;
    let client = Client::new(config)?;
    let spans = Names::new(config.index_prefix.clone()).pattern(Kind::Spans);
    let health: Health = get(&client, "/_cluster/health", &[]).await?;
    let fields = [("filter_path", NODE_FIELDS)];
    let path = "/_nodes/stats/fs,os,jvm,indices,thread_pool";
    let nodes: Nodes = get(&client, path, &fields).await?;
    let columns = [("format", "json"), ("bytes", "b"), ("h", "index,prirep,state,store")];
    let shards: Vec<CatShard> = get(&client, &format!("/_cat/shards/{spans}"), &columns).await?;
    let blocks = [("flat_settings", "true"), ("filter_path", "*.settings.index.blocks.*")];
    let blocks: BTreeMap<String, IndexSettings> =
        get(&client, &format!("/{spans}/_settings"), &blocks).await?;
    Ok(ElasticsearchFigures {
        status: health.status,
        data_nodes: health.number_of_data_nodes,
        unassigned_shards: health.unassigned_shards,
        unassigned_primaries: health.unassigned_primary_shards,
        nodes: nodes.nodes.into_values().map(Node::figures).collect(),
        shards: shards.into_iter().filter_map(|shard| shard.figures(today)).collect(),
        blocked_indices: blocked(blocks),
    })
}

async fn get<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
) -> Result<T, StoreError> {
    client.read(Method::Get, path, query, Bytes::new()).await?.json()
}

fn blocked(indices: BTreeMap<String, IndexSettings>) -> Vec<String> {
    let is_blocked = |index: &IndexSettings| {
        let block = index.settings.get("index.blocks.read_only_allow_delete");
        block.is_some_and(|value| value == "true" || *value == Value::Bool(true))
    };
    indices.into_iter().filter(|(_, index)| is_blocked(index)).map(|(name, _)| name).collect()
}

#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    number_of_data_nodes: u64,
    #[serde(default)]
    unassigned_shards: u64,
    // OpenSearch does not tell; a cluster that lacks one is red.
    #[serde(default)]
    unassigned_primary_shards: u64,
}

#[derive(Debug, Default, Deserialize)]
struct IndexSettings {
    #[serde(default)]
    settings: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Nodes {
    #[serde(default)]
    nodes: BTreeMap<String, Node>,
}

/// A node as the engine writes it: whatever it leaves out is not known.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    name: String,
    fs: Value,
    os: Value,
    jvm: Value,
    indices: Value,
    thread_pool: BTreeMap<String, PoolFigures>,
}

impl Node {
    fn figures(self) -> SearchNodeFigures {
        let percent =
            |value: Option<&Value>| value.and_then(Value::as_f64).map(|part| part / 100.0);
        let pool = |name| self.thread_pool.get(name).copied().unwrap_or_default();
        SearchNodeFigures {
            disk_used: disk_used(&self.fs),
            cpu_used: percent(self.os.pointer("/cpu/percent")).filter(|part| *part >= 0.0),
            heap_used: percent(self.jvm.pointer("/mem/heap_used_percent")),
            index_mean: mean(&self.indices, ("indexing", "index_time_in_millis", "index_total")),
            query_mean: mean(&self.indices, ("search", "query_time_in_millis", "query_total")),
            write: pool("write"),
            search: pool("search"),
            name: self.name,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more digits than a float has")]
fn disk_used(fs: &Value) -> Option<f64> {
    let total = fs.pointer("/total/total_in_bytes")?.as_u64()?;
    let available = fs.pointer("/total/available_in_bytes")?.as_u64()?;
    (total > 0).then(|| 1.0 - available as f64 / total as f64)
}

fn mean(indices: &Value, (part, millis, count): (&str, &str, &str)) -> Option<Duration> {
    let of = |name: &str| indices.pointer(&format!("/{part}/{name}"))?.as_u64();
    let (millis, count) = (of(millis)?, of(count)?);
    let nanos = millis.saturating_mul(1_000_000).checked_div(count)?;
    Some(Duration::from_nanos(nanos))
}

#[derive(Debug, Deserialize)]
struct CatShard {
    index: String,
    prirep: String,
    state: String,
    #[serde(default)]
    store: Option<String>,
}

impl CatShard {
    /// A shard that moves has a size as well; one without a place has none.
    fn figures(self, today: &str) -> Option<ShardFigures> {
        let is_held = matches!(self.state.as_str(), "STARTED" | "RELOCATING");
        let bytes = self.store.filter(|_| self.prirep == "p" && is_held)?.parse().ok()?;
        let is_growing = self.index.contains(today) || self.index.contains("-outlying");
        Some(ShardFigures { index: self.index, bytes, is_growing })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nodes_figures_are_shares_and_means_and_what_is_left_out_is_not_known() {
        let node: Node = serde_json::from_value(json!({"name": "n1",
            "fs": {"total": {"total_in_bytes": 1000, "available_in_bytes": 250}},
            "os": {"cpu": {"percent": 71}}, "jvm": {"mem": {"heap_used_percent": 40}},
            "indices": {"indexing": {"index_total": 4, "index_time_in_millis": 6},
                "search": {"query_total": 0, "query_time_in_millis": 0}},
            "thread_pool": {"write": {"completed": 10, "rejected": 2, "queue": 0}}}))
        .unwrap();
        let node = node.figures();
        assert_eq!(
            (node.disk_used, node.cpu_used, node.heap_used),
            (Some(0.75), Some(0.71), Some(0.4))
        );
        assert_eq!((node.index_mean, node.query_mean), (Some(Duration::from_micros(1_500)), None));
        assert_eq!(node.write, PoolFigures { completed: 10, rejected: 2 });
        let nothing = Node::default().figures();
        assert_eq!((nothing.disk_used, nothing.cpu_used, nothing.index_mean), (None, None, None));
    }

    #[test]
    fn only_primary_shards_that_are_held_have_a_size() {
        let shard = |prirep: &str, state: &str, store: Option<&str>| CatShard {
            index: "p.default-jaeger-span-2026-11-28".to_owned(),
            prirep: prirep.to_owned(),
            state: state.to_owned(),
            store: store.map(str::to_owned),
        };
        let found = shard("p", "STARTED", Some("7")).figures("2026-11-28").unwrap();
        assert_eq!((found.bytes, found.is_growing), (7, true));
        assert!(!shard("p", "RELOCATING", Some("7")).figures("2026-11-29").unwrap().is_growing);
        assert!(shard("r", "STARTED", Some("7")).figures("").is_none());
        assert!(shard("p", "UNASSIGNED", None).figures("").is_none());
        assert!(shard("p", "INITIALIZING", Some("0")).figures("").is_none());
    }

    #[test]
    fn indices_that_the_flood_stage_closed_are_named() {
        let indices = json!({
            "a": {"settings": {"index.blocks.read_only_allow_delete": "true"}},
            "b": {"settings": {"index.blocks.write": "true"}},
            "c": {"settings": {"index.blocks.read_only_allow_delete": "false"}},
        });
        assert_eq!(blocked(serde_json::from_value(indices).unwrap()), ["a"]);
    }
}
