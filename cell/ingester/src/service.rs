//! Starts the consumer groups of a cell as tracked tasks, and starts one again that has panicked.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use span_log::{Assignment, GroupId, Sharing};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::handler::{GroupHandler, GroupMaker, MakeError};
use crate::lag::{GroupLag, LagBoard};
use crate::retries::RetryError;
use crate::runner::{ConsumerRunner, Ended, RunnerParts};

/// A group that ran so long has recovered: its next panic is the first.
const RECOVERED_AFTER: Duration = Duration::from_secs(300);
/// A group that could not be made so often is left to other processes, until it can be.
const TRIES_INSIDE: u32 = 3;
/// Within this time one that was left is another process's, or this one's turn again.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// What the service is made of.
#[derive(Debug)]
pub struct IngesterParts {
    /// What the runners share.
    pub runner: RunnerParts,
    /// The groups: storage-writer, search-indexer, metrics-aggregator, metadata-publisher.
    pub groups: Vec<Arc<dyn GroupMaker>>,
}

/// The running consumer groups. Each has its own task, pace and offsets: one that fails holds no
/// other up.
#[derive(Clone, Debug)]
pub struct IngesterService {
    lag: LagBoard,
    groups: Vec<GroupId>,
}

impl IngesterService {
    /// Makes the handler of every group that is this process's at once, then starts a task for each
    /// group on the tracker. They end when the token is cancelled, each inside its close deadline; wait
    /// for them on the tracker. A group that panics is made anew and reads again what it had not
    /// committed; one that another process reads alone stands by and is made when its turn comes. One
    /// that cannot be made is left to other processes and tried again. Only what is no matter of a store
    /// that is away ends the start.
    pub async fn start(
        tracker: &TaskTracker,
        token: &CancellationToken,
        parts: IngesterParts,
    ) -> Result<Self, MakeError> {
        let lag = parts.runner.lag.clone();
        let mut made = Vec::with_capacity(parts.groups.len());
        for maker in parts.groups {
            let supervisor = Supervisor::new(maker, parts.runner.clone());
            let handler = match supervisor.has_turn() {
                true => match supervisor.maker.make().await {
                    Ok(handler) => Some(handler),
                    Err(error) if error.is_away => None,
                    Err(error) => return Err(error),
                },
                false => None,
            };
            made.push((supervisor, handler));
        }
        let mut groups = Vec::with_capacity(made.len());
        for (supervisor, handler) in made {
            let group = supervisor.maker.group();
            groups.push(group);
            lag.post(GroupLag::unstarted(group));
            let token = token.clone();
            drop(tracker.spawn(async move { supervisor.run(handler, token).await }));
        }
        Ok(Self { lag, groups })
    }

    /// How far each group is behind.
    #[must_use]
    pub fn lag(&self) -> Vec<GroupLag> {
        self.lag.snapshot()
    }

    /// The groups that were started.
    #[must_use]
    pub fn groups(&self) -> &[GroupId] {
        &self.groups
    }

    /// Whether every group's runner is at work, ready to take over or waiting for a store.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.groups.iter().all(|group| self.check(*group).is_ok())
    }

    /// What a person should know of a group that works and does not get on.
    #[must_use]
    pub fn warning(&self, group: GroupId) -> Option<String> {
        self.lag.warning(group)
    }

    /// Whether the group's runner is at work, ready to take over or waiting for a store that is away,
    /// which is a matter of [`Self::warning`]; else why not.
    pub fn check(&self, group: GroupId) -> Result<(), String> {
        let Some(lag) = self.lag.of(group) else { return Err("it was not started".to_owned()) };
        let is_ready = lag.is_standing_by && lag.retrying.is_none();
        match lag.is_running || lag.is_waiting || is_ready {
            true => Ok(()),
            false => Err(lag.retrying.unwrap_or_else(|| "it does not run".to_owned())),
        }
    }
}

/// Keeps one group running.
struct Supervisor {
    maker: Arc<dyn GroupMaker>,
    parts: RunnerParts,
    /// Between panics, and where its work was taken.
    backoff: Backoff,
    /// Between tries to make the group.
    making: Backoff,
    assignment: watch::Receiver<Assignment>,
    /// The group was left to other processes, since it cannot be made here.
    is_outside: bool,
    /// Why it does not run here, until it does.
    failing: Option<Failing>,
}

/// Why a group does not run, and how long already. Times are on the monotonic clock.
struct Failing {
    since: Duration,
    last: Duration,
    failure: Failure,
}

/// What went wrong with a group.
struct Failure {
    reason: String,
    /// What it works with is away.
    is_away: bool,
    /// It could not be made: another process may be able to.
    is_of_making: bool,
}

/// How a run came to its end.
enum Run {
    Over,
    Taken,
    /// Another process has become the one that does the group's work.
    Fenced,
    Panicked(Failure),
}

impl Supervisor {
    fn new(maker: Arc<dyn GroupMaker>, parts: RunnerParts) -> Self {
        let name = maker.group().0;
        let seed = parts.clock.now().0 ^ xxhash_rust::xxh3::xxh3_64(name.as_bytes());
        let config = &parts.config;
        let backoff = Backoff::new(config.restart_min, config.restart_max, seed);
        let making = Backoff::new(config.restart_min, config.restart_max, !seed);
        let assignment = parts.log.join(maker.group(), maker.sharing());
        Self { maker, parts, backoff, making, assignment, is_outside: false, failing: None }
    }

    /// Whether the group is this process's to read.
    fn has_turn(&self) -> bool {
        let partitions = self.parts.log.identity().partitions;
        match self.maker.sharing() {
            Sharing::Partitions => true,
            Sharing::Alone => self.assignment.borrow().is_whole(partitions),
        }
    }

    /// Runs the group until the token is cancelled, however often it panics or is another process's.
    async fn run(mut self, first: Option<Box<dyn GroupHandler>>, token: CancellationToken) {
        let mut handler = first;
        while !token.is_cancelled() {
            if !self.has_turn() {
                handler = None;
                self.stand_by(&token).await;
                continue;
            }
            let failure = match handler.take() {
                Some(handler) => match self.run_once(handler, &token).await {
                    Run::Over => return,
                    Run::Taken => continue,
                    Run::Fenced if !self.has_turn() => continue,
                    Run::Fenced => self.note_fenced(),
                    Run::Panicked(failure) => failure,
                },
                None => match self.make().await {
                    Ok(made) => {
                        self.failing = None;
                        self.making.succeed();
                        self.come_back();
                        handler = Some(made);
                        continue;
                    }
                    Err(failure) => failure,
                },
            };
            let pause = self.note(failure);
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            // One that reads alone must not be made while another process may be at work.
            if self.maker.sharing() == Sharing::Alone {
                self.come_back();
            }
        }
    }

    /// Posts why the group does not run, leaves it to others where that may help, and gives the time
    /// until the next try.
    fn note(&mut self, failure: Failure) -> Duration {
        let now = self.parts.clock.monotonic();
        let (is_away, is_of_making) = (failure.is_away, failure.is_of_making);
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        self.failing = Some(Failing { since, last: now, failure });
        let pause = match is_of_making {
            true => self.making.fail(now),
            false => self.backoff.fail(now),
        };
        let group = self.maker.group();
        // How far it was behind when it ran is still the best that is known.
        let lag = self.lag(now);
        self.parts.lag.amend(group, |last| {
            let GroupLag { records, uncommitted_records, age_ms, .. } = *last;
            *last = GroupLag { records, uncommitted_records, age_ms, ..lag };
        });
        self.parts.metrics.fail(group, now.saturating_sub(since));
        if !is_of_making || self.making.tries() < TRIES_INSIDE {
            return pause;
        }
        if self.making.tries() == TRIES_INSIDE {
            tracing::warn!(%group, "a consumer group that cannot be started here is left to other processes");
        }
        self.is_outside = true;
        self.parts.log.leave(group);
        // Who is to take over looks once a second; what is away may be back at any time.
        let outside_min = self.parts.config.outside_min;
        if is_away { outside_min } else { pause.max(outside_min) }
    }

    /// The lag of a group that does not run here.
    fn lag(&self, now: Duration) -> GroupLag {
        let unstarted = GroupLag::unstarted(self.maker.group());
        let Some(Failing { since, failure, .. }) = &self.failing else { return unstarted };
        let failing_ms = u64::try_from(now.saturating_sub(*since).as_millis()).unwrap_or(u64::MAX);
        let retrying = Some(failure.reason.clone());
        GroupLag { is_waiting: failure.is_away, retrying, failing_ms, ..unstarted }
    }

    /// What kept this process from the group is no matter where another one has taken it.
    fn forgive(&mut self, now: Duration) {
        let is_old = |failing: &mut Failing| now.saturating_sub(failing.last) >= TAKEN_WITHIN;
        if self.failing.take_if(is_old).is_some() {
            self.making.succeed();
        }
    }

    /// Takes part in the group again.
    fn come_back(&mut self) {
        if std::mem::take(&mut self.is_outside) {
            drop(self.parts.log.join(self.maker.group(), self.maker.sharing()));
        }
    }

    /// Waits a moment for the group's turn: another process reads it, or nobody yet.
    async fn stand_by(&mut self, token: &CancellationToken) {
        let group = self.maker.group();
        let assignment = self.assignment.borrow_and_update().clone();
        let leaving = assignment.holds().filter(|(_, share)| share.is_leaving);
        leaving.for_each(|(hold, _)| self.parts.log.release(group, hold));
        let now = self.parts.clock.monotonic();
        self.forgive(now);
        let lag = GroupLag { is_standing_by: true, ..self.lag(now) };
        self.parts.metrics.stand_by(group, Duration::from_millis(lag.failing_ms));
        self.parts.lag.post(lag);
        while let Some(waiting) = self.parts.retries.take(group) {
            let reason = "another process reads the group, and this one stands by".to_owned();
            let not_now = RetryError::NotNow { group: group.0.to_owned(), reason };
            if waiting.reply.send(Err(not_now)).is_err() {
                tracing::debug!(%group, "who asked for the retry has gone");
            }
        }
        let at_most = self.parts.config.tick_every.saturating_mul(10);
        tokio::select! {
            () = token.cancelled() => {}
            // An error: the log closes, and so does this process.
            Ok(()) = self.assignment.changed() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// Runs until the end, or gives the words of a panic.
    async fn run_once(&mut self, handler: Box<dyn GroupHandler>, token: &CancellationToken) -> Run {
        let started = self.parts.clock.monotonic();
        let runner = ConsumerRunner::new(handler, self.parts.clone(), self.maker.sharing());
        // What the runner held is dropped with it: the next one starts from what is durable.
        let ran = AssertUnwindSafe(runner.run(token.clone())).catch_unwind().await;
        let run = match ran {
            // A runner has said what went wrong; the next start reads again what it left.
            Ok(Ok(Ended::Cancelled) | Err(_)) => return Run::Over,
            Ok(Ok(Ended::Taken)) => return Run::Taken,
            Ok(Ok(Ended::Fenced)) => Run::Fenced,
            Err(panic) => Run::Panicked(self.note_panic(panic.as_ref())),
        };
        if self.parts.clock.monotonic().saturating_sub(started) >= RECOVERED_AFTER {
            self.backoff.succeed();
        }
        run
    }

    /// A process that was late with its own turn has taken the work of this one, which has the turn. It
    /// is taken back after a pause that grows, in which the other one hears that its turn is over.
    fn note_fenced(&self) -> Failure {
        let group = self.maker.group();
        tracing::warn!(%group, "another process has taken a group's work out of its turn: it is taken back");
        let reason = "another process has taken its work out of its turn".to_owned();
        Failure { reason, is_away: true, is_of_making: false }
    }

    /// Makes the group anew, or says why it cannot be.
    async fn make(&self) -> Result<Box<dyn GroupHandler>, Failure> {
        let making = AssertUnwindSafe(self.maker.make()).catch_unwind();
        match making.await {
            Ok(Ok(handler)) => Ok(handler),
            Ok(Err(error)) => {
                let (reason, is_away) = (error.to_string(), error.is_away);
                self.say(&error, &reason);
                Err(Failure { reason, is_away, is_of_making: true })
            }
            Err(panic) => Err(Failure { is_of_making: true, ..self.note_panic(panic.as_ref()) }),
        }
    }

    /// Logs why the group cannot be made, where that is news.
    fn say(&self, error: &MakeError, reason: &str) {
        if self.failing.as_ref().is_some_and(|failing| failing.failure.reason == reason) {
            tracing::debug!(%error, "a consumer group cannot be started yet");
            return;
        }
        match error.is_away {
            true => tracing::warn!(%error, "a consumer group waits for what it works with"),
            false => tracing::error!(%error, "a consumer group does not start: it is tried again"),
        }
    }

    fn note_panic(&self, panic: &(dyn Any + Send)) -> Failure {
        let group = self.maker.group();
        self.parts.metrics.panics.get_or_create(&group.into()).inc();
        let text = words_of(panic);
        let again = self.backoff.tries();
        tracing::error!(%group, panic = text, again, "a consumer group has panicked and starts again");
        let reason = format!("it has panicked: {text}");
        Failure { reason, is_away: false, is_of_making: false }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
