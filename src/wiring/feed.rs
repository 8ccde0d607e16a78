//! The region's origin log as peers read it, where several processes could publish: only the one that
//! does serves it. What another has on its disk may be an old copy, and a reader that came to it would
//! be told so by rows put again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ingester::LagBoard;
use metadata_replicator::feed::Chunk;
use metadata_replicator::{OriginFeed, ReplicatorError, Terms};
use service_kit::config::CellConfig;
use span_log::port::METADATA_PUBLISHER;
use trace_model::Region;
use trace_model::location::{Cursor, Epoch};

/// An origin log that is read while this process publishes.
#[derive(Debug)]
pub(super) struct PublishersFeed {
    origin: Arc<dyn OriginFeed>,
    lag: LagBoard,
}

impl PublishersFeed {
    /// The feed of a cell: that of an embedded log has no other publisher.
    pub(super) fn of(
        config: &CellConfig,
        origin: Arc<dyn OriginFeed>,
        lag: LagBoard,
    ) -> Arc<dyn OriginFeed> {
        match &config.stores.kafka {
            Some(_) => Arc::new(Self { origin, lag }),
            None => origin,
        }
    }

    fn check(&self) -> Result<(), ReplicatorError> {
        match self.lag.of(METADATA_PUBLISHER) {
            Some(lag) if !lag.is_standing_by => Ok(()),
            _ => Err(ReplicatorError::Peer("it stands by, and another process publishes".into())),
        }
    }
}

#[async_trait]
impl OriginFeed for PublishersFeed {
    fn origin(&self) -> &Region {
        self.origin.origin()
    }

    fn end(&self) -> Option<Cursor> {
        self.origin.end()
    }

    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        self.check()?;
        self.origin.read_from(from, bytes_max).await
    }

    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.origin.wait_beyond(from, at_most).await;
    }

    fn names(&self, epoch: Epoch) -> Vec<proto::v1::ServiceName> {
        self.origin.names(epoch)
    }

    fn terms(&self) -> Terms {
        self.origin.terms()
    }

    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        self.check()?;
        self.origin.outrun(seen).await
    }
}
