//! Spans by trace id: writing, reading, erasing.

use std::fmt;

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::{Coverage, StoredSpan, TenantId, TimeRange, TraceId, UnixNanos};

use super::StoreError;

/// What a store holds of a trace.
#[derive(Clone, Debug)]
pub struct TraceRead {
    /// The spans; a span may come more than once, its reader merges.
    pub spans: Vec<StoredSpan>,
    /// How far the store holds the log durably: nothing below is left out.
    pub covered: Coverage,
    /// A file that may hold a part could not be read.
    pub is_damaged: bool,
    /// A part of the store that may hold a part of the trace does not answer for now: cold spans whose
    /// objects are away. The spans are those of the rest.
    pub is_away: bool,
    /// Retention has removed spans: those that the log appended at or before this time may be gone,
    /// though `covered` reaches over them. `None`: it has removed nothing yet.
    pub expired_until: Option<UnixNanos>,
}

/// A trace in pieces of bounded size: what is long need not be in memory at once.
///
/// The cover of the first piece holds for all of them. What any piece says of damage, and of parts that
/// are away, is so of the trace; what it says of retention holds from then on.
#[derive(Debug)]
pub struct TracePieces {
    /// The first piece.
    pub first: TraceRead,
    /// The others; `None` where the first is the whole trace.
    pub rest: Option<Box<dyn RestOfTrace>>,
}

/// The pieces of a trace behind the first.
#[async_trait]
pub trait RestOfTrace: Send + fmt::Debug {
    /// The next piece; `None` where all was given. After an error, or a call that was dropped, the next is
    /// an error as well: the trace is not whole then.
    async fn next_piece(&mut self) -> Result<Option<TraceRead>, StoreError>;
}

/// Figures for status pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Spans held (duplicates may count).
    pub spans: u64,
    /// Bytes on disk, filters and indexes included.
    pub bytes: u64,
    /// Sealed segments.
    pub segments: u64,
}

/// Writes spans, for the group storage-writer.
///
/// **Idempotence.** A batch may come again, also after it became durable: nothing is visible twice.
/// **Durability.** What [`Self::durable`] covers survives kill and loss of power. The group commits
/// that and no more; until then the live tail answers.
/// **Order.** Batches of a partition come in the order of their offsets.
#[async_trait]
pub trait SpanWriter: Send + Sync + fmt::Debug {
    /// Takes batches. They may become durable at once or later. One without traces stands for records
    /// that were stepped over and will not come: the cover goes on over them.
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError>;

    /// Takes a batch that was set aside as a dead letter and is tried again: its offsets may lie below
    /// the cover, which it neither asks nor moves. Durable after the next forced [`Self::flush`]. A
    /// store that writes by key whatever the cover is writes it as any other.
    async fn write_again(&self, _batch: &LoggedBatch) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("records beside the order of the log".to_owned()))
    }

    /// [`Self::write_again`] for many batches, in any order of their offsets: a part of the log that is
    /// replayed.
    async fn write_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        for batch in batches {
            self.write_again(batch).await?;
        }
        Ok(())
    }

    /// Makes durable what is due: by size, by age, or everything where `force` is set.
    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError>;

    /// How far the log is durable here.
    fn durable(&self) -> Coverage;

    /// The group begins anew in this process: it may have been another's since the last batch. What was
    /// taken and is not durable is dropped, for the log gives it again; what others have begun and made
    /// durable is learnt. A store that needs to remember nothing between batches does nothing.
    async fn begin_turn(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads spans by trace id.
#[async_trait]
pub trait TraceReader: Send + Sync + fmt::Debug {
    /// The spans of a trace. "Not found" is an empty list, never an error.
    async fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TraceRead, StoreError>;

    /// The same in pieces, for whoever passes them on. A store that has no pieces gives the trace whole.
    async fn read_pieces(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TracePieces, StoreError> {
        let first = self.read_trace(tenant, trace_id).await?;
        Ok(TracePieces { first, rest: None })
    }

    /// Figures for status pages.
    fn figures(&self) -> StoreFigures;

    /// What a read that was just made says in [`TraceRead::expired_until`], for spans placed in this
    /// range alone: `None` where retention has removed none of those. A store that does not know
    /// when what it removed was placed says what the read said.
    fn expired_within(&self, _range: TimeRange, expired_until: UnixNanos) -> Option<UnixNanos> {
        Some(expired_until)
    }
}

/// What an erasure did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureReceipt {
    /// Files that were rewritten or removed.
    pub files: u64,
    /// Spans that are gone.
    pub spans: u64,
}

/// Removes one trace from everything sealed.
///
/// After `Ok` no read, search or count by trace id gives it, also after a restart; its bytes are in
/// no file of the store. Spans of it that come later are refused silently and counted. Repeating it
/// is harmless. Aggregates keep their counts; exemplars and edge indexes lose the trace.
#[async_trait]
pub trait Eraser: Send + Sync + fmt::Debug {
    /// Erases a trace.
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError>;
}
