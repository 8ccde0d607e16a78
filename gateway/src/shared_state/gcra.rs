//! The arithmetic of a token bucket, as the generic cell rate algorithm (ITU-T I.371): one number, the
//! time at which the bucket will be full again.

use std::time::Duration;

use super::port::{Grant, Quota};

/// A bucket: when it will be full, in nanoseconds of some monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    full_at: u128,
}

impl Bucket {
    /// Takes up to `wanted` tokens, as many as there are now.
    pub(super) fn take(&mut self, now: Duration, quota: Quota, wanted: u32) -> Grant {
        let now = now.as_nanos();
        // Rounded up: never faster than the quota.
        let interval = 1_000_000_000_u128.div_ceil(u128::from(quota.per_second()));
        let room = interval * u128::from(quota.burst());
        let owed = self.full_at.saturating_sub(now);
        let there = room.saturating_sub(owed) / interval;
        let tokens = u32::try_from(there).unwrap_or(u32::MAX).min(wanted);
        if tokens > 0 {
            self.full_at = now + owed + interval * u128::from(tokens);
            return Grant { tokens, wait: Duration::ZERO };
        }
        let wait = (owed + interval).saturating_sub(room);
        Grant { tokens, wait: Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)) }
    }

    /// Whether it is full: then nothing need be remembered of it.
    pub(super) const fn is_full(self, now: Duration) -> bool {
        self.full_at <= now.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_allow(
            per_second in 1_u32..5_000,
            burst in 1_u32..500,
            takes in prop::collection::vec((0_u64..50_000_000, 1_u32..40), 1..200),
        ) {
            let quota = Quota::new(per_second, burst);
            let (mut bucket, mut now, mut given) = (Bucket::default(), 0_u64, Vec::new());
            for (later, wanted) in takes {
                now += later;
                let grant = bucket.take(Duration::from_nanos(now), quota, wanted);
                prop_assert!(grant.tokens <= wanted);
                prop_assert_eq!(grant.tokens == 0, !grant.wait.is_zero());
                given.push((now, grant.tokens));
            }
            for (place, (begin, _)) in given.iter().enumerate() {
                let mut sum = 0;
                for (end, tokens) in &given[place..] {
                    sum += u128::from(*tokens);
                    let time = u128::from(end - begin);
                    let most = u128::from(burst) + time * u128::from(per_second) / 1_000_000_000;
                    prop_assert!(sum <= most, "{} of {}", sum, most);
                }
            }
        }
    }

    #[test]
    fn who_waits_as_told_is_served() {
        let (quota, mut bucket) = (Quota::new(7, 3), Bucket::default());
        let mut now = Duration::from_secs(1);
        assert_eq!(bucket.take(now, quota, 9).tokens, 3);
        for _ in 0..50 {
            let refused = bucket.take(now, quota, 1);
            assert_eq!(refused.tokens, 0);
            now += refused.wait;
            assert_eq!(bucket.take(now, quota, 5).tokens, 1);
        }
    }

    #[test]
    fn a_share_is_at_most_its_part_and_never_nothing() {
        let quota = Quota::new(200, 400).share(3);
        assert_eq!((quota.per_second(), quota.burst()), (66, 133));
        assert_eq!(Quota::new(2, 2).share(9), Quota::new(1, 1));
        assert_eq!(Quota::new(0, 0).share(0), Quota::new(1, 1));
    }
}
