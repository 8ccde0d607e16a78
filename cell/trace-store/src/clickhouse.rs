//! Counts and raw spans in ClickHouse: the port [`MetricsStore`](crate::MetricsStore) with its
//! eraser, and the table `otel_traces` for dashboards.
//!
//! [`init`] makes the database; [`ClickhouseMetricsStore`] keeps the counts of the group
//! metrics-aggregator; [`ClickhouseSpans`] writes raw spans for a consumer group of its own.
//! How a block is counted once although the engine has no transactions is in [`block`].
//!
//! **Never** builds a statement out of a name that came from outside: those are bound, and what is
//! written into a statement (database, cluster, policy) is checked to be an identifier.

mod block;
mod client;
mod config;
mod error;
mod figures;
mod metrics;
mod row_binary;
mod schema;
mod spans;
mod status;
mod swap;
mod table;
mod tables;

pub use config::{ClickhouseConfig, StorageTiers};
pub use figures::{
    ClickhouseFigures, DiskFigures, Latency, MutationFigures, ReplicaFigures, figures,
};
pub use metrics::ClickhouseMetricsStore;
pub use schema::{SCHEMA, SCHEMA_VERSION, ddl, init, migrate, schema_version};
pub use spans::ClickhouseSpans;
pub use status::status;
pub use swap::{Compared, SwapState, Swapped, compare, copy_erasures, swap, swap_state};
