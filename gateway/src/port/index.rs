//! The port to the metadata index: the replica of the gateway's own region.

use std::fmt;

use async_trait::async_trait;
use trace_model::location::{RegionState, SummaryQuery};
use trace_model::{TenantId, TraceEntry, TraceId};

/// What the index knows about the traces asked for.
#[derive(Clone, Debug, Default)]
pub struct LookUp {
    /// One entry for each id, in order; without contributions where the trace is not known.
    pub entries: Vec<TraceEntry>,
    /// Every region that the replica knows of.
    pub regions: Vec<RegionState>,
}

/// Traces from the index alone, newest first.
#[derive(Clone, Debug, Default)]
pub struct SummaryPage {
    /// The traces and what all regions say of them.
    pub traces: Vec<(TraceId, TraceEntry)>,
    /// Every region that the replica knows of.
    pub regions: Vec<RegionState>,
    /// Rows looked at.
    pub rows_scanned: u64,
}

/// Every region that the replica knows of.
#[derive(Clone, Debug, Default)]
pub struct IndexRegions {
    /// The regions.
    pub regions: Vec<RegionState>,
    /// Traces in the replica.
    pub traces_held: u64,
}

/// Why the index did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It cannot be reached, or refused.
    #[error("the metadata index is not available: {0}")]
    Unavailable(String),
    /// It said something that cannot be right.
    #[error("the metadata index answered nonsense: {0}")]
    Invalid(String),
}

impl IndexError {
    /// Whether the same question may be answered later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Invalid(_) => false,
        }
    }
}

/// The index replica of the gateway's region. Reads alone: a gateway never writes to it.
#[async_trait]
pub trait MetadataIndex: Send + Sync + fmt::Debug {
    /// What is known about these traces. "Not known" is an entry without contributions.
    async fn look_up(&self, tenant: &TenantId, trace_ids: &[TraceId])
    -> Result<LookUp, IndexError>;

    /// Traces by summary, newest first, at most the query's limit.
    async fn list_summaries(&self, query: &SummaryQuery) -> Result<SummaryPage, IndexError>;

    /// Every region that the replica knows of.
    async fn regions(&self) -> Result<IndexRegions, IndexError>;
}
