//! The words of Farspan: ids, spans, traces, queries, contributions and certificates, and the pure
//! laws over them (merge, assemble, join, verdict).
//!
//! This crate does no I/O, reads no clock, knows no wire format and no async runtime: gateway,
//! ingester and replicator share its laws, and its property tests run in seconds. It must never
//! depend on another crate of the workspace.
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod absence;
pub mod assemble;
pub mod attribute;
pub mod completeness;
pub mod holes;
pub mod ids;
pub mod locality;
pub mod location;
pub mod merge;
pub mod names;
pub mod position;
pub mod query;
pub mod sampling_threshold;
pub mod span;
pub mod time;

pub use absence::{Absence, Forgotten, Sought};
pub use attribute::{AnyValue, Attribute};
pub use completeness::{Certificate, RegionOutcome, RegionReport, Verdict};
pub use holes::{HOLES_MAX, join_holes};
pub use ids::{SpanId, TraceId};
pub use location::{Contribution, TraceEntry, Watermark, WriterId};
pub use merge::{ScopeContext, SpanKey, StoredSpan, TraceSpans};
pub use names::{Region, TenantId};
pub use position::{Coverage, LogPosition, LogRange};
pub use query::{Filter, SearchQuery, TraceMatch};
pub use span::{Span, SpanKind, StatusCode};
pub use time::{Clock, TimeRange, UnixNanos};
