//! The store, and its connection: opened when it can be, used when it is there.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use trace_model::{Clock, TenantId, TraceId};
use xxhash_rust::xxh3::xxh3_64;

use super::announce::Announced;
use super::config::CassandraConfig;
use super::engine::{Engine, Repeats};
use super::erased::ErasedList;
use super::fault::Disconnected;
use super::overflow::Fills;
use super::pieces::Retention;
use super::progress::Progress;
use super::read::TracePages;
use super::{init, session, statements, upkeep};
use crate::metrics::CassandraMetrics;
use crate::migration::{MigrationReport, Schema};
use crate::port::{StoreError, StoreStatus};

/// A connection that failed is tried again after this time, by whoever needs it then.
const RECONNECT: Duration = Duration::from_secs(1);

/// Spans, index and catalogue in Cassandra or Scylla. See `docs/DECISIONS/016-cassandra-store.md`.
pub struct CassandraStore {
    pub(super) config: CassandraConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retention_nanos: u64,
    pub(super) metrics: CassandraMetrics,
    pub(super) erased: ErasedList,
    pub(super) progress: Progress,
    pub(super) announced: Announced,
    /// By trace: its shard.
    pub(super) shards: Fills,
    /// By hour of a service: its level.
    pub(super) levels: Fills,
    /// Of the hashes of this process: no sender knows it.
    pub(super) seed: u64,
    engine: ArcSwapOption<Engine>,
    gate: tokio::sync::Mutex<Option<(Duration, StoreError)>>,
}

impl fmt::Debug for CassandraStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CassandraStore")
            .field("keyspace", &self.config.keyspace)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl CassandraStore {
    /// Creates keyspace and tables where they are missing, and notes the schema's version. Changes
    /// nothing that is there.
    ///
    /// # Errors
    ///
    /// [`StoreError::NewerFormat`] where a newer release has been here; [`StoreError::Unsupported`]
    /// for names that cannot be used; [`StoreError::Unavailable`] while the cluster is away.
    pub async fn init(config: &CassandraConfig) -> Result<(), StoreError> {
        init::init(config).await
    }

    /// Names what differs between the keyspace and what `init` creates for this configuration;
    /// nothing where they are alike.
    ///
    /// # Errors
    ///
    /// As [`Self::init`].
    pub async fn check(config: &CassandraConfig) -> Result<Vec<String>, StoreError> {
        init::check(config).await
    }

    /// How the keyspace stands; changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] while the cluster is away.
    pub async fn status(config: &CassandraConfig) -> Result<StoreStatus, StoreError> {
        upkeep::status(config).await
    }

    /// Leads the keyspace to this schema ([`super::SCHEMA`] is the release's), step by step; with
    /// `is_dry_run` only says which steps are due.
    ///
    /// # Errors
    ///
    /// As [`Schema::due`]; [`StoreError::Unavailable`] while the cluster is away.
    pub async fn migrate(
        config: &CassandraConfig,
        schema: &Schema,
        is_dry_run: bool,
    ) -> Result<MigrationReport, StoreError> {
        upkeep::migrate(config, schema, is_dry_run).await
    }

    /// Opens the store. Where no node answers within the connect timeout it is opened all the same:
    /// whatever is asked of it fails as unavailable until a node answers, and then goes on.
    ///
    /// # Errors
    ///
    /// What waiting does not mend: a keyspace without schema, a newer schema, a login that is
    /// refused, a data centre that does not exist, files that cannot be read.
    pub async fn connect(
        config: CassandraConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        let retention_nanos = u64::try_from(config.retention.as_nanos()).unwrap_or(u64::MAX);
        // Another one in each process.
        let seed = RandomState::new().hash_one(&config.keyspace);
        let store = Self {
            erased: ErasedList::new(config.retention),
            progress: Progress::new(&config.log, retention_nanos),
            announced: Announced::new(seed),
            shards: Fills::of_traces(config.partition_bytes_max, config.retention),
            levels: Fills::of_hours(config.partition_bytes_max, config.retention),
            metrics: CassandraMetrics::default(),
            seed,
            retention_nanos,
            clock,
            config,
            engine: ArcSwapOption::empty(),
            gate: tokio::sync::Mutex::default(),
        };
        match store.open().await {
            Ok(engine) => store.engine.store(Some(engine)),
            Err(Disconnected::Refused(error)) => return Err(error),
            Err(Disconnected::Unreachable(error)) => {
                tracing::warn!(%error, "the trace store is away; it is connected when it is back");
                *store.gate.lock().await = Some((store.clock.monotonic(), error));
            }
        }
        Ok(Arc::new(store))
    }

    /// Whether a connection was made. It mends itself when nodes come and go.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.engine.load().is_some()
    }

    /// Why there is no connection yet; `Ok` once one was made.
    ///
    /// # Errors
    ///
    /// With the words of the last try.
    pub fn connection(&self) -> Result<(), String> {
        if self.is_connected() {
            return Ok(());
        }
        let failure = self.gate.try_lock().ok().and_then(|failure| failure.clone());
        Err(failure
            .map_or_else(|| "it is being connected".to_owned(), |(_, error)| error.to_string()))
    }

    /// Connects where there is no connection yet and the last try is a second ago.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] while the cluster is away.
    pub async fn reconnect(&self) -> Result<(), StoreError> {
        self.engine().await.map(drop)
    }

    /// Its metrics.
    #[must_use]
    pub const fn metrics(&self) -> &CassandraMetrics {
        &self.metrics
    }

    /// A trace piece by piece, in bounded memory. An erased trace has no pieces.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] while the cluster is away.
    pub async fn pages(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<Option<TracePages>, StoreError> {
        let engine = self.engine().await?;
        self.erased.refresh(&engine).await?;
        let is_erased = self.erased.contains(tenant, trace_id);
        Ok((!is_erased).then(|| TracePages::new(engine, tenant.clone(), trace_id)))
    }

    /// The connection; made now where there is none and the last try is a second ago.
    pub(super) async fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        if let Some(engine) = &*self.engine.load() {
            return Ok(Arc::clone(engine));
        }
        let mut failure = self.gate.lock().await;
        if let Some(engine) = &*self.engine.load() {
            return Ok(Arc::clone(engine));
        }
        if let Some((at, error)) = &*failure
            && self.clock.monotonic().saturating_sub(*at) < RECONNECT
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(engine) => {
                tracing::info!("the trace store is connected");
                self.engine.store(Some(Arc::clone(&engine)));
                *failure = None;
                Ok(engine)
            }
            Err(error) => {
                let error = error.into_error();
                *failure = Some((self.clock.monotonic(), error.clone()));
                Err(error)
            }
        }
    }

    async fn open(&self) -> Result<Arc<Engine>, Disconnected> {
        let session = session::open(&self.config, &self.metrics.retries).await?;
        init::expect_schema(&session, &self.config.keyspace).await?;
        let statements = Box::pin(statements::prepare(&session, &self.config)).await;
        let statements = statements.map_err(Disconnected::Unreachable)?;
        let writer = xxh3_64(session.session_id().as_bytes()).to_be_bytes();
        let engine = Arc::new(Engine {
            session,
            statements,
            writer,
            concurrency: self.config.concurrency,
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            repeats: Repeats::default(),
        });
        self.progress.load(&engine).await.map_err(Disconnected::Unreachable)?;
        self.erased.load(&engine).await.map_err(Disconnected::Unreachable)?;
        Ok(engine)
    }

    /// Tells what retention has removed.
    pub(super) fn retention(&self) -> Retention {
        Retention { clock: Arc::clone(&self.clock), nanos: self.retention_nanos }
    }
}
