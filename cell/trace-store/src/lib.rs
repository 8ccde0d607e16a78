//! The stores of a cell: ports for spans, search, services, metrics and erasure, and their adapters.
//!
//! Roles see ports alone. Adapters: `embedded` (one machine, immutable segments), `memory` (the
//! oracle that the conformance suite trusts), `clickhouse` (counts, and raw spans for dashboards).
//! An adapter that cannot serve a question refuses it: an empty answer that means "cannot" looks
//! like a correct one.
#![warn(missing_docs)]

#[cfg(feature = "clickhouse")]
pub mod clickhouse;
pub mod disk;
pub mod embedded;
pub mod embedded_metrics;
pub mod memory;
pub mod memory_metrics;
mod metrics;
pub mod port;
mod questions;

#[cfg(feature = "clickhouse")]
pub use crate::clickhouse::{
    ClickhouseConfig, ClickhouseMetricsStore, ClickhouseSpans, StorageTiers,
};
pub use embedded::{EmbeddedStore, EmbeddedStoreConfig};
pub use embedded_metrics::{EmbeddedMetricsConfig, EmbeddedMetricsStore};
pub use memory::MemoryStore;
pub use memory_metrics::MemoryMetricsStore;
#[cfg(feature = "clickhouse")]
pub use metrics::ClickhouseSpansMetrics;
pub use metrics::{QuestionMetrics, StoreMetrics};
pub use port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, Eraser, ErasureReceipt, MetricsDelta, MetricsStore,
    Operation, RedKey, RedQuery, RedRow, SearchAnswer, SearchIndexer, ServiceCatalog, SpanWriter,
    StoreError, StoreFigures, TraceRead, TraceReader, TraceSearch,
};
pub use questions::QuestionLimits;
