//! The batches that were appended or read last, decoded once for all groups that read at the same
//! place. Bounded by bytes; the oldest entry goes first.

use std::collections::{BTreeMap, VecDeque};

use proto::{LoggedBatch, SpanBatch};

/// Decoded batches by their first offset.
#[derive(Debug)]
pub(crate) struct BatchCache {
    by_first: BTreeMap<u64, LoggedBatch>,
    order: VecDeque<u64>,
    bytes: usize,
    bytes_max: usize,
    /// Grows whenever everything is forgotten.
    generation: u64,
}

/// Memory of a batch, about: its bytes and its tables.
fn weight(batch: &SpanBatch) -> usize {
    let spans = size_of_val(batch.spans());
    let traces = size_of_val(batch.traces());
    batch.encoded().len() + spans + traces + batch.contexts().len() * 128 + 256
}

impl BatchCache {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            by_first: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
            generation: 0,
        }
    }

    /// To be asked before a file is read: see [`Self::insert_read`].
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps a batch that was read from a file, unless everything was forgotten meanwhile: the file
    /// may have been another one.
    pub(crate) fn insert_read(&mut self, generation: u64, logged: LoggedBatch) {
        if generation == self.generation {
            self.insert(logged);
        }
    }

    /// Forgets everything: what files say has changed.
    pub(crate) fn forget_all(&mut self) {
        self.by_first.clear();
        self.order.clear();
        self.bytes = 0;
        self.generation = self.generation.wrapping_add(1);
    }

    /// Keeps a batch, unless it is kept already or larger than the cache.
    pub(crate) fn insert(&mut self, logged: LoggedBatch) {
        let weight_new = weight(&logged.batch);
        let first = logged.range.first;
        if weight_new > self.bytes_max || self.by_first.contains_key(&first) {
            return;
        }
        self.bytes += weight_new;
        self.by_first.insert(first, logged);
        self.order.push_back(first);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.by_first.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(weight(&gone.batch));
            }
        }
    }

    /// All batches from `first` up to `next`, if all of them are kept.
    pub(crate) fn all_of(&self, first: u64, next: u64) -> Option<Vec<LoggedBatch>> {
        let mut all = Vec::new();
        let mut expected = first;
        for (first, logged) in self.by_first.range(first..next) {
            if *first != expected {
                return None;
            }
            expected = logged.range.next;
            all.push(logged.clone());
        }
        (expected == next).then_some(all)
    }

    /// Batches from the one with this offset on, without a gap, while they are kept and up to about
    /// so many bytes.
    pub(crate) fn run_from(&self, from: u64, bytes_max: usize) -> Vec<LoggedBatch> {
        let mut run = Vec::new();
        let mut bytes = 0_usize;
        let Some((start, _)) = self.by_first.range(..=from).next_back() else { return run };
        let mut expected = None;
        for (first, logged) in self.by_first.range(start..) {
            let is_next = expected.map_or(from < logged.range.next, |next| next == *first);
            if !is_next || (bytes >= bytes_max && !run.is_empty()) {
                break;
            }
            bytes = bytes.saturating_add(logged.batch.encoded().len());
            expected = Some(logged.range.next);
            run.push(logged.clone());
        }
        run
    }
}
