//! How the holes of a watermark are bounded: they are joined, and never refused.

use crate::time::TimeRange;

/// Most holes that a watermark is given, beside the one over all of time.
pub const HOLES_MAX: usize = 64;

/// Joins holes that touch; where more than [`HOLES_MAX`] are left the oldest grow together. What was
/// in a hole before is in one afterwards. The hole over all of time stays beside the others, since
/// it is lifted one day and they are not.
pub fn join_holes(holes: &mut Vec<TimeRange>) {
    let count = holes.len();
    holes.retain(|hole| *hole != TimeRange::ALL);
    let is_over_all = holes.len() < count;
    holes.sort_unstable_by_key(|hole| (hole.start, hole.end));
    holes.dedup_by(|hole, before| {
        let is_joined = hole.start <= before.end;
        if is_joined {
            before.end = before.end.max(hole.end);
        }
        is_joined
    });
    let extra = holes.len().saturating_sub(HOLES_MAX);
    let start = holes.first().map(|first| first.start);
    holes.drain(..extra);
    if let (Some(oldest), Some(start)) = (holes.first_mut(), start) {
        oldest.start = start;
    }
    if is_over_all {
        holes.insert(0, TimeRange::ALL);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::UnixNanos;

    fn hole(start: u64, end: u64) -> TimeRange {
        TimeRange { start: UnixNanos(start), end: UnixNanos(end) }
    }

    #[test]
    fn holes_that_touch_are_one_and_the_one_over_all_of_time_stays_beside_them() {
        let mut holes = vec![hole(7, 9), TimeRange::ALL, hole(1, 3), hole(3, 4), hole(8, 12)];
        join_holes(&mut holes);
        assert_eq!(holes, [TimeRange::ALL, hole(1, 4), hole(7, 12)]);
    }

    #[test]
    fn of_many_the_oldest_grow_together() {
        let mut holes: Vec<_> = (0..5_000).map(|place| hole(place * 10, place * 10 + 1)).collect();
        join_holes(&mut holes);
        assert_eq!(holes.len(), HOLES_MAX);
        assert_eq!((holes[0], holes[1]), (hole(0, 49_361), hole(49_370, 49_371)));
    }

    proptest! {
        #[test]
        fn what_was_in_a_hole_stays_in_one(
            ranges in proptest::collection::vec((0_u64..2_000, 0_u64..9), 0..200)
        ) {
            let before: Vec<_> =
                ranges.into_iter().map(|(start, length)| hole(start, start + length)).collect();
            let mut joined = before.clone();
            join_holes(&mut joined);
            prop_assert!(joined.len() <= HOLES_MAX);
            for held in before {
                let within = |hole: &TimeRange| hole.start <= held.start && held.end <= hole.end;
                prop_assert!(joined.iter().any(within));
            }
            let again = joined.clone();
            join_holes(&mut joined);
            prop_assert_eq!(joined, again);
        }
    }
}
