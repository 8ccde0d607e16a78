//! Ports of the querier, adapted to the span log and the consumer groups.

use std::sync::Arc;

use async_trait::async_trait;
use ingester::{DeadLetters, LagBoard};
use querier::{CellStatus, GroupLag, LiveTail, LogEnd, LogStatus, Lost, PortError, TailRead};
use span_log::port::{METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{LogError, LogIdentity, LostCause, SpanLog};
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
        let tail = self.log.tail(tenant, trace_id).await.map_err(|error| failed(&error))?;
        let identity = self.log.identity();
        let from = match tail.begins {
            Some(begins) => begins,
            None => self.committed(identity)?,
        };
        // A batch is in a letter before storage-writer steps over it.
        let is_buried = self.dead_letters.may_hold(STORAGE_WRITER, tenant, trace_id);
        // A tail that has not reached the log's end may lack spans that no store has.
        let is_damaged = tail.is_damaged || tail.is_behind || is_buried;
        let away = tail.silent;
        Ok(TailRead { spans: tail.spans, from, covered: tail.covered, is_damaged, away })
    }

    fn lost(&self) -> Lost {
        let lost = self.log.lost();
        let missed_by = |group| {
            let missed = lost.missed.iter().filter(move |missed| missed.group == group);
            missed.map(|missed| closed(missed.run.append_times)).collect()
        };
        let unread = lost.runs.iter().filter(|run| run.cause != LostCause::SetAside);
        Lost {
            runs: lost.runs.iter().map(|run| closed(run.append_times)).collect(),
            unread: unread.map(|run| closed(run.append_times)).collect(),
            unindexed: missed_by(SEARCH_INDEXER),
            uncounted: missed_by(METRICS_AGGREGATOR),
            expired_until: lost.expired_until.max(self.dead_letters.expired_until()),
        }
    }

    fn buried(&self, tenant: &TenantId) -> Vec<TimeRange> {
        let times = self.dead_letters.append_times(&[STORAGE_WRITER, SEARCH_INDEXER], tenant);
        times.into_iter().map(closed).collect()
    }
}

impl LogTail {
    /// Read after the tail: what was committed then or later, as the port asks.
    fn committed(&self, identity: LogIdentity) -> Result<Coverage, PortError> {
        let mut from = Coverage::none(identity.incarnation);
        for partition in 0..identity.partitions {
            let committed = self.log.committed(STORAGE_WRITER, partition);
            from.extend(partition, committed.map_err(|error| failed(&error))?);
        }
        Ok(from)
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
            let end = self.log.end(partition).map_err(|error| failed(&error))?;
            log_end.extend(partition, end.next);
        }
        let dead = self.dead_letters.counts();
        let groups = self.lag.snapshot().into_iter().map(|lag| GroupLag {
            group: lag.group.0.into(),
            records: lag.records,
            age_millis: lag.age_ms,
            dead_letters: dead.get(lag.group.0).copied().unwrap_or(0),
            failing_millis: lag.failing_ms,
        });
        let retired = (0..identity.partitions).filter(|one| self.log.is_retired(*one)).collect();
        Ok(LogStatus { log_end, groups: groups.collect(), away: self.log.away(), retired })
    }

    async fn log_end(&self) -> Result<LogEnd, PortError> {
        let identity = self.log.identity();
        let mut next = Coverage::none(identity.incarnation);
        let mut appended_until = UnixNanos::MAX;
        for partition in 0..identity.partitions {
            let end = self.log.end(partition).map_err(|error| failed(&error))?;
            if !self.log.is_retired(partition) {
                next.extend(partition, end.next);
            }
            appended_until = appended_until.min(end.append_time.minus(1));
        }
        Ok(LogEnd { next, appended_until })
    }

    async fn appended_until(&self, covered: &Coverage) -> Result<UnixNanos, PortError> {
        let identity = self.log.identity();
        let mut until = UnixNanos::MAX;
        for partition in 0..identity.partitions {
            // What lies behind the end of one that is retired is lost, and told as such.
            let next = match self.log.is_retired(partition) {
                true => u64::MAX,
                false => covered.next_in(identity.incarnation, partition),
            };
            until = until.min(self.appended_before(partition, next).await?);
        }
        Ok(until)
    }
}

fn failed(error: &LogError) -> PortError {
    PortError(error.to_string())
}

impl LogAndGroups {
    /// The time just before the first record of a partition that does not lie below an offset.
    async fn appended_before(&self, partition: u32, next: u64) -> Result<UnixNanos, PortError> {
        let end = self.log.end(partition).map_err(|error| failed(&error))?;
        if next >= end.next {
            return Ok(end.append_time.minus(1));
        }
        if let Some(dated) = self.log.dated(partition, next) {
            return Ok(dated.minus(1));
        }
        match self.log.read(partition, next, 1).await {
            Ok(batches) => {
                let first = batches.first().map_or(end.append_time, |batch| batch.append_time);
                Ok(first.minus(1))
            }
            Err(LogError::Damaged(damaged)) => Ok(damaged.append_times.0.minus(1)),
            // What the log no longer has, nobody can date.
            Err(LogError::Expired { .. }) => Ok(UnixNanos(0)),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Both ends of the interval lie inside.
const fn closed((first, last): (UnixNanos, UnixNanos)) -> TimeRange {
    TimeRange { start: first, end: last.plus(1) }
}

#[cfg(test)]
mod tests {
    use ingester::DeadLetterConfig;
    use proto::wire::put_bytes_field;
    use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
    use service_kit::ManualClock;
    use span_log::memory::{MemoryConfig, MemoryLog};
    use trace_model::sampling_threshold::Threshold;
    use trace_model::{Region, UnixNanos};

    use super::*;

    fn batch(number: u8) -> Arc<SpanBatch> {
        let mut span = Vec::new();
        put_bytes_field(&mut span, 1, &[number; 16]);
        put_bytes_field(&mut span, 2, &[number; 8]);
        let mut builder = SpanBatchBuilder::new();
        let resource = builder.add_resource(Vec::new());
        let scope = builder.add_scope(resource, Vec::new());
        let trace_id = TraceId::from_bytes([number; 16]).unwrap();
        builder.add_span(trace_id, Threshold::KEEP_ALL, scope, &span);
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(5),
            digest: u64::from(number),
        };
        Arc::new(builder.finish(source).unwrap())
    }

    #[tokio::test]
    async fn how_far_offsets_reach_is_told_by_append_times() {
        let clock = Arc::new(ManualClock::at(UnixNanos(1_000)));
        let log = MemoryLog::new(MemoryConfig::default(), Arc::clone(&clock) as _);
        for number in 1..=3 {
            clock.set_wall(UnixNanos(u64::from(number) * 1_000));
            log.append(batch(number)).await.unwrap();
        }
        clock.set_wall(UnixNanos(9_000));
        let directory = tempfile::tempdir().unwrap();
        let dead_letters = DeadLetters::open(DeadLetterConfig::new(directory.path().join("dead")));
        let status = LogAndGroups {
            log: Arc::clone(&log) as _,
            lag: LagBoard::default(),
            dead_letters: Arc::new(dead_letters.unwrap()),
        };
        let end = status.log_end().await.unwrap();
        assert_eq!(end.next.next.get(&0), Some(&3));
        // Whatever comes next is appended at 9,000 at the earliest.
        assert_eq!(end.appended_until, UnixNanos(8_999));
        let incarnation = log.identity().incarnation;
        for (next, until) in [(3, 8_999), (2, 2_999), (1, 1_999), (0, 999)] {
            let mut covered = Coverage::none(incarnation);
            covered.extend(0, next);
            assert_eq!(status.appended_until(&covered).await.unwrap(), UnixNanos(until), "{next}");
        }
        let of_another_log = Coverage { incarnation: incarnation + 1, ..end.next };
        assert_eq!(status.appended_until(&of_another_log).await.unwrap(), UnixNanos(999));
    }
}
