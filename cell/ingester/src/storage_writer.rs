//! The group storage-writer: records into the trace store.
//!
//! What the store has made durable is committed and no more; until then the live tail answers.

use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use span_log::port::STORAGE_WRITER;
use span_log::{DamagedRange, GroupId};
use trace_model::{Coverage, UnixNanos};
use trace_store::{SpanWriter, StoreError};

use crate::handler::{GroupHandler, GroupMaker, HandleError, MakeError, without_spans};
use crate::progress::Progress;

/// Writes batches through a [`SpanWriter`].
#[derive(Debug)]
pub struct StorageWriterHandler {
    group: GroupId,
    writer: Arc<dyn SpanWriter>,
    incarnation: u64,
    progress: Progress,
}

impl StorageWriterHandler {
    /// A handler for the log of this incarnation.
    #[must_use]
    pub fn new(writer: Arc<dyn SpanWriter>, incarnation: u64) -> Self {
        Self::of_group(STORAGE_WRITER, writer, incarnation)
    }

    /// A handler that does the same for another group.
    pub(crate) fn of_group(group: GroupId, writer: Arc<dyn SpanWriter>, incarnation: u64) -> Self {
        Self { group, writer, incarnation, progress: Progress::new(incarnation) }
    }
}

#[async_trait]
impl GroupHandler for StorageWriterHandler {
    fn group(&self) -> GroupId {
        self.group
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        self.writer.write(batches).await.map_err(handle_error)?;
        for batch in batches {
            self.progress.hand(batch.incarnation, batch.range);
        }
        Ok(())
    }

    async fn tick(
        &mut self,
        now: UnixNanos,
        _log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        self.writer.flush(now, is_closing).await.map_err(handle_error)
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        // The store of dashboards answers nothing that says how far it reaches.
        let told = self.group == STORAGE_WRITER;
        if let Some(batch) = without_spans(self.incarnation, damaged).filter(|_| told) {
            match self.writer.write(&[batch]).await {
                // The cover of the store goes on over them, and their group's commit with it.
                Ok(()) => {
                    self.progress.hand(self.incarnation, damaged.range);
                    return Ok(());
                }
                Err(StoreError::Refused(_)) => {}
                Err(error) => return Err(handle_error(error)),
            }
        }
        self.progress.set_aside(damaged.range);
        Ok(())
    }

    async fn take_again(&mut self, batch: &LoggedBatch, now: UnixNanos) -> Result<(), HandleError> {
        self.writer.write_again(batch).await.map_err(handle_again_error)?;
        self.writer.flush(now, true).await.map_err(handle_error)
    }

    fn durable(&self) -> Coverage {
        self.progress.durable(&self.writer.durable())
    }
}

/// A store that cannot take a letter will not by waiting.
pub(crate) fn handle_again_error(error: StoreError) -> HandleError {
    match error {
        StoreError::Unsupported(reason) => HandleError::Poison(reason),
        StoreError::Refused(_)
        | StoreError::Full
        | StoreError::Busy
        | StoreError::Unavailable(_)
        | StoreError::Fenced
        | StoreError::Damaged(_)
        | StoreError::NewerFormat { .. } => handle_error(error),
    }
}

/// Makes the group's handler.
#[derive(Debug)]
pub struct StorageWriterMaker {
    /// The store.
    pub writer: Arc<dyn SpanWriter>,
    /// Incarnation of the log.
    pub incarnation: u64,
}

#[async_trait]
impl GroupMaker for StorageWriterMaker {
    fn group(&self) -> GroupId {
        STORAGE_WRITER
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        Ok(Box::new(StorageWriterHandler::new(Arc::clone(&self.writer), self.incarnation)))
    }
}

/// Only a record that the store refuses is poison. A store that is full, away, damaged or too old
/// for its files is no fault of the record: it is tried again until a person has mended the store,
/// and shows as lag.
pub(crate) fn handle_error(error: StoreError) -> HandleError {
    match error {
        StoreError::Refused(reason) => HandleError::Poison(reason),
        StoreError::Fenced => HandleError::Fenced(error.to_string()),
        StoreError::Full
        | StoreError::Busy
        | StoreError::Unavailable(_)
        | StoreError::Damaged(_)
        | StoreError::NewerFormat { .. }
        | StoreError::Unsupported(_) => HandleError::Retry(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proto::{BatchSource, SpanBatchBuilder};
    use trace_model::{LogRange, Region, TenantId};

    use super::*;

    /// A store that makes durable what it was given when it is forced to.
    #[derive(Debug)]
    struct FakeWriter {
        /// Next offset written, and durable.
        state: Mutex<(u64, Coverage)>,
    }

    #[async_trait]
    impl SpanWriter for FakeWriter {
        async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
            self.state.lock().unwrap().0 = batches.last().unwrap().range.next;
            Ok(())
        }

        async fn flush(&self, _: UnixNanos, force: bool) -> Result<(), StoreError> {
            let mut state = self.state.lock().unwrap();
            if force && state.0 > 0 {
                let next = state.0;
                state.1.extend(0, next);
            }
            Ok(())
        }

        fn durable(&self) -> Coverage {
            self.state.lock().unwrap().1.clone()
        }
    }

    fn logged(first: u64) -> LoggedBatch {
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "c".into(),
            receive_time: UnixNanos(1),
            digest: first,
        };
        LoggedBatch {
            incarnation: 7,
            range: LogRange { partition: 0, first, next: first + 2 },
            append_time: UnixNanos(1),
            batch: Arc::new(SpanBatchBuilder::new().finish(source).unwrap()),
        }
    }

    fn damaged(first: u64, next: u64) -> DamagedRange {
        let range = LogRange { partition: 0, first, next };
        let append_times = (UnixNanos(0), UnixNanos(1));
        DamagedRange { range, append_times, reason: "crc".into(), stranger: None }
    }

    #[tokio::test]
    async fn only_what_the_store_has_made_durable_is_durable_and_set_aside_records_behind_it() {
        let writer = Arc::new(FakeWriter { state: Mutex::new((0, Coverage::none(7))) });
        let mut handler = StorageWriterHandler::new(writer, 7);
        let next = |handler: &StorageWriterHandler| handler.durable().next.get(&0).copied();
        handler.skip(&damaged(0, 4)).await.unwrap();
        assert_eq!(next(&handler), None, "the store's cover must not stay before them");
        handler.tick(UnixNanos(1), None, true).await.unwrap();
        assert_eq!(next(&handler), Some(4));
        handler.handle(&[logged(4), logged(6)]).await.unwrap();
        handler.skip(&damaged(8, 9)).await.unwrap();
        handler.tick(UnixNanos(1), None, false).await.unwrap();
        assert_eq!(next(&handler), Some(4));
        handler.tick(UnixNanos(1), None, true).await.unwrap();
        assert_eq!(next(&handler), Some(9));
    }

    #[tokio::test]
    async fn another_group_over_the_same_kind_of_store_has_offsets_of_its_own() {
        let writer = Arc::new(FakeWriter { state: Mutex::new((0, Coverage::none(7))) });
        let maker = crate::AnalyticsWriterMaker { writer, incarnation: 7 };
        let mut handler = maker.make().await.unwrap();
        assert_eq!((handler.group(), maker.group().0), (maker.group(), "analytics-writer"));
        handler.handle(&[logged(0)]).await.unwrap();
        assert_eq!(handler.durable().next.get(&0), None);
        handler.tick(UnixNanos(1), None, true).await.unwrap();
        assert_eq!(handler.durable().next.get(&0), Some(&2));
    }

    #[test]
    fn only_a_refused_record_is_poison() {
        let refused = handle_error(StoreError::Refused("no such tenant".into()));
        assert!(matches!(refused, HandleError::Poison(reason) if reason == "no such tenant"));
        for passing in [
            StoreError::Full,
            StoreError::Unavailable("disk".into()),
            StoreError::Damaged("segment".into()),
            StoreError::NewerFormat { file: "f".into(), found: 2, known: 1 },
            StoreError::Unsupported("that".into()),
        ] {
            assert!(matches!(handle_error(passing), HandleError::Retry(_)));
        }
    }
}
