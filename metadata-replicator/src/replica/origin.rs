//! A replica's copy of one origin's log: what comes in is judged, written, joined, in this order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use proto::convert::index::{contribution_from_wire, watermark_from_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use rustc_hash::FxHashMap;
use tokio::sync::Mutex as AsyncMutex;
use trace_model::location::{Cursor, Epoch, RegionState};
use trace_model::{Clock, Contribution, Region, TraceId, UnixNanos, Watermark, WriterId};

use super::ReplicaConfig;
use crate::disk::DiskThreads;
use crate::error::ReplicatorError;
use crate::feed::grpc::{FeedSink, Received};
use crate::feed::{Chunk, EndSignal, OriginFeed};
use crate::index::hot::HotIndex;
use crate::metrics::{OriginLabel, ReplicatorMetrics};
use crate::store::{Framer, JudgeRows, Loaded, Location, RecordStore, StoreConfig};

/// Rows joined under one hold of the index's lock: readers wait no longer than this takes.
const JOIN_ROWS: usize = 256;

#[derive(Debug)]
pub(super) struct Origin {
    shared: Arc<Shared>,
    writer: Arc<AsyncMutex<Writer>>,
    clock: Arc<dyn Clock>,
    disk: DiskThreads,
    label: OriginLabel,
    metrics: ReplicatorMetrics,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Shared {
    store: RecordStore,
    index: Arc<RwLock<HotIndex>>,
    end: EndSignal,
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
    lag: Duration,
}

#[derive(Debug, Default)]
struct Writer {
    /// Service names of each epoch that are in the files.
    names_saved: FxHashMap<Epoch, u32>,
    is_dirty: bool,
}

/// A frame's records, judged.
#[derive(Debug, Default)]
struct Judged {
    contributions: Vec<Contribution>,
    watermark: Option<Watermark>,
    newest: UnixNanos,
}

impl Origin {
    pub(super) fn open(
        config: &ReplicaConfig,
        region: &Region,
        index: &Arc<RwLock<HotIndex>>,
        clock: &Arc<dyn Clock>,
        metrics: &ReplicatorMetrics,
    ) -> Result<Self, ReplicatorError> {
        let retention_nanos = u64::try_from(config.retention.as_nanos()).unwrap_or(u64::MAX);
        let store = StoreConfig {
            directory: config.directory.join("origins").join(region.as_str()),
            region: region.clone(),
            segment_bytes_max: config.segment_bytes_max,
            retention_nanos,
        };
        let horizon = clock.now().minus(retention_nanos);
        let store = RecordStore::open(store, &mut |loaded| load(loaded, region, index, horizon))?;
        let cursor = store.end();
        let end = EndSignal::at(cursor);
        let heard = Heard { cursor, at: clock.monotonic(), ..Heard::default() };
        let mut writer = Writer::default();
        if let Some(cursor) = cursor {
            let names = store.with_services(cursor.epoch, |services| services.len());
            writer.names_saved.insert(cursor.epoch, u32::try_from(names).unwrap_or(u32::MAX));
        }
        Ok(Self {
            shared: Arc::new(Shared { store, index: Arc::clone(index), end }),
            writer: Arc::new(AsyncMutex::new(writer)),
            clock: Arc::clone(clock),
            disk: config.disk,
            label: OriginLabel::of(region),
            metrics: metrics.clone(),
            heard: Mutex::new(heard),
        })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self, is_own: bool) -> RegionState {
        let heard = *self.heard();
        let silent = self.clock.monotonic().saturating_sub(heard.at);
        RegionState {
            region: self.shared.store.region().clone(),
            cursor: heard.cursor,
            watermark: self.shared.store.watermark(),
            silent: if is_own { Duration::ZERO } else { silent },
            is_connected: heard.is_connected,
            lag_records: records_between(heard.cursor, heard.end),
            lag: heard.lag,
        }
    }

    /// Waits until what was written is on disk. A failure shows again at the next write.
    pub(super) async fn sync(&self) {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let work = move || {
            if std::mem::take(&mut writer.is_dirty) {
                shared.store.sync()?;
            }
            Ok(shared.store.bytes())
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

    /// Takes superseded and expired rows out of the files. Tried again at the next round.
    pub(super) async fn maintain(&self) {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let now = self.clock.now();
        let work = move || {
            let _writer = writer;
            let watermark = shared.store.watermark();
            shared.store.maintain(now, &mut Judge { shared: &shared, watermark })
        };
        if let Err(error) = self.disk.run(work).await {
            tracing::warn!(%error, "records of an origin were not compacted");
        }
    }

    fn note_frame(&self, end: Option<Cursor>, cursor: Option<Cursor>, lag: Option<Duration>) {
        let mut heard = self.heard();
        heard.at = self.clock.monotonic();
        heard.end = end;
        heard.cursor = cursor.or(heard.cursor);
        if let Some(lag) = lag {
            heard.lag = lag;
            self.metrics.lag.get_or_create(&self.label).set(lag.as_secs_f64());
        }
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

fn load(
    loaded: Loaded<'_>,
    region: &Region,
    index: &RwLock<HotIndex>,
    horizon: UnixNanos,
) -> Result<(), ReplicatorError> {
    let Record::Contribution(row) = loaded.record else { return Ok(()) };
    let append = UnixNanos(row.last_append_unix_nano);
    if append < horizon {
        index.write().unwrap_or_else(PoisonError::into_inner).forget_until(append);
        return Ok(());
    }
    let row = contribution_from_wire(row, region, loaded.services)?;
    index.write().unwrap_or_else(PoisonError::into_inner).join(&row);
    Ok(())
}

impl Shared {
    /// Judges every record of a frame before any is kept.
    fn judge(&self, chunk: &Chunk) -> Result<Judged, ReplicatorError> {
        let region = self.store.region();
        let mut judged = Judged::default();
        self.store.with_services(chunk.first.epoch, |services| {
            for record in &chunk.records {
                match &record.record {
                    Some(Record::ServiceName(name)) => {
                        services.define(name.id, &name.name)?;
                    }
                    Some(Record::Contribution(row)) => {
                        let row = contribution_from_wire(row.clone(), region, services)?;
                        judged.newest = judged.newest.max(row.last_append);
                        judged.contributions.push(row);
                    }
                    Some(Record::Watermark(mark)) => {
                        let mark = watermark_from_wire(mark, region)?;
                        judged.newest = judged.newest.max(mark.as_of);
                        judged.watermark = Some(mark);
                    }
                    None => {}
                }
            }
            Ok(judged)
        })
    }

    /// Writes a frame's records: the epoch's unsaved names first, at the place of the frame.
    fn write(&self, writer: &mut Writer, chunk: Chunk) -> Result<(), ReplicatorError> {
        let epoch = chunk.first.epoch;
        let saved = writer.names_saved.get(&epoch).copied().unwrap_or(0);
        let mut framer = Framer::default();
        let names = self.store.names(epoch);
        let names_count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        for name in names.into_iter().skip(saved as usize) {
            framer.put(chunk.first.sequence, Record::ServiceName(name))?;
        }
        for v1::OriginRecord { record, sequence } in chunk.records {
            match record {
                Some(record @ (Record::Contribution(_) | Record::Watermark(_))) => {
                    framer.put(sequence, record)?;
                }
                Some(Record::ServiceName(_)) | None => {}
            }
        }
        if framer.batch.is_empty() {
            return Ok(());
        }
        self.store.append(chunk.first, &framer.batch, false)?;
        writer.is_dirty = true;
        writer.names_saved.retain(|held, _| *held >= epoch);
        writer.names_saved.insert(epoch, names_count);
        Ok(())
    }

    fn join(&self, contributions: &[Contribution]) {
        for rows in contributions.chunks(JOIN_ROWS) {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                index.join(row);
            }
        }
    }

    fn take(&self, writer: &mut Writer, chunk: Chunk) -> Result<Judged, ReplicatorError> {
        let mut judged = self.judge(&chunk)?;
        self.write(writer, chunk)?;
        self.join(&judged.contributions);
        if let Some(watermark) = judged.watermark.take() {
            self.store.note_watermark(watermark);
        }
        self.end.set(self.store.end());
        Ok(judged)
    }
}

#[async_trait]
impl FeedSink for Origin {
    fn cursor(&self) -> Option<Cursor> {
        self.heard().cursor
    }

    async fn take(&self, received: Received) -> Result<(), ReplicatorError> {
        let Received { chunk, end, sent_unix_nano } = received;
        if chunk.records.is_empty() {
            self.note_frame(end, None, None);
            return Ok(());
        }
        let next = chunk.next;
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let judged = self.disk.run(move || shared.take(&mut writer, chunk)).await?;
        let applied = judged.contributions.len() as u64;
        self.metrics.contributions_applied.get_or_create(&self.label).inc_by(applied);
        let lag = UnixNanos(sent_unix_nano).since(judged.newest);
        self.note_frame(end, Some(next), Some(Duration::from_nanos(lag)));
        Ok(())
    }

    fn note_connected(&self, is_connected: bool) {
        self.heard().is_connected = is_connected;
        self.metrics.connected.get_or_create(&self.label).set(i64::from(is_connected));
    }

    fn note_refused(&self) {
        self.metrics.refused.get_or_create(&self.label).inc();
    }
}

#[async_trait]
impl OriginFeed for Origin {
    fn origin(&self) -> &Region {
        self.shared.store.region()
    }

    fn end(&self) -> Option<Cursor> {
        self.shared.end.get()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        let shared = Arc::clone(&self.shared);
        self.disk.run(move || shared.store.read(from, bytes_max)).await
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.shared.end.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName> {
        self.shared.store.names(epoch)
    }

    async fn outrun(&self, _seen: Cursor) -> Result<(), ReplicatorError> {
        Ok(())
    }
}

/// A row goes when the index has a later version that the newest watermark covers: then every
/// reader meets the later one before that watermark.
struct Judge<'a> {
    shared: &'a Shared,
    watermark: Option<Watermark>,
}

impl JudgeRows for Judge<'_> {
    fn stays(&mut self, _location: Location, row: &v1::Contribution, is_expired: bool) -> bool {
        if is_expired {
            return false;
        }
        let Ok(trace_id) = TraceId::try_from(&*row.trace_id) else { return true };
        let writer = WriterId {
            region: self.shared.store.region().clone(),
            incarnation: row.incarnation,
            partition: row.partition,
        };
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = index.version_of(&row.tenant, trace_id, &writer) else { return true };
        let covered = self.watermark.as_ref().map_or(0, |mark| {
            let next = mark.next.get(&row.partition).copied().unwrap_or(0);
            if mark.incarnation > row.incarnation { u64::MAX } else { next }
        });
        latest <= row.version || latest > covered
    }

    fn moved(&mut self, _from: Location, _to: Location) {}
}
