//! What a consumer group does with records: the seam between the runner (reading, retrying,
//! committing, dead letters) and the four groups.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
use span_log::{DamagedRange, GroupId, Sharing};
use trace_model::{Coverage, Region, TenantId, UnixNanos};

/// Why a group did not take a batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandleError {
    /// May pass: the runner tries the same batches again, with back-off, for as long as it takes.
    #[error("{0}")]
    Retry(String),
    /// Nothing has failed: other records come first, which can be read. The runner tries the same
    /// batches again in a moment, and goes on with the others meanwhile.
    #[error("{0}")]
    Wait(String),
    /// Will not pass: the runner tries the batches one by one, puts the poison one into the dead
    /// letter with this reason, and goes on behind it.
    #[error("{0}")]
    Poison(String),
    /// Another process does the group's work since this handler was made: it will be refused for good.
    /// The runner ends, and the handler is made anew where the group is still this process's.
    #[error("{0}")]
    Fenced(String),
}

/// A consumer group's work.
///
/// **Order.** Batches come in the order of their offsets within a partition; a batch may come again
/// after a restart or an error, so handling is idempotent. **Durability.** The runner commits what
/// [`Self::durable`] covers and nothing else.
#[async_trait]
pub trait GroupHandler: Send + fmt::Debug {
    /// The group.
    fn group(&self) -> GroupId;

    /// Takes batches in. They need not be durable when this returns.
    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError>;

    /// Called at least every 100 ms and after each `handle`: makes durable what is due. With
    /// `is_closing` everything is due: before the end, and before a partition goes to another process. `log_end` is the append time that the log vouches for where
    /// the group has read to its end, else `None`.
    async fn tick(
        &mut self,
        now: UnixNanos,
        log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError>;

    /// Records were set aside as damaged, expired or dead: they will not come. The group goes on
    /// behind them; the publisher notes a hole.
    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError>;

    /// Takes a batch of a dead letter again, beside the order of the log and whatever the cover is:
    /// durable when this returns. It may have been taken before.
    async fn take_again(
        &mut self,
        _batch: &LoggedBatch,
        _now: UnixNanos,
    ) -> Result<(), HandleError> {
        Err(HandleError::Poison("the group cannot take dead letters again".to_owned()))
    }

    /// How far the group's work is durable.
    fn durable(&self) -> Coverage;
}

/// Records that were stepped over, as a store is told of them: a batch that has their place and no
/// span. `None` where none can be made.
pub(crate) fn without_spans(incarnation: u64, damaged: &DamagedRange) -> Option<LoggedBatch> {
    let append_time = damaged.append_times.1;
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("none").ok()?,
        collector: "none".into(),
        receive_time: append_time,
        digest: 0,
    };
    let batch = Arc::new(SpanBatchBuilder::new().finish(source).ok()?);
    Some(LoggedBatch { incarnation, range: damaged.range, append_time, batch })
}

/// Why a handler could not be made. It may pass or not: it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the consumer group {group} cannot start: {reason}")]
pub struct MakeError {
    /// The group.
    pub group: GroupId,
    /// Why.
    pub reason: String,
    /// What the group works with is away: the process is well without it, as it is where that goes away
    /// later.
    pub is_away: bool,
}

/// Makes a group's handler: when the group starts, and again after it has panicked.
#[async_trait]
pub trait GroupMaker: Send + Sync + fmt::Debug {
    /// The group.
    fn group(&self) -> GroupId;

    /// How the processes of a cell share the group. One whose state is over all partitions is read by
    /// one process at a time, and its handler is made anew for each turn.
    fn sharing(&self) -> Sharing {
        Sharing::Partitions
    }

    /// A handler that goes on from what is durable, whatever became of the one before, also in
    /// another process.
    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError>;
}
