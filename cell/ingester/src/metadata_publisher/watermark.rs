//! How far each partition is published, and the watermark that says so.

use std::collections::BTreeMap;
use std::time::Duration;

use span_log::DamagedRange;
use trace_model::{Coverage, Region, TimeRange, UnixNanos, Watermark, join_holes};

use super::{PublisherError, SpanLogState};

/// The hole of a region that withholds: nothing is ever proven absent.
const UNPROVABLE: TimeRange = TimeRange::ALL;

#[derive(Debug)]
struct Partition {
    /// Next offset to fold.
    next: u64,
    /// Append time of the last record folded.
    appended: UnixNanos,
    /// Records folded and not published: the first of each trace, with its append time.
    held: BTreeMap<u64, UnixNanos>,
}

/// The publisher's place in the span log.
#[derive(Debug)]
pub(super) struct Progress {
    region: Region,
    incarnation: u64,
    partitions: BTreeMap<u32, Partition>,
    as_of: UnixNanos,
    holes: Vec<TimeRange>,
    may_withhold: bool,
    /// What was appended last, and when.
    appended: Option<(Watermark, Duration)>,
    /// What is taken as published while its append is under way.
    released: BTreeMap<(u32, u64), UnixNanos>,
    /// Skipped records whose hole no appended watermark shows yet.
    unshown: Vec<(u32, u64)>,
}

impl Progress {
    pub(super) fn resume(
        region: &Region,
        source: &SpanLogState,
        published: Option<&Watermark>,
        may_withhold: bool,
    ) -> Result<Self, PublisherError> {
        let incarnation = source.identity.incarnation;
        let same = published.filter(|published| published.incarnation == incarnation);
        let as_of = published.map_or(UnixNanos(0), |published| published.as_of);
        let mut partitions = BTreeMap::new();
        for (partition, end) in &source.ends {
            let next = same.and_then(|same| same.next.get(partition)).copied().unwrap_or(0);
            if next > *end {
                let (partition, end) = (*partition, *end);
                return Err(PublisherError::LogWentBack { partition, end, published: next });
            }
            // The records from `next` on may have been appended at `as_of.plus(1)` at the earliest.
            let state = Partition { next: 0, appended: as_of.plus(1), held: BTreeMap::new() };
            partitions.insert(*partition, Partition { next, ..state });
        }
        let mut progress = Self {
            region: region.clone(),
            incarnation,
            partitions,
            as_of,
            holes: Vec::new(),
            may_withhold,
            appended: None,
            released: BTreeMap::new(),
            unshown: Vec::new(),
        };
        match published {
            Some(published) => progress.take_over_holes(published),
            None => progress.note_lost(source),
        }
        Ok(progress)
    }

    /// Holes stay. What a policy withheld until now was never published: a hole up to here. A log
    /// that was replaced may have lost what it had not published: a hole up to the new one's birth.
    fn take_over_holes(&mut self, published: &Watermark) {
        for hole in &published.holes {
            let end = if *hole == UNPROVABLE { self.as_of.plus(1) } else { hole.end };
            self.holes.push(TimeRange { start: hole.start, end });
        }
        join_holes(&mut self.holes);
        if published.incarnation != self.incarnation {
            let born = UnixNanos::from_millis(self.incarnation);
            let end = born.max(self.as_of.plus(1));
            self.add_hole(TimeRange { start: published.as_of, end });
        }
    }

    /// The group reads on from its commit. Where nothing is published at all, the origin log has lost
    /// what it held (a lost disk): a hole from the beginning up to now. A log that holds a watermark
    /// is believed: commits may run ahead of it for a moment (repeats), and a hole at every crash
    /// would prove nothing for ever. Where it is known to have lost something, the same is said from
    /// the watermark on.
    pub(super) fn note_lost(&mut self, source: &SpanLogState) {
        let mut committed = source.committed.iter();
        if committed.any(|(partition, committed)| *committed > self.next(*partition)) {
            self.add_hole(TimeRange { start: self.as_of, end: source.end_time.plus(1) });
        }
    }

    /// What was published of this time is lost.
    pub(super) fn note_hole(&mut self, start: UnixNanos, until: UnixNanos) {
        self.add_hole(TimeRange { start, end: until.max(start).plus(1) });
    }

    fn add_hole(&mut self, hole: TimeRange) {
        self.holes.push(hole);
        join_holes(&mut self.holes);
    }

    /// Next offset of the partition to fold.
    pub(super) fn next(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |state| state.next)
    }

    /// The same, and a time before which nothing from there on was appended.
    pub(super) fn place(&self, partition: u32) -> (u64, UnixNanos) {
        let state = self.partitions.get(&partition);
        state.map_or_else(Default::default, |state| (state.next, state.appended))
    }

    /// One more than the highest partition known.
    pub(super) fn partitions(&self) -> u32 {
        self.partitions.last_key_value().map_or(0, |(last, _)| last.saturating_add(1))
    }

    fn partition(&mut self, partition: u32) -> &mut Partition {
        let appended = self.as_of.plus(1);
        let new = || Partition { next: 0, appended, held: BTreeMap::new() };
        self.partitions.entry(partition).or_insert_with(new)
    }

    /// Everything below `next` is folded.
    pub(super) fn advance(&mut self, partition: u32, next: u64, appended: UnixNanos) {
        let state = self.partition(partition);
        state.next = state.next.max(next);
        state.appended = state.appended.max(appended);
    }

    /// A record is folded and not published.
    pub(super) fn hold(&mut self, partition: u32, offset: u64, appended: UnixNanos) {
        self.partition(partition).held.insert(offset, appended);
    }

    /// A record's contribution is about to be appended.
    pub(super) fn release(&mut self, partition: u32, offset: u64) {
        if let Some(appended) = self.partition(partition).held.remove(&offset) {
            self.released.insert((partition, offset), appended);
        }
    }

    /// It was not appended after all.
    pub(super) fn hold_again(&mut self, partition: u32, offset: u64) {
        if let Some(appended) = self.released.remove(&(partition, offset)) {
            self.hold(partition, offset, appended);
        }
    }

    /// It was, or all that was not is held again.
    pub(super) fn forget_released(&mut self) {
        self.released.clear();
    }

    /// Records will not come: a hole, behind which the group is durable when a watermark shows it.
    /// What was published before they were lost is no hole.
    pub(super) fn skip(&mut self, damaged: &DamagedRange) {
        let (first, last) = damaged.append_times;
        let partition = damaged.range.partition;
        if damaged.range.next <= self.next(partition) {
            return;
        }
        let offset = damaged.range.first.max(self.next(partition));
        // Times of two clocks may be in no order, and a hole has to have one.
        self.add_hole(TimeRange { start: first.min(last), end: last.plus(1) });
        self.advance(partition, damaged.range.next, first);
        self.unshown.push((partition, offset));
    }

    /// The watermark to append now; `None` where the last one says the same, or was appended less
    /// than `every` ago and nothing new must be shown.
    pub(super) fn watermark(
        &self,
        log_end: Option<UnixNanos>,
        now: Duration,
        every: Duration,
    ) -> Option<Watermark> {
        let mut holes = self.holes.clone();
        if self.may_withhold {
            holes.insert(0, UNPROVABLE);
        }
        let watermark = Watermark {
            region: self.region.clone(),
            incarnation: self.incarnation,
            as_of: self.as_of.max(self.bound(log_end)),
            next: self.partitions.iter().map(|(id, state)| (*id, state.published())).collect(),
            holes,
        };
        let Some((last, at)) = &self.appended else { return Some(watermark) };
        let is_due = !self.unshown.is_empty()
            || last.holes != watermark.holes
            || at.saturating_add(every) <= now;
        (is_due && *last != watermark).then_some(watermark)
    }

    /// Up to which append time everything of every partition is published.
    fn bound(&self, log_end: Option<UnixNanos>) -> UnixNanos {
        let bounds = self.partitions.values().map(|state| match state.held.first_key_value() {
            Some((_, appended)) => appended.minus(1),
            // The next record may be appended at the same time as the last one, or at the end.
            None => state.appended.max(log_end.unwrap_or_default()).minus(1),
        });
        bounds.min().unwrap_or(self.as_of)
    }

    /// A watermark is durable.
    pub(super) fn note_appended(&mut self, watermark: Watermark, now: Duration) {
        self.as_of = watermark.as_of;
        self.appended = Some((watermark, now));
        self.unshown.clear();
    }

    /// How far everything is durable.
    pub(super) fn durable(&self) -> Coverage {
        let mut next: BTreeMap<u32, u64> =
            self.partitions.iter().map(|(id, state)| (*id, state.published())).collect();
        let pending = self.released.keys().chain(&self.unshown);
        for (partition, offset) in pending {
            next.entry(*partition).and_modify(|next| *next = (*offset).min(*next));
        }
        Coverage { next, ..Coverage::none(self.incarnation) }
    }
}

impl Partition {
    fn published(&self) -> u64 {
        self.held.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }
}
