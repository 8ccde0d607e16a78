//! What the front's tasks and readers share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use trace_model::{Clock, UnixNanos};

use super::super::note::NoteFile;
use super::super::{CellName, DirectError};
use super::client::{CollectorClient, Refusal};
use super::seat::Seat;
use super::seat_note::SeatNote;
use crate::port::LogError;

/// What the front keeps of its collectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FrontNote {
    pub(super) epoch: u64,
    pub(super) seats: Vec<SeatNote>,
    /// How long a collector takes spans without this front, in nanoseconds.
    pub(super) lease: u64,
    /// By then whatever an earlier front has let collectors take is over, in nanoseconds.
    pub(super) leased_before: u64,
}

impl FrontNote {
    /// A front begins, with a lease of its own.
    pub(super) fn start_leasing(&mut self, now: UnixNanos, lease: Duration) {
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let latest = now.plus(lease.max(self.lease)).0;
        (self.lease, self.leased_before) = (lease, self.leased_before.max(latest));
    }

    /// A seat for each collector of the list. `is_lost`: what was known of them is not known any more.
    pub(super) fn add_seats(&mut self, count: usize, is_lost: bool) {
        let seat = || SeatNote { may_be_known: is_lost, ..SeatNote::default() };
        self.seats.resize_with(count, seat);
    }

    /// Without what goes on by itself as time does.
    fn without_times(&self) -> Self {
        let seats = self.seats.iter().map(SeatNote::without_times).collect();
        Self { seats, ..*self }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    cell: CellName,
    pub(super) epoch: u64,
    pub(super) clock: Arc<dyn Clock>,
    clients: Vec<CollectorClient>,
    seats: Vec<Mutex<Seat>>,
    /// Ends as they grow, for those who wait.
    ends: Vec<watch::Sender<u64>>,
    file: NoteFile,
    /// What was written last; held while it is written.
    kept: Arc<AsyncMutex<FrontNote>>,
    not_before: UnixNanos,
    /// Nanoseconds.
    lease: u64,
    leased_before: UnixNanos,
    is_fenced: AtomicBool,
    closing: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(
        cell: CellName,
        (file, kept): (NoteFile, FrontNote),
        clients: Vec<CollectorClient>,
        seats: Vec<Seat>,
        (not_before, clock): (UnixNanos, Arc<dyn Clock>),
    ) -> Self {
        Self {
            cell,
            epoch: kept.epoch,
            lease: kept.lease,
            leased_before: UnixNanos(kept.leased_before),
            clock,
            clients,
            ends: seats.iter().map(|seat| watch::channel(seat.note.next).0).collect(),
            seats: seats.into_iter().map(Mutex::new).collect(),
            file,
            kept: Arc::new(AsyncMutex::new(kept)),
            not_before,
            is_fenced: AtomicBool::new(false),
            closing: watch::channel(false).0,
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    fn lock(&self, partition: u32) -> Option<MutexGuard<'_, Seat>> {
        let seat = self.seats.get(usize::try_from(partition).ok()?)?;
        Some(seat.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A collector as it is known now.
    pub(super) fn seat(&self, partition: u32) -> Option<Seat> {
        self.lock(partition).map(|seat| seat.clone())
    }

    /// Looks at a collector.
    pub(super) fn with<T>(
        &self,
        partition: u32,
        look: impl FnOnce(&mut Seat) -> T,
    ) -> Result<T, LogError> {
        let mut seat = self.lock(partition).ok_or(LogError::NoPartition(partition))?;
        Ok(look(&mut seat))
    }

    pub(super) fn client(&self, partition: u32) -> Option<&CollectorClient> {
        self.clients.get(usize::try_from(partition).ok()?)
    }

    pub(super) fn ends(&self, partition: u32) -> Option<watch::Receiver<u64>> {
        let ends = self.ends.get(usize::try_from(partition).ok()?)?;
        Some(ends.subscribe())
    }

    /// How the front introduces itself to a collector.
    pub(super) fn front(&self, partition: u32) -> v1::Front {
        let log = self.lock(partition).map_or(0, |seat| seat.note.log);
        let (region, keyspace) = (self.cell.region.as_str().to_owned(), self.cell.keyspace.clone());
        v1::Front { epoch: self.epoch, collector: partition, log, region, keyspace }
    }

    /// Before a collector was heard of, no end of the log was vouched for at a later time than this:
    /// from then on its own word bounds all of it.
    pub(super) const fn not_before(&self) -> UnixNanos {
        self.not_before
    }

    /// Until when a collector may take spans, if it hears this now. One that is being retired hears of no
    /// time that it did not know.
    pub(super) const fn lease_of(&self, seat: &Seat) -> UnixNanos {
        if seat.is_retiring {
            return UnixNanos(0);
        }
        UnixNanos(seat.note.append_time.saturating_add(self.lease))
    }

    /// By when a collector takes no spans that hears nothing more, whoever was its front.
    pub(super) fn ended_by(&self, seat: &Seat) -> UnixNanos {
        // Its lease ends by its own clock, which may be behind: not later than so long after it was heard.
        let heard = seat.heard_at.max(UnixNanos(seat.note.append_time));
        self.leased_before.max(heard.plus(self.lease))
    }

    /// Takes in what a collector says. Which log has its number is durable before anything else.
    pub(super) async fn learn(
        self: &Arc<Self>,
        partition: u32,
        state: &v1::LogState,
    ) -> Result<(), String> {
        let known = self.lock(partition).map(|seat| (seat.is_retired(), seat.note.log));
        let Some((is_retired, known)) = known else { return Err("no such collector".to_owned()) };
        if is_retired {
            return Ok(());
        }
        if known == 0 && state.log != 0 {
            let log = state.log;
            let noted = self.change_seat(partition, move |note| note.log = log).await;
            noted.map_err(|error| error.to_string())?;
        }
        let Some(mut seat) = self.lock(partition) else { return Ok(()) };
        if seat.is_retired() {
            return Ok(());
        }
        seat.learn(state)?;
        seat.heard_at = self.clock.now();
        if seat.fault.take().is_some() {
            tracing::info!(collector = partition, "a collector answers");
        }
        let next = seat.note.next;
        drop(seat);
        self.grown(partition, next);
        Ok(())
    }

    fn note_of(&self, partition: u32) -> SeatNote {
        self.lock(partition).map(|seat| seat.note.clone()).unwrap_or_default()
    }

    fn grown(&self, partition: u32, next: u64) {
        if let Some(ends) = usize::try_from(partition).ok().and_then(|place| self.ends.get(place)) {
            ends.send_if_modified(|end| std::mem::replace(end, next) != next);
        }
    }

    /// A collector does not answer.
    pub(super) fn note_away(&self, partition: u32, refusal: &Refusal) {
        if *refusal == Refusal::Fenced && !self.is_fenced.swap(true, Ordering::AcqRel) {
            tracing::error!("another front of this cell was started later: this one is void");
        }
        let Some(mut seat) = self.lock(partition) else { return };
        let reason = refusal.reason();
        if seat.fault.as_ref() != Some(&reason) {
            tracing::warn!(collector = partition, reason, "a collector does not answer");
        }
        seat.fault = Some(reason);
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Acquire)
    }

    /// A retired collector knows that it is.
    pub(super) async fn note_told(self: &Arc<Self>, partition: u32) {
        let told = self.change_seat(partition, |note| {
            if let Some(retired) = &mut note.retired {
                retired.is_told = true;
            }
        });
        if let Err(error) = told.await {
            tracing::debug!(%error, "it is told again after a restart");
        }
    }

    /// Changes what is kept of a collector; durable when it returns, and unchanged where that failed. The
    /// change is made twice: of what is written, and of what is known by then. Once it is being written
    /// it goes on without its caller.
    pub(super) async fn change_seat(
        self: &Arc<Self>,
        partition: u32,
        change: impl Fn(&mut SeatNote) + Send + 'static,
    ) -> Result<(), DirectError> {
        let kept = Arc::clone(&self.kept).lock_owned().await;
        let mut next = self.gather(&kept);
        let Some(slot) = usize::try_from(partition).ok().and_then(|at| next.seats.get_mut(at))
        else {
            return Ok(());
        };
        change(slot);
        let shared = Arc::clone(self);
        let take_in = move || {
            if let Some(mut seat) = shared.lock(partition) {
                change(&mut seat.note);
            }
        };
        self.write(kept, next, take_in).await
    }

    /// Writes what is known, if it has changed; `also_times`: where only time has gone on as well.
    pub(super) async fn keep(&self, also_times: bool) -> Result<(), DirectError> {
        let kept = Arc::clone(&self.kept).lock_owned().await;
        let next = self.gather(&kept);
        let is_same = match also_times {
            true => next == *kept,
            false => next.without_times() == kept.without_times(),
        };
        if is_same {
            return Ok(());
        }
        self.write(kept, next, || {}).await
    }

    fn gather(&self, kept: &FrontNote) -> FrontNote {
        let seats = (0..self.count()).map(|partition| self.note_of(partition)).collect();
        let FrontNote { epoch, lease, leased_before, .. } = *kept;
        FrontNote { epoch, seats, lease, leased_before }
    }

    /// Writes a note, then takes in what is new in it. The lock goes with that, also where the caller is
    /// dropped: whoever writes next writes over the same file, and gathers what was taken in.
    async fn write(
        &self,
        mut kept: OwnedMutexGuard<FrontNote>,
        note: FrontNote,
        take_in: impl FnOnce() + Send + 'static,
    ) -> Result<(), DirectError> {
        let file = self.file.clone();
        let writing = move || -> Result<(), DirectError> {
            file.write(&note)?;
            *kept = note;
            take_in();
            Ok(())
        };
        let written = tokio::task::spawn_blocking(writing).await;
        written.map_err(|error| DirectError::File {
            file: "front.json".to_owned(),
            reason: error.to_string(),
        })?
    }

    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(super) fn check_open(&self) -> Result<(), LogError> {
        if *self.closing.borrow() { Err(LogError::Closed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::mpsc;
    use std::thread;

    use service_kit::ManualClock;
    use tempfile::TempDir;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::timeout;
    use trace_model::Region;

    use super::super::FrontLog;
    use super::*;

    /// Of one collector, which is not there.
    fn one_seat() -> (TempDir, NoteFile, Arc<Shared>) {
        let directory = tempfile::tempdir().unwrap();
        let file = NoteFile::at(directory.path().join("front.json"));
        let mut kept = FrontNote::default();
        kept.add_seats(1, false);
        let cell = CellName { region: Region::new("eu").unwrap(), keyspace: "spans".to_owned() };
        let clients = vec![CollectorClient::new("http://127.0.0.1:1").unwrap()];
        let seats = vec![Seat::new(0, SeatNote::default(), (0, 0), UnixNanos(0))];
        let times = (UnixNanos(0), Arc::new(ManualClock::at(UnixNanos(9))) as _);
        let shared = Arc::new(Shared::new(cell, (file.clone(), kept), clients, seats, times));
        (directory, file, shared)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_is_being_written_goes_on_with_the_lock_where_its_caller_is_dropped() {
        let (_directory, file, shared) = one_seat();
        tokio::select! {
            biased;
            changed = shared.change_seat(0, |note| note.log = 7) => changed.unwrap(),
            () = ready(()) => {}
        }
        let kept = shared.kept.lock().await;
        let written = file.read::<FrontNote>().unwrap().map(|note| note.seats[0].log);
        assert_eq!((kept.seats[0].log, written), (7, Some(7)));
        assert_eq!(shared.seat(0).unwrap().note.log, 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_nobody_retires_any_more_is_let_take_spans_again() {
        let (_directory, _file, shared) = one_seat();
        let log = FrontLog { shared: Arc::clone(&shared), tasks: Mutex::new(JoinSet::new()) };
        let is_retiring = || shared.seat(0).unwrap().is_retiring;
        let kept = shared.kept.lock().await;
        let begun = async {
            while !is_retiring() {
                yield_now().await;
            }
        };
        tokio::select! {
            retired = log.retire(0) => panic!("{retired:?}"),
            begun = timeout(Duration::from_secs(30), begun) => begun.unwrap(),
        }
        assert!(!is_retiring() && !shared.seat(0).unwrap().is_retired());
        drop(kept);
        log.retire(0).await.unwrap();
        assert!(shared.seat(0).unwrap().is_retired() && is_retiring());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_was_written_is_known_before_anybody_gathers_what_to_write_next() {
        let (_directory, file, shared) = one_seat();
        let noted = {
            let file = file.clone();
            move || file.read::<FrontNote>().unwrap().map_or(0, |note| note.seats[0].log)
        };
        let (gathered, is_gathered) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let (of_holder, written) = (Arc::clone(&shared), noted.clone());
        // Holds the seat while the change is written, so that it cannot be taken in.
        let holder = thread::spawn(move || {
            is_gathered.recv().unwrap();
            let seat = of_holder.lock(0).unwrap();
            held.send(()).unwrap();
            let mut pauses =
                (0..10_000).inspect(|_| thread::park_timeout(Duration::from_millis(1)));
            assert!(pauses.any(|_| written() == 7), "it is not written");
            let is_free = |_| of_holder.kept.try_lock().is_ok();
            assert!(!pauses.take(50).any(is_free), "what was known before is gathered");
            drop(seat);
        });
        let is_first = AtomicBool::new(true);
        let change = move |note: &mut SeatNote| {
            note.log = 7;
            if is_first.swap(false, Ordering::SeqCst) {
                gathered.send(()).unwrap();
                is_held.recv().unwrap();
            }
        };
        shared.change_seat(0, change).await.unwrap();
        holder.join().unwrap();
        shared.keep(true).await.unwrap();
        assert_eq!((noted(), shared.seat(0).unwrap().note.log), (7, 7));
    }
}
