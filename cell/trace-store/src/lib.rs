//! The stores of a cell: ports for spans, search, services, metrics and erasure, and their adapters.
//!
//! Roles see ports alone. Adapters: `embedded` (one machine, immutable segments), `elasticsearch`
//! (search on Elasticsearch and OpenSearch) and `memory` (the oracle that the conformance suite
//! trusts). An adapter that cannot serve a question refuses it:
//! an empty answer that means "cannot" looks like a correct one.
#![warn(missing_docs)]

#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;
pub mod embedded;
pub mod embedded_metrics;
pub mod memory;
pub mod memory_metrics;
mod metrics;
pub mod port;

#[cfg(feature = "elasticsearch")]
pub use elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
pub use embedded::{EmbeddedStore, EmbeddedStoreConfig};
pub use embedded_metrics::{EmbeddedMetricsConfig, EmbeddedMetricsStore};
pub use memory::MemoryStore;
pub use memory_metrics::MemoryMetricsStore;
#[cfg(feature = "elasticsearch")]
pub use metrics::SearchEngineMetrics;
pub use metrics::StoreMetrics;
pub use port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, Eraser, ErasureReceipt, MetricsDelta, MetricsStore,
    Operation, RedKey, RedQuery, RedRow, SearchAnswer, SearchIndexer, ServiceCatalog, SpanWriter,
    StoreError, StoreFigures, TraceRead, TraceReader, TraceSearch,
};
