//! Rounds to every region for traces that the index does not know: shared by all who ask for the
//! same trace at the same time, and paid from a budget, so that random ids cannot amplify.
//!
//! Sharing must not break reading one's own writes: whoever asks after a write was acknowledged
//! must not be given a round that began before it. So nobody joins a round that is under way. Those
//! who come meanwhile share the next one, which begins when the running one ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use trace_model::{Clock, TenantId, TraceId};

use crate::assembled::TraceAnswer;
use crate::config::Patience;

/// Which round: two tenants' traces with one id are two.
pub(crate) type RoundKey = (TenantId, TraceId);

type Answer = Arc<TraceAnswer>;
type Round = Shared<BoxFuture<'static, Answer>>;

/// The rounds under way.
#[derive(Debug, Default)]
pub(crate) struct MissRounds {
    slots: Arc<Mutex<HashMap<RoundKey, Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Began already: not to be joined.
    running: Option<WeakShared<BoxFuture<'static, Answer>>>,
    /// Has not begun: may be joined by whoever is no more patient than it.
    next: Option<(WeakShared<BoxFuture<'static, Answer>>, Patience)>,
}

/// How a question takes part in a round.
pub(crate) enum Seat {
    /// In a round that someone else pays for.
    Shared(Round),
    /// In a round of its own, to be paid for.
    Own,
}

impl MissRounds {
    /// A seat in a round that has not begun, if there is one.
    pub(crate) fn find_seat(&self, key: &RoundKey, patience: &Patience) -> Seat {
        let slots = lock(&self.slots);
        let next = slots.get(key).and_then(|slot| slot.next.as_ref());
        let joined = next.filter(|(_, theirs)| patience.is_at_most(theirs));
        match joined.and_then(|(round, _)| round.upgrade()) {
            Some(round) => Seat::Shared(round),
            None => Seat::Own,
        }
    }

    /// A new round: it begins at once, or when the running one of the same trace has ended (but
    /// waits for that no longer than half of the question's patience: the regions need time too).
    pub(crate) fn begin(
        &self,
        key: RoundKey,
        patience: Patience,
        work: impl Future<Output = TraceAnswer> + Send + 'static,
    ) -> Round {
        let mut slots = lock(&self.slots);
        slots.retain(|_, slot| slot.is_alive());
        let slot = slots.entry(key.clone()).or_default();
        let before = slot.running.as_ref().and_then(WeakShared::upgrade);
        let shared_slots = Arc::clone(&self.slots);
        let round = async move {
            if let Some(before) = before {
                let waited = tokio::time::timeout(patience.first_frame / 2, before).await;
                drop(waited);
            }
            mark_begun(&shared_slots, &key);
            Arc::new(work.await)
        };
        let round = round.boxed().shared();
        slot.next = round.downgrade().map(|weak| (weak, patience));
        round
    }

    /// Traces with a round, for tests: nothing stays behind.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let mut slots = lock(&self.slots);
        slots.retain(|_, slot| slot.is_alive());
        slots.len()
    }
}

impl Slot {
    fn is_alive(&self) -> bool {
        let running = self.running.as_ref().and_then(WeakShared::upgrade);
        let next = self.next.as_ref().and_then(|(weak, _)| weak.upgrade());
        running.is_some_and(|round| round.peek().is_none())
            || next.is_some_and(|round| round.peek().is_none())
    }
}

/// From here on nobody may join.
fn mark_begun(slots: &Mutex<HashMap<RoundKey, Slot>>, key: &RoundKey) {
    if let Some(slot) = lock(slots).get_mut(key) {
        slot.running = slot.next.take().map(|(weak, _)| weak);
    }
}

fn lock(slots: &Mutex<HashMap<RoundKey, Slot>>) -> MutexGuard<'_, HashMap<RoundKey, Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A budget that fills at a steady rate up to a burst.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    burst: f64,
    clock: Arc<dyn Clock>,
    state: Mutex<(f64, Duration)>,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(per_second: f64, burst: f64, clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        Self { per_second, burst, clock, state: Mutex::new((burst, now)) }
    }

    /// Takes one token, if there is one.
    pub(crate) fn try_take(&self) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *state;
        let gained = now.saturating_sub(since).as_secs_f64() * self.per_second;
        let tokens = (tokens + gained).min(self.burst);
        let is_enough = tokens >= 1.0;
        *state = (if is_enough { tokens - 1.0 } else { tokens }, now);
        is_enough
    }
}

#[cfg(test)]
mod tests;
