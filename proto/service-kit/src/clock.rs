//! The system's clock, and one that a test turns by hand.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use trace_model::{Clock, UnixNanos};

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// The machine's clocks; monotonic time counts from here.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> UnixNanos {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that stands still until it is set or moved.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(UnixNanos, Duration)>,
}

impl ManualClock {
    /// A clock that shows this time.
    #[must_use]
    pub const fn at(now: UnixNanos) -> Self {
        Self { state: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.0 = state.0.plus(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
        state.1 += by;
    }

    /// Sets the wall clock, either way; monotonic time goes on from where it was.
    pub fn set_wall(&self, now: UnixNanos) {
        self.lock().0 = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (UnixNanos, Duration)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixNanos {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}
