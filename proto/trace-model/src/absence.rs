//! What a region's state in the index proves about a trace that the index does not show there.
//!
//! Absence is a claim: it is made only up to a watermark, outside of its holes, and for times whose
//! rows are all still held. Everything here is pure; whoever answers "not there" judges by it.

use crate::location::RegionState;
use crate::time::{AHEAD_NANOS_MAX, TimeRange, UnixNanos};

/// Which rows of a region an index has let go of: append times up to which rows may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Forgotten {
    /// Rows whose last append lies at or before this may have passed the region's own retention: it
    /// lets go of their spans as well.
    pub expired_until: Option<UnixNanos>,
    /// Rows whose last append lies at or before this may have been let go by a limit of the index
    /// (its room, a shorter retention): the region may still hold their spans.
    pub evicted_until: Option<UnixNanos>,
}

impl Forgotten {
    /// The latest append of a row that may be missing, whatever took it.
    #[must_use]
    pub fn until(self) -> Option<UnixNanos> {
        self.expired_until.max(self.evicted_until)
    }

    /// What two holders together have let go of.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            expired_until: self.expired_until.max(other.expired_until),
            evicted_until: self.evicted_until.max(other.evicted_until),
        }
    }

    /// The hole that rows up to this time leave in a watermark.
    fn hole_until(until: UnixNanos) -> TimeRange {
        TimeRange { start: UnixNanos(0), end: until.plus(1) }
    }
}

/// What is known of a trace that is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// Its earliest start, by what all regions with a part of it say; `None` where one withholds
    /// its own, or where nothing is known.
    pub began: Option<UnixNanos>,
    /// When a record of it was last appended, in any region; `None` where nothing is known.
    pub newest: Option<UnixNanos>,
}

impl Sought {
    /// A trace of which nothing is known.
    pub const UNKNOWN: Self = Self { began: None, newest: None };

    /// The earliest append time of a record of it: no sender's clock is believed more than a day
    /// ahead (`time::place`), so none was appended earlier than a day before the trace began.
    fn first_append(self) -> UnixNanos {
        self.began.map_or(UnixNanos(0), |began| began.minus(AHEAD_NANOS_MAX))
    }
}

/// Whether a region that the index does not show for a trace may hold a part of it after all, and
/// why. In the order of what is worse to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// It holds none of it, as of its watermark.
    Proven,
    /// Its watermark lies before the trace's newest record: its part may be on the way.
    Behind,
    /// Its part, if it had one, may have passed its retention.
    Expired,
    /// The index has let go of rows of that time, and the region may still hold the spans.
    Evicted,
    /// Records of that time were lost before they were published.
    Hole,
    /// It has not published anything yet.
    Unpublished,
}

impl Absence {
    /// Whether nothing of the trace can be there, as of the watermark.
    #[must_use]
    pub fn is_proven(self) -> bool {
        self == Self::Proven
    }
}

impl RegionState {
    /// Judges a trace that the index does not show in this region. Of several reasons for doubt the
    /// worst is given.
    #[must_use]
    pub fn judge_absence(&self, sought: &Sought) -> Absence {
        let Some(watermark) = &self.watermark else { return Absence::Unpublished };
        let first = sought.first_append();
        let mut worst = Absence::Proven;
        if sought.newest.is_some_and(|newest| watermark.as_of < newest) {
            worst = Absence::Behind;
        }
        let hides = |until: Option<UnixNanos>| until.is_some_and(|until| until >= first);
        if hides(self.forgotten.expired_until) {
            worst = worst.max(Absence::Expired);
        }
        if hides(self.forgotten.evicted_until) {
            worst = worst.max(Absence::Evicted);
        }
        for hole in watermark.holes.iter().filter(|hole| hole.end > first) {
            worst = worst.max(self.cause_of(hole));
        }
        worst
    }

    /// Shows what was forgotten as a hole of the watermark, for readers who look at holes alone.
    pub fn show_forgotten(&mut self) {
        let (until, watermark) = (self.forgotten.until(), self.watermark.as_mut());
        let (Some(until), Some(watermark)) = (until, watermark) else { return };
        let hole = Forgotten::hole_until(until);
        if !watermark.holes.contains(&hole) {
            watermark.holes.insert(0, hole);
        }
    }

    /// A hole below what has expired hides nothing that would still be there.
    fn cause_of(&self, hole: &TimeRange) -> Absence {
        let lies_below =
            |until: Option<UnixNanos>| until.is_some_and(|until| hole.end <= until.plus(1));
        if lies_below(self.forgotten.expired_until) {
            return Absence::Expired;
        }
        let is_evicted = self.forgotten.evicted_until.map(Forgotten::hole_until) == Some(*hole);
        if is_evicted { Absence::Evicted } else { Absence::Hole }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::location::Watermark;
    use crate::names::Region;

    /// Times of these tests: small numbers above a day, so that the clocks' margin matters.
    const DAY: u64 = AHEAD_NANOS_MAX;

    fn state(as_of: u64, holes: Vec<TimeRange>, forgotten: Forgotten) -> RegionState {
        let region = Region::new("eu-west-1").unwrap();
        RegionState {
            watermark: Some(Watermark {
                region: region.clone(),
                incarnation: 1,
                as_of: UnixNanos(as_of),
                next: BTreeMap::new(),
                holes,
            }),
            region,
            cursor: None,
            silent: Duration::ZERO,
            is_connected: true,
            lag_records: 0,
            lag: Duration::ZERO,
            retention: None,
            kept_for: Duration::ZERO,
            forgotten,
            rows_without_detail: 0,
            is_refused: false,
        }
    }

    fn time() -> impl Strategy<Value = u64> {
        (0_u64..6, 0_u64..40).prop_map(|(days, step)| days * DAY / 2 + step)
    }

    fn hole() -> impl Strategy<Value = TimeRange> {
        (time(), time()).prop_map(|(one, two)| TimeRange {
            start: UnixNanos(one.min(two)),
            end: UnixNanos(one.max(two)),
        })
    }

    fn forgotten() -> impl Strategy<Value = Forgotten> {
        let mark = || proptest::option::of(time().prop_map(UnixNanos));
        (mark(), mark())
            .prop_map(|(expired_until, evicted_until)| Forgotten { expired_until, evicted_until })
    }

    /// One row of a region: its records' append times, and the earliest start among its spans, at
    /// most a day ahead of their appends.
    #[derive(Clone, Debug)]
    struct Row {
        appends: Vec<u64>,
        start: u64,
    }

    fn row() -> impl Strategy<Value = Row> {
        (vec(time(), 1..4), 0..=DAY, any::<bool>()).prop_map(|(appends, ahead, is_backfill)| {
            let first = appends.iter().copied().min().unwrap_or(0);
            let start = if is_backfill { first / 2 } else { first.saturating_add(ahead) };
            Row { appends, start }
        })
    }

    impl Row {
        /// Whether an index with this state shows the row: some record of it was published by the
        /// watermark, and the row was not let go of.
        fn is_shown(&self, state: &RegionState) -> bool {
            let watermark = state.watermark.as_ref().unwrap();
            let is_published = |append: &&u64| {
                let append = UnixNanos(**append);
                append <= watermark.as_of
                    && !watermark.holes.iter().any(|hole| hole.contains(append))
            };
            let last = self.appends.iter().filter(is_published).max();
            last.is_some_and(|last| Some(UnixNanos(*last)) > state.forgotten.until())
        }
    }

    proptest! {
        #[test]
        fn a_proven_absence_is_true_up_to_the_watermark(
            as_of in time(), holes in vec(hole(), 0..3), forgotten in forgotten(), row in row(),
            other_start in proptest::option::of(time()), knows_newest in any::<bool>()
        ) {
            let state = state(as_of, holes, forgotten);
            prop_assume!(!row.is_shown(&state));
            // Other regions tell when the trace began and when it was last written; this region's
            // own part may have begun later.
            let sought = Sought {
                began: other_start.map(|other| UnixNanos(other.min(row.start))),
                newest: knows_newest.then(|| UnixNanos(row.appends.iter().copied().max().unwrap())),
            };
            if state.judge_absence(&sought).is_proven() {
                prop_assert!(row.appends.iter().all(|append| *append > as_of), "{row:?}");
                prop_assert!(!knows_newest, "its newest record lies behind the watermark");
            }
        }

        #[test]
        fn showing_what_was_forgotten_as_a_hole_changes_no_judgement(
            as_of in time(), holes in vec(hole(), 0..3), forgotten in forgotten(),
            began in proptest::option::of(time()), newest in proptest::option::of(time())
        ) {
            let plain = state(as_of, holes, forgotten);
            let mut shown = plain.clone();
            shown.show_forgotten();
            let sought = Sought { began: began.map(UnixNanos), newest: newest.map(UnixNanos) };
            prop_assert_eq!(shown.judge_absence(&sought), plain.judge_absence(&sought));
            let by_holes = RegionState { forgotten: Forgotten::default(), ..shown.clone() };
            prop_assert_eq!(
                by_holes.judge_absence(&sought).is_proven(),
                plain.judge_absence(&sought).is_proven()
            );
            let before = shown.clone();
            shown.show_forgotten();
            prop_assert_eq!(shown, before, "shown twice is shown once");
        }

        #[test]
        fn more_doubt_never_becomes_a_proof(
            as_of in time(), holes in vec(hole(), 0..3), more in hole(), forgotten in forgotten(),
            also in forgotten(), began in proptest::option::of(time())
        ) {
            let sought = Sought { began: began.map(UnixNanos), newest: None };
            let before = state(as_of, holes.clone(), forgotten);
            if !before.judge_absence(&sought).is_proven() {
                let mut holes = holes;
                holes.push(more);
                let after = state(as_of, holes, forgotten.join(also));
                prop_assert!(!after.judge_absence(&sought).is_proven());
                prop_assert!(!before.judge_absence(&Sought::UNKNOWN).is_proven());
            }
        }
    }

    #[test]
    fn each_doubt_is_told_by_its_cause_and_the_worst_one_wins() {
        let whole = |until: u64| TimeRange { start: UnixNanos(0), end: UnixNanos(until) };
        let sought =
            Sought { began: Some(UnixNanos(3 * DAY)), newest: Some(UnixNanos(3 * DAY + 9)) };
        let expired =
            |until| Forgotten { expired_until: Some(UnixNanos(until)), evicted_until: None };
        let evicted =
            |until| Forgotten { expired_until: None, evicted_until: Some(UnixNanos(until)) };
        let none = Forgotten::default();
        for (as_of, holes, forgotten, judged) in [
            (4 * DAY, vec![], none, Absence::Proven),
            (3 * DAY + 8, vec![], none, Absence::Behind),
            (4 * DAY, vec![], expired(2 * DAY), Absence::Expired),
            (4 * DAY, vec![], expired(2 * DAY - 1), Absence::Proven),
            (4 * DAY, vec![], evicted(3 * DAY), Absence::Evicted),
            (4 * DAY, vec![], expired(3 * DAY).join(evicted(3 * DAY)), Absence::Evicted),
            (4 * DAY, vec![whole(2 * DAY)], none, Absence::Proven),
            (4 * DAY, vec![whole(2 * DAY + 1)], none, Absence::Hole),
            (3 * DAY, vec![whole(2 * DAY + 1)], evicted(3 * DAY), Absence::Hole),
            (4 * DAY, vec![whole(2 * DAY + 1)], expired(3 * DAY), Absence::Expired),
            (4 * DAY, vec![whole(u64::MAX)], expired(3 * DAY), Absence::Hole),
        ] {
            let state = state(as_of, holes.clone(), forgotten);
            assert_eq!(state.judge_absence(&sought), judged, "{as_of} {holes:?} {forgotten:?}");
        }
        let silent = RegionState { watermark: None, ..state(0, vec![], none) };
        assert_eq!(silent.judge_absence(&sought), Absence::Unpublished);
        assert_eq!(
            state(4 * DAY, vec![], expired(0)).judge_absence(&Sought::UNKNOWN),
            Absence::Expired,
            "of an unknown trace any row may have been one"
        );
    }
}
