//! Rows by the minute of their last append, region by region: the grain in which they are let go.

use std::collections::BTreeMap;

use trace_model::UnixNanos;

/// Nanoseconds of a group.
const MINUTE_NANOS: u64 = 60_000_000_000;

/// The minute of a time.
pub(super) const fn minute_of(time: UnixNanos) -> u64 {
    time.0 / MINUTE_NANOS
}

/// Numbers of rows by the minute in which they came. A row that came again is in its former minutes
/// as well: who takes a number out looks whether its row is still of that minute.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    regions: Vec<BTreeMap<u64, Vec<u32>>>,
    bytes: usize,
}

impl Arrivals {
    pub(super) fn push(&mut self, region: u32, minute: u64, id: u32) {
        let region = region as usize;
        while self.regions.len() <= region {
            self.regions.push(BTreeMap::new());
        }
        let Some(minutes) = self.regions.get_mut(region) else { return };
        let ids = minutes.entry(minute).or_default();
        let before = ids.capacity();
        ids.push(id);
        let grown = ids.capacity().saturating_sub(before).saturating_mul(4);
        self.bytes = self.bytes.saturating_add(grown);
    }

    /// The first minute of a region.
    pub(super) fn first_minute(&self, region: u32) -> Option<u64> {
        self.regions.get(region as usize)?.first_key_value().map(|(minute, _)| *minute)
    }

    /// The region with the first minute of all.
    pub(super) fn oldest(&self) -> Option<(u64, u32)> {
        let regions = (0..).zip(&self.regions);
        regions.filter_map(|(region, _)| Some((self.first_minute(region)?, region))).min()
    }

    /// Takes a number out of a region's first minute.
    pub(super) fn pop(&mut self, region: u32) -> Option<u32> {
        let mut first = self.regions.get_mut(region as usize)?.first_entry()?;
        let id = first.get_mut().pop();
        if first.get().is_empty() {
            let freed = first.remove().capacity().saturating_mul(4);
            self.bytes = self.bytes.saturating_sub(freed);
        }
        id
    }

    /// Bytes held, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
