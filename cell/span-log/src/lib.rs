//! The span log: what a cell has acknowledged, in order, until every required group has it.
//!
//! Port [`SpanLog`]; adapters `embedded` (durable, one machine) and `memory` (tests). The log never
//! looks into a span; it keeps batches, gives them offsets and append times, and remembers how far
//! each consumer group has come.
#![warn(missing_docs)]

pub mod port;

pub use port::{
    Appended, Capabilities, CommitError, DamagedRange, GroupId, LogEnd, LogError, LogIdentity,
    SpanLog, TailAnswer,
};
