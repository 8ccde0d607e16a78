//! Another origin's contributions as values, for those who need what crosses a border and keep no
//! index: the cell that joins calls over it.
//!
//! It must never judge more than the stream itself: what a contribution means is the sink's.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use proto::convert::index::{ServiceDictionary, contribution_from_wire};
use proto::v1;
use proto::v1::metadata_index_client::MetadataIndexClient;
use proto::v1::origin_record::Record;
use tokio_util::sync::CancellationToken;
use trace_model::location::{Cursor, Epoch};
use trace_model::{Contribution, Region};

use super::client::{CONNECT_TIMEOUT, Dialer, FeedSink, Subscriber, follow, peer_error, within};
use super::frames::Received;
use crate::epoch::Entropy;
use crate::error::ReplicatorError;
use crate::feed::Chunk;

/// Takes contributions of one origin in the order of its log.
///
/// **Pace.** The next frame is read when `take` returns: a slow sink slows the stream and nothing
/// is buffered. **Idempotence.** After an error, a lost stream or a restart from an earlier cursor
/// the same contributions come again.
#[async_trait]
pub trait ContributionSink: Send + Sync + fmt::Debug {
    /// Takes the contributions of a frame (none where it held only watermarks) and the cursor
    /// behind them. [`ReplicatorError::Closed`] says that the sink has ended.
    async fn take(
        &self,
        contributions: Vec<Contribution>,
        next: Cursor,
    ) -> Result<(), ReplicatorError>;
}

/// Whose contributions are followed, for whom, where and from where on.
#[derive(Debug)]
pub struct Follower {
    /// The region whose log it is.
    pub origin: Region,
    /// Who follows.
    pub subscriber: Region,
    /// Where the log, or a copy of it, is served; tried in turn.
    pub urls: Vec<String>,
    /// The cursor behind what was taken before; `None`: from the beginning.
    pub from: Option<Cursor>,
    /// How peers are reached.
    pub dialer: Arc<dyn Dialer>,
    /// Jitter of the pauses between attempts.
    pub entropy: Arc<Entropy>,
}

/// Follows until the token is cancelled; comes back after every loss, with a growing pause.
pub async fn follow_contributions(
    follower: Follower,
    sink: Arc<dyn ContributionSink>,
    token: CancellationToken,
) {
    let Follower { origin, subscriber, urls, from, dialer, entropy } = follower;
    let place = Mutex::new(Place { cursor: from, names: None });
    let reader = Arc::new(Reader { origin: origin.clone(), sink, place });
    let subscriber = Subscriber { origin, subscriber, urls, dialer, entropy };
    follow(subscriber, reader, token).await;
}

/// The regions whose logs a replicator holds, its own among them.
pub async fn list_origins(dialer: &dyn Dialer, url: &str) -> Result<Vec<Region>, ReplicatorError> {
    let channel = within(CONNECT_TIMEOUT, dialer.dial(url)).await??;
    let mut client = MetadataIndexClient::new(channel);
    let answer = within(CONNECT_TIMEOUT, client.list_regions(v1::ListRegionsRequest {})).await?;
    let states = answer.map_err(|status| peer_error(&status))?.into_inner().regions;
    let region = |state: v1::RegionState| {
        Region::new(&state.region).map_err(|_| ReplicatorError::Protocol("a region without a name"))
    };
    states.into_iter().map(region).collect()
}

/// Turns frames into values.
#[derive(Debug)]
struct Reader {
    origin: Region,
    sink: Arc<dyn ContributionSink>,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    cursor: Option<Cursor>,
    /// Service names of the epoch that is being read. Epochs never come back.
    names: Option<(Epoch, ServiceDictionary)>,
}

impl Reader {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn read(
        &mut self,
        chunk: Chunk,
        origin: &Region,
    ) -> Result<Vec<Contribution>, ReplicatorError> {
        let epoch = chunk.first.epoch;
        if self.names.as_ref().is_none_or(|(held, _)| *held != epoch) {
            self.names = None;
        }
        let (_, names) = self.names.get_or_insert_with(|| (epoch, ServiceDictionary::default()));
        let mut contributions = Vec::new();
        for record in chunk.records {
            match record.record {
                Some(Record::ServiceName(name)) => {
                    names.define(name.id, &name.name)?;
                }
                Some(Record::Contribution(row)) => {
                    contributions.push(contribution_from_wire(row, origin, names)?);
                }
                Some(Record::Watermark(_)) | None => {}
            }
        }
        Ok(contributions)
    }
}

#[async_trait]
impl FeedSink for Reader {
    fn cursor(&self) -> Option<Cursor> {
        self.place().cursor
    }

    async fn take(&self, received: Received) -> Result<(), ReplicatorError> {
        if received.chunk.records.is_empty() {
            return Ok(());
        }
        let next = received.chunk.next;
        let contributions = self.place().read(received.chunk, &self.origin)?;
        self.sink.take(contributions, next).await?;
        self.place().cursor = Some(next);
        Ok(())
    }

    fn note_connected(&self, is_connected: bool) {
        tracing::debug!(origin = %self.origin, is_connected, "contributions are followed");
    }

    fn note_refused(&self) {
        tracing::debug!(origin = %self.origin, "contributions are refused");
    }
}

#[cfg(test)]
mod tests;
