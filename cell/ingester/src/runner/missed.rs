//! Records that a group will never read: told first, and stepped over when those who answer have heard.
//!
//! The log takes seconds until they have. It tells beside the group's work, so that many partitions
//! wait for it at once, and others are read meanwhile.

use std::sync::Arc;

use span_log::port::TOLD_GROUPS;
use span_log::{DamagedRange, LogError, LostCause, LostRun, MissedRun, SpanLog, SteppedRun};
use tokio_util::task::AbortOnDropHandle;
use trace_model::LogRange;

use super::desk::{Desk, retry};
use super::partition::PartitionReader;
use crate::handler::HandleError;
use crate::metrics::GroupLabel;

/// A run on its way to be stepped over.
#[derive(Debug)]
pub(super) struct Missing {
    gone: DamagedRange,
    cause: LostCause,
    /// Records of it that the group alone lacks.
    records: u64,
    /// The log tells of them; `None` where there is nobody to be told.
    telling: Option<AbortOnDropHandle<Result<(), LogError>>>,
}

impl Missing {
    /// Whether those who answer may not have heard yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.telling.as_ref().is_some_and(|telling| !telling.is_finished())
    }
}

impl Desk {
    /// Begins to tell of records that are gone, for whoever answers out of what the group fills: before
    /// the group goes on behind them, and with it how far its answers say that they reach.
    pub(super) async fn begin_to_miss(
        &mut self,
        reader: &mut PartitionReader,
        gone: DamagedRange,
        cause: LostCause,
    ) -> Result<(), HandleError> {
        let mut missing = Missing { gone, cause, records: 0, telling: None };
        if missing.gone.stranger.is_none()
            && let Some(range) = self.missed_of(reader, &missing.gone).await?
        {
            missing.records = range.next.saturating_sub(range.first);
            missing.telling = self.tell(range, &missing);
        }
        reader.missing = Some(missing);
        Ok(())
    }

    /// What the group alone lacks of records that are gone.
    async fn missed_of(
        &mut self,
        reader: &PartitionReader,
        gone: &DamagedRange,
    ) -> Result<Option<LogRange>, HandleError> {
        if TOLD_GROUPS.contains(&self.handler.group()) {
            // A store that is away cannot say what it has: everything would be missed.
            self.tick(None, false).await?;
        }
        let incarnation = self.parts.log.identity().incarnation;
        // A log that is an older copy lacks what the store has had from it.
        let stored = self.handler.durable().next_in(incarnation, reader.partition);
        let first = gone.range.first.max(reader.next()).max(stored);
        let range = LogRange { first, ..gone.range };
        Ok((first < range.next && !self.is_lost(range)).then_some(range))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "its reader owns the task, and ends it with itself"
    )]
    fn tell(
        &self,
        range: LogRange,
        missing: &Missing,
    ) -> Option<AbortOnDropHandle<Result<(), LogError>>> {
        let group = self.handler.group();
        if !TOLD_GROUPS.contains(&group) {
            return None;
        }
        let log: Arc<dyn SpanLog> = Arc::clone(&self.parts.log);
        let incarnation = log.identity().incarnation;
        let (append_times, cause) = (missing.gone.append_times, missing.cause);
        let missed = MissedRun { group, run: LostRun { incarnation, range, append_times, cause } };
        let telling = tokio::spawn(async move { log.note_missed(missed).await });
        Some(AbortOnDropHandle::new(telling))
    }

    /// Whether nobody has the records: every answer says so already, until a person has seen to it.
    /// What storage-writer has set aside is none of it: that may be taken after all, by that group alone.
    fn is_lost(&self, range: LogRange) -> bool {
        let incarnation = self.parts.log.identity().incarnation;
        let is_gone = |lost: &LostRun| lost.cause != LostCause::SetAside;
        let lost = self.parts.log.lost().runs;
        lost.iter().any(|lost| is_gone(lost) && lost.holds(incarnation, range))
    }

    /// Sets a run aside that everybody has heard of; where it could not be told, it is met again.
    pub(super) async fn miss(
        &mut self,
        reader: &mut PartitionReader,
        missing: Missing,
    ) -> Result<(), HandleError> {
        let Missing { gone, cause, records, telling } = missing;
        if let Some(telling) = telling {
            let told = telling.await.map_err(|error| HandleError::Retry(error.to_string()))?;
            told.map_err(|error| retry(&error))?;
        }
        let (group, metrics) = (self.handler.group(), &self.parts.metrics);
        let label = GroupLabel::from(group);
        if records > 0 {
            metrics.missed_records.get_or_create(&label).inc_by(records);
        }
        let count = gone.range.next.saturating_sub(reader.next());
        let counted = match cause == LostCause::Damaged {
            true => &metrics.damaged_records,
            false => &metrics.expired_records,
        };
        counted.get_or_create(&label).inc_by(count);
        tracing::warn!(
            %group, partition = reader.partition, first = reader.next(), next = gone.range.next,
            reason = %gone.reason, "records are damaged or no longer kept, and set aside"
        );
        self.list(&gone).await;
        reader.set_aside = Some(gone);
        Ok(())
    }

    /// Lists records that were never ours, for whoever looks for their writer.
    async fn list(&mut self, damaged: &DamagedRange) {
        let (Some(list), Some(stranger)) = (&self.parts.stepped_over, &damaged.stranger) else {
            return;
        };
        let range = damaged.range;
        let run = SteppedRun::new(
            self.handler.group().0,
            ("", range.partition),
            (range.first, range.next),
            &damaged.reason,
            stranger,
            self.parts.clock.now(),
        );
        let list = Arc::clone(list);
        // A note that is not made stops nobody.
        drop(tokio::task::spawn_blocking(move || list.note(run)).await);
    }
}
