//! The runner over a log and a handler that fail as they are told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use proto::{BatchSource, LoggedBatch, SpanBatch, SpanBatchBuilder};
use service_kit::SystemClock;
use span_log::port::SEARCH_INDEXER;
use span_log::{
    Appended, Capabilities, DamagedRange, ForgetLost, LogEnd, LogError, LogIdentity, Lost,
    LostCause, LostRun, MissedRun, Share, TailAnswer,
};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;
use trace_model::{Clock, Coverage, LogRange, Region, TenantId, TraceId};

use super::*;
use crate::dead_letter::DeadLetterConfig;
use crate::handler::{GroupMaker, MakeError};
use crate::retries::RetryError;
use crate::service::{IngesterParts, IngesterService};

mod ahead;
mod missed;
mod share;

const GROUP: GroupId = GroupId("under-test");
const INCARNATION: u64 = 7;

/// One partition in memory, with faults in front of it.
#[derive(Debug, Default)]
struct FakeLog {
    state: Mutex<LogState>,
    /// What is assigned, where that changes.
    assignment: Option<watch::Sender<Assignment>>,
    /// Partitions beside the first: all have the same records, and commits of their own.
    more: u32,
    released: Mutex<Vec<Hold>>,
    /// How often the group was left to others.
    left: AtomicU32,
}

#[derive(Debug, Default)]
struct LogState {
    batches: Vec<LoggedBatch>,
    first: u64,
    /// Answers of the next reads, before the true ones.
    faults: VecDeque<LogError>,
    damaged: Option<DamagedRange>,
    committed: BTreeMap<u32, u64>,
    commit_fails: bool,
    /// What groups were said to have missed, and whether that cannot be noted.
    missed: Vec<MissedRun>,
    cannot_note: bool,
    /// Whether others have yet to hear of them.
    is_unheard: bool,
    /// What is lost to all, and whose letters other processes were told of.
    lost: Lost,
    aside: Vec<(GroupId, LogRange)>,
    forgotten: Vec<ForgetLost>,
}

impl FakeLog {
    fn with(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn committed_next(&self) -> u64 {
        self.state.lock().unwrap().committed.get(&0).copied().unwrap_or(0)
    }
}

impl FakeLog {
    /// Gives these shares of the one partition, under a new generation.
    fn assign(&self, shares: &[Share]) {
        let Some(assignment) = &self.assignment else { return };
        assignment.send_modify(|told| {
            told.generation += 1;
            told.partitions = shares.iter().map(|share| (0, *share)).collect();
        });
    }
}

impl LogState {
    fn end(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.range.next)
    }
}

#[async_trait]
impl SpanLog for FakeLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity { incarnation: INCARNATION, partitions: 1 + self.more }
    }

    async fn append(&self, _: Arc<SpanBatch>) -> Result<Appended, LogError> {
        Err(LogError::Closed)
    }

    async fn read(&self, at: u32, from: u64, _: usize) -> Result<Vec<LoggedBatch>, LogError> {
        let mut state = self.state.lock().unwrap();
        if let Some(fault) = state.faults.pop_front() {
            return Err(fault);
        }
        if from < state.first {
            return Err(LogError::Expired { wanted: from, first: state.first });
        }
        let damaged = state.damaged.clone();
        if let Some(damaged) = damaged.filter(|damaged| damaged.range.first <= from) {
            state.damaged = None;
            return Err(LogError::Damaged(damaged));
        }
        let until = state.damaged.as_ref().map_or(u64::MAX, |damaged| damaged.range.first);
        let is_asked = |batch: &&LoggedBatch| batch.range.next > from && batch.range.first < until;
        let mut batches: Vec<_> = state.batches.iter().filter(is_asked).cloned().collect();
        batches.iter_mut().for_each(|batch| batch.range.partition = at);
        Ok(batches)
    }

    async fn wait_beyond(
        &self,
        _: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        if self.end(0)?.next <= offset {
            tokio::time::sleep(at_most).await;
        }
        self.end(0)
    }

    fn end(&self, _: u32) -> Result<LogEnd, LogError> {
        let state = self.state.lock().unwrap();
        let next = state.end();
        Ok(LogEnd { next, append_time: UnixNanos(next), first: state.first })
    }

    async fn offset_at(&self, _: u32, _: UnixNanos) -> Result<u64, LogError> {
        Ok(0)
    }

    fn committed(&self, _: GroupId, _: u32) -> Result<u64, LogError> {
        let state = self.state.lock().unwrap();
        Ok(state.committed.get(&0).copied().unwrap_or(state.first))
    }

    fn has_committed(&self, _: GroupId, partition: u32) -> Result<bool, LogError> {
        Ok(self.state.lock().unwrap().committed.contains_key(&partition))
    }

    fn appended_since(&self, _: u32, offset: u64) -> UnixNanos {
        UnixNanos(offset + 1)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.with(|state| {
            if !state.cannot_note {
                state.missed.push(missed);
            }
        });
        if self.state.lock().unwrap().cannot_note {
            return Err(LogError::Unavailable("the brokers are away".into()));
        }
        while self.state.lock().unwrap().is_unheard {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn lost(&self) -> Lost {
        self.state.lock().unwrap().lost.clone()
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        self.state.lock().unwrap().forgotten.push(which);
        Ok(1)
    }

    async fn note_set_aside(
        &self,
        group: GroupId,
        range: LogRange,
        append_times: (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        let mut state = self.state.lock().unwrap();
        if state.cannot_note {
            return Err(LogError::Unavailable("the brokers are away".into()));
        }
        state.aside.push((group, range));
        let cause = LostCause::SetAside;
        let run = LostRun { incarnation: INCARNATION, range, append_times, cause };
        state.lost.missed.push(MissedRun { group, run });
        Ok(())
    }

    async fn commit(&self, _: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        let mut state = self.state.lock().unwrap();
        if state.commit_fails {
            return Err(LogError::Disk("no".into()).into());
        }
        state.committed.insert(partition, next);
        Ok(())
    }

    fn join(&self, _: GroupId, _: Sharing) -> watch::Receiver<Assignment> {
        match &self.assignment {
            Some(assignment) => assignment.subscribe(),
            None => watch::channel(Assignment::of_all(1 + self.more)).1,
        }
    }

    async fn commit_held(&self, group: GroupId, hold: Hold, next: u64) -> Result<(), CommitError> {
        if !self.join(group, Sharing::Partitions).borrow().has(hold) {
            return Err(CommitError::Fenced(hold));
        }
        self.commit(group, hold.partition, next).await
    }

    fn leave(&self, _: GroupId) {
        self.left.fetch_add(1, Ordering::SeqCst);
        self.assign(&[]);
    }

    fn release(&self, _: GroupId, hold: Hold) {
        self.released.lock().unwrap().push(hold);
        self.assign(&[]);
    }

    async fn tail(&self, _: &TenantId, _: TraceId) -> Result<TailAnswer, LogError> {
        Err(LogError::Closed)
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        Vec::new()
    }

    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// What a handler was given, and how it is to answer.
#[derive(Debug, Default)]
struct Script {
    handled: Mutex<Vec<u64>>,
    skipped: Mutex<Vec<LogRange>>,
    log_ends: Mutex<Vec<UnixNanos>>,
    poison: Mutex<Vec<u64>>,
    is_full: AtomicBool,
    /// Others come first.
    waits: AtomicBool,
    waited: AtomicU32,
    cannot_flush: AtomicBool,
    /// Flushes only when it is closed.
    is_lazy: AtomicBool,
    /// How often it panics before it takes the batch that starts here.
    panics: Mutex<(u32, u64)>,
    /// Handlers that were made, and how many of the next cannot be.
    made: AtomicU32,
    cannot_make: AtomicU32,
    /// Handlers that are begun to be made, and whether they are held up before the store hears of them.
    making: AtomicU32,
    is_held_up: AtomicBool,
    /// Handlers that the store has heard of, in all processes: those before the last one are fenced.
    epoch: Arc<AtomicU32>,
    /// Whether they cannot since their store is away.
    is_store_away: AtomicBool,
    /// Whether one process reads the group alone.
    is_alone: AtomicBool,
    /// Whether the group is one of those that are told what they miss.
    is_told: AtomicBool,
    /// What the store has when the handler is made.
    stored: Mutex<Coverage>,
    /// Letters taken again, and whether the store has room for them.
    again: Mutex<Vec<u64>>,
    takes_again: AtomicBool,
    /// Seconds by which the clock is ahead of this machine's.
    ahead_s: AtomicU64,
}

/// A clock that a script puts forward.
#[derive(Debug)]
struct ForwardClock {
    real: SystemClock,
    script: Arc<Script>,
}

impl Clock for ForwardClock {
    fn now(&self) -> UnixNanos {
        self.real.now()
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic() + Duration::from_secs(self.script.ahead_s.load(Ordering::SeqCst))
    }
}

impl Script {
    fn group(&self) -> GroupId {
        if self.is_told.load(Ordering::SeqCst) { SEARCH_INDEXER } else { GROUP }
    }
}

/// Makes handlers that share a script.
#[derive(Debug)]
struct FakeMaker {
    script: Arc<Script>,
}

#[async_trait]
impl GroupMaker for FakeMaker {
    fn group(&self) -> GroupId {
        self.script.group()
    }

    fn sharing(&self) -> Sharing {
        match self.script.is_alone.load(Ordering::SeqCst) {
            true => Sharing::Alone,
            false => Sharing::Partitions,
        }
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        let failing = &self.script.cannot_make;
        let left = |left: u32| left.checked_sub(1);
        if failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            let is_away = self.script.is_store_away.load(Ordering::SeqCst);
            return Err(MakeError { group: GROUP, reason: "the store is away".into(), is_away });
        }
        self.script.making.fetch_add(1, Ordering::SeqCst);
        while self.script.is_held_up.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let epoch = self.script.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.script.made.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeHandler {
            script: Arc::clone(&self.script),
            epoch,
            taken: Coverage::none(INCARNATION),
            durable: self.script.stored.lock().unwrap().clone(),
        }))
    }
}

#[derive(Debug)]
struct FakeHandler {
    script: Arc<Script>,
    epoch: u32,
    taken: Coverage,
    durable: Coverage,
}

impl FakeHandler {
    fn panic_if_told(&self, first: u64) {
        let mut panics = self.script.panics.lock().unwrap();
        let is_due = panics.0 > 0 && panics.1 == first;
        panics.0 -= u32::from(is_due);
        drop(panics);
        assert!(!is_due, "injected at {first}");
    }
}

#[async_trait]
impl GroupHandler for FakeHandler {
    fn group(&self) -> GroupId {
        self.script.group()
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        if self.script.is_full.load(Ordering::SeqCst) {
            return Err(HandleError::Retry("full".into()));
        }
        if self.script.waits.load(Ordering::SeqCst) {
            self.script.waited.fetch_add(1, Ordering::SeqCst);
            return Err(HandleError::Wait("others come first".into()));
        }
        let poison = self.script.poison.lock().unwrap().clone();
        if batches.iter().any(|batch| poison.contains(&batch.range.first)) {
            return Err(HandleError::Poison("poison".into()));
        }
        for batch in batches {
            self.panic_if_told(batch.range.first);
            self.script.handled.lock().unwrap().push(batch.range.first);
            self.taken.extend(batch.range.partition, batch.range.next);
        }
        Ok(())
    }

    async fn tick(
        &mut self,
        _: UnixNanos,
        log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        self.script.log_ends.lock().unwrap().extend(log_end);
        if self.script.epoch.load(Ordering::SeqCst) > self.epoch {
            return Err(HandleError::Fenced("another process".into()));
        }
        if self.script.cannot_flush.load(Ordering::SeqCst) {
            return Err(HandleError::Retry("disk".into()));
        }
        if is_closing || !self.script.is_lazy.load(Ordering::SeqCst) {
            self.durable.join(&self.taken);
            // A store that was away when the handler was made says then what it has.
            self.durable.join(&self.script.stored.lock().unwrap());
        }
        Ok(())
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        self.script.skipped.lock().unwrap().push(damaged.range);
        self.taken.extend(damaged.range.partition, damaged.range.next);
        Ok(())
    }

    async fn take_again(&mut self, batch: &LoggedBatch, _: UnixNanos) -> Result<(), HandleError> {
        if self.script.is_full.load(Ordering::SeqCst) {
            return Err(HandleError::Retry("full".into()));
        }
        if !self.script.takes_again.load(Ordering::SeqCst) {
            return Err(HandleError::Poison("still poison".into()));
        }
        self.script.again.lock().unwrap().push(batch.range.first);
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.durable.clone()
    }
}

struct Bench {
    log: Arc<FakeLog>,
    script: Arc<Script>,
    service: IngesterService,
    dead_letters: Arc<DeadLetters>,
    retries: Retries,
    metrics: IngesterMetrics,
    tracker: TaskTracker,
    token: CancellationToken,
    _directory: TempDir,
}

impl Bench {
    /// A group over a log that holds `batches` batches of two records each.
    async fn start(batches: u64, prepare: impl FnOnce(&FakeLog, &Script)) -> Self {
        Self::start_with(batches, 100, prepare).await
    }

    async fn start_with(
        batches: u64,
        letters_max: usize,
        prepare: impl FnOnce(&FakeLog, &Script),
    ) -> Self {
        Self::start_on(FakeLog::default(), batches, letters_max, prepare).await
    }

    async fn start_on(
        log: FakeLog,
        batches: u64,
        letters_max: usize,
        prepare: impl FnOnce(&FakeLog, &Script),
    ) -> Self {
        for place in 0..batches {
            log.with(|state| state.batches.push(logged(place * 2)));
        }
        let script = Script::default();
        prepare(&log, &script);
        Self::start_as(log, script, letters_max).await
    }

    async fn start_as(log: FakeLog, script: Script, letters_max: usize) -> Self {
        let (log, script) = (Arc::new(log), Arc::new(script));
        let directory = TempDir::new().unwrap();
        let config = DeadLetterConfig {
            letters_max,
            ..DeadLetterConfig::new(directory.path().join("dead"))
        };
        let dead_letters = Arc::new(DeadLetters::open(config).unwrap());
        let runner = parts_of(&log, &script, &dead_letters);
        let (metrics, retries) = (runner.metrics.clone(), runner.retries.clone());
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let maker = FakeMaker { script: Arc::clone(&script) };
        let parts = IngesterParts { runner, groups: vec![Arc::new(maker)] };
        let service = IngesterService::start(&tracker, &token, parts).await.unwrap();
        Self {
            log,
            script,
            service,
            dead_letters,
            retries,
            metrics,
            tracker,
            token,
            _directory: directory,
        }
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Duration::from_secs(10);
        let reached = tokio::time::timeout(deadline, async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(reached.await.is_ok(), "not within {deadline:?}: {what}");
    }

    async fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(Duration::from_secs(10), self.tracker.wait()).await.unwrap();
    }

    fn handled(&self) -> Vec<u64> {
        self.script.handled.lock().unwrap().clone()
    }

    fn retries(&self) -> u64 {
        self.metrics.retries.get_or_create(&GROUP.into()).get()
    }
}

/// What a runner works with, impatient.
fn parts_of(
    log: &Arc<FakeLog>,
    script: &Arc<Script>,
    dead_letters: &Arc<DeadLetters>,
) -> RunnerParts {
    let config = RunnerConfig {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        tick_every: Duration::from_millis(5),
        restart_min: Duration::from_millis(1),
        restart_max: Duration::from_millis(4),
        outside_min: Duration::from_millis(40),
        close_deadline: Duration::from_millis(300),
        ..RunnerConfig::default()
    };
    RunnerParts {
        stepped_over: None,
        log: Arc::clone(log) as _,
        dead_letters: Arc::clone(dead_letters),
        clock: Arc::new(ForwardClock { real: SystemClock::new(), script: Arc::clone(script) }),
        lag: LagBoard::default(),
        metrics: IngesterMetrics::default(),
        retries: Retries::default(),
        config,
    }
}

/// A batch of two traces at these offsets.
fn logged(first: u64) -> LoggedBatch {
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    let spans: Vec<_> = (1..=2_u8)
        .map(|trace| {
            let mut bytes = Vec::new();
            proto::wire::put_bytes_field(&mut bytes, 1, &[trace; 16]);
            proto::wire::put_bytes_field(&mut bytes, 2, &[trace; 8]);
            (TraceId::from_bytes([trace; 16]).unwrap(), bytes)
        })
        .collect();
    for (trace_id, bytes) in &spans {
        builder.add_span(
            *trace_id,
            trace_model::sampling_threshold::Threshold::KEEP_ALL,
            scope,
            bytes,
        );
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: UnixNanos(1),
        digest: first,
    };
    LoggedBatch {
        incarnation: INCARNATION,
        range: LogRange { partition: 0, first, next: first + 2 },
        append_time: UnixNanos(first + 1),
        batch: Arc::new(builder.finish(source).unwrap()),
    }
}

#[tokio::test]
async fn everything_is_handled_in_order_and_committed() {
    let bench = Bench::start(5, |_, _| {}).await;
    bench.until("committed", |bench| bench.log.committed_next() == 10).await;
    assert_eq!(bench.handled(), [0, 2, 4, 6, 8]);
    bench.log.with(|state| state.batches.push(logged(10)));
    bench.until("the new batch", |bench| bench.log.committed_next() == 12).await;
    bench.until("no lag", |bench| bench.service.lag()[0].records == 0).await;
    let log_ends = bench.script.log_ends.lock().unwrap().clone();
    assert!(log_ends.contains(&UnixNanos(12)) && !log_ends.contains(&UnixNanos(11)));
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_that_starts_below_the_committed_offset_is_handled_and_those_below_are_not() {
    let bench =
        Bench::start(3, |log, _| log.with(|state| state.committed = BTreeMap::from([(0, 3)])))
            .await;
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    assert_eq!(bench.handled(), [2, 4]);
    bench.stop().await;
}

#[tokio::test]
async fn an_error_that_may_pass_is_retried_for_ever_and_shows_as_lag() {
    let bench = Bench::start(3, |_, script| script.is_full.store(true, Ordering::SeqCst)).await;
    bench.until("20 tries", |bench| bench.retries() > 20).await;
    let lag = bench.service.lag().remove(0);
    assert_eq!((lag.records, lag.uncommitted_records, lag.is_running), (6, 6, true));
    assert!(lag.age_ms > 0 && lag.retrying.is_some_and(|error| error.contains("full")));
    assert_eq!((bench.handled(), bench.log.committed_next()), (vec![], 0));
    assert_eq!(bench.dead_letters.figures().0, 0);
    bench.script.is_full.store(false, Ordering::SeqCst);
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    bench.until("no error", |bench| bench.service.lag()[0].retrying.is_none()).await;
    assert_eq!(bench.handled(), [0, 2, 4]);
    bench.stop().await;
}

#[tokio::test]
async fn records_that_wait_for_others_are_offered_again_and_nothing_fails() {
    let bench = Bench::start(3, |_, script| script.waits.store(true, Ordering::SeqCst)).await;
    let waited = |bench: &Bench| bench.script.waited.load(Ordering::SeqCst);
    bench.until("20 tries", |bench| waited(bench) > 20).await;
    let lag = bench.service.lag().remove(0);
    assert_eq!((lag.records, lag.retrying, lag.failing_ms), (6, None, 0));
    assert_eq!((bench.retries(), bench.handled()), (0, vec![]));
    bench.script.waits.store(false, Ordering::SeqCst);
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    assert_eq!(bench.handled(), [0, 2, 4]);
    bench.stop().await;
}

#[tokio::test]
async fn a_log_that_fails_is_asked_again() {
    let bench = Bench::start(2, |log, _| {
        log.with(|state| {
            state.faults.extend([LogError::Disk("read".into()), LogError::Overloaded]);
        });
    })
    .await;
    bench.until("committed", |bench| bench.log.committed_next() == 4).await;
    assert_eq!((bench.handled(), bench.retries()), (vec![0, 2], 2));
    bench.stop().await;
}

#[tokio::test]
async fn poison_alone_goes_into_the_dead_letter_with_its_reason() {
    let bench = Bench::start(9, |_, script| script.poison.lock().unwrap().extend([6, 12])).await;
    bench.until("committed", |bench| bench.log.committed_next() == 18).await;
    assert_eq!(bench.handled(), [0, 2, 4, 8, 10, 14, 16]);
    let letters = bench.dead_letters.list(0, 10).unwrap();
    let firsts: Vec<_> =
        letters.iter().map(|letter| letter.as_ref().unwrap().range.first).collect();
    assert_eq!(firsts, [6, 12]);
    assert_eq!(letters[0].as_ref().unwrap().reason, "poison");
    let skipped: Vec<_> =
        bench.script.skipped.lock().unwrap().iter().map(|range| range.first).collect();
    assert_eq!(skipped, [6, 12]);
    bench.stop().await;
}

#[tokio::test]
async fn poison_is_not_stepped_over_while_the_dead_letter_is_full() {
    let bench =
        Bench::start_with(4, 1, |_, script| script.poison.lock().unwrap().extend([2, 4])).await;
    bench.until("5 tries", |bench| bench.retries() > 5).await;
    assert_eq!((bench.handled(), bench.log.committed_next()), (vec![0], 4));
    assert!(bench.dead_letters.settle(1).unwrap());
    bench.until("committed", |bench| bench.log.committed_next() == 8).await;
    assert_eq!(bench.handled(), [0, 6]);
    bench.stop().await;
}

#[tokio::test]
async fn damage_behind_the_position_does_not_turn_the_group_in_circles() {
    let bench = Bench::start(3, |log, _| {
        let range = LogRange { partition: 0, first: 0, next: 2 };
        let append_times = (UnixNanos(0), UnixNanos(1));
        let damaged = DamagedRange { range, append_times, reason: "crc".into(), stranger: None };
        log.with(|state| {
            state.committed = BTreeMap::from([(0, 2)]);
            state.faults.push_back(LogError::Damaged(damaged));
        });
    })
    .await;
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    assert_eq!((bench.handled(), bench.retries()), (vec![2, 4], 1));
    assert!(bench.script.skipped.lock().unwrap().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn damaged_records_are_counted_told_to_the_handler_and_passed() {
    let range = LogRange { partition: 0, first: 2, next: 4 };
    let bench = Bench::start(4, |log, _| {
        let append_times = (UnixNanos(1), UnixNanos(5));
        let damaged = DamagedRange { range, append_times, reason: "crc".into(), stranger: None };
        log.with(|state| state.damaged = Some(damaged));
    })
    .await;
    bench.until("committed", |bench| bench.log.committed_next() == 8).await;
    assert_eq!(bench.handled(), [0, 4, 6]);
    assert_eq!(*bench.script.skipped.lock().unwrap(), [range]);
    assert_eq!(bench.metrics.damaged_records.get_or_create(&GROUP.into()).get(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn records_no_longer_kept_are_counted_told_to_the_handler_and_passed() {
    let bench = Bench::start(4, |log, _| {
        log.with(|state| {
            (state.first, state.committed) = (4, BTreeMap::from([(0, 0)]));
        });
    })
    .await;
    bench.until("committed", |bench| bench.log.committed_next() == 8).await;
    assert_eq!(bench.handled(), [4, 6]);
    let range = LogRange { partition: 0, first: 0, next: 4 };
    assert_eq!(*bench.script.skipped.lock().unwrap(), [range]);
    assert_eq!(bench.metrics.expired_records.get_or_create(&GROUP.into()).get(), 4);
    bench.stop().await;
}

#[tokio::test]
async fn only_what_is_durable_is_committed_and_closing_makes_it_so() {
    let bench = Bench::start(3, |_, script| script.is_lazy.store(true, Ordering::SeqCst)).await;
    bench.until("handled", |bench| bench.handled().len() == 3).await;
    bench.until("ticked", |bench| bench.script.log_ends.lock().unwrap().len() > 3).await;
    assert_eq!(bench.log.committed_next(), 0);
    assert_eq!(bench.service.lag()[0].uncommitted_records, 6);
    bench.stop().await;
    assert_eq!(bench.log.committed_next(), 6);
    assert!(!bench.service.is_running());
}

#[tokio::test]
async fn a_handler_that_cannot_flush_is_given_nothing_more_and_ends_at_the_deadline() {
    let bench =
        Bench::start(1, |_, script| script.cannot_flush.store(true, Ordering::SeqCst)).await;
    bench.until("5 tries", |bench| bench.retries() > 5).await;
    for place in 1..20 {
        bench.log.with(|state| state.batches.push(logged(place * 2)));
    }
    bench.until("lag", |bench| bench.service.lag()[0].records >= 30).await;
    assert!(bench.handled().len() < 10, "{:?}", bench.handled());
    bench.stop().await;
    assert_eq!(bench.log.committed_next(), 0);
}

#[tokio::test]
async fn a_commit_that_fails_is_tried_again() {
    let bench = Bench::start(2, |log, _| log.with(|state| state.commit_fails = true)).await;
    let failures = |bench: &Bench| bench.metrics.commit_failures.get_or_create(&GROUP.into()).get();
    bench.until("failures", |bench| failures(bench) > 2).await;
    bench.log.with(|state| state.commit_fails = false);
    bench.until("committed", |bench| bench.log.committed_next() == 4).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_group_that_panics_is_made_anew_and_reads_again_what_it_had_not_committed() {
    let bench = Bench::start(5, |_, script| *script.panics.lock().unwrap() = (3, 6)).await;
    bench.until("committed", |bench| bench.log.committed_next() == 10).await;
    let handled = bench.handled();
    let firsts: std::collections::BTreeSet<u64> = handled.iter().copied().collect();
    assert_eq!(firsts, [0, 2, 4, 6, 8].into(), "{handled:?}");
    assert_eq!(handled[handled.len() - 2..], [6, 8], "behind what panicked, in order");
    assert_eq!(bench.script.made.load(Ordering::SeqCst), 4);
    assert_eq!(bench.metrics.panics.get_or_create(&GROUP.into()).get(), 3);
    assert_eq!(bench.dead_letters.figures().0, 0, "a panic is no fault of the record");
    bench.until("well again", |bench| bench.service.is_running()).await;
    bench.stop().await;
}

#[tokio::test]
async fn while_a_group_is_down_it_is_named_with_the_words_of_its_panic() {
    let bench = Bench::start(3, |_, script| {
        *script.panics.lock().unwrap() = (1, 2);
    })
    .await;
    bench.script.cannot_make.store(u32::MAX, Ordering::SeqCst);
    bench.until("down", |bench| bench.service.check(GROUP).is_err()).await;
    bench
        .until("not made", |bench| {
            bench.service.check(GROUP).is_err_and(|reason| reason.contains("the store is away"))
        })
        .await;
    assert!(!bench.service.is_running());
    assert_eq!(bench.metrics.running.get_or_create(&GROUP.into()).get(), 0);
    bench.script.cannot_make.store(0, Ordering::SeqCst);
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    bench.until("well again", |bench| bench.service.check(GROUP) == Ok(())).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_group_that_is_down_ends_when_the_process_does() {
    let bench = Bench::start(2, |_, script| *script.panics.lock().unwrap() = (u32::MAX, 0)).await;
    bench
        .until("3 panics", |bench| bench.metrics.panics.get_or_create(&GROUP.into()).get() > 3)
        .await;
    bench.stop().await;
    assert_eq!((bench.handled(), bench.log.committed_next()), (vec![], 0));
}

#[tokio::test]
async fn a_dead_letter_goes_when_its_group_has_taken_it_again_and_not_before() {
    let bench = Bench::start(3, |_, script| script.poison.lock().unwrap().push(2)).await;
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    let (tenant, trace_id) = (TenantId::default(), TraceId::from_bytes([1; 16]).unwrap());
    assert!(bench.dead_letters.may_hold(GROUP, &tenant, trace_id));
    let refused = bench.retries.retry(&bench.dead_letters, 1).await.unwrap_err();
    assert!(matches!(&refused, RetryError::Refused { reason, .. } if reason == "still poison"));
    bench.script.is_full.store(true, Ordering::SeqCst);
    let not_now = bench.retries.retry(&bench.dead_letters, 1).await.unwrap_err();
    assert!(matches!(not_now, RetryError::NotNow { .. }) && not_now.is_retryable());
    assert_eq!(bench.dead_letters.figures().0, 1, "it is still there");
    bench.script.is_full.store(false, Ordering::SeqCst);
    bench.script.takes_again.store(true, Ordering::SeqCst);
    bench.retries.retry(&bench.dead_letters, 1).await.unwrap();
    assert_eq!(*bench.script.again.lock().unwrap(), [2]);
    assert_eq!(bench.dead_letters.figures(), (0, 0));
    assert!(!bench.dead_letters.may_hold(GROUP, &tenant, trace_id));
    let absent = bench.retries.retry(&bench.dead_letters, 1).await.unwrap_err();
    assert!(matches!(absent, RetryError::Absent(1)));
    assert_eq!(bench.log.committed_next(), 6, "offsets do not move by it");
    bench.stop().await;
}
