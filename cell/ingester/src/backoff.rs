//! How long to wait before the next try: doubling, capped, with jitter, without end.
//!
//! Full tries are never given up here: an error that may pass is retried for as long as it takes.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Doublings after which the delay no longer grows, whatever the cap.
const DOUBLINGS_MAX: u32 = 16;

/// A growing delay between tries ("equal jitter": half fixed, half random, so that groups that
/// failed together do not come back together and none comes back at once).
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
    not_before: Duration,
    random: SmallRng,
}

impl Backoff {
    /// Delays from `min` to `max`; `seed` tells groups apart.
    #[must_use]
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { min, max: max.max(min), tries: 0, not_before: Duration::ZERO, random }
    }

    /// Notes a failure at a monotonic time; the next try is due after the delay that is returned.
    pub fn fail(&mut self, now: Duration) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.tries.min(DOUBLINGS_MAX));
        self.tries = self.tries.saturating_add(1);
        let half = doubled.min(self.max) / 2;
        let delay = half.saturating_add(half.mul_f64(self.random.random_range(0.0..=1.0)));
        self.not_before = now.saturating_add(delay);
        delay
    }

    /// Nothing has failed, and the next try is due after the shortest delay.
    pub fn wait(&mut self, now: Duration) {
        self.not_before = now.saturating_add(self.min);
    }

    /// Notes a success: the next failure starts with the shortest delay.
    pub const fn succeed(&mut self) {
        self.tries = 0;
        self.not_before = Duration::ZERO;
    }

    /// How long until the next try is due; zero where it is.
    #[must_use]
    pub const fn remaining(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// Failures since the last success.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_the_cap_and_keep_half_of_it_as_jitter() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        for tries in 0..40_u32 {
            let full = MIN.saturating_mul(1 << tries.min(16)).min(MAX);
            let delay = backoff.fail(Duration::ZERO);
            assert!(delay >= full / 2 && delay <= full, "try {tries}: {delay:?}");
        }
        assert_eq!(backoff.tries(), 40);
    }

    #[test]
    fn a_success_makes_the_next_try_due_and_the_next_delay_short() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        for _ in 0..9 {
            backoff.fail(Duration::ZERO);
        }
        backoff.succeed();
        assert_eq!(backoff.remaining(Duration::ZERO), Duration::ZERO);
        assert!(backoff.fail(Duration::ZERO) <= MIN);
        assert!(backoff.remaining(Duration::ZERO) > Duration::ZERO);
        assert_eq!(backoff.remaining(MIN), Duration::ZERO);
    }
}
