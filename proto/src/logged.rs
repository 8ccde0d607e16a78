//! A span batch with its place in the log: what consumer groups hand to stores.

use std::sync::Arc;

use trace_model::{LogRange, UnixNanos};

use crate::span_batch::SpanBatch;

/// A batch as a consumer reads it. Each trace of the batch is one record: its offsets are
/// `range.first` and on, in the order of [`SpanBatch::traces`].
#[derive(Clone, Debug)]
pub struct LoggedBatch {
    /// Incarnation of the log that it was read from.
    pub incarnation: u64,
    /// Offsets of its records: one for each trace.
    pub range: LogRange,
    /// When the log appended it: given by the log, never backwards within a partition.
    pub append_time: UnixNanos,
    /// The spans; shared by all groups that read at the same place.
    pub batch: Arc<SpanBatch>,
}
