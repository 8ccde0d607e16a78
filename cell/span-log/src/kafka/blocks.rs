//! Records that were read last, decoded once for all who read at the same place. Bounded in bytes;
//! the oldest entry goes first. Pure.

use std::collections::{BTreeMap, VecDeque};

use proto::{LoggedBatch, SpanBatch};
use trace_model::{LogRange, TenantId, TraceId};

use crate::port::DamagedRange;

/// One or more records of a partition as they were read.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A record.
    Batch(LoggedBatch),
    /// Records that cannot be read: rare, and apart, so that a place of a batch is not of their size.
    Damaged(Box<DamagedRange>, Loss),
}

/// Whose spans a damaged range may have held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nobody's: its key names no trace, so another program wrote it.
    Foreign,
    /// This trace's.
    OfTrace(TenantId, TraceId),
    /// Anybody's.
    Unknown,
}

impl Item {
    pub(crate) const fn range(&self) -> LogRange {
        match self {
            Self::Batch(logged) => logged.range,
            Self::Damaged(damaged, _) => damaged.range,
        }
    }

    /// Memory of an item, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Batch(logged) => weight(&logged.batch),
            Self::Damaged(..) => 512,
        }
    }
}

/// Memory of a batch, about: its bytes and its tables.
pub(crate) fn weight(batch: &SpanBatch) -> usize {
    let spans = size_of_val(batch.spans());
    let traces = size_of_val(batch.traces());
    batch.encoded().len() + spans + traces + batch.contexts().len() * 160 + 384
}

/// Items of all partitions.
#[derive(Debug)]
pub(crate) struct Blocks {
    partitions: Vec<BTreeMap<u64, Item>>,
    order: VecDeque<(u32, u64)>,
    bytes: usize,
    bytes_max: usize,
}

impl Blocks {
    pub(crate) fn new(partitions: u32, bytes_max: usize) -> Self {
        let partitions = (0..partitions).map(|_| BTreeMap::new()).collect();
        Self { partitions, order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps an item, unless one is kept there already.
    pub(crate) fn insert(&mut self, item: Item) {
        let LogRange { partition, first, .. } = item.range();
        let weight = item.weight();
        let Some(items) = self.partitions.get_mut(partition as usize) else { return };
        if weight > self.bytes_max || items.contains_key(&first) {
            return;
        }
        items.insert(first, item);
        self.order.push_back((partition, first));
        self.bytes = self.bytes.saturating_add(weight);
        while self.bytes > self.bytes_max {
            let Some((partition, first)) = self.order.pop_front() else { return };
            let items = self.partitions.get_mut(partition as usize);
            if let Some(gone) = items.and_then(|items| items.remove(&first)) {
                self.bytes = self.bytes.saturating_sub(gone.weight());
            }
        }
    }

    /// The items from this offset on, without a gap, up to about so many encoded bytes.
    pub(crate) fn run_from(&self, partition: u32, from: u64, bytes_max: usize) -> Vec<Item> {
        let mut run = Vec::new();
        let mut bytes = 0_usize;
        let Some(items) = self.partitions.get(partition as usize) else { return run };
        let Some((start, _)) = items.range(..=from).next_back() else { return run };
        let mut expected = None;
        for (first, item) in items.range(start..) {
            let range = item.range();
            let is_next = expected.map_or(from < range.next, |next| next == *first);
            if !is_next || (bytes >= bytes_max && !run.is_empty()) {
                break;
            }
            bytes = bytes.saturating_add(item.weight());
            expected = Some(range.next);
            run.push(item.clone());
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use trace_model::UnixNanos;

    use super::*;

    fn item(partition: u32, first: u64, next: u64) -> Item {
        let range = LogRange { partition, first, next };
        let append_times = (UnixNanos(0), UnixNanos(0));
        Item::Damaged(
            Box::new(DamagedRange { range, append_times, reason: String::new(), stranger: None }),
            Loss::Unknown,
        )
    }

    fn firsts(run: &[Item]) -> Vec<u64> {
        run.iter().map(|item| item.range().first).collect()
    }

    #[test]
    fn a_run_ends_at_the_first_gap_and_may_start_inside_an_item() {
        let mut blocks = Blocks::new(2, 1 << 20);
        for (first, next) in [(0, 1), (1, 4), (4, 5), (9, 10)] {
            blocks.insert(item(1, first, next));
        }
        assert_eq!(firsts(&blocks.run_from(1, 2, usize::MAX)), [1, 4]);
        assert_eq!(firsts(&blocks.run_from(1, 0, 1)), [0]);
        assert_eq!(firsts(&blocks.run_from(1, 5, usize::MAX)), [0_u64; 0]);
        assert_eq!(firsts(&blocks.run_from(1, 9, usize::MAX)), [9]);
        assert!(blocks.run_from(0, 0, usize::MAX).is_empty());
        assert!(blocks.run_from(7, 0, usize::MAX).is_empty());
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let mut blocks = Blocks::new(1, 512 * 3);
        for first in 0..10 {
            blocks.insert(item(0, first, first + 1));
            blocks.insert(item(0, first, first + 1));
        }
        assert_eq!(firsts(&blocks.run_from(0, 7, usize::MAX)), [7, 8, 9]);
        assert!(blocks.run_from(0, 6, usize::MAX).is_empty());
        assert_eq!(blocks.bytes, 512 * 3);
    }
}
