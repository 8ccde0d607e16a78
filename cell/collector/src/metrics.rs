//! The collector's metrics.

pub(crate) mod foreign;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sampling::DropCause;

use crate::receipt::Receipt;
use crate::status::RefuseReason;

/// What a collector counts. Clones share their values.
#[derive(Clone, Debug)]
pub struct CollectorMetrics {
    /// Spans received, not acknowledged.
    pub queue_spans: Gauge,
    /// Bytes received, not acknowledged.
    pub in_flight_bytes: Gauge,
    /// Spans acknowledged.
    pub accepted_spans: Counter,
    /// Spans whose own start cannot serve as their place in time.
    pub placed_at_receive_time_spans: Counter,
    /// Bytes of bodies after decompression.
    pub body_bytes: Counter,
    /// From a whole body to its acknowledgement.
    pub acknowledge_seconds: Histogram,
    /// Open connections.
    pub connections: Gauge,
    rejected_spans: Family<Reason, Counter>,
    sampled_out_spans: Family<Reason, Counter>,
    refused_requests: Family<Reason, Counter>,
}

/// The label `reason`; its words come from enumerations only.
type Reason = [(&'static str, &'static str); 1];

const fn reason(word: &'static str) -> Reason {
    [("reason", word)]
}

impl CollectorMetrics {
    /// Metrics at zero, shown by this registry.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::at_zero();
        let registry = registry.sub_registry_with_prefix("farspan_collector");
        registry.register(
            "queue_spans",
            "Spans received and not acknowledged",
            metrics.queue_spans.clone(),
        );
        registry.register(
            "in_flight_bytes",
            "Bytes received and not acknowledged",
            metrics.in_flight_bytes.clone(),
        );
        registry.register(
            "accepted_spans",
            "Spans acknowledged, those left out by head sampling included",
            metrics.accepted_spans.clone(),
        );
        registry.register(
            "placed_at_receive_time_spans",
            "Spans whose start cannot be right, found by their receive time",
            metrics.placed_at_receive_time_spans.clone(),
        );
        registry.register(
            "body_bytes",
            "Bytes of request bodies after decompression",
            metrics.body_bytes.clone(),
        );
        registry.register(
            "acknowledge_seconds",
            "Time from a whole body to its acknowledgement",
            metrics.acknowledge_seconds.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        metrics.register_by_reason(registry);
        metrics
    }

    fn at_zero() -> Self {
        Self {
            queue_spans: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            accepted_spans: Counter::default(),
            placed_at_receive_time_spans: Counter::default(),
            body_bytes: Counter::default(),
            acknowledge_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            connections: Gauge::default(),
            rejected_spans: Family::default(),
            sampled_out_spans: Family::default(),
            refused_requests: Family::default(),
        }
    }

    fn register_by_reason(&self, registry: &mut Registry) {
        registry.register(
            "rejected_spans",
            "Spans not taken while the rest of their request was",
            self.rejected_spans.clone(),
        );
        registry.register(
            "sampled_out_spans",
            "Spans left out by head sampling",
            self.sampled_out_spans.clone(),
        );
        registry.register(
            "refused_requests",
            "Requests refused as a whole",
            self.refused_requests.clone(),
        );
    }

    /// Counts the spans of a request that was taken. One that is refused counts nothing here: its
    /// sender repeats it.
    pub fn count_receipt(&self, receipt: &Receipt) {
        self.accepted_spans.inc_by(u64::from(receipt.accepted));
        for (rejected, spans) in receipt.rejected.occurred() {
            let label = reason(rejected.label());
            self.rejected_spans.get_or_create(&label).inc_by(u64::from(spans));
        }
        for (cause, spans) in
            [(DropCause::Rate, receipt.below_rate), (DropCause::UnsampledFlag, receipt.unsampled)]
        {
            if spans > 0 {
                let label = reason(cause.label());
                self.sampled_out_spans.get_or_create(&label).inc_by(u64::from(spans));
            }
        }
    }

    /// Counts a request that was refused.
    pub fn count_refusal(&self, refused: RefuseReason) {
        self.refused_requests.get_or_create(&reason(refused.label())).inc();
    }

    /// Notes how long an acknowledgement took.
    pub fn observe_acknowledgement(&self, took: Duration) {
        self.acknowledge_seconds.observe(took.as_secs_f64());
    }

    /// Counts spans as queued until the guard is dropped.
    #[must_use]
    pub fn queue(&self, spans: usize) -> QueuedSpans {
        let spans = i64::try_from(spans).unwrap_or(i64::MAX);
        self.queue_spans.inc_by(spans);
        QueuedSpans { gauge: self.queue_spans.clone(), spans }
    }
}

/// Spans that are received and not acknowledged; also where their sender went away meanwhile.
#[derive(Debug)]
pub struct QueuedSpans {
    gauge: Gauge,
    spans: i64,
}

impl Drop for QueuedSpans {
    fn drop(&mut self) {
        self.gauge.dec_by(self.spans);
    }
}
