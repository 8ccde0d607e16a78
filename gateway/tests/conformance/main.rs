//! The conformance suites of the shared state's ports, on every adapter that needs no engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod laws;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway::shared_state::{
    Cache, Counters, MemoryCache, MemoryCounters, MokaCache, SharedStateMetrics,
};
use laws::{Bench, CacheBench};
use service_kit::ManualClock;
use trace_model::UnixNanos;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(UnixNanos(1_790_000_000_000_000_000)))
}

/// What is in this process, on a clock of its own.
struct Local {
    clock: Arc<ManualClock>,
    one: Arc<dyn Cache>,
    other: Arc<dyn Cache>,
    counters: Arc<dyn Counters>,
}

impl Local {
    fn memory() -> Self {
        let clock = clock();
        let cache: Arc<dyn Cache> = Arc::new(MemoryCache::new(64 << 20, clock.clone()));
        let counters = Arc::new(MemoryCounters::new(clock.clone()));
        Self { one: cache.clone(), other: cache, counters, clock }
    }

    /// Two gateways' local caches in front of one.
    fn moka() -> Self {
        let memory = Self::memory();
        let front = || -> Arc<dyn Cache> {
            let (behind, clock) = (memory.one.clone(), memory.clock.clone());
            let metrics = SharedStateMetrics::default();
            Arc::new(MokaCache::in_front_of(behind, 1 << 20, clock, metrics))
        };
        Self { one: front(), other: front(), ..memory }
    }
}

#[async_trait]
impl Bench for Local {
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

impl CacheBench for Local {
    fn one(&self) -> Arc<dyn Cache> {
        self.one.clone()
    }

    fn other(&self) -> Arc<dyn Cache> {
        self.other.clone()
    }
}

mod memory {
    use super::*;

    crate::laws::cache_laws!(async { Some(Local::memory()) });
    crate::laws::counter_laws!(async {
        let local = Local::memory();
        (local.counters.clone(), local)
    });
}

mod moka {
    use super::*;

    crate::laws::cache_laws!(async { Some(Local::moka()) });
}
