//! Drives one consumer group: read → handle → tick → commit what is durable.
//!
//! **Never**: step over an error that may pass, commit what is not durable, or read on while what
//! was read cannot be handed over. What waits is at most one read a partition, and one more that was
//! made while the first was handed over: reading and decoding go on while a store writes.
//!
//! The log says which partitions are this process's ([`SpanLog::join`]). One that is wanted elsewhere is
//! read no further, made durable, committed and released; what is known of one that is gone is dropped.
//!
//! Poison is narrowed down by halving what is handed over until one batch alone is refused; that one
//! goes into the dead letter, and the group goes on behind it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use span_log::{Assignment, CommitError, GroupId, Hold, Sharing, SpanLog, SteppedOver};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trace_model::{Clock, UnixNanos};

use crate::backoff::Backoff;
use crate::dead_letter::DeadLetters;
use crate::handler::{GroupHandler, HandleError};
use crate::lag::{GroupLag, LagBoard};
use crate::metrics::{GroupLabel, IngesterMetrics};
use crate::retries::Retries;

mod ahead;
mod desk;
mod missed;
mod partition;
mod retry;
mod share;

use desk::{Desk, Step};
use partition::PartitionReader;

/// Limits of a runner.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Most encoded bytes read at once from a partition (default 4 MiB; at least one batch is).
    pub read_bytes_max: usize,
    /// The handler is ticked at least this often (default 100 ms).
    pub tick_every: Duration,
    /// Shortest wait before a failed try is repeated (default 50 ms).
    pub backoff_min: Duration,
    /// Longest wait before a failed try is repeated (default 5 s).
    pub backoff_max: Duration,
    /// Shortest wait before a group that has panicked is started again (default 500 ms).
    pub restart_min: Duration,
    /// Longest wait before a group that has panicked is started again (default 60 s).
    pub restart_max: Duration,
    /// A group that cannot be made here is left to other processes for so long at least (default 5 s).
    pub outside_min: Duration,
    /// Time from the cancellation to the runner's end (default 5 s). What is not durable then is
    /// read again at the next start.
    pub close_deadline: Duration,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            read_bytes_max: 4 << 20,
            tick_every: Duration::from_millis(100),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            restart_min: Duration::from_millis(500),
            restart_max: Duration::from_secs(60),
            outside_min: Duration::from_secs(5),
            close_deadline: Duration::from_secs(5),
        }
    }
}

/// What a runner works with.
#[derive(Clone, Debug)]
pub struct RunnerParts {
    /// The log that it reads.
    pub log: Arc<dyn SpanLog>,
    /// Where poison goes.
    pub dead_letters: Arc<DeadLetters>,
    /// Where records are listed that were never ours; `None`: they are logged and counted alone.
    pub stepped_over: Option<Arc<SteppedOver>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where its lag is posted.
    pub lag: LagBoard,
    /// Its figures.
    pub metrics: IngesterMetrics,
    /// Dead letters that are to be tried again.
    pub retries: Retries,
    /// Its limits.
    pub config: RunnerConfig,
}

/// Why a runner ended otherwise than whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunnerError {
    /// The handler could not make everything durable in time. Nothing is lost: the offsets were not
    /// committed, and the records are read again at the next start.
    #[error("the group {group} was not flushed within its deadline")]
    Deadline {
        /// The group.
        group: GroupId,
    },
}

impl RunnerError {
    /// Whether another run may go better.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Deadline { .. } => true,
        }
    }
}

/// Why a runner ended whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Cancelled,
    /// A group that one process reads alone is another process's now.
    Taken,
    /// Another process does the group's work, as far as its store knows: the handler has to be made anew.
    Fenced,
}

/// Drives one group over the partitions of a log that are this process's.
#[derive(Debug)]
pub struct ConsumerRunner {
    desk: Desk,
    readers: Vec<PartitionReader>,
    tick_backoff: Backoff,
    /// The handler is refused for good.
    is_fenced: bool,
    group: GroupId,
    sharing: Sharing,
    assignment: watch::Receiver<Assignment>,
    seed: u64,
}

impl ConsumerRunner {
    /// A runner for this handler. It starts at the committed offsets.
    #[must_use]
    pub fn new(handler: Box<dyn GroupHandler>, parts: RunnerParts, sharing: Sharing) -> Self {
        let group = handler.group();
        let config = &parts.config;
        let seed = parts.clock.now().0 ^ xxhash_rust::xxh3::xxh3_64(group.0.as_bytes());
        let tick_backoff = Backoff::new(config.backoff_min, config.backoff_max, seed);
        let assignment = parts.log.join(group, sharing);
        let desk = Desk::new(handler, parts);
        let readers = Vec::new();
        let is_fenced = false;
        let mut runner =
            Self { desk, readers, tick_backoff, is_fenced, group, sharing, assignment, seed };
        runner.follow();
        runner
    }

    /// Runs until the token is cancelled; then ticks the handler closed, commits and ends, inside
    /// the close deadline. A group that is read alone also ends when it is taken.
    pub async fn run(mut self, token: CancellationToken) -> Result<Ended, RunnerError> {
        let _running = RunningMark::set(&self.desk.parts, self.group);
        let close_deadline = self.desk.parts.config.close_deadline;
        let group = self.group;
        let deadline = async {
            token.cancelled().await;
            tokio::time::sleep(close_deadline).await;
        };
        tokio::select! {
            biased;
            ended = self.drive(&token) => Ok(ended),
            () = deadline => {
                tracing::warn!(%group, "a consumer group was not flushed in time; it will read again");
                Err(RunnerError::Deadline { group })
            }
        }
    }

    async fn drive(&mut self, token: &CancellationToken) -> Ended {
        while !token.is_cancelled() {
            match self.sharing {
                Sharing::Partitions => self.follow(),
                // All or nothing: with fewer partitions the end of the log would be vouched for too early.
                Sharing::Alone => {
                    self.assignment.mark_unchanged();
                    if self.is_taken() {
                        self.yield_turn().await;
                        return Ended::Taken;
                    }
                }
            }
            let has_progressed = self.round(token).await;
            self.hand_back().await;
            self.post_lag();
            if self.is_fenced {
                return Ended::Fenced;
            }
            if !has_progressed {
                self.pause(token).await;
            }
        }
        self.close().await;
        self.post_lag();
        Ended::Cancelled
    }

    /// Gives each partition one step, and ticks. Says whether anything moved.
    async fn round(&mut self, token: &CancellationToken) -> bool {
        let mut has_progressed = false;
        if self.tick_backoff.tries() > 0 && self.may_read() {
            self.tick().await;
        }
        for place in 0..self.readers.len() {
            if token.is_cancelled() || !self.may_read() || self.is_reassigned() {
                break;
            }
            if self.step(place).await == Step::Progressed {
                has_progressed = true;
                self.tick().await;
            }
        }
        if !has_progressed && self.may_read() {
            self.tick().await;
        }
        if let Some(waiting) = self.desk.parts.retries.take(self.group) {
            match self.may_read() {
                true => self.desk.retry(waiting).await,
                false => self.desk.put_off(waiting),
            }
        }
        has_progressed
    }

    /// While the handler cannot make durable what it has, it is given nothing more.
    fn may_read(&self) -> bool {
        self.tick_backoff.remaining(self.desk.monotonic()).is_zero()
    }

    async fn tick(&mut self) -> bool {
        let log_end = self.vouched_end();
        let ticked = self.desk.tick(log_end, false).await;
        self.settle_tick(ticked).await
    }

    async fn settle_tick(&mut self, ticked: Result<(), HandleError>) -> bool {
        match ticked {
            Ok(()) => {
                if self.tick_backoff.tries() > 0 {
                    self.desk.note_success();
                }
                self.tick_backoff.succeed();
                self.commit().await;
                true
            }
            Err(error) => {
                self.is_fenced |= matches!(error, HandleError::Fenced(_));
                self.desk.note_retry("flush", &error, self.tick_backoff.tries());
                self.tick_backoff.fail(self.desk.monotonic());
                false
            }
        }
    }

    /// The append time that the log vouches for, where every partition was taken to its end.
    fn vouched_end(&self) -> Option<UnixNanos> {
        let mut vouched = UnixNanos::MAX;
        for reader in &self.readers {
            let end = self.desk.parts.log.end(reader.partition).ok()?;
            if !reader.is_at(end.next) {
                return None;
            }
            vouched = vouched.min(end.append_time);
        }
        (!self.readers.is_empty()).then_some(vouched)
    }

    /// Commits what the handler has made durable, partition by partition.
    async fn commit(&mut self) {
        let durable = self.desk.handler.durable();
        let log = &self.desk.parts.log;
        if durable.incarnation != log.identity().incarnation {
            return;
        }
        for reader in &mut self.readers {
            let Some(next) = durable.next.get(&reader.partition) else { continue };
            if !reader.should_commit(*next) {
                continue;
            }
            match log.commit_held(self.group, reader.hold(), *next).await {
                Ok(()) => reader.committed(*next),
                Err(CommitError::Fenced(Hold { partition, since })) => {
                    tracing::debug!(group = %self.group, partition, since, "a commit was fenced");
                }
                Err(CommitError::Backwards { committed, .. }) => reader.committed(committed),
                Err(CommitError::Log(error)) => {
                    let label = GroupLabel::from(self.group);
                    self.desk.parts.metrics.commit_failures.get_or_create(&label).inc();
                    tracing::debug!(%error, group = %self.group, "a commit is tried again");
                }
            }
        }
    }

    /// Waits for records, for the next due try, for the next tick or for the end.
    async fn pause(&mut self, token: &CancellationToken) {
        let now = self.desk.monotonic();
        let mut at_most = self.desk.parts.config.tick_every;
        let tick_wait = self.tick_backoff.remaining(now);
        if !tick_wait.is_zero() {
            at_most = at_most.min(tick_wait);
        }
        let mut waits = Vec::new();
        for reader in &self.readers {
            let wait = reader.backoff.remaining(now);
            if reader.is_leaving || reader.is_telling() {
                continue;
            }
            if !wait.is_zero() {
                at_most = at_most.min(wait);
            } else if tick_wait.is_zero() {
                waits.push((reader.partition, reader.next()));
            }
        }
        let log = &self.desk.parts.log;
        let grown = async {
            let waits = waits
                .into_iter()
                .map(|(partition, next)| log.wait_beyond(partition, next, at_most))
                .collect::<Vec<_>>();
            if waits.is_empty() || select_ok(waits).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut assignment = self.assignment.clone();
        let reassigned = async {
            if assignment.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = token.cancelled() => {}
            () = grown => {}
            () = reassigned => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    fn post_lag(&self) {
        let parts = &self.desk.parts;
        let now = parts.clock.now();
        let mut lag = GroupLag { is_running: true, ..GroupLag::unstarted(self.group) };
        for reader in &self.readers {
            let Ok(end) = parts.log.end(reader.partition) else { continue };
            lag.records = lag.records.saturating_add(end.next.saturating_sub(reader.next()));
            let uncommitted = end.next.saturating_sub(reader.committed_next());
            lag.uncommitted_records = lag.uncommitted_records.saturating_add(uncommitted);
            lag.age_ms = lag.age_ms.max(reader.age_ms(now, end.next));
        }
        lag.partitions = self.readers.len();
        lag.retrying = self.desk.failing.clone();
        let failing = self.desk.failing_for();
        lag.failing_ms = u64::try_from(failing.as_millis()).unwrap_or(u64::MAX);
        let failing_seconds = parts.metrics.failing_seconds.get_or_create(&self.group.into());
        failing_seconds.set(failing.as_secs_f64());
        let label = GroupLabel::from(self.group);
        let records = i64::try_from(lag.records).unwrap_or(i64::MAX);
        parts.metrics.lag_records.get_or_create(&label).set(records);
        let age = Duration::from_millis(lag.age_ms).as_secs_f64();
        parts.metrics.lag_seconds.get_or_create(&label).set(age);
        parts.lag.post(lag);
    }
}

/// Says that a runner is at work, until it is dropped, also by a panic.
struct RunningMark {
    lag: LagBoard,
    metrics: IngesterMetrics,
    group: GroupId,
}

impl RunningMark {
    fn set(parts: &RunnerParts, group: GroupId) -> Self {
        parts.lag.post(GroupLag { is_running: true, ..GroupLag::unstarted(group) });
        parts.metrics.running.get_or_create(&group.into()).set(1);
        parts.metrics.standing_by.get_or_create(&group.into()).set(0);
        Self { lag: parts.lag.clone(), metrics: parts.metrics.clone(), group }
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        self.lag.amend(self.group, |lag| lag.is_running = false);
        self.metrics.running.get_or_create(&self.group.into()).set(0);
    }
}

#[cfg(test)]
mod tests;
