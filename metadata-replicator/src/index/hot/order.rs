//! One order: entries sorted, in runs of a few KiB, so that a trace that comes out of order moves
//! little; and several of them read as one, from the greatest entry down.

use std::collections::BinaryHeap;

/// Most entries of a run; one that is full is split.
const RUN_MAX: usize = 512;

/// A run, and a place in it.
type Place = (usize, usize);

/// Entries in order, in runs.
#[derive(Debug, Default)]
pub(super) struct Order {
    runs: Vec<Vec<u64>>,
    len: usize,
    capacity: usize,
}

impl Order {
    /// Entries held.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes held.
    pub(super) fn allocated(&self) -> usize {
        let runs = self.runs.capacity().saturating_mul(size_of::<Vec<u64>>());
        self.capacity.saturating_mul(8).saturating_add(runs)
    }

    /// The run in which the entry is or would be.
    fn run_of(&self, entry: u64) -> usize {
        let behind = self.runs.partition_point(|run| run.first().is_some_and(|at| *at <= entry));
        behind.saturating_sub(1)
    }

    /// Puts an entry in; once is enough.
    pub(super) fn insert(&mut self, entry: u64) {
        let mut place = self.run_of(entry);
        if self.runs.get(place).is_none_or(|run| run.len() >= RUN_MAX) {
            self.make_room(place, entry);
            place = self.run_of(entry);
        }
        let Some(run) = self.runs.get_mut(place) else { return };
        if let Err(at) = run.binary_search(&entry) {
            let before = run.capacity();
            run.insert(at, entry);
            self.capacity = self.capacity.saturating_sub(before).saturating_add(run.capacity());
            self.len = self.len.saturating_add(1);
        }
    }

    /// Splits a full run. What comes in order fills runs to the brim; the newest run is cut near its
    /// end, since traces come nearly in order.
    fn make_room(&mut self, place: usize, entry: u64) {
        let is_newest = place.saturating_add(1) >= self.runs.len();
        let Some(run) = self.runs.get_mut(place) else {
            self.runs.push(Vec::new());
            return;
        };
        if run.last().is_some_and(|last| *last < entry) && is_newest {
            self.runs.push(vec![entry]);
            self.capacity = self.capacity.saturating_add(1);
            self.len = self.len.saturating_add(1);
            return;
        }
        let cut = if is_newest { RUN_MAX - RUN_MAX / 8 } else { RUN_MAX / 2 };
        let tail = run.split_off(cut);
        self.capacity = self.capacity.saturating_add(tail.capacity());
        self.runs.insert(place.saturating_add(1), tail);
    }

    /// Takes an entry out; says whether it was there.
    pub(super) fn remove(&mut self, entry: u64) -> bool {
        let place = self.run_of(entry);
        let Some(run) = self.runs.get_mut(place) else { return false };
        let Ok(at) = run.binary_search(&entry) else { return false };
        let before = run.capacity();
        run.remove(at);
        if run.len().saturating_mul(4) < before {
            run.shrink_to(run.len().saturating_mul(2));
        }
        let after = run.capacity();
        if run.is_empty() {
            self.runs.remove(place);
        }
        self.capacity = self.capacity.saturating_sub(before).saturating_add(after);
        self.len = self.len.saturating_sub(1);
        true
    }

    /// The place of the greatest entry below this one.
    fn last_below(&self, below: u64) -> Option<Place> {
        let run = self.runs.partition_point(|run| run.first().is_some_and(|at| *at < below));
        let run = run.checked_sub(1)?;
        let place = self.runs.get(run)?.partition_point(|at| *at < below).checked_sub(1)?;
        Some((run, place))
    }

    fn before(&self, (run, place): Place) -> Option<Place> {
        if let Some(place) = place.checked_sub(1) {
            return Some((run, place));
        }
        let run = run.checked_sub(1)?;
        Some((run, self.runs.get(run)?.len().checked_sub(1)?))
    }

    fn at(&self, (run, place): Place) -> Option<u64> {
        self.runs.get(run)?.get(place).copied()
    }
}

/// The entries of several orders, newest start first. A trace that is in two of them comes twice.
#[derive(Debug)]
pub(super) struct Descent<'a> {
    orders: Vec<&'a Order>,
    /// The next entry of each order: its number and its place.
    heads: BinaryHeap<(u64, usize, Place)>,
}

impl<'a> Descent<'a> {
    /// Begins below an entry.
    pub(super) fn below(orders: Vec<&'a Order>, below: u64) -> Self {
        let head = |(number, order): (usize, &&Order)| {
            let place = order.last_below(below)?;
            Some((order.at(place)?, number, place))
        };
        let heads = orders.iter().enumerate().filter_map(head).collect();
        Self { orders, heads }
    }
}

impl Iterator for Descent<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (entry, number, place) = self.heads.pop()?;
        let order = self.orders.get(number)?;
        if let Some(place) = order.before(place)
            && let Some(entry) = order.at(place)
        {
            self.heads.push((entry, number, place));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_is_a_sorted_set(
            changes in vec((any::<bool>(), 0_u64..3_000), 0..4_000), step in 1_u64..40,
            from in 0_u64..3_000
        ) {
            let mut set = BTreeSet::new();
            let mut order = Order::default();
            for number in 0..2 * RUN_MAX as u64 {
                order.insert(number * step);
                set.insert(number * step);
            }
            for (is_insert, entry) in changes {
                if is_insert {
                    order.insert(entry);
                    set.insert(entry);
                } else {
                    prop_assert_eq!(order.remove(entry), set.remove(&entry));
                }
                prop_assert_eq!(order.len(), set.len());
            }
            let capacity: usize = order.runs.iter().map(Vec::capacity).sum();
            prop_assert_eq!(order.capacity, capacity);
            prop_assert!(order.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_MAX));
            let read: Vec<u64> = Descent::below(vec![&order], from).collect();
            let held: Vec<u64> = set.range(..from).rev().copied().collect();
            prop_assert_eq!(read, held);
        }

        #[test]
        fn several_orders_are_read_as_one(
            lists in vec(vec(0_u64..500, 0..60), 0..5), below in 0_u64..600
        ) {
            let mut held: Vec<u64> = lists
                .iter()
                .flat_map(|list| list.iter().copied().collect::<BTreeSet<_>>())
                .filter(|entry| *entry < below)
                .collect();
            held.sort_unstable_by(|one, two| two.cmp(one));
            let mut orders = Vec::new();
            for list in lists {
                let mut order = Order::default();
                list.into_iter().for_each(|entry| order.insert(entry));
                orders.push(order);
            }
            let read: Vec<u64> = Descent::below(orders.iter().collect(), below).collect();
            prop_assert_eq!(read, held);
        }
    }

    #[test]
    fn what_comes_nearly_in_order_fills_its_runs() {
        let mut order = Order::default();
        let entries = 100_000_u64;
        for number in 0..entries {
            // Each comes up to 20 places late.
            order.insert((number * 7 + number % 20 * 7) ^ 1);
        }
        let bytes = order.allocated() as u64;
        assert!(bytes < order.len() as u64 * 11, "{bytes} bytes for {}", order.len());
    }
}
