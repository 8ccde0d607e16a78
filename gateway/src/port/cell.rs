//! The port to one region's cell.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use proto::v1;
use trace_model::{Region, RegionOutcome, SearchQuery, TenantId, TimeRange, TraceId};

use crate::room::NoRoom;

/// On whose behalf a cell is asked. The cell decides by it what it lets out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose data.
    pub tenant: TenantId,
    /// The region of the asking gateway.
    pub region: Region,
}

/// A question for spans by trace id.
#[derive(Clone, Debug)]
pub struct TraceAsk {
    /// On whose behalf.
    pub caller: Caller,
    /// The traces; answered in this order.
    pub trace_ids: Vec<TraceId>,
    /// Of each, between which times all spans were placed that the index promises of this cell;
    /// `None` where it does not know.
    pub placed: Vec<Option<TimeRange>>,
    /// The index does not know the trace.
    pub is_miss_round: bool,
    /// How long the asker waits: the cell need not work longer.
    pub time: Duration,
    /// How long it waits for the first frame, of that.
    pub first_frame: Duration,
}

/// Which rates, errors and durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedAsk {
    /// One service, or all.
    pub service: Option<Arc<str>>,
    /// By operation, or the roll-up over operations.
    pub by_operation: bool,
    /// Minutes.
    pub range: TimeRange,
}

/// Which calls' traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTraceAsk {
    /// The calling service.
    pub caller: Arc<str>,
    /// The service called.
    pub callee: Arc<str>,
    /// Calls with errors alone.
    pub only_errors: bool,
    /// When the callee was called, in buckets of 10 minutes.
    pub range: TimeRange,
    /// Most traces.
    pub limit: usize,
}

/// Frames as they come in. Nothing about them has been checked.
pub type FrameStream = BoxStream<'static, Result<v1::FindTraceResponse, CellError>>;

/// Why a cell did not answer. The text names no address: it is shown in certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Unavailable(String),
    /// It refused: too busy, or it cannot serve the question now.
    #[error("{0}")]
    Refused(String),
    /// This gateway had no room for its answer.
    #[error("cut off: the gateway's memory for answers is used up")]
    CutOff,
    /// It did not answer in time.
    #[error("{0}")]
    TimedOut(String),
    /// What it said cannot be right.
    #[error("{0}")]
    Invalid(String),
}

impl From<NoRoom> for CellError {
    fn from(_: NoRoom) -> Self {
        Self::CutOff
    }
}

impl CellError {
    /// Whether the same question may be answered later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Refused(_) | Self::CutOff | Self::TimedOut(_) => true,
            Self::Invalid(_) => false,
        }
    }

    /// What the certificate says of the region.
    #[must_use]
    pub const fn outcome(&self) -> RegionOutcome {
        match self {
            Self::Unavailable(_) | Self::Refused(_) | Self::CutOff => RegionOutcome::Unavailable,
            Self::TimedOut(_) => RegionOutcome::TimedOut,
            Self::Invalid(_) => RegionOutcome::Invalid,
        }
    }
}

/// One region's cell. Every answer is untrusted until it was checked: a cell may lie, hang, or send
/// without end. Implementations bound the size of a single message and count what arrives against
/// the gateway's room until they hand it over; the caller bounds and counts the rest.
#[async_trait]
pub trait CellClient: Send + Sync + fmt::Debug {
    /// The region that this client reaches.
    fn region(&self) -> &Region;

    /// The spans of traces, in frames; each trace's last frame has its summary.
    async fn find_traces(&self, ask: TraceAsk) -> Result<FrameStream, CellError>;

    /// Traces with a span that matches.
    async fn search(
        &self,
        caller: &Caller,
        query: &SearchQuery,
        time: Duration,
    ) -> Result<v1::SearchTracesResponse, CellError>;

    /// Services of a time range.
    async fn services(
        &self,
        caller: &Caller,
        range: TimeRange,
        time: Duration,
    ) -> Result<v1::ListServicesResponse, CellError>;

    /// Operations of a service.
    async fn operations(
        &self,
        caller: &Caller,
        service: &str,
        range: TimeRange,
        time: Duration,
    ) -> Result<v1::ListOperationsResponse, CellError>;

    /// Caller→callee edges, in order: a page of them, behind this one.
    async fn edges(
        &self,
        caller: &Caller,
        range: TimeRange,
        after: Option<v1::EdgePlace>,
        time: Duration,
    ) -> Result<v1::ListEdgesResponse, CellError>;

    /// Rates, errors and durations by minute, in order: a page of them, behind this one.
    async fn red(
        &self,
        caller: &Caller,
        ask: &RedAsk,
        after: Option<v1::RedPlace>,
        time: Duration,
    ) -> Result<v1::QueryRedResponse, CellError>;

    /// Traces in which one service calls another, newest bucket first, each once.
    async fn edge_traces(
        &self,
        caller: &Caller,
        ask: &EdgeTraceAsk,
        time: Duration,
    ) -> Result<v1::FindEdgeTracesResponse, CellError>;

    /// How the cell is.
    async fn status(
        &self,
        caller: &Caller,
        time: Duration,
    ) -> Result<v1::GetCellStatusResponse, CellError>;
}
