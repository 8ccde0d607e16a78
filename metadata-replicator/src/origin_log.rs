//! The origin log: what a region has published about its traces, in order. It is used inside the
//! cell, by the publisher, and needs no other process.
//!
//! Port [`ContributionLog`]; adapters [`OriginLog`] (files, durable) and [`MemoryOriginLog`] (tests).

mod embedded;
#[cfg(test)]
mod golden;
mod history;
mod memory;
mod recover;
mod row_map;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use trace_model::location::{Cursor, Epoch, Keep};
use trace_model::{
    Contribution, Forgotten, Region, TenantId, TraceId, UnixNanos, Watermark, WriterId,
};

pub use embedded::{OriginLog, OriginLogConfig};
pub(crate) use history::Lineage;
pub use history::LogHistory;
pub use memory::{MemoryOriginLog, MemoryRecords};
pub use recover::{OriginPeer, Recovered, ReplicatorPeer, recover_from_peer};

use crate::error::ReplicatorError;
use crate::feed::OriginFeed;

/// What names a row: a trace of a tenant, and who writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The trace.
    pub trace_id: TraceId,
    /// Incarnation of the writer's span log.
    pub incarnation: u64,
    /// Partition of it.
    pub partition: u32,
}

impl RowKey {
    /// The key of a contribution.
    #[must_use]
    pub fn of(contribution: &Contribution) -> Self {
        let WriterId { incarnation, partition, .. } = contribution.writer;
        let tenant = contribution.tenant.clone();
        Self { tenant, trace_id: contribution.trace_id, incarnation, partition }
    }

    /// What is left of a row that cannot be read any more: every other version replaces it.
    pub(crate) fn without_detail(&self, region: &Region) -> Contribution {
        let Self { incarnation, partition, .. } = *self;
        Contribution {
            version: 0,
            tenant: self.tenant.clone(),
            trace_id: self.trace_id,
            writer: WriterId { region: region.clone(), incarnation, partition },
            last_append: UnixNanos(0),
            keep: Keep::Keep,
            is_erased: false,
            detail: None,
        }
    }
}

/// A region's own origin log, for its publisher.
///
/// **Fencing.** Every open starts a new epoch above all former ones; an older handle's `append`
/// fails with [`ReplicatorError::Fenced`], or the open itself with [`ReplicatorError::InUse`].
/// **Durability.** What `append` was given survives a kill and a loss of power when it returns
/// `Ok`; after an `Err` nothing of it is readable, and the caller gives it again.
/// **Order.** Records are read in the order of their appends; the watermark of a call stands behind
/// its contributions, and readers never see it without them.
/// **Idempotence.** The log keeps what it is given; of one row the last append counts. So a writer
/// never appends an earlier version behind a later one, nor a lesser content at the same version
/// (`Contribution::replaces`): the join would choose otherwise than the log does.
/// **Retention.** A row is kept for the retention after its `last_append`; superseded rows go
/// earlier.
#[async_trait]
pub trait ContributionLog: OriginFeed {
    /// The epoch that this handle writes.
    fn epoch(&self) -> Epoch;

    /// Appends contributions, then the watermark. Gives the cursor behind them.
    async fn append(
        &self,
        contributions: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError>;

    /// The last appended version of each row, in the order asked; `None` for a row that is not
    /// held. One that cannot be read any more is given without detail, at version 0: whoever goes
    /// on from it counts at least, and what was lost is a hole of [`ContributionLog::published`].
    async fn own_rows(&self, keys: &[RowKey])
    -> Result<Vec<Option<Contribution>>, ReplicatorError>;

    /// The last appended watermark, over restarts: from where a publisher goes on. Its holes
    /// include what damage to this log has made.
    fn published(&self) -> Option<Watermark>;

    /// Where the log comes from, and what it is known to lack.
    fn history(&self) -> LogHistory;

    /// Notes durably that records before this cursor are missing here: before the first of them is
    /// taken back, so that a log that is opened midway knows that it is not whole.
    async fn note_missing(&self, cursor: Cursor) -> Result<(), ReplicatorError>;

    /// What could be taken back is here, up to a cursor of the copy that it came from, and a
    /// watermark says what is not.
    async fn note_mended(&self, until: Option<Cursor>) -> Result<(), ReplicatorError>;

    /// Notes durably that rows may be missing, since whoever gave records back lacked them.
    async fn forget(&self, forgotten: Forgotten) -> Result<(), ReplicatorError>;
}
