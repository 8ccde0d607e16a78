//! Finds the other regions at the region's replicator and follows each of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metadata_replicator::feed::grpc::{
    ContributionSink, Dialer, Follower, follow_contributions, list_origins,
};
use metadata_replicator::{Entropy, ReplicatorError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::location::Cursor;
use trace_model::{Contribution, Region};

use super::cursor_file::CursorFile;
use super::joiner::{Delivered, OriginJoiner};
use super::{BorderParts, CursorFileError};
use crate::backoff::Backoff;

/// The regions are asked for this often: a replicator that was started anew may know more.
const REGIONS_EVERY: Duration = Duration::from_secs(30);
/// Pauses while the replicator does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Frames read ahead of the joiner.
const FRAMES_AHEAD: usize = 1;

/// Where the region's replicator is.
#[derive(Clone, Debug)]
pub struct ReplicatorAddress {
    /// Its URL.
    pub url: String,
    /// How it is reached.
    pub dialer: Arc<dyn Dialer>,
    /// Jitter of the pauses between attempts.
    pub entropy: Arc<Entropy>,
}

/// Joins calls across borders; see [`crate::border`].
#[derive(Debug)]
pub struct BorderJoiner {
    parts: BorderParts,
    replicator: ReplicatorAddress,
    followed: BTreeSet<Region>,
}

impl BorderJoiner {
    /// Follows what this replicator holds of other regions.
    #[must_use]
    pub const fn new(parts: BorderParts, replicator: ReplicatorAddress) -> Self {
        Self { parts, replicator, followed: BTreeSet::new() }
    }

    /// Follows every other region, in a task of its own on the tracker, until the token is
    /// cancelled.
    pub async fn run(mut self, tracker: TaskTracker, token: CancellationToken) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, self.replicator.entropy.next());
        loop {
            let ReplicatorAddress { url, dialer, .. } = &self.replicator;
            let listing = token.run_until_cancelled(list_origins(dialer.as_ref(), url));
            let Some(listed) = listing.await else { return };
            let pause = match listed {
                Ok(regions) => {
                    backoff.succeed();
                    self.follow_new(regions, &tracker, &token);
                    REGIONS_EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "the replicator does not answer");
                    backoff.fail(self.parts.clock.monotonic())
                }
            };
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn follow_new(
        &mut self,
        regions: Vec<Region>,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) {
        for origin in regions {
            let is_own = origin == self.parts.config.region;
            if is_own || !self.followed.insert(origin.clone()) {
                continue;
            }
            let (parts, replicator) = (self.parts.clone(), self.replicator.clone());
            let token = token.child_token();
            tracker.spawn(async move {
                if let Err(error) = follow(&origin, parts, replicator, token).await {
                    tracing::error!(%error, %origin, "calls from a region are not joined");
                }
            });
        }
    }
}

/// Follows one origin from its cursor on.
async fn follow(
    origin: &Region,
    parts: BorderParts,
    replicator: ReplicatorAddress,
    token: CancellationToken,
) -> Result<(), CursorFileError> {
    let file = CursorFile::new(&parts.config.directory, origin);
    let from = read_cursor(&file, &token).await?;
    let follower = Follower {
        origin: origin.clone(),
        subscriber: parts.config.region.clone(),
        urls: vec![replicator.url],
        from,
        dialer: replicator.dialer,
        entropy: replicator.entropy,
    };
    let (sender, deliveries) = mpsc::channel(FRAMES_AHEAD);
    let joiner = OriginJoiner::new(origin.clone(), file, parts);
    let following = CancellationToken::new();
    let stream = follow_contributions(follower, Arc::new(Inbox(sender)), following.clone());
    let joining = async {
        joiner.run(deliveries, token).await;
        following.cancel();
    };
    tokio::join!(stream, joining);
    Ok(())
}

/// A disk that refuses may give way: the cursor is asked for until it is read.
async fn read_cursor(
    file: &CursorFile,
    token: &CancellationToken,
) -> Result<Option<Cursor>, CursorFileError> {
    loop {
        let error = match file.read() {
            Err(error) if error.is_retryable() => error,
            read => return read,
        };
        tracing::warn!(%error, "a cursor cannot be read");
        if token.run_until_cancelled(tokio::time::sleep(PAUSES.1)).await.is_none() {
            return Err(error);
        }
    }
}

/// Hands frames to the joiner, which takes the next when it has room.
#[derive(Debug)]
struct Inbox(mpsc::Sender<Delivered>);

#[async_trait]
impl ContributionSink for Inbox {
    async fn take(
        &self,
        contributions: Vec<Contribution>,
        next: Cursor,
    ) -> Result<(), ReplicatorError> {
        let sent = self.0.send((contributions, next)).await;
        sent.map_err(|_| ReplicatorError::Closed)
    }
}
