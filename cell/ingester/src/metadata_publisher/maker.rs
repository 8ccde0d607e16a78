//! Makes the publisher, from what its logs say at that moment.

use std::sync::Arc;

use async_trait::async_trait;
use metadata_replicator::{ContributionLog, OriginPeer};
use span_log::port::METADATA_PUBLISHER;
use span_log::{GroupId, Sharing, SpanLog};
use trace_model::Clock;

use super::mending::{MendingPublisher, PublisherParts};
use super::{IndexPolicy, PublisherConfig, PublisherMetrics, SpanLogState};
use crate::handler::{GroupHandler, GroupMaker, MakeError};

/// Makes the group's handler.
#[derive(Debug)]
pub struct PublisherMaker {
    /// Pace and limits.
    pub config: PublisherConfig,
    /// The log that is read.
    pub span_log: Arc<dyn SpanLog>,
    /// The region's own log of contributions.
    pub origin: Arc<dyn ContributionLog>,
    /// Who gives that log back, should it have lost something: the region's replicator, where the
    /// cell knows it.
    pub peer: Option<Arc<dyn OriginPeer>>,
    /// What leaves the region.
    pub policy: Arc<dyn IndexPolicy>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted of this.
    pub metrics: PublisherMetrics,
}

#[async_trait]
impl GroupMaker for PublisherMaker {
    fn group(&self) -> GroupId {
        METADATA_PUBLISHER
    }

    /// The watermark is over all partitions, and the origin log has one writer.
    fn sharing(&self) -> Sharing {
        Sharing::Alone
    }

    async fn make(&self) -> Result<Box<dyn GroupHandler>, MakeError> {
        let failed =
            |reason: String| MakeError { group: METADATA_PUBLISHER, reason, is_away: false };
        let source = SpanLogState::of(self.span_log.as_ref());
        let source = source.map_err(|error| failed(error.to_string()))?;
        let parts = PublisherParts {
            config: self.config.clone(),
            source,
            log: Arc::clone(&self.origin),
            policy: Arc::clone(&self.policy),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
        };
        let made = MendingPublisher::new(parts, self.peer.clone());
        Ok(Box::new(made.map_err(|error| failed(error.to_string()))?))
    }
}
