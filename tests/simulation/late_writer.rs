//! A store that takes its time: what it is given waits in memory, as in a store that fills a segment,
//! and a crash takes it. Until it is durable the live tail alone has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::{Clock, Coverage, UnixNanos};
use trace_store::{MemoryStore, SpanWriter, StoreError};

/// How long the oldest batch waits.
const WAIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct LateWriter {
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    waiting: Mutex<Vec<LoggedBatch>>,
    /// When the oldest of them came.
    since: Mutex<Duration>,
}

impl LateWriter {
    pub(crate) fn new(store: Arc<MemoryStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, waiting: Mutex::default(), since: Mutex::default() }
    }

    fn take_due(&self, is_forced: bool) -> Vec<LoggedBatch> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = self.clock.monotonic().saturating_sub(since) >= WAIT;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if is_due || is_forced { std::mem::take(&mut *waiting) } else { Vec::new() }
    }
}

#[async_trait]
impl SpanWriter for LateWriter {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            let now = self.clock.monotonic();
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        waiting.extend_from_slice(batches);
        Ok(())
    }

    async fn flush(&self, now: UnixNanos, is_forced: bool) -> Result<(), StoreError> {
        let due = self.take_due(is_forced);
        self.store.write(&due).await?;
        self.store.flush(now, is_forced).await
    }

    fn durable(&self) -> Coverage {
        self.store.durable()
    }
}
