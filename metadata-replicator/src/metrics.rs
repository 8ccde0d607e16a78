//! The replicator's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use trace_model::Region;

/// The origin that a figure is about: one of the configured regions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OriginLabel {
    origin: String,
}

impl OriginLabel {
    /// The label of a region.
    #[must_use]
    pub fn of(region: &Region) -> Self {
        Self { origin: region.as_str().to_owned() }
    }
}

type ByOrigin<M> = Family<OriginLabel, M>;

/// What a replica shows of itself.
#[derive(Clone, Debug, Default)]
pub struct ReplicatorMetrics {
    /// Contributions that changed the index, or not: all that were applied.
    pub contributions_applied: ByOrigin<Counter>,
    /// Age of the newest record when it was applied, by the origin's clock.
    pub lag: ByOrigin<Gauge<f64, AtomicU64>>,
    /// 1 while a stream from the origin is up.
    pub connected: ByOrigin<Gauge>,
    /// Streams or frames refused because the peer broke the contract.
    pub refused: ByOrigin<Counter>,
    /// How long the origin says that it keeps its rows; 0 until it has said so.
    pub origin_retention: ByOrigin<Gauge<f64, AtomicU64>>,
    /// How long this replica keeps them: less than the origin where its own limit is lower.
    pub kept: ByOrigin<Gauge<f64, AtomicU64>>,
    /// Bytes of records on disk.
    pub stored_bytes: ByOrigin<Gauge>,
    /// Rows in the hot index.
    pub rows: Gauge,
    /// Traces in the hot index.
    pub traces: Gauge,
    /// Bytes of the hot index, about.
    pub index_bytes: Gauge,
    /// Rows taken out because they expired.
    pub rows_expired: Counter,
}

impl ReplicatorMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("farspan_replicator");
        registry.register(
            "contributions_applied",
            "Contributions taken from an origin",
            self.contributions_applied.clone(),
        );
        registry.register("lag_seconds", "Age of the newest record applied", self.lag.clone());
        registry.register("connected_streams", "Streams that are up", self.connected.clone());
        registry.register(
            "refused_streams",
            "Streams refused for their content",
            self.refused.clone(),
        );
        registry.register(
            "origin_retention_seconds",
            "How long the origin keeps its rows",
            self.origin_retention.clone(),
        );
        registry.register(
            "kept_seconds",
            "How long this replica keeps the origin's rows",
            self.kept.clone(),
        );
        registry.register("stored_bytes", "Bytes of records on disk", self.stored_bytes.clone());
        registry.register("index_rows", "Rows in the hot index", self.rows.clone());
        registry.register("index_traces", "Traces in the hot index", self.traces.clone());
        registry.register("index_bytes", "Bytes of the hot index", self.index_bytes.clone());
        registry.register("rows_expired", "Rows that expired", self.rows_expired.clone());
    }
}
