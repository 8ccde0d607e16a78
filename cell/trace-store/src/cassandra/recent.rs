//! A map that remembers what was used lately, in bounded memory.

use std::mem;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Values by hash, in two generations: when the young one is full it becomes the old one, and what
/// was not used since then is forgotten. Keys are hashes already.
#[derive(Debug)]
pub(super) struct Recent<V> {
    young: HashMap<u64, V, FxBuildHasher>,
    old: HashMap<u64, V, FxBuildHasher>,
    capacity: usize,
}

impl<V: Default> Recent<V> {
    /// A map of at most twice so many values.
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), capacity: capacity.max(1) }
    }

    /// Whether the key is remembered; it is then remembered for longer.
    pub(super) fn contains(&mut self, key: u64) -> bool {
        if self.young.contains_key(&key) {
            return true;
        }
        let Some(value) = self.old.remove(&key) else { return false };
        self.insert(key, value);
        true
    }

    /// The value of a key; a fresh one where it is not remembered.
    pub(super) fn entry(&mut self, key: u64) -> &mut V {
        if !self.contains(key) {
            self.insert(key, V::default());
        }
        self.young.entry(key).or_default()
    }

    /// Remembers a value.
    pub(super) fn insert(&mut self, key: u64, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_not_is_forgotten() {
        let mut recent = Recent::<u32>::new(4);
        *recent.entry(0) += 7;
        for key in 1..100 {
            assert_eq!(*recent.entry(0), 7, "{key}");
            *recent.entry(key) = 1;
        }
        assert!(recent.contains(99) && !recent.contains(1));
        assert!(recent.young.len() + recent.old.len() <= 8);
    }
}
