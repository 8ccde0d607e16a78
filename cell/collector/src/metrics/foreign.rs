//! The metrics of foreign records. Their spans count as any that were received, too.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use span_log::ForeignFigures;

use super::{Reason, reason};
use crate::receipt::Receipt;

/// What is counted of foreign records. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct ForeignMetrics {
    /// Records whose spans the log has acknowledged.
    pub records: Counter,
    /// Spans of these, those left out by head sampling included.
    pub spans: Counter,
    /// Tries after a refusal.
    pub retries: Counter,
    /// Records taken by retention before they were read.
    pub expired_records: Gauge,
    /// Records that are not settled.
    pub lag_records: Gauge,
    /// Partitions read here.
    pub partitions: Gauge,
    /// 1 while reading rests.
    pub paused: Gauge,
    rejected_spans: Family<Reason, Counter>,
    dead_records: Family<Reason, Counter>,
}

impl ForeignMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("farspan_foreign");
        let Self { records, spans, retries, .. } = &metrics;
        registry.register("records", "Foreign records taken to the span log", records.clone());
        registry.register("spans", "Spans of foreign records acknowledged", spans.clone());
        registry.register("retries", "Tries of foreign records after a refusal", retries.clone());
        registry.register(
            "rejected_spans",
            "Spans of foreign records not taken while the rest was",
            metrics.rejected_spans.clone(),
        );
        registry.register(
            "dead_records",
            "Foreign records stepped over for good",
            metrics.dead_records.clone(),
        );
        registry.register(
            "expired_records",
            "Foreign records taken by their topic's retention before they were read, since the start",
            metrics.expired_records.clone(),
        );
        registry.register(
            "lag_records",
            "Foreign records not settled, in the partitions read here",
            metrics.lag_records.clone(),
        );
        registry.register(
            "assigned_partitions",
            "Partitions of foreign topics read here",
            metrics.partitions.clone(),
        );
        registry.register(
            "paused",
            "1 while foreign topics rest for want of acknowledgements",
            metrics.paused.clone(),
        );
        metrics
    }

    pub(crate) fn count_taken(&self, receipt: &Receipt) {
        self.records.inc();
        self.spans.inc_by(u64::from(receipt.accepted));
        for (rejected, spans) in receipt.rejected.occurred() {
            let label = reason(rejected.label());
            self.rejected_spans.get_or_create(&label).inc_by(u64::from(spans));
        }
    }

    pub(crate) fn count_dead(&self, word: &'static str) {
        self.dead_records.get_or_create(&reason(word)).inc();
    }

    /// Records stepped over, for whatever reason is named.
    #[must_use]
    pub fn dead(&self, word: &'static str) -> u64 {
        self.dead_records.get_or_create(&reason(word)).get()
    }

    pub(crate) fn show(&self, figures: &ForeignFigures) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.expired_records.set(number(figures.expired_records));
        self.lag_records.set(number(figures.lag_records));
        self.partitions.set(number(figures.partitions));
        self.paused.set(i64::from(figures.is_paused));
    }
}
