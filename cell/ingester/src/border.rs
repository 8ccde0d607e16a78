//! Calls whose two sides lie in different regions, joined in the region of the calling side.
//!
//! A contribution names the entry spans of its region: spans whose parent is held elsewhere. The
//! cell follows the contributions of every other region at its own region's replicator. Where it
//! holds the parent of an entry span, it gives the pair to the aggregator, once
//! ([`crate::metrics_aggregator::cross_border`]). The region of the parent counts, and no other.
//!
//! **Order of durability.** Follow → look for the parent here → have the edge counted, durably →
//! only then move the cursor past it. After a crash everything behind the cursor comes again, and
//! the aggregator counts none of it twice.
//!
//! **Never** let ingest wait for this: it has its own tasks, and without the replicator it waits
//! and comes back. **Never** count an entry span older than [`BorderConfig::age_max`]: beyond the
//! aggregator's window it could be one that was counted before.

mod cursor_file;
mod follow;
mod joiner;
mod own_rows;
mod pending;
pub mod skew;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trace_model::{Clock, Region, SpanId, TenantId, TraceId, UnixNanos};

pub use cursor_file::CursorFileError;
pub use follow::{BorderJoiner, ReplicatorAddress};
pub use own_rows::OwnRows;
pub use skew::{SkewSample, SkewSamples};

use crate::metrics::BorderMetrics;
use crate::metrics_aggregator::cross_border::AggregatorEnded;
use crate::metrics_aggregator::{CrossBorder, EntryJoin, JoinOutcome};

/// Limits of joining calls across borders.
#[derive(Clone, Debug)]
pub struct BorderConfig {
    /// The region of the cell.
    pub region: Region,
    /// Where the cursors are, one file for each origin.
    pub directory: PathBuf,
    /// How many calls one joined call stands for: 1/p of the cell's head sampling.
    pub adjusted_count: f64,
    /// Entry spans of one origin that wait for their parent. At the limit, and one frame beyond
    /// it, the origin's stream waits.
    pub waiting_max: usize,
    /// How long after its publication a parent is waited for.
    pub wait_max: Duration,
    /// … but at least so long after it came here.
    pub wait_min: Duration,
    /// An entry span that ended, or whose contribution was written, longer ago is not joined. Must
    /// lie below [`crate::AggregatorConfig::cross_border_window`].
    pub age_max: Duration,
    /// Joins of one origin that the aggregator has been given and has not made durable.
    pub offers_max: usize,
    /// The cursor is written at most this often.
    pub save_every: Duration,
}

impl BorderConfig {
    /// 50,000 entry spans of about 200 bytes, waited for 2 minutes, at least 10 seconds; 50 minutes
    /// (the window of the aggregator is an hour); 1,024 offers; a cursor a second.
    #[must_use]
    pub const fn new(region: Region, directory: PathBuf) -> Self {
        Self {
            region,
            directory,
            adjusted_count: 1.0,
            waiting_max: 50_000,
            wait_max: Duration::from_secs(120),
            wait_min: Duration::from_secs(10),
            age_max: Duration::from_secs(50 * 60),
            offers_max: 1_024,
            save_every: Duration::from_secs(1),
        }
    }
}

/// A look-up in this cell failed. It is made again until it answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cell's own spans cannot be looked up: {0}")]
pub struct LookupError(pub String);

impl LookupError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

/// Which traces this region holds: asked first, for most entry spans of other regions lead
/// elsewhere.
#[async_trait]
pub trait OwnTraces: Send + Sync + fmt::Debug {
    /// For each trace, in order, a number that grows whenever spans of it come; `None` where the
    /// region holds nothing of it (yet).
    async fn versions(
        &self,
        traces: &[(TenantId, TraceId)],
    ) -> Result<Vec<Option<u64>>, LookupError>;
}

/// The calling side of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentSpan {
    /// Its service.
    pub service: Arc<str>,
    /// Its start, as sent.
    pub start: UnixNanos,
    /// Its end, as sent.
    pub end: UnixNanos,
}

/// Reads the spans of a trace that this region holds.
#[async_trait]
pub trait ParentLookup: Send + Sync + fmt::Debug {
    /// Those of the spans that are held here. "Not found" is absence from the map. Every span that
    /// [`OwnTraces`] knew of before the call is found.
    async fn parents_of(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        spans: &[SpanId],
    ) -> Result<BTreeMap<SpanId, ParentSpan>, LookupError>;
}

/// Counts joined calls: the aggregator.
#[async_trait]
pub trait CallCounter: Send + Sync + fmt::Debug {
    /// Counts a call once and returns when that is durable.
    async fn count(&self, join: EntryJoin) -> Result<JoinOutcome, AggregatorEnded>;
}

#[async_trait]
impl CallCounter for CrossBorder {
    async fn count(&self, join: EntryJoin) -> Result<JoinOutcome, AggregatorEnded> {
        self.join_entry_span(join).await
    }
}

/// What the joiners of all origins share.
#[derive(Clone, Debug)]
pub struct BorderParts {
    /// Limits.
    pub config: BorderConfig,
    /// Which traces are held here.
    pub own: Arc<dyn OwnTraces>,
    /// Reads them.
    pub parents: Arc<dyn ParentLookup>,
    /// Counts.
    pub calls: Arc<dyn CallCounter>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted of this.
    pub metrics: BorderMetrics,
}
