//! Ports of the querier, adapted to the span log and the consumer groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ingester::{DeadLetters, LagBoard};
use querier::{CellStatus, GroupLag, LiveTail, LogStatus, PortError, TailRead};
use span_log::SpanLog;
use span_log::port::STORAGE_WRITER;
use trace_model::{Coverage, TenantId, TraceId};

/// The live tail of a span log, and what storage-writer has buried of it: no store has that.
#[derive(Debug)]
pub(super) struct LogTail {
    pub(super) log: Arc<dyn SpanLog>,
    pub(super) dead_letters: Arc<DeadLetters>,
}

impl LogTail {
    /// Whether spans may lie in a dead letter instead of a store. A letter that cannot be read may
    /// be storage-writer's. Costs nothing while there are no letters.
    async fn has_buried(&self) -> bool {
        if self.dead_letters.figures().0 == 0 {
            return false;
        }
        let letters = Arc::clone(&self.dead_letters);
        let listed = tokio::task::spawn_blocking(move || letters.list(0, LETTERS_MAX)).await;
        let Ok(Ok(letters)) = listed else { return true };
        let is_whole_list = letters.len() < LETTERS_MAX;
        let mut groups = letters.into_iter().map(|letter| letter.map(|letter| letter.group));
        !is_whole_list
            || groups.any(|group| group.ok().is_none_or(|group| group == STORAGE_WRITER.0))
    }
}

#[async_trait]
impl LiveTail for LogTail {
    async fn read_tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailRead, PortError> {
        let failed = |error: span_log::LogError| PortError(error.to_string());
        let tail = self.log.tail(tenant, trace_id).await.map_err(failed)?;
        let identity = self.log.identity();
        // Read after the tail: what was committed then or later, as the port asks.
        let mut from = Coverage::none(identity.incarnation);
        for partition in 0..identity.partitions {
            from.extend(partition, self.log.committed(STORAGE_WRITER, partition).map_err(failed)?);
        }
        let is_damaged = tail.is_damaged || self.has_buried().await;
        Ok(TailRead { spans: tail.spans, from, covered: tail.covered, is_damaged })
    }
}

/// How a cell's log and groups are.
#[derive(Debug)]
pub(super) struct LogAndGroups {
    pub(super) log: Arc<dyn SpanLog>,
    pub(super) lag: LagBoard,
    pub(super) dead_letters: Arc<DeadLetters>,
}

#[async_trait]
impl CellStatus for LogAndGroups {
    async fn log_status(&self) -> Result<LogStatus, PortError> {
        let identity = self.log.identity();
        let mut log_end = Coverage::none(identity.incarnation);
        for partition in 0..identity.partitions {
            let end = self.log.end(partition).map_err(|error| PortError(error.to_string()))?;
            log_end.extend(partition, end.next);
        }
        let dead = self.count_dead_letters().await?;
        let groups = self.lag.snapshot().into_iter().map(|lag| GroupLag {
            group: lag.group.0.into(),
            records: lag.records,
            age_millis: lag.age_ms,
            dead_letters: dead.get(lag.group.0).copied().unwrap_or(0),
        });
        Ok(LogStatus { log_end, groups: groups.collect() })
    }
}

/// Letters looked at for the counts of a status page.
const LETTERS_MAX: usize = 10_000;

impl LogAndGroups {
    async fn count_dead_letters(&self) -> Result<BTreeMap<String, u64>, PortError> {
        let mut counts = BTreeMap::new();
        if self.dead_letters.figures().0 == 0 {
            return Ok(counts);
        }
        let letters = Arc::clone(&self.dead_letters);
        let listed = tokio::task::spawn_blocking(move || letters.list(0, LETTERS_MAX)).await;
        let listed = listed.map_err(|error| PortError(error.to_string()))?;
        for letter in listed.map_err(|error| PortError(error.to_string()))?.into_iter().flatten() {
            *counts.entry(letter.group).or_insert(0) += 1;
        }
        Ok(counts)
    }
}
