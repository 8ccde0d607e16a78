//! Where the last version of each own row lies: 16 bytes and a control byte a row.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use xxhash_rust::xxh3::Xxh3;

use super::RowKey;
use crate::store::Location;

/// Bits of a slot that hold an offset: files stay below 256 MiB.
const OFFSET_BITS: u32 = 28;
/// Bits of a slot that hold a segment number.
const SEGMENT_BITS: u32 = 24;

/// Where a row lies that cannot be read any more: nowhere. It stays known that there was one.
const LOST: Location =
    Location { segment: (1 << SEGMENT_BITS) - 1, offset: (1 << OFFSET_BITS) - 1 };

/// Fingerprint of a row key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u128);

impl Fingerprint {
    pub(super) fn of(key: &RowKey) -> Self {
        let RowKey { tenant, trace_id, incarnation, partition } = key;
        Self::of_parts(tenant.as_str(), trace_id.as_bytes(), *incarnation, *partition)
    }

    pub(super) fn of_parts(
        tenant: &str,
        trace_id: &[u8],
        incarnation: u64,
        partition: u32,
    ) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(trace_id);
        hasher.update(&incarnation.to_le_bytes());
        hasher.update(&partition.to_le_bytes());
        hasher.update(tenant.as_bytes());
        Self(hasher.digest128())
    }

    /// The 64 bits by which the map is keyed, and 12 more that are checked.
    const fn parts(self) -> (u64, u64) {
        let [low, high] = [self.0 & u64::MAX as u128, self.0 >> 116];
        #[expect(clippy::cast_possible_truncation, reason = "masked or shifted to fit")]
        (low as u64, high as u64)
    }
}

/// Rows by fingerprint. 76 bits of it are compared: among 100 million rows two are taken for one
/// with a chance of 1e-7. Rows whose 64 bits clash and whose further 12 differ lie beside.
#[derive(Debug, Default)]
pub(super) struct RowMap {
    slots: HashMap<u64, u64, FxBuildHasher>,
    clashing: HashMap<Fingerprint, Location, FxBuildHasher>,
}

fn pack(location: Location, check: u64) -> Option<u64> {
    let fits = location.segment >> SEGMENT_BITS == 0 && location.offset >> OFFSET_BITS == 0;
    let place = u64::from(location.segment) << OFFSET_BITS | u64::from(location.offset);
    fits.then_some(check << (OFFSET_BITS + SEGMENT_BITS) | place)
}

fn unpack(slot: u64) -> (Location, u64) {
    let part = |from: u32, bits: u32| u32::try_from((slot >> from) & ((1 << bits) - 1));
    let location = Location {
        offset: part(0, OFFSET_BITS).unwrap_or(u32::MAX),
        segment: part(OFFSET_BITS, SEGMENT_BITS).unwrap_or(u32::MAX),
    };
    (location, slot >> (OFFSET_BITS + SEGMENT_BITS))
}

impl RowMap {
    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<Location> {
        let (key, check) = fingerprint.parts();
        let (location, held) = unpack(*self.slots.get(&key)?);
        if held == check {
            return Some(location);
        }
        self.clashing.get(&fingerprint).copied()
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint, location: Location) {
        let (key, check) = fingerprint.parts();
        let is_other = self.slots.get(&key).is_some_and(|slot| unpack(*slot).1 != check);
        match pack(location, check) {
            Some(slot) if !is_other => {
                self.slots.insert(key, slot);
            }
            Some(_) | None => {
                self.clashing.insert(fingerprint, location);
            }
        }
    }

    pub(super) fn remove(&mut self, fingerprint: Fingerprint) {
        let (key, check) = fingerprint.parts();
        if self.clashing.remove(&fingerprint).is_none()
            && self.slots.get(&key).is_some_and(|slot| unpack(*slot).1 == check)
        {
            self.slots.remove(&key);
        }
    }

    /// The row cannot be read any more.
    pub(super) fn lose(&mut self, fingerprint: Fingerprint) {
        self.insert(fingerprint, LOST);
    }

    /// Rows that lie in these places cannot be read any more.
    pub(super) fn lose_all(&mut self, is_lost: impl Fn(Location) -> bool) {
        for slot in self.slots.values_mut() {
            let (location, check) = unpack(*slot);
            if is_lost(location) {
                *slot = pack(LOST, check).unwrap_or(*slot);
            }
        }
        for location in self.clashing.values_mut().filter(|location| is_lost(**location)) {
            *location = LOST;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len().saturating_add(self.clashing.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_whose_fingerprints_clash_stay_apart() {
        let mut map = RowMap::default();
        let (one, two) = (Fingerprint(7), Fingerprint(7 | 1 << 120));
        let at = |offset| Location { segment: 3, offset };
        map.insert(one, at(10));
        map.insert(two, at(20));
        assert_eq!((map.get(one), map.get(two), map.len()), (Some(at(10)), Some(at(20)), 2));
        map.insert(two, at(30));
        map.remove(one);
        assert_eq!(map.get(one), None);
    }

    #[test]
    fn a_location_comes_back_from_its_slot() {
        let location =
            Location { segment: (1 << SEGMENT_BITS) - 1, offset: (1 << OFFSET_BITS) - 1 };
        assert_eq!(pack(location, 0xfff).map(unpack), Some((location, 0xfff)));
        assert_eq!(pack(Location { segment: 0, offset: 1 << OFFSET_BITS }, 0), None);
    }
}
