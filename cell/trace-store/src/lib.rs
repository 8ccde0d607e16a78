//! The stores of a cell: ports for spans, search, services, metrics and erasure, and their adapters.
//!
//! Roles see ports alone. Adapters: `embedded` (one machine, immutable segments), `cassandra` (spans
//! by id over many machines), `elasticsearch` (search on Elasticsearch and OpenSearch), `clickhouse`
//! (counts, and raw spans for dashboards), `object_storage` (old segments of `embedded`) and `memory`
//! (the oracle that the conformance suite trusts). An adapter that cannot serve a question refuses it:
//! an empty answer that means "cannot" looks like a correct one.
#![warn(missing_docs)]

#[cfg(feature = "cassandra")]
pub mod cassandra;
#[cfg(any(feature = "clickhouse", feature = "elasticsearch", feature = "object-storage"))]
mod causes;
#[cfg(feature = "clickhouse")]
pub mod clickhouse;
pub mod disk;
#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;
pub mod embedded;
pub mod embedded_metrics;
pub mod memory;
pub mod memory_metrics;
mod metrics;
pub mod migration;
#[cfg(feature = "object-storage")]
pub mod object_storage;
pub mod port;
mod questions;
pub mod stand_in;

#[cfg(feature = "cassandra")]
pub use crate::cassandra::{CassandraConfig, CassandraStore};
#[cfg(feature = "clickhouse")]
pub use crate::clickhouse::{
    ClickhouseConfig, ClickhouseMetricsStore, ClickhouseSpans, StorageTiers,
};
#[cfg(feature = "elasticsearch")]
pub use crate::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
#[cfg(feature = "object-storage")]
pub use crate::object_storage::{ColdConfig, ColdCredentials, ColdLimits, ObjectStorage};
pub use embedded::{ColdTier, EmbeddedStore, EmbeddedStoreConfig};
pub use embedded_metrics::{EmbeddedMetricsConfig, EmbeddedMetricsStore};
pub use memory::MemoryStore;
pub use memory_metrics::MemoryMetricsStore;
#[cfg(feature = "cassandra")]
pub use metrics::CassandraMetrics;
#[cfg(feature = "clickhouse")]
pub use metrics::ClickhouseSpansMetrics;
pub use metrics::{ColdMetrics, QuestionMetrics, StoreMetrics};
#[cfg(feature = "elasticsearch")]
pub use metrics::{SearchEngineMetrics, TierLabels};
pub use migration::{Migration, MigrationReport, Schema};
pub use port::{
    ColdObjects, EdgeKey, EdgePlace, EdgeRow, EdgeTraceQuery, EdgeTraces, Eraser, ErasureReceipt,
    MetricsDelta, MetricsStore, NameList, ObjectFound, Operation, Page, PartSize, RedKey, RedQuery,
    RedRow, RestOfTrace, SearchAnswer, SearchIndexer, ServiceCatalog, SpanWriter, StoreError,
    StoreFigures, StoreStatus, TracePieces, TraceRead, TraceReader, TraceSearch,
};
pub use questions::QuestionLimits;
pub use stand_in::{Searcher, StandIn, StandInMetrics};
