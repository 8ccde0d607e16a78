//! What a cell keeps, opened as its configuration says: log and stores as ports, and the chores that
//! each needs. The one place that names their adapters.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use ingester::{DeadLetterConfig, DeadLetters};
use metadata_replicator::{ContributionLog as _, Entropy, OriginLog, OriginLogConfig};
use prometheus_client::registry::Registry;
use service_kit::config::cell::GroupKind;
use service_kit::config::{CellConfig, cell as raw, engines as raw_engines};
use span_log::embedded::{EmbeddedConfig, EmbeddedLog, WhenFull};
use span_log::{ForgetLost, Seen, SpanLog};
use trace_model::{Clock, UnixNanos};
use trace_store::embedded::{EmbeddedStore, EmbeddedStoreConfig};
use trace_store::embedded_metrics::{EmbeddedMetricsConfig, EmbeddedMetricsStore};
use trace_store::{
    MetricsStore, SearchIndexer, ServiceCatalog, SpanWriter, TraceReader, TraceSearch,
};

use super::engines;
use crate::seam::CellRole;

/// What a cell keeps.
#[derive(Debug)]
pub(super) struct Keepers {
    pub(super) log: Arc<dyn SpanLog>,
    pub(super) stores: Stores,
    /// The region's log of contributions, in the process that may publish.
    pub(super) origin: Option<Arc<OriginLog>>,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) chores: Vec<Chore>,
}

/// The stores behind their ports.
#[derive(Clone, Debug)]
pub(super) struct Stores {
    pub(super) writer: Arc<dyn SpanWriter>,
    pub(super) traces: Arc<dyn TraceReader>,
    pub(super) indexer: Arc<dyn SearchIndexer>,
    pub(super) search: Arc<dyn TraceSearch>,
    pub(super) catalog: Arc<dyn ServiceCatalog>,
    pub(super) metrics: Arc<dyn MetricsStore>,
}

/// Work that is due again and again, such as retention.
pub(super) struct Chore {
    pub(super) what: &'static str,
    pub(super) every: Duration,
    pub(super) run: Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

impl fmt::Debug for Chore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chore").field("what", &self.what).finish()
    }
}

/// How often segments are merged and what has passed its retention goes.
const MERGE_EVERY: Duration = Duration::from_secs(1);
/// The same for the origin log, whose rows are compacted.
const COMPACT_EVERY: Duration = Duration::from_secs(30);
/// How often lost records and dead letters are looked at for their age.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Retention of the counts: a cell that gets spans does it by itself.
const RETAIN_EVERY: Duration = Duration::from_secs(3_600);

/// Opens all that a process of this role needs.
pub(super) async fn open(
    config: &CellConfig,
    role: CellRole,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> anyhow::Result<Keepers> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making {} (`data_dir`)", config.data_dir.display()))?;
    let mut chores = Vec::new();
    let stores = open_stores(config, clock, registry, &mut chores).await?;
    let may_publish = role.consumes() && config.groups.contains(&GroupKind::MetadataPublisher);
    let origin = match may_publish {
        true => Some(open_origin(config, clock, &mut chores).await?),
        false => None,
    };
    let seen = seen_of_the_log(&stores, origin.as_deref()).await?;
    let log = open_log(config, role, clock, registry, seen).await?;
    let letters = DeadLetterConfig::new(config.data_dir.join("dead-letters"));
    let dead_letters = Arc::new(blocking(move || Ok(DeadLetters::open(letters)?)).await?);
    chores.push(forget_losses(config.retention, clock, &log, &dead_letters));
    Ok(Keepers { log, stores, origin, dead_letters, chores })
}

/// What was read of the log: it is opened with that, so that an older copy of it, or a new one in its
/// place, gives no offset again.
async fn seen_of_the_log(stores: &Stores, origin: Option<&OriginLog>) -> anyhow::Result<Seen> {
    let stored = stores.writer.durable();
    let counted = stores.metrics.covered().await.context("the metrics store")?;
    let mut covered = stored.clone();
    covered.join(&counted);
    let published = origin.and_then(|origin| origin.published());
    for (partition, next) in published.iter().flat_map(|mark| &mark.next) {
        let incarnation = published.as_ref().map_or(0, |mark| mark.incarnation);
        covered.extend_in(incarnation, *partition, *next);
    }
    let append_time = published.map_or(UnixNanos(0), |mark| mark.as_of);
    Ok(Seen { covered, stored, append_time })
}

/// Lost records and dead letters of which no store would have kept anything until now are no damage
/// any more: they count as expired.
fn forget_losses(
    retention: Duration,
    clock: &Arc<dyn Clock>,
    log: &Arc<dyn SpanLog>,
    dead_letters: &Arc<DeadLetters>,
) -> Chore {
    let (clock, log) = (Arc::clone(clock), Arc::clone(log));
    let dead_letters = Arc::clone(dead_letters);
    let retention = u64::try_from(retention.as_nanos()).unwrap_or(u64::MAX);
    chore("forgetting what is lost", FORGET_EVERY, move || {
        let (log, letters) = (Arc::clone(&log), Arc::clone(&dead_letters));
        let before = clock.now().minus(retention);
        async move {
            log.forget_lost(ForgetLost::Before(before)).await?;
            blocking(move || Ok(letters.expire(before)?)).await?;
            Ok(())
        }
    })
}

async fn blocking<T: Send + 'static>(
    open: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(open).await?
}

/// Opens the span log.
pub(super) async fn open_log(
    config: &CellConfig,
    role: CellRole,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    if let Some(kafka) = &config.stores.kafka {
        return open_kafka((config, kafka, role), clock, registry, seen).await;
    }
    let settings = EmbeddedConfig { seen, ..log_config(config) };
    let clock = Arc::clone(clock);
    let log = blocking(move || Ok(EmbeddedLog::open(settings, clock)?)).await?;
    log.metrics().register(registry);
    Ok(log)
}

#[cfg(feature = "kafka")]
async fn open_kafka(
    (config, kafka, role): (&CellConfig, &raw_engines::KafkaConfig, CellRole),
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    let mut settings = engines::kafka::settings(config, kafka)?;
    if role == CellRole::Collector {
        // It answers nothing.
        settings.tail = None;
    }
    let log = span_log::kafka::KafkaLog::open(settings, seen, Arc::clone(clock)).await?;
    log.metrics().register(registry);
    Ok(log)
}

#[cfg(not(feature = "kafka"))]
async fn open_kafka(
    _: (&CellConfig, &raw_engines::KafkaConfig, CellRole),
    _: &Arc<dyn Clock>,
    _: &mut Registry,
    _: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    Err(engines::lacking("stores.log: kafka", "kafka"))
}

fn log_config(config: &CellConfig) -> EmbeddedConfig {
    EmbeddedConfig {
        segment_bytes: config.log.segment_bytes,
        retention: config.log.retention,
        retention_bytes: config.log.bytes_max,
        when_full: match config.log.when_full {
            raw::WhenFull::Refuse => WhenFull::Refuse,
            raw::WhenFull::DropOldest => WhenFull::DropOldest,
        },
        ..EmbeddedConfig::at(config.data_dir.join("log"))
    }
}

async fn open_stores(
    config: &CellConfig,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
    chores: &mut Vec<Chore>,
) -> anyhow::Result<Stores> {
    let metrics = open_metrics(config, clock, chores).await?;
    let embedded = match &config.stores.cassandra {
        None => Some(open_embedded(config, clock, registry, chores).await?),
        Some(_) => None,
    };
    let (writer, traces) = match (&embedded, &config.stores.cassandra) {
        (_, Some(cassandra)) => open_cassandra(config, cassandra, clock, registry).await?,
        (Some(store), None) => (Arc::clone(store) as Arc<dyn SpanWriter>, Arc::clone(store) as _),
        (None, None) => anyhow::bail!("no store for traces"),
    };
    let found = match (embedded, &config.stores.elasticsearch) {
        (_, Some(elasticsearch)) => {
            open_elasticsearch(config, elasticsearch, clock, registry).await?
        }
        (Some(store), None) => Searching {
            indexer: Arc::clone(&store) as _,
            search: Arc::clone(&store) as _,
            catalog: store,
        },
        (None, None) => anyhow::bail!("no store for search"),
    };
    let Searching { indexer, search, catalog } = found;
    Ok(Stores { writer, traces, indexer, search, catalog, metrics })
}

/// What answers searches.
struct Searching {
    indexer: Arc<dyn SearchIndexer>,
    search: Arc<dyn TraceSearch>,
    catalog: Arc<dyn ServiceCatalog>,
}

type WriterAndReader = (Arc<dyn SpanWriter>, Arc<dyn TraceReader>);

#[cfg(feature = "cassandra")]
async fn open_cassandra(
    config: &CellConfig,
    cassandra: &raw_engines::CassandraConfig,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> anyhow::Result<WriterAndReader> {
    let settings = engines::cassandra::settings(config, cassandra)?;
    let store =
        trace_store::cassandra::CassandraStore::connect(settings, Arc::clone(clock)).await?;
    store.metrics().register(registry);
    Ok((Arc::clone(&store) as _, store))
}

#[cfg(not(feature = "cassandra"))]
async fn open_cassandra(
    _: &CellConfig,
    _: &raw_engines::CassandraConfig,
    _: &Arc<dyn Clock>,
    _: &mut Registry,
) -> anyhow::Result<WriterAndReader> {
    Err(engines::lacking("stores.traces: cassandra", "cassandra"))
}

#[cfg(feature = "elasticsearch")]
async fn open_elasticsearch(
    config: &CellConfig,
    elasticsearch: &raw_engines::ElasticsearchConfig,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> anyhow::Result<Searching> {
    let settings = engines::elasticsearch::settings(config, elasticsearch);
    let clock = Arc::clone(clock);
    let store = trace_store::elasticsearch::ElasticsearchStore::connect(settings, clock).await?;
    store.metrics().register(registry);
    Ok(Searching {
        indexer: Arc::clone(&store) as _,
        search: Arc::clone(&store) as _,
        catalog: store,
    })
}

#[cfg(not(feature = "elasticsearch"))]
async fn open_elasticsearch(
    _: &CellConfig,
    _: &raw_engines::ElasticsearchConfig,
    _: &Arc<dyn Clock>,
    _: &mut Registry,
) -> anyhow::Result<Searching> {
    Err(engines::lacking("stores.search: elasticsearch", "elasticsearch"))
}

#[cfg(feature = "clickhouse")]
async fn open_clickhouse(
    config: &CellConfig,
    clickhouse: &raw_engines::ClickhouseConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn MetricsStore>> {
    let settings = engines::clickhouse::settings(config, clickhouse);
    let clock = Arc::clone(clock);
    let store = trace_store::clickhouse::ClickhouseMetricsStore::connect(settings, clock).await?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "clickhouse"))]
async fn open_clickhouse(
    _: &CellConfig,
    _: &raw_engines::ClickhouseConfig,
    _: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn MetricsStore>> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse"))
}

async fn open_embedded(
    config: &CellConfig,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
    chores: &mut Vec<Chore>,
) -> anyhow::Result<Arc<EmbeddedStore>> {
    let settings = EmbeddedStoreConfig {
        retention: config.retention,
        bytes_max: config.retention_bytes,
        cache_bytes: config.querier.cache_bytes,
        ..EmbeddedStoreConfig::at(config.data_dir.join("store"))
    };
    let clock = Arc::clone(clock);
    let store = blocking(move || Ok(EmbeddedStore::open(settings, clock)?)).await?;
    store.metrics().register(registry);
    let kept = Arc::clone(&store);
    chores.push(chore("merging or retention of the store", MERGE_EVERY, move || {
        let store = Arc::clone(&kept);
        async move { Ok(store.maintain().await?) }
    }));
    Ok(store)
}

async fn open_metrics(
    config: &CellConfig,
    clock: &Arc<dyn Clock>,
    chores: &mut Vec<Chore>,
) -> anyhow::Result<Arc<dyn MetricsStore>> {
    if let Some(clickhouse) = &config.stores.clickhouse {
        return open_clickhouse(config, clickhouse, clock).await;
    }
    let settings = EmbeddedMetricsConfig {
        retention: config.retention,
        ..EmbeddedMetricsConfig::new(config.data_dir.join("metrics"))
    };
    let clock = Arc::clone(clock);
    let store = Arc::new(blocking(move || Ok(EmbeddedMetricsStore::open(settings, clock)?)).await?);
    let kept = Arc::clone(&store);
    chores.push(chore("retention of the counts", RETAIN_EVERY, move || {
        let store = Arc::clone(&kept);
        async move { Ok(store.retain().await?) }
    }));
    Ok(store)
}

async fn open_origin(
    config: &CellConfig,
    clock: &Arc<dyn Clock>,
    chores: &mut Vec<Chore>,
) -> anyhow::Result<Arc<OriginLog>> {
    let place: PathBuf = config.data_dir.join("origin");
    let settings = OriginLogConfig {
        retention: config.retention,
        ..OriginLogConfig::new(place, config.region.clone())
    };
    let clock = Arc::clone(clock);
    let open = move || Ok(OriginLog::open(settings, clock, Entropy::from_system())?);
    let origin = Arc::new(blocking(open).await?);
    let kept = Arc::clone(&origin);
    chores.push(chore("compaction of the origin log", COMPACT_EVERY, move || {
        let origin = Arc::clone(&kept);
        async move { Ok(origin.maintain().await?) }
    }));
    Ok(origin)
}

fn chore<F>(
    what: &'static str,
    every: Duration,
    run: impl Fn() -> F + Send + Sync + 'static,
) -> Chore
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    Chore { what, every, run: Box::new(move || Box::pin(run())) }
}
