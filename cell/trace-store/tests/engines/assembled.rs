//! One store out of the ports of several: what an adapter does not have, the store in memory does, so
//! that each adapter runs the whole suite and answers for its own ports.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::{Coverage, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::{
    Eraser, ErasureReceipt, MemoryStore, NameList, Operation, SearchAnswer, SearchIndexer,
    ServiceCatalog, SpanWriter, StoreError, StoreFigures, TraceRead, TraceReader, TraceSearch,
};

/// Which store answers for which port.
#[derive(Clone)]
pub(crate) struct Assembled {
    pub(crate) writer: Arc<dyn SpanWriter>,
    pub(crate) reader: Arc<dyn TraceReader>,
    /// A trace is erased from each; the first one's receipt counts.
    pub(crate) erasers: Vec<Arc<dyn Eraser>>,
    pub(crate) indexer: Arc<dyn SearchIndexer>,
    pub(crate) search: Arc<dyn TraceSearch>,
    pub(crate) catalog: Arc<dyn ServiceCatalog>,
}

impl Assembled {
    /// Everything in one memory.
    pub(crate) fn in_memory(memory: Arc<MemoryStore>) -> Self {
        Self {
            writer: memory.clone(),
            reader: memory.clone(),
            erasers: vec![memory.clone()],
            indexer: memory.clone(),
            search: memory.clone(),
            catalog: memory,
        }
    }
}

impl fmt::Debug for Assembled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Assembled")
    }
}

#[async_trait]
impl SpanWriter for Assembled {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.writer.write(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.writer.flush(now, force).await
    }

    fn durable(&self) -> Coverage {
        self.writer.durable()
    }
}

#[async_trait]
impl TraceReader for Assembled {
    async fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TraceRead, StoreError> {
        self.reader.read_trace(tenant, trace_id).await
    }

    fn figures(&self) -> StoreFigures {
        self.reader.figures()
    }
}

#[async_trait]
impl Eraser for Assembled {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let mut first = None;
        for eraser in &self.erasers {
            let receipt = eraser.erase(tenant, trace_id).await?;
            first.get_or_insert(receipt);
        }
        Ok(first.unwrap())
    }
}

#[async_trait]
impl SearchIndexer for Assembled {
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.indexer.index(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.indexer.flush(now, force).await
    }

    fn indexed(&self) -> Coverage {
        self.indexer.indexed()
    }
}

#[async_trait]
impl TraceSearch for Assembled {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        self.search.search(query).await
    }
}

#[async_trait]
impl ServiceCatalog for Assembled {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        self.catalog.services(tenant, range).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.catalog.operations(tenant, service, range).await
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        self.catalog.listed().await
    }
}
