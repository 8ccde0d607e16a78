//! The group search-indexer: records into the search index.
//!
//! What the index holds durably is committed and no more.

use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use span_log::port::SEARCH_INDEXER;
use span_log::{DamagedRange, GroupId};
use trace_model::{Coverage, UnixNanos};
use trace_store::{SearchIndexer, StoreError};

use crate::handler::{GroupHandler, GroupMaker, HandleError, MakeError, without_spans};
use crate::progress::Progress;
use crate::storage_writer::{handle_again_error, handle_error};

/// Indexes batches through a [`SearchIndexer`].
#[derive(Debug)]
pub struct SearchIndexerHandler {
    indexer: Arc<dyn SearchIndexer>,
    incarnation: u64,
    progress: Progress,
}

impl SearchIndexerHandler {
    /// A handler for the log of this incarnation.
    #[must_use]
    pub fn new(indexer: Arc<dyn SearchIndexer>, incarnation: u64) -> Self {
        Self { indexer, incarnation, progress: Progress::new(incarnation) }
    }
}

#[async_trait]
impl GroupHandler for SearchIndexerHandler {
    fn group(&self) -> GroupId {
        SEARCH_INDEXER
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        self.indexer.index(batches).await.map_err(handle_error)?;
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
        self.indexer.flush(now, is_closing).await.map_err(handle_error)
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        if let Some(batch) = without_spans(self.incarnation, damaged) {
            match self.indexer.index(&[batch]).await {
                // The cover of the index goes on over them, and their group's commit with it.
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
        self.indexer.index_again(batch).await.map_err(handle_again_error)?;
        self.indexer.flush(now, true).await.map_err(handle_error)
    }

    fn durable(&self) -> Coverage {
        self.progress.durable(&self.indexer.indexed())
    }
}

/// Makes the group's handler.
#[derive(Debug)]
pub struct SearchIndexerMaker {
    /// The index.
    pub indexer: Arc<dyn SearchIndexer>,
    /// Incarnation of the log.
    pub incarnation: u64,
}

#[async_trait]
impl GroupMaker for SearchIndexerMaker {
    fn group(&self) -> GroupId {
        SEARCH_INDEXER
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        Ok(Box::new(SearchIndexerHandler::new(Arc::clone(&self.indexer), self.incarnation)))
    }
}
