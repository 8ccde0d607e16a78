//! A region that lost its disk: its replicator takes the region's own log back from the peers that
//! hold it, so that its cell can take it from here.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use trace_model::Region;

use super::origin::Origin;
use crate::error::ReplicatorError;
use crate::feed::grpc::{Subscriber, catch_up};

/// How long peers that do not answer are asked again. A region that starts for the first time waits
/// as long, if its peers are not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before they are.
const PAUSE: Duration = Duration::from_millis(300);

/// Asks each peer for what it has of the region's own log, until all have answered or patience
/// ends. Every peer has a part of the same log from its beginning: each adds what it has more.
pub(super) async fn take_back(subscriber: &Subscriber, origin: &Origin, token: &CancellationToken) {
    let asking = async {
        let mut left: Vec<&String> = subscriber.urls.iter().collect();
        loop {
            let mut silent = Vec::new();
            for url in left {
                if !is_asked(subscriber, url, origin).await {
                    silent.push(url);
                }
            }
            if silent.is_empty() {
                return;
            }
            left = silent;
            tokio::time::sleep(PAUSE).await;
        }
    };
    let asking = tokio::time::timeout(PATIENCE, asking);
    let is_whole = token.run_until_cancelled(asking).await.is_some_and(|asked| asked.is_ok());
    let region: &Region = &subscriber.origin;
    match (origin.is_empty(), is_whole) {
        (true, _) => {}
        (false, true) => {
            tracing::info!(%region, "the region's own log was taken back from its peers");
        }
        (false, false) => tracing::warn!(
            %region, "the region's own log was taken back from its peers, but not from all of them"
        ),
    }
}

/// Whether the peer has given what it has, or never will.
async fn is_asked(subscriber: &Subscriber, url: &str, origin: &Origin) -> bool {
    match catch_up(subscriber, url, origin).await {
        Ok(()) => true,
        Err(ReplicatorError::UnknownOrigin) => true,
        Err(error) => {
            tracing::debug!(url, %error, "a peer did not give the region's own log back");
            !error.is_retryable()
        }
    }
}
