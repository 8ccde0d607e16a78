//! The publisher of an origin log that may have lost something: the log's disk was lost, or came
//! back with an old copy.
//!
//! Two things tell: the span log's commit lies ahead of what the origin log says was published, or a
//! reader shows a cursor behind records that the log does not have. Then the region's replicator is
//! asked for its copy, and what is missing is put in again; what nobody gives back is a hole in the
//! watermark. At the start the group waits for that, so that a late span is folded onto the row that
//! was there and not onto nothing; no other group and no sender waits with it.
//!
//! It must never publish "absent" over what is missing, never delete by mending, and never wait for a
//! replicator for ever.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metadata_replicator::{ContributionLog, OriginPeer, Recovered};
use proto::LoggedBatch;
use span_log::port::METADATA_PUBLISHER;
use span_log::{DamagedRange, GroupId};
use trace_model::location::Cursor;
use trace_model::{Clock, Coverage, UnixNanos, Watermark};

use super::{
    IndexPolicy, MetadataPublisher, PublisherConfig, PublisherError, PublisherMetrics,
    SpanLogState, retry,
};
use crate::handler::{GroupHandler, HandleError};

#[cfg(test)]
mod tests;

/// How long the group waits at its start for a replicator that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries while it waits, and afterwards.
const TRY_EVERY: Duration = Duration::from_millis(500);
const TRY_AGAIN_EVERY: Duration = Duration::from_secs(30);

/// What a publisher is made of.
#[derive(Clone)]
pub(super) struct PublisherParts {
    /// Its pace and limits.
    pub(super) config: PublisherConfig,
    /// The span log that it reads, as it is at the start.
    pub(super) source: SpanLogState,
    /// The origin log that it writes.
    pub(super) log: Arc<dyn ContributionLog>,
    /// What leaves the region.
    pub(super) policy: Arc<dyn IndexPolicy>,
    /// Time.
    pub(super) clock: Arc<dyn Clock>,
    /// Its figures.
    pub(super) metrics: PublisherMetrics,
}

impl fmt::Debug for PublisherParts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PublisherParts")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl PublisherParts {
    fn publisher(&self) -> Result<MetadataPublisher, PublisherError> {
        MetadataPublisher::new(
            self.config.clone(),
            &self.source,
            Arc::clone(&self.log),
            Arc::clone(&self.policy),
            Arc::clone(&self.clock),
            self.metrics.clone(),
        )
    }

    /// Whether the span log's commit says that more was published than the origin log holds. It may
    /// say so of a log that is whole: repeats are committed and not published.
    fn seems_behind(&self) -> bool {
        let published = self.log.published();
        let next = |partition: &u32| {
            let same = published
                .as_ref()
                .filter(|published| published.incarnation == self.source.identity.incarnation);
            same.and_then(|published| published.next.get(partition)).copied().unwrap_or(0)
        };
        let is_of_another = published
            .as_ref()
            .is_some_and(|published| published.incarnation != self.source.identity.incarnation);
        let mut committed = self.source.committed.iter();
        !is_of_another && committed.any(|(partition, committed)| *committed > next(partition))
    }

    /// Whether a watermark that was taken back is of this span log, or an earlier one, and not older
    /// than what the origin log holds (the same, where mending was broken off). One beyond the span
    /// log's end is of records that it has lost.
    fn takes_up(&self, theirs: &Watermark) -> bool {
        let incarnation = self.source.identity.incarnation;
        let is_held = |(partition, next): (&u32, &u64)| {
            self.source.ends.get(partition).is_some_and(|end| next <= end)
        };
        let fits = theirs.incarnation < incarnation
            || (theirs.incarnation == incarnation && theirs.next.iter().all(is_held));
        let place = |mark: &Watermark| (mark.incarnation, mark.as_of);
        fits && self.log.published().is_none_or(|ours| place(&ours) <= place(theirs))
    }
}

/// The group `metadata-publisher` of a cell: see the module.
#[derive(Debug)]
pub(super) struct MendingPublisher {
    parts: PublisherParts,
    peer: Option<Arc<dyn OriginPeer>>,
    /// `None` while it waits.
    publisher: Option<Box<MetadataPublisher>>,
    started: Duration,
    /// Up to when the log had published when it was opened.
    held_until: UnixNanos,
    next_try: Duration,
    /// Up to where a hole has been noted for what is missing.
    noted: Option<Cursor>,
}

impl MendingPublisher {
    /// Goes on from what the origin log has published of the span log, if nothing says that it has
    /// lost something; else when `peer` has given back what it holds, or has not answered for half a
    /// minute. Without a peer it goes on at once.
    pub(super) fn new(
        parts: PublisherParts,
        peer: Option<Arc<dyn OriginPeer>>,
    ) -> Result<Self, PublisherError> {
        let is_doubtful = parts.seems_behind() || parts.log.history().missing().is_some();
        let waits = is_doubtful && peer.is_some();
        let publisher = if waits { None } else { Some(Box::new(parts.publisher()?)) };
        let started = parts.clock.monotonic();
        let held_until = parts.log.published().map_or(UnixNanos(0), |published| published.as_of);
        Ok(Self { parts, peer, publisher, started, held_until, next_try: started, noted: None })
    }

    /// Whether it is time to ask the peer; the next time is then so much later.
    fn is_due(&mut self, every: Duration) -> bool {
        let now = self.parts.clock.monotonic();
        let is_due = now >= self.next_try;
        if is_due {
            self.next_try = now.saturating_add(every);
        }
        is_due
    }

    async fn ask(&self) -> Result<Recovered, HandleError> {
        let Some(peer) = &self.peer else { return Ok(Recovered::default()) };
        let recovered =
            peer.give_back(self.parts.log.as_ref()).await.map_err(|error| retry(&error))?;
        if recovered.is_behind {
            let rows = recovered.rows;
            self.parts.metrics.rows_taken_back.inc_by(rows as u64);
            tracing::warn!(
                rows,
                "the origin log had lost records: the replicator gave its copy back"
            );
        }
        Ok(recovered)
    }

    /// The publisher, once it need not wait any longer.
    async fn ready(&mut self) -> Result<&mut MetadataPublisher, HandleError> {
        if self.publisher.is_none() {
            let publisher = self.start().await?;
            self.publisher = Some(Box::new(publisher));
        }
        match &mut self.publisher {
            Some(publisher) => Ok(publisher),
            None => Err(waiting()),
        }
    }

    async fn start(&mut self) -> Result<MetadataPublisher, HandleError> {
        if !self.is_due(TRY_EVERY) {
            return Err(waiting());
        }
        let waited = self.parts.clock.monotonic().saturating_sub(self.started);
        let recovered = match self.ask().await {
            Ok(recovered) => Some(recovered),
            Err(error) if waited < PATIENCE => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the replicator did not answer; the publisher goes on with what is here");
                None
            }
        };
        self.go_on(recovered).await
    }

    /// Starts publishing on what is here now. What may still be missing is a hole, and only when that
    /// is durable does the log count as mended.
    async fn go_on(
        &mut self,
        recovered: Option<Recovered>,
    ) -> Result<MetadataPublisher, HandleError> {
        let log = Arc::clone(&self.parts.log);
        let theirs = recovered.as_ref().and_then(|recovered| recovered.watermark.as_ref());
        let taken_up = theirs.filter(|theirs| self.parts.takes_up(theirs));
        if let Some(watermark) = taken_up {
            log.append(&[], Some(watermark)).await.map_err(|error| retry(&error))?;
        }
        let is_taken_up = taken_up.is_some();
        let mut publisher =
            self.parts.publisher().map_err(|error| HandleError::Retry(error.to_string()))?;
        let Some(missing) = log.history().missing() else { return Ok(publisher) };
        if is_taken_up {
            publisher.note_uncovered(&self.parts.source).await?;
        } else {
            publisher.note_lost(self.held_until, self.parts.clock.now()).await?;
        }
        self.noted = Some(missing);
        if let Some(recovered) = recovered {
            self.end_mending(missing, &recovered).await?;
        }
        Ok(publisher)
    }

    async fn end_mending(&self, missing: Cursor, of: &Recovered) -> Result<(), HandleError> {
        // What the peer does not have either will not come by asking it again.
        let until = of.end.max(Some(missing));
        self.parts.log.note_mended(until).await.map_err(|error| retry(&error))
    }

    /// Looks whether a reader has shown that something is missing: a hole up to now, then what the
    /// peer gives back.
    async fn mend(&mut self) -> Result<(), HandleError> {
        let Some(missing) = self.parts.log.history().missing() else { return Ok(()) };
        if self.noted < Some(missing)
            && let Some(publisher) = &mut self.publisher
        {
            publisher.note_lost(self.held_until, self.parts.clock.now()).await?;
            self.noted = Some(missing);
        }
        if !self.is_due(TRY_AGAIN_EVERY) {
            return Ok(());
        }
        match self.ask().await {
            Ok(recovered) => self.end_mending(missing, &recovered).await,
            Err(error) => {
                tracing::debug!(%error, "the replicator did not give its copy back yet");
                Ok(())
            }
        }
    }
}

fn waiting() -> HandleError {
    HandleError::Retry("waiting for the replicator's copy of the origin log".to_owned())
}

#[async_trait]
impl GroupHandler for MendingPublisher {
    fn group(&self) -> GroupId {
        METADATA_PUBLISHER
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        self.ready().await?.handle(batches).await
    }

    async fn tick(
        &mut self,
        now: UnixNanos,
        log_end: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        if is_closing && self.publisher.is_none() {
            return Ok(());
        }
        self.ready().await?.tick(now, log_end, is_closing).await?;
        if is_closing { Ok(()) } else { self.mend().await }
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        self.ready().await?.skip(damaged).await
    }

    fn durable(&self) -> Coverage {
        let nothing = || Coverage::none(self.parts.source.identity.incarnation);
        self.publisher.as_ref().map_or_else(nothing, |publisher| publisher.durable())
    }
}
