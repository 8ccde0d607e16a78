//! Records of origin logs on their way between regions: the port that serves them, and the gRPC
//! feed. A Kafka topic would stand beside it as `feed/kafka`.

pub mod grpc;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::v1;
use tokio::sync::Notify;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Forgotten, Region, UnixNanos};

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

/// On what terms a holder keeps an origin's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long the origin keeps a row after its last append; `None` where the holder has not been
    /// told.
    pub retention: Option<Duration>,
    /// Which rows may be missing from what the holder gives.
    pub forgotten: Forgotten,
}

impl Terms {
    /// What of it concerns a reader who has the records up to a watermark of this time (`None`: has
    /// none). Rows whose last append lies at or before that were given to it, or it was told then
    /// that they may be missing.
    #[must_use]
    pub fn news_for(self, held_until: Option<UnixNanos>) -> Forgotten {
        let is_news = |until: &UnixNanos| Some(*until) > held_until;
        Forgotten {
            expired_until: self.forgotten.expired_until.filter(is_news),
            evicted_until: self.forgotten.evicted_until.filter(is_news),
        }
    }
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
    /// least one. Where none lies there or behind, the chunk is empty and its `next` is what to
    /// wait on.
    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError>;

    /// Waits until the end lies beyond the cursor, at most so long.
    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration);

    /// All service names of an epoch so far: what a reader that enters it midway may lack.
    fn names(&self, epoch: Epoch) -> Vec<v1::ServiceName>;

    /// On what terms the records are kept. Whatever is missing from records that were read before
    /// the call, and is not superseded, is among what is said to be forgotten.
    fn terms(&self) -> Terms;

    /// A reader shows where it is. Where that is an epoch above all of ours, it holds more of this
    /// origin's log than we do: an origin starts an epoch above it and puts its rows there again, so
    /// that the reader gets them. An origin notes what it lacks (`ContributionLog::history`). A copy
    /// does nothing: its origin will.
    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError>;
}

/// The end of a log, to look at and to wait on. Waiters wake in the order in which they came, so
/// that a simulation repeats itself.
#[derive(Debug)]
pub(crate) struct EndSignal {
    end: Mutex<Option<Cursor>>,
    changed: Notify,
}

impl EndSignal {
    pub(crate) fn at(end: Option<Cursor>) -> Self {
        Self { end: Mutex::new(end), changed: Notify::new() }
    }

    pub(crate) fn get(&self) -> Option<Cursor> {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, end: Option<Cursor>) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.changed.notify_waiters();
    }

    /// Waits until the end lies beyond the cursor, at most so long.
    pub(crate) async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        let from = from.unwrap_or_default();
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.get() > Some(from) {
                    return;
                }
                changed.await;
            }
        };
        // A time-out is no fault: the caller looks again.
        drop(tokio::time::timeout(at_most, wait).await);
    }
}
