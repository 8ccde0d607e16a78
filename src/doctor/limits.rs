//! What figures are held against: one table, each limit with its source. `docs/alerts.yaml` has one
//! rule for each that has a metric, and some over metrics of others; a test holds the two together.
//!
//! Sources are "the guide" (the scaling guide that the project implements), an engine's own manual or
//! default, and "ours", which says why.

use super::finding::Part;

/// Where a figure becomes a reason to do something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edge {
    /// Above this.
    Above(f64),
    /// Below this.
    Below(f64),
}

impl Edge {
    /// Whether the value lies beyond it; on it is within.
    pub(crate) fn is_passed_by(self, value: f64) -> bool {
        match self {
            Self::Above(edge) => value > edge,
            Self::Below(edge) => value < edge,
        }
    }

    /// The number.
    pub(crate) const fn at(self) -> f64 {
        match self {
            Self::Above(edge) | Self::Below(edge) => edge,
        }
    }
}

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A share from 0 to 1, shown in percent.
    Ratio,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
}

/// A limit.
#[derive(Debug, PartialEq)]
pub(crate) struct Limit {
    /// Whose figure.
    pub(crate) part: Part,
    /// The figure, in a few words.
    pub(crate) check: &'static str,
    /// Its metric, with the unit at its end; `None` where no process of a cell shows it.
    pub(crate) metric: Option<&'static str>,
    /// How it is written.
    pub(crate) unit: Unit,
    /// Beyond this a person should look.
    pub(crate) warn: Option<Edge>,
    /// Beyond this a person must act.
    pub(crate) act: Option<Edge>,
    /// Whose word the edges are.
    pub(crate) source: &'static str,
    /// What to do.
    pub(crate) advice: &'static str,
}

impl Limit {
    /// The edge that counts: the one to act at, or where there is none that to warn at.
    pub(crate) const fn edge(&self) -> Option<Edge> {
        match (self.act, self.warn) {
            (Some(edge), _) | (None, Some(edge)) => Some(edge),
            (None, None) => None,
        }
    }

    /// The condition of its alert.
    #[cfg(test)]
    pub(crate) fn expression(&self) -> Option<String> {
        let (metric, edge) = (self.metric?, self.edge()?);
        let is_engines = metric.starts_with("farspan_engine_");
        let engine =
            if is_engines { format!("{{engine=\"{}\"}}", self.part.name()) } else { String::new() };
        let sign = match edge {
            Edge::Above(_) => '>',
            Edge::Below(_) => '<',
        };
        Some(format!("{metric}{engine} {sign} {}", edge.at()))
    }
}

const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

/// A limit of the guide: to act at, and from nine tenths of it on to look at.
const fn up_to(edge: f64) -> (Option<Edge>, Option<Edge>) {
    (Some(Edge::Above(edge / 10.0 * 9.0)), Some(Edge::Above(edge)))
}

const fn limit(
    (part, check, metric, unit): (Part, &'static str, &'static str, Unit),
    (warn, act): (Option<Edge>, Option<Edge>),
    (source, advice): (&'static str, &'static str),
) -> Limit {
    let metric = if metric.is_empty() { None } else { Some(metric) };
    Limit { part, check, metric, unit, warn, act, source, advice }
}

const fn warn(edge: Edge) -> (Option<Edge>, Option<Edge>) {
    (Some(edge), None)
}

const fn act(edge: Edge) -> (Option<Edge>, Option<Edge>) {
    (None, Some(edge))
}

macro_rules! limits {
    ($($name:ident = $limit:expr;)*) => {
        $(pub(crate) static $name: Limit = $limit;)*
        /// All of them.
        pub(crate) static ALL: &[&Limit] = &[$(&$name),*];
    };
}

limits! {
    // The machine of a process.
    HOST_CPU = limit(
        (Part::Machine, "cpu", "farspan_host_cpu_used_ratio", Unit::Ratio),
        up_to(0.70),
        ("the guide, Collectors: scale out at CPU > 70 %", "add a collector or an ingester"),
    );
    HOST_MEMORY = limit(
        (Part::Machine, "memory", "farspan_host_memory_used_ratio", Unit::Ratio),
        warn(Edge::Above(0.90)),
        ("ours: what the page cache cannot take back", "a larger machine, or smaller caches and queues"),
    );
    HOST_DISK = limit(
        (Part::Machine, "disk of data_dir", "farspan_host_disk_used_ratio", Unit::Ratio),
        (Some(Edge::Above(0.60)), Some(Edge::Above(0.70))),
        (
            "the guide: 60 % of a trace store's disk, 70 % of an analytics store's",
            "add storage, or shorten retention, retention_bytes or log.bytes_max",
        ),
    );
    OPEN_FILES = limit(
        (Part::Machine, "open files limit", "", Unit::Count),
        warn(Edge::Below(65_535.0)),
        (
            "Elasticsearch, bootstrap checks: 65,535; connections and segments of a cell are files too",
            "raise it: ulimit -n, or LimitNOFILE= of the service",
        ),
    );
    MAX_MAP_COUNT = limit(
        (Part::Machine, "vm.max_map_count", "", Unit::Count),
        warn(Edge::Below(262_144.0)),
        ("Elasticsearch, bootstrap checks: 262,144", "sysctl -w vm.max_map_count=1048576"),
    );
    SWAPPINESS = limit(
        (Part::Machine, "vm.swappiness", "", Unit::Count),
        warn(Edge::Above(1.0)),
        (
            "Cassandra and Elasticsearch, production settings: no swap, or swappiness 1",
            "swapoff -a, or sysctl -w vm.swappiness=1",
        ),
    );
    // The running process.
    QUEUE = limit(
        (Part::Cell, "collector queue (spans)", "farspan_collector_queue_spans", Unit::Count),
        up_to(10_000.0),
        ("the guide, Collectors: scale out at queue > 10,000", "add a collector, or look at the log"),
    );
    CELL_LAG = limit(
        (Part::Cell, "lag", "farspan_ingester_lag_seconds", Unit::Seconds),
        up_to(900.0),
        (
            "the issue of the doctor: 15 min, or 25 % of the log's retention where that is less",
            "add ingesters, or look why the store is slow; the log forgets at its retention",
        ),
    );
    // Kafka.
    KAFKA_UP = up(Part::Kafka);
    BROKERS = limit(
        (Part::Kafka, "brokers", "", Unit::Count),
        act(Edge::Below(1.0)),
        ("kafka.replication of the file", "bring the missing brokers back, or lower kafka.replication"),
    );
    UNDER_REPLICATED = limit(
        (Part::Kafka, "under-replicated partitions", "farspan_engine_under_replicated_partitions", Unit::Count),
        act(Edge::Above(0.0)),
        ("Kafka, Monitoring: UnderReplicatedPartitions should be 0", "look for the broker that is away or slow"),
    );
    BELOW_MIN_IN_SYNC = limit(
        (Part::Kafka, "partitions below min.insync", "farspan_engine_below_min_in_sync_partitions", Unit::Count),
        act(Edge::Above(0.0)),
        ("Kafka, Monitoring: UnderMinIsrPartitionCount should be 0", "they take nothing: bring brokers back"),
    );
    OFFLINE = limit(
        (Part::Kafka, "offline partitions", "farspan_engine_offline_partitions", Unit::Count),
        act(Edge::Above(0.0)),
        ("Kafka, Monitoring: OfflinePartitionsCount should be 0", "bring the brokers back that have them"),
    );
    KAFKA_LAG = limit(
        (Part::Kafka, "lag", "farspan_engine_lag_seconds", Unit::Seconds),
        up_to(900.0),
        ("the issue of the doctor: 15 min", "add ingesters, or look why the store is slow"),
    );
    KAFKA_LAG_SHARE = limit(
        (Part::Kafka, "lag of retention", "farspan_engine_lag_retention_ratio", Unit::Ratio),
        up_to(0.25),
        (
            "the issue of the doctor: 25 % of the topic's retention",
            "add ingesters, or lengthen retention.ms meanwhile: from 90 % on required groups stop senders, others lose records at 100 %",
        ),
    );
    // No metric: brokers never tell it, so that an alert on it would never fire.
    KAFKA_DISK = limit(
        (Part::Kafka, "disk", "", Unit::Ratio),
        (Some(Edge::Above(0.60)), Some(Edge::Above(0.70))),
        ("the guide: 60 % of a trace store's disk, 70 % of an analytics store's", "add storage or brokers, or shorten retention.ms"),
    );
    // Cassandra.
    CASSANDRA_UP = up(Part::Cassandra);
    NODES_DOWN = limit(
        (Part::Cassandra, "nodes down", "farspan_engine_nodes_down", Unit::Count),
        act(Edge::Above(0.0)),
        ("ours: each one less is a copy less", "nodetool status; bring it back or replace it"),
    );
    CASSANDRA_DISK = limit(
        (Part::Cassandra, "disk", "farspan_engine_disk_used_ratio", Unit::Ratio),
        up_to(0.60),
        ("the guide, Cassandra: add nodes at disk > 60 %", "add nodes"),
    );
    WRITE_P99 = limit(
        (Part::Cassandra, "write P99", "farspan_engine_write_p99_seconds", Unit::Seconds),
        up_to(0.050),
        ("the guide, Cassandra: add nodes at write P99 > 50 ms", "add nodes"),
    );
    READ_P99 = limit(
        (Part::Cassandra, "read P99", "farspan_engine_read_p99_seconds", Unit::Seconds),
        up_to(0.100),
        ("the guide, Cassandra: add nodes at read P99 > 100 ms", "add nodes"),
    );
    PENDING = limit(
        (Part::Cassandra, "pending requests", "farspan_engine_pending_requests", Unit::Count),
        warn(Edge::Above(500.0)),
        ("ours: more than ten rounds of a stage's 32 threads", "add nodes, or look for one that is slow"),
    );
    PARTITION = limit(
        (Part::Cassandra, "largest partition", "farspan_engine_partition_bytes_max", Unit::Bytes),
        warn(Edge::Above(100.0 * MIB)),
        (
            "Cassandra, cassandra.yaml: compaction_large_partition_warning_threshold, 100 MiB",
            "look for a trace that never ends or a span of a huge body",
        ),
    );
    TOMBSTONES = limit(
        (Part::Cassandra, "tombstones a read (P99)", "farspan_engine_tombstones_read_p99", Unit::Count),
        warn(Edge::Above(1_000.0)),
        ("Cassandra, cassandra.yaml: tombstone_warn_threshold, 1,000", "compaction is behind: nodetool compactionstats"),
    );
    // Elasticsearch.
    ELASTICSEARCH_UP = up(Part::Elasticsearch);
    UNASSIGNED_PRIMARIES = limit(
        (Part::Elasticsearch, "unassigned primaries", "farspan_engine_unassigned_primary_shards", Unit::Count),
        act(Edge::Above(0.0)),
        ("Elasticsearch, cluster health: red", "bring the nodes back that have them: GET _cluster/allocation/explain"),
    );
    UNASSIGNED = limit(
        (Part::Elasticsearch, "unassigned shards", "farspan_engine_unassigned_shards", Unit::Count),
        warn(Edge::Above(0.0)),
        ("Elasticsearch, cluster health: yellow", "add a data node, or set elasticsearch.replicas to what the nodes can hold"),
    );
    BLOCKED = limit(
        (Part::Elasticsearch, "read-only indices", "farspan_engine_blocked_indices", Unit::Count),
        act(Edge::Above(0.0)),
        ("Elasticsearch, disk watermarks: flood stage, 95 %", "make room; the block goes by itself below the high watermark"),
    );
    ELASTICSEARCH_DISK = limit(
        (Part::Elasticsearch, "disk", "farspan_engine_disk_used_ratio", Unit::Ratio),
        (Some(Edge::Above(0.70)), Some(Edge::Above(0.85))),
        ("Elasticsearch, disk watermarks: low, 85 %; the guide's 70 % to look at", "add data nodes or shorten retention"),
    );
    ELASTICSEARCH_CPU = limit(
        (Part::Elasticsearch, "cpu", "farspan_engine_cpu_used_ratio", Unit::Ratio),
        warn(Edge::Above(0.70)),
        ("the guide: CPU > 70 %", "add data nodes, or coordinating-only nodes where searches are many"),
    );
    HEAP = limit(
        (Part::Elasticsearch, "heap", "farspan_engine_heap_used_ratio", Unit::Ratio),
        (Some(Edge::Above(0.85)), Some(Edge::Above(0.95))),
        ("Elasticsearch, circuit breakers: 95 % of the heap refuses requests", "more heap (to 31 GB), or more nodes"),
    );
    WRITE_REJECTIONS = limit(
        (Part::Elasticsearch, "refused writes", "farspan_engine_rejected_write_ratio", Unit::Ratio),
        warn(Edge::Above(0.001)),
        ("ours: of all since the node was started; now and then is what queues are for", "add data nodes"),
    );
    SEARCH_REJECTIONS = limit(
        (Part::Elasticsearch, "refused searches", "farspan_engine_rejected_search_ratio", Unit::Ratio),
        warn(Edge::Above(0.001)),
        ("ours: of all since the node was started; now and then is what queues are for", "add replicas or coordinating-only nodes"),
    );
    SHARD_LARGE = limit(
        (Part::Elasticsearch, "largest shard", "farspan_engine_shard_bytes_max", Unit::Bytes),
        up_to(50.0 * GIB),
        ("the guide, Elasticsearch: shards of 30-50 GB", "raise elasticsearch.shards: it counts from the next day on"),
    );
    SHARD_SMALL = limit(
        (Part::Elasticsearch, "smallest full shard", "farspan_engine_shard_bytes_min", Unit::Bytes),
        warn(Edge::Below(30.0 * GIB)),
        ("the guide, Elasticsearch: shards of 30-50 GB", "lower elasticsearch.shards: it counts from the next day on"),
    );
    // ClickHouse.
    CLICKHOUSE_UP = up(Part::Clickhouse);
    CLICKHOUSE_DISK = limit(
        (Part::Clickhouse, "disk", "farspan_engine_disk_used_ratio", Unit::Ratio),
        up_to(0.70),
        ("the guide, ClickHouse: disk > 70 %", "add storage or shorten retention"),
    );
    CLICKHOUSE_CPU = limit(
        (Part::Clickhouse, "cpu", "farspan_engine_cpu_used_ratio", Unit::Ratio),
        warn(Edge::Above(0.70)),
        ("the guide: CPU > 70 %", "add shards or replicas"),
    );
    INSERT_P99 = limit(
        (Part::Clickhouse, "insert P99", "farspan_engine_write_p99_seconds", Unit::Seconds),
        up_to(0.100),
        ("the guide, ClickHouse: insert > 100 ms", "add shards"),
    );
    QUERY_P99 = limit(
        (Part::Clickhouse, "query P99", "farspan_engine_read_p99_seconds", Unit::Seconds),
        up_to(5.0),
        ("the guide, ClickHouse: query > 5 s", "add replicas or better views"),
    );
    PARTS = limit(
        (Part::Clickhouse, "parts of a partition", "farspan_engine_partition_parts_max", Unit::Count),
        (Some(Edge::Above(300.0)), Some(Edge::Above(1_000.0))),
        ("ClickHouse, MergeTree settings: parts_to_delay_insert, 1,000", "merges are behind: fewer and larger inserts, faster disks"),
    );
    READ_ONLY_REPLICAS = limit(
        (Part::Clickhouse, "read-only replicas", "farspan_engine_read_only_replicas", Unit::Count),
        act(Edge::Above(0.0)),
        ("ClickHouse, system.replicas: is_readonly", "look at ClickHouse Keeper, then SYSTEM RESTORE REPLICA"),
    );
    REPLICA_DELAY = limit(
        (Part::Clickhouse, "replica delay", "farspan_engine_replica_delay_seconds", Unit::Seconds),
        warn(Edge::Above(300.0)),
        ("ClickHouse: max_replica_delay_for_distributed_queries, 300 s", "look at system.replication_queue"),
    );
    MUTATIONS = limit(
        (Part::Clickhouse, "stuck mutations", "farspan_engine_stuck_mutations", Unit::Count),
        warn(Edge::Above(0.0)),
        ("ours: an erasure is a mutation and should take minutes", "look at latest_fail_reason in system.mutations"),
    );
    // Redis: gateways ask it all the time; no cell does.
    REDIS_UP = Limit { metric: None, ..up(Part::Redis) };
    PING = limit(
        (Part::Redis, "ping", "", Unit::Seconds),
        (Some(Edge::Above(0.010)), Some(Edge::Above(0.100))),
        ("redis.timeout of the file: a call that takes longer takes Redis down for all", "a Redis nearer by, or one that nobody else keeps busy"),
    );
}

const fn up(part: Part) -> Limit {
    limit(
        (part, "answers", "farspan_engine_up", Unit::Count),
        act(Edge::Below(1.0)),
        (
            "ours: it is there or it is not",
            "bring it back; see \"When an engine is away\" in docs/OPERATIONS.md",
        ),
    )
}

#[cfg(test)]
mod tests;
