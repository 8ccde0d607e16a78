//! The store: how it connects, and its ports, each a line or two over the module that does it.

use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use tokio::sync::{Mutex, RwLock};
use trace_model::{Clock, Coverage, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};

use super::client::Client;
use super::config::ElasticsearchConfig;
use super::names::Names;
use super::state::State;
use super::templates::{self, EngineInfo, InitReport};
use crate::metrics::SearchEngineMetrics;
use crate::port::{
    Eraser, ErasureReceipt, NameList, Operation, SearchAnswer, SearchIndexer, ServiceCatalog,
    StoreError, TraceSearch,
};

/// Search, catalogue and erasure on Elasticsearch or OpenSearch. Cheap to share; any number of
/// processes may write and read at once.
#[derive(Debug)]
pub struct ElasticsearchStore {
    pub(super) client: Client,
    pub(super) config: ElasticsearchConfig,
    pub(super) names: Names,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: SearchEngineMetrics,
    pub(super) state: State,
    /// Writers share it; an erasure has it alone while it removes.
    pub(super) gate: RwLock<()>,
    /// One refresh at a time: who waits finds nothing left to do.
    pub(super) refreshing: Mutex<()>,
    engine: EngineInfo,
    /// The engine's lifecycle management moves the days, as the templates said at the start.
    pub(super) has_lifecycle: bool,
}

impl ElasticsearchStore {
    /// Sets the cluster up: templates, the state index, the lifecycle policy. Repeating it is
    /// harmless; templates of a newer release are [`StoreError::NewerFormat`].
    pub async fn init(config: &ElasticsearchConfig) -> Result<InitReport, StoreError> {
        config.check()?;
        let client = Client::new(config)?;
        templates::init(&client, config, &Names::new(config.index_prefix.clone())).await
    }

    /// Connects to a cluster that was set up. An engine that is away, and one that was not set up,
    /// are [`StoreError::Unavailable`]; a newer release's is [`StoreError::NewerFormat`]; one that
    /// refuses the credentials, or is too old, is [`StoreError::Unsupported`].
    pub async fn connect(
        config: ElasticsearchConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        config.check()?;
        let client = Client::new(&config)?;
        let names = Names::new(config.index_prefix.clone());
        let engine = templates::engine(&client).await?;
        templates::check(&client, &names).await?;
        // OpenSearch has none.
        let has_lifecycle =
            !engine.is_opensearch && templates::has_lifecycle(&client, &names).await?;
        let store = Self {
            client,
            config,
            names,
            clock,
            metrics: SearchEngineMetrics::default(),
            state: State::default(),
            gate: RwLock::new(()),
            refreshing: Mutex::new(()),
            engine,
            has_lifecycle,
        };
        store.load_progress().await?;
        store.current_tombstones().await?;
        Ok(Arc::new(store))
    }

    /// The store's metrics, to be registered by its owner.
    #[must_use]
    pub const fn metrics(&self) -> &SearchEngineMetrics {
        &self.metrics
    }

    /// The engine that answers.
    #[must_use]
    pub const fn engine(&self) -> &EngineInfo {
        &self.engine
    }

    /// The index prefix under which a stock Jaeger reads a tenant (`es.index-prefix`).
    #[must_use]
    pub fn jaeger_prefix(&self, tenant: &TenantId) -> String {
        self.names.jaeger_prefix(tenant)
    }
}

#[async_trait]
impl SearchIndexer for ElasticsearchStore {
    /// The engine has what was given when this returns.
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.write_batches(batches).await
    }

    /// Documents are known by what they hold: one that is there stays as it is, and the cover as well.
    async fn index_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        self.put_batches(std::slice::from_ref(batch)).await
    }

    async fn index_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.put_batches(batches).await
    }

    /// Lets what was written be found and writes the progress: at most once a second where `force`
    /// is not set.
    async fn flush(&self, _now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.store_progress(force).await
    }

    fn indexed(&self) -> Coverage {
        self.state.progress().stored
    }
}

#[async_trait]
impl TraceSearch for ElasticsearchStore {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        self.find(query).await
    }
}

#[async_trait]
impl ServiceCatalog for ElasticsearchStore {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        self.list_services(tenant, range).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.list_operations(tenant, service, range).await
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        self.searchable().await
    }
}

#[async_trait]
impl Eraser for ElasticsearchStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        self.erase_trace(tenant, trace_id).await
    }
}
