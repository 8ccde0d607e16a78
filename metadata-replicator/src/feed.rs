//! Records of origin logs on their way between regions: the port that serves them, and the gRPC
//! feed. A Kafka topic would stand beside it as `feed/kafka`.

pub mod grpc;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use proto::v1;
use tokio::sync::watch;
use trace_model::Region;
use trace_model::location::{Cursor, Epoch};

use crate::error::ReplicatorError;

/// Records of one epoch of an origin's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// Where it goes on from.
    pub first: Cursor,
    /// Where the next one begins. Between the two nothing is missing but superseded and expired
    /// records.
    pub next: Cursor,
    /// The records, their sequences never falling.
    pub records: Vec<v1::OriginRecord>,
}

/// The records of one origin, to read from a cursor on: an origin's own log, or a replica's copy.
///
/// **Order.** Cursors are ordered by epoch, then sequence; a reader that follows [`Chunk::next`]
/// sees, of every row, the latest version, and a watermark only behind what it covers. The name of
/// a service precedes its use within an epoch. **Cursors** stay valid over restarts, compaction and
/// expiry: a cursor into what is gone goes on with what came after it. A cursor beyond the end
/// reads nothing.
#[async_trait]
pub trait OriginFeed: Send + Sync + fmt::Debug {
    /// The region whose log it is.
    fn origin(&self) -> &Region;

    /// The cursor after the last record; `None` where nothing was ever held.
    fn end(&self) -> Option<Cursor>;

    /// Records from a cursor on (`None`: from the beginning), at most about `bytes_max` but at
    /// least one; empty where none lies there or behind.
    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError>;

    /// Waits until the end lies beyond the cursor, at most so long.
    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration);

    /// All service names of an epoch so far: what a reader that enters it midway may lack.
    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName>;

    /// A reader shows a cursor of an epoch above all of ours: it holds more of this origin's log
    /// than we do. An origin starts an epoch above it and puts its rows there again, so that the
    /// reader gets them; a copy does nothing, its origin will.
    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError>;
}

/// Waits on a store's end.
pub(crate) async fn wait_for_end(
    end: &watch::Sender<Option<Cursor>>,
    from: Option<Cursor>,
    at_most: Duration,
) {
    let mut end = end.subscribe();
    let beyond = end.wait_for(|end| *end > from.or(Some(Cursor::default())));
    // Neither the time-out nor a closed log is a fault: the caller looks again.
    drop(tokio::time::timeout(at_most, beyond).await);
}
