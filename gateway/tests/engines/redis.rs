//! Redis: both suites, alone and behind the local cache, and its absence.

mod away;
mod figures;
mod invalidation;
mod limit;
mod server;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway::shared_state::redis::{RedisConfig, RedisState};
use gateway::shared_state::{Cache, Counters, MokaCache, SharedStateMetrics};
use service_kit::SystemClock;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::laws::{Bench, CacheBench};

const PATIENCE: Duration = Duration::from_secs(20);

/// The Redis that all tests share, under a prefix of one's own.
pub(crate) fn shared() -> RedisConfig {
    #[expect(clippy::disallowed_methods, reason = "a test of a real engine is told where it is")]
    let address = std::env::var("FARSPAN_TEST_REDIS");
    let address = address.expect("FARSPAN_TEST_REDIS: eval \"$(tests/engines/all.sh env)\"");
    let (host, port) = address.strip_prefix("redis://").unwrap().rsplit_once(':').unwrap();
    let mut own = [0; 8];
    getrandom::fill(&mut own).unwrap();
    RedisConfig {
        prefix: format!("test:{:016x}", u64::from_le_bytes(own)),
        // The machine of the tests may be busy.
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(10),
        ..RedisConfig::at(host, port.parse().unwrap())
    }
}

/// One gateway's end of it.
pub(crate) struct Gateway {
    pub(crate) state: RedisState,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) counters: Arc<dyn Counters>,
    pub(crate) tracker: TaskTracker,
    _running: DropGuard,
}

impl Gateway {
    pub(crate) async fn start(config: RedisConfig) -> Self {
        Self::start_counted(config, SharedStateMetrics::default()).await
    }

    pub(crate) async fn start_counted(config: RedisConfig, metrics: SharedStateMetrics) -> Self {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        let clock = Arc::new(SystemClock::new());
        let tasks = (tracker.clone(), stopping.clone());
        let state = RedisState::start(config, clock, metrics, tasks).await.unwrap();
        let (cache, counters) = (Arc::new(state.cache()), Arc::new(state.counters()));
        Self { state, cache, counters, tracker, _running: stopping.drop_guard() }
    }

    pub(crate) async fn connected(config: RedisConfig) -> Self {
        let gateway = Self::start(config).await;
        gateway.is(true).await;
        gateway
    }

    /// Waits until Redis is there, or away.
    pub(crate) async fn is(&self, connected: bool) {
        eventually("connected", async || self.state.is_connected() == connected).await;
    }

    /// With the local cache in front.
    pub(crate) fn in_front(mut self) -> Self {
        let clock = Arc::new(SystemClock::new());
        let metrics = SharedStateMetrics::default();
        let front = MokaCache::in_front_of(self.cache.clone(), 16 << 20, clock, metrics);
        self.cache = Arc::new(front);
        self
    }
}

pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{what}: not so in time");
}

/// Two gateways over one Redis.
struct Region {
    one: Gateway,
    other: Gateway,
}

impl Region {
    async fn plain() -> Self {
        let config = shared();
        let one = Gateway::connected(config.clone()).await;
        Self { one, other: Gateway::connected(config).await }
    }

    async fn in_front() -> Self {
        let Self { one, other } = Self::plain().await;
        Self { one: one.in_front(), other: other.in_front() }
    }
}

#[async_trait]
impl Bench for Region {
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl CacheBench for Region {
    fn one(&self) -> Arc<dyn Cache> {
        self.one.cache.clone()
    }

    fn other(&self) -> Arc<dyn Cache> {
        self.other.cache.clone()
    }
}

mod alone {
    use super::*;

    crate::laws::cache_laws!(async { Some(Region::plain().await) });
    crate::laws::counter_laws!(async {
        let region = Region::plain().await;
        (region.one.counters.clone(), region)
    });
}

mod behind_moka {
    use super::*;

    crate::laws::cache_laws!(async { Some(Region::in_front().await) });
}
