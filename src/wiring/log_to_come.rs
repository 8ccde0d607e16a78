//! A span log that is still being opened: senders are refused, retryably, until it is there.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use span_log::port::TailAnswer;
use span_log::{
    Appended, Capabilities, CommitError, DamagedRange, ForgetLost, GroupId, LogEnd, LogError,
    LogIdentity, Lost, SpanLog,
};
use trace_model::{TenantId, TraceId, UnixNanos};

/// What receivers append to from the first moment on: the log, once it is open.
#[derive(Debug, Default)]
pub(super) struct LogToCome {
    log: OnceLock<Arc<dyn SpanLog>>,
}

impl LogToCome {
    /// The log is open. Said once.
    pub(super) fn is_here(&self, log: Arc<dyn SpanLog>) {
        if self.log.set(log).is_err() {
            tracing::error!("a span log was opened twice; the first one stays");
        }
    }

    fn open(&self) -> Result<&Arc<dyn SpanLog>, LogError> {
        self.log.get().ok_or_else(|| LogError::Unavailable("it is not open yet".to_owned()))
    }
}

#[async_trait]
impl SpanLog for LogToCome {
    fn capabilities(&self) -> Capabilities {
        self.log.get().map(|log| log.capabilities()).unwrap_or_default()
    }

    /// Of no log, without partitions, until it is open.
    fn identity(&self) -> LogIdentity {
        let none = LogIdentity { incarnation: 0, partitions: 0 };
        self.log.get().map_or(none, |log| log.identity())
    }

    fn span_bytes_max(&self) -> Option<usize> {
        self.log.get().and_then(|log| log.span_bytes_max())
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        self.open()?.append(batch).await
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        self.open()?.read(partition, from, bytes_max).await
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.open()?.wait_beyond(partition, offset, at_most).await
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        self.open()?.end(partition)
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        self.open()?.offset_at(partition, time).await
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        self.open()?.committed(group, partition)
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        self.open()?.commit(group, partition, next).await
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        self.open()?.tail(tenant, trace_id).await
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        self.log.get().map(|log| log.damaged()).unwrap_or_default()
    }

    fn lost(&self) -> Lost {
        self.log.get().map(|log| log.lost()).unwrap_or_default()
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        self.open()?.forget_lost(which).await
    }

    fn health(&self) -> Result<(), String> {
        self.open().map_err(|error| error.to_string())?.health()
    }

    async fn close(&self) -> Result<(), LogError> {
        match self.log.get() {
            Some(log) => log.close().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{BatchSource, SpanBatchBuilder};
    use service_kit::ManualClock;
    use span_log::memory::{MemoryConfig, MemoryLog};
    use trace_model::Region;

    use super::*;

    fn batch() -> Arc<SpanBatch> {
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(1),
            digest: 1,
        };
        Arc::new(SpanBatchBuilder::new().finish(source).unwrap())
    }

    #[tokio::test]
    async fn senders_are_refused_retryably_until_the_log_is_there() {
        let to_come = LogToCome::default();
        let refused = to_come.append(batch()).await.unwrap_err();
        assert!(refused.is_retryable(), "{refused}");
        assert!(to_come.health().is_err() && to_come.end(0).is_err());
        let log = MemoryLog::new(MemoryConfig::default(), Arc::new(ManualClock::at(UnixNanos(9))));
        to_come.is_here(Arc::clone(&log) as _);
        assert_eq!(to_come.identity(), log.identity());
        to_come.append(batch()).await.unwrap();
        assert!(to_come.health().is_ok() && to_come.end(0).is_ok());
    }
}
