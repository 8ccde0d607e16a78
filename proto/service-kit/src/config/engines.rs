//! Which log and stores a cell uses, and where their engines are.
//!
//! A profile chooses; `stores` overrides part by part. The section of an engine that is used must be
//! whole, and that of one that is not used is a fault: it would be believed for months.

use std::path::PathBuf;
use std::time::Duration;

use super::cell::Profile;
pub use super::consistency::Consistency;
pub use super::credentials::Credentials;
use super::credentials::{Encryption, read_credentials};
pub use super::foreign::{ForeignConfig, ForeignEncoding};
use super::kafka::read_kafka;
pub use super::kafka::{KafkaConfig, SaslMechanism};
use super::search_engine::{TiersConfig, read_elasticsearch};
use super::section::Section;
use super::setting::{EngineUrl, Properties};

/// The span log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Files of this process.
    Embedded,
    /// Apache Kafka.
    Kafka,
}

/// Spans by trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracesKind {
    /// Files of this process.
    Embedded,
    /// Cassandra or Scylla.
    Cassandra,
}

/// Search and the service catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchKind {
    /// The index of the embedded trace store.
    Embedded,
    /// Elasticsearch or OpenSearch; beside Cassandra, whose tables answer in its place what they can.
    Elasticsearch,
    /// The tables of the trace store in Cassandra alone: by service, operation and time.
    Cassandra,
}

/// Rate, errors, durations and edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsKind {
    /// Files of this process.
    Embedded,
    /// ClickHouse.
    Clickhouse,
}

/// Log and stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoresConfig {
    /// The span log; `None` is the embedded one.
    pub kafka: Option<KafkaConfig>,
    /// Spans by trace id; `None` is the embedded store.
    pub cassandra: Option<CassandraConfig>,
    /// Search and catalogue; `None` is the index of the store that has the traces: embedded, or tables of
    /// Cassandra.
    pub elasticsearch: Option<ElasticsearchConfig>,
    /// Counts; `None` is the embedded metrics store.
    pub clickhouse: Option<ClickhouseConfig>,
}

impl StoresConfig {
    /// Whether everything is in files of this process.
    #[must_use]
    pub const fn is_embedded(&self) -> bool {
        self.kafka.is_none()
            && self.cassandra.is_none()
            && self.elasticsearch.is_none()
            && self.clickhouse.is_none()
    }

    /// Whether Cassandra's tables alone are searched.
    #[must_use]
    pub const fn is_searched_by_tables(&self) -> bool {
        self.cassandra.is_some() && self.elasticsearch.is_none()
    }

    /// The parts that are files of one process, by their keys.
    #[must_use]
    pub fn embedded_parts(&self) -> Vec<&'static str> {
        let parts = [
            ("stores.log", self.kafka.is_none()),
            ("stores.traces", self.cassandra.is_none()),
            ("stores.search", self.elasticsearch.is_none() && self.cassandra.is_none()),
            ("stores.metrics", self.clickhouse.is_none()),
        ];
        parts.into_iter().filter(|(_, is_embedded)| *is_embedded).map(|(key, _)| key).collect()
    }
}

/// Cassandra or Scylla.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraConfig {
    /// Nodes to begin with, `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// The data center that this cell reads and writes in.
    pub datacenter: String,
    /// Copies in each data center, by its name, for a keyspace that is made.
    pub replication: Properties,
    /// Which of them a statement waits for.
    pub consistency: Consistency,
    /// Until a statement must be answered.
    pub timeout: Duration,
    /// Who we are; with `tls`, that is spoken.
    pub credentials: Credentials,
}

/// Elasticsearch or OpenSearch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElasticsearchConfig {
    /// Nodes.
    pub urls: Vec<EngineUrl>,
    /// Put before the names of indices.
    pub prefix: String,
    /// Primary shards of a day's index.
    pub shards: u32,
    /// Copies of each shard; `None`: 1, and none where the cluster has one node for data.
    pub replicas: Option<u32>,
    /// Until a request must be answered.
    pub timeout: Duration,
    /// Who we are.
    pub credentials: Credentials,
    /// A file with an API key in its encoded form alone, instead of a user.
    pub api_key_file: Option<PathBuf>,
    /// Other programs write to the same indices: every search is asked here first.
    pub is_written_by_others: bool,
    /// No Jaeger beside us writes tags as fields (`es.tags-as-fields`): searches by tag leave the tags of
    /// its documents to the engine, where they would fetch each of them otherwise.
    pub jaeger_tags_are_nested: bool,
    /// How its days grow old.
    pub tiers: TiersConfig,
}

/// ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickhouseConfig {
    /// Its HTTP interface.
    pub url: EngineUrl,
    /// The database.
    pub database: String,
    /// The cluster over which tables are replicated and distributed.
    pub cluster: Option<String>,
    /// The storage policy of raw spans, with volumes `hot` and `warm`.
    pub storage_policy: Option<String>,
    /// Whether raw spans are kept beside the counts (`otel_traces`), for dashboards.
    pub is_keeping_spans: bool,
    /// Until a query must be answered.
    pub timeout: Duration,
    /// Who we are.
    pub credentials: Credentials,
}

/// What a profile chooses: log, traces, search, metrics.
const fn choices(profile: Profile) -> (LogKind, TracesKind, SearchKind, MetricsKind) {
    match profile {
        Profile::Embedded => {
            (LogKind::Embedded, TracesKind::Embedded, SearchKind::Embedded, MetricsKind::Embedded)
        }
        Profile::Startup => (
            LogKind::Embedded,
            TracesKind::Cassandra,
            SearchKind::Elasticsearch,
            MetricsKind::Embedded,
        ),
        Profile::Growth | Profile::Scale | Profile::Hyperscale => (
            LogKind::Kafka,
            TracesKind::Cassandra,
            SearchKind::Elasticsearch,
            MetricsKind::Clickhouse,
        ),
    }
}

/// Reads the choice, then the section of each engine that is chosen.
pub(super) fn read_stores(
    root: &mut Section<'_>,
    profile: Profile,
    retention: Duration,
) -> Option<StoresConfig> {
    let (log, traces, search, metrics) = choices(profile);
    let name = profile.name();
    let mut section = root.section("stores");
    let log = section.by_profile("log", log, name);
    let traces = section.by_profile("traces", traces, name);
    let search = section.by_profile("search", search, name);
    let metrics = section.by_profile("metrics", metrics, name);
    if search == SearchKind::Embedded && traces != TracesKind::Embedded {
        section.refuse(
            "search",
            "`embedded` is the index of the embedded trace store and needs `stores.traces: \
             embedded`",
        );
    }
    if search == SearchKind::Cassandra && traces != TracesKind::Cassandra {
        section.refuse(
            "search",
            "`cassandra` is the tables of the trace store and needs `stores.traces: cassandra`",
        );
    }
    section.finish();
    let kafka = engine(root, "kafka", log == LogKind::Kafka, read_kafka);
    let is_cassandra = traces == TracesKind::Cassandra;
    let cassandra = engine(root, "cassandra", is_cassandra, read_cassandra);
    let is_elasticsearch = search == SearchKind::Elasticsearch;
    let read = |section: &mut Section<'_>| read_elasticsearch(section, retention);
    let elasticsearch = engine(root, "elasticsearch", is_elasticsearch, read);
    let is_clickhouse = metrics == MetricsKind::Clickhouse;
    let clickhouse = engine(root, "clickhouse", is_clickhouse, read_clickhouse);
    Some(StoresConfig {
        kafka: kafka?,
        cassandra: cassandra?,
        elasticsearch: elasticsearch?,
        clickhouse: clickhouse?,
    })
}

/// The section of an engine: `Some(None)` where it is not used, `None` where it has faults.
fn engine<T>(
    root: &mut Section<'_>,
    key: &'static str,
    is_used: bool,
    read: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> Option<Option<T>> {
    if !is_used {
        if root.has(key) {
            let _: Option<Ignored> = root.optional(key);
            root.refuse(key, "is not used: `stores` names another store for its part");
        }
        return Some(None);
    }
    let mut section = root.section(key);
    let found = read(&mut section);
    section.finish();
    found.map(Some)
}

/// A node that is not looked into.
struct Ignored;

impl super::setting::Setting for Ignored {
    const WANTED: &'static str = "nothing";

    fn read(_: &super::tree::Node) -> Result<Self, String> {
        Ok(Self)
    }

    fn show(&self) -> String {
        String::new()
    }
}

fn read_cassandra(section: &mut Section<'_>) -> Option<CassandraConfig> {
    let nodes = hosts(section, "nodes");
    let datacenter = section.required::<String>("datacenter");
    let keyspace = section.value("keyspace", "farspan".to_owned());
    let copies = datacenter.clone().map(|name| (name, "3".to_owned()));
    let replication = section.value("replication", Properties(copies.into_iter().collect()));
    let consistency = section.value("consistency", Consistency::default());
    let timeout = timeout(section);
    let encryption = Encryption {
        is_on: section.value("tls", false),
        words: "`tls: true`",
        needs_authority: true,
    };
    let credentials = read_credentials(section, &encryption);
    for (name, copies) in &replication.0 {
        if !copies.parse::<u32>().is_ok_and(|copies| (1..=7).contains(&copies)) {
            section.refuse("replication", &format!("{name}: `{copies}` is not 1 to 7 copies"));
        }
    }
    let is_name = keyspace.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || keyspace.is_empty() || keyspace.len() > 48 {
        section.refuse("keyspace", "is at most 48 letters, digits and underscores");
    }
    Some(CassandraConfig {
        nodes: nodes?,
        keyspace,
        datacenter: datacenter?,
        replication,
        consistency,
        timeout,
        credentials,
    })
}

fn read_clickhouse(section: &mut Section<'_>) -> Option<ClickhouseConfig> {
    let url = section.required::<EngineUrl>("url");
    let database = section.value("database", "farspan".to_owned());
    let cluster = section.optional("cluster");
    let storage_policy = section.optional("storage_policy");
    let is_keeping_spans = section.value("spans", true);
    if !is_keeping_spans && storage_policy.is_some() {
        section.refuse("storage_policy", "is about raw spans, which `spans: false` does not keep");
    }
    let is_on = url.as_ref().is_none_or(EngineUrl::is_https);
    let encryption = Encryption { is_on, words: "`https://`", needs_authority: false };
    let credentials = read_credentials(section, &encryption);
    Some(ClickhouseConfig {
        url: url?,
        database,
        cluster,
        storage_policy,
        is_keeping_spans,
        timeout: timeout(section),
        credentials,
    })
}

/// A list of `host:port` with at least one.
pub(super) fn hosts(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let hosts = section.required::<Vec<String>>(key)?;
    let is_address = |text: &String| {
        text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    if let Some(wrong) = hosts.iter().find(|text| !is_address(text)) {
        section.refuse(key, &format!("`{wrong}` is not host:port"));
    }
    if hosts.is_empty() {
        section.refuse(key, "names no address");
    }
    Some(hosts)
}

pub(super) fn timeout(section: &mut Section<'_>) -> Duration {
    let seconds = Duration::from_secs;
    section.within("timeout", seconds(10), Duration::from_millis(100)..=seconds(300))
}
