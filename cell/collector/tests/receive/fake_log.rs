//! A span log in memory whose answers a test chooses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use span_log::port::{
    Appended, Capabilities, CommitError, DamagedRange, GroupId, LogEnd, LogError, LogIdentity,
    SpanLog, TailAnswer,
};
use tokio::sync::Semaphore;
use trace_model::{TenantId, TraceId, UnixNanos};

/// What the log does with a batch.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Keeps it.
    Keep,
    /// Refuses it.
    Refuse(LogError),
    /// Keeps it once the test lets it go.
    Hold,
}

/// Keeps batches; the port's reading half is not used by a collector.
#[derive(Debug)]
pub(crate) struct FakeLog {
    batches: Mutex<Vec<Arc<SpanBatch>>>,
    behaviour: Mutex<Behaviour>,
    released: Semaphore,
    span_bytes_max: Mutex<Option<usize>>,
}

impl FakeLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            batches: Mutex::default(),
            behaviour: Mutex::new(Behaviour::Keep),
            released: Semaphore::new(0),
            span_bytes_max: Mutex::default(),
        })
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// It keeps no larger span.
    pub(crate) fn keep_spans_of(&self, bytes_max: usize) {
        *self.span_bytes_max.lock().unwrap() = Some(bytes_max);
    }

    pub(crate) fn release(&self, batches: usize) {
        self.released.add_permits(batches);
    }

    pub(crate) fn batches(&self) -> Vec<Arc<SpanBatch>> {
        self.batches.lock().unwrap().clone()
    }

    /// Bytes of all spans kept, sorted.
    pub(crate) fn span_bytes(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for batch in self.batches() {
            all.extend(batch.spans().iter().map(|span| batch.bytes_of(span).to_vec()));
        }
        all.sort();
        all
    }

    pub(crate) fn span_count(&self) -> usize {
        self.batches().iter().map(|batch| batch.spans().len()).sum()
    }
}

#[async_trait]
impl SpanLog for FakeLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity { incarnation: 1, partitions: 1 }
    }

    fn span_bytes_max(&self) -> Option<usize> {
        *self.span_bytes_max.lock().unwrap()
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        let behaviour = self.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Keep => {}
            Behaviour::Refuse(error) => return Err(error),
            Behaviour::Hold => {
                self.released.acquire().await.map_err(|_| LogError::Closed)?.forget();
            }
        }
        // What a log writes must be what a reader reads.
        let read = SpanBatch::decode(batch.encoded().clone()).unwrap();
        assert_eq!(read.spans(), batch.spans());
        self.batches.lock().unwrap().push(batch);
        Ok(Appended { ranges: Vec::new(), append_time: UnixNanos(0) })
    }

    async fn read(&self, _: u32, _: u64, _: usize) -> Result<Vec<LoggedBatch>, LogError> {
        Err(LogError::Closed)
    }

    async fn wait_beyond(&self, _: u32, _: u64, _: Duration) -> Result<LogEnd, LogError> {
        Err(LogError::Closed)
    }

    fn end(&self, _: u32) -> Result<LogEnd, LogError> {
        Err(LogError::Closed)
    }

    async fn offset_at(&self, _: u32, _: UnixNanos) -> Result<u64, LogError> {
        Err(LogError::Closed)
    }

    fn committed(&self, _: GroupId, _: u32) -> Result<u64, LogError> {
        Err(LogError::Closed)
    }

    async fn commit(&self, _: GroupId, _: u32, _: u64) -> Result<(), CommitError> {
        Err(CommitError::Log(LogError::Closed))
    }

    async fn tail(&self, _: &TenantId, _: TraceId) -> Result<TailAnswer, LogError> {
        Err(LogError::Closed)
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        Vec::<DamagedRange>::new()
    }

    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}
