//! The shared state in Redis 6 or newer, one for the gateways of a region.
//!
//! One connection a gateway carries everything, over RESP3, kept up by a task of ours: while it is
//! down a call costs nothing but the look at it, and the call that finds it hanging is the last one
//! that waits. Evictions and fills by others come as invalidations on the same connection, in order
//! with its answers.
//!
//! Of the client library this takes the protocol alone. Its connection manager makes commands wait
//! for a new connection and has no place for switching tracking on before the first read; its local
//! cache would be a second one; its TLS reads the system's authorities even where a private one is
//! named.
//!
//! **Never** may a caller wait longer than the timeout, an entry be trusted that was read without
//! tracking, or a credential stand in an error or a log.

mod cache;
mod config;
mod counters;
mod figures;
mod link;
mod stream;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::Clock;

pub use cache::RedisCache;
pub use config::{RedisConfig, RedisFault};
pub use counters::RedisCounters;
pub use figures::{RedisFigures, figures};
use link::Link;

use crate::metrics::SharedStateMetrics;

/// The shared state in one Redis.
#[derive(Clone, Debug)]
pub struct RedisState {
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
}

impl RedisState {
    /// Begins to connect, on the tracker, until the token is cancelled. Redis need not be there.
    ///
    /// # Errors
    /// When a file that the configuration names cannot be read or is not what it should be.
    pub async fn start(
        config: RedisConfig,
        clock: Arc<dyn Clock>,
        metrics: SharedStateMetrics,
        (tracker, stopping): (TaskTracker, CancellationToken),
    ) -> Result<Self, RedisFault> {
        stream::check(&config).await?;
        let link = Arc::new(Link::new(config, metrics, tracker.clone(), stopping));
        drop(tracker.spawn(Arc::clone(&link).keep_up()));
        Ok(Self { link, clock })
    }

    /// Values kept between questions.
    #[must_use]
    pub fn cache(&self) -> RedisCache {
        RedisCache::new(Arc::clone(&self.link), Arc::clone(&self.clock))
    }

    /// Counters of limits.
    #[must_use]
    pub fn counters(&self) -> RedisCounters {
        RedisCounters::new(Arc::clone(&self.link))
    }

    /// Whether Redis answers, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_up()
    }
}
