//! The span log of a cell's front: each collector's log is a partition, read where it is.
//!
//! Nothing is appended here. What a collector last said is its end until it says more, with the time
//! that it vouched for then: so a silent one holds the watermark and nothing else. A read of it fails
//! and is tried again, an answer names it ([`SpanLog::away`]). One that is retired has come to its end.

mod client;
mod follow;
mod seat;
mod seat_note;
mod shared;
mod standing;
mod tail;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch, v1};
use tokio::task::JoinSet;
use tokio::time::timeout;
use trace_model::{Clock, Coverage, LogRange, TenantId, TraceId, UnixNanos};

use self::client::{CollectorClient, Refusal};
use self::seat::Seat;
use self::seat_note::SeatNote;
use self::shared::{FrontNote, Shared};
pub use self::standing::{CollectorStanding, RetireError, Standing};
use super::note::NoteFile;
use super::{COLLECTORS_MAX, CellName, DirectError, INCARNATION, check_stores};
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ForgetLost, GroupId, LogEnd, LogError,
    LogIdentity, Lost, MissedRun, Seen, SpanLog, TailAnswer,
};

/// How long the first words of the collectors are waited for at the start.
const FIRST_WORDS: Duration = Duration::from_secs(2);

/// How a front is opened.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Its cell.
    pub cell: CellName,
    /// The collectors by number: where each serves its log. None is ever taken out of the list.
    pub collectors: Vec<String>,
    /// What is known of them.
    pub file: PathBuf,
    /// What was read of their logs.
    pub seen: Seen,
    /// How long a collector takes spans that does not hear the front. None is retired before it has been
    /// silent for so long: it may run on, where the front does not reach it.
    pub lease: Duration,
}

/// The log over all collectors.
#[derive(Debug)]
pub struct FrontLog {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl FrontLog {
    /// Opens it, and waits a moment for the collectors' first words.
    pub async fn open(
        config: FrontConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, DirectError> {
        let FrontConfig { cell, collectors, file, seen, lease } = config;
        check_stores(&seen)?;
        let file = NoteFile::at(file);
        let found: Option<FrontNote> = file.read()?;
        let known = seen_collectors(&seen);
        // A directory that was lost: each collector may have been of the cell, unseen.
        let is_lost = found.is_none() && known > 0;
        let mut kept = found.unwrap_or_default();
        let known = kept.seats.len().max(known);
        if known > collectors.len() || collectors.len() > COLLECTORS_MAX {
            let reason = format!(
                "{known} collectors are known, and the list has {}: it only grows, at its end, to at \
                 most {COLLECTORS_MAX}; what is gone is retired and stays in it",
                collectors.len()
            );
            return Err(DirectError::File { file: "direct.collectors".to_owned(), reason });
        }
        let now = clock.now();
        kept.epoch = now.millis().max(kept.epoch.saturating_add(1));
        kept.start_leasing(now, lease);
        kept.add_seats(collectors.len(), is_lost);
        let seats = seats(&kept, &seen);
        file.write(&kept)?;
        let clients = collectors.iter().map(|url| CollectorClient::new(url));
        let clients = clients.collect::<Result<_, _>>()?;
        let not_before = seen.append_time.max(now);
        let shared = Shared::new(cell, (file, kept), clients, seats, (not_before, clock));
        let log = Self::start(Arc::new(shared));
        log.first_words().await;
        Ok(log)
    }

    fn start(shared: Arc<Shared>) -> Arc<Self> {
        let mut tasks = JoinSet::new();
        for partition in 0..shared.count() {
            tasks.spawn(follow::follow(Arc::clone(&shared), partition));
        }
        tasks.spawn(follow::keep(Arc::clone(&shared)));
        Arc::new(Self { shared, tasks: Mutex::new(tasks) })
    }

    async fn first_words(&self) {
        let all_heard = async {
            while self.standings().iter().any(|one| matches!(one.standing, Standing::Away(_))) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        drop(timeout(FIRST_WORDS, all_heard).await);
    }

    /// A collector has not answered a question.
    fn missed(&self, partition: u32, refusal: &Refusal) -> LogError {
        self.shared.note_away(partition, refusal);
        self.silent(partition, &refusal.reason())
    }

    fn silent(&self, partition: u32, reason: &str) -> LogError {
        LogError::Unavailable(format!("{}: {reason}", self.name_of(partition)))
    }

    fn name_of(&self, partition: u32) -> String {
        let url = self.shared.client(partition).map_or("", |client| client.url.as_str());
        let address = url.split_once("://").map_or(url, |(_, address)| address);
        format!("collector {partition} ({address})")
    }

    async fn read_from(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        let client = self.shared.client(partition).ok_or(LogError::NoPartition(partition))?;
        let request = v1::ReadLogRequest {
            front: Some(self.shared.front(partition)),
            from,
            bytes_max: u64::try_from(bytes_max).unwrap_or(u64::MAX),
        };
        let read =
            client.read(request).await.map_err(|refusal| self.missed(partition, &refusal))?;
        if let Some(first) = read.kept_from {
            return Err(LogError::Expired { wanted: from, first });
        }
        if let Some(damaged) = read.damaged {
            let times = (damaged.appended_from_unix_nano, damaged.appended_until_unix_nano);
            return Err(LogError::Damaged(DamagedRange {
                range: LogRange { partition, first: damaged.first, next: damaged.next },
                append_times: (UnixNanos(times.0), UnixNanos(times.1)),
                reason: damaged.reason,
                stranger: None,
            }));
        }
        read.batches.into_iter().map(|batch| logged(partition, batch)).collect()
    }
}

/// How many collectors there are at least of which readers have seen records.
fn seen_collectors(seen: &Seen) -> usize {
    let numbers = seen.covered.next.keys().chain(seen.stored.next.keys());
    let count = numbers.filter_map(|number| usize::try_from(*number).ok()?.checked_add(1));
    // Among the counts' partitions is one of no collector.
    count.filter(|count| *count <= COLLECTORS_MAX).max().unwrap_or(0)
}

/// The seats as they were left; readers may have seen more than was noted.
fn seats(kept: &FrontNote, seen: &Seen) -> Vec<Seat> {
    let numbered = (0_u32..).zip(&kept.seats);
    let seat = |(number, note): (u32, &SeatNote)| {
        let next = |cover: &Coverage| cover.next_in(INCARNATION, number);
        let reached = (next(&seen.covered), next(&seen.stored));
        Seat::new(number, note.clone(), reached, seen.append_time)
    };
    numbered.map(seat).collect()
}

/// A batch of a newer release is waited for: an upgrade heals it.
fn logged(partition: u32, message: v1::LoggedRecords) -> Result<LoggedBatch, LogError> {
    let batch = SpanBatch::decode(message.batch).map_err(|error| {
        LogError::Unavailable(format!("records of collector {partition}: {error}"))
    })?;
    Ok(LoggedBatch {
        incarnation: INCARNATION,
        range: LogRange { partition, first: message.first, next: message.next },
        append_time: UnixNanos(message.append_time_unix_nano),
        batch: Arc::new(batch),
    })
}

#[async_trait]
impl SpanLog for FrontLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities { is_durable: true, has_live_tail: true, can_seek_by_time: true }
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity { incarnation: INCARNATION, partitions: self.shared.count() }
    }

    async fn append(&self, _batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        Err(LogError::Unavailable(
            "the front of a cell takes no spans: its collectors do".to_owned(),
        ))
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        self.shared.check_open()?;
        let known = self.shared.with(partition, |seat| match seat.missing(from) {
            Some(missing) => Err(LogError::Damaged(missing)),
            None if seat.is_retired() || from >= seat.note.next => Ok(false),
            // Nobody waits for one that is known to be silent.
            None => match &seat.fault {
                Some(fault) => Err(self.silent(partition, fault)),
                None => Ok(true),
            },
        })?;
        match known? {
            true => self.read_from(partition, from, bytes_max).await,
            false => Ok(Vec::new()),
        }
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        let mut ends = self.shared.ends(partition).ok_or(LogError::NoPartition(partition))?;
        let mut closing = self.shared.closing();
        let grown = async {
            tokio::select! {
                _ = ends.wait_for(|end| *end > offset) => {}
                _ = closing.wait_for(|is_closing| *is_closing) => {}
            }
        };
        // Whether it has grown or the time is up, the end as it is now is the answer.
        drop(timeout(at_most, grown).await);
        self.end(partition)
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        self.shared.check_open()?;
        let now = self.shared.clock.now();
        self.shared.with(partition, |seat| seat.end(now))
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        if self.is_retired(partition) {
            return Ok(self.end(partition)?.next);
        }
        let client = self.shared.client(partition).ok_or(LogError::NoPartition(partition))?;
        let request = v1::FindOffsetRequest {
            front: Some(self.shared.front(partition)),
            time_unix_nano: time.0,
        };
        client.find(request).await.map_err(|refusal| self.missed(partition, &refusal))
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        self.shared.check_open()?;
        self.shared.with(partition, |seat| seat.committed(group))
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        self.shared.check_open()?;
        self.shared.with(partition, |seat| seat.has_committed(group))
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        self.shared.check_open()?;
        self.shared.with(partition, |seat| {
            let committed = seat.committed(group);
            if next < committed {
                return Err(CommitError::Backwards { wanted: next, committed });
            }
            seat.note.commits.insert(group.0.to_owned(), next);
            Ok(())
        })?
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        self.shared.check_open()?;
        tail::ask_all(&self.shared, tenant, trace_id).await
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        Vec::new()
    }

    fn lost(&self) -> Lost {
        let mut lost = Lost::default();
        for partition in 0..self.shared.count() {
            let Ok(own) = self.shared.with(partition, |seat| seat.lost()) else { continue };
            lost.runs.extend(own.runs);
            lost.missed.extend(own.missed);
            lost.expired_until = lost.expired_until.max(own.expired_until);
        }
        lost
    }

    fn appended_since(&self, partition: u32, offset: u64) -> UnixNanos {
        self.dated(partition, offset).unwrap_or_default()
    }

    fn dated(&self, partition: u32, offset: u64) -> Option<UnixNanos> {
        let dated = self.shared.with(partition, |seat| (seat.not_before(offset), seat.is_away()));
        let (not_before, is_away) = dated.ok()?;
        // Of one that is silent nothing can be read.
        (not_before.0 > 0 || is_away).then_some(not_before)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.shared.check_open()?;
        let partition = missed.run.range.partition;
        let is_known = self.shared.with(partition, |seat| seat.note.has_missed(&missed))?;
        if is_known {
            return Ok(());
        }
        let noted = self.shared.change_seat(partition, move |note| note.note_missed(&missed)).await;
        noted.map_err(|error| LogError::Disk(error.to_string()))
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        let mut forgotten = 0_usize;
        for partition in 0..self.shared.count() {
            forgotten = forgotten.saturating_add(self.forget_of(partition, which).await?);
        }
        Ok(forgotten)
    }

    fn away(&self) -> Vec<u32> {
        (0..self.shared.count()).filter(|partition| self.is_away(*partition)).collect()
    }

    fn is_away(&self, partition: u32) -> bool {
        self.shared.with(partition, |seat| seat.is_away()).unwrap_or(false)
    }

    fn is_retired(&self, partition: u32) -> bool {
        self.shared.with(partition, |seat| seat.is_retired()).unwrap_or(false)
    }

    fn health(&self) -> Result<(), String> {
        if self.shared.is_fenced() {
            return Err("another front of this cell was started later".to_owned());
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), LogError> {
        self.shared.close();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.join_all().await;
        Ok(())
    }
}
