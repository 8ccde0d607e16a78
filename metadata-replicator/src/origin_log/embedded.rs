//! The origin log in files of the cell's machine.

mod inner;
mod judge;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proto::convert::index::contribution_from_wire;
use proto::v1;
use proto::v1::origin_record::Record;
use tokio::sync::Mutex as AsyncMutex;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Clock, Contribution, Forgotten, Region, Watermark};

use super::{ContributionLog, Lineage, LogHistory, RowKey};
use crate::disk::DiskThreads;
use crate::epoch::{Entropy, epoch_after, may_outrun};
use crate::error::ReplicatorError;
use crate::feed::{Chunk, EndSignal, OriginFeed, Terms};
use crate::index::hot::LetGo;
use crate::store::{Disk, LocalDisk, RecordStore, StoreConfig};
use inner::{Inner, Rows, Writer};
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
    retention_nanos: u64,
}

impl OriginLog {
    /// Opens a log as a new epoch.
    pub fn open(
        config: OriginLogConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Result<Self, ReplicatorError> {
        Self::open_on(Arc::new(LocalDisk), config, clock, entropy)
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        config: OriginLogConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Result<Self, ReplicatorError> {
        let store = StoreConfig {
            directory: config.directory,
            region: config.region,
            segment_bytes_max: config.segment_bytes_max.min(SEGMENT_BYTES_CEILING),
            latest: clock.now(),
            disk,
        };
        let mut rows = Rows::default();
        let store = RecordStore::open(store, &mut |loaded| {
            rows.load(&loaded);
            Ok(())
        })?;
        store.amend_sheet(|sheet| sheet.terms.retention = Some(config.retention))?;
        let (last, ends) = (store.end(), store.epoch_ends());
        store.amend_sheet(|sheet| {
            let unknown = || Lineage::of_unknown_age(last.is_some());
            let lineage = sheet.lineage.get_or_insert_with(unknown);
            ends.into_iter().for_each(|end| lineage.close(end));
        })?;
        let epoch = epoch_after(last.map(|end| end.epoch), clock.now(), &entropy);
        store.begin(epoch)?;
        let end = EndSignal::at(store.end());
        let inner = Inner { store, rows: Mutex::new(rows), end, epochs: Mutex::new(vec![epoch]) };
        Ok(Self {
            inner: Arc::new(inner),
            writer: Arc::new(AsyncMutex::new(Writer { epoch, sequence: 0, names_saved: 0 })),
            outrunning: AsyncMutex::new(()),
            clock,
            entropy,
            disk: config.disk,
            retention_nanos: u64::try_from(config.retention.as_nanos()).unwrap_or(u64::MAX),
        })
    }

    /// Takes superseded and expired rows out of closed files. To be called now and then.
    pub async fn maintain(&self) -> Result<(), ReplicatorError> {
        let guard = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let horizon = self.clock.now().minus(self.retention_nanos);
        let work = move || {
            let _writer = guard;
            inner.store.maintain((horizon, LetGo::Expired), &mut Judge::of(&inner.rows))
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
            let over = before.filter(|end| end.epoch == writer.epoch);
            inner.amend_lineage(|lineage| over.into_iter().for_each(|end| lineage.close(end)))?;
            inner.store.begin(epoch)?;
            *writer = Writer { epoch, sequence: 0, names_saved: 0 };
            inner.note_epoch(epoch);
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
        self.inner.store.names_from(epoch, 0)
    }

    fn terms(&self) -> Terms {
        self.inner.store.terms()
    }

    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        if self.history().is_news(seen) {
            tracing::error!(
                ?seen,
                "a reader holds records of this origin log that are not in it: it was lost, or \
                 restored from an old copy"
            );
            self.note_missing(seen).await?;
        }
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
                rows.push(inner.row_at(key, location)?);
            }
            Ok(rows)
        };
        self.disk.run(work).await
    }

    fn published(&self) -> Option<Watermark> {
        self.inner.store.watermark()
    }

    fn history(&self) -> LogHistory {
        let lineage = self.inner.store.lineage().unwrap_or_default();
        LogHistory { lineage, epochs: self.inner.epochs() }
    }

    async fn note_missing(&self, cursor: Cursor) -> Result<(), ReplicatorError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            inner.amend_lineage(|lineage| lineage.missing = lineage.missing.max(Some(cursor)))
        };
        self.disk.run(work).await
    }

    async fn note_mended(&self, until: Option<Cursor>) -> Result<(), ReplicatorError> {
        let inner = Arc::clone(&self.inner);
        let work = move || inner.amend_lineage(|lineage| lineage.note_mended(until));
        self.disk.run(work).await
    }

    async fn forget(&self, forgotten: Forgotten) -> Result<(), ReplicatorError> {
        let inner = Arc::clone(&self.inner);
        self.disk.run(move || inner.store.forget(forgotten)).await
    }
}
