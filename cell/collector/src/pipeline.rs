//! The way of a request, one function a stage: admit → validate → enrich → sample → batch →
//! append. The pipeline knows the log and the sampler through their ports, and no store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::{BatchSource, SpanBatch};
use sampling::HeadSampler;
use span_log::port::SpanLog;
use tokio::time::timeout;
use trace_model::{Clock, Region, TenantId, UnixNanos};

use crate::admission::{Admission, Admitted};
use crate::batch::batch;
use crate::config::{CollectorConfig, SpanLimits};
use crate::enrich::enrich;
use crate::error::ExportError;
use crate::metrics::CollectorMetrics;
use crate::receipt::{Receipt, Rejections};
use crate::sample::sample;
use crate::validate::validate;

/// A request that was received whole.
#[derive(Debug)]
pub struct ExportRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// `ExportTraceServiceRequest` in protobuf, whatever it was sent as.
    pub body: Bytes,
    /// Spans that were rejected on the way to this body, and are not in it.
    pub rejected: Rejections,
    /// xxh3-64 of the body as sent, uncompressed.
    pub digest: u64,
    /// When it was received, where that was not just now.
    pub received: Option<UnixNanos>,
    /// Its part of the account of what is in flight.
    pub admitted: Admitted,
}

/// The stages and what they work with.
#[derive(Debug)]
pub struct Pipeline {
    region: Region,
    name: Arc<str>,
    limits: SpanLimits,
    acknowledge_timeout: Duration,
    admission: Arc<Admission>,
    log: Arc<dyn SpanLog>,
    sampler: Arc<dyn HeadSampler>,
    clock: Arc<dyn Clock>,
    metrics: CollectorMetrics,
}

impl Pipeline {
    /// A pipeline into this log.
    #[must_use]
    pub fn new(
        config: &CollectorConfig,
        log: Arc<dyn SpanLog>,
        sampler: Arc<dyn HeadSampler>,
        clock: Arc<dyn Clock>,
        metrics: CollectorMetrics,
    ) -> Self {
        Self {
            region: config.region.clone(),
            name: config.name.as_str().into(),
            limits: config.limits,
            acknowledge_timeout: config.acknowledge_timeout,
            admission: Arc::new(Admission::new(config.admission, metrics.in_flight_bytes.clone())),
            log,
            sampler,
            clock,
            metrics,
        }
    }

    /// Lets a request of so many announced bytes in, or refuses it: before its body is read.
    pub fn admit(&self, announced: usize) -> Result<Admitted, ExportError> {
        self.admission.admit(announced)
    }

    /// Takes a request to the log. `Ok` means that every span that the receipt calls accepted is
    /// durable, or was left out by head sampling.
    pub async fn export(&self, request: ExportRequest) -> Result<Receipt, ExportError> {
        let started = self.clock.monotonic();
        let ExportRequest { tenant, body, rejected, digest, received, mut admitted } = request;
        let receive_time = received.unwrap_or_else(|| self.clock.now());
        let (batch, receipt) = {
            let mut validated = validate(&body, &self.limits())?;
            validated.rejected.add_all(&rejected);
            let enriched = enrich(validated, self.source(tenant, digest, receive_time));
            let misplaced = u64::from(enriched.placed_at_receive_time);
            self.metrics.placed_at_receive_time_spans.inc_by(misplaced);
            let sampled = sample(enriched, self.sampler.as_ref());
            let receipt = sampled.receipt;
            (batch(sampled).map_err(ExportError::Batch)?, receipt)
        };
        self.metrics.body_bytes.inc_by(body.len() as u64);
        drop(body);
        if let Some(batch) = batch {
            admitted.set(batch.encoded().len());
            self.append(batch).await?;
        }
        self.metrics.count_receipt(&receipt);
        self.metrics.observe_acknowledgement(self.clock.monotonic().saturating_sub(started));
        Ok(receipt)
    }

    /// The limits of a span: a larger one than the log can keep is rejected alone.
    fn limits(&self) -> SpanLimits {
        let log_max = self.log.span_bytes_max().unwrap_or(usize::MAX);
        let span_bytes_max = self.limits.span_bytes_max.min(log_max);
        SpanLimits { span_bytes_max, ..self.limits }
    }

    async fn append(&self, batch: SpanBatch) -> Result<(), ExportError> {
        let _queued = self.metrics.queue(batch.spans().len());
        let appended = timeout(self.acknowledge_timeout, self.log.append(Arc::new(batch))).await;
        appended.map_err(|_| ExportError::Unacknowledged)?.map_err(ExportError::Log)?;
        Ok(())
    }

    fn source(&self, tenant: TenantId, digest: u64, receive_time: UnixNanos) -> BatchSource {
        let (region, collector) = (self.region.clone(), Arc::clone(&self.name));
        BatchSource { tenant, region, collector, receive_time, digest }
    }
}
