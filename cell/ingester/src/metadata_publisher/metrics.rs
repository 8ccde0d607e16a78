//! The publisher's metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the publisher shows of itself.
#[derive(Clone, Debug, Default)]
pub struct PublisherMetrics {
    /// Contributions appended to the origin log.
    pub contributions_published: Counter,
    /// Traces opened.
    pub traces_opened: Counter,
    /// Traces open now.
    pub traces_open: Gauge,
    /// Traces closed early for want of room.
    pub traces_shed: Counter,
    /// Batches whose bytes had been seen within the window.
    pub batches_repeated: Counter,
    /// Appends that failed and are tried again.
    pub appends_failed: Counter,
    /// Rows that the origin log had lost and a replicator gave back.
    pub rows_taken_back: Counter,
}

impl PublisherMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("farspan_publisher");
        registry.register(
            "contributions_published",
            "Contributions appended to the origin log",
            self.contributions_published.clone(),
        );
        registry.register("traces_opened", "Traces opened", self.traces_opened.clone());
        registry.register("open_traces", "Traces open now", self.traces_open.clone());
        registry.register("traces_shed", "Traces closed early", self.traces_shed.clone());
        registry.register("batches_repeated", "Batches seen before", self.batches_repeated.clone());
        registry.register("appends_failed", "Appends tried again", self.appends_failed.clone());
        registry.register(
            "rows_taken_back",
            "Rows that the origin log had lost and got back",
            self.rows_taken_back.clone(),
        );
    }
}
