//! Exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): many
//! callers that failed together do not come back together.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Waiting times between attempts.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
    rng: SmallRng,
}

impl BackOff {
    /// Waits up to `first` after the first failure, up to twice as long after each further one,
    /// never longer than `longest`. The seed makes it repeatable.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        let ceiling = first.min(longest);
        Self { first, longest, ceiling, rng: SmallRng::seed_from_u64(seed) }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.longest);
        // Never zero: a failing call must not become a busy loop.
        let share = self.rng.random_range(0.1..=1.0);
        ceiling.mul_f64(share)
    }

    /// The attempt succeeded: the next failure starts from the beginning.
    pub fn reset(&mut self) {
        self.ceiling = self.first.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut back_off = BackOff::new(first, longest, 7);
        let waits: Vec<Duration> = (0..1_000).map(|_| back_off.next_wait()).collect();
        assert!(waits[0] <= first);
        assert!(waits.iter().all(|wait| *wait <= longest && *wait >= first / 10));
        assert!(waits.iter().max().unwrap() > &(longest * 9 / 10));
        back_off.reset();
        assert!(back_off.next_wait() <= first);
    }

    #[test]
    fn two_callers_do_not_come_back_together() {
        let wait = |seed| BackOff::new(Duration::from_secs(1), Duration::MAX, seed).next_wait();
        assert_ne!(wait(1), wait(2));
        assert_eq!(wait(3), wait(3));
    }
}
