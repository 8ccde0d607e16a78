//! Ports of the querier, adapted to the span log and the consumer groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ingester::{DeadLetters, LagBoard};
use querier::{CellStatus, GroupLag, LiveTail, LogStatus, PortError, TailRead};
use span_log::SpanLog;
use span_log::port::STORAGE_WRITER;
use trace_model::{Coverage, TenantId, TraceId};

/// The live tail of a span log.
#[derive(Debug)]
pub(super) struct LogTail(pub(super) Arc<dyn SpanLog>);

#[async_trait]
impl LiveTail for LogTail {
    async fn read_tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailRead, PortError> {
        let failed = |error: span_log::LogError| PortError(error.to_string());
        let tail = self.0.tail(tenant, trace_id).await.map_err(failed)?;
        let identity = self.0.identity();
        // Read after the tail: what was committed then or later, as the port asks.
        let mut from = Coverage::none(identity.incarnation);
        for partition in 0..identity.partitions {
            from.extend(partition, self.0.committed(STORAGE_WRITER, partition).map_err(failed)?);
        }
        Ok(TailRead { spans: tail.spans, from, covered: tail.covered, is_damaged: tail.is_damaged })
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
