//! A store whose segments go to objects as soon as they are sealed, behind all ports: the suites run on
//! it as on any adapter.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use proto::LoggedBatch;
use trace_model::{Clock, Coverage, SearchQuery, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::{
    ColdLimits, ColdTier, EmbeddedStore, Eraser, ErasureReceipt, NameList, ObjectStorage,
    Operation, SearchAnswer, SearchIndexer, ServiceCatalog, SpanWriter, StoreError, StoreFigures,
    TraceRead, TraceReader, TraceSearch,
};

use crate::harness::small_config;

/// Limits for objects that answer at once or not at all.
pub(crate) fn limits() -> ColdLimits {
    ColdLimits {
        read_timeout: Duration::from_millis(500),
        upload_timeout: Duration::from_millis(500),
        ..ColdLimits::default()
    }
}

/// A tier over these objects, to which segments go at once.
pub(crate) fn tier(
    objects: Arc<dyn ObjectStore>,
    limits: ColdLimits,
    clock: &Arc<dyn Clock>,
) -> ColdTier {
    let prefix = ObjectPath::from("spans").join("eu-west-1");
    let storage = ObjectStorage::over(objects, prefix, limits, Arc::clone(clock));
    ColdTier::new(Arc::new(storage), Duration::ZERO, 1 << 20, rand::random())
}

/// An embedded store that moves everything after each forced flush and each erasure.
#[derive(Debug)]
pub(crate) struct AlwaysCold(pub(crate) Arc<EmbeddedStore>);

impl AlwaysCold {
    pub(crate) fn open(
        directory: &Path,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let tier = tier(objects, ColdLimits::default(), &clock);
        Self(EmbeddedStore::open_tiered(small_config(directory), tier, clock).unwrap())
    }

    async fn move_all(&self) -> Result<(), StoreError> {
        self.0.move_cold().await?;
        let segments = self.0.figures().segments;
        assert_eq!(self.0.metrics().cold.objects.get(), i64::try_from(segments).unwrap());
        Ok(())
    }
}

#[async_trait]
impl SpanWriter for AlwaysCold {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.0.write(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        SpanWriter::flush(&*self.0, now, force).await?;
        if force { self.move_all().await } else { Ok(()) }
    }

    fn durable(&self) -> Coverage {
        self.0.durable()
    }
}

#[async_trait]
impl SearchIndexer for AlwaysCold {
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.0.index(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        SearchIndexer::flush(&*self.0, now, force).await
    }

    fn indexed(&self) -> Coverage {
        self.0.indexed()
    }
}

#[async_trait]
impl TraceReader for AlwaysCold {
    async fn read_trace(&self, tenant: &TenantId, id: TraceId) -> Result<TraceRead, StoreError> {
        self.0.read_trace(tenant, id).await
    }

    fn figures(&self) -> StoreFigures {
        self.0.figures()
    }
}

#[async_trait]
impl TraceSearch for AlwaysCold {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        self.0.search(query).await
    }
}

#[async_trait]
impl ServiceCatalog for AlwaysCold {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        self.0.services(tenant, range).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.0.operations(tenant, service, range).await
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        self.0.listed().await
    }
}

#[async_trait]
impl Eraser for AlwaysCold {
    async fn erase(&self, tenant: &TenantId, id: TraceId) -> Result<ErasureReceipt, StoreError> {
        let receipt = self.0.erase(tenant, id).await?;
        self.move_all().await?;
        Ok(receipt)
    }
}
