//! The metadata index: what each region knows about a trace, and its join over all writers.
//!
//! A contribution has a single writer; of one writer the latest version counts. The join is a
//! join-semilattice (property-tested below): any order, any number of deliveries converge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::absence::Forgotten;
use crate::ids::{SpanId, TraceId};
use crate::names::{Region, TenantId};
use crate::time::{TimeRange, UnixNanos};

/// Who writes a contribution: one partition of one incarnation of a region's span log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId {
    /// The region.
    pub region: Region,
    /// The incarnation of its log. A log that was recreated, or that ends below a published
    /// version, starts a new one.
    pub incarnation: u64,
    /// The partition.
    pub partition: u32,
}

/// Spans and errors of one service within a trace and region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceCount {
    /// The service.
    pub service: Arc<str>,
    /// Its spans.
    pub spans: u32,
    /// Those with status error.
    pub errors: u32,
}

/// The root span of a trace, as held by the region that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootSpan {
    /// Its service.
    pub service: Arc<str>,
    /// Its operation.
    pub operation: Arc<str>,
    /// Its start, as sent.
    pub start: UnixNanos,
    /// Its id: breaks ties between two roots.
    pub span_id: SpanId,
    /// Nanoseconds that it took.
    pub duration_nanos: u64,
    /// Whether its status is error.
    pub is_error: bool,
}

/// A span whose parent is not held by the writer: where the trace enters the region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntrySpan {
    /// Its id.
    pub span_id: SpanId,
    /// The parent, held elsewhere.
    pub parent_span_id: SpanId,
    /// Its service.
    pub service: Arc<str>,
    /// Its start, as sent.
    pub start: UnixNanos,
    /// Nanoseconds that it took.
    pub duration_nanos: u64,
    /// Whether its status is error.
    pub is_error: bool,
}

/// Most entry spans that a contribution carries; the earliest stay.
pub const ENTRY_SPANS_MAX: usize = 32;

/// What became of the sampling decision of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keep {
    /// Not decided yet.
    #[default]
    Pending = 0,
    /// This writer's sampler dropped the trace.
    SampledOut = 1,
    /// Keep: wins wherever it is said.
    Keep = 2,
}

/// The fields that index mode `routing` withholds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Detail {
    /// Earliest placement time of its spans.
    pub min_start: UnixNanos,
    /// Latest end (start where the end cannot serve).
    pub max_end: UnixNanos,
    /// Spans.
    pub span_count: u32,
    /// Spans with status error.
    pub error_count: u32,
    /// Whether the counts are lower bounds (late spans onto a frozen row, beyond dedup windows).
    pub is_lower_bound: bool,
    /// By service, ordered by service.
    pub services: Vec<ServiceCount>,
    /// The root span, where it is held here.
    pub root: Option<RootSpan>,
    /// Where the trace enters, ordered; at most [`ENTRY_SPANS_MAX`].
    pub entries: Vec<EntrySpan>,
}

/// What one writer knows about one trace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contribution {
    /// Log offset after the last record that it covers: grows with every change.
    pub version: u64,
    /// The tenant.
    pub tenant: TenantId,
    /// The trace.
    pub trace_id: TraceId,
    /// Who writes.
    pub writer: WriterId,
    /// Append time of the last record covered: expiry is this plus the retention, nowhere sent.
    pub last_append: UnixNanos,
    /// The sampling decision.
    pub keep: Keep,
    /// Whether the writer erased its part (covers this writer alone).
    pub is_erased: bool,
    /// All else, unless the locality policy withholds it.
    pub detail: Option<Detail>,
}

impl Contribution {
    /// Whether this one replaces the other of the same writer: a later version does; at equal
    /// versions the greater one, so that the choice does not depend on the order of delivery.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        (self.version, self.is_erased, self) > (other.version, other.is_erased, other)
    }
}

/// What all writers together know about one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceEntry {
    /// The latest contribution of each writer.
    pub contributions: BTreeMap<WriterId, Contribution>,
}

impl TraceEntry {
    /// Takes a contribution in. Says whether anything changed.
    pub fn join(&mut self, contribution: Contribution) -> bool {
        if let Some(held) = self.contributions.get(&contribution.writer)
            && !contribution.replaces(held)
        {
            return false;
        }
        self.contributions.insert(contribution.writer.clone(), contribution);
        true
    }

    /// Takes another entry of the same trace in.
    pub fn join_all(&mut self, other: Self) {
        for contribution in other.contributions.into_values() {
            self.join(contribution);
        }
    }

    /// The regions that hold spans of the trace: those with a contribution that is neither erased
    /// nor sampled out.
    #[must_use]
    pub fn regions(&self) -> BTreeSet<Region> {
        let holds = |contribution: &&Contribution| {
            !contribution.is_erased && contribution.keep != Keep::SampledOut
        };
        self.contributions.values().filter(holds).map(|held| held.writer.region.clone()).collect()
    }

    /// The summary over all regions that say more than the route.
    #[must_use]
    pub fn summary(&self) -> TraceSummary {
        let mut summary = TraceSummary::default();
        for contribution in self.contributions.values().filter(|held| !held.is_erased) {
            summary.regions.insert(contribution.writer.region.clone());
            match &contribution.detail {
                Some(detail) => summary.add(detail),
                None => summary.is_lower_bound = true,
            }
        }
        summary
    }
}

/// A trace as the summaries page shows it, from the index alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceSummary {
    /// Regions with spans of it.
    pub regions: BTreeSet<Region>,
    /// Earliest start.
    pub min_start: Option<UnixNanos>,
    /// Latest end.
    pub max_end: UnixNanos,
    /// Spans.
    pub span_count: u64,
    /// Errors.
    pub error_count: u64,
    /// Whether the counts are lower bounds.
    pub is_lower_bound: bool,
    /// Spans and errors by service.
    pub services: BTreeMap<Arc<str>, (u64, u64)>,
    /// The root span: the earliest, where two regions claim one.
    pub root: Option<RootSpan>,
}

impl TraceSummary {
    fn add(&mut self, detail: &Detail) {
        let earliest = self.min_start.map_or(detail.min_start, |held| held.min(detail.min_start));
        self.min_start = Some(earliest);
        self.max_end = self.max_end.max(detail.max_end);
        self.span_count = self.span_count.saturating_add(u64::from(detail.span_count));
        self.error_count = self.error_count.saturating_add(u64::from(detail.error_count));
        self.is_lower_bound |= detail.is_lower_bound;
        for count in &detail.services {
            let slot = self.services.entry(Arc::clone(&count.service)).or_default();
            slot.0 = slot.0.saturating_add(u64::from(count.spans));
            slot.1 = slot.1.saturating_add(u64::from(count.errors));
        }
        if let Some(root) = &detail.root {
            let earlier = |held: &RootSpan| (root.start, root.span_id) < (held.start, held.span_id);
            if self.root.as_ref().is_none_or(earlier) {
                self.root = Some(root.clone());
            }
        }
    }

    /// Nanoseconds from the earliest start to the latest end.
    #[must_use]
    pub fn duration_nanos(&self) -> u64 {
        self.min_start.map_or(0, |start| self.max_end.since(start))
    }
}

/// How far a region has published its log into the index: a record of its origin log, behind what
/// it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The region.
    pub region: Region,
    /// The incarnation of its span log.
    pub incarnation: u64,
    /// Append time up to which every record of every partition has been published: the minimum
    /// over all partitions, never backwards.
    pub as_of: UnixNanos,
    /// Next offset to publish, by partition.
    pub next: BTreeMap<u32, u64>,
    /// Append times whose records were lost before they were published. Never "absent" there.
    pub holes: Vec<TimeRange>,
}

/// A term of an origin log: every start and every lease is a new one, and fences the old.
/// Ordered by time first (hybrid logical clock), then by the random part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Milliseconds since the Unix epoch, never below the epoch before.
    pub millis: u64,
    /// Tells epochs of one millisecond apart.
    pub random: u64,
}

/// A place in an origin log from which a peer goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The epoch.
    pub epoch: Epoch,
    /// The next record of it.
    pub sequence: u64,
}

/// What a replica knows about one region's origin log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionState {
    /// The region.
    pub region: Region,
    /// What the replica has of the log; `None` before the first record.
    pub cursor: Option<Cursor>,
    /// The latest watermark; `None` before the first. Its holes include what the replica itself
    /// cannot vouch for.
    pub watermark: Option<Watermark>,
    /// Time since the last frame from the region.
    pub silent: Duration,
    /// Whether a stream from the region is up.
    pub is_connected: bool,
    /// Records that the sender has and the replica has not, where known.
    pub lag_records: u64,
    /// Age of the newest record applied, by the origin's clock, when it was applied.
    pub lag: Duration,
    /// How long the origin keeps a row after its last append; `None` until it has said so.
    pub retention: Option<Duration>,
    /// How long the replica keeps it: as long as the origin, or less where its own limit is lower.
    pub kept_for: Duration,
    /// Which rows of the region the replica no longer has, or never got.
    pub forgotten: Forgotten,
    /// Rows of the region that give the route alone, since its policy withholds the rest: whether
    /// their traces answer a query that [needs detail](SummaryQuery::needs_detail), nobody here knows.
    pub rows_without_detail: u64,
    /// The last stream from the region broke the contract, and no good frame has come since.
    pub is_refused: bool,
}

/// A question for traces that the index alone can answer. All parts must hold of the joined trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryQuery {
    /// The tenant.
    pub tenant: TenantId,
    /// The earliest start of the trace lies inside (for traces of which only the route is known:
    /// the arrival).
    pub range: TimeRange,
    /// A service that takes part.
    pub service: Option<Arc<str>>,
    /// The root span's service.
    pub root_service: Option<Arc<str>>,
    /// The root span's operation.
    pub root_operation: Option<Arc<str>>,
    /// Nanoseconds from the earliest start to the latest end, at least.
    pub duration_nanos_min: u64,
    /// The same, at most.
    pub duration_nanos_max: Option<u64>,
    /// Only traces with an error.
    pub only_errors: bool,
    /// Most traces in the answer.
    pub limit: usize,
}

impl SummaryQuery {
    /// The newest traces of a tenant and time, whatever they are.
    #[must_use]
    pub const fn newest(tenant: TenantId, range: TimeRange, limit: usize) -> Self {
        Self {
            tenant,
            range,
            service: None,
            root_service: None,
            root_operation: None,
            duration_nanos_min: 0,
            duration_nanos_max: None,
            only_errors: false,
            limit,
        }
    }

    /// Whether the query asks for more than a time: what a bare route cannot answer.
    #[must_use]
    pub const fn needs_detail(&self) -> bool {
        self.service.is_some()
            || self.root_service.is_some()
            || self.root_operation.is_some()
            || self.duration_nanos_min > 0
            || self.duration_nanos_max.is_some()
            || self.only_errors
    }

    /// Whether a joined trace answers the query, its time range left aside.
    #[must_use]
    pub fn accepts(&self, summary: &TraceSummary) -> bool {
        if !self.needs_detail() {
            return true;
        }
        let duration = summary.duration_nanos();
        let root = summary.root.as_ref();
        let root_is = |wanted: &Option<Arc<str>>, of: fn(&RootSpan) -> &Arc<str>| {
            wanted.as_ref().is_none_or(|wanted| root.is_some_and(|root| of(root) == wanted))
        };
        summary.min_start.is_some()
            && self.service.as_ref().is_none_or(|name| summary.services.contains_key(name))
            && root_is(&self.root_service, |root| &root.service)
            && root_is(&self.root_operation, |root| &root.operation)
            && duration >= self.duration_nanos_min
            && self.duration_nanos_max.is_none_or(|max| duration <= max)
            && (!self.only_errors || summary.error_count > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn contribution(writer: u8, version: u64, spans: u32, erased: bool) -> Contribution {
        Contribution {
            version,
            tenant: TenantId::default(),
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            writer: WriterId {
                region: Region::new(["a", "b"][usize::from(writer % 2)]).unwrap(),
                incarnation: 1,
                partition: u32::from(writer / 2),
            },
            last_append: UnixNanos(version),
            keep: Keep::Pending,
            is_erased: erased,
            detail: Some(Detail { span_count: spans, ..Detail::default() }),
        }
    }

    fn entry() -> impl Strategy<Value = TraceEntry> {
        vec((0_u8..4, 0_u64..4, 0_u32..3, any::<bool>()), 0..8).prop_map(|rows| {
            let mut entry = TraceEntry::default();
            for (writer, version, spans, erased) in rows {
                entry.join(contribution(writer, version, spans, erased));
            }
            entry
        })
    }

    fn joined(mut left: TraceEntry, right: &TraceEntry) -> TraceEntry {
        left.join_all(right.clone());
        left
    }

    proptest! {
        #[test]
        fn join_is_commutative_associative_and_idempotent(
            a in entry(), b in entry(), c in entry()
        ) {
            prop_assert_eq!(joined(a.clone(), &b), joined(b.clone(), &a));
            prop_assert_eq!(joined(joined(a.clone(), &b), &c), joined(a.clone(), &joined(b, &c)));
            prop_assert_eq!(joined(a.clone(), &a), a);
        }
    }

    #[test]
    fn replay_below_the_version_changes_nothing() {
        let mut entry = TraceEntry::default();
        assert!(entry.join(contribution(0, 5, 9, false)));
        assert!(!entry.join(contribution(0, 4, 99, false)));
        assert!(!entry.join(contribution(0, 5, 9, false)));
        assert!(entry.join(contribution(0, 6, 10, false)));
        assert_eq!(entry.summary().span_count, 10);
    }
}
