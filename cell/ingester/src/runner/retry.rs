//! A dead letter that is tried again, between two steps of its group.

use std::sync::Arc;

use proto::{LoggedBatch, SpanBatch};

use span_log::port::STORAGE_WRITER;
use span_log::{ForgetLost, GroupId, LostRun};
use trace_model::LogRange;

use super::desk::{Desk, is_told_of};
use crate::dead_letter::{DeadLetter, DeadLetterError};
use crate::handler::HandleError;
use crate::retries::{RetryError, Waiting};

impl Desk {
    /// Tries a letter: it goes only when the handler says that its spans are durable.
    pub(super) async fn retry(&mut self, waiting: Waiting) {
        let Waiting { sequence, reply, .. } = waiting;
        let tried = self.try_letter(sequence).await;
        let group = self.handler.group();
        match &tried {
            Ok(()) => tracing::info!(%group, sequence, "a dead letter was taken after all"),
            Err(error) => tracing::warn!(%group, sequence, %error, "a dead letter was not taken"),
        }
        if reply.send(tried).is_err() {
            tracing::debug!(%group, sequence, "who asked for the retry has gone");
        }
    }

    /// Says that the group has other troubles now.
    pub(super) fn put_off(&self, waiting: Waiting) {
        let reason = self.failing.clone().unwrap_or_else(|| "it is retrying".to_owned());
        let group = waiting.group;
        if waiting.reply.send(Err(RetryError::NotNow { group, reason })).is_err() {
            tracing::debug!(sequence = waiting.sequence, "who asked for the retry has gone");
        }
    }

    async fn try_letter(&mut self, sequence: u64) -> Result<(), RetryError> {
        let letters = Arc::clone(&self.parts.dead_letters);
        let reading = tokio::task::spawn_blocking(move || letters.take_for_retry(sequence));
        let letter = reading.await.map_err(|error| DeadLetterError::Disk(error.into()))??;
        let batch = logged(letter.ok_or(RetryError::Absent(sequence))?, sequence)?;
        let now = self.parts.clock.now();
        let group = self.handler.group().0.to_owned();
        match self.handler.take_again(&batch, now).await {
            Ok(()) => {}
            Err(HandleError::Poison(reason)) => return Err(RetryError::Refused { group, reason }),
            Err(
                HandleError::Retry(reason)
                | HandleError::Wait(reason)
                | HandleError::Fenced(reason),
            ) => {
                return Err(RetryError::NotNow { group, reason });
            }
        }
        let letters = Arc::clone(&self.parts.dead_letters);
        let settling = tokio::task::spawn_blocking(move || letters.settle(sequence));
        settling.await.map_err(|error| DeadLetterError::Disk(error.into()))??;
        if is_told_of(self.handler.group()) {
            self.find_again(&batch).await;
        }
        Ok(())
    }

    /// Other processes need not miss it any more. One that was told of together with its neighbours
    /// stays told of: these are still away.
    async fn find_again(&mut self, batch: &LoggedBatch) {
        let (group, incarnation) = (self.handler.group(), batch.incarnation);
        let LogRange { partition, first, .. } = batch.range;
        if self.is_told_with_others(group, batch) {
            tracing::warn!(
                %group, partition, first,
                "a record that was taken is missed with its neighbours until a person drops the run"
            );
            return;
        }
        let which = match group == STORAGE_WRITER {
            true => ForgetLost::Run { incarnation, partition, first },
            false => ForgetLost::Missed { group, incarnation, partition, first },
        };
        if let Err(error) = self.parts.log.forget_lost(which).await {
            tracing::warn!(%error, partition, first, "answers still miss a record that was taken");
        }
    }

    /// Whether the log has told of the record in runs of more than it alone.
    fn is_told_with_others(&self, group: GroupId, batch: &LoggedBatch) -> bool {
        let lost = self.parts.log.lost();
        let missed = lost.missed.into_iter().filter(|missed| missed.group == group);
        let runs: Vec<LostRun> = match group == STORAGE_WRITER {
            true => lost.runs,
            false => missed.map(|missed| missed.run).collect(),
        };
        let holds = |run: &LostRun| run.holds(batch.incarnation, batch.range);
        let is_it = |run: &&LostRun| run.range == batch.range;
        let mut told = runs.iter().filter(|run| holds(run)).peekable();
        told.peek().is_some() && !told.any(|run| is_it(&run))
    }
}

fn logged(letter: DeadLetter, sequence: u64) -> Result<LoggedBatch, DeadLetterError> {
    let DeadLetter { incarnation, range, append_time, encoded, .. } = letter;
    let reason = "its batch cannot be read";
    let batch = SpanBatch::decode(encoded);
    let batch = batch.map_err(|_| DeadLetterError::Damaged { sequence, reason })?;
    Ok(LoggedBatch { incarnation, range, append_time, batch: Arc::new(batch) })
}
