//! The ends of all partitions, as far as this process knows them, and the times that they vouch
//! for.
//!
//! An end grows by what is appended here, by what is read, and by asking the brokers. The time that
//! an end vouches for is a lower bound of the append time of whatever comes behind it: the moment at
//! which the leader was asked, less the error of clocks. Records behind an end are never given an
//! earlier time than the end has vouched for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trace_model::UnixNanos;

use crate::port::{LogEnd, LogError};

/// Most bounds remembered for records behind them.
const BOUNDS_MAX: usize = 64;
/// Bounds closer to each other than this are one.
const BOUND_EVERY_NANOS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
struct PartitionEnd {
    first: u64,
    next: u64,
    vouched: UnixNanos,
    /// Records at or behind the offset are appended at or after the time; both ascend.
    bounds: VecDeque<(u64, UnixNanos)>,
}

impl PartitionEnd {
    fn vouch(&mut self, time: UnixNanos) {
        if time <= self.vouched {
            return;
        }
        self.vouched = time;
        let next = self.next;
        let known = self.bounds.len();
        let since = known.checked_sub(2).and_then(|place| self.bounds.get(place));
        let is_close = since.is_some_and(|(_, earlier)| time.since(*earlier) < BOUND_EVERY_NANOS);
        match self.bounds.back_mut() {
            Some((offset, bound)) if *offset == next => *bound = time,
            Some(last) if is_close => *last = (next, time),
            _ => self.bounds.push_back((next, time)),
        }
        if self.bounds.len() > BOUNDS_MAX {
            self.bounds.pop_front();
        }
    }
}

#[derive(Debug)]
struct Slot {
    state: Mutex<PartitionEnd>,
    next: watch::Sender<u64>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, PartitionEnd> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, next: u64) {
        self.next.send_if_modified(|known| {
            let has_moved = next > *known;
            *known = next.max(*known);
            has_moved
        });
    }
}

/// The ends of a log's partitions.
#[derive(Debug)]
pub(crate) struct Ends {
    slots: Vec<Slot>,
    is_another_log: AtomicBool,
}

impl Ends {
    pub(crate) fn new(partitions: u32) -> Self {
        let slot = |_| Slot { state: Mutex::default(), next: watch::channel(0).0 };
        let slots = (0..partitions).map(slot).collect();
        Self { slots, is_another_log: AtomicBool::new(false) }
    }

    /// Times go on from here: nothing behind this offset was appended before.
    pub(crate) fn go_on_from(&self, partition: u32, offset: u64, time: UnixNanos) {
        let Ok(slot) = self.slot(partition) else { return };
        let mut state = slot.lock();
        state.vouched = state.vouched.max(time);
        state.bounds.push_back((offset, time));
    }

    /// Whether the topic was recreated or has lost records under this process.
    pub(crate) fn is_another_log(&self) -> bool {
        self.is_another_log.load(Ordering::Relaxed)
    }

    /// Notes that it was: nothing more is taken or read.
    pub(crate) fn note_another_log(&self, reason: &str) {
        if !self.is_another_log.swap(true, Ordering::Relaxed) {
            tracing::error!(
                reason,
                "the topic was recreated or has lost records: this process must be started again"
            );
        }
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    fn slot(&self, partition: u32) -> Result<&Slot, LogError> {
        self.slots.get(partition as usize).ok_or(LogError::NoPartition(partition))
    }

    /// The end as it is known.
    pub(crate) fn get(&self, partition: u32) -> Result<LogEnd, LogError> {
        let state = self.slot(partition)?.lock();
        Ok(LogEnd { next: state.next, append_time: state.vouched, first: state.first })
    }

    /// The next offset of every partition.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.lock().next).collect()
    }

    /// Tells when an end grows; closing the log sends the last possible offset.
    pub(crate) fn subscribe(&self, partition: u32) -> Result<watch::Receiver<u64>, LogError> {
        Ok(self.slot(partition)?.next.subscribe())
    }

    /// A time before which no record at or behind the offset was appended; 0 where none is known.
    pub(crate) fn bound(&self, partition: u32, offset: u64) -> UnixNanos {
        let Ok(slot) = self.slot(partition) else { return UnixNanos(0) };
        let state = slot.lock();
        let place = state.bounds.partition_point(|(bound, _)| *bound <= offset);
        let bound = place.checked_sub(1).and_then(|place| state.bounds.get(place));
        bound.map_or(UnixNanos(0), |(_, time)| *time)
    }

    /// A record was acknowledged or read: the end lies behind it. Gives its append time.
    pub(crate) fn passed(&self, partition: u32, offset: u64, brokers: UnixNanos) -> UnixNanos {
        let Ok(slot) = self.slot(partition) else { return brokers };
        let mut state = slot.lock();
        let place = state.bounds.partition_point(|(bound, _)| *bound <= offset);
        let bound = place.checked_sub(1).and_then(|place| state.bounds.get(place));
        let time = bound.map_or(brokers, |(_, bound)| brokers.max(*bound));
        let next = offset.saturating_add(1);
        if next < state.next {
            return time;
        }
        let has_moved = next > state.next;
        state.next = next;
        // What comes next is not given an earlier time than this one.
        state.vouch(time);
        drop(state);
        if has_moved {
            slot.announce(next);
        }
        time
    }

    /// A leader was asked and said where the partition ends: nothing behind that was appended
    /// before `not_before`.
    pub(crate) fn answered(&self, partition: u32, next: u64, not_before: UnixNanos) {
        let Ok(slot) = self.slot(partition) else { return };
        let mut state = slot.lock();
        state.next = state.next.max(next);
        state.vouch(not_before);
        let next = state.next;
        drop(state);
        slot.announce(next);
    }

    /// A leader said which record is the oldest.
    pub(crate) fn starts_at(&self, partition: u32, first: u64) {
        let Ok(slot) = self.slot(partition) else { return };
        let mut state = slot.lock();
        state.first = state.first.max(first);
        state.next = state.next.max(first);
        let next = state.next;
        drop(state);
        slot.announce(next);
    }

    /// Wakes every waiter for good.
    pub(crate) fn close(&self) {
        for slot in &self.slots {
            slot.next.send_replace(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: UnixNanos = UnixNanos(1_790_000_000 * SECOND);

    #[test]
    fn a_record_is_never_given_an_earlier_time_than_the_end_before_it_vouched_for() {
        let ends = Ends::new(1);
        ends.answered(0, 5, NOW);
        assert_eq!(ends.get(0).unwrap(), LogEnd { next: 5, append_time: NOW, first: 0 });
        let late = NOW.minus(3 * SECOND);
        assert_eq!(ends.passed(0, 4, late), late);
        assert_eq!(ends.passed(0, 5, late), NOW);
        assert_eq!(ends.passed(0, 6, NOW.plus(SECOND)), NOW.plus(SECOND));
        assert_eq!(ends.get(0).unwrap().append_time, NOW.plus(SECOND));
        assert_eq!(ends.passed(0, 7, NOW), NOW.plus(SECOND));
        assert_eq!(ends.passed(0, 5, late), NOW);
    }

    #[test]
    fn times_go_on_from_what_was_published() {
        let ends = Ends::new(1);
        ends.go_on_from(0, 3, NOW);
        ends.answered(0, 5, NOW.minus(9));
        assert_eq!(ends.get(0).unwrap().append_time, NOW);
        assert_eq!(ends.passed(0, 2, NOW.minus(7)), NOW.minus(7));
        assert_eq!(ends.passed(0, 3, NOW.minus(7)), NOW);
    }

    #[test]
    fn an_end_never_goes_back() {
        let ends = Ends::new(2);
        ends.answered(1, 9, NOW);
        ends.answered(1, 3, NOW.minus(SECOND));
        ends.starts_at(1, 4);
        ends.starts_at(1, 2);
        assert_eq!(ends.get(1).unwrap(), LogEnd { next: 9, append_time: NOW, first: 4 });
        assert!(matches!(ends.get(2), Err(LogError::NoPartition(2))));
    }

    #[test]
    fn a_waiter_hears_of_growth_alone() {
        let ends = Ends::new(1);
        let mut grown = ends.subscribe(0).unwrap();
        ends.answered(0, 0, NOW);
        assert!(!grown.has_changed().unwrap());
        assert_eq!(ends.passed(0, 0, NOW), NOW);
        assert_eq!(*grown.borrow_and_update(), 1);
        ends.close();
        assert_eq!(*grown.borrow_and_update(), u64::MAX);
    }

    #[test]
    fn bounds_are_few_whatever_happens() {
        let ends = Ends::new(1);
        for step in 0..10_000 {
            ends.answered(0, step, NOW.plus(step * SECOND / 10));
        }
        let state = ends.slot(0).unwrap().lock();
        assert_eq!(state.bounds.len(), BOUNDS_MAX);
        assert_eq!(state.bounds.back().unwrap().1, NOW.plus(9_999 * SECOND / 10));
        assert!(state.bounds.iter().is_sorted());
    }
}
