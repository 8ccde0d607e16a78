//! Writes records again into a store that knows each by what it holds, and leaves the store's progress
//! alone: what another has yet to write is not called written, and nothing goes back.

use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use span_log::port::{SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{DamagedRange, GroupId};
use trace_model::{Coverage, UnixNanos};
use trace_store::{SearchIndexer, SpanWriter, StoreError};

use crate::handler::{GroupHandler, HandleError};
use crate::storage_writer::handle_error;

/// What was written again is made durable, or to be found, at least this often.
const FLUSH_NANOS: u64 = 5_000_000_000;

#[derive(Clone, Debug)]
enum Store {
    Spans(Arc<dyn SpanWriter>),
    Search(Arc<dyn SearchIndexer>),
}

/// Writes again what a group has written, or will write.
#[derive(Debug)]
pub struct AgainHandler {
    store: Store,
    taken: Coverage,
    durable: Coverage,
    flushed_at: UnixNanos,
}

impl AgainHandler {
    /// Into the store of storage-writer.
    #[must_use]
    pub fn spans(writer: Arc<dyn SpanWriter>, incarnation: u64) -> Self {
        Self::of(Store::Spans(writer), incarnation)
    }

    /// Into the index of search-indexer.
    #[must_use]
    pub fn search(indexer: Arc<dyn SearchIndexer>, incarnation: u64) -> Self {
        Self::of(Store::Search(indexer), incarnation)
    }

    fn of(store: Store, incarnation: u64) -> Self {
        let none = Coverage::none(incarnation);
        Self { store, taken: none.clone(), durable: none, flushed_at: UnixNanos(0) }
    }
}

#[async_trait]
impl GroupHandler for AgainHandler {
    fn group(&self) -> GroupId {
        match self.store {
            Store::Spans(_) => STORAGE_WRITER,
            Store::Search(_) => SEARCH_INDEXER,
        }
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        let written: Result<(), StoreError> = match &self.store {
            Store::Spans(writer) => writer.write_all_again(batches).await,
            Store::Search(indexer) => indexer.index_all_again(batches).await,
        };
        written.map_err(handle_error)?;
        for batch in batches {
            self.taken.extend_in(batch.incarnation, batch.range.partition, batch.range.next);
        }
        Ok(())
    }

    async fn tick(
        &mut self,
        now: UnixNanos,
        _log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        let is_due = now.since(self.flushed_at) >= FLUSH_NANOS;
        if self.taken == self.durable || !(is_due || is_closing) {
            return Ok(());
        }
        let flushed = match &self.store {
            Store::Spans(writer) => writer.flush(now, true).await,
            Store::Search(indexer) => indexer.flush(now, true).await,
        };
        flushed.map_err(handle_error)?;
        self.flushed_at = now;
        self.durable = self.taken.clone();
        Ok(())
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        self.taken.extend(damaged.range.partition, damaged.range.next);
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.durable.clone()
    }
}
