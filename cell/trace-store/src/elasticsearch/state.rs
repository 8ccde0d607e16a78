//! What one process remembers between calls: all of it can be read or made again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trace_model::Coverage;

/// Most entries of the catalogue that are remembered as written.
const ENTRIES_MAX: usize = 200_000;
/// An index is taken for there so long after it was seen.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Erased traces, by hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Erased {
    /// Sequence number of the document that says whether there are newer ones.
    pub(super) sequence: Option<u64>,
    /// Time of the newest tombstone that was read.
    pub(super) newest: u64,
    pub(super) hashes: Arc<HashSet<u128>>,
}

/// How far the log is indexed.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The engine has acknowledged it.
    pub(super) written: Coverage,
    /// It can be found, and a document says so.
    pub(super) stored: Coverage,
    /// When that was last written, by the monotonic clock.
    pub(super) stored_at: Option<Duration>,
    /// When other processes' progress was last read.
    pub(super) read_at: Option<Duration>,
    /// What all processes have stored.
    pub(super) of_all: Coverage,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    dirty: Mutex<BTreeSet<String>>,
    known: Mutex<HashMap<String, Duration>>,
    entries: Mutex<HashSet<u128>>,
    erased: Mutex<Erased>,
    progress: Mutex<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Notes that an index holds what cannot be found yet.
    pub(super) fn soil(&self, index: &str) {
        let mut dirty = lock(&self.dirty);
        if !dirty.contains(index) {
            dirty.insert(index.to_owned());
        }
    }

    /// The indices to refresh; they count as refreshed from here.
    pub(super) fn take_dirty(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.dirty))
    }

    /// Whether the index was there a while ago.
    pub(super) fn knows_index(&self, index: &str, now: Duration) -> bool {
        lock(&self.known).get(index).is_some_and(|seen| now.saturating_sub(*seen) < KNOWN_FOR)
    }

    pub(super) fn know_index(&self, index: &str, now: Duration) {
        let mut known = lock(&self.known);
        known.retain(|_, seen| now.saturating_sub(*seen) < KNOWN_FOR);
        known.insert(index.to_owned(), now);
    }

    /// The index is made again before it is written to.
    pub(super) fn forget_index(&self, index: &str) {
        lock(&self.known).remove(index);
    }

    /// An index may have been removed: each is made again before it is written to.
    pub(super) fn forget_indices(&self) {
        lock(&self.known).clear();
    }

    /// Whether the catalogue's entry was written.
    pub(super) fn knows_entry(&self, hash: u128) -> bool {
        lock(&self.entries).contains(&hash)
    }

    pub(super) fn know_entries(&self, hashes: impl IntoIterator<Item = u128>) {
        let mut entries = lock(&self.entries);
        entries.extend(hashes);
        if entries.len() > ENTRIES_MAX {
            entries.clear();
        }
    }

    /// An erasure may have removed entries: they are written again where spans come.
    pub(super) fn forget_entries(&self) {
        lock(&self.entries).clear();
    }

    pub(super) fn erased(&self) -> Erased {
        lock(&self.erased).clone()
    }

    pub(super) fn set_erased(&self, erased: Erased) {
        *lock(&self.erased) = erased;
    }

    pub(super) fn progress(&self) -> Progress {
        lock(&self.progress).clone()
    }

    pub(super) fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
    }
}
