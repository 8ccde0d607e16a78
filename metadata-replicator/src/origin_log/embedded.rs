//! The origin log in files of the cell's machine.

mod judge;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::convert::index::{contribution_from_wire, contribution_to_wire, watermark_to_wire};
use proto::v1;
use proto::v1::origin_record::Record;
use tokio::sync::Mutex as AsyncMutex;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Clock, Contribution, Region, Watermark};

use super::row_map::{Fingerprint, RowMap};
use super::{ContributionLog, RowKey};
use crate::disk::DiskThreads;
use crate::epoch::{Entropy, epoch_after, may_outrun};
use crate::error::ReplicatorError;
use crate::feed::{Chunk, EndSignal, OriginFeed};
use crate::store::{Framer, Loaded, Location, RecordStore, StoreConfig};
use judge::Judge;

/// Where an origin log is and how long it keeps.
#[derive(Clone, Debug)]
pub struct OriginLogConfig {
    /// Its directory, made where it is not.
    pub directory: PathBuf,
    /// The region of the cell.
    pub region: Region,
    /// How long a row is kept after its last append.
    pub retention: Duration,
    /// A file is closed at this size; at most 128 MiB counts.
    pub segment_bytes_max: u64,
    /// Where file work runs.
    pub disk: DiskThreads,
}

impl OriginLogConfig {
    /// Seven days, files of 8 MiB.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, region: Region) -> Self {
        Self {
            directory: directory.into(),
            region,
            retention: Duration::from_secs(7 * 24 * 3_600),
            segment_bytes_max: 8 << 20,
            disk: DiskThreads::Blocking,
        }
    }
}

/// Rows that are put again at once when an epoch is outrun.
const OUTRUN_CHUNK_BYTES: usize = 1 << 20;
/// Offsets of a row map slot end at 256 MiB; a file may exceed its limit by one append.
const SEGMENT_BYTES_CEILING: u64 = 128 << 20;

/// The origin log in files: see [`ContributionLog`].
#[derive(Debug)]
pub struct OriginLog {
    inner: Arc<Inner>,
    writer: Arc<AsyncMutex<Writer>>,
    outrunning: AsyncMutex<()>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    disk: DiskThreads,
}

#[derive(Debug)]
struct Inner {
    store: RecordStore,
    rows: Mutex<Rows>,
    end: EndSignal,
}

#[derive(Debug, Default)]
struct Rows {
    map: RowMap,
    /// Where the newest watermark lies: rows that were superseded behind it are still needed by
    /// readers that have it before them.
    watermark: Option<Location>,
}

#[derive(Debug)]
struct Writer {
    epoch: Epoch,
    sequence: u64,
    /// Service names of the epoch that are in the files.
    names_saved: u32,
}

impl OriginLog {
    /// Opens a log as a new epoch.
    pub fn open(
        config: OriginLogConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Result<Self, ReplicatorError> {
        let store = StoreConfig {
            directory: config.directory,
            region: config.region,
            segment_bytes_max: config.segment_bytes_max.min(SEGMENT_BYTES_CEILING),
            retention_nanos: u64::try_from(config.retention.as_nanos()).unwrap_or(u64::MAX),
        };
        let mut rows = Rows::default();
        let store = RecordStore::open(store, &mut |loaded| {
            rows.load(&loaded);
            Ok(())
        })?;
        let epoch = epoch_after(store.end().map(|end| end.epoch), clock.now(), &entropy);
        store.begin(epoch)?;
        let end = EndSignal::at(store.end());
        let inner = Inner { store, rows: Mutex::new(rows), end };
        Ok(Self {
            inner: Arc::new(inner),
            writer: Arc::new(AsyncMutex::new(Writer { epoch, sequence: 0, names_saved: 0 })),
            outrunning: AsyncMutex::new(()),
            clock,
            entropy,
            disk: config.disk,
        })
    }

    /// Takes superseded and expired rows out of closed files. To be called now and then.
    pub async fn maintain(&self) -> Result<(), ReplicatorError> {
        let guard = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let now = self.clock.now();
        let work = move || {
            let _writer = guard;
            inner.store.maintain(now, &mut Judge::of(&inner.rows))
        };
        self.disk.run(work).await
    }

    /// Rows held.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inner.rows().map.len()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.store.bytes()
    }

    /// Starts an epoch above `seen`; gives the end before it. `None` where ours is above already.
    async fn begin_above(&self, seen: Epoch) -> Result<Option<Cursor>, ReplicatorError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        if writer.epoch >= seen {
            return Ok(None);
        }
        let now = self.clock.now();
        if !may_outrun(seen, now) {
            return Err(ReplicatorError::FarCursor(seen));
        }
        let epoch = epoch_after(Some(seen), now, &self.entropy);
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let before = inner.store.end();
            inner.store.begin(epoch)?;
            *writer = Writer { epoch, sequence: 0, names_saved: 0 };
            inner.end.set(inner.store.end());
            Ok(before)
        };
        self.disk.run(work).await
    }

    /// Puts the latest version of every row before `until` into the current epoch again.
    async fn put_again(&self, until: Cursor) -> Result<(), ReplicatorError> {
        let mut from = Cursor::default();
        while from < until {
            let chunk = self.read_from(Some(from), OUTRUN_CHUNK_BYTES).await?;
            if chunk.records.is_empty() || chunk.first >= until {
                break;
            }
            let rows = self.contributions(&chunk)?;
            let keys: Vec<RowKey> = rows.iter().map(RowKey::of).collect();
            let latest = self.own_rows(&keys).await?;
            let mut live: Vec<Contribution> = Vec::new();
            for (row, latest) in rows.into_iter().zip(latest) {
                if latest.as_ref() == Some(&row) && live.last() != Some(&row) {
                    live.push(row);
                }
            }
            self.append(&live, None).await?;
            from = chunk.next;
        }
        let watermark = self.published();
        self.append(&[], watermark.as_ref()).await.map(|_| ())
    }

    fn contributions(&self, chunk: &Chunk) -> Result<Vec<Contribution>, ReplicatorError> {
        let store = &self.inner.store;
        let mut rows = Vec::new();
        for record in &chunk.records {
            let Some(Record::Contribution(row)) = &record.record else { continue };
            let row = store.with_services(chunk.first.epoch, |services| {
                contribution_from_wire(row.clone(), store.region(), services)
            });
            rows.push(row?);
        }
        Ok(rows)
    }
}

impl Rows {
    fn load(&mut self, loaded: &Loaded<'_>) {
        match &loaded.record {
            Record::Contribution(row) => {
                self.map.insert(fingerprint(row), loaded.location);
            }
            Record::Watermark(_) => self.watermark = Some(loaded.location),
            Record::ServiceName(_) => {}
        }
    }
}

fn fingerprint(row: &v1::Contribution) -> Fingerprint {
    Fingerprint::of_parts(&row.tenant, &row.trace_id, row.incarnation, row.partition)
}

impl Inner {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locations(&self, keys: &[RowKey]) -> Vec<Option<Location>> {
        let rows = self.rows();
        keys.iter().map(|key| rows.map.get(Fingerprint::of(key))).collect()
    }

    /// Frames and writes; on success every reader sees it. The sequence advances in any case.
    fn append(
        &self,
        writer: &mut Writer,
        contributions: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError> {
        let epoch = writer.epoch;
        let first = Cursor { epoch, sequence: writer.sequence };
        let wire = self.to_wire(writer, contributions);
        let mut framer = Framer::default();
        let mut put = |record: Record| {
            let sequence = writer.sequence;
            writer.sequence = sequence.saturating_add(1);
            framer.put(sequence, record)
        };
        for name in self.store.names(epoch).into_iter().skip(writer.names_saved as usize) {
            put(Record::ServiceName(name))?;
        }
        let mut places = Vec::with_capacity(wire.len());
        for row in wire {
            let fingerprint = fingerprint(&row);
            places.push((fingerprint, put(Record::Contribution(row))?));
        }
        let mark = watermark.map(|mark| put(Record::Watermark(watermark_to_wire(mark))));
        let mark = mark.transpose()?;
        if framer.batch.is_empty() {
            return Ok(self.store.end());
        }
        let base = self.store.append(first, &framer.batch, true)?;
        self.note(base, &places, mark);
        if let Some(watermark) = watermark {
            self.store.note_watermark(watermark.clone());
        }
        let names = self.store.with_services(epoch, |services| services.len());
        writer.names_saved = u32::try_from(names).unwrap_or(u32::MAX);
        let end = self.store.end();
        self.end.set(end);
        Ok(end)
    }

    fn to_wire(&self, writer: &Writer, contributions: &[Contribution]) -> Vec<v1::Contribution> {
        self.store.with_services(writer.epoch, |services| {
            let rows = contributions.iter();
            let rows =
                rows.map(|row| contribution_to_wire(row, &mut |name| services.intern(name).0));
            rows.collect()
        })
    }

    fn note(&self, base: Location, places: &[(Fingerprint, usize)], mark: Option<usize>) {
        let at = |offset: usize| Location {
            segment: base.segment,
            offset: base.offset.saturating_add(u32::try_from(offset).unwrap_or(u32::MAX)),
        };
        let mut rows = self.rows();
        for (fingerprint, offset) in places {
            rows.map.insert(*fingerprint, at(*offset));
        }
        if let Some(offset) = mark {
            rows.watermark = Some(at(offset));
        }
    }
}

#[async_trait]
impl OriginFeed for OriginLog {
    fn origin(&self) -> &Region {
        self.inner.store.region()
    }

    fn end(&self) -> Option<Cursor> {
        self.inner.end.get()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.store.read(from, bytes_max)).await
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.inner.end.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName> {
        self.inner.store.names(epoch)
    }

    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        let _one_at_a_time = self.outrunning.lock().await;
        let Some(until) = self.begin_above(seen.epoch).await? else { return Ok(()) };
        tracing::warn!(
            ?seen,
            "a reader holds a later epoch of this log: rows are put again above it"
        );
        self.put_again(until).await
    }
}

#[async_trait]
impl ContributionLog for OriginLog {
    fn epoch(&self) -> Epoch {
        self.end().map_or_else(Epoch::default, |end| end.epoch)
    }

    async fn append(
        &self,
        contributions: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let (contributions, watermark) = (contributions.to_vec(), watermark.cloned());
        let work = move || inner.append(&mut writer, &contributions, watermark.as_ref());
        self.disk.run(work).await
    }

    async fn own_rows(
        &self,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Contribution>>, ReplicatorError> {
        if self.inner.locations(keys).iter().all(Option::is_none) {
            return Ok(vec![None; keys.len()]);
        }
        // A row must not move between its look-up and its read.
        let guard = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let keys = keys.to_vec();
        let work = move || {
            let _writer = guard;
            let locations = inner.locations(&keys);
            let mut rows = Vec::with_capacity(keys.len());
            for (key, location) in keys.iter().zip(locations) {
                let Some(location) = location else {
                    rows.push(None);
                    continue;
                };
                let row = inner.store.contribution_at(location)?;
                rows.push(row.filter(|row| RowKey::of(row) == *key));
            }
            Ok(rows)
        };
        self.disk.run(work).await
    }

    fn published(&self) -> Option<Watermark> {
        self.inner.store.watermark()
    }
}
