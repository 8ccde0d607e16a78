//! Erasing one trace from a log.

use std::fmt;

use async_trait::async_trait;
use trace_model::{TenantId, TraceId};

use crate::port::LogError;

/// What an erasure did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedRecords {
    /// Files that were rewritten.
    pub files: u64,
    /// Spans that are gone.
    pub spans: u64,
}

/// Removes one trace from the log.
///
/// After `Ok` no read and no tail gives a span of it that was appended before the call, also after a
/// restart, and its bytes are in no file of the log. Offsets stay: in place of its records there are
/// ones without spans ([`proto::TraceSlice::is_erased`]). Repeating it is harmless. Records of it
/// that are appended later are the store's to refuse.
#[async_trait]
pub trait LogEraser: Send + Sync + fmt::Debug {
    /// Erases a trace. Damaged records may hold it: where there are some nothing is changed, they
    /// are an error, and elsewhere the trace is erased all the same.
    async fn erase(&self, tenant: &TenantId, trace_id: TraceId) -> Result<ErasedRecords, LogError>;
}
