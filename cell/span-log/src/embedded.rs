//! The durable span log of one machine: a directory of segments, written by group commit.
//!
//! An append is acknowledged after the `fdatasync` of the block that holds it. One thread writes,
//! one keeps house; readers read by position and never wait for either. It must never acknowledge
//! what is not durable, never trust pages after a failed sync, and never leave out a record in
//! silence. The decision behind the format is `docs/DECISIONS/001-log-format.md`.

mod block;
mod cache;
mod checkpoint;
mod config;
mod damage;
pub mod disk;
mod erase;
mod error;
mod housekeeper;
mod identity;
mod lost;
pub(crate) mod missed;
mod queue;
mod reader;
mod recovery;
mod retention;
mod segment;
mod shared;
mod tail;
mod tail_index;
mod times;
mod writer;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use trace_model::{Clock, LogRange, TenantId, TraceId, UnixNanos};

use self::block::{SECTION_BYTES, Section};
use self::disk::{Disk, LocalDisk};
use self::erase::Erasing;
use self::housekeeper::{Housekeeper, Stop};
use self::identity::FileFault;
use self::queue::Append;
use self::recovery::recover;
use self::shared::{PARTITION, Progress, Shared};
use self::writer::Writer;
use crate::metrics::LogMetrics;
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ErasedRecords, ForgetLost, GroupId, LogEnd,
    LogEraser, LogError, LogIdentity, Lost, MissedRun, SpanLog, TailAnswer,
};

pub use self::config::{EmbeddedConfig, WhenFull};
pub use self::error::OpenError;
pub(crate) use self::tail::put_spans;

/// A batch of this many bytes is packed by its sender, beside the writer and the disk; smaller ones
/// are packed together by the writer, since alone they would hardly shrink.
const PACKED_BY_SENDER_BYTES: usize = SECTION_BYTES / 8;
/// A batch of this many bytes takes milliseconds to pack: not on a thread of the runtime.
const PACKED_ASIDE_BYTES: usize = 1 << 20;

/// An open log. Close it with [`SpanLog::close`]; dropping it closes it too, and blocks meanwhile.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    threads: Mutex<Option<Threads>>,
    /// Held while a trace is erased, by the work itself: segments are rewritten by one at a time,
    /// also where its caller has gone.
    erasing: Arc<AsyncMutex<()>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    housekeeper: JoinHandle<()>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = &self.shared.config.directory;
        formatter.debug_struct("EmbeddedLog").field("directory", directory).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log of the directory, or makes one, and recovers what a crash has left. Blocks for
    /// as long as it takes to read the records that storage-writer has not committed.
    pub fn open(config: EmbeddedConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        let disk = Arc::new(LocalDisk::open(&config.directory)?);
        Self::open_on(disk, config, clock)
    }

    /// Opens a log on this disk; the configured directory is then but a name.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        config.check()?;
        let directory = config.directory.clone();
        let in_words = |fault| match fault {
            FileFault::Io(error) => OpenError::disk(&directory, &error),
            FileFault::Open(error) => error,
        };
        let recovered = recover(disk.as_ref(), clock.as_ref(), &config.seen);
        let (opened, findings) = recovered.map_err(in_words)?;
        let failed = |error: io::Error| in_words(FileFault::Io(error));
        let metrics = LogMetrics::default();
        let shared = Arc::new(Shared::new(config, clock, disk, metrics, opened));
        damage::report(&shared, &findings);
        shared.write_checkpoint(false).map_err(failed)?;
        let stop = Arc::new(Stop::default());
        let threads = start(&shared, &stop, findings.next_number).map_err(failed)?;
        let (threads, erasing) = (Mutex::new(Some(threads)), Arc::default());
        Ok(Arc::new(Self { shared, stop, threads, erasing }))
    }

    /// The log's metrics.
    #[must_use]
    pub fn metrics(&self) -> &LogMetrics {
        &self.shared.metrics
    }

    /// Where a group is that has committed; one that has not stays unknown.
    pub(crate) fn known_commit(&self, group: GroupId) -> Option<u64> {
        self.shared.state().commits.get(group.0).copied()
    }

    /// Ends both threads: what waits is written first. Gives the last checkpoint's fate.
    fn shut(
        shared: &Shared,
        stop: &Stop,
        Threads { writer, housekeeper }: Threads,
    ) -> io::Result<()> {
        shared.queue.close();
        let writer = writer.join();
        stop.set();
        let housekeeper = housekeeper.join();
        let written = shared.write_checkpoint(true);
        let next = shared.state().next;
        shared.ends.send_replace(Progress { next, is_closed: true });
        if writer.is_err() || housekeeper.is_err() {
            return Err(io::Error::other("a thread of the span log ended by a panic"));
        }
        written
    }

    fn take_threads(&self) -> Option<Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn check_partition(&self, partition: u32) -> Result<(), LogError> {
        self.shared.check_open()?;
        if partition == PARTITION { Ok(()) } else { Err(LogError::NoPartition(partition)) }
    }

    /// Runs file work off the runtime's threads.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, LogError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|error| LogError::Disk(error.to_string()))
    }

    /// Refuses at the door what cannot be taken, before any work is spent on it.
    fn admit(&self, bytes: usize) -> Result<(), LogError> {
        self.shared.check_open()?;
        let bytes_max = self.shared.config.batch_bytes_max;
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        self.shared.queue.admit(bytes)
    }

    /// Packs a batch that is large enough to be a section of its own.
    async fn pack(&self, batch: &Arc<SpanBatch>) -> Result<Option<Section>, LogError> {
        let bytes = batch.encoded().len();
        if bytes < PACKED_BY_SENDER_BYTES {
            return Ok(None);
        }
        if bytes < PACKED_ASIDE_BYTES {
            return Ok(Some(Section::pack(std::slice::from_ref(batch))));
        }
        let batch = Arc::clone(batch);
        self.off_thread(move |_| Some(Section::pack(std::slice::from_ref(&batch)))).await
    }

    async fn append_batch(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        self.admit(batch.encoded().len())?;
        let section = self.pack(&batch).await?;
        let (reply, answer) = oneshot::channel();
        let waiting = self.shared.queue.push(Append { batch, section, reply })?;
        self.shared.metrics.queue_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        // The writer answers every batch; it drops an answer only when it is gone.
        answer.await.unwrap_or(Err(LogError::Closed))
    }

    /// An empty batch takes no offset.
    fn appended_nothing(&self) -> Appended {
        let LogEnd { next, append_time, .. } = self.shared.end();
        let range = LogRange { partition: PARTITION, first: next, next };
        Appended { ranges: vec![range], append_time }
    }
}

fn start(shared: &Arc<Shared>, stop: &Arc<Stop>, next_number: u64) -> io::Result<Threads> {
    let writer = Writer::new(Arc::clone(shared), next_number);
    let housekeeper = Housekeeper::new(Arc::clone(shared), Arc::clone(stop));
    let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let writer = named("span-log-writer").spawn(move || writer.run())?;
    match named("span-log-house").spawn(move || housekeeper.run()) {
        Ok(housekeeper) => Ok(Threads { writer, housekeeper }),
        Err(error) => {
            shared.queue.close();
            Err(error)
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Some(threads) = self.take_threads()
            && let Err(error) = Self::shut(&self.shared, &self.stop, threads)
        {
            tracing::warn!(%error, "the span log did not close cleanly");
        }
    }
}

#[async_trait]
impl LogEraser for EmbeddedLog {
    /// The active segment is sealed first; appends go on meanwhile.
    async fn erase(&self, tenant: &TenantId, trace_id: TraceId) -> Result<ErasedRecords, LogError> {
        self.shared.check_open()?;
        let one_at_a_time = Arc::clone(&self.erasing).lock_owned().await;
        let sealed_below = self.shared.queue.roll().await.map_err(|_| LogError::Closed)?;
        let erasing = Erasing { tenant: tenant.clone(), trace_id };
        let erase = move |shared: &Shared| {
            let _one_at_a_time = one_at_a_time;
            shared.erase(&erasing, sealed_below)
        };
        self.off_thread(erase).await?
    }
}

#[async_trait]
impl SpanLog for EmbeddedLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities { is_durable: true, has_live_tail: true, can_seek_by_time: true }
    }

    fn identity(&self) -> LogIdentity {
        self.shared.identity.log
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        if batch.traces().is_empty() {
            self.shared.check_open()?;
            return Ok(self.appended_nothing());
        }
        let appended = self.append_batch(batch).await;
        appended.inspect_err(|error| self.shared.metrics.refuse(error))
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        self.check_partition(partition)?;
        self.shared.check_kept(from)?;
        if from >= self.shared.state().next {
            return Ok(Vec::new());
        }
        let cached = self.shared.cache().run_from(from, bytes_max);
        if !cached.is_empty() {
            return Ok(cached);
        }
        self.off_thread(move |shared| shared.read_disk(from, bytes_max)).await?
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.check_partition(partition)?;
        let mut ends = self.shared.ends.subscribe();
        let moved = ends.wait_for(|end| end.next > offset || end.is_closed);
        // Whether it moved or the time is up, the end as it is now is the answer.
        drop(tokio::time::timeout(at_most, moved).await);
        self.shared.check_open()?;
        Ok(self.shared.end())
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        self.check_partition(partition)?;
        Ok(self.shared.end())
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        self.check_partition(partition)?;
        self.off_thread(move |shared| shared.find_time(time)).await?
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        self.check_partition(partition)?;
        let mut state = self.shared.state();
        state.groups.insert(group);
        Ok(state.commits.get(group.0).copied().unwrap_or_else(|| state.first()))
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        self.check_partition(partition)?;
        Ok(self.shared.state().commits.contains_key(group.0))
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        self.check_partition(partition)?;
        let mut state = self.shared.state();
        let end = state.next;
        let committed = state.commits.get(group.0).copied().unwrap_or(0);
        if next < committed {
            return Err(CommitError::Backwards { wanted: next, committed });
        }
        if next > end {
            tracing::warn!(%group, next, end, "a commit beyond the end was held at the end");
        }
        let next = next.min(end).max(committed);
        state.commits.insert(group.0.to_owned(), next);
        state.is_dirty = true;
        state.groups.insert(group);
        Ok(())
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        self.shared.check_open()?;
        let plan = self.shared.plan_tail(tenant, trace_id);
        if let Some(cached) = self.shared.cached_tail(&plan) {
            return Ok(self.shared.answer_tail(&plan, &cached, tenant, trace_id));
        }
        let tenant = tenant.clone();
        let answer = move |shared: &Shared| {
            let loaded = shared.load_tail(&plan);
            shared.answer_tail(&plan, &loaded, &tenant, trace_id)
        };
        self.off_thread(answer).await
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        self.shared.state().damaged.clone()
    }

    fn lost(&self) -> Lost {
        let state = self.shared.state();
        Lost { missed: state.missed.tell(), ..state.lost.tell() }
    }

    fn appended_since(&self, _partition: u32, offset: u64) -> UnixNanos {
        self.shared.state().removed.since(offset)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.shared.check_open()?;
        self.off_thread(move |shared| shared.note_missed(&missed)).await?
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        self.shared.check_open()?;
        self.off_thread(move |shared| shared.forget_lost(which)).await?
    }

    fn health(&self) -> Result<(), String> {
        let dead = self.shared.dead();
        dead.map_or(Ok(()), |thread| Err(format!("the thread {thread} has ended by a panic")))
    }

    async fn close(&self) -> Result<(), LogError> {
        let Some(threads) = self.take_threads() else { return Ok(()) };
        let stop = Arc::clone(&self.stop);
        let shut = move |shared: &Shared| Self::shut(shared, &stop, threads);
        let shut = self.off_thread(shut).await?;
        shut.map_err(|error| LogError::Disk(error.to_string()))
    }
}
