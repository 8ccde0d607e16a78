//! What a cell keeps, opened as its configuration says: log and stores as ports, and the chores that
//! each needs. The one place that names their adapters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ingester::{DeadLetterConfig, DeadLetters};
use metadata_replicator::{ContributionLog as _, Entropy, OriginLog, OriginLogConfig};
use prometheus_client::registry::Registry;
use service_kit::admin::MetricsPage;
use service_kit::config::cell::GroupKind;
use service_kit::config::{CellConfig, cell as raw, engines as raw_engines};
use service_kit::{Readiness, ReadyCheck};
use span_log::embedded::{EmbeddedConfig, EmbeddedLog, WhenFull};
use span_log::{ForgetLost, Seen, SpanLog};
use trace_model::{Clock, Coverage, UnixNanos};
use trace_store::{
    MetricsStore, SearchIndexer, Searcher, ServiceCatalog, SpanWriter, StandIn, StandInMetrics,
    TraceReader, TraceSearch,
};

pub(super) use self::direct::Direct;
#[cfg(feature = "kafka")]
use super::border;
use super::engines;
use super::house::{Chore, chore};
use super::opening::until_open;
use crate::seam::CellRole;

use to_come::Awaiting;

mod cold;
mod direct;
mod engine_stores;
mod files;
mod to_come;

/// What a cell keeps.
#[derive(Debug)]
pub(super) struct Keepers {
    pub(super) log: Arc<dyn SpanLog>,
    pub(super) stores: Stores,
    /// The region's log of contributions, in the process that may publish.
    pub(super) origin: Option<Arc<OriginLog>>,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) direct: Direct,
    pub(super) chores: Vec<Chore>,
    /// Stores that were away, each with what opens it when it is there.
    pub(super) awaiting: Vec<Awaiting>,
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
    /// Raw spans for dashboards, beside the counts.
    pub(super) analytics: Option<Arc<dyn SpanWriter>>,
}

/// How often the rows of the origin log are compacted.
const COMPACT_EVERY: Duration = Duration::from_secs(30);
/// How often lost records and dead letters are looked at for their age.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What the parts of a cell are opened with.
pub(super) struct Opening<'a> {
    pub(super) config: &'a CellConfig,
    pub(super) role: CellRole,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) registry: &'a mut Registry,
    pub(super) readiness: &'a Readiness,
    /// Says what is waited for.
    pub(super) ready: &'a ReadyCheck,
    pub(super) direct: Direct,
    /// Where the metrics of stores go that come later.
    pub(super) metrics: &'a MetricsPage,
    pub(super) chores: Vec<Chore>,
    pub(super) awaiting: Vec<Awaiting>,
}

/// Opens all that a process of this role needs. The log is waited for, and handed over as soon as it is
/// open: senders need nothing else. Stores that are away come later.
pub(super) async fn open(
    mut opening: Opening<'_>,
    hand_over: impl FnOnce(Arc<dyn SpanLog>),
) -> anyhow::Result<Keepers> {
    let config = opening.config;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making {} (`data_dir`)", config.data_dir.display()))?;
    let counting = open_counts(&mut opening).await?;
    let embedded = match &config.stores.cassandra {
        None => Some(files::spans(&mut opening).await?),
        Some(_) => None,
    };
    let Traces { writer, reader: traces, tables } = match (&embedded, &config.stores.cassandra) {
        (_, Some(cassandra)) => engine_stores::cassandra(&mut opening, cassandra).await?,
        (Some(store), None) => {
            let (writer, reader) = (Arc::clone(store) as _, Arc::clone(store) as _);
            Traces { writer, reader, tables: None }
        }
        (None, None) => anyhow::bail!("no store for traces"),
    };
    let may_publish =
        opening.role.consumes() && config.groups.contains(&GroupKind::MetadataPublisher);
    let origin = match may_publish {
        true => Some(open_origin(&mut opening).await?),
        false => None,
    };
    let seen = seen_of_the_log(&*writer, &counting, origin.as_deref());
    let log = open_log(&mut opening, seen).await?;
    hand_over(Arc::clone(&log));
    let searching = match (embedded, &config.stores.elasticsearch, tables) {
        (_, Some(elasticsearch), tables) => {
            let index = engine_stores::elasticsearch(&mut opening, elasticsearch).await?;
            match tables {
                Some(tables) => {
                    let metrics = StandInMetrics::default();
                    metrics.register(opening.registry);
                    index.beside(&tables, elasticsearch.is_written_by_others, metrics)
                }
                None => index,
            }
        }
        (Some(store), None, _) => Searching {
            indexer: Arc::clone(&store) as _,
            search: Arc::clone(&store) as _,
            catalog: store,
        },
        (None, None, Some(tables)) => tables,
        (None, None, None) => anyhow::bail!("no store for search"),
    };
    let Counting { metrics, analytics, .. } = counting;
    let Searching { indexer, search, catalog } = searching;
    let stores = Stores { writer, traces, indexer, search, catalog, metrics, analytics };
    let letters = DeadLetterConfig::new(config.data_dir.join("dead-letters"));
    let dead_letters = Arc::new(blocking(move || Ok(DeadLetters::open(letters)?)).await?);
    let direct = opening.direct;
    let (mut chores, awaiting) = (opening.chores, opening.awaiting);
    chores.push(forget_losses(config.retention, opening.clock, &log, &dead_letters));
    Ok(Keepers { log, stores, origin, dead_letters, direct, chores, awaiting })
}

/// What counts, and what keeps raw spans beside the counts.
struct Counting {
    metrics: Arc<dyn MetricsStore>,
    /// How far the log is counted.
    counted: Coverage,
    analytics: Option<Arc<dyn SpanWriter>>,
}

/// What answers searches.
#[derive(Clone, Debug)]
struct Searching {
    indexer: Arc<dyn SearchIndexer>,
    search: Arc<dyn TraceSearch>,
    catalog: Arc<dyn ServiceCatalog>,
}

impl Searching {
    fn searcher(&self) -> Searcher {
        Searcher { search: Arc::clone(&self.search), catalog: Arc::clone(&self.catalog) }
    }

    /// An index and a trace store's tables answer for one another; the index is what is filled.
    fn beside(self, tables: &Self, is_index_fuller: bool, metrics: StandInMetrics) -> Self {
        let (tables, index) = (tables.searcher(), self.searcher());
        let pair = Arc::new(StandIn::new(tables, index, is_index_fuller, metrics));
        Self { indexer: self.indexer, search: Arc::clone(&pair) as _, catalog: pair }
    }
}

/// What keeps spans by their traces.
struct Traces {
    writer: Arc<dyn SpanWriter>,
    reader: Arc<dyn TraceReader>,
    /// What it finds by service, operation and time, where it can.
    tables: Option<Searching>,
}

async fn open_counts(opening: &mut Opening<'_>) -> anyhow::Result<Counting> {
    match &opening.config.stores.clickhouse {
        Some(clickhouse) => engine_stores::clickhouse(opening, clickhouse).await,
        None => {
            let metrics = files::counts(opening).await?;
            let counted = metrics.covered().await.context("the metrics store")?;
            Ok(Counting { metrics, counted, analytics: None })
        }
    }
}

/// What was read of the log: it is opened with that, so that an older copy of it, or a new one in its
/// place, gives no offset again.
fn seen_of_the_log(
    writer: &dyn SpanWriter,
    counting: &Counting,
    origin: Option<&OriginLog>,
) -> Seen {
    let stored = writer.durable();
    let mut covered = stored.clone();
    covered.join(&counting.counted);
    if let Some(analytics) = &counting.analytics {
        covered.join(&analytics.durable());
    }
    let published = origin.and_then(|origin| origin.published());
    for (partition, next) in published.iter().flat_map(|mark| &mark.next) {
        let incarnation = published.as_ref().map_or(0, |mark| mark.incarnation);
        covered.extend_in(incarnation, *partition, *next);
    }
    let append_time = published.map_or(UnixNanos(0), |mark| mark.as_of);
    Seen { covered, stored, append_time }
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
    opening: &mut Opening<'_>,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    let config = opening.config;
    if let Some(kafka) = &config.stores.kafka {
        return open_kafka(opening, kafka, seen).await;
    }
    if let Some(direct) = &config.direct {
        return direct::open(opening, direct, seen).await;
    }
    let settings = EmbeddedConfig { seen, ..log_config(config) };
    let clock = Arc::clone(opening.clock);
    let log = blocking(move || Ok(EmbeddedLog::open(settings, clock)?)).await?;
    log.metrics().register(opening.registry);
    Ok(log)
}

#[cfg(feature = "kafka")]
async fn open_kafka(
    opening: &mut Opening<'_>,
    kafka: &raw_engines::KafkaConfig,
    seen: Seen,
) -> anyhow::Result<Arc<dyn SpanLog>> {
    let mut settings = engines::kafka::settings(opening.config, kafka)?;
    if !border::looks_at_fresh_spans(opening.config, opening.role) {
        settings.tail = None;
    }
    let log = until_open("the span log in Kafka", opening.ready, async || {
        let (settings, clock) = (settings.clone(), Arc::clone(opening.clock));
        Ok(span_log::kafka::KafkaLog::open(settings, seen.clone(), clock).await?)
    });
    let log = log.await?;
    log.metrics().register(opening.registry);
    Ok(log)
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn open_kafka(
    _: &mut Opening<'_>,
    _: &raw_engines::KafkaConfig,
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

async fn open_origin(opening: &mut Opening<'_>) -> anyhow::Result<Arc<OriginLog>> {
    let config = opening.config;
    let place: PathBuf = config.data_dir.join("origin");
    let settings = OriginLogConfig {
        retention: config.retention,
        ..OriginLogConfig::new(place, config.region.clone())
    };
    let clock = Arc::clone(opening.clock);
    let open = move || Ok(OriginLog::open(settings, clock, Entropy::from_system())?);
    let origin = Arc::new(blocking(open).await?);
    let kept = Arc::clone(&origin);
    opening.chores.push(chore("compaction of the origin log", COMPACT_EVERY, move || {
        let origin = Arc::clone(&kept);
        async move { Ok(origin.maintain().await?) }
    }));
    Ok(origin)
}
