//! A cell whose traces are spread: one may have records in several partitions. What is remembered
//! between records then has to wait for the partition that is read last, and partitions are to be read
//! at about the same time of the log.
//!
//! It must never take a partition to be further than it is: whatever was appended within a window before
//! a record that is still to be read has to be remembered when that comes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use span_log::port::METRICS_AGGREGATOR;
use span_log::{LogEnd, LogError, LostCause, LostRun, MissedRun, SpanLog};
use trace_model::{LogRange, UnixNanos};

/// A partition that can be read is left behind by less than this time of the log. Small beside the
/// windows in which traces and requests are remembered, so that holding them costs little more.
const LEAD_MAX_NANOS: u64 = 15_000_000_000;
/// What had to be forgotten is told up to the end of such a while: each word of it is a write.
const TOLD_NANOS: u64 = 60_000_000_000;

/// What is known of a partition without asking anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionEnd {
    /// Where it ends, and since when whatever comes next was appended.
    pub end: LogEnd,
    /// Whoever keeps it does not answer: what it has cannot be read now.
    pub is_away: bool,
    /// Nothing of it comes any more.
    pub is_retired: bool,
}

/// The ends of the partitions over which traces are spread.
#[async_trait]
pub trait LogEnds: Send + Sync + fmt::Debug {
    /// What is known of one; `None` where nothing is.
    fn end_of(&self, partition: u32) -> Option<PartitionEnd>;

    /// Tells those who answer that counts may be short: durable when it returns.
    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError>;
}

/// Those of a span log.
#[derive(Clone, Debug)]
pub struct EndsOf(pub Arc<dyn SpanLog>);

#[async_trait]
impl LogEnds for EndsOf {
    fn end_of(&self, partition: u32) -> Option<PartitionEnd> {
        let end = self.0.end(partition).ok()?;
        let is_away = self.0.is_away(partition);
        Some(PartitionEnd { end, is_away, is_retired: self.0.is_retired(partition) })
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.0.note_missed(missed).await
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Where it is read on.
    next: u64,
    /// Whatever is not read yet was appended then or later.
    since: UnixNanos,
    has_more: bool,
    is_away: bool,
    is_retired: bool,
}

/// How far apart the partitions are read.
#[derive(Debug)]
pub(crate) struct Pace {
    ends: Arc<dyn LogEnds>,
    places: BTreeMap<u32, Place>,
}

impl Pace {
    pub(crate) fn new(ends: Arc<dyn LogEnds>, partitions: u32) -> Self {
        let places = (0..partitions).map(|partition| (partition, Place::default())).collect();
        Self { ends, places }
    }

    /// Looks where the partitions end. `position` gives where one is read on, and a time before which
    /// nothing from there on was appended.
    pub(crate) fn look(&mut self, position: impl Fn(u32) -> (u64, UnixNanos)) {
        for (partition, place) in &mut self.places {
            let (next, since) = position(*partition);
            place.next = next;
            place.since = place.since.max(since);
            let Some(known) = self.ends.end_of(*partition) else {
                place.has_more = false;
                continue;
            };
            let is_at_end = next >= known.end.next;
            if is_at_end {
                place.since = place.since.max(known.end.append_time);
            }
            (place.is_away, place.is_retired) = (known.is_away, known.is_retired);
            place.has_more = !is_at_end && !known.is_away && !known.is_retired;
        }
    }

    /// Whether whoever keeps the partition did not answer when it was looked for.
    pub(crate) fn is_away(&self, partition: u32) -> bool {
        self.places.get(&partition).is_some_and(|place| place.is_away)
    }

    /// The next record of a partition was appended at this time.
    pub(crate) fn comes(&mut self, partition: u32, append_time: UnixNanos) {
        let place = self.places.entry(partition).or_default();
        place.since = place.since.max(append_time);
    }

    /// Whatever is not read yet, of any partition, was appended then or later.
    pub(crate) fn floor(&self) -> UnixNanos {
        let open = self.places.values().filter(|place| !place.is_retired);
        open.map(|place| place.since).min().unwrap_or(UnixNanos(0))
    }

    /// What counts may lack where records that were appended up to a time had to be forgotten before a
    /// partition that is silent has shown what it has from the floor on.
    pub(crate) fn forgotten(&self, incarnation: u64, until: UnixNanos) -> Option<MissedRun> {
        let floor = self.floor();
        if until.since(floor) <= LEAD_MAX_NANOS {
            return None;
        }
        let mut open = self.places.iter().filter(|(_, place)| !place.is_retired);
        let (partition, place) = open.find(|(_, place)| place.since == floor)?;
        let range =
            LogRange { partition: *partition, first: place.next, next: place.next.checked_add(1)? };
        let until = UnixNanos(until.0.div_ceil(TOLD_NANOS).saturating_mul(TOLD_NANOS));
        let (append_times, cause) = ((floor, until), LostCause::Dropped);
        let run = LostRun { incarnation, range, append_times, cause };
        Some(MissedRun { group: METRICS_AGGREGATOR, run })
    }

    pub(crate) async fn tell(&self, missed: MissedRun) -> Result<(), LogError> {
        self.ends.note_missed(missed).await
    }

    /// Another partition that has to be read before a record of this one that was appended then.
    pub(crate) fn left_behind(&self, partition: u32, append_time: UnixNanos) -> Option<u32> {
        let is_behind =
            |place: &Place| place.has_more && append_time.since(place.since) > LEAD_MAX_NANOS;
        let mut others = self.places.iter().filter(|(other, _)| **other != partition);
        others.find(|(_, place)| is_behind(place)).map(|(other, _)| *other)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ends as a test says them.
    #[derive(Debug, Default)]
    pub(crate) struct FakeEnds {
        ends: Mutex<BTreeMap<u32, PartitionEnd>>,
        pub(crate) missed: Mutex<Vec<MissedRun>>,
    }

    impl FakeEnds {
        pub(crate) fn says(&self, partition: u32, next: u64, append_time: UnixNanos) {
            let end = LogEnd { next, append_time, first: 0 };
            let end = PartitionEnd { end, is_away: false, is_retired: false };
            self.ends.lock().unwrap().insert(partition, end);
        }

        pub(crate) fn change(&self, partition: u32, change: impl FnOnce(&mut PartitionEnd)) {
            change(self.ends.lock().unwrap().get_mut(&partition).unwrap());
        }
    }

    #[async_trait]
    impl LogEnds for FakeEnds {
        fn end_of(&self, partition: u32) -> Option<PartitionEnd> {
            self.ends.lock().unwrap().get(&partition).copied()
        }

        async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
            self.missed.lock().unwrap().push(missed);
            Ok(())
        }
    }

    const fn at(second: u64) -> UnixNanos {
        UnixNanos(second * SECOND)
    }

    #[test]
    fn what_is_remembered_waits_for_the_partition_that_is_read_last_and_for_one_that_is_silent() {
        let ends = Arc::new(FakeEnds::default());
        let mut pace = Pace::new(Arc::clone(&ends) as _, 2);
        ends.says(0, 10, at(100));
        ends.says(1, 4, at(100));
        pace.look(|_| (4, at(20)));
        assert_eq!(pace.floor(), at(20), "of the first there is more, from then on");
        pace.comes(0, at(60));
        assert_eq!(pace.floor(), at(60));
        pace.look(|_| (10, at(60)));
        assert_eq!(pace.floor(), at(100));
        ends.says(0, 10, at(900));
        ends.change(1, |end| end.is_away = true);
        pace.look(|_| (10, at(60)));
        assert_eq!(pace.floor(), at(100), "it may have taken something before it fell silent");
        ends.change(1, |end| end.is_retired = true);
        pace.look(|_| (10, at(60)));
        assert_eq!(pace.floor(), at(900));
    }

    #[test]
    fn a_partition_that_can_be_read_is_left_behind_by_little_and_one_that_cannot_holds_nobody() {
        let ends = Arc::new(FakeEnds::default());
        let mut pace = Pace::new(Arc::clone(&ends) as _, 2);
        ends.says(0, 10, at(500));
        ends.says(1, 10, at(500));
        pace.look(|_| (4, at(100)));
        assert_eq!(pace.left_behind(0, at(115)), None);
        assert_eq!(pace.left_behind(0, at(116)), Some(1));
        // Both have a gap: who comes first is known when both have shown what is next.
        pace.comes(0, at(300));
        assert_eq!(pace.left_behind(1, at(310)), None);
        assert_eq!(pace.left_behind(1, at(316)), Some(0));
        ends.change(1, |end| end.is_away = true);
        pace.look(|_| (4, at(100)));
        assert_eq!(pace.left_behind(0, at(400)), None);
    }
}
