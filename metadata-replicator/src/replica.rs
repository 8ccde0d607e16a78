//! One region's replica of the index: it follows every origin's log, keeps the records, joins them,
//! answers from them, and serves them on.

mod copy;
mod mend;
mod origin;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use proto::v1::metadata_index_server::MetadataIndexServer;
use proto::v1::metadata_replication_server::MetadataReplicationServer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::location::{RegionState, SummaryQuery};
use trace_model::{Clock, Region, TenantId, TraceEntry, TraceId};

use crate::disk::DiskThreads;
use crate::epoch::Entropy;
use crate::error::ReplicatorError;
use crate::feed::OriginFeed;
use crate::feed::grpc::{
    Dialer, FeedSink, ReplicationServer, ServerLimits, Subscriber, TcpDialer, follow,
};
use crate::index::hot::{HotIndex, Summaries};
use crate::lookup::IndexServer;
use crate::metrics::ReplicatorMetrics;
use mend::take_back;
use origin::Origin;

/// Where an origin's log is served: its cell, or a replicator that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginEndpoint {
    /// The origin.
    pub region: Region,
    /// For example `http://127.0.0.1:7001`. A region may be listed with several: they are tried
    /// in turn.
    pub url: String,
}

/// What a replica follows, and what it may hold.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Its own region.
    pub region: Region,
    /// Its directory, made where it is not.
    pub directory: PathBuf,
    /// The origins that it follows, its own region among them.
    pub origins: Vec<OriginEndpoint>,
    /// How long a row is kept after its last append at most: an origin's own retention counts where
    /// it is shorter.
    pub retention: Duration,
    /// Most rows in memory; those that arrived first go.
    pub rows_max: usize,
    /// Limits of the streams that it serves.
    pub limits: ServerLimits,
    /// A file is closed at this size.
    pub segment_bytes_max: u64,
    /// Where file work runs.
    pub disk: DiskThreads,
    /// How peers are reached.
    pub dialer: Arc<dyn Dialer>,
}

impl ReplicaConfig {
    /// Seven days, 5 million rows (an estimate of what fits into 1 GB, not measured), TCP.
    #[must_use]
    pub fn new(
        region: Region,
        directory: impl Into<PathBuf>,
        origins: Vec<OriginEndpoint>,
    ) -> Self {
        Self {
            region,
            directory: directory.into(),
            origins,
            retention: Duration::from_secs(7 * 24 * 3_600),
            rows_max: 5_000_000,
            limits: ServerLimits::default(),
            segment_bytes_max: 8 << 20,
            disk: DiskThreads::Blocking,
            dialer: Arc::new(TcpDialer),
        }
    }
}

/// Rows that a search looks at under one hold of the index's lock: about a millisecond.
const SEARCH_ROWS: usize = 2_048;
/// Searches under way at once: each takes its turn with the others' steps.
const SEARCHES_MAX: usize = 8;
/// How often files are synced; expiry and compaction come every tenth time.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A replica. Cheap to share through an [`Arc`].
#[derive(Debug)]
pub struct Replica {
    config: ReplicaConfig,
    origins: BTreeMap<Region, Arc<Origin>>,
    index: Arc<RwLock<HotIndex>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    metrics: ReplicatorMetrics,
    searches: Semaphore,
}

/// What a replica serves over gRPC.
#[derive(Debug)]
pub struct ReplicaServices {
    /// The logs that it holds, for peers.
    pub replication: MetadataReplicationServer<ReplicationServer>,
    /// The index, for the region's gateways.
    pub index: MetadataIndexServer<IndexServer>,
}

impl Replica {
    /// Opens the directory and joins what its files hold. Reads all of it: call it where blocking
    /// is allowed.
    pub fn open(
        config: ReplicaConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
        metrics: ReplicatorMetrics,
    ) -> Result<Self, ReplicatorError> {
        let index = Arc::new(RwLock::new(HotIndex::new(config.rows_max)));
        let mut origins = BTreeMap::new();
        for endpoint in &config.origins {
            let region = &endpoint.region;
            if origins.contains_key(region) {
                continue;
            }
            let origin = Origin::open(&config, region, &index, &clock, &metrics)?;
            origins.insert(region.clone(), Arc::new(origin));
        }
        // Only when all versions of all rows are there.
        origins.values().for_each(|origin| origin.expire_all());
        // Until the peers have been asked the own log is not served: a cell that lost its own would
        // take it for new.
        let has_peers = config.origins.iter().any(|endpoint| endpoint.region != config.region);
        if let Some(own) = origins.get(&config.region).filter(|own| has_peers && own.is_empty()) {
            own.set_mending(true);
        }
        let (entropy, searches) = (Arc::new(entropy), Semaphore::new(SEARCHES_MAX));
        Ok(Self { config, origins, index, clock, entropy, metrics, searches })
    }

    /// Starts following every origin, until the token is cancelled.
    pub fn spawn(self: &Arc<Self>, tracker: &TaskTracker, token: &CancellationToken) {
        for (region, origin) in &self.origins {
            let subscriber = self.subscriber(region, |endpoint| endpoint.region == *region);
            let sink: Arc<dyn FeedSink> = Arc::clone(origin) as Arc<dyn FeedSink>;
            let token = token.child_token();
            let mender = self.mender(region, origin);
            let origin = Arc::clone(origin);
            tracker.spawn(async move {
                if let Some(mender) = mender {
                    take_back(&mender, &origin, &token).await;
                    origin.set_mending(false);
                }
                follow(subscriber, sink, token).await;
            });
        }
        let (replica, token) = (Arc::clone(self), token.child_token());
        tracker.spawn(async move { replica.keep_house(&token).await });
    }

    fn subscriber(&self, origin: &Region, at: impl Fn(&OriginEndpoint) -> bool) -> Subscriber {
        let endpoints = self.config.origins.iter().filter(|endpoint| at(endpoint));
        Subscriber {
            origin: origin.clone(),
            subscriber: self.config.region.clone(),
            urls: endpoints.map(|endpoint| endpoint.url.clone()).collect(),
            dialer: Arc::clone(&self.config.dialer),
            entropy: Arc::clone(&self.entropy),
        }
    }

    /// Where nothing of the own region's log is here: the peers that may hold it.
    fn mender(&self, region: &Region, origin: &Origin) -> Option<Subscriber> {
        let others = |endpoint: &OriginEndpoint| endpoint.region != *region;
        origin.is_mending().then(|| self.subscriber(region, others))
    }

    /// Syncs, expires and compacts until the token is cancelled; syncs once more then.
    async fn keep_house(&self, token: &CancellationToken) {
        let mut rounds = 0_u32;
        loop {
            let is_last = tokio::select! {
                biased;
                () = token.cancelled() => true,
                () = tokio::time::sleep(SYNC_EVERY) => false,
            };
            for origin in self.origins.values() {
                origin.sync().await;
            }
            if is_last {
                return;
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(10) {
                self.maintain().await;
            }
            self.show_size();
        }
    }

    /// Takes expired rows out of the index, and superseded and expired ones out of the files.
    pub async fn maintain(&self) {
        for origin in self.origins.values() {
            let expired = origin.expire().await;
            self.metrics.rows_expired.inc_by(expired as u64);
            origin.maintain().await;
        }
    }

    fn show_size(&self) {
        let index = self.index();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.rows.set(gauge(index.rows()));
        self.metrics.traces.set(gauge(index.traces()));
        self.metrics.index_bytes.set(gauge(index.bytes()));
    }

    fn index(&self) -> RwLockReadGuard<'_, HotIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services for a gRPC server; streams end when the token is cancelled.
    #[must_use]
    pub fn grpc_services(self: &Arc<Self>, token: &CancellationToken) -> ReplicaServices {
        let feeds = self.origins.values().map(|origin| Arc::clone(origin) as Arc<dyn OriginFeed>);
        let clock = Arc::clone(&self.clock);
        let server = ReplicationServer::new(feeds, clock, self.config.limits, token.clone());
        ReplicaServices {
            replication: server.into_service(),
            index: MetadataIndexServer::new(IndexServer::new(Arc::clone(self))),
        }
    }

    /// The region of this replica.
    #[must_use]
    pub const fn region(&self) -> &Region {
        &self.config.region
    }

    /// What the index knows of these traces, in the order asked; empty where it knows nothing.
    #[must_use]
    pub fn look_up(&self, tenant: &TenantId, trace_ids: &[TraceId]) -> Vec<TraceEntry> {
        let index = self.index();
        trace_ids.iter().map(|trace_id| index.look_up(tenant, *trace_id)).collect()
    }

    /// Traces from the index alone, newest first. Between two steps writers get in, and a caller
    /// who has gone is noticed.
    pub async fn list_summaries(&self, query: &SummaryQuery) -> Summaries {
        // Never closed; who waits too long gives up by itself.
        let _place = self.searches.acquire().await;
        let mut search = self.index().search(query.clone());
        while !search.step(&self.index(), SEARCH_ROWS) {
            tokio::task::yield_now().await;
        }
        search.finish()
    }

    /// How each origin's log stands. Where rows of it were let go, its watermark has a hole: absence
    /// there is not proven.
    #[must_use]
    pub fn list_regions(&self) -> Vec<RegionState> {
        let states = self.origins.iter();
        states.map(|(region, origin)| origin.state(*region == self.config.region)).collect()
    }

    /// Adds to states what has been let go since they were read: rows that were looked up afterwards
    /// may be among it.
    pub fn add_forgotten(&self, states: &mut [RegionState]) {
        for state in states {
            if let Some(origin) = self.origins.get(&state.region) {
                state.forgotten = state.forgotten.join(origin.forgotten());
                state.show_forgotten();
            }
        }
    }

    /// Traces held.
    #[must_use]
    pub fn traces_held(&self) -> usize {
        self.index().traces()
    }

    /// Equal replicas have equal ones.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.index().digest()
    }
}
