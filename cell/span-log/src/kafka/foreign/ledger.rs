//! Which foreign records were given and not settled, by partition; and so what may be committed. No
//! brokers here.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::foreign::ForeignPlace;

/// How much may be given and not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignLimits {
    /// Records (default 64).
    pub records_max: usize,
    /// Bytes (default 16 MiB); one record is given whatever its size.
    pub bytes_max: usize,
}

impl Default for ForeignLimits {
    fn default() -> Self {
        Self { records_max: 64, bytes_max: 16 << 20 }
    }
}

/// A partition of a topic.
pub(super) type Key = (Arc<str>, u32);

/// What is known of a partition that is held.
#[derive(Debug, Default)]
struct Track {
    since: u64,
    /// The next offset to come; `None` before the first record where nothing was committed.
    next: Option<u64>,
    /// It was asked for how far it was committed.
    is_placed: bool,
    committed: Option<u64>,
    /// Given and not settled.
    open: BTreeMap<u64, usize>,
}

impl Track {
    /// All below is settled.
    fn settled(&self) -> Option<u64> {
        self.open.keys().next().copied().or(self.next)
    }
}

#[derive(Debug, Default)]
struct State {
    tracks: BTreeMap<Key, Track>,
    generation: u64,
    /// Given and not settled, those of partitions that are gone included.
    records: usize,
    bytes: usize,
    /// Records in hand of partitions that are gone: their room is free when they are settled.
    orphans: BTreeMap<ForeignPlace, usize>,
    /// Nobody will settle anything any more.
    is_ending: bool,
}

/// What was given and not settled.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: ForeignLimits,
    state: Mutex<State>,
    settled: Condvar,
}

/// What a record is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is to be given, in this assignment; so many offsets before it have no record.
    New {
        /// The assignment.
        since: u64,
        /// Offsets between what came before and this.
        gap: u64,
    },
    /// It was given before, or its partition is not held.
    Known,
}

impl Ledger {
    pub(super) fn new(limits: ForeignLimits) -> Self {
        Self { limits, state: Mutex::default(), settled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Partitions were given to this process.
    pub(super) fn add(&self, keys: &[Key]) {
        let mut state = self.lock();
        state.generation = state.generation.saturating_add(1);
        let since = state.generation;
        for key in keys {
            state.tracks.insert(key.clone(), Track { since, ..Track::default() });
        }
    }

    /// Partitions are gone.
    pub(super) fn remove(&self, keys: &[Key]) {
        let mut state = self.lock();
        for key in keys {
            let Some(track) = state.tracks.remove(key) else { continue };
            for (offset, bytes) in track.open {
                let (topic, partition) = key.clone();
                let place = ForeignPlace { topic, partition, offset, since: track.since };
                state.orphans.insert(place, bytes);
            }
        }
    }

    /// Partitions of which it is not known how far they were committed.
    pub(super) fn unplaced(&self) -> Vec<Key> {
        let state = self.lock();
        let unplaced = state.tracks.iter().filter(|(_, track)| !track.is_placed);
        unplaced.map(|(key, _)| key.clone()).collect()
    }

    /// How far a partition was committed; `None` where it never was.
    pub(super) fn place(&self, key: &Key, committed: Option<u64>) {
        if let Some(track) = self.lock().tracks.get_mut(key) {
            track.is_placed = true;
            track.next = track.next.or(committed);
            track.committed = track.committed.or(committed);
        }
    }

    /// Takes a record in.
    pub(super) fn take(&self, key: &Key, offset: u64, bytes: usize) -> Taken {
        let mut state = self.lock();
        let Some(track) = state.tracks.get_mut(key) else { return Taken::Known };
        if track.next.is_some_and(|next| offset < next) {
            return Taken::Known;
        }
        let gap = track.next.map_or(0, |next| offset.saturating_sub(next));
        track.next = Some(offset.saturating_add(1));
        track.open.insert(offset, bytes);
        let since = track.since;
        state.records = state.records.saturating_add(1);
        state.bytes = state.bytes.saturating_add(bytes);
        Taken::New { since, gap }
    }

    /// A record is settled: its room is free, and it may be committed if its partition is still
    /// held as it was.
    pub(super) fn settle(&self, place: &ForeignPlace) {
        let mut state = self.lock();
        let key = (Arc::clone(&place.topic), place.partition);
        let track = state.tracks.get_mut(&key).filter(|track| track.since == place.since);
        let bytes = match track {
            Some(track) => track.open.remove(&place.offset),
            None => state.orphans.remove(place),
        };
        if let Some(bytes) = bytes {
            state.records = state.records.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(bytes);
        }
        drop(state);
        self.settled.notify_all();
    }

    fn is_full(&self, state: &State) -> bool {
        state.records >= self.limits.records_max || state.bytes >= self.limits.bytes_max
    }

    /// Waits until there is room for one more record, at most so long.
    pub(super) fn wait_for_room(&self, at_most: Duration) -> bool {
        let is_full = |state: &mut State| !state.is_ending && self.is_full(state);
        let waited = self.settled.wait_timeout_while(self.lock(), at_most, is_full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !self.is_full(&state)
    }

    /// Waits until all that was given of these partitions is settled, at most so long.
    pub(super) fn wait_for_settled(&self, keys: &[Key], at_most: Duration) {
        let is_open = |state: &mut State| {
            let is_open = |key| state.tracks.get(key).is_some_and(|track| !track.open.is_empty());
            !state.is_ending && keys.iter().any(is_open)
        };
        drop(self.settled.wait_timeout_while(self.lock(), at_most, is_open));
    }

    /// The source closes: whoever waits goes on.
    pub(super) fn end(&self) {
        self.lock().is_ending = true;
        self.settled.notify_all();
    }

    /// What may be committed and is not: the next offset of each such partition.
    pub(super) fn due(&self) -> Vec<(Key, u64)> {
        let state = self.lock();
        let due = state.tracks.iter().filter_map(|(key, track)| {
            let settled = track.settled()?;
            (track.committed.is_none_or(|committed| settled > committed))
                .then(|| (key.clone(), settled))
        });
        due.collect()
    }

    /// The brokers have these.
    pub(super) fn committed(&self, committed: &[(Key, u64)]) {
        let mut state = self.lock();
        for (key, next) in committed {
            if let Some(track) = state.tracks.get_mut(key) {
                track.committed = track.committed.max(Some(*next));
            }
        }
    }

    /// Partitions held, and the first offset of each that is not settled.
    pub(super) fn held(&self) -> Vec<(Key, Option<u64>)> {
        let state = self.lock();
        state.tracks.iter().map(|(key, track)| (key.clone(), track.settled())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: u32) -> Key {
        ("otlp_spans".into(), partition)
    }

    fn place(partition: u32, offset: u64, since: u64) -> ForeignPlace {
        ForeignPlace { topic: "otlp_spans".into(), partition, offset, since }
    }

    fn ledger() -> Ledger {
        let ledger = Ledger::new(ForeignLimits { records_max: 3, bytes_max: 100 });
        ledger.add(&[key(0), key(1)]);
        ledger
    }

    #[test]
    fn only_what_is_settled_with_all_before_it_is_committed() {
        let ledger = ledger();
        ledger.place(&key(0), Some(4));
        for offset in 4..7 {
            assert_eq!(ledger.take(&key(0), offset, 1), Taken::New { since: 1, gap: 0 });
        }
        ledger.settle(&place(0, 5, 1));
        ledger.settle(&place(0, 6, 1));
        assert_eq!(ledger.due(), []);
        ledger.settle(&place(0, 4, 1));
        assert_eq!(ledger.due(), [(key(0), 7)]);
        ledger.committed(&ledger.due());
        assert_eq!(ledger.due(), []);
    }

    #[test]
    fn a_record_that_came_before_is_not_given_again_and_a_gap_is_named() {
        let ledger = ledger();
        ledger.place(&key(0), Some(4));
        assert_eq!(ledger.take(&key(0), 3, 1), Taken::Known);
        assert_eq!(ledger.take(&key(0), 9, 1), Taken::New { since: 1, gap: 5 });
        assert_eq!(ledger.take(&key(0), 9, 1), Taken::Known);
        assert_eq!(ledger.take(&key(7), 0, 1), Taken::Known);
    }

    #[test]
    fn records_and_bytes_that_are_not_settled_are_bounded() {
        let ledger = ledger();
        let no_time = Duration::ZERO;
        ledger.take(&key(0), 0, 99);
        assert!(ledger.wait_for_room(no_time));
        ledger.take(&key(1), 0, 99);
        assert!(!ledger.wait_for_room(no_time));
        ledger.settle(&place(0, 0, 1));
        assert!(ledger.wait_for_room(no_time));
        ledger.take(&key(0), 1, 0);
        ledger.take(&key(0), 2, 0);
        assert!(!ledger.wait_for_room(no_time));
    }

    #[test]
    fn a_partition_that_went_and_came_back_is_not_moved_by_records_of_before() {
        let ledger = ledger();
        ledger.place(&key(0), Some(0));
        for offset in 0..3 {
            ledger.take(&key(0), offset, 1);
        }
        ledger.remove(&[key(0)]);
        assert!(!ledger.wait_for_room(Duration::ZERO), "its records are still in hand");
        ledger.add(&[key(0)]);
        ledger.place(&key(0), Some(0));
        assert_eq!(ledger.unplaced(), [key(1)]);
        ledger.settle(&place(0, 0, 1));
        assert!(ledger.wait_for_room(Duration::ZERO));
        assert_eq!(ledger.due(), []);
        assert_eq!(ledger.take(&key(0), 0, 1), Taken::New { since: 2, gap: 0 });
        ledger.settle(&place(0, 0, 2));
        assert_eq!(ledger.due(), [(key(0), 1)]);
    }
}
