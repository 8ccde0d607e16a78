//! An append on its way: what the brokers have acknowledged of it, and who waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use trace_model::{LogRange, UnixNanos};

use crate::port::{Appended, LogError};

/// Bytes on their way to the brokers, bounded.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Takes a share; `None` where it does not fit. An empty budget takes anything.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let fits = |held: usize| {
            let grown = held.saturating_add(bytes);
            (held == 0 || grown <= self.bytes_max).then_some(grown)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Share { budget: Arc::clone(self), bytes })
    }

    pub(crate) fn held(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type Answer = Result<Appended, LogError>;

/// An append whose records are on their way. Shared by all of them; the share of the budget goes
/// with the last one.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Mutex<State>,
    _share: Share,
}

#[derive(Debug)]
struct State {
    /// Records not reported yet, and one more until all were handed over.
    missing: usize,
    /// For each partition its end when a first record was handed over: offsets lie there or behind.
    floors: Vec<(u32, u64)>,
    places: Vec<(u32, u64)>,
    append_time: UnixNanos,
    waiter: Option<oneshot::Sender<Answer>>,
}

impl Pending {
    /// A new append; its answer comes when all is reported, or at the first failure.
    pub(crate) fn new(share: Share) -> (Arc<Self>, oneshot::Receiver<Answer>) {
        let (waiter, answer) = oneshot::channel();
        let state = State {
            missing: 1,
            floors: Vec::new(),
            places: Vec::new(),
            append_time: UnixNanos(0),
            waiter: Some(waiter),
        };
        (Arc::new(Self { state: Mutex::new(state), _share: share }), answer)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.missing == 0
            && let Some(waiter) = state.waiter.take()
        {
            let places = std::mem::take(&mut state.places);
            let appended = Appended { ranges: ranges_of(places), append_time: state.append_time };
            // Who no longer waits was told that it took too long.
            drop(waiter.send(Ok(appended)));
        }
    }

    /// A record is about to be handed over for a partition that ends there.
    pub(crate) fn expect_one(&self, partition: u32, end: u64) {
        self.change(|state| {
            state.missing += 1;
            if state.floors.last().is_none_or(|(last, _)| *last != partition) {
                state.floors.push((partition, end));
            }
        });
    }

    /// Whether a record of this append can have got this offset, in the log that it was meant for.
    pub(crate) fn is_possible(&self, partition: u32, offset: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut floors = state.floors.iter().filter(|(floor, _)| *floor == partition);
        floors.next().is_none_or(|(_, end)| offset >= *end)
    }

    /// All records were handed over.
    pub(crate) fn all_handed(&self) {
        self.change(|state| state.missing = state.missing.saturating_sub(1));
    }

    /// A record is durable, at this place where the broker named one: a repeated request may be
    /// answered without.
    pub(crate) fn delivered(&self, place: Option<(u32, u64)>, append_time: UnixNanos) {
        self.change(|state| {
            state.missing = state.missing.saturating_sub(1);
            state.places.extend(place);
            state.append_time = state.append_time.max(append_time);
        });
    }

    /// A record is not known to be durable: the append has failed, whatever becomes of the others.
    pub(crate) fn failed(&self, error: LogError) {
        self.change(|state| {
            state.missing = state.missing.saturating_sub(1);
            if let Some(waiter) = state.waiter.take() {
                drop(waiter.send(Err(error)));
            }
        });
    }
}

/// Places as ranges, in order.
fn ranges_of(mut places: Vec<(u32, u64)>) -> Vec<LogRange> {
    places.sort_unstable();
    let mut ranges: Vec<LogRange> = Vec::new();
    for (partition, offset) in places {
        let next = offset.saturating_add(1);
        match ranges.last_mut() {
            Some(last) if last.partition == partition && last.next == offset => last.next = next,
            _ => ranges.push(LogRange { partition, first: offset, next }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> (Arc<Pending>, oneshot::Receiver<Answer>) {
        Pending::new(Budget::new(100).take(1).unwrap())
    }

    #[test]
    fn an_append_is_acknowledged_when_every_record_is() {
        let (append, mut answer) = pending();
        for offset in [7, 6, 9] {
            append.expect_one(2, 6);
            append.delivered(Some((2, offset)), UnixNanos(offset));
        }
        append.expect_one(0, 4);
        append.all_handed();
        assert!(append.is_possible(2, 6) && !append.is_possible(2, 5) && !append.is_possible(0, 3));
        assert!(answer.try_recv().is_err());
        append.delivered(Some((0, 4)), UnixNanos(1));
        let appended = answer.try_recv().unwrap().unwrap();
        let range = |partition, first, next| LogRange { partition, first, next };
        assert_eq!(appended.ranges, [range(0, 4, 5), range(2, 6, 8), range(2, 9, 10)]);
        assert_eq!(appended.append_time, UnixNanos(9));
    }

    #[test]
    fn one_record_that_fails_fails_the_append_at_once() {
        let (append, mut answer) = pending();
        append.expect_one(0, 0);
        append.expect_one(0, 0);
        append.failed(LogError::Full);
        assert!(matches!(answer.try_recv().unwrap(), Err(LogError::Full)));
        append.delivered(None, UnixNanos(1));
        append.all_handed();
    }

    #[test]
    fn the_budget_bounds_what_is_on_its_way_and_gets_it_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        let second = budget.take(40).unwrap();
        assert_eq!(budget.held(), 100);
        drop((first, second));
        assert_eq!(budget.held(), 0);
        assert!(budget.take(1_000).is_some(), "one alone goes through");
    }
}
