//! The metrics of the embedded store. Names and labels live here and nowhere else.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges of one store.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Spans that were sealed, duplicates left out.
    pub sealed_spans: Counter,
    /// Segments that were sealed.
    pub sealed_segments: Counter,
    /// Seals that failed and will be tried again.
    pub seal_failures: Counter,
    /// Spans refused or dropped since their trace is erased.
    pub erased_spans: Counter,
    /// Segments that merges have replaced.
    pub merged_segments: Counter,
    /// Segments that retention has removed.
    pub expired_segments: Counter,
    /// Reads that met damage.
    pub damaged_reads: Counter,
    /// Blocks that searches have opened.
    pub searched_blocks: Counter,
    /// Blocks in the time range of searches.
    pub search_range_blocks: Counter,
    /// Spans that wait to be sealed.
    pub pending_spans: Gauge,
    /// Sealed segments.
    pub segments: Gauge,
    /// Bytes of all sealed files.
    pub disk: Gauge,
}

impl StoreMetrics {
    /// Registers them all.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("sealed_spans", "Spans sealed", &self.sealed_spans),
            ("sealed_segments", "Segments sealed", &self.sealed_segments),
            ("seal_failures", "Seals that failed and will be tried again", &self.seal_failures),
            ("erased_spans", "Spans refused since their trace is erased", &self.erased_spans),
            ("merged_segments", "Segments replaced by merges", &self.merged_segments),
            ("expired_segments", "Segments removed by retention", &self.expired_segments),
            ("damaged_reads", "Reads that met damage", &self.damaged_reads),
            ("searched_blocks", "Blocks opened by searches", &self.searched_blocks),
            ("search_range_blocks", "Blocks in the range of searches", &self.search_range_blocks),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("farspan_trace_store_{name}"), help, counter.clone());
        }
        let gauges = [
            ("pending_spans", "Spans that wait to be sealed", &self.pending_spans),
            ("segments", "Sealed segments", &self.segments),
        ];
        for (name, help, gauge) in gauges {
            registry.register(format!("farspan_trace_store_{name}"), help, gauge.clone());
        }
        registry.register_with_unit(
            "farspan_trace_store_disk",
            "Size of all sealed files",
            Unit::Bytes,
            self.disk.clone(),
        );
    }
}
