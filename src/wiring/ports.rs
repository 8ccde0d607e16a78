//! Ports of the querier, adapted to the span log and the consumer groups.

use std::sync::Arc;

use async_trait::async_trait;
use ingester::{DeadLetters, LagBoard};
use querier::{CellStatus, GroupLag, LiveTail, LogStatus, Lost, PortError, TailRead};
use span_log::SpanLog;
use span_log::port::{SEARCH_INDEXER, STORAGE_WRITER};
use trace_model::{Coverage, TenantId, TimeRange, TraceId, UnixNanos};

/// The live tail of a span log, and what storage-writer has buried of it: no store has that.
#[derive(Debug)]
pub(super) struct LogTail {
    pub(super) log: Arc<dyn SpanLog>,
    pub(super) dead_letters: Arc<DeadLetters>,
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
        // A batch is in a letter before storage-writer steps over it.
        let is_buried = self.dead_letters.may_hold(STORAGE_WRITER, tenant, trace_id);
        // A tail that has not reached the log's end may lack spans that no store has.
        let is_damaged = tail.is_damaged || tail.is_behind || is_buried;
        Ok(TailRead { spans: tail.spans, from, covered: tail.covered, is_damaged })
    }

    fn lost(&self) -> Lost {
        let lost = self.log.lost();
        let runs = lost.runs.iter().map(|run| closed(run.append_times)).collect();
        Lost { runs, expired_until: lost.expired_until.max(self.dead_letters.expired_until()) }
    }

    fn buried(&self, tenant: &TenantId) -> Vec<TimeRange> {
        let times = self.dead_letters.append_times(&[STORAGE_WRITER, SEARCH_INDEXER], tenant);
        times.into_iter().map(closed).collect()
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
        let dead = self.dead_letters.counts();
        let groups = self.lag.snapshot().into_iter().map(|lag| GroupLag {
            group: lag.group.0.into(),
            records: lag.records,
            age_millis: lag.age_ms,
            dead_letters: dead.get(lag.group.0).copied().unwrap_or(0),
        });
        Ok(LogStatus { log_end, groups: groups.collect() })
    }
}

/// Both ends of the interval lie inside.
const fn closed((first, last): (UnixNanos, UnixNanos)) -> TimeRange {
    TimeRange { start: first, end: last.plus(1) }
}
