//! What a replay writes into: the cell's own stores, known by what they hold, or a view beside them.

use std::sync::Arc;

use ingester::GroupHandler;
use service_kit::config::CellConfig;
use span_log::SpanLog;
use trace_model::{Clock, Coverage};

use crate::seam::replay::{ReplayGroup, ReplayRefusal, ReplayRequest};
use crate::wiring::engines;

/// What takes the records.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) handler: Box<dyn GroupHandler>,
    /// The name of the store or view.
    pub(super) into: String,
    /// The same, and in which engine.
    pub(super) what: String,
    /// How far the store or view holds the log.
    pub(super) held: Coverage,
    /// Where a view goes on that takes each record once, whatever is asked for.
    pub(super) position: Option<Coverage>,
}

/// What targets are opened with.
#[derive(Clone)]
struct Place<'a> {
    config: &'a CellConfig,
    request: &'a ReplayRequest,
    clock: Arc<dyn Clock>,
    /// Incarnation and partitions of the log.
    log: (u64, u32),
}

/// Opens the store or view of a request; a view that is missing is made.
pub(super) async fn open(
    config: &CellConfig,
    request: &ReplayRequest,
    log: &dyn SpanLog,
    clock: Arc<dyn Clock>,
) -> Result<Target, ReplayRefusal> {
    let identity = log.identity();
    let log = (identity.incarnation, identity.partitions);
    let place = Place { config, request, clock, log };
    match request.group {
        ReplayGroup::StorageWriter => storage_writer(place).await,
        ReplayGroup::SearchIndexer => search_indexer(place).await,
        ReplayGroup::AnalyticsWriter => analytics_writer(place).await,
        ReplayGroup::MetricsAggregator => metrics_aggregator(place).await,
        ReplayGroup::MetadataPublisher => {
            Err(ReplayRefusal::Usage("the index is not replayed".to_owned()))
        }
    }
}

impl Place<'_> {
    /// The name of the view, which must not be the cell's own store.
    fn view(&self, own: &str, what: &str) -> Result<Option<String>, ReplayRefusal> {
        match self.request.into.as_deref() {
            Some(into) if into == own => Err(ReplayRefusal::Usage(format!(
                "--into {into}: this is the {what} that the cell uses"
            ))),
            into => Ok(into.map(str::to_owned)),
        }
    }

    /// A name that no other replay has.
    fn view_or_new(&self, own: &str, what: &str) -> Result<String, ReplayRefusal> {
        let new = || format!("{own}_replay_{}", self.clock.now().millis() / 1_000);
        Ok(self.view(own, what)?.unwrap_or_else(new))
    }
}

#[cfg(feature = "cassandra")]
async fn storage_writer(place: Place<'_>) -> Result<Target, ReplayRefusal> {
    use anyhow::Context as _;
    use ingester::{AgainHandler, StorageWriterHandler};
    use trace_store::SpanWriter as _;
    use trace_store::cassandra::CassandraStore;

    let Some(cassandra) = &place.config.stores.cassandra else {
        return Err(ReplayRefusal::Usage("the cell has no store in Cassandra".to_owned()));
    };
    let mut settings = engines::cassandra::settings(place.config, cassandra)?;
    let view = place.view(&settings.keyspace, "keyspace")?;
    if let Some(keyspace) = view.clone() {
        settings.keyspace = keyspace;
        CassandraStore::init(&settings).await.context("making the keyspace")?;
    }
    let keyspace = settings.keyspace.clone();
    let store = CassandraStore::connect(settings, Arc::clone(&place.clock)).await;
    let store = store.context("opening Cassandra")?;
    store.reconnect().await.context("opening Cassandra")?;
    let covered = store.durable();
    let handler: Box<dyn GroupHandler> = match view {
        Some(_) => Box::new(StorageWriterHandler::new(store, place.log.0)),
        None => Box::new(AgainHandler::spans(store, place.log.0)),
    };
    let what = format!("the keyspace {keyspace} of Cassandra");
    Ok(Target { handler, into: keyspace, what, held: covered, position: None })
}

#[cfg(not(feature = "cassandra"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn storage_writer(_: Place<'_>) -> Result<Target, ReplayRefusal> {
    Err(engines::lacking("stores.traces: cassandra", "cassandra").into())
}

#[cfg(feature = "elasticsearch")]
async fn search_indexer(place: Place<'_>) -> Result<Target, ReplayRefusal> {
    use anyhow::Context as _;
    use ingester::{AgainHandler, SearchIndexerHandler};
    use trace_store::SearchIndexer as _;
    use trace_store::elasticsearch::ElasticsearchStore;

    let Some(elasticsearch) = &place.config.stores.elasticsearch else {
        return Err(ReplayRefusal::Usage("the cell has no index in Elasticsearch".to_owned()));
    };
    let mut settings = engines::elasticsearch::settings(place.config, elasticsearch);
    let view = place.view(&settings.index_prefix, "prefix")?;
    if let Some(prefix) = view.clone() {
        settings.index_prefix = prefix;
        ElasticsearchStore::init(&settings).await.context("making the templates")?;
    }
    let prefix = settings.index_prefix.clone();
    let store = ElasticsearchStore::connect(settings, Arc::clone(&place.clock)).await;
    let store = store.context("opening Elasticsearch")?;
    let covered = store.indexed();
    let handler: Box<dyn GroupHandler> = match view {
        Some(_) => Box::new(SearchIndexerHandler::new(store, place.log.0)),
        None => Box::new(AgainHandler::search(store, place.log.0)),
    };
    let what = format!("the prefix {prefix} of Elasticsearch");
    Ok(Target { handler, into: prefix, what, held: covered, position: None })
}

#[cfg(not(feature = "elasticsearch"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn search_indexer(_: Place<'_>) -> Result<Target, ReplayRefusal> {
    Err(engines::lacking("stores.search: elasticsearch", "elasticsearch").into())
}

/// A database beside the cell's, made where it is missing. What was erased does not come back by it.
#[cfg(feature = "clickhouse")]
async fn database(
    place: &Place<'_>,
    group: ReplayGroup,
) -> Result<trace_store::ClickhouseConfig, ReplayRefusal> {
    use anyhow::Context as _;
    use trace_store::clickhouse::{copy_erasures, init};

    let Some(clickhouse) = &place.config.stores.clickhouse else {
        return Err(ReplayRefusal::Usage("the cell has no store in ClickHouse".to_owned()));
    };
    let own = engines::clickhouse::settings(place.config, clickhouse);
    let mut settings = own.clone();
    settings.database = place.view_or_new(&own.database, "database")?;
    if Box::pin(super::is_swap_begun(place.config, group, &settings.database)).await? {
        let words = "its swap was begun and is not done: with --swap it is finished";
        return Err(ReplayRefusal::Usage(format!("--into {}: {words}", settings.database)));
    }
    init(&settings).await.context("making the database")?;
    copy_erasures(&own, &settings).await.context("copying what was erased")?;
    Ok(settings)
}

/// Rows of `otel_traces` are known by the run they came with: what is there is skipped, so that a
/// replay needs a database of its own.
#[cfg(feature = "clickhouse")]
async fn analytics_writer(place: Place<'_>) -> Result<Target, ReplayRefusal> {
    use anyhow::Context as _;
    use ingester::{AnalyticsWriterMaker, GroupMaker as _};
    use trace_store::SpanWriter;
    use trace_store::clickhouse::ClickhouseSpans;

    let settings = database(&place, ReplayGroup::AnalyticsWriter).await?;
    let into = settings.database.clone();
    let spans = ClickhouseSpans::connect(settings, Arc::clone(&place.clock)).await;
    let writer: Arc<dyn SpanWriter> = Arc::new(spans.context("opening ClickHouse")?);
    let held = writer.durable();
    let handler = AnalyticsWriterMaker { writer, incarnation: place.log.0 }.make().await?;
    let what = format!("the database {into} of ClickHouse");
    Ok(Target { handler, into, what, held, position: None })
}

/// Counts are no function of a record alone, and adding one again would count it twice: a replay counts
/// into a database of its own, with a checkpoint of its own.
#[cfg(feature = "clickhouse")]
async fn metrics_aggregator(place: Place<'_>) -> Result<Target, ReplayRefusal> {
    use anyhow::Context as _;
    use ingester::{
        AggregatorConfig, AggregatorMaker, AggregatorMetrics, AggregatorParts, GroupMaker as _,
    };
    use trace_store::MetricsStore;
    use trace_store::clickhouse::ClickhouseMetricsStore;

    let settings = database(&place, ReplayGroup::MetricsAggregator).await?;
    let into = settings.database.clone();
    let store = ClickhouseMetricsStore::connect(settings, Arc::clone(&place.clock)).await;
    let store: Arc<dyn MetricsStore> = Arc::new(store.context("opening ClickHouse")?);
    let parts = AggregatorParts {
        store: Arc::clone(&store),
        log: place.log,
        config: AggregatorConfig::default(),
        metrics: AggregatorMetrics::default(),
    };
    let (maker, _) = AggregatorMaker::new(parts);
    let handler = maker.make().await?;
    let held = store.covered().await.context("reading how far the database counts")?;
    // What is remembered may end before what is counted: from there on it is read again.
    let position = Some(handler.durable());
    let what = format!("the database {into} of ClickHouse");
    Ok(Target { handler, into, what, held, position })
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn analytics_writer(_: Place<'_>) -> Result<Target, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn metrics_aggregator(_: Place<'_>) -> Result<Target, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}
