//! Raw spans into `otel_traces`, for dashboards: a consumer group of its own writes them.
//!
//! A run is the records of one log partition from an offset to another. It is written down in
//! `span_blocks` (begun), inserted, and written down again (done). What a crash leaves begun and not
//! done is cut at the same place when the log gives its records again, and looked for before it is
//! sent; what is done is skipped.
//!
//! While blocks are inserted more is taken, up to a limit of bytes.
//!
//! The log holds what a sender repeats as a record of its own, and the table has no key: a trace of a
//! request that was taken within the last minutes is not written again. What is remembered for that lies
//! in memory, so a run in doubt may be cut with rows that its first try had left out, or without some
//! that it had. That is harmless: what a try leaves out stands in a run that was stored before this one
//! was begun, or in every try of this one; and of two tries of a block one alone is stored, since its
//! number and its token are those of the run.
//!
//! **Never** takes more once an insert has failed: the group then waits, and the log keeps.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::{Clock, Coverage, TenantId, TraceId, UnixNanos};

use super::client::Engine;
use super::config::ClickhouseConfig;
use super::metrics::{Erased, Scrub};
use super::schema;
use crate::metrics::ClickhouseSpansMetrics;
use crate::port::{Eraser, ErasureReceipt, SpanWriter, StoreError};

mod columns;
mod flight;
mod progress;
mod row;
mod run;
mod window;
mod writer;

use writer::Writer;

/// Writes raw spans to a ClickHouse database.
///
/// Several processes may write, each the partitions that its group gives it.
#[derive(Debug)]
pub struct ClickhouseSpans {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    writer: tokio::sync::Mutex<Writer>,
    /// A copy of the writer's, to be asked without waiting.
    durable: Mutex<Coverage>,
}

impl ClickhouseSpans {
    /// Connects to a database that [`super::init`] has made, and reads how far it holds the log.
    ///
    /// Fails where the settings have faults, the engine is away, or the database is missing or of a
    /// newer release. A table that is being swapped is opened all the same, and refuses what is written.
    pub async fn connect(
        config: ClickhouseConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let engine = Arc::new(Engine::open(config)?);
        schema::check(&engine).await?;
        let writer = Writer::open(&engine).await?;
        let durable = Mutex::new(writer.durable().clone());
        Ok(Self { engine, clock, writer: tokio::sync::Mutex::new(writer), durable })
    }

    /// Its counters, to be registered.
    pub async fn metrics(&self) -> ClickhouseSpansMetrics {
        self.writer.lock().await.metrics.clone()
    }

    fn publish(&self, writer: &Writer) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.clone_from(writer.durable());
    }
}

/// Lets nobody write raw spans into a database from its next turn on.
pub(super) async fn close_spans(engine: &Engine, now: UnixNanos) -> Result<(), StoreError> {
    progress::close(engine, now).await
}

/// How far a database holds the raw spans of the log.
pub(super) async fn stored(engine: &Engine) -> Result<Coverage, StoreError> {
    Ok(Writer::open(engine).await?.durable().clone())
}

#[async_trait]
impl SpanWriter for ClickhouseSpans {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        writer.require_open(&self.engine).await?;
        let written = writer.write(&self.engine, batches, self.clock.now()).await;
        self.publish(&writer);
        written
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let flushed = writer.flush(&self.engine, now, force).await;
        self.publish(&writer);
        flushed
    }

    fn durable(&self) -> Coverage {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn begin_turn(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        // What still arrives must not arrive behind the look at what is begun and done.
        writer.land_all().await;
        let mut opened = Writer::open(&self.engine).await?;
        opened.require_open(&self.engine).await?;
        opened.go_on_from(&mut writer);
        *writer = opened;
        self.publish(&writer);
        Ok(())
    }
}

#[async_trait]
impl Eraser for ClickhouseSpans {
    /// Takes about a minute where something is found: the engine removes replaced parts in its own
    /// time, and this waits for it.
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let mut writer = self.writer.lock().await;
        let now = self.clock.now();
        Erased::note(&self.engine, tenant, trace_id, now).await?;
        writer.refuse(tenant, trace_id);
        // What is in memory goes the way of what is stored.
        let flushed = writer.flush(&self.engine, now, true).await;
        self.publish(&writer);
        flushed?;
        let scrubbed = Scrub::spans(tenant, trace_id).run(&self.engine).await?;
        let spans = scrubbed.first().map_or(0, |(_, rows)| *rows);
        let files = Scrub::wait_until_gone(&self.engine, &scrubbed).await?;
        Ok(ErasureReceipt { files, spans })
    }
}
