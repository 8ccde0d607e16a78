//! Hands a part of the log to a handler again, beside the groups that read it live.
//!
//! A replay is a reader of its own: it joins no group and commits nothing, so that the group it stands
//! for goes on undisturbed. It ends where it was told to, or when it is stopped, and then says how far
//! everything is durable: from there another replay goes on.
//!
//! **Never**: step over an error that may pass, or set anything aside: a record that is refused stays
//! in the log, and is named.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proto::LoggedBatch;
use span_log::{DamagedRange, LogError, SpanLog};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trace_model::{Clock, LogRange, UnixNanos};

use crate::backoff::Backoff;
use crate::handler::{GroupHandler, HandleError};

mod again;
mod pace;
mod report;

pub use again::AgainHandler;
pub use report::{LeftOut, ReplayProgress, ReplayReport};

use pace::Pace;
use report::Tally;

/// Most encoded bytes read at once from a partition.
const READ_BYTES_MAX: usize = 4 << 20;
/// Waits before a failed try is repeated.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a replay works with.
#[derive(Debug)]
pub struct ReplayParts {
    /// The log.
    pub log: Arc<dyn SpanLog>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What takes the records.
    pub handler: Box<dyn GroupHandler>,
    /// Which records, at most one range a partition.
    pub ranges: Vec<LogRange>,
    /// At most so many records in a second.
    pub records_per_second: Option<u64>,
}

/// How far a partition is.
#[derive(Debug)]
struct Slot {
    range: LogRange,
    next: u64,
    last_append: UnixNanos,
}

impl Slot {
    const fn is_done(&self) -> bool {
        self.next >= self.range.next
    }
}

/// Why a replay ends before everything is taken.
enum Ended {
    /// It was stopped.
    Stopped,
    /// The handler will be refused for good.
    Fenced(String),
}

/// A replay that has not begun.
#[derive(Debug)]
pub struct Replay {
    log: Arc<dyn SpanLog>,
    clock: Arc<dyn Clock>,
    handler: Box<dyn GroupHandler>,
    slots: Vec<Slot>,
    tally: Tally,
    pace: Pace,
    backoff: Backoff,
    stop: CancellationToken,
}

impl Replay {
    /// A replay that ends early when the token is cancelled.
    #[must_use]
    pub fn new(parts: ReplayParts, stop: CancellationToken) -> Self {
        let ReplayParts { log, clock, handler, ranges, records_per_second } = parts;
        let slot = |range: LogRange| Slot { range, next: range.first, last_append: UnixNanos(0) };
        let slots: Vec<Slot> = ranges.into_iter().map(slot).collect();
        let total = slots.iter().map(|slot| slot.range.next.saturating_sub(slot.next)).sum();
        let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, clock.now().0);
        let pace = Pace::new(records_per_second, clock.monotonic());
        Self { log, clock, handler, slots, tally: Tally::new(total), pace, backoff, stop }
    }

    /// How far it is, to be watched.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<ReplayProgress> {
        self.tally.watched()
    }

    /// Reads and hands over, partition by partition in turns, until everything is taken or the token
    /// is cancelled; then makes durable what was taken. That is tried until it succeeds: dropping the
    /// future gives it up. Where another does the same work meanwhile it ends at once.
    pub async fn run(mut self) -> ReplayReport {
        let fenced = match self.take_all().await {
            Ok(()) | Err(Ended::Stopped) => self.close().await.err(),
            Err(Ended::Fenced(reason)) => Some(reason),
        };
        let durable = self.handler.durable();
        let mut left = Vec::new();
        for Slot { range, next, .. } in &self.slots {
            let held = durable.next.get(&range.partition).copied().unwrap_or(0);
            let first = held.clamp(range.first, (*next).max(range.first));
            if first < range.next {
                left.push(LogRange { first, ..*range });
            }
        }
        self.tally.report(left, fenced)
    }

    async fn take_all(&mut self) -> Result<(), Ended> {
        let mut place = 0;
        while let Some(slot) = self.next_slot(&mut place) {
            self.step(slot).await?;
        }
        Ok(())
    }

    /// The next partition that is not done, in turns.
    fn next_slot(&self, place: &mut usize) -> Option<usize> {
        if self.stop.is_cancelled() {
            return None;
        }
        for _ in 0..self.slots.len() {
            let slot = *place % self.slots.len();
            *place = slot.saturating_add(1);
            if self.slots.get(slot).is_some_and(|slot| !slot.is_done()) {
                return Some(slot);
            }
        }
        None
    }

    /// Reads once from a partition and hands over what was read.
    async fn step(&mut self, place: usize) -> Result<(), Ended> {
        let Some(Slot { range, next, .. }) = self.slots.get(place) else { return Ok(()) };
        let (partition, from, until) = (range.partition, *next, range.next);
        match self.log.read(partition, from, READ_BYTES_MAX).await {
            Ok(batches) => {
                let wanted = |batch: &LoggedBatch| batch.range.first < until;
                let batches: VecDeque<_> = batches.into_iter().filter(wanted).collect();
                if batches.is_empty() {
                    let words = format!("partition {partition} has no record {from} yet");
                    return self.wait(&words).await;
                }
                self.hand_over(place, batches).await
            }
            Err(LogError::Damaged(damaged)) if damaged.range.next > from => {
                self.tally.damaged(&damaged);
                self.step_over(place, damaged).await
            }
            Err(LogError::Expired { first, .. }) if first > from => {
                let range = LogRange { partition, first: from, next: first.min(until) };
                let reason = "no longer kept by the span log".to_owned();
                let append = self.slots.get(place).map_or(UnixNanos(0), |slot| slot.last_append);
                let damaged =
                    DamagedRange { range, append_times: (append, append), reason, stranger: None };
                self.tally.expired(&damaged);
                self.step_over(place, damaged).await
            }
            Err(error) => self.wait(&error.to_string()).await,
        }
    }

    async fn step_over(&mut self, place: usize, damaged: DamagedRange) -> Result<(), Ended> {
        while let Err(error) = self.handler.skip(&damaged).await {
            self.bear(error).await?;
        }
        self.advance(place, damaged.range.next, 0);
        Ok(())
    }

    /// Hands over as much at once as the pace allows; what is refused is narrowed down by halves.
    async fn hand_over(
        &mut self,
        place: usize,
        mut batches: VecDeque<LoggedBatch>,
    ) -> Result<(), Ended> {
        let mut chunk = batches.len();
        while !batches.is_empty() {
            let count = self.pace.at_most(chunk).clamp(1, batches.len());
            let handed = batches.make_contiguous().get(..count).unwrap_or_default();
            match self.handler.handle(handed).await {
                Ok(()) => {
                    let taken = batches.drain(..count).collect::<Vec<_>>();
                    self.taken(place, &taken).await?;
                    chunk = batches.len();
                }
                Err(HandleError::Poison(_)) if count > 1 => chunk = count / 2,
                Err(HandleError::Poison(reason)) => {
                    let Some(refused) = batches.pop_front() else { break };
                    let (range, time) = (refused.range, refused.append_time);
                    let damaged =
                        DamagedRange { range, append_times: (time, time), reason, stranger: None };
                    self.tally.refused(&damaged);
                    self.step_over(place, damaged).await?;
                    chunk = batches.len();
                }
                Err(
                    error @ (HandleError::Retry(_) | HandleError::Wait(_) | HandleError::Fenced(_)),
                ) => self.bear(error).await?,
            }
        }
        Ok(())
    }

    async fn taken(&mut self, place: usize, batches: &[LoggedBatch]) -> Result<(), Ended> {
        let spans = batches.iter().map(|batch| batch.batch.spans().len() as u64).sum();
        if let (Some(last), Some(slot)) = (batches.last(), self.slots.get_mut(place)) {
            slot.last_append = last.append_time;
            self.advance(place, last.range.next, spans);
        }
        self.backoff.succeed();
        while let Err(error) = self.handler.tick(self.clock.now(), None, false).await {
            self.bear(error).await?;
        }
        self.backoff.succeed();
        let wait = self.pace.wait(self.tally.records(), self.clock.monotonic());
        self.pause(wait).await
    }

    fn advance(&mut self, place: usize, next: u64, spans: u64) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        let next = next.min(slot.range.next).max(slot.next);
        let records = next.saturating_sub(slot.next);
        slot.next = next;
        self.tally.taken(records, spans);
    }

    /// Waits before the handler is tried again, where that may help.
    async fn bear(&mut self, error: HandleError) -> Result<(), Ended> {
        match error {
            HandleError::Fenced(reason) => Err(Ended::Fenced(reason)),
            HandleError::Retry(reason)
            | HandleError::Wait(reason)
            | HandleError::Poison(reason) => self.wait(&reason).await,
        }
    }

    /// Waits before something that failed is tried again.
    async fn wait(&mut self, reason: &str) -> Result<(), Ended> {
        self.tally.waits(reason);
        let wait = self.backoff.fail(self.clock.monotonic());
        self.pause(wait).await
    }

    async fn pause(&mut self, wait: Duration) -> Result<(), Ended> {
        if !wait.is_zero() {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        if self.stop.is_cancelled() { Err(Ended::Stopped) } else { Ok(()) }
    }

    /// Makes durable what was taken, or says why the handler will be refused for good.
    async fn close(&mut self) -> Result<(), String> {
        while let Err(error) = self.handler.tick(self.clock.now(), None, true).await {
            if let HandleError::Fenced(reason) = error {
                return Err(reason);
            }
            self.tally.waits(&error.to_string());
            let wait = self.backoff.fail(self.clock.monotonic());
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
