//! Which (request, trace) pairs were seen within the window: a sender that repeats a request after
//! a lost answer is counted once.
//!
//! A request costs one entry and each of its traces four bytes. Fingerprints of traces are compared
//! only within one request digest, so 32 bits are plenty: two of 10,000 traces of one repeated
//! request share one with a chance of 1 in 86, and then one trace of a *repeated* request that was
//! not in its first copy would be missed.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use trace_model::{TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Estimated bytes of an entry beside its fingerprints: the entry, its allocation, its map slot.
const ENTRY_BYTES: usize = 96;

/// The traces of one batch of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// [`request_key`] of the request.
    pub(super) request: u64,
    /// When the log appended it.
    pub(super) append_time: UnixNanos,
    /// Fingerprints of its traces, ascending.
    pub(super) traces: Box<[u32]>,
    /// Place of an earlier batch of the same request.
    earlier: Option<u64>,
}

/// Requests seen within the window, oldest first.
#[derive(Debug, Default)]
pub(super) struct DigestWindow {
    entries: VecDeque<Entry>,
    /// Place of the first entry: places count up for ever.
    base: u64,
    /// Place of a request's latest entry.
    latest: FxHashMap<u64, u64>,
    bytes: usize,
}

/// What tells a request of a tenant from all others.
pub(super) fn request_key(tenant: &TenantId, digest: u64) -> u64 {
    xxh3_64_with_seed(tenant.as_str().as_bytes(), digest)
}

#[expect(clippy::cast_possible_truncation, reason = "a fingerprint is the hash's low half")]
pub(super) fn fingerprint(trace_id: TraceId) -> u32 {
    xxh3_64(trace_id.as_bytes()) as u32
}

impl DigestWindow {
    /// Forgets what was seen before `oldest`, and the oldest where more than `bytes_max` are held: gives
    /// when the newest of those was appended.
    pub(super) fn forget(&mut self, oldest: UnixNanos, bytes_max: usize) -> Option<UnixNanos> {
        let mut early = None;
        while let Some(entry) = self.entries.front() {
            if entry.append_time >= oldest && self.bytes <= bytes_max {
                break;
            }
            if entry.append_time >= oldest {
                early = early.max(Some(entry.append_time));
            }
            self.bytes = self.bytes.saturating_sub(size_of_entry(entry));
            if self.latest.get(&entry.request) == Some(&self.base) {
                self.latest.remove(&entry.request);
            }
            self.entries.pop_front();
            self.base = self.base.saturating_add(1);
        }
        early
    }

    /// Whether nothing of this request was seen.
    pub(super) fn is_new(&self, request: u64) -> bool {
        !self.latest.contains_key(&request)
    }

    /// Whether this trace of the request was seen.
    pub(super) fn has_seen(&self, request: u64, trace: u32) -> bool {
        let mut place = self.latest.get(&request).copied();
        while let Some(entry) = place.and_then(|place| self.at(place)) {
            if entry.traces.binary_search(&trace).is_ok() {
                return true;
            }
            place = entry.earlier;
        }
        false
    }

    /// Notes traces of a request.
    pub(super) fn note(&mut self, request: u64, append_time: UnixNanos, mut traces: Vec<u32>) {
        if traces.is_empty() {
            return;
        }
        traces.sort_unstable();
        let place = self.base.saturating_add(u64::try_from(self.entries.len()).unwrap_or(0));
        let earlier = self.latest.insert(request, place);
        let entry = Entry { request, append_time, traces: traces.into(), earlier };
        self.bytes = self.bytes.saturating_add(size_of_entry(&entry));
        self.entries.push_back(entry);
    }

    /// All entries, oldest first: for the checkpoint. Noting them again in this order restores.
    pub(super) const fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    fn at(&self, place: u64) -> Option<&Entry> {
        let index = place.checked_sub(self.base)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    ENTRY_BYTES.saturating_add(entry.traces.len().saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_of_a_request_is_remembered_for_the_window() {
        let mut window = DigestWindow::default();
        window.note(7, UnixNanos(10), vec![3, 1]);
        window.note(8, UnixNanos(11), vec![5]);
        window.note(7, UnixNanos(12), vec![9]);
        for (request, trace, seen) in [(7, 1, true), (7, 9, true), (7, 5, false), (8, 5, true)] {
            assert_eq!(window.has_seen(request, trace), seen, "{request} {trace}");
        }
        window.forget(UnixNanos(11), usize::MAX);
        assert!(!window.has_seen(7, 1) && window.has_seen(7, 9) && !window.is_new(7));
        window.forget(UnixNanos(13), usize::MAX);
        assert!(window.is_new(7) && window.is_new(8));
        assert_eq!((window.bytes, window.latest.len()), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let mut window = DigestWindow::default();
        for request in 0..1_000 {
            window.note(request, UnixNanos(1), vec![1, 2, 3]);
            window.forget(UnixNanos(0), 10_000);
            assert!(window.bytes <= 10_000);
        }
        assert!(window.has_seen(999, 3) && window.is_new(0));
    }

    #[test]
    fn tenants_with_the_same_request_have_different_keys() {
        let other = TenantId::new("other").unwrap();
        assert_ne!(request_key(&TenantId::default(), 7), request_key(&other, 7));
    }
}
