//! Epochs of an origin log, and the randomness that tells them apart.

use std::sync::atomic::{AtomicU64, Ordering};

use trace_model::UnixNanos;
use trace_model::location::Epoch;

/// A source of random numbers, given by argument so that a simulation can repeat itself. Not for
/// secrets.
#[derive(Debug)]
pub struct Entropy(AtomicU64);

impl Entropy {
    /// Seeded by the system. Where that fails the address space's layout is all that is left.
    #[must_use]
    pub fn from_system() -> Self {
        let mut seed = [0_u8; 8];
        if getrandom::fill(&mut seed).is_err() {
            let place = &raw const seed as usize;
            return Self::seeded(place as u64);
        }
        Self::seeded(u64::from_le_bytes(seed))
    }

    /// The same numbers for the same seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
    /// generators", 2014).
    pub fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// How far ahead of the clock an epoch may lie that another process shows us: clocks jump, but not
/// by years. Keeps a broken peer from using up all epochs.
const AHEAD_MILLIS_MAX: u64 = 400 * 24 * 3_600 * 1_000;

/// The epoch after `last`: the clock's time, or just above `last` where the clock lies behind it
/// (hybrid logical clock).
pub(crate) fn epoch_after(last: Option<Epoch>, now: UnixNanos, entropy: &Entropy) -> Epoch {
    let above = last.map_or(0, |last| last.millis.saturating_add(1));
    Epoch { millis: now.millis().max(above), random: entropy.next() }
}

/// Whether an epoch that another process shows may be outrun.
pub(crate) const fn may_outrun(seen: Epoch, now: UnixNanos) -> bool {
    seen.millis <= now.millis().saturating_add(AHEAD_MILLIS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_never_lies_below_the_one_before() {
        let entropy = Entropy::seeded(1);
        let first = epoch_after(None, UnixNanos::from_millis(5_000), &entropy);
        assert_eq!(first.millis, 5_000);
        let after_jump = epoch_after(Some(first), UnixNanos::from_millis(10), &entropy);
        assert!(after_jump > first);
        assert_ne!(after_jump.random, first.random);
    }

    #[test]
    fn an_epoch_of_the_far_future_is_not_outrun() {
        let now = UnixNanos::from_millis(1_000);
        assert!(may_outrun(Epoch { millis: 3_600_000, random: 0 }, now));
        assert!(!may_outrun(Epoch { millis: u64::MAX, random: 0 }, now));
    }
}
