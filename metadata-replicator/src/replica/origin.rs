//! One origin as a replica follows it: what was heard of it, and its log as it is kept and served on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use proto::v1;
use tokio::sync::Mutex as AsyncMutex;
use trace_model::location::{Cursor, Epoch, RegionState};
use trace_model::{Clock, Forgotten, Region, UnixNanos};

use super::ReplicaConfig;
use super::copy::{Copy, Judge, Writer, load};
use crate::disk::DiskThreads;
use crate::error::ReplicatorError;
use crate::feed::grpc::{FeedSink, Received};
use crate::feed::{Chunk, EndSignal, OriginFeed, Terms};
use crate::index::hot::{HotIndex, LetGo};
use crate::metrics::{OriginLabel, ReplicatorMetrics};
use crate::store::{LocalDisk, RecordStore, StoreConfig};

/// Rows that are let go under one hold of the index's lock.
const EXPIRY_ROWS: usize = 1_024;
/// A sender's clock may be so far ahead: a day.
const AHEAD_NANOS_MAX: u64 = 24 * 3_600 * 1_000_000_000;
/// The grain of expiry, in the index and in the files alike.
const EXPIRY_GRAIN_NANOS: u64 = 60_000_000_000;

#[derive(Debug)]
pub(super) struct Origin {
    copy: Arc<Copy>,
    writer: Arc<AsyncMutex<Writer>>,
    clock: Arc<dyn Clock>,
    disk: DiskThreads,
    label: OriginLabel,
    metrics: ReplicatorMetrics,
    heard: Mutex<Heard>,
}

/// What is known beside the records.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    cursor: Option<Cursor>,
    /// The origin's end, as the last frame gave it.
    end: Option<Cursor>,
    /// Monotonic time of the last frame, or of the start.
    at: Duration,
    is_connected: bool,
    /// The last stream broke the contract, and no good frame has come since.
    is_refused: bool,
    lag: Duration,
    /// The log is being taken back from peers: until that has ended it is not served.
    is_mending: bool,
}

impl Origin {
    pub(super) fn open(
        config: &ReplicaConfig,
        region: &Region,
        index: &Arc<RwLock<HotIndex>>,
        clock: &Arc<dyn Clock>,
        metrics: &ReplicatorMetrics,
    ) -> Result<Self, ReplicatorError> {
        let store = StoreConfig {
            directory: config.directory.join("origins").join(region.as_str()),
            region: region.clone(),
            segment_bytes_max: config.segment_bytes_max,
            latest: UnixNanos(0),
            disk: Arc::new(LocalDisk),
        };
        let store = RecordStore::open(store, &mut |loaded| load(loaded, region, index))?;
        let forgotten = store.terms().forgotten;
        index.write().unwrap_or_else(PoisonError::into_inner).forget(region, forgotten);
        let cursor = store.end();
        let end = EndSignal::at(cursor);
        let heard = Heard { cursor, at: clock.monotonic(), ..Heard::default() };
        let mut writer = Writer::default();
        if let Some(cursor) = cursor {
            let names = store.with_services(cursor.epoch, |services| services.len());
            writer.names_saved.insert(cursor.epoch, u32::try_from(names).unwrap_or(u32::MAX));
        }
        let kept_at_most = config.retention;
        let origin = Self {
            copy: Arc::new(Copy { store, index: Arc::clone(index), end, kept_at_most }),
            writer: Arc::new(AsyncMutex::new(writer)),
            clock: Arc::clone(clock),
            disk: config.disk,
            label: OriginLabel::of(region),
            metrics: metrics.clone(),
            heard: Mutex::new(heard),
        };
        origin.show_terms();
        Ok(origin)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the origin's log stands. What is forgotten shows as a hole of its watermark.
    pub(super) fn state(&self, is_own: bool) -> RegionState {
        let heard = *self.heard();
        let silent = self.clock.monotonic().saturating_sub(heard.at);
        let mut state = RegionState {
            region: self.copy.store.region().clone(),
            cursor: heard.cursor,
            watermark: self.copy.store.watermark(),
            silent: if is_own { Duration::ZERO } else { silent },
            is_connected: heard.is_connected,
            lag_records: records_between(heard.cursor, heard.end),
            lag: heard.lag,
            retention: self.copy.store.terms().retention,
            kept_for: self.copy.keeping().0,
            forgotten: self.copy.forgotten(),
            rows_without_detail: 0,
            is_refused: heard.is_refused,
        };
        // Behind the watermark: of what it vouches for nothing is left out of the count.
        state.rows_without_detail = self.copy.rows_without_detail();
        state.show_forgotten();
        state
    }

    /// Which rows are missing by now.
    pub(super) fn forgotten(&self) -> Forgotten {
        self.copy.forgotten()
    }

    /// Notes whether the log is being taken back from peers: meanwhile it is not served.
    pub(super) fn set_mending(&self, is_mending: bool) {
        self.heard().is_mending = is_mending;
    }

    /// Whether it is.
    pub(super) fn is_mending(&self) -> bool {
        self.heard().is_mending
    }

    /// Whether nothing of the log is here.
    pub(super) fn is_empty(&self) -> bool {
        self.heard().cursor.is_none()
    }

    /// Waits until what was written is on disk. A failure shows again at the next write.
    pub(super) async fn sync(&self) {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let copy = Arc::clone(&self.copy);
        let work = move || {
            if std::mem::take(&mut writer.is_dirty) {
                copy.store.sync()?;
            }
            Ok(copy.store.bytes())
        };
        match self.disk.run(work).await {
            Ok(bytes) => {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                self.metrics.stored_bytes.get_or_create(&self.label).set(bytes);
            }
            Err(error) => {
                tracing::warn!(%error, "records of an origin were not synced; they would be fetched again");
            }
        }
    }

    /// Rows whose last append lies before this have passed their time, and what lets them go.
    fn horizon(&self) -> (UnixNanos, LetGo) {
        let (kept_for, why) = self.copy.keeping();
        let kept_nanos = u64::try_from(kept_for.as_nanos()).unwrap_or(u64::MAX);
        let horizon = self.clock.now().minus(kept_nanos).0;
        (UnixNanos(horizon / EXPIRY_GRAIN_NANOS * EXPIRY_GRAIN_NANOS), why)
    }

    /// Takes rows that have passed their time out of the index, in steps. Gives how many.
    pub(super) async fn expire(&self) -> usize {
        let (horizon, why) = self.horizon();
        let mut expired = 0_usize;
        loop {
            let step = self.expire_some((horizon, why));
            expired = expired.saturating_add(step.rows);
            if step.is_done {
                return expired;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The same where nobody waits yet.
    pub(super) fn expire_all(&self) {
        let horizon = self.horizon();
        while !self.expire_some(horizon).is_done {}
    }

    fn expire_some(&self, (horizon, why): (UnixNanos, LetGo)) -> crate::index::hot::ExpiryStep {
        let mut index = self.copy.index.write().unwrap_or_else(PoisonError::into_inner);
        index.expire(self.copy.store.region(), horizon, why, EXPIRY_ROWS)
    }

    /// Takes superseded and expired rows out of the files. Tried again at the next round.
    pub(super) async fn maintain(&self) {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let copy = Arc::clone(&self.copy);
        let horizon = self.horizon();
        let work = move || {
            let _writer = writer;
            let watermark = copy.store.watermark();
            copy.store.maintain(horizon, &mut Judge { copy: &copy, watermark })
        };
        if let Err(error) = self.disk.run(work).await {
            tracing::warn!(%error, "records of an origin were not compacted");
        }
    }

    fn note_frame(&self, end: Option<Cursor>, cursor: Option<Cursor>, lag: Option<Duration>) {
        let mut heard = self.heard();
        heard.at = self.clock.monotonic();
        heard.is_refused = false;
        heard.end = end;
        heard.cursor = cursor.or(heard.cursor);
        if let Some(lag) = lag {
            heard.lag = lag;
            self.metrics.lag.get_or_create(&self.label).set(lag.as_secs_f64());
        }
    }

    /// Notes what the sender says of its records, before any of them is taken.
    async fn take_terms(&self, terms: Terms) -> Result<(), ReplicatorError> {
        if !self.copy.has_news(&terms) {
            return Ok(());
        }
        let latest = self.clock.now().plus(AHEAD_NANOS_MAX);
        if terms.forgotten.until() > Some(latest) {
            return Err(ReplicatorError::Protocol("rows of the future are said to be forgotten"));
        }
        let before = self.copy.store.terms().retention;
        let copy = Arc::clone(&self.copy);
        self.disk.run(move || copy.take_terms(&terms)).await?;
        self.show_terms();
        let kept_for = self.copy.keeping().0;
        if terms.retention != before
            && let Some(retention) = terms.retention.filter(|retention| *retention > kept_for)
        {
            let origin = self.copy.store.region();
            tracing::warn!(
                %origin, ?retention, ?kept_for,
                "an origin keeps its spans for longer than this replicator keeps its index \
                 (`retention`): absence of its older traces is not proven here"
            );
        }
        Ok(())
    }

    fn show_terms(&self) {
        let retention = self.copy.store.terms().retention.unwrap_or_default();
        let shown = &self.metrics;
        shown.origin_retention.get_or_create(&self.label).set(retention.as_secs_f64());
        shown.kept.get_or_create(&self.label).set(self.copy.keeping().0.as_secs_f64());
    }
}

fn records_between(from: Option<Cursor>, to: Option<Cursor>) -> u64 {
    match (from, to) {
        (Some(from), Some(to)) if from.epoch == to.epoch => {
            to.sequence.saturating_sub(from.sequence)
        }
        (Some(from), Some(to)) if from.epoch > to.epoch => 0,
        (_, Some(to)) => to.sequence,
        (_, None) => 0,
    }
}

#[async_trait]
impl FeedSink for Origin {
    fn cursor(&self) -> Option<Cursor> {
        self.heard().cursor
    }

    async fn take(&self, received: Received) -> Result<(), ReplicatorError> {
        let Received { chunk, end, sent_unix_nano, terms } = received;
        if let Some(terms) = terms {
            self.take_terms(terms).await?;
        }
        if chunk.records.is_empty() {
            self.note_frame(end, None, None);
            return Ok(());
        }
        let next = chunk.next;
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let copy = Arc::clone(&self.copy);
        let checked = self.disk.run(move || copy.take(&mut writer, chunk)).await?;
        let applied = checked.contributions.len() as u64;
        self.metrics.contributions_applied.get_or_create(&self.label).inc_by(applied);
        let lag = || Duration::from_nanos(UnixNanos(sent_unix_nano).since(checked.newest));
        self.note_frame(end, Some(next), (checked.newest > UnixNanos(0)).then(lag));
        Ok(())
    }

    fn note_connected(&self, is_connected: bool) {
        self.heard().is_connected = is_connected;
        self.metrics.connected.get_or_create(&self.label).set(i64::from(is_connected));
    }

    fn note_refused(&self) {
        self.heard().is_refused = true;
        self.metrics.refused.get_or_create(&self.label).inc();
    }
}

#[async_trait]
impl OriginFeed for Origin {
    fn origin(&self) -> &Region {
        self.copy.store.region()
    }

    fn end(&self) -> Option<Cursor> {
        self.copy.end.get()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        if self.heard().is_mending {
            return Err(ReplicatorError::Mending);
        }
        let copy = Arc::clone(&self.copy);
        self.disk.run(move || copy.store.read(from, bytes_max)).await
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.copy.end.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName> {
        self.copy.store.names_from(epoch, 0)
    }

    fn terms(&self) -> Terms {
        self.copy.store.terms()
    }

    async fn outrun(&self, _seen: Cursor) -> Result<(), ReplicatorError> {
        Ok(())
    }
}
