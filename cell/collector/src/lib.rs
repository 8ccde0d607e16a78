//! The collector of a cell: receives spans over OTLP (gRPC, HTTP with protobuf or JSON) and Zipkin,
//! validates, enriches, head-samples and batches them, and appends them to the span log.
//!
//! A request is acknowledged only when the log holds its spans. A span that cannot be taken is
//! rejected alone and told so; whatever else is not taken is refused with a code that says whether
//! to repeat it. The collector must never decode a span on the hot path, wait for a store, or keep
//! what it has not been admitted for.
#![warn(missing_docs)]

mod admission;
mod answer;
pub mod batch;
mod body;
mod collector;
pub mod config;
mod cors;
mod decompress;
mod deep_check;
pub mod enrich;
pub mod error;
pub mod foreign;
mod grpc;
mod http;
mod listener;
mod metrics;
mod otlp_json;
pub mod pipeline;
pub mod receipt;
pub mod sample;
mod status;
pub mod validate;
mod zipkin;

pub use admission::Admitted;
pub use collector::Collector;
pub use config::{AdmissionLimits, CollectorConfig, ConnectionLimits, SpanLimits};
pub use error::ExportError;
pub use foreign::{ForeignEncoding, ForeignParts, ForeignTaker, ForeignTenant};
pub use metrics::CollectorMetrics;
pub use metrics::foreign::ForeignMetrics;
pub use pipeline::{ExportRequest, Pipeline};
pub use receipt::{Receipt, RejectReason, Rejections};
