//! When to look at which trace again: slots of one publishing pass. A trace may be in several; the
//! one who looks decides.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Schedule<K> {
    slot_nanos: u128,
    slots: BTreeMap<u128, Vec<K>>,
}

impl<K> Schedule<K> {
    pub(super) fn new(slot: Duration) -> Self {
        Self { slot_nanos: slot.as_nanos().max(1), slots: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, key: K, due: Duration) {
        self.slots.entry(due.as_nanos().div_ceil(self.slot_nanos)).or_default().push(key);
    }

    /// All keys due by now.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<K> {
        let later = self.slots.split_off(&(now.as_nanos() / self.slot_nanos + 1));
        let due = std::mem::replace(&mut self.slots, later);
        due.into_values().flatten().collect()
    }

    /// At least so many keys, those due first, or all.
    pub(super) fn take_first(&mut self, count: usize) -> Vec<K> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let Some((_, keys)) = self.slots.pop_first() else { break };
            taken.extend(keys);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_when_they_are_due_and_the_first_ones_first() {
        let mut schedule = Schedule::new(Duration::from_millis(100));
        for (key, millis) in [(3, 301), (1, 100), (2, 150)] {
            schedule.add(key, Duration::from_millis(millis));
        }
        assert_eq!(schedule.take_due(Duration::from_millis(199)), [1]);
        assert_eq!(schedule.take_first(1), [2]);
        assert_eq!(schedule.take_due(Duration::from_millis(399)), [0; 0]);
        assert_eq!(schedule.take_due(Duration::from_millis(400)), [3]);
    }
}
