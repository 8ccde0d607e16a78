//! The group analytics-writer: records as raw spans into the store of dashboards, beside the trace
//! store and at its own pace.
//!
//! What that store has made durable is committed and no more. Nobody waits for it: where it is away
//! the group lags, and answers of the cell are the same.

use std::sync::Arc;

use async_trait::async_trait;
use span_log::{GroupId, Sharing};
use trace_store::{SpanWriter, StoreError};

use crate::handler::{GroupHandler, GroupMaker, MakeError};
use crate::storage_writer::StorageWriterHandler;

/// The group that writes raw spans for dashboards.
pub const ANALYTICS_WRITER: GroupId = GroupId("analytics-writer");

/// Makes the group's handler.
#[derive(Debug)]
pub struct AnalyticsWriterMaker {
    /// The store of dashboards.
    pub writer: Arc<dyn SpanWriter>,
    /// Incarnation of the log.
    pub incarnation: u64,
}

#[async_trait]
impl GroupMaker for AnalyticsWriterMaker {
    fn group(&self) -> GroupId {
        ANALYTICS_WRITER
    }

    /// What was written last is known to the process that wrote it.
    fn sharing(&self) -> Sharing {
        Sharing::Alone
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        let writer = Arc::clone(&self.writer);
        // What it remembers of an earlier turn is another process's meanwhile.
        let failed = |error: StoreError| MakeError {
            group: ANALYTICS_WRITER,
            reason: error.to_string(),
            is_away: error.is_retryable(),
        };
        writer.begin_turn().await.map_err(failed)?;
        Ok(Box::new(StorageWriterHandler::of_group(ANALYTICS_WRITER, writer, self.incarnation)))
    }
}
