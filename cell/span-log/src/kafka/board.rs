//! What this process reads for one group, as its member and its reader both see it. No brokers here.
//!
//! A partition is given when the brokers have given it and its committed offset is known; it is gone
//! when the reader has released it, when its time to do so is over, or when the brokers have given
//! this process up.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::assignment::{Assignment, Hold, Share};

#[derive(Debug, Default)]
struct State {
    assignment: Assignment,
    /// Given by the brokers, and not yet told: the committed offset is still asked for.
    unplaced: BTreeSet<u32>,
    /// The log closes: nobody will release anything.
    is_ending: bool,
    /// This process has left the group for now, and its reader reads nothing.
    is_absent: bool,
}

/// One group's partitions.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    released: Condvar,
    told: watch::Sender<Assignment>,
}

impl Board {
    /// Nothing is given yet.
    pub(crate) fn new() -> Self {
        let told = watch::channel(Assignment::default()).0;
        Self { state: Mutex::default(), released: Condvar::new(), told }
    }

    /// Tells every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Assignment> {
        self.told.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is held; the reader hears of it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = state.assignment.clone();
        change(&mut state);
        if state.assignment.partitions != before.partitions {
            state.assignment.generation = before.generation.saturating_add(1);
            self.told.send_replace(state.assignment.clone());
        }
        drop(state);
        self.released.notify_all();
    }

    /// The brokers have given partitions.
    pub(crate) fn take_in(&self, partitions: &[u32]) {
        self.lock().unplaced.extend(partitions);
    }

    /// Those whose committed offset is still to be asked for.
    pub(crate) fn unplaced(&self) -> Vec<u32> {
        self.lock().unplaced.iter().copied().collect()
    }

    /// The committed offsets of these are known: the reader may begin.
    pub(crate) fn give(&self, partitions: &[u32]) {
        self.change(|state| {
            let since = state.assignment.generation.saturating_add(1);
            for partition in partitions {
                // It may have been taken back meanwhile.
                if state.unplaced.remove(partition) {
                    let share = Share { since, is_leaving: false };
                    state.assignment.partitions.insert(*partition, share);
                }
            }
        });
    }

    /// Asks the reader for partitions, and waits until it has released them, at most so long.
    pub(crate) fn ask_back(&self, partitions: &[u32], at_most: Duration) {
        self.change(|state| {
            for partition in partitions {
                state.unplaced.remove(partition);
                if let Some(share) = state.assignment.partitions.get_mut(partition) {
                    share.is_leaving = true;
                }
            }
        });
        let is_held = |state: &mut State| {
            let held = &state.assignment.partitions;
            let is_read = !state.is_ending && !state.is_absent;
            is_read && partitions.iter().any(|partition| held.contains_key(partition))
        };
        drop(self.released.wait_timeout_while(self.lock(), at_most, is_held));
    }

    /// The reader has finished with a leaving partition.
    pub(crate) fn release(&self, hold: Hold) {
        self.change(|state| {
            let share = state.assignment.partitions.get(&hold.partition);
            if share.is_some_and(|share| share.is_leaving && share.since == hold.since) {
                state.assignment.partitions.remove(&hold.partition);
            }
        });
    }

    /// Partitions are gone.
    pub(crate) fn remove(&self, partitions: &[u32]) {
        self.change(|state| {
            for partition in partitions {
                state.unplaced.remove(partition);
                state.assignment.partitions.remove(partition);
            }
        });
    }

    /// All partitions that are held or about to be.
    pub(crate) fn all(&self) -> Vec<u32> {
        let state = self.lock();
        state.assignment.partitions.keys().chain(&state.unplaced).copied().collect()
    }

    /// The log closes: whoever waits for a release goes on.
    pub(crate) fn end(&self) {
        self.lock().is_ending = true;
        self.released.notify_all();
    }

    /// Leaves the group for now, or comes back.
    pub(crate) fn set_absent(&self, is_absent: bool) {
        self.lock().is_absent = is_absent;
        self.released.notify_all();
    }

    /// Whether this process is to stay outside the group.
    pub(crate) fn is_absent(&self) -> bool {
        self.lock().is_absent
    }

    pub(crate) fn is_whole(&self, partitions: u32) -> bool {
        self.lock().assignment.is_whole(partitions)
    }

    pub(crate) fn has(&self, hold: Hold) -> bool {
        self.lock().assignment.has(hold)
    }

    /// The hold on a partition as it is now; of one that is not held, one that is void.
    pub(crate) fn hold_on(&self, partition: u32) -> Result<Hold, Hold> {
        let state = self.lock();
        let share = state.assignment.partitions.get(&partition);
        let since = share.map_or(state.assignment.generation, |share| share.since);
        let hold = Hold { partition, since };
        if share.is_some() { Ok(hold) } else { Err(hold) }
    }

    /// How many partitions are held.
    pub(crate) fn held(&self) -> usize {
        self.lock().assignment.partitions.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(30);

    fn given(partitions: &[u32]) -> (Arc<Board>, watch::Receiver<Assignment>) {
        let board = Arc::new(Board::new());
        board.take_in(partitions);
        board.give(partitions);
        let told = board.subscribe();
        (board, told)
    }

    fn hold(told: &watch::Receiver<Assignment>, partition: u32) -> Hold {
        let since = told.borrow().partitions[&partition].since;
        Hold { partition, since }
    }

    #[test]
    fn what_is_taken_in_is_told_when_its_offset_is_known() {
        let board = Board::new();
        let told = board.subscribe();
        board.take_in(&[1, 2]);
        assert!(told.borrow().partitions.is_empty());
        board.remove(&[2]);
        board.give(&[1, 2]);
        let holds: Vec<u32> = told.borrow().partitions.keys().copied().collect();
        assert_eq!((holds, board.unplaced()), (vec![1], vec![]));
    }

    #[test]
    fn a_partition_that_comes_back_is_held_anew() {
        let (board, told) = given(&[7]);
        let first = hold(&told, 7);
        assert!(board.has(first));
        board.remove(&[7]);
        assert!(!board.has(first) && board.hold_on(7).is_err());
        board.take_in(&[7]);
        board.give(&[7]);
        assert!(!board.has(first) && board.has(hold(&told, 7)));
    }

    #[test]
    fn whoever_asks_a_partition_back_waits_for_the_reader_and_not_for_ever() {
        let (board, told) = given(&[1, 2]);
        let (one, two) = (hold(&told, 1), hold(&told, 2));
        board.release(one);
        assert!(board.has(one), "nobody has asked for it");
        board.ask_back(&[1], MOMENT);
        assert!(board.has(one) && told.borrow().partitions[&1].is_leaving);
        let asking = Arc::clone(&board);
        let asker = std::thread::spawn(move || asking.ask_back(&[1], Duration::from_secs(600)));
        board.release(Hold { since: one.since + 9, ..one });
        assert!(board.has(one), "a hold of another generation");
        board.release(one);
        asker.join().unwrap();
        assert!(!board.has(one) && board.has(two) && !told.borrow().partitions[&2].is_leaving);
    }

    #[test]
    fn who_has_left_the_group_is_not_waited_for() {
        let (board, _told) = given(&[1]);
        board.set_absent(true);
        board.ask_back(&[1], Duration::from_secs(600));
        board.set_absent(false);
        board.ask_back(&[1], MOMENT);
        assert!(board.held() == 1, "nobody has released it");
    }

    #[test]
    fn a_log_that_closes_waits_for_nobody() {
        let (board, _told) = given(&[1]);
        board.end();
        board.ask_back(&[1], Duration::from_secs(600));
    }
}
