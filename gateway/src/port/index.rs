//! The port to the metadata index: the replica of the gateway's own region.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use trace_model::location::Cursor;
use trace_model::{Region, TenantId, TimeRange, TraceEntry, TraceId, UnixNanos, Watermark};

/// A day: how far ahead a start may lie and still be believed (see `trace_model::time`).
const CLOCK_MARGIN_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// What the replica has of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionState {
    /// The region.
    pub region: Region,
    /// How far into its origin log the replica is.
    pub cursor: Option<Cursor>,
    /// Up to when everything it acknowledged is in the replica; `None`: not known.
    pub watermark: Option<Watermark>,
    /// Milliseconds since it was last heard of.
    pub silent_millis: u64,
    /// Whether it is connected.
    pub is_connected: bool,
    /// Records received but not applied.
    pub lag_records: u64,
    /// Age of the newest record applied.
    pub lag_millis: u64,
}

impl RegionState {
    /// Whether the absence of a trace that began at `since` can be told from this replica, as of the
    /// watermark. A hole that ended more than a day before that hides no part of it: no sender's
    /// clock is believed further ahead. Where the beginning is not known, every hole may.
    #[must_use]
    pub fn proves_absence(&self, since: Option<UnixNanos>) -> bool {
        let first = since.map(|since| since.minus(CLOCK_MARGIN_NANOS));
        let is_over = |hole: &TimeRange| first.is_some_and(|first| hole.end <= first);
        let is_clear = |watermark: &Watermark| watermark.holes.iter().all(is_over);
        self.watermark.as_ref().is_some_and(is_clear)
    }
}

/// What the index knows about the traces asked for.
#[derive(Clone, Debug, Default)]
pub struct LookUp {
    /// One entry for each id, in order; without contributions where the trace is not known.
    pub entries: Vec<TraceEntry>,
    /// Every region that the replica knows of.
    pub regions: Vec<RegionState>,
}

/// Which summaries.
#[derive(Clone, Debug)]
pub struct SummaryQuery {
    /// Whose data.
    pub tenant: TenantId,
    /// Starts of the traces.
    pub range: TimeRange,
    /// A service that takes part; `None`: any.
    pub service: Option<Arc<str>>,
    /// The root's service; `None`: any.
    pub root_service: Option<Arc<str>>,
    /// The root's operation; `None`: any.
    pub root_operation: Option<Arc<str>>,
    /// Least duration in nanoseconds.
    pub min_duration_nanos: u64,
    /// Greatest duration in nanoseconds; `None`: no limit.
    pub max_duration_nanos: Option<u64>,
    /// Traces with errors alone.
    pub only_errors: bool,
    /// Most traces.
    pub limit: u32,
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
