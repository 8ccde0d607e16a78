//! The counts: deltas in, series, edges and traces out.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use trace_model::{Clock, Coverage, TenantId, TimeRange, TraceId, UnixNanos};

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::schema;
use crate::port::{
    EdgeKey, EdgePlace, EdgeRow, EdgeTraceQuery, EdgeTraces, Eraser, ErasureReceipt, MetricsDelta,
    MetricsStore, Page, RedKey, RedQuery, RedRow, StoreError,
};

mod encode;
mod erased;
mod journal;
mod pages;
mod progress;
mod question;
mod writer;

pub(super) use erased::{Erased, Scrub};
use writer::Writer;

/// Counts in a ClickHouse database.
///
/// Any number of processes may ask; one counts. The first [`MetricsStore::apply`] and every
/// [`MetricsStore::checkpoint`] make a process the one that counts: it finishes what another has left
/// half done, and the one before it is refused until it asks for the checkpoint again.
#[derive(Debug)]
pub struct ClickhouseMetricsStore {
    engine: Engine,
    clock: Arc<dyn Clock>,
    writer: Mutex<Writer>,
}

impl ClickhouseMetricsStore {
    /// Connects to a database that [`super::init`] has made.
    ///
    /// Fails where the settings have faults, the engine is away, or the database is missing or of a
    /// newer release.
    pub async fn connect(
        config: ClickhouseConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let engine = Engine::open(config)?;
        schema::check(&engine).await?;
        Ok(Self { engine, clock, writer: Mutex::new(Writer::default()) })
    }
}

/// Closes the counts of a database: nobody goes on with them, and nobody opens them.
pub(super) async fn close_counts(engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
    let position = progress::position(engine).await?;
    progress::note(engine, progress::CLOSED, progress::Step::Opened, &position, now).await
}

/// How far the log is counted in a database.
pub(super) async fn counted(engine: &Engine) -> Result<Coverage, StoreError> {
    Ok(progress::position(engine).await?.covered)
}

#[async_trait]
impl MetricsStore for ClickhouseMetricsStore {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        writer.settle(&self.engine, &*self.clock).await?;
        writer.apply(&self.engine, delta, self.clock.now()).await
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        let mut writer = self.writer.lock().await;
        // A new turn knows nothing of the last one: another may have counted in between.
        *writer = Writer::default();
        writer.settle(&self.engine, &*self.clock).await?;
        writer.checkpoint(&self.engine).await
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        counted(&self.engine).await
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        question::red(&self.engine, query).await
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        question::edges(&self.engine, tenant, range).await
    }

    async fn red_page(
        &self,
        query: &RedQuery,
        after: Option<&RedKey>,
        rows_max: usize,
    ) -> Result<Page<(RedKey, RedRow)>, StoreError> {
        pages::red_page(&self.engine, query, after, rows_max).await
    }

    async fn edges_page(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        after: Option<&EdgePlace>,
        edges_max: usize,
    ) -> Result<Page<(EdgeKey, EdgeRow)>, StoreError> {
        pages::edges_page(&self.engine, (tenant, range), after, edges_max).await
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        question::edge_traces(&self.engine, query).await
    }
}

#[async_trait]
impl Eraser for ClickhouseMetricsStore {
    /// Takes about a minute where something is found: the engine removes replaced parts in its own
    /// time, and this waits for it.
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let mut writer = self.writer.lock().await;
        let files = writer.erase(&self.engine, (tenant, trace_id), &*self.clock).await?;
        Ok(ErasureReceipt { files, spans: 0 })
    }
}
