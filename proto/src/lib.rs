//! The contract between Farspan's processes: generated messages (`farspan.v1`), the zero-copy walk
//! over OTLP's wire format, the span batch that a collector cuts out of a request, and conversions
//! to the words of `trace-model`.
//!
//! Nothing here does I/O or reads a clock. A span's bytes are never re-encoded: they are sliced.
#![warn(missing_docs)]

pub mod convert;
pub mod decode;
pub mod logged;
pub mod resplice;
pub mod sketch;
pub mod span_batch;
pub mod wire;

pub use logged::LoggedBatch;
pub use sketch::DurationSketch;
pub use span_batch::{
    BatchSource, InvalidBatch, KnownContexts, SpanBatch, SpanBatchBuilder, SpanSlice, TraceSlice,
};

/// Generated from `protos/farspan/v1/*.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::str_to_string,
    clippy::enum_glob_use,
    clippy::large_futures,
    clippy::wildcard_imports,
    clippy::expect_used,
    clippy::missing_const_for_fn,
    single_use_lifetimes,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("farspan.v1");
}
