//! What the letters hold, in memory: whoever reads a trace asks without touching a file. Bounded:
//! letters beyond the limit are known to hold something, and any trace may be in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::SpanBatch;
use rustc_hash::FxHashMap;
use span_log::GroupId;
use trace_model::{TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::Xxh3;

use super::DeadLetter;

/// Append times of lost records that lie closer together are told as one run: an hour.
const JOINED_NANOS: u64 = 3_600 * 1_000_000_000;

/// The group of letters that cannot be read.
const UNREADABLE: &str = "";

/// What is known of a letter.
#[derive(Debug)]
enum Known {
    /// It was read.
    Read(Indexed),
    /// It cannot be read: it may be of any group, and hold any trace.
    Unreadable,
}

#[derive(Debug)]
struct Indexed {
    group: Arc<str>,
    tenant: TenantId,
    append_time: UnixNanos,
    /// Hashes of its traces; `None` where there was no room for them.
    traces: Option<Vec<u64>>,
}

/// The letters by number, and their traces.
#[derive(Debug)]
pub(super) struct LetterIndex {
    letters: BTreeMap<u64, Known>,
    /// How many letters hold a trace.
    traces: FxHashMap<u64, u32>,
    entries: usize,
    entries_max: usize,
    /// Letters that may hold any trace, by group; those that cannot be read under no name.
    loose: BTreeMap<Arc<str>, usize>,
}

impl LetterIndex {
    pub(super) fn new(entries_max: usize) -> Self {
        let (letters, traces) = (BTreeMap::new(), FxHashMap::default());
        Self { letters, traces, entries: 0, entries_max, loose: BTreeMap::new() }
    }

    /// Takes a letter in, in the place of what was known under its number.
    pub(super) fn insert(&mut self, sequence: u64, letter: &DeadLetter, batch: &SpanBatch) {
        self.remove(sequence);
        let tenant = &batch.source().tenant;
        let held = batch.traces().iter().filter(|trace| !trace.is_erased());
        let hashes: Vec<u64> =
            held.map(|trace| hash_of(&letter.group, tenant, trace.trace_id)).collect();
        let has_room = self.entries.saturating_add(hashes.len()) <= self.entries_max;
        if has_room {
            self.entries = self.entries.saturating_add(hashes.len());
            for hash in &hashes {
                let count = self.traces.entry(*hash).or_default();
                *count = count.saturating_add(1);
            }
        }
        let group: Arc<str> = letter.group.as_str().into();
        if !has_room {
            self.loosen(&group);
        }
        let indexed = Indexed {
            group,
            tenant: tenant.clone(),
            append_time: letter.append_time,
            traces: has_room.then_some(hashes),
        };
        self.letters.insert(sequence, Known::Read(indexed));
    }

    /// Notes a letter that cannot be read.
    pub(super) fn insert_unreadable(&mut self, sequence: u64) {
        self.remove(sequence);
        self.loosen(&UNREADABLE.into());
        self.letters.insert(sequence, Known::Unreadable);
    }

    fn loosen(&mut self, group: &Arc<str>) {
        let count = self.loose.entry(Arc::clone(group)).or_default();
        *count = count.saturating_add(1);
    }

    fn tighten(&mut self, group: &str) {
        if let Some(count) = self.loose.get_mut(group) {
            *count = count.saturating_sub(1);
        }
        self.loose.retain(|_, count| *count > 0);
    }

    /// Forgets a letter.
    pub(super) fn remove(&mut self, sequence: u64) {
        let gone = match self.letters.remove(&sequence) {
            Some(Known::Read(gone)) => gone,
            Some(Known::Unreadable) => return self.tighten(UNREADABLE),
            None => return,
        };
        let Some(hashes) = gone.traces else { return self.tighten(&gone.group) };
        for hash in hashes {
            self.entries = self.entries.saturating_sub(1);
            if let std::collections::hash_map::Entry::Occupied(mut slot) = self.traces.entry(hash) {
                *slot.get_mut() = slot.get().saturating_sub(1);
                if *slot.get() == 0 {
                    slot.remove();
                }
            }
        }
    }

    /// The first letter whose traces there was no room for.
    pub(super) fn first_without_room(&self) -> Option<u64> {
        let is_without = |known: &Known| matches!(known, Known::Read(Indexed { traces: None, .. }));
        self.letters.iter().find(|(_, known)| is_without(known)).map(|(sequence, _)| *sequence)
    }

    /// Whether there is room for more traces.
    pub(super) const fn has_room(&self) -> bool {
        self.entries < self.entries_max
    }

    /// Whether a letter of the group may hold spans of the trace.
    pub(super) fn may_hold(&self, group: GroupId, tenant: &TenantId, trace_id: TraceId) -> bool {
        let is_loose = self.loose.contains_key(group.0) || self.loose.contains_key(UNREADABLE);
        is_loose
            || !self.traces.is_empty()
                && self.traces.contains_key(&hash_of(group.0, tenant, trace_id))
    }

    /// Append times of the tenant's records in letters of the groups, joined where they lie close
    /// together.
    pub(super) fn append_times(
        &self,
        groups: &[GroupId],
        tenant: &TenantId,
    ) -> Vec<(UnixNanos, UnixNanos)> {
        let mut times: Vec<(UnixNanos, UnixNanos)> = Vec::new();
        for known in self.letters.values() {
            match known {
                Known::Unreadable => return vec![(UnixNanos(0), UnixNanos::MAX)],
                Known::Read(letter) => {
                    let is_of_one = groups.iter().any(|group| *group.0 == *letter.group);
                    if is_of_one && letter.tenant == *tenant {
                        times.push((letter.append_time, letter.append_time));
                    }
                }
            }
        }
        times.sort_unstable();
        times.dedup_by(|later, kept| {
            let is_close = later.0.since(kept.1) <= JOINED_NANOS;
            if is_close {
                kept.1 = kept.1.max(later.1);
            }
            is_close
        });
        times
    }

    /// Letters by group; those that cannot be read under no name.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for known in self.letters.values() {
            let group = match known {
                Known::Read(letter) => letter.group.to_string(),
                Known::Unreadable => String::new(),
            };
            let count: &mut u64 = counts.entry(group).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Letters whose records were appended before: their number, and when. Of unreadable ones the
    /// time is unknown.
    pub(super) fn older_than(&self, before: UnixNanos) -> Vec<(u64, Option<UnixNanos>)> {
        let old = |(sequence, known): (&u64, &Known)| match known {
            Known::Read(letter) if letter.append_time < before => {
                Some((*sequence, Some(letter.append_time)))
            }
            Known::Read(_) => None,
            Known::Unreadable => Some((*sequence, None)),
        };
        self.letters.iter().filter_map(old).collect()
    }

    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.letters.keys().copied()
    }
}

fn hash_of(group: &str, tenant: &TenantId, trace_id: TraceId) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [group, tenant.as_str()] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(trace_id.as_bytes());
    hasher.digest()
}
