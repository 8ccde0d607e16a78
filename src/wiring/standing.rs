//! How the engines of a cell stand, and leading their schemas forward. Nothing is made here.

use service_kit::config::CellConfig;
use trace_model::Coverage;
use trace_store::PartSize;
#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
use trace_store::{MigrationReport, Schema, StoreError, StoreStatus};

#[cfg(any(
    feature = "kafka",
    feature = "cassandra",
    feature = "clickhouse",
    feature = "elasticsearch"
))]
use super::engines;

/// How one engine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Which engine, and where in it.
    pub(crate) what: String,
    /// Why it cannot be asked.
    pub(crate) failure: Option<String>,
    pub(crate) engine: String,
    /// The version of the schema that is there, and the one that this release wants; `None` where there
    /// are no versions.
    pub(crate) schema: Option<(Option<u32>, u32)>,
    /// What is to be done about the schema.
    pub(crate) advice: Option<String>,
    pub(crate) differences: Vec<String>,
    /// What a person should know that is no difference.
    pub(crate) notes: Vec<String>,
    pub(crate) sizes: Vec<PartSize>,
    pub(crate) covered: Vec<(&'static str, Coverage)>,
}

/// What became of the schema of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Migrated {
    pub(crate) what: String,
    /// The version that was found, and the wanted one.
    pub(crate) versions: (u32, u32),
    /// Steps that were taken, or would be.
    pub(crate) steps: Vec<(u32, &'static str)>,
}

/// Asks every engine of a cell, each whatever the others say.
pub(crate) async fn look(config: &CellConfig) -> Vec<Standing> {
    let mut found = Vec::new();
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &config.stores.kafka {
        found.extend(Box::pin(look_at_topics(config, kafka)).await);
    }
    #[cfg(feature = "cassandra")]
    if let Some(cassandra) = &config.stores.cassandra {
        use trace_store::cassandra::{CassandraStore, SCHEMA};
        let what = format!("Cassandra keyspace {}", cassandra.keyspace);
        found.push(match engines::cassandra::settings(config, cassandra) {
            Ok(settings) => {
                standing(what, &SCHEMA, Box::pin(CassandraStore::status(&settings)).await)
            }
            Err(error) => failed(what, format!("{error:#}")),
        });
    }
    #[cfg(feature = "elasticsearch")]
    if let Some(elasticsearch) = &config.stores.elasticsearch {
        use trace_store::elasticsearch::{ElasticsearchStore, SCHEMA};
        let settings = engines::elasticsearch::settings(config, elasticsearch);
        let what = format!("Elasticsearch prefix {}", settings.index_prefix);
        let clock = std::sync::Arc::new(service_kit::SystemClock::new());
        let status = Box::pin(ElasticsearchStore::status(&settings, clock)).await;
        found.push(standing(what, &SCHEMA, status));
    }
    #[cfg(feature = "clickhouse")]
    if let Some(clickhouse) = &config.stores.clickhouse {
        use trace_store::clickhouse::{SCHEMA, status};
        let settings = engines::clickhouse::settings(config, clickhouse);
        let what = format!("ClickHouse database {}", settings.database);
        let mut at = standing(what, &SCHEMA, Box::pin(status(&settings)).await);
        at.covered.retain(|(group, _)| *group != "analytics-writer" || clickhouse.is_keeping_spans);
        found.push(at);
    }
    found
}

#[cfg(feature = "kafka")]
async fn look_at_topics(
    config: &CellConfig,
    kafka: &service_kit::config::engines::KafkaConfig,
) -> Vec<Standing> {
    use span_log::kafka::KafkaLog;

    let what = |topic: &str| format!("Kafka topic {topic}");
    let settings = match engines::kafka::settings(config, kafka) {
        Ok(settings) => settings,
        Err(error) => return vec![failed(what(&kafka.prefix), format!("{error:#}"))],
    };
    let wanted = engines::kafka::topics(config, kafka);
    match KafkaLog::look(&settings, &wanted).await {
        Err(error) => vec![failed(what(&settings.topic_name()), error.to_string())],
        Ok(topics) => {
            let one = |topic: span_log::kafka::TopicReport| Standing {
                what: what(&topic.topic),
                engine: "Kafka".to_owned(),
                differences: topic.differences,
                notes: topic.warnings,
                ..Standing::default()
            };
            topics.into_iter().map(one).collect()
        }
    }
}

#[cfg(any(
    feature = "kafka",
    feature = "cassandra",
    feature = "clickhouse",
    feature = "elasticsearch"
))]
fn failed(what: String, failure: String) -> Standing {
    Standing { what, failure: Some(failure), ..Standing::default() }
}

#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
fn standing(what: String, schema: &Schema, status: Result<StoreStatus, StoreError>) -> Standing {
    let status = match status {
        Ok(status) => status,
        Err(error) => return failed(what, error.to_string()),
    };
    let advice = status.advice(&what, schema);
    let StoreStatus { engine, schema: found, differences, sizes, covered } = status;
    let schema = Some((found, schema.version));
    Standing { what, engine, schema, advice, differences, sizes, covered, ..Standing::default() }
}

/// Leads the schema of every engine of a cell to this release's.
///
/// # Errors
/// At the first that fails: what was led forward before stays so.
pub(crate) async fn migrate(
    config: &CellConfig,
    is_dry_run: bool,
) -> anyhow::Result<Vec<Migrated>> {
    let mut done = Vec::new();
    #[cfg(feature = "cassandra")]
    if let Some(cassandra) = &config.stores.cassandra {
        use trace_store::cassandra::{CassandraStore, SCHEMA};
        let settings = engines::cassandra::settings(config, cassandra)?;
        let report = Box::pin(CassandraStore::migrate(&settings, &SCHEMA, is_dry_run)).await?;
        done.push(migrated(format!("Cassandra keyspace {}", settings.keyspace), report));
    }
    #[cfg(feature = "elasticsearch")]
    if let Some(elasticsearch) = &config.stores.elasticsearch {
        use trace_store::elasticsearch::{ElasticsearchStore, SCHEMA};
        let settings = engines::elasticsearch::settings(config, elasticsearch);
        let report = Box::pin(ElasticsearchStore::migrate(&settings, &SCHEMA, is_dry_run)).await?;
        done.push(migrated(format!("Elasticsearch prefix {}", settings.index_prefix), report));
    }
    #[cfg(feature = "clickhouse")]
    if let Some(clickhouse) = &config.stores.clickhouse {
        let settings = engines::clickhouse::settings(config, clickhouse);
        let schema = &trace_store::clickhouse::SCHEMA;
        let report = trace_store::clickhouse::migrate(&settings, schema, is_dry_run);
        let report = Box::pin(report).await?;
        done.push(migrated(format!("ClickHouse database {}", settings.database), report));
    }
    Ok(done)
}

#[cfg(any(feature = "cassandra", feature = "clickhouse", feature = "elasticsearch"))]
fn migrated(what: String, report: MigrationReport) -> Migrated {
    let MigrationReport { found, wanted, steps } = report;
    let steps = steps.iter().map(|step| (step.to, step.what)).collect();
    Migrated { what, versions: (found, wanted), steps }
}
