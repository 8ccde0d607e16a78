//! The embedded store behind its ports. Each call does its work on the blocking pool. Work that
//! changes something is finished also when its caller goes away, so that no state is left halfway;
//! questions are bounded in number and stop when nobody waits for them (`questions`).

use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::{Clock, Coverage, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};

use super::cold_segment::ColdTier;
use super::config::EmbeddedStoreConfig;
use super::state::State;
use super::{catalog, cold_moves, commit, erase, index_repair, maintain, open, read, search};
use crate::disk::{Disk, LocalDisk};
use crate::metrics::StoreMetrics;
use crate::port::{
    Eraser, ErasureReceipt, NameList, Operation, SearchAnswer, SearchIndexer, ServiceCatalog,
    SpanWriter, StoreError, StoreFigures, TraceRead, TraceReader, TraceSearch,
};
use crate::questions::{GoOn, Questions};

/// Spans, index and catalogue of a cell in one directory of immutable segments.
#[derive(Debug)]
pub struct EmbeddedStore {
    state: Arc<State>,
    searches: Questions,
    reads: Questions,
}

impl EmbeddedStore {
    /// Opens the store in its directory, which it makes where there is none. Another process that
    /// has it open is [`StoreError::Unavailable`], files of a newer release are
    /// [`StoreError::NewerFormat`].
    pub fn open(
        config: EmbeddedStoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_on(Arc::new(LocalDisk), config, clock)
    }

    /// Opens the store on a disk that may fail where the machine's would not.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: EmbeddedStoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_with(disk, config, None, clock)
    }

    /// Opens the store with a cold tier: its owner calls [`Self::claim_cold`] then, and
    /// [`Self::move_cold`] from a task.
    pub fn open_tiered(
        config: EmbeddedStoreConfig,
        cold: ColdTier,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_with(Arc::new(LocalDisk), config, Some(cold), clock)
    }

    /// As [`Self::open_on`] and [`Self::open_tiered`]. A store that has cold segments is refused
    /// without a tier.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        config: EmbeddedStoreConfig,
        cold: Option<ColdTier>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        let state = Arc::new(open::open(config, Arc::clone(&clock), disk, cold)?);
        let (config, metrics) = (&state.config, &state.metrics);
        let reads = Questions::new(config.reads, Arc::clone(&clock), metrics.reads.clone());
        let searches = Questions::new(config.searches, clock, metrics.searches.clone());
        Ok(Arc::new(Self { state, searches, reads }))
    }

    /// The store's metrics, to be registered by its owner.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.state.metrics
    }

    /// One round of upkeep: finishes erasures that were cut short, removes what retention lets go,
    /// merges small segments. Its owner calls it from a task, every few seconds; readers and the
    /// writer go on meanwhile.
    pub async fn maintain(&self) -> Result<(), StoreError> {
        self.blocking(maintain::maintain).await
    }

    /// Makes sure that the prefix of the cold tier is this store's. [`StoreError::Refused`]: it is
    /// another's, and a person must say whose. [`StoreError::Unavailable`]: the objects are away; the
    /// store runs without them, and asks again before it moves anything.
    pub async fn claim_cold(&self) -> Result<(), StoreError> {
        self.blocking(|state| match &state.cold {
            Some(tier) => cold_moves::claim(state, tier),
            None => Ok(()),
        })
        .await
    }

    /// One round of moves: deletes objects that nobody needs, then moves what has been hot for long
    /// enough, one segment after the other. Gives their number. A round that fails is made good by the
    /// next. Segments are moved one a call of the pool, so that a caller who goes away ends the round.
    pub async fn move_cold(&self) -> Result<u64, StoreError> {
        self.claim_cold().await?;
        let tidied = self.blocking(cold_moves::tidy).await;
        let mut moved = 0;
        while self.blocking(cold_moves::move_next).await? {
            moved += 1;
        }
        // What could not be deleted does not hold up what is to be moved.
        tidied.map(|()| moved)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let state = Arc::clone(&self.state);
        let done = tokio::task::spawn_blocking(move || work(&state)).await;
        done.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    /// Whether as much waits as is sealed at once.
    fn is_segment_full(&self) -> bool {
        let view = self.state.view();
        let config = &self.state.config;
        view.pending.spans >= config.segment_spans_max
            || view.pending.bytes >= config.segment_bytes_max
    }

    fn is_flush_due(&self) -> bool {
        let now = self.state.clock.monotonic();
        let since = self.state.view().pending.since;
        let age = since.map(|since| now.saturating_sub(since));
        age.is_some_and(|age| age >= self.state.config.flush_interval)
    }
}

#[async_trait]
impl SpanWriter for EmbeddedStore {
    /// Batches wait in memory, bounded by the size of a segment: where that cannot be sealed,
    /// nothing more is taken.
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        for batch in batches {
            if self.is_segment_full() {
                self.blocking(commit::seal).await?;
            }
            let now = self.state.clock.monotonic();
            let mut view = self.state.view();
            let view = &mut *view;
            view.pending.admit(batch, &mut view.accepted, now);
        }
        if self.is_segment_full() {
            self.blocking(commit::seal).await?;
        }
        Ok(())
    }

    async fn write_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        if self.is_segment_full() {
            self.blocking(commit::seal).await?;
        }
        let now = self.state.clock.monotonic();
        self.state.view().pending.admit_again(batch, now);
        Ok(())
    }

    /// The age of what waits is measured by the monotonic clock: `now` may jump.
    async fn flush(&self, _now: UnixNanos, force: bool) -> Result<(), StoreError> {
        if force || self.is_segment_full() || self.is_flush_due() {
            self.blocking(commit::seal).await?;
        }
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.state.view().covered.clone()
    }
}

#[async_trait]
impl SearchIndexer for EmbeddedStore {
    /// The index is built from sealed segments: there is nothing to take.
    async fn index(&self, _batches: &[LoggedBatch]) -> Result<(), StoreError> {
        Ok(())
    }

    /// As [`Self::index`]: the index follows the segments.
    async fn index_again(&self, _batch: &LoggedBatch) -> Result<(), StoreError> {
        Ok(())
    }

    /// Builds the index of segments that have none.
    async fn flush(&self, _now: UnixNanos, _force: bool) -> Result<(), StoreError> {
        if index_repair::is_needed(&self.state) {
            self.blocking(index_repair::repair).await?;
        }
        Ok(())
    }

    fn indexed(&self) -> Coverage {
        index_repair::indexed(&self.state)
    }
}

#[async_trait]
impl TraceReader for EmbeddedStore {
    async fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TraceRead, StoreError> {
        let (state, tenant) = (Arc::clone(&self.state), tenant.clone());
        let read = move |go_on: GoOn<'_>| read::read_trace(&state, &tenant, trace_id, go_on);
        self.reads.ask(read).await
    }

    fn figures(&self) -> StoreFigures {
        let segments = self.state.segments();
        StoreFigures {
            spans: segments.iter().map(|segment| segment.footer.spans).sum(),
            bytes: segments.iter().map(|segment| segment.bytes()).sum(),
            segments: segments.len() as u64,
        }
    }

    fn expired_within(&self, range: TimeRange, _expired_until: UnixNanos) -> Option<UnixNanos> {
        self.state.view().expired.until_within(range)
    }
}

#[async_trait]
impl TraceSearch for EmbeddedStore {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        query.filter.check_size().map_err(|error| StoreError::Unsupported(error.to_string()))?;
        let (state, query) = (Arc::clone(&self.state), query.clone());
        self.searches.ask(move |go_on| search::search(&state, &query, go_on)).await
    }
}

#[async_trait]
impl ServiceCatalog for EmbeddedStore {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        let (state, tenant) = (Arc::clone(&self.state), tenant.clone());
        self.searches.ask(move |go_on| catalog::services(&state, &tenant, range, go_on)).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        let (state, tenant) = (Arc::clone(&self.state), tenant.clone());
        let service = service.to_owned();
        let list =
            move |go_on: GoOn<'_>| catalog::operations(&state, &tenant, &service, range, go_on);
        self.searches.ask(list).await
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        Ok(self.state.view().accepted.clone())
    }
}

#[async_trait]
impl Eraser for EmbeddedStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let tenant = tenant.clone();
        self.blocking(move |state| erase::erase(state, &tenant, trace_id)).await
    }
}
