//! Calls whose two sides lie in different regions: the seam for the component that joins them.
//!
//! The aggregator of one region sees only the called side (an entry span) or only the calling side.
//! It never guesses the other. Whoever holds both, the region of the parent after a look-up by id,
//! hands the pair in here, and it is counted once: by (tenant, trace, region, span) within a window
//! that survives restarts.
//!
//! [`CrossBorder::join_entry_span`] returns when the count is durable. Until then the caller keeps
//! the entry and offers it again after a restart; offering it twice is harmless.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use trace_model::location::EntrySpan;
use trace_model::time::place;
use trace_model::{Region, TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::Xxh3;

use super::config::{AggregatorConfig, nanos};

/// Joins that wait to be counted; more callers wait their turn.
const QUEUE_MAX: usize = 1_024;

/// Both sides of a call across a border.
#[derive(Clone, Debug)]
pub struct EntryJoin {
    /// The tenant.
    pub tenant: TenantId,
    /// The trace.
    pub trace_id: TraceId,
    /// The region that holds the entry span.
    pub region: Region,
    /// The called side.
    pub entry: EntrySpan,
    /// Service of the parent, found by its id in the region that counts.
    pub parent_service: Arc<str>,
    /// How many calls it stands for (1/p of head sampling).
    pub adjusted_count: f64,
}

/// What became of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// Counted now, durably.
    Counted,
    /// Counted before, within the window.
    AlreadyCounted,
    /// Both sides have one service: no edge.
    SameService,
}

/// The aggregator has ended: offer the join again, it may be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metrics aggregator has ended")]
pub struct AggregatorEnded;

impl AggregatorEnded {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        true
    }
}

pub(super) type Acknowledgement = oneshot::Sender<JoinOutcome>;

type Line = mpsc::Sender<(EntryJoin, Acknowledgement)>;

/// Hands calls across borders to the aggregator; also to one that was made anew. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CrossBorder {
    line: Arc<Mutex<Line>>,
}

impl Default for CrossBorder {
    /// Leads nowhere until an aggregator is opened with it.
    fn default() -> Self {
        let (sender, _) = mpsc::channel(1);
        Self { line: Arc::new(Mutex::new(sender)) }
    }
}

impl CrossBorder {
    /// Leads to the aggregator that gets this inbox from here on.
    pub(super) fn connect(&self) -> Inbox {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = sender;
        Inbox { receiver, joined: Joined::default(), waiting: Vec::new(), fresh: Vec::new() }
    }

    /// Counts the edge from the parent's service to the entry span's, once. Returns when that is
    /// durable: within about a flush.
    pub async fn join_entry_span(&self, join: EntryJoin) -> Result<JoinOutcome, AggregatorEnded> {
        let (acknowledge, acknowledged) = oneshot::channel();
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        line.send((join, acknowledge)).await.map_err(|_| AggregatorEnded)?;
        acknowledged.await.map_err(|_| AggregatorEnded)
    }
}

/// The aggregator's end.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) receiver: mpsc::Receiver<(EntryJoin, Acknowledgement)>,
    pub(super) joined: Joined,
    /// Told when the next delta is durable.
    pub(super) waiting: Vec<(Acknowledgement, JoinOutcome)>,
    /// Joins since the last flush, as the checkpoint keeps them.
    pub(super) fresh: Vec<(u64, UnixNanos)>,
}

/// Calls that were counted within the window, oldest first.
#[derive(Debug, Default)]
pub(super) struct Joined {
    seen: FxHashSet<u64>,
    order: VecDeque<(u64, UnixNanos)>,
}

impl Joined {
    /// Notes a call; says whether it is new.
    pub(super) fn note(&mut self, call: u64, now: UnixNanos) -> bool {
        let is_new = self.seen.insert(call);
        if is_new {
            self.order.push_back((call, now));
        }
        is_new
    }

    pub(super) fn forget(&mut self, now: UnixNanos, config: &AggregatorConfig) {
        let oldest = now.minus(nanos(config.cross_border_window));
        while let Some((call, time)) = self.order.front().copied() {
            if time >= oldest && self.order.len() <= config.cross_border_entries_max {
                return;
            }
            self.order.pop_front();
            self.seen.remove(&call);
        }
    }

    pub(super) const fn entries(&self) -> &VecDeque<(u64, UnixNanos)> {
        &self.order
    }
}

/// What tells a call across a border from all others.
pub(super) fn call_of(join: &EntryJoin) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [join.tenant.as_str().as_bytes(), join.region.as_str().as_bytes()] {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher.update(join.trace_id.as_bytes());
    hasher.update(join.entry.span_id.as_bytes());
    hasher.digest()
}

/// Placement time of the called side.
pub(super) fn placed(entry: &EntrySpan, now: UnixNanos) -> UnixNanos {
    place(entry.start, entry.start.plus(entry.duration_nanos), now).time
}
