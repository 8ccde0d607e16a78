//! The housekeeper thread: twice a second it makes commits durable, lets the live tail forget what
//! the stores have, and expires segments. Its waits are waits for the log's closing.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::retention::{expire, wants_roll};
use super::shared::Shared;
use crate::port::STORAGE_WRITER;

/// Commits are durable within about this long.
const TICK: Duration = Duration::from_millis(500);

/// Tells the housekeeper to stop.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits so long at most; tells whether to stop.
    fn wait(&self, at_most: Duration) -> bool {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_set, at_most, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The housekeeper.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    /// Storage-writer's commit at moments of the recent past.
    commits: VecDeque<(Duration, u64)>,
}

/// Without its housekeeper a log fills up in silence.
struct TellWhenDead(Arc<Shared>);

impl Drop for TellWhenDead {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.note_dead("span-log-house");
        }
    }
}

impl Housekeeper {
    pub(crate) const fn new(shared: Arc<Shared>, stop: Arc<Stop>) -> Self {
        Self { shared, stop, commits: VecDeque::new() }
    }

    /// Works until it is stopped.
    pub(crate) fn run(mut self) {
        let _guard = TellWhenDead(Arc::clone(&self.shared));
        while !self.stop.wait(TICK) {
            self.checkpoint();
            self.move_tail_floor();
            expire(&self.shared);
            if wants_roll(&self.shared) {
                self.shared.queue.ask_roll();
            }
            self.observe();
        }
    }

    fn checkpoint(&self) {
        let is_due = {
            let state = self.shared.state();
            let has_grown = state.next != state.durable_end;
            state.is_dirty || has_grown || state.times.wants_ceiling()
        };
        if !is_due {
            return;
        }
        if let Err(error) = self.shared.write_checkpoint(false) {
            tracing::warn!(%error, "the span log's checkpoint was not written; it is tried again");
        }
    }

    /// Moves the live tail's floor to what storage-writer had committed a grace ago, and drops the
    /// index of segments below it.
    fn move_tail_floor(&mut self) {
        let now = self.shared.clock.monotonic();
        let grace = self.shared.config.tail_grace;
        let mut state = self.shared.state();
        let committed = state.commits.get(STORAGE_WRITER.0).copied().unwrap_or(0);
        self.commits.push_back((now, committed));
        while let Some((then, committed)) = self.commits.front().copied()
            && now.saturating_sub(then) >= grace
        {
            state.tail_floor = state.tail_floor.max(committed);
            self.commits.pop_front();
        }
        let floor = state.tail_floor;
        let passed: Vec<_> = state
            .segments
            .iter()
            .take_while(|segment| segment.extent().next_offset <= floor)
            .cloned()
            .collect();
        let newest = state.segments.back().map(|segment| segment.number);
        drop(state);
        for segment in passed.iter().filter(|segment| Some(segment.number) != newest) {
            drop(segment.tail().take());
        }
    }

    fn observe(&self) {
        let state = self.shared.state();
        let disk_bytes = state.disk_bytes();
        let tails = state.segments.iter().map(|segment| {
            segment.tail().as_ref().map_or(0, super::tail_index::TailIndex::memory_bytes)
        });
        let tail_bytes: usize = tails.sum();
        let metrics = &self.shared.metrics;
        for group in &state.groups {
            let committed = state.commits.get(group.0).copied().unwrap_or_else(|| state.first());
            metrics.observe_lag(*group, state.next.saturating_sub(committed));
        }
        drop(state);
        metrics.disk_bytes.set(i64::try_from(disk_bytes).unwrap_or(i64::MAX));
        metrics.tail_index_bytes.set(i64::try_from(tail_bytes).unwrap_or(i64::MAX));
    }
}
