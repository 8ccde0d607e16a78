//! Bloom filters over bytes: built once from a known number of entries, probed in place where they
//! lie in a file, so that a probe allocates nothing.
//!
//! The layout is part of the file format, hence not a crate's: *n* bits in whole bytes, *k* places
//! per entry by double hashing (A. Kirsch, M. Mitzenmacher, "Less Hashing, Same Performance", 2006).

/// A filter's density.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Density {
    bits_per_entry: usize,
    probes: u32,
}

/// 10 bits an entry and 7 probes: 0.8 % false positives.
pub(crate) const VALUES: Density = Density { bits_per_entry: 10, probes: 7 };
/// 16 bits an entry and 11 probes: 0.05 % false positives. Every segment is asked for every trace,
/// so its filter is denser.
pub(crate) const TRACES: Density = Density { bits_per_entry: 16, probes: 11 };

/// Largest filter: 256 MiB of bits; beyond, the false positives rise.
const BITS_MAX: usize = 1 << 31;

/// The filter of these entries; empty for none.
pub(crate) fn build(hashes: &[u64], density: Density) -> Vec<u8> {
    let mut filter = vec![0_u8; byte_length(hashes.len(), density)];
    let bits = bit_count(&filter);
    for hash in hashes {
        for bit in places(*hash, bits, density.probes) {
            if let Some(byte) = filter.get_mut((bit >> 3) as usize) {
                *byte |= 1 << (bit & 7);
            }
        }
    }
    filter
}

/// Length of the filter of so many entries.
pub(crate) fn byte_length(entries: usize, density: Density) -> usize {
    entries.saturating_mul(density.bits_per_entry).min(BITS_MAX).div_ceil(8)
}

/// Whether the entry may have been added. An empty filter holds nothing.
pub(crate) fn contains(filter: &[u8], hash: u64, density: Density) -> bool {
    let bits = bit_count(filter);
    bits > 0
        && places(hash, bits, density.probes).all(|bit| {
            filter.get((bit >> 3) as usize).is_some_and(|byte| byte & (1 << (bit & 7)) != 0)
        })
}

const fn bit_count(filter: &[u8]) -> u64 {
    filter.len() as u64 * 8
}

#[inline]
fn places(hash: u64, bits: u64, probes: u32) -> impl Iterator<Item = u64> {
    let step = (hash >> 32) | 1;
    let mut at = hash & 0xffff_ffff;
    (0..probes).map(move |_| {
        let bit = (at * bits) >> 32;
        at = (at + step) & 0xffff_ffff;
        bit
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::hash::value_hash;

    fn hashes(range: std::ops::Range<u64>) -> Vec<u64> {
        range.map(|number| value_hash(&number.to_le_bytes())).collect()
    }

    #[test]
    fn what_was_added_is_always_found() {
        for count in [1, 2, 17, 5_000] {
            let added = hashes(0..count);
            for density in [VALUES, TRACES] {
                let filter = build(&added, density);
                assert!(added.iter().all(|hash| contains(&filter, *hash, density)));
            }
        }
        assert!(!contains(&build(&[], VALUES), 7, VALUES));
    }

    #[test]
    fn false_positives_stay_at_the_promised_rate() {
        let absent = hashes(1_000_000..1_100_000);
        for (density, per_100_k_max) in [(VALUES, 1_100), (TRACES, 90)] {
            let filter = build(&hashes(0..20_000), density);
            let found = absent.iter().filter(|hash| contains(&filter, **hash, density)).count();
            assert!(found <= per_100_k_max, "{density:?}: {found}");
        }
    }
}
