//! Records that others have written, in topics of their own: the port by which a collector takes
//! them. They are no part of the span log; what is made of them is appended to it like a request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use trace_model::UnixNanos;

use crate::port::GroupId;

/// The group that takes foreign records.
pub const FOREIGN_SPANS: GroupId = GroupId("foreign-spans");

/// Where a foreign record lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForeignPlace {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// The assignment in which it was read: a record of an earlier one is somebody else's by now.
    pub since: u64,
}

impl fmt::Display for ForeignPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}:{}", self.topic, self.partition, self.offset)
    }
}

/// A record that somebody else has written.
#[derive(Clone, Debug)]
pub struct ForeignRecord {
    /// Where it lies.
    pub place: ForeignPlace,
    /// Its key; most exporters write none.
    pub key: Option<Bytes>,
    /// Values of the header that was asked for, in their order.
    pub header: Vec<Bytes>,
    /// What it holds.
    pub payload: Bytes,
    /// When it was written, as the topic says: by its broker's or its writer's clock.
    pub time: Option<UnixNanos>,
}

/// How a source of foreign records is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForeignFigures {
    /// Partitions that this process reads.
    pub partitions: u64,
    /// Records of these that are not settled, those not yet read included.
    pub lag_records: u64,
    /// Records that the topic's retention has taken before they were read.
    pub expired_records: u64,
    /// Whether reading rests, because too much is not settled.
    pub is_paused: bool,
}

/// A source of foreign records, shared by the processes of a cell.
///
/// **At least once.** A record is committed when it and all before it in its partition are settled;
/// one that is not comes again, here after a restart or in another process. **Bounded.** What was
/// given and not settled is bounded in records and bytes; beyond that nothing is given. **Order.**
/// Records of one partition are given in the order of their offsets, and may be settled in any.
#[async_trait]
pub trait ForeignRecords: Send + Sync + fmt::Debug {
    /// The next record; waits for it. `None` when the source is closed. Cancel-safe.
    async fn next(&self) -> Option<ForeignRecord>;

    /// Nothing more is to be done for the record: the span log has acknowledged its spans, or it was
    /// stepped over for good. Each record that was given is settled once, or never.
    fn settle(&self, place: &ForeignPlace);

    /// How the source is.
    fn figures(&self) -> ForeignFigures;

    /// Commits what is settled, and leaves: nothing is given afterwards.
    async fn close(&self);
}
