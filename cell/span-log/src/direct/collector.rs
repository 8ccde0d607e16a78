//! The write-ahead log of one collector, as the partition of its cell that its number names.
//!
//! Beside the log lies a note (`collector.json`): whose number it is, whether the cell's front has noted
//! it, whether it was retired, and what a store has refused of it. **Never** is a span acknowledged
//! before the front has noted the number, or at a time when the front may have retired the collector:
//! it does not need to be reached for that, since what it may take ends by itself where it does not
//! hear the front.

mod own_note;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::watch;
use trace_model::{Clock, Coverage, LogRange, TenantId, TraceId, UnixNanos};

use self::own_note::{Aside, Note, seen_of_its_own};
use super::note::NoteFile;
use super::{DirectError, INCARNATION, check_stores};
use crate::assignment::{Assignment, Share, Sharing};
use crate::embedded::{EmbeddedConfig, EmbeddedLog};
use crate::metrics::LogMetrics;
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ForgetLost, GroupId, LogEnd, LogError,
    LogIdentity, Lost, LostCause, LostRun, MissedRun, SpanLog, TailAnswer,
};

/// The embedded log's only partition.
const OWN: u32 = 0;
/// Runs that a store has refused, remembered at most; beyond it the last one grows.
const ASIDE_MAX: usize = 128;

/// How a collector's log is opened.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
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
    number: u32,
    log: Arc<EmbeddedLog>,
    file: NoteFile,
    note: Mutex<Note>,
    /// The latest front that was heard of.
    front: AtomicU64,
    /// The front does not retire it before this time of its own, in nanoseconds.
    leased_until: AtomicU64,
}

impl CollectorLog {
    /// Opens the log, or makes it. Blocks, as [`EmbeddedLog::open`] does.
    pub fn open(config: CollectorConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, DirectError> {
        let CollectorConfig { number, file, log } = config;
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
        let note = Mutex::new(note);
        Ok(Arc::new(Self { number, log, file, note, front, leased_until }))
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

    fn note(&self) -> MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a group of the front is, if it ever was here.
    pub(super) fn told_by_front(&self, group: GroupId) -> Option<u64> {
        self.log.known_commit(group)
    }

    pub(super) fn log_id(&self) -> u64 {
        self.note().log
    }

    /// Takes a front's word, unless a later front was heard of. Whether it is to be kept: a later front's
    /// word is, before anything is done on it.
    pub(super) fn admit_front(&self, epoch: u64) -> Option<bool> {
        let known = self.front.fetch_max(epoch, Ordering::AcqRel);
        (known <= epoch).then(|| self.note().front < epoch)
    }

    /// Keeps that a front was heard: no earlier one is, over restarts.
    pub(super) fn keep_front(&self, epoch: u64) -> Result<(), LogError> {
        self.change(|note| note.front = note.front.max(epoch))
    }

    /// Whether the front has noted it, and whether it is retired.
    pub(super) fn standing(&self) -> (bool, bool) {
        let note = self.note();
        (note.is_registered, note.is_retired)
    }

    /// The front has noted the number: spans are taken from now on, appended later than `not_before`.
    pub(super) fn register(&self, not_before: UnixNanos) -> Result<(), LogError> {
        let end = self.log.end(OWN)?;
        if end.append_time <= not_before {
            let behind = not_before.since(end.append_time) / 1_000_000;
            let reason = format!("the collector's clock is {behind} ms behind the cell's");
            return Err(LogError::Unavailable(reason));
        }
        self.change(|note| note.is_registered = true)
    }

    /// The front does not retire the collector before this time. Whether that is to be kept: a restart
    /// without the front then has half of what is left, or more.
    pub(super) fn lease(&self, until: UnixNanos) -> Result<bool, LogError> {
        self.leased_until.fetch_max(until.0, Ordering::AcqRel);
        let now = self.log.end(OWN)?.append_time;
        Ok(until > now && self.note().leased_until < now.0.midpoint(until.0))
    }

    /// Keeps it.
    pub(super) fn keep_lease(&self, until: UnixNanos) -> Result<(), LogError> {
        self.change(|note| note.leased_until = note.leased_until.max(until.0))
    }

    /// No span is taken any more, for good.
    pub(super) fn retire(&self) -> Result<(), LogError> {
        self.change(|note| note.is_retired = true)
    }

    /// Changes the note; durable when it returns, and not changed where that failed.
    fn change(&self, change: impl FnOnce(&mut Note)) -> Result<(), LogError> {
        let mut note = self.note();
        let mut changed = note.clone();
        change(&mut changed);
        self.file.write(&changed).map_err(|error| LogError::Disk(error.to_string()))?;
        *note = changed;
        Ok(())
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

    /// A run of the embedded log, in the words of the cell.
    const fn lost_run(&self, run: LostRun) -> LostRun {
        LostRun { incarnation: INCARNATION, range: self.range(run.range), ..run }
    }

    /// What is to be forgotten, in the embedded log's own words; `None`: nothing of this collector.
    fn of_its_own(&self, which: ForgetLost) -> Option<ForgetLost> {
        let is_own = |of: (u64, u32)| of == (INCARNATION, self.number);
        let incarnation = self.log_id();
        match which {
            ForgetLost::Before(_) => Some(which),
            ForgetLost::Run { incarnation: of, partition, first } if is_own((of, partition)) => {
                Some(ForgetLost::Run { incarnation, partition: OWN, first })
            }
            ForgetLost::Missed { group, incarnation: of, partition, first }
                if is_own((of, partition)) =>
            {
                Some(ForgetLost::Missed { group, incarnation, partition: OWN, first })
            }
            ForgetLost::Run { .. } | ForgetLost::Missed { .. } => None,
        }
    }

    fn forget_aside(&self, which: ForgetLost) -> Result<usize, LogError> {
        let stays = |run: &Aside| match which {
            ForgetLost::Before(time) => run.last_time >= time.0,
            ForgetLost::Run { first, .. } => run.first != first,
            ForgetLost::Missed { .. } => true,
        };
        let forgotten = self.note().set_aside.iter().filter(|run| !stays(run)).count();
        if forgotten > 0 {
            self.change(|note| {
                note.set_aside.retain(stays);
                if let ForgetLost::Before(time) = which {
                    note.forgotten_until = note.forgotten_until.max(time.0);
                }
            })?;
        }
        Ok(forgotten)
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
        let mut covered = Coverage::none(INCARNATION);
        covered.extend(self.number, tail.covered.next.get(&OWN).copied().unwrap_or(0));
        Ok(TailAnswer { covered, ..tail })
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        let damaged = self.log.damaged().into_iter();
        damaged.map(|one| DamagedRange { range: self.range(one.range), ..one }).collect()
    }

    fn lost(&self) -> Lost {
        let lost = self.log.lost();
        let own = lost.runs.into_iter().map(|run| self.lost_run(run));
        let missed = lost.missed.into_iter();
        let missed = missed.map(|one| MissedRun { run: self.lost_run(one.run), ..one }).collect();
        let note = self.note();
        let aside = note.set_aside.iter().map(|run| LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition: self.number, first: run.first, next: run.next },
            append_times: (UnixNanos(run.first_time), UnixNanos(run.last_time)),
            cause: LostCause::SetAside,
        });
        let forgotten = (note.forgotten_until > 0).then_some(UnixNanos(note.forgotten_until));
        let expired_until = lost.expired_until.max(forgotten);
        Lost { runs: own.chain(aside).collect(), missed, expired_until }
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        self.check_partition(partition)?;
        self.log.has_committed(group, OWN)
    }

    fn appended_since(&self, _partition: u32, offset: u64) -> UnixNanos {
        self.log.appended_since(OWN, offset)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.check_partition(missed.run.range.partition)?;
        let range = LogRange { partition: OWN, ..missed.run.range };
        let run = LostRun { incarnation: self.log_id(), range, ..missed.run };
        self.log.note_missed(MissedRun { run, ..missed }).await
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        let Some(own) = self.of_its_own(which) else { return Ok(0) };
        let forgotten = self.log.forget_lost(own).await?;
        Ok(forgotten.saturating_add(self.forget_aside(which)?))
    }

    async fn note_set_aside(
        &self,
        range: LogRange,
        (first, last): (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        let run =
            Aside { first: range.first, next: range.next, first_time: first.0, last_time: last.0 };
        if self.note().set_aside.contains(&run) {
            return Ok(());
        }
        self.change(|note| {
            let is_full = note.set_aside.len() >= ASIDE_MAX;
            match note.set_aside.last_mut().filter(|_| is_full) {
                Some(last) => last.grow(&run),
                None => note.set_aside.push(run),
            }
        })
    }

    fn health(&self) -> Result<(), String> {
        self.log.health()?;
        self.check_taking().map_err(|error| error.to_string())
    }

    async fn close(&self) -> Result<(), LogError> {
        self.log.close().await
    }
}
