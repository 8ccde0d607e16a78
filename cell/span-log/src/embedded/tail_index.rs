//! Which sections of a segment may hold a trace: the memory of the live tail.
//!
//! About 20 bytes a trace record, and only for segments that storage-writer has not passed. It
//! knows hashes only: a hit is a section to look into, a miss is certain.

use hashbrown::HashTable;
use proto::SpanBatch;
use trace_model::{TenantId, TraceId};

/// Where a section is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionRef {
    /// Offset of its first record.
    pub(crate) first_offset: u64,
    /// How many it holds.
    pub(crate) records: u32,
    /// Page of the segment file at which its block starts.
    pub(crate) block_page: u32,
    /// Its place in the block.
    pub(crate) section: u32,
}

impl SectionRef {
    /// Offset after its last record.
    pub(crate) const fn next_offset(&self) -> u64 {
        self.first_offset.saturating_add(self.records as u64)
    }
}

/// A trace record. Those of one hash form a chain, newest first.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    section: u32,
    previous: u32,
}

/// A slot of the table: its value and its tag.
const SLOT_BYTES: usize = 5;

/// No entry.
const NONE: u32 = u32::MAX;

/// The index of one segment.
#[derive(Debug, Default)]
pub(crate) struct TailIndex {
    sections: Vec<SectionRef>,
    entries: Vec<Entry>,
    newest: HashTable<u32>,
}

/// Hashes tenants and traces of one log. Seeded, so that no sender can make one long chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceHasher {
    seed: u64,
}

impl TraceHasher {
    pub(crate) const fn new(salt: u64) -> Self {
        Self { seed: salt }
    }

    /// The hasher of one tenant's traces.
    pub(crate) fn of_tenant(self, tenant: &TenantId) -> Self {
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(tenant.as_str().as_bytes(), self.seed);
        Self { seed }
    }

    pub(crate) fn trace(self, trace_id: TraceId) -> u32 {
        (xxhash_rust::xxh3::xxh3_64_with_seed(trace_id.as_bytes(), self.seed) >> 32) as u32
    }
}

/// Spreads 32 bits over 64: the table takes its tag from the upper ones. (Fibonacci hashing, Knuth,
/// The Art of Computer Programming, volume 3, 6.4.)
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl TailIndex {
    /// Notes a section with the traces of its batches.
    #[expect(single_use_lifetimes, reason = "an anonymous lifetime in `impl Trait` is unstable")]
    pub(crate) fn add<'a>(
        &mut self,
        section: SectionRef,
        hasher: TraceHasher,
        batches: impl IntoIterator<Item = &'a SpanBatch>,
    ) {
        let place = u32::try_from(self.sections.len()).unwrap_or(NONE);
        self.sections.push(section);
        for batch in batches {
            let hasher = hasher.of_tenant(&batch.source().tenant);
            for trace in batch.traces().iter().filter(|trace| !trace.is_erased()) {
                self.add_trace(hasher.trace(trace.trace_id), place);
            }
        }
    }

    fn add_trace(&mut self, hash: u32, section: u32) {
        let Self { entries, newest, .. } = self;
        let Ok(place) = u32::try_from(entries.len()) else { return };
        let hash_of = |at: &u32| entries.get(*at as usize).map_or(0, |entry| spread(entry.hash));
        let is_same = |at: &u32| entries.get(*at as usize).is_some_and(|entry| entry.hash == hash);
        match newest.entry(spread(hash), is_same, hash_of) {
            hashbrown::hash_table::Entry::Occupied(mut head) => {
                let previous = *head.get();
                if entries.get(previous as usize).is_some_and(|entry| entry.section == section) {
                    return;
                }
                *head.get_mut() = place;
                entries.push(Entry { hash, section, previous });
            }
            hashbrown::hash_table::Entry::Vacant(slot) => {
                slot.insert(place);
                entries.push(Entry { hash, section, previous: NONE });
            }
        }
    }

    /// Sections that may hold the trace, newest first.
    pub(crate) fn sections_of(&self, hash: u32) -> Vec<SectionRef> {
        let is_same =
            |at: &u32| self.entries.get(*at as usize).is_some_and(|entry| entry.hash == hash);
        let mut found = Vec::new();
        let mut at = self.newest.find(spread(hash), is_same).copied().unwrap_or(NONE);
        while let Some(entry) = self.entries.get(at as usize) {
            found.extend(self.sections.get(entry.section as usize).copied());
            at = entry.previous;
        }
        found
    }

    /// Gives back room to grow: the segment is sealed.
    pub(crate) fn shrink(&mut self) {
        self.sections.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Bytes of memory that the index takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.sections.capacity() * size_of::<SectionRef>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.newest.num_buckets() * SLOT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(number: u32) -> SectionRef {
        let first_offset = u64::from(number) * 10;
        SectionRef { first_offset, records: 10, block_page: number, section: 0 }
    }

    #[test]
    fn every_section_of_a_hash_is_found_newest_first_and_once() {
        let mut index = TailIndex::default();
        for number in 0..100_u32 {
            let place = u32::try_from(index.sections.len()).unwrap();
            index.sections.push(section(number));
            for hash in [number % 7, 1_000 + number, number % 7] {
                index.add_trace(hash, place);
            }
        }
        let found: Vec<u32> = index.sections_of(3).iter().map(|one| one.block_page).collect();
        let expected: Vec<u32> = (0..100).rev().filter(|number| number % 7 == 3).collect();
        assert_eq!(found, expected);
        assert_eq!(index.sections_of(1_050), [section(50)]);
        assert_eq!(index.sections_of(77), []);
    }

    #[test]
    fn a_record_of_a_sealed_segment_takes_at_most_24_bytes() {
        let mut index = TailIndex::default();
        // The worst case: the table has just doubled.
        let records = 114_700_u32;
        for hash in 0..records {
            index.add_trace(hash.wrapping_mul(2_654_435_761), 0);
        }
        index.shrink();
        let bytes = index.memory_bytes() / records as usize;
        assert!(bytes <= 24, "{bytes} bytes a record");
    }

    #[test]
    fn tenants_hash_one_trace_apart() {
        let hasher = TraceHasher::new(5);
        let trace_id = TraceId::from_bytes([3; 16]).unwrap();
        let of = |tenant| hasher.of_tenant(&TenantId::new(tenant).unwrap()).trace(trace_id);
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"));
    }
}
