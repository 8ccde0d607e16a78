//! The limit by address over all gateways of a region.
//!
//! Tokens are taken from the shared counters in leases, which grow for an address that is busy: a
//! quiet one costs a call a request, a busy one few. While the counters are away a gateway allows its
//! share of the quota by itself; its own bucket is charged at all times, so that losing the counters
//! brings nobody a second burst.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::moka::sync::Cache as Shelf;
use trace_model::Clock;

use super::memory::MemoryCounters;
use super::port::{BucketKey, Counters, Grant, Quota};
use crate::metrics::{LimitKeeper, SharedStateMetrics};

/// Leased tokens that are not used within this are gone.
const LEASE_TIME: Duration = Duration::from_millis(200);
/// After an empty grant the counters are not asked again sooner.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// Addresses with a lease. A forgotten one costs its tokens, never a limit.
const LEASES_MAX: u64 = 65_536;
const LEASE_IDLE_TIME: Duration = Duration::from_secs(60);

/// The limit.
#[derive(Debug)]
pub(crate) struct AddressLimit {
    counters: Arc<dyn Counters>,
    quota: Quota,
    lease_tokens_max: u32,
    own: MemoryCounters,
    own_quota: Quota,
    leases: Shelf<BucketKey, Arc<Mutex<Lease>>>,
    clock: Arc<dyn Clock>,
    metrics: SharedStateMetrics,
}

#[derive(Debug, Default)]
struct Lease {
    tokens: u32,
    until: Duration,
    /// Tokens asked for the last time.
    asked: u32,
    /// The bucket is empty until then.
    empty_until: Duration,
}

/// What a lease has for a request.
#[derive(Debug, PartialEq, Eq)]
enum Spent {
    Token,
    /// None for so long.
    Empty(Duration),
    /// So many are to be asked for.
    Ask(u32),
}

impl AddressLimit {
    /// A limit of `quota` for each address over all gateways, of which there are `gateways`.
    pub(crate) fn new(
        counters: Arc<dyn Counters>,
        quota: Quota,
        gateways: u32,
        clock: Arc<dyn Clock>,
        metrics: SharedStateMetrics,
    ) -> Self {
        Self {
            counters,
            quota,
            // A twentieth of a second's tokens, and never much of a burst, lies with one gateway.
            lease_tokens_max: (quota.per_second() / 20).min(quota.burst() / 8).max(1),
            own: MemoryCounters::new(Arc::clone(&clock)),
            own_quota: quota.share(gateways),
            leases: Shelf::builder().max_capacity(LEASES_MAX).time_to_idle(LEASE_IDLE_TIME).build(),
            clock,
            metrics,
        }
    }

    /// Lets a request through, or says how long to wait.
    pub(crate) async fn admit(&self, address: IpAddr) -> Result<(), Duration> {
        let key = BucketKey::Address(address);
        let own = self.own.take_now(&key, self.own_quota, 1);
        let lease = self.leases.get_with_by_ref(&key, Arc::default);
        let spent = lock(&lease).spend(self.clock.monotonic(), self.lease_tokens_max);
        let (keeper, verdict) = match spent {
            Spent::Token => (LimitKeeper::Shared, Ok(())),
            Spent::Empty(wait) => (LimitKeeper::Shared, Err(wait)),
            Spent::Ask(wanted) => match self.counters.take(&key, self.quota, wanted).await {
                Ok(grant) => {
                    let granted = lock(&lease).put(self.clock.monotonic(), grant);
                    (LimitKeeper::Shared, granted)
                }
                Err(_) if own.tokens > 0 => (LimitKeeper::Own, Ok(())),
                Err(_) => (LimitKeeper::Own, Err(own.wait)),
            },
        };
        self.metrics.count_limited(keeper, verdict.is_ok());
        verdict
    }

    /// Forgets addresses that have been quiet.
    pub(crate) fn forget_quiet(&self) {
        self.own.forget_full();
        self.leases.run_pending_tasks();
    }
}

impl Lease {
    fn spend(&mut self, now: Duration, most: u32) -> Spent {
        if now < self.empty_until {
            return Spent::Empty(self.empty_until.saturating_sub(now));
        }
        let is_over = now >= self.until;
        if is_over {
            self.tokens = 0;
        }
        if self.tokens > 0 {
            self.tokens -= 1;
            return Spent::Token;
        }
        // Used up within its time: the address is busy.
        self.asked = if is_over { 1 } else { self.asked.saturating_mul(2).clamp(1, most) };
        Spent::Ask(self.asked)
    }

    /// Takes a grant in, and one token of it out.
    fn put(&mut self, now: Duration, grant: Grant) -> Result<(), Duration> {
        let Some(rest) = grant.tokens.checked_sub(1) else {
            let wait = grant.wait.max(WAIT_MIN);
            self.empty_until = now + wait;
            return Err(wait);
        };
        self.tokens = self.tokens.saturating_add(rest);
        self.until = now + LEASE_TIME;
        Ok(())
    }
}

fn lock(lease: &Mutex<Lease>) -> std::sync::MutexGuard<'_, Lease> {
    lease.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
