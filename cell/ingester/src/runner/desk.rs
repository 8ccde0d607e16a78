//! One step of a group in one partition: what is read, handed over, set aside.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proto::LoggedBatch;
use span_log::port::{STORAGE_WRITER, TOLD_GROUPS};
use span_log::{DamagedRange, GroupId, LogError, LostCause, SpanLog};
use trace_model::{LogRange, UnixNanos};

use super::RunnerParts;
use super::ahead::{Reading, alongside};
use super::partition::PartitionReader;
use crate::handler::{GroupHandler, HandleError};
use crate::metrics::GroupLabel;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The position moved, or something was read.
    Progressed,
    /// The log ends here, or a try is not due yet.
    Waits,
}

/// The handler and what it works with.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) handler: Box<dyn GroupHandler>,
    pub(super) parts: RunnerParts,
    /// The last error, while it is retried.
    pub(super) failing: Option<String>,
    /// Since when it is, on the monotonic clock.
    failing_since: Option<Duration>,
}

/// Tries after which a failing group is worth a person's look, logged once.
const TRIES_UNTIL_WARNING: u32 = 5;

impl Desk {
    pub(super) const fn new(handler: Box<dyn GroupHandler>, parts: RunnerParts) -> Self {
        Self { handler, parts, failing: None, failing_since: None }
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.parts.clock.monotonic()
    }

    /// One step: place → set aside → read → hand over, whichever is next. While it hands over, it
    /// reads ahead.
    pub(super) async fn step(
        &mut self,
        reader: &mut PartitionReader,
        ahead: Option<&mut Reading>,
    ) -> Step {
        if !reader.backoff.remaining(self.monotonic()).is_zero() {
            return Step::Waits;
        }
        let stepped = self.try_step(reader, ahead).await;
        match stepped {
            // What was to be told may yet fail.
            Ok(step) if reader.missing.is_some() => step,
            Ok(step) => {
                if reader.backoff.tries() > 0 {
                    self.note_success();
                }
                reader.backoff.succeed();
                reader.is_waiting = false;
                step
            }
            Err(HandleError::Wait(reason)) => {
                tracing::trace!(group = %self.handler.group(), partition = reader.partition, reason, "waits");
                reader.backoff.wait(self.monotonic());
                reader.is_waiting = true;
                Step::Waits
            }
            Err(error) => {
                self.note_retry("take records", &error, reader.backoff.tries());
                reader.backoff.fail(self.monotonic());
                Step::Waits
            }
        }
    }

    async fn try_step(
        &mut self,
        reader: &mut PartitionReader,
        ahead: Option<&mut Reading>,
    ) -> Result<Step, HandleError> {
        if !reader.is_placed() {
            self.place(reader)?;
        }
        if reader.is_telling() {
            return Ok(Step::Waits);
        }
        if let Some(missing) = reader.missing.take() {
            self.miss(reader, missing).await?;
            return Ok(Step::Progressed);
        }
        if let Some(damaged) = &reader.set_aside {
            self.handler.skip(damaged).await?;
            reader.move_to(damaged.range.next, damaged.append_times.1);
            reader.set_aside = None;
            return Ok(Step::Progressed);
        }
        if reader.held.is_empty() {
            self.read(reader).await?;
            if reader.missing.is_some() {
                return Ok(Step::Progressed);
            }
        }
        if reader.held.is_empty() {
            return Ok(Step::Waits);
        }
        self.hand_over(reader, ahead).await?;
        Ok(Step::Progressed)
    }

    /// Starts at the committed offset. Where none is known, that is the oldest record that the log has:
    /// what it had before that, and the store does not have, is read for, so that it is found to be
    /// gone and told.
    fn place(&mut self, reader: &mut PartitionReader) -> Result<(), HandleError> {
        let (log, group) = (&self.parts.log, self.handler.group());
        let mut start = log.committed(group, reader.partition).map_err(|error| retry(&error))?;
        let is_told = TOLD_GROUPS.contains(&group);
        if is_told && !log.has_committed(group, reader.partition).map_err(|error| retry(&error))? {
            let incarnation = log.identity().incarnation;
            start = start.min(self.handler.durable().next_in(incarnation, reader.partition));
        }
        reader.start_at(start);
        Ok(())
    }

    async fn read(&mut self, reader: &mut PartitionReader) -> Result<(), HandleError> {
        let (log, bytes_max) = (&*self.parts.log, self.parts.config.read_bytes_max);
        match read_or_fault(log, reader, bytes_max).await {
            Ok(()) => {}
            Err(LogError::Damaged(damaged)) if damaged.range.next > reader.next() => {
                self.begin_to_miss(reader, damaged, LostCause::Damaged).await?;
            }
            Err(LogError::Expired { first, .. }) if first > reader.next() => {
                let gone = self.expired(reader, first).await?;
                self.begin_to_miss(reader, gone, LostCause::Dropped).await?;
            }
            Err(
                error @ (LogError::Full
                | LogError::Behind { .. }
                | LogError::Overloaded
                | LogError::Disk(_)
                | LogError::NoDescriptors
                | LogError::Unavailable(_)
                | LogError::Closed
                | LogError::TooLarge { .. }
                | LogError::NoPartition(_)
                // Set aside what lies behind the position would not get the group any further.
                | LogError::Damaged(_)
                | LogError::Expired { .. }),
            ) => return Err(retry(&error)),
        }
        Ok(())
    }

    /// The run that is no longer kept: from the position to the oldest record, between the append
    /// times of their neighbours.
    async fn expired(
        &mut self,
        reader: &PartitionReader,
        first: u64,
    ) -> Result<DamagedRange, HandleError> {
        let log = &self.parts.log;
        let behind = match log.read(reader.partition, first, 1).await {
            Ok(batches) => batches.first().map(|batch| batch.append_time),
            Err(_) => None,
        };
        let until = match behind {
            Some(append_time) => append_time,
            None => log.end(reader.partition).map_err(|error| retry(&error))?.append_time,
        };
        let range = LogRange { partition: reader.partition, first: reader.next(), next: first };
        let reason = "no longer kept by the span log".to_owned();
        let since = reader.last_append().max(log.appended_since(reader.partition, reader.next()));
        Ok(DamagedRange { range, append_times: (since.min(until), until), reason, stranger: None })
    }

    /// Hands over what is held, or the part of it in which poison is looked for.
    async fn hand_over(
        &mut self,
        reader: &mut PartitionReader,
        mut ahead: Option<&mut Reading>,
    ) -> Result<(), HandleError> {
        if let Some(ahead) = &mut ahead {
            ahead.go_behind(reader);
        }
        let count = reader.chunk.clamp(1, reader.held.len());
        let handing = self.handler.handle(chunk_of(&mut reader.held, count));
        let handed = alongside(handing, ahead, &*self.parts.log).await;
        match handed {
            Ok(()) => {
                let spans = reader.held.iter().take(count).map(|held| held.batch.spans().len());
                let spans = u64::try_from(spans.sum::<usize>()).unwrap_or(0);
                let label = GroupLabel::from(self.handler.group());
                self.parts.metrics.spans.get_or_create(&label).inc_by(spans);
                reader.handed(count);
                Ok(())
            }
            Err(HandleError::Poison(_)) if count > 1 => {
                reader.chunk = count / 2;
                Ok(())
            }
            Err(HandleError::Poison(reason)) => self.bury(reader, reason).await,
            Err(
                error @ (HandleError::Retry(_) | HandleError::Wait(_) | HandleError::Fenced(_)),
            ) => Err(error),
        }
    }

    /// Puts the first batch held into the dead letter; only then is it stepped over.
    async fn bury(
        &mut self,
        reader: &mut PartitionReader,
        reason: String,
    ) -> Result<(), HandleError> {
        let Some(batch) = reader.held.front().cloned() else { return Ok(()) };
        let group = self.handler.group();
        let damaged = DamagedRange {
            range: batch.range,
            append_times: (batch.append_time, batch.append_time),
            reason: reason.clone(),
            stranger: None,
        };
        if is_told_of(group) {
            // Before the letter: other processes that answer cannot see into this one's.
            let (range, times) = (damaged.range, damaged.append_times);
            self.parts
                .log
                .note_set_aside(group, range, times)
                .await
                .map_err(|error| retry(&error))?;
        }
        let dead_letters = Arc::clone(&self.parts.dead_letters);
        let put = tokio::task::spawn_blocking(move || dead_letters.put(group, &reason, &batch));
        let sequence = match put.await {
            Ok(Ok(sequence)) => sequence,
            Ok(Err(error)) => return Err(HandleError::Retry(error.to_string())),
            Err(error) => return Err(HandleError::Retry(error.to_string())),
        };
        tracing::error!(
            %group, partition = reader.partition, first = damaged.range.first, sequence,
            reason = %damaged.reason, "a batch was put into the dead letter"
        );
        self.parts.metrics.dead_letters.get_or_create(&group.into()).inc();
        reader.held.pop_front();
        reader.set_aside = Some(damaged);
        Ok(())
    }

    /// Ticks the handler. Poison has no batch here that could be set aside, so it is retried.
    pub(super) async fn tick(
        &mut self,
        log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        let now = self.parts.clock.now();
        self.handler.tick(now, log_end, is_closing).await
    }

    /// What failed goes well again.
    pub(super) fn note_success(&mut self) {
        (self.failing, self.failing_since) = (None, None);
    }

    /// How long the group has been failing; zero where it is not.
    pub(super) fn failing_for(&self) -> Duration {
        self.failing_since.map_or(Duration::ZERO, |since| self.monotonic().saturating_sub(since))
    }

    /// Counts a failure; the log hears of it when it lasts.
    pub(super) fn note_retry(&mut self, what: &'static str, error: &HandleError, tries: u32) {
        let group = self.handler.group();
        self.parts.metrics.retries.get_or_create(&group.into()).inc();
        self.failing = Some(format!("cannot {what}: {error}"));
        let now = self.monotonic();
        self.failing_since.get_or_insert(now);
        if tries == TRIES_UNTIL_WARNING {
            tracing::warn!(%group, %error, what, "a consumer group keeps failing and lags");
        }
    }
}

/// Reads what is there, up to the limit; or gives what a read met, now or ahead.
async fn read_or_fault(
    log: &dyn SpanLog,
    reader: &mut PartitionReader,
    bytes_max: usize,
) -> Result<(), LogError> {
    if let Some(fault) = reader.fault.take() {
        return Err(fault);
    }
    let mut reading = Reading::new(reader.hold(), reader.next(), bytes_max);
    reading.fill_at_once(log).await;
    reader.chunk = usize::MAX;
    reader.keep(reading.batches);
    match reading.fault {
        Some(fault) if reader.held.is_empty() => Err(fault),
        fault => {
            reader.fault = fault;
            Ok(())
        }
    }
}

/// Whether answers are short of what this group sets aside, so that whoever answers must know.
pub(super) fn is_told_of(group: GroupId) -> bool {
    group == STORAGE_WRITER || TOLD_GROUPS.contains(&group)
}

pub(super) fn retry(error: &LogError) -> HandleError {
    HandleError::Retry(error.to_string())
}

/// The first `count` batches as a slice.
fn chunk_of(held: &mut VecDeque<LoggedBatch>, count: usize) -> &[LoggedBatch] {
    held.make_contiguous().get(..count).unwrap_or(&[])
}
