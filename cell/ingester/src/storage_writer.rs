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

use crate::handler::{GroupHandler, HandleError};
use crate::progress::Progress;

/// Writes batches through a [`SpanWriter`].
#[derive(Debug)]
pub struct StorageWriterHandler {
    writer: Arc<dyn SpanWriter>,
    progress: Progress,
}

impl StorageWriterHandler {
    /// A handler for the log of this incarnation.
    #[must_use]
    pub fn new(writer: Arc<dyn SpanWriter>, incarnation: u64) -> Self {
        Self { writer, progress: Progress::new(incarnation) }
    }
}

#[async_trait]
impl GroupHandler for StorageWriterHandler {
    fn group(&self) -> GroupId {
        STORAGE_WRITER
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
        self.progress.set_aside(damaged.range);
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.progress.durable(&self.writer.durable())
    }
}

/// Only a record that the store refuses is poison. A store that is full, away, damaged or too old
/// for its files is no fault of the record: it is tried again until a person has mended the store,
/// and shows as lag.
pub(crate) fn handle_error(error: StoreError) -> HandleError {
    match error {
        StoreError::Refused(reason) => HandleError::Poison(reason),
        StoreError::Full
        | StoreError::Unavailable(_)
        | StoreError::Damaged(_)
        | StoreError::NewerFormat { .. }
        | StoreError::Unsupported(_) => HandleError::Retry(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
