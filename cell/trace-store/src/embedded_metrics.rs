//! The metrics store of one machine: a directory.
//!
//! A delta is appended to a checksummed log and synced, then counted in memory: encoded, recent rows
//! alone. By size or after an hour the rows in memory are sealed into an immutable, sorted,
//! compressed file, and a new log begins. A question reads the blocks that its range and names
//! touch. Sealed files go when their last row has arrived longer ago than the retention, or when
//! they are too many bytes: oldest first.
//!
//! A log and the sealed file that it became have one number. A crash between the two steps leaves
//! both: then the log's rows are in the file, and only its cover and checkpoint are taken.
//!
//! **Never** answers short: a damaged file that may hold a part of the answer is an error by name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use trace_model::{Clock, Coverage, TenantId, TimeRange};

use crate::disk::{Disk, LocalDisk};
use crate::memory_metrics::{
    BUCKET_NANOS, EdgeSum, TRACES_PER_EDGE_MAX, TraceList, asks_for_edge, covers_more, touching,
};
use crate::metrics::QuestionMetrics;
use crate::port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, EdgeTraces, MetricsDelta, MetricsStore, RedKey, RedQuery,
    RedRow, StoreError,
};
use crate::questions::{GoOn, QuestionLimits, Questions};

mod codec;
mod erase;
mod file;
mod log;
mod question;
mod sealed;
mod state;
mod table;

use file::Place;
use sealed::SealedFile;
use state::{View, Writer};

/// Where the store is, and its limits.
#[derive(Clone, Debug)]
pub struct EmbeddedMetricsConfig {
    /// Its directory, created where it is missing.
    pub directory: PathBuf,
    /// Rows are kept for this long after their arrival (default 7 days).
    pub retention: Duration,
    /// Most bytes of sealed files (default 2 GiB); beyond, the oldest go early.
    pub bytes_max: u64,
    /// Rows in memory are sealed at so many bytes (default 16 MiB). While sealing fails, deltas are
    /// refused at four times as many.
    pub memory_bytes_max: usize,
    /// … and after this time at the latest (default 1 h).
    pub seal_after: Duration,
    /// … and when the log has so many bytes (default 64 MiB).
    pub log_bytes_max: u64,
    /// Questions at once (default 8) and waiting (default 120).
    pub questions: QuestionLimits,
}

impl EmbeddedMetricsConfig {
    /// The default limits.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            retention: Duration::from_secs(7 * 24 * 3_600),
            bytes_max: 2 << 30,
            memory_bytes_max: 16 << 20,
            seal_after: Duration::from_secs(3_600),
            log_bytes_max: 64 << 20,
            questions: QuestionLimits { at_work_max: 8, waiting_max: 120 },
        }
    }
}

/// Counts in a directory. One process, one writer.
#[derive(Clone, Debug)]
pub struct EmbeddedMetricsStore {
    shared: Arc<Shared>,
    questions: Arc<Questions>,
}

#[derive(Debug)]
struct Shared {
    config: EmbeddedMetricsConfig,
    place: Place,
    clock: Arc<dyn Clock>,
    writer: Mutex<Writer>,
    view: RwLock<View>,
}

impl EmbeddedMetricsStore {
    /// Opens the directory: the sealed files' indexes, and the log's rows. Blocks.
    ///
    /// Fails on a damaged log and on files of a newer format. A damaged sealed file is kept aside
    /// and named by every question until it is removed: what it holds cannot be told.
    pub fn open(config: EmbeddedMetricsConfig, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(LocalDisk), config, clock)
    }

    /// Opens the directory on a disk that may fail where the machine's would not.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: EmbeddedMetricsConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        fs::create_dir_all(&config.directory).map_err(file::disk)?;
        let place = Place { directory: config.directory.clone(), disk };
        let (writer, view) = state::open(&place, clock.now())?;
        let questions =
            Questions::new(config.questions, Arc::clone(&clock), QuestionMetrics::default());
        let (writer, view) = (Mutex::new(writer), RwLock::new(view));
        let shared = Shared { config, place, clock, writer, view };
        let store = Self { shared: Arc::new(shared), questions: Arc::new(questions) };
        store.shared.retain()?;
        Ok(store)
    }

    /// Removes what the retention no longer keeps. `apply` does so as well; a store that gets
    /// nothing needs this now and then.
    pub async fn retain(&self) -> Result<(), StoreError> {
        self.blocking(Shared::retain).await
    }

    async fn blocking<T, Work>(&self, work: Work) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Work: FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}

impl Shared {
    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> std::sync::RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// log → count → seal what is due. What fails behind the log is no failure of the delta.
    fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if !covers_more(&self.view().covered, &delta.covered) {
            return Ok(());
        }
        writer.remove_strays(&self.place)?;
        if self.view().bytes() > self.config.memory_bytes_max.saturating_mul(4) {
            self.seal(&mut writer)?;
        }
        let frame = writer.append(&self.place, delta, self.clock.now())?;
        let counted = self.view_mut().count(frame);
        counted.map_err(|error| StoreError::Damaged(format!("a row in memory: {error}")))?;
        writer.remove_old_checkpoints(&self.config.directory);
        if self.is_seal_due(&writer)
            && let Err(error) = self.seal(&mut writer).and_then(|()| self.drop_expired(&writer))
        {
            tracing::warn!(%error, "metrics are not sealed; it is tried again");
        }
        Ok(())
    }

    fn is_seal_due(&self, writer: &Writer) -> bool {
        let view = self.view();
        let age = writer.last_arrival.since(view.arrivals.0);
        let is_old = age >= u64::try_from(self.config.seal_after.as_nanos()).unwrap_or(u64::MAX);
        let is_large = view.bytes() >= self.config.memory_bytes_max
            || writer.log.bytes() >= self.config.log_bytes_max;
        (is_old && !view.is_empty()) || is_large
    }

    /// Seals the rows in memory and begins a new log. Where that fails half way, what it has left
    /// has to go before the log gets another frame: the sealed file says that the whole log is in
    /// it, the new log that this one has ended.
    fn seal(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let directory = &self.config.directory;
        let sequence = writer.log.sequence;
        writer.has_strays = true;
        let sealed = {
            let view = self.view();
            let path = file::FileKind::Sealed.path(directory, sequence);
            if view.is_empty() {
                None
            } else {
                sealed::write(&self.place, &path, &view.series, &view.edges, view.arrivals.1)?;
                Some(Arc::new(SealedFile::open(directory, sequence)?))
            }
        };
        writer.begin_log(&self.place, &self.view())?;
        writer.has_strays = false;
        let mut view = self.view_mut();
        view.clear_rows();
        view.sealed.extend(sealed);
        Ok(())
    }

    fn retain(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.last_arrival = writer.last_arrival.max(self.clock.now());
        if self.is_seal_due(&writer) {
            self.seal(&mut writer)?;
        }
        self.drop_expired(&writer)
    }

    /// Removes sealed files that are too old, and the oldest while they are too many bytes.
    fn drop_expired(&self, writer: &Writer) -> Result<(), StoreError> {
        let retention = u64::try_from(self.config.retention.as_nanos()).unwrap_or(u64::MAX);
        let oldest = writer.last_arrival.minus(retention);
        let mut view = self.view_mut();
        let mut bytes: u64 = view.sealed.iter().map(|sealed| sealed.bytes).sum();
        while let Some(sealed) = view.sealed.first() {
            if sealed.last_arrival >= oldest && bytes <= self.config.bytes_max {
                break;
            }
            file::remove(&sealed.path).map_err(file::disk)?;
            bytes = bytes.saturating_sub(sealed.bytes);
            view.sealed.remove(0);
        }
        Ok(())
    }
}

#[async_trait]
impl MetricsStore for EmbeddedMetricsStore {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        self.blocking(move |shared| shared.apply(delta)).await
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        self.blocking(|shared| {
            // The writer is kept out, so that the file read is the one that the cover belongs to.
            let _writer = shared.writer();
            let view = shared.view();
            Ok((view.covered.clone(), view.read_checkpoint(&shared.config.directory)?))
        })
        .await
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        Ok(self.shared.view().covered.clone())
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        let (shared, query) = (Arc::clone(&self.shared), query.clone());
        self.questions.ask(move |go_on| shared.red(&query, go_on)).await
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        let (shared, tenant) = (Arc::clone(&self.shared), tenant.clone());
        let sum_up = move |go_on: GoOn<'_>| {
            let range = touching(range, BUCKET_NANOS);
            let wants = |key: &EdgeKey| key.tenant == tenant && range.contains(key.bucket);
            let mut sum = EdgeSum::over(range);
            for (key, row) in shared.edge_rows(&tenant, range, &wants, go_on)? {
                sum.add(&key, &row);
            }
            Ok(sum.finish())
        };
        self.questions.ask(sum_up).await
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        let (shared, query) = (Arc::clone(&self.shared), query.clone());
        let list = move |go_on: GoOn<'_>| {
            let wants = |key: &EdgeKey| asks_for_edge(&query, key);
            let range = touching(query.range, BUCKET_NANOS);
            let rows = shared.edge_rows(&query.tenant, range, &wants, go_on)?;
            let mut list = TraceList::of(&query);
            for row in rows.values().rev() {
                list.add(row);
            }
            Ok(list.finish())
        };
        self.questions.ask(list).await
    }
}

/// Damage that was found when the store was opened does not stop it: it is named by every answer.
fn set_aside(path: &Path, error: &StoreError) -> String {
    tracing::error!(%error, "a file of metrics is damaged; questions are refused until it is removed");
    let name = file::name_of(path);
    format!("{name} ({error})")
}

/// An I/O error that says that nothing is there is no error.
fn if_there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
