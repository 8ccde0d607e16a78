//! The port of the span log: its contract.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::watch;
use trace_model::{Coverage, LogRange, StoredSpan, TenantId, TraceId, UnixNanos};

use crate::assignment::{Assignment, Hold, Sharing};
use crate::stepped_over::Stranger;

pub use crate::eraser::{ErasedRecords, LogEraser};
pub use crate::losses::{ForgetLost, Lost, LostCause, LostRun, MissedRun};

/// What an adapter can do. A test's opt-outs, not the adapter's word, decide what is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What was appended survives a kill of the process and a loss of power.
    pub is_durable: bool,
    /// [`SpanLog::tail`] answers by trace id.
    pub has_live_tail: bool,
    /// Records can be read from an append time.
    pub can_seek_by_time: bool,
}

/// Which log this is. Offsets of different incarnations cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// Random-free and growing: the time of creation in milliseconds, made unique by the adapter.
    pub incarnation: u64,
    /// Number of partitions, numbered from 0.
    pub partitions: u32,
}

/// A consumer group, by its name (`storage-writer`, `search-indexer`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub &'static str);

impl fmt::Display for GroupId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Where a batch was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The ranges that its records took.
    pub ranges: Vec<LogRange>,
    /// The append time given.
    pub append_time: UnixNanos,
}

/// The end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Offset that the next record will get.
    pub next: u64,
    /// Lower bound of the append time of whatever comes next: never backwards.
    pub append_time: UnixNanos,
    /// Offset of the oldest record that is still kept.
    pub first: u64,
}

/// What the live tail holds of a trace.
#[derive(Clone, Debug)]
pub struct TailAnswer {
    /// Spans of records that storage-writer has not committed (it may hold more).
    pub spans: Vec<StoredSpan>,
    /// The tail's cover: from storage-writer's commit up to these offsets nothing is left out.
    pub covered: Coverage,
    /// A record of the tail that may belong to the trace could not be read. What is lost for good
    /// is told by [`SpanLog::lost`].
    pub is_damaged: bool,
    /// The log holds, or may hold, records of the trace's partition beyond `covered`: the tail has
    /// not reached them. An absence is not proven.
    pub is_behind: bool,
    /// Partitions whose keepers did not answer this question. `is_behind` is set as well.
    pub silent: Vec<u32>,
    /// Where the tail begins, where that is known better than by storage-writer's commit: from there up
    /// to `covered` nothing is left out.
    pub begins: Option<Coverage>,
}

/// What its readers have seen of a log. An adapter is opened with it, and never gives an offset of
/// an incarnation a second time: a log that ends before what was seen goes on behind it, or under a
/// new incarnation, and a log that is made anew gets an incarnation above all that were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How far anybody has handled or published records.
    pub covered: Coverage,
    /// How far the store holds them: these are not lost with the log.
    pub stored: Coverage,
    /// No record was published that was appended later: append times go on from here.
    pub append_time: UnixNanos,
}

/// A run of records that was set aside because its bytes are damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Which records; `next` is the first readable one behind.
    pub range: LogRange,
    /// Append times between which they lie: a hole in the watermark.
    pub append_times: (UnixNanos, UnixNanos),
    /// What is wrong.
    pub reason: String,
    /// What is known of a record that was never ours, where it is one.
    pub stranger: Option<Stranger>,
}

/// Why the log did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// No room on disk or in the log's own limit. Passes when there is room.
    #[error("the span log is full")]
    Full,
    /// Too much is waiting to be written. Passes.
    #[error("the span log's queue is full")]
    Overloaded,
    /// The disk refused (fsync, write). Nothing of the batch is acknowledged. Passes or not; the
    /// log tries by itself.
    #[error("the span log's disk failed: {0}")]
    Disk(String),
    /// The process may open no more files. Nothing of the batch is acknowledged. Passes.
    #[error("the span log needs a file, and the process has too many open")]
    NoDescriptors,
    /// Whoever keeps the log (brokers) cannot be reached or did not answer in time. Nothing of the
    /// batch is acknowledged. Passes.
    #[error("the span log is not available: {0}")]
    Unavailable(String),
    /// A group that must have every record is so far behind that the log would let go what it has not
    /// committed. Nothing of the batch is acknowledged. Passes when the group has caught up.
    #[error(
        "{group} has not committed what was appended {} s ago, and the span log keeps {} s",
        .age_max.as_secs(), .retention.as_secs()
    )]
    Behind {
        /// The group.
        group: GroupId,
        /// How old a record may be that it has not committed.
        age_max: Duration,
        /// How long records are kept.
        retention: Duration,
    },
    /// The log is closing.
    #[error("the span log is closing")]
    Closed,
    /// A batch larger than the log takes.
    #[error("a batch of {bytes} bytes; the span log takes at most {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// An offset that is no longer kept.
    #[error("offset {wanted} is no longer kept; the oldest is {first}")]
    Expired {
        /// The offset asked for.
        wanted: u64,
        /// The oldest that is kept.
        first: u64,
    },
    /// A partition that does not exist.
    #[error("there is no partition {0}")]
    NoPartition(u32),
    /// A run of records is damaged: set aside, reported once to each reader that meets it, who
    /// counts it and goes on at `range.next`.
    #[error("damaged records {}..{}: {}", .0.range.first, .0.range.next, .0.reason)]
    Damaged(DamagedRange),
}

impl LogError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Overloaded | Self::Closed | Self::Behind { .. } => true,
            Self::Disk(_) | Self::NoDescriptors | Self::Unavailable(_) => true,
            Self::TooLarge { .. }
            | Self::Expired { .. }
            | Self::NoPartition(_)
            | Self::Damaged(_) => false,
        }
    }
}

/// Why a commit was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Behind what is committed already: commits never go back (replays use another group name).
    #[error("offset {wanted} lies behind the committed {committed}")]
    Backwards {
        /// The offset given.
        wanted: u64,
        /// What is committed.
        committed: u64,
    },
    /// The partition is not this reader's any more: the commit has changed nothing, and whoever
    /// reads it now handles again what was not committed.
    #[error("partition {} is not held since generation {} any more", .0.partition, .0.since)]
    Fenced(Hold),
    /// The log failed.
    #[error("the commit was not written")]
    Log(#[from] LogError),
}

/// The log of a cell's acknowledged spans.
///
/// **Durability.** `append` returns `Ok` only when the batch is durable as [`Capabilities`] says;
/// after an `Err` the batch may or may not be kept, and the sender repeats it.
/// **Order.** Records of one partition are read in the order of their offsets, without gaps but
/// for damaged and expired ranges, which are errors. All records of one trace and incarnation are
/// in one partition. Append times never go backwards within a partition, also when the wall clock
/// does and over restarts.
/// **Idempotence.** The log does not look for duplicates: its readers do.
/// **Ownership.** Batches that are read are shared; nobody changes them.
/// **Sharing.** Several processes may read a group; [`SpanLog::join`] tells each its partitions. A
/// reader reads and commits what it holds and nothing else. Where a partition is leaving, it reads no
/// further, makes durable what it has handed over or drops it, commits, releases it. Where a partition
/// is gone, or held since another generation, it drops all it knows of it: somebody else has gone on
/// from the last commit, so that records after it are handled twice, and counts must be fenced by
/// their store. No two readers are given a partition at a time, but one that was given up for dead
/// may not know it yet.
#[async_trait]
pub trait SpanLog: Send + Sync + fmt::Debug {
    /// What the adapter can do.
    fn capabilities(&self) -> Capabilities;

    /// Which log this is.
    fn identity(&self) -> LogIdentity;

    /// Appends a batch. Many callers are committed together (group commit); a lone one does not
    /// wait for company.
    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError>;

    /// Bytes of the largest span, with its resource and its scope, that the log can keep; a batch with
    /// a larger one is refused as a whole. `None`: whatever a batch can hold.
    fn span_bytes_max(&self) -> Option<usize> {
        None
    }

    /// Batches from an offset on, at most about `bytes_max` of encoded bytes but at least one
    /// batch; empty where the log ends there. The first batch may start below `from` (a batch is
    /// read whole): readers skip records that they have.
    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError>;

    /// Waits until the partition's end lies beyond `offset`, at most so long; gives the end.
    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError>;

    /// The partition's end.
    fn end(&self, partition: u32) -> Result<LogEnd, LogError>;

    /// The offset of the first record appended at or after the time; the end's where none was.
    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError>;

    /// Next offset that the group has to handle; the oldest kept where it has committed none.
    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError>;

    /// Whether the group has committed anything in the partition that the log still knows of.
    fn has_committed(&self, _group: GroupId, _partition: u32) -> Result<bool, LogError> {
        Ok(true)
    }

    /// Notes that the group has handled everything below `next`. Durable at the latest when the
    /// log closes or within a second: a lost commit is a replay, which readers bear.
    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError>;

    /// Joins a group, at the first call and after [`Self::leave`], and tells which partitions are this
    /// process's from now on. The receiver goes on telling until the log closes; a log of one process
    /// gives all of them at once and for good.
    fn join(&self, _group: GroupId, _sharing: Sharing) -> watch::Receiver<Assignment> {
        watch::channel(Assignment::of_all(self.identity().partitions)).1
    }

    /// As [`Self::commit`], for a partition that is held. Changes nothing where it is not held any
    /// more ([`CommitError::Fenced`]).
    async fn commit_held(&self, group: GroupId, hold: Hold, next: u64) -> Result<(), CommitError> {
        if !Assignment::of_all(self.identity().partitions).has(hold) {
            return Err(CommitError::Fenced(hold));
        }
        self.commit(group, hold.partition, next).await
    }

    /// Gives a leaving partition back: all that is to be committed of it was. Harmless otherwise.
    fn release(&self, _group: GroupId, _hold: Hold) {}

    /// Leaves a group that this process cannot read for now, so that others take its partitions, until
    /// it joins again. Who calls it reads nothing of the group: nobody waits for a release. A log of one
    /// process has nobody to leave them to.
    fn leave(&self, _group: GroupId) {}

    /// Spans of a trace in records that storage-writer has not committed, also after a restart.
    /// "Not found" is an empty list.
    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError>;

    /// Runs set aside as damaged since the log was opened, whether or not a store has them.
    fn damaged(&self) -> Vec<DamagedRange>;

    /// Records that no store has and that will not come, over restarts, until they are forgotten. A
    /// trace may have had spans in them.
    fn lost(&self) -> Lost {
        Lost::default()
    }

    /// Forgets lost runs; durable when it returns. Gives how many.
    async fn forget_lost(&self, _which: ForgetLost) -> Result<usize, LogError> {
        Ok(0)
    }

    /// Tells all processes that read the log of records that storage-writer, or one of [`TOLD_GROUPS`],
    /// has put into its dead letters: they are lost, or missed by that group. Durable when it returns.
    /// A log of one process need not: it has the letters itself.
    async fn note_set_aside(
        &self,
        _group: GroupId,
        _range: LogRange,
        _append_times: (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        Ok(())
    }

    /// Partitions whose keepers do not answer now: nothing is known of what they have taken since they
    /// last did.
    fn away(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Whether the partition is one of those.
    fn is_away(&self, partition: u32) -> bool {
        self.away().contains(&partition)
    }

    /// Whether the partition has come to its end for good: what it had beyond that is lost
    /// ([`Self::lost`]), and nobody has to reach it.
    fn is_retired(&self, _partition: u32) -> bool {
        false
    }

    /// A time before which no record at or behind the offset was appended, as far as that is known
    /// without reading: also of records that are no longer kept.
    fn appended_since(&self, _partition: u32, _offset: u64) -> UnixNanos {
        UnixNanos(0)
    }

    /// A time before which no record at or behind the offset was appended, where so much is known without
    /// reading that nobody has to read for it.
    fn dated(&self, _partition: u32, _offset: u64) -> Option<UnixNanos> {
        None
    }

    /// Tells all processes that read the log of records that one of [`TOLD_GROUPS`] will never read:
    /// durable, and known to them, when it returns. What is known of them already stays as it is.
    async fn note_missed(&self, _missed: MissedRun) -> Result<(), LogError> {
        Ok(())
    }

    /// Whether the log's own tasks are at work; else which is not, and why. A log that is not well
    /// refuses appends, retryably.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// Flushes, commits and closes: later calls fail with [`LogError::Closed`].
    async fn close(&self) -> Result<(), LogError>;
}

/// The group whose commits bound the live tail.
pub const STORAGE_WRITER: GroupId = GroupId("storage-writer");
/// The group that fills the search index.
pub const SEARCH_INDEXER: GroupId = GroupId("search-indexer");
/// The group that counts.
pub const METRICS_AGGREGATOR: GroupId = GroupId("metrics-aggregator");
/// The group that publishes contributions.
pub const METADATA_PUBLISHER: GroupId = GroupId("metadata-publisher");
/// Groups whose answers are short of what they missed, and that have no other way to say so: what
/// storage-writer misses is lost, and the publisher's watermark has a hole.
pub const TOLD_GROUPS: [GroupId; 2] = [SEARCH_INDEXER, METRICS_AGGREGATOR];
