//! A deadline that travels with a request: each hop takes less than it was given.

use std::sync::Arc;
use std::time::Duration;

use trace_model::Clock;

/// A moment of the monotonic clock by which an answer must be there.
#[derive(Clone, Debug)]
pub struct Deadline {
    clock: Arc<dyn Clock>,
    at: Duration,
}

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        let at = clock.monotonic().saturating_add(timeout);
        Self { clock, at }
    }

    /// What is left; zero when it is over.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.at.saturating_sub(self.clock.monotonic())
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The same, but `margin` earlier: what the next hop is given, so that its answer can still
    /// be used here.
    #[must_use]
    pub fn earlier_by(&self, margin: Duration) -> Self {
        Self { clock: Arc::clone(&self.clock), at: self.at.saturating_sub(margin) }
    }

    /// The earlier of this and so long from now.
    #[must_use]
    pub fn at_most(&self, timeout: Duration) -> Self {
        let other = Self::after(Arc::clone(&self.clock), timeout);
        if other.at < self.at { other } else { self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use trace_model::UnixNanos;

    use super::*;
    use crate::ManualClock;

    #[test]
    fn a_deadline_only_ever_shrinks() {
        let clock = Arc::new(ManualClock::at(UnixNanos(1)));
        let deadline = Deadline::after(clock.clone(), Duration::from_secs(2));
        let hop = deadline.earlier_by(Duration::from_millis(100));
        assert_eq!(hop.remaining(), Duration::from_millis(1_900));
        assert_eq!(hop.at_most(Duration::from_secs(9)).remaining(), Duration::from_millis(1_900));
        assert_eq!(hop.at_most(Duration::from_secs(1)).remaining(), Duration::from_secs(1));
        clock.advance(Duration::from_secs(3));
        assert!(deadline.is_over());
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }
}
