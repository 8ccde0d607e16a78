//! What the querier asks of its cell beside the stores: the live tail, and the state of the log.
//! The binary adapts the span log to these, so that answers never depend on which log it is.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use trace_model::{Clock, Coverage, StoredSpan, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::port::{MetricsStore, ServiceCatalog, TraceReader, TraceSearch};

/// A port of the log failed. The question may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the span log did not answer: {0}")]
pub struct PortError(pub String);

/// What the live tail holds of a trace.
#[derive(Clone, Debug, Default)]
pub struct TailRead {
    /// Spans of records that no store has to hold yet (it may hold more, and the same twice).
    pub spans: Vec<StoredSpan>,
    /// Where the tail starts: where it says that it does, or else what the group storage-writer had
    /// committed when the tail was read, *or later*. Below it the tail promises nothing.
    pub from: Coverage,
    /// Where the tail ends. From `from` up to here nothing of the trace is left out.
    pub covered: Coverage,
    /// A record of the trace was set aside, or one that may belong to it cannot be read now.
    pub is_damaged: bool,
    /// Collectors that did not answer, by number, where each has a log of its own: what they have of the
    /// trace beyond the stores is not here. `is_damaged` is set as well.
    pub away: Vec<u32>,
}

/// Records that were acknowledged, that no store has and that will not come: they were damaged or
/// dropped before a store had them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Append times of each run. Spans of any trace and tenant may have been in it.
    pub runs: Vec<TimeRange>,
    /// Those of them that no group had read: not counted either. What storage-writer set aside others may
    /// have.
    pub unread: Vec<TimeRange>,
    /// Append times of records that the search index will never have, and the trace store may have.
    pub unindexed: Vec<TimeRange>,
    /// Append times of records that were never counted, and that the trace store may have.
    pub uncounted: Vec<TimeRange>,
    /// What was lost or set aside and was appended at or before this time counts as expired: no store
    /// would have kept it until now.
    pub expired_until: Option<UnixNanos>,
}

/// The acknowledged records that the stores need not hold yet.
///
/// "Not found" is an empty list, never an error. An acknowledged span is found at once.
#[async_trait]
pub trait LiveTail: Send + Sync + fmt::Debug {
    /// The spans of a trace.
    async fn read_tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailRead, PortError>;

    /// What is lost for good. Costs no read; a run is told from before a store goes on behind it.
    fn lost(&self) -> Lost {
        Lost::default()
    }

    /// Append times of records of the tenant that were set aside and may yet be taken up: a search
    /// does not find them, and no list need have their names. By id [`Self::read_tail`] tells them exactly.
    fn buried(&self, _tenant: &TenantId) -> Vec<TimeRange> {
        Vec::new()
    }
}

/// How far a consumer group is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The group's name.
    pub group: Arc<str>,
    /// Records that it has not committed.
    pub records: u64,
    /// Milliseconds since the oldest of them was appended.
    pub age_millis: u64,
    /// Records that it set aside.
    pub dead_letters: u64,
    /// Milliseconds for which it has failed without a success; 0 while it does not.
    pub failing_millis: u64,
}

/// The state of the cell's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Offset of the next record, by partition.
    pub log_end: Coverage,
    /// Each consumer group's lag.
    pub groups: Vec<GroupLag>,
    /// Collectors that do not answer, by number, where each has a log of its own.
    pub away: Vec<u32>,
    /// Those that are gone for good.
    pub retired: Vec<u32>,
}

/// The end of the cell's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// Offset of the next record, by partition.
    pub next: Coverage,
    /// Every record that was appended at or before this time lies below `next`.
    pub appended_until: UnixNanos,
}

/// Tells how the cell is. Changes nothing.
#[async_trait]
pub trait CellStatus: Send + Sync + fmt::Debug {
    /// The state of the log and of its groups.
    async fn log_status(&self) -> Result<LogStatus, PortError>;

    /// The log's end now. Costs no read.
    async fn log_end(&self) -> Result<LogEnd, PortError>;

    /// The latest time such that every record that was appended at or before it lies below these
    /// offsets; 0 where the offsets are of another log. May read the log.
    async fn appended_until(&self, covered: &Coverage) -> Result<UnixNanos, PortError>;
}

/// Everything that a querier reads from.
#[derive(Clone, Debug)]
pub struct QuerierPorts {
    /// Spans by trace id.
    pub traces: Arc<dyn TraceReader>,
    /// Search.
    pub search: Arc<dyn TraceSearch>,
    /// Services and operations.
    pub catalog: Arc<dyn ServiceCatalog>,
    /// Rate, errors, durations, edges.
    pub metrics: Arc<dyn MetricsStore>,
    /// The live tail.
    pub tail: Arc<dyn LiveTail>,
    /// The state of the log.
    pub status: Arc<dyn CellStatus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
