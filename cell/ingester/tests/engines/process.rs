//! An ingester as if it were a process of its own: its own runtime, client and groups, over stores that
//! it shares with the others, as engines are shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ingester::{
    AggregatorConfig, AggregatorMaker, AggregatorMetrics, AggregatorParts, DeadLetterConfig,
    DeadLetters, GroupMaker, IngesterMetrics, IngesterParts, IngesterService, LagBoard, Retries,
    RunnerConfig, RunnerParts, SearchIndexerMaker, StorageWriterMaker,
};
use proto::wire::put_bytes_field;
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use service_kit::SystemClock;
use span_log::kafka::TopicSettings;
use span_log::port::{METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{GroupId, KafkaConfig, KafkaLog, Seen, SpanLog};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Clock, Coverage, Region, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::memory::MemoryStore;
use trace_store::memory_metrics::MemoryMetricsStore;
use trace_store::{EdgeKey, EdgeRow, EdgeTraceQuery, EdgeTraces, MetricsDelta, MetricsStore};
use trace_store::{RedKey, RedQuery, RedRow, StoreError};

/// What the processes of a cell share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stores {
    /// Spans, and what finds them: the store in memory is its own index.
    pub(crate) spans: Arc<MemoryStore>,
    pub(crate) metrics: Arc<MemoryMetricsStore>,
}

/// The counts as a process sees them that cannot reach their store.
#[derive(Debug, Default)]
pub(crate) struct Unreached {
    pub(crate) store: Arc<MemoryMetricsStore>,
    pub(crate) is_reached: AtomicBool,
    pub(crate) tries: AtomicU64,
}

impl Unreached {
    fn reach(&self) -> Result<&MemoryMetricsStore, StoreError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        match self.is_reached.load(Ordering::Relaxed) {
            true => Ok(&self.store),
            false => Err(StoreError::Unavailable("no way to it".to_owned())),
        }
    }
}

#[async_trait::async_trait]
impl MetricsStore for Unreached {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        self.reach()?.apply(delta).await
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        self.reach()?.checkpoint().await
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        self.reach()?.covered().await
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        self.reach()?.red(query).await
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        self.reach()?.edges(tenant, range).await
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        self.reach()?.edge_traces(query).await
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// Where the brokers are.
pub(crate) fn brokers() -> String {
    #[expect(clippy::disallowed_methods, reason = "a test of a real engine is told where it is")]
    let address = std::env::var("FARSPAN_TEST_KAFKA");
    address.expect("FARSPAN_TEST_KAFKA is not set: run `tests/engines/all.sh start`, then `env`")
}

/// Topics of this test alone; gives their prefix.
pub(crate) async fn make_topic(brokers: &str, partitions: u32) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (now, place) = (clock().now().millis(), NEXT.fetch_add(1, Ordering::Relaxed));
    let prefix = format!("ingesters-{now}-{}-{place}-", std::process::id());
    let mut config = KafkaConfig::at(vec![brokers.to_owned()]);
    config.prefix.clone_from(&prefix);
    let settings = TopicSettings { partitions, ..TopicSettings::default() };
    KafkaLog::init(&config, &settings).await.unwrap();
    prefix
}

pub(crate) fn config_of(prefix: &str) -> KafkaConfig {
    let mut config = KafkaConfig::at(vec![brokers()]);
    prefix.clone_into(&mut config.prefix);
    config.session_timeout = Duration::from_secs(6);
    config.tail = None;
    config
}

pub(crate) fn tenant() -> TenantId {
    TenantId::default()
}

pub(crate) fn trace(number: u64) -> TraceId {
    let mut bytes = [9; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TraceId::from_bytes(bytes).unwrap()
}

/// A request of its own for these traces, of one span each.
pub(crate) fn batch(traces: &[u64]) -> Arc<SpanBatch> {
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    let span = |number: &u64| {
        let mut bytes = Vec::new();
        put_bytes_field(&mut bytes, 1, trace(*number).as_bytes());
        put_bytes_field(&mut bytes, 2, &(number + 1).to_be_bytes());
        put_bytes_field(&mut bytes, 5, b"work");
        bytes
    };
    let spans: Vec<(TraceId, Vec<u8>)> =
        traces.iter().map(|number| (trace(*number), span(number))).collect();
    for (trace_id, bytes) in &spans {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, bytes);
    }
    let source = BatchSource {
        tenant: tenant(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: UnixNanos(5),
        digest: traces.first().copied().unwrap_or(0) + 1,
    };
    Arc::new(builder.finish(source).unwrap())
}

/// One ingester.
pub(crate) struct Process {
    runtime: Runtime,
    log: Arc<KafkaLog>,
    lag: LagBoard,
    token: CancellationToken,
    tracker: TaskTracker,
    _directory: TempDir,
}

impl Process {
    pub(crate) fn start(prefix: &str, stores: &Stores) -> Self {
        Self::start_with(prefix, stores, Arc::clone(&stores.metrics) as _)
    }

    /// One that counts into this store.
    pub(crate) fn start_with(prefix: &str, stores: &Stores, counts: Arc<dyn MetricsStore>) -> Self {
        let runtime = Runtime::new().unwrap();
        let opening = KafkaLog::open(config_of(prefix), Seen::default(), clock());
        let log = runtime.block_on(opening).unwrap();
        let directory = TempDir::new().unwrap();
        let letters = DeadLetterConfig::new(directory.path().join("dead"));
        let lag = LagBoard::default();
        let runner = RunnerParts {
            stepped_over: None,
            log: Arc::clone(&log) as _,
            dead_letters: Arc::new(DeadLetters::open(letters).unwrap()),
            clock: clock(),
            lag: lag.clone(),
            metrics: IngesterMetrics::default(),
            retries: Retries::default(),
            // Small reads: many places to die in between.
            config: RunnerConfig { read_bytes_max: 2_000, ..RunnerConfig::default() },
        };
        let parts = IngesterParts { runner, groups: groups(log.as_ref(), stores, counts) };
        let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
        let starting = IngesterService::start(&tracker, &token, parts);
        runtime.block_on(starting).unwrap();
        Self { runtime, log, lag, token, tracker, _directory: directory }
    }

    /// How many partitions of a group it reads.
    pub(crate) fn partitions(&self, group: GroupId) -> usize {
        self.lag.of(group).map_or(0, |lag| lag.partitions)
    }

    pub(crate) fn is_counting(&self) -> bool {
        self.lag.of(METRICS_AGGREGATOR).is_some_and(|lag| lag.is_running && lag.partitions == 8)
    }

    pub(crate) fn stands_by(&self) -> bool {
        self.lag.of(METRICS_AGGREGATOR).is_some_and(|lag| lag.is_standing_by)
    }

    /// Whether it waits for the store of the counts, and how well it is otherwise.
    pub(crate) fn waits_for_counts(&self) -> bool {
        self.lag.of(METRICS_AGGREGATOR).is_some_and(|lag| lag.is_waiting && !lag.is_running)
    }

    /// Ends every task wherever it is: what was in its hands is gone.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }

    /// Ends it in order.
    pub(crate) fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        self.runtime.block_on(async {
            self.tracker.wait().await;
            self.log.close().await.unwrap();
        });
    }
}

fn groups(
    log: &KafkaLog,
    stores: &Stores,
    counts: Arc<dyn MetricsStore>,
) -> Vec<Arc<dyn GroupMaker>> {
    let identity = log.identity();
    let incarnation = identity.incarnation;
    let config = AggregatorConfig {
        flush_every: Duration::from_millis(150),
        checkpoint_every: Duration::from_millis(400),
        ..AggregatorConfig::default()
    };
    let (aggregator, _) = AggregatorMaker::new(AggregatorParts {
        store: counts,
        log: (incarnation, identity.partitions),
        config,
        metrics: AggregatorMetrics::default(),
    });
    let (writer, indexer) = (Arc::clone(&stores.spans) as _, Arc::clone(&stores.spans) as _);
    let made: Vec<Arc<dyn GroupMaker>> = vec![
        Arc::new(StorageWriterMaker { writer, incarnation }),
        Arc::new(SearchIndexerMaker { indexer, incarnation }),
        Arc::new(aggregator),
    ];
    let names: Vec<GroupId> = made.iter().map(|maker| maker.group()).collect();
    assert_eq!(names, [STORAGE_WRITER, SEARCH_INDEXER, METRICS_AGGREGATOR]);
    made
}
