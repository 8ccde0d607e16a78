//! The write-ahead log of one collector, as the partition of its cell that its number names.
//!
//! Beside the log lies a note (`collector.json`): whose number it is, whether the cell's front has noted
//! it, whether it was retired, and what a store has refused of it. **Never** is a span acknowledged
//! before the front has noted the number, or at a time when the front may have retired the collector:
//! it does not need to be reached for that, since what it may take ends by itself where it does not
//! hear the front.

mod kept;
mod losses;
mod own_note;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::watch;
use trace_model::{Clock, Coverage, LogRange, TenantId, TraceId, UnixNanos};

use self::kept::Kept;
use self::own_note::{Note, seen_of_its_own};
use super::note::NoteFile;
use super::{CellName, DirectError, INCARNATION, check_stores};
use crate::assignment::{Assignment, Share, Sharing};
use crate::embedded::{EmbeddedConfig, EmbeddedLog};
use crate::metrics::LogMetrics;
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ForgetLost, GroupId, LogEnd, LogError,
    LogIdentity, Lost, MissedRun, SpanLog, TailAnswer,
};

/// The embedded log's only partition.
const OWN: u32 = 0;

/// How a collector's log is opened.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// Its cell.
    pub cell: CellName,
    /// Its number.
    pub number: u32,
    /// Its note.
    pub file: PathBuf,
    /// The log. `seen` is in the words of the cell: incarnation [`INCARNATION`], the number as partition.
    pub log: EmbeddedConfig,
}

/// One collector's log.
#[derive(Debug)]
pub struct CollectorLog {
    cell: CellName,
    number: u32,
    /// Incarnation of the embedded log.
    log_id: u64,
    log: Arc<EmbeddedLog>,
    kept: Arc<Kept>,
    /// Counts notes of what is lost, from the time of the start on; and those that the front knows of.
    notes: watch::Sender<u64>,
    heard: watch::Sender<u64>,
    /// The latest front that was heard of.
    front: AtomicU64,
    /// The front does not retire it before this time of its own, in nanoseconds.
    leased_until: AtomicU64,
}

impl CollectorLog {
    /// Opens the log, or makes it. Blocks, as [`EmbeddedLog::open`] does.
    pub fn open(config: CollectorConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, DirectError> {
        let CollectorConfig { cell, number, file, log } = config;
        check_stores(&log.seen)?;
        let file = NoteFile::at(file);
        let known: Option<Note> = file.read()?;
        let seen = seen_of_its_own(&log.seen, number, known.as_ref())?;
        let log = EmbeddedLog::open(EmbeddedConfig { seen, ..log }, clock)?;
        let identity = log.identity().incarnation;
        let note = match known {
            Some(note) if note.log == identity => note,
            Some(_) => return Err(DirectError::OtherLog { number }),
            None if log.end(OWN).is_ok_and(|end| end.next > 0) => return Err(DirectError::NotNew),
            None => Note { number, log: identity, ..Note::default() },
        };
        file.write(&note)?;
        let leased_until = AtomicU64::new(note.leased_until);
        let front = AtomicU64::new(note.front);
        // Above those of an earlier start.
        let notes = watch::channel(log.end(OWN).map_or(0, |end| end.append_time.0)).0;
        let (heard, kept) = (watch::channel(0).0, Arc::new(Kept::new(file, note)));
        let log_id = identity;
        Ok(Arc::new(Self { cell, number, log_id, log, kept, notes, heard, front, leased_until }))
    }

    pub(super) const fn cell(&self) -> &CellName {
        &self.cell
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The log's metrics.
    #[must_use]
    pub fn metrics(&self) -> &LogMetrics {
        self.log.metrics()
    }

    /// How far a group of the front is, if it ever was here.
    pub(super) fn told_by_front(&self, group: GroupId) -> Option<u64> {
        self.log.known_commit(group)
    }

    pub(super) const fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Takes a front's word, unless a later front was heard of. Whether it is to be kept: a later front's
    /// word is, before anything is done on it.
    pub(super) fn admit_front(&self, epoch: u64) -> Option<bool> {
        let known = self.front.fetch_max(epoch, Ordering::AcqRel);
        (known <= epoch).then(|| self.kept.note().front < epoch)
    }

    /// Keeps that a front was heard: no earlier one is, over restarts.
    pub(super) fn keep_front(&self, epoch: u64) -> Result<(), LogError> {
        self.kept.change(|note| note.front = note.front.max(epoch))
    }

    /// Whether the front has noted it, and whether it is retired.
    pub(super) fn standing(&self) -> (bool, bool) {
        self.kept.standing()
    }

    /// The front has noted the number: spans are taken from now on, appended later than `not_before`.
    pub(super) fn register(&self, not_before: UnixNanos) -> Result<(), LogError> {
        let end = self.log.end(OWN)?;
        if end.append_time <= not_before {
            let behind = not_before.since(end.append_time) / 1_000_000;
            let reason = format!("the collector's clock is {behind} ms behind the cell's");
            return Err(LogError::Unavailable(reason));
        }
        self.kept.change(|note| note.is_registered = true)
    }

    /// The front does not retire the collector before this time. Whether that is to be kept: a restart
    /// without the front then has half of what is left, or more.
    pub(super) fn lease(&self, until: UnixNanos) -> Result<bool, LogError> {
        self.leased_until.fetch_max(until.0, Ordering::AcqRel);
        let now = self.log.end(OWN)?.append_time;
        Ok(until > now && self.kept.note().leased_until < now.0.midpoint(until.0))
    }

    /// Keeps it.
    pub(super) fn keep_lease(&self, until: UnixNanos) -> Result<(), LogError> {
        self.kept.change(|note| note.leased_until = note.leased_until.max(until.0))
    }

    /// No span is taken any more, for good.
    pub(super) fn retire(&self) -> Result<(), LogError> {
        self.kept.change(|note| note.is_retired = true)
    }

    /// Changes the note off the runtime's threads.
    async fn change(
        &self,
        change: impl FnOnce(&mut Note) + Send + 'static,
    ) -> Result<(), LogError> {
        let kept = Arc::clone(&self.kept);
        let changed = tokio::task::spawn_blocking(move || kept.change(change)).await;
        changed.map_err(|error| LogError::Disk(error.to_string()))?
    }

    fn check_taking(&self) -> Result<(), LogError> {
        match self.standing() {
            (_, true) => Err(LogError::Unavailable("this collector was retired".to_owned())),
            (false, false) => {
                let reason = "the front of the cell does not know this collector yet";
                Err(LogError::Unavailable(reason.to_owned()))
            }
            (true, false) => self.check_lease(),
        }
    }

    fn check_lease(&self) -> Result<(), LogError> {
        let until = UnixNanos(self.leased_until.load(Ordering::Acquire));
        if self.log.end(OWN)?.append_time < until {
            return Ok(());
        }
        let reason =
            "the front of the cell was not heard for so long that it may give this collector up";
        Err(LogError::Unavailable(reason.to_owned()))
    }

    const fn check_partition(&self, partition: u32) -> Result<(), LogError> {
        if partition == self.number { Ok(()) } else { Err(LogError::NoPartition(partition)) }
    }

    const fn range(&self, range: LogRange) -> LogRange {
        LogRange { partition: self.number, ..range }
    }

    fn damage(&self, error: LogError) -> LogError {
        let LogError::Damaged(damaged) = error else { return error };
        LogError::Damaged(DamagedRange { range: self.range(damaged.range), ..damaged })
    }
}

#[async_trait]
impl SpanLog for CollectorLog {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity { incarnation: INCARNATION, partitions: self.number.saturating_add(1) }
    }

    fn span_bytes_max(&self) -> Option<usize> {
        self.log.span_bytes_max()
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        self.check_taking()?;
        let appended = self.log.append(batch).await?;
        // Nobody may have given it up by now: what is acknowledged was appended before that.
        self.check_taking()?;
        let ranges = appended.ranges.into_iter().map(|range| self.range(range)).collect();
        Ok(Appended { ranges, ..appended })
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        self.check_partition(partition)?;
        let read = self.log.read(OWN, from, bytes_max).await;
        let renamed = |batch: LoggedBatch| LoggedBatch {
            incarnation: INCARNATION,
            range: self.range(batch.range),
            ..batch
        };
        let batches = read.map_err(|error| self.damage(error))?;
        Ok(batches.into_iter().map(renamed).collect())
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.check_partition(partition)?;
        self.log.wait_beyond(OWN, offset, at_most).await
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        self.check_partition(partition)?;
        self.log.end(OWN)
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        self.check_partition(partition)?;
        self.log.offset_at(OWN, time).await
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        self.check_partition(partition)?;
        self.log.committed(group, OWN)
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        self.check_partition(partition)?;
        self.log.commit(group, OWN, next).await
    }

    fn join(&self, _group: GroupId, _sharing: Sharing) -> watch::Receiver<Assignment> {
        let share = Share { since: 0, is_leaving: false };
        let partitions = [(self.number, share)].into_iter().collect();
        watch::channel(Assignment { generation: 0, partitions }).1
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        let tail = self.log.tail(tenant, trace_id).await?;
        let of_the_cell = |own: &Coverage| {
            let mut cover = Coverage::none(INCARNATION);
            cover.extend(self.number, own.next.get(&OWN).copied().unwrap_or(0));
            cover
        };
        let begins = tail.begins.as_ref().map(of_the_cell);
        Ok(TailAnswer { covered: of_the_cell(&tail.covered), begins, ..tail })
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        let damaged = self.log.damaged().into_iter();
        damaged.map(|one| DamagedRange { range: self.range(one.range), ..one }).collect()
    }

    fn lost(&self) -> Lost {
        self.all_lost()
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        self.check_partition(partition)?;
        self.log.has_committed(group, OWN)
    }

    fn appended_since(&self, _partition: u32, offset: u64) -> UnixNanos {
        self.log.appended_since(OWN, offset)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.keep_missed(missed).await
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        self.forget(which).await
    }

    async fn note_set_aside(
        &self,
        group: GroupId,
        range: LogRange,
        append_times: (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        self.keep_set_aside(group, range, append_times).await
    }

    fn health(&self) -> Result<(), String> {
        self.log.health()?;
        self.check_taking().map_err(|error| error.to_string())
    }

    async fn close(&self) -> Result<(), LogError> {
        self.log.close().await
    }
}
