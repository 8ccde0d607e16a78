//! Whether a topic is still the log that it was, and what a new incarnation takes over. Pure.

use std::collections::BTreeSet;

use trace_model::{LogRange, UnixNanos};

use super::group_offsets::Kept;
use super::identity_text::IdentityText;
use crate::port::{ForgetLost, LostCause, LostRun, Seen};

/// What the brokers' word amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log is the one that is kept.
    Same(Vec<IdentityText>),
    /// It is a new one.
    New(Change),
}

/// How a log is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The identity kept for partition 0 of the log before, where the topic still has it: then the
    /// offsets below the cut are the same.
    pub(crate) last: Option<IdentityText>,
    /// What was kept for the others.
    others: Vec<IdentityText>,
    /// Partitions that end before what was kept or seen.
    shrunk: Vec<u32>,
    /// The log that was seen is not the topic's.
    is_foreign: bool,
}

/// Judges what is kept against the ends that the brokers gave afterwards.
pub(crate) fn judge(kept: &[Option<Kept>], ends: &[u64], seen: &Seen) -> Verdict {
    let parsed = kept.iter().map(|kept| IdentityText::parse(&kept.as_ref()?.text));
    let parsed: Vec<Option<IdentityText>> = parsed.collect();
    let newest = parsed.iter().flatten().map(|text| text.incarnation).max();
    let Some(incarnation) = newest else {
        let (last, others, shrunk) = (None, Vec::new(), Vec::new());
        return Verdict::New(Change { last, others, shrunk, is_foreign: true });
    };
    let of_newest = |text: &IdentityText| text.incarnation == incarnation;
    let texts: Vec<IdentityText> =
        parsed.iter().flatten().filter(|text| of_newest(text)).cloned().collect();
    let partitions = u32::try_from(ends.len()).unwrap_or(u32::MAX);
    let has_shrunk = |partition: &u32| {
        let place = *partition as usize;
        let end = ends.get(place).copied().unwrap_or(0);
        let kept = kept.get(place).and_then(Option::as_ref).map_or(0, |kept| kept.offset);
        end < kept || end < seen.covered.next_in(incarnation, *partition)
    };
    let shrunk: Vec<u32> = (0..partitions).filter(has_shrunk).collect();
    let is_foreign = seen.covered.incarnation > incarnation;
    let is_whole = texts.len() == ends.len();
    // A trace lies in one partition within an incarnation: more partitions, another incarnation.
    let is_same_shape = texts.iter().all(|text| text.partitions == partitions);
    if shrunk.is_empty() && !is_foreign && is_whole && is_same_shape {
        return Verdict::Same(texts);
    }
    let mut texts = texts.into_iter();
    Verdict::New(Change { last: texts.next(), others: texts.collect(), shrunk, is_foreign })
}

/// The texts of the incarnation that follows, above all that were kept or seen.
pub(crate) fn succeed(
    change: &Change,
    ends: &[u64],
    seen: &Seen,
    now: UnixNanos,
) -> Vec<IdentityText> {
    let last = change.last.as_ref().map_or(0, |last| last.incarnation);
    let earlier = seen.covered.earlier.keys().next_back().copied().unwrap_or(0);
    let highest = last.max(seen.covered.incarnation).max(earlier);
    let incarnation = now.millis().max(highest.saturating_add(1));
    let partitions = u32::try_from(ends.len()).unwrap_or(u32::MAX);
    let forgotten = change.last.iter().chain(&change.others).filter_map(|one| one.forgotten_until);
    let forgotten_until = forgotten.max();
    let text = |cut: &u64| {
        let (cut, lost) = (*cut, Vec::new());
        IdentityText { incarnation, partitions, last, cut, forgotten_until, lost }
    };
    let mut texts: Vec<IdentityText> = ends.iter().map(text).collect();
    let kept = change.last.iter().chain(&change.others).flat_map(|text| text.lost.clone());
    for run in kept.chain(lost_with(change, ends, seen, now)) {
        // A partition that the topic no longer has is remembered with the first one.
        let place = Some(run.range.partition as usize).filter(|place| *place < texts.len());
        if let Some(text) = texts.get_mut(place.unwrap_or(0)) {
            text.lose(&run);
        }
    }
    texts
}

/// What is lost with the change: what no store has of the partitions that were cut, or of the log
/// that is gone.
fn lost_with(change: &Change, ends: &[u64], seen: &Seen, now: UnixNanos) -> Vec<LostRun> {
    let run = |cause, incarnation, partition: u32, kept_until: u64| {
        let first = seen.stored.next_in(incarnation, partition).max(kept_until);
        let is_unpublished = seen.covered.next_in(incarnation, partition) <= first;
        let from = if is_unpublished { seen.append_time } else { UnixNanos(0) };
        let range = LogRange { partition, first, next: u64::MAX };
        LostRun { incarnation, range, append_times: (from, now), cause }
    };
    let mut lost = Vec::new();
    if let Some(last) = &change.last {
        for partition in &change.shrunk {
            let end = ends.get(*partition as usize).copied().unwrap_or(0);
            lost.push(run(LostCause::WentBack, last.incarnation, *partition, end));
        }
    }
    let gone = seen.covered.incarnation;
    if change.is_foreign && gone > 0 {
        let known: BTreeSet<u32> = seen.covered.next.keys().copied().collect();
        for partition in known {
            lost.push(run(LostCause::Recreated, gone, partition, 0));
        }
    }
    lost
}

impl IdentityText {
    /// Forgets lost runs; gives how many.
    pub(crate) fn forget(&mut self, which: ForgetLost) -> usize {
        let before = self.lost.len();
        match which {
            ForgetLost::Before(time) => {
                self.lost.retain(|run| run.append_times.1 >= time);
                if self.lost.len() < before {
                    self.forgotten_until = self.forgotten_until.max(Some(time.minus(1)));
                }
            }
            // Kept elsewhere.
            ForgetLost::Missed { .. } => {}
            ForgetLost::Run { incarnation, partition, first } => {
                self.lost.retain(|run| {
                    let range = run.range;
                    (run.incarnation, range.partition, range.first)
                        != (incarnation, partition, first)
                });
            }
        }
        before.saturating_sub(self.lost.len())
    }
}

#[cfg(test)]
mod tests {
    use trace_model::Coverage;

    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

    fn text(incarnation: u64, partitions: u32) -> IdentityText {
        IdentityText { incarnation, partitions, ..IdentityText::default() }
    }

    fn kept(offset: u64, incarnation: u64, partitions: u32) -> Option<Kept> {
        Some(Kept { offset, text: text(incarnation, partitions).encode() })
    }

    fn seen(incarnation: u64, covered: &[u64], stored: &[u64]) -> Seen {
        let cover = |next: &[u64]| {
            let mut cover = Coverage::none(incarnation);
            for (partition, next) in (0..).zip(next) {
                cover.extend(partition, *next);
            }
            cover
        };
        Seen { covered: cover(covered), stored: cover(stored), append_time: UnixNanos(77) }
    }

    fn successors(kept: &[Option<Kept>], ends: &[u64], seen: &Seen) -> Vec<IdentityText> {
        match judge(kept, ends, seen) {
            Verdict::Same(_) => panic!("it is new"),
            Verdict::New(change) => succeed(&change, ends, seen, NOW),
        }
    }

    fn lost(texts: &[IdentityText]) -> Vec<(LostCause, u64, u32, u64, UnixNanos)> {
        let runs = texts.iter().flat_map(|text| &text.lost);
        runs.map(|run| {
            let LogRange { partition, first, .. } = run.range;
            (run.cause, run.incarnation, partition, first, run.append_times.0)
        })
        .collect()
    }

    #[test]
    fn a_log_is_the_same_while_its_ends_hold_what_was_kept_and_seen() {
        let kept = [kept(5, 77, 2), kept(0, 77, 2)];
        let found = |ends: [u64; 2], seen: &Seen| judge(&kept, &ends, seen);
        let same = Verdict::Same(vec![text(77, 2), text(77, 2)]);
        assert_eq!(found([5, 0], &Seen::default()), same);
        assert_eq!(found([9, 3], &seen(77, &[9, 3], &[])), same);
        assert_ne!(found([4, 3], &Seen::default()), same);
        assert_ne!(found([9, 3], &seen(77, &[9, 4], &[])), same);
        assert_eq!(found([9, 3], &seen(70, &[90, 40], &[])), same, "an older log was longer");
    }

    #[test]
    fn a_new_topic_is_a_new_log() {
        let texts = successors(&[None, None], &[0, 0], &Seen::default());
        assert_eq!((texts[0].incarnation, texts[0].last), (NOW.millis(), 0));
        assert_eq!((texts.len(), lost(&texts)), (2, vec![]));
    }

    #[test]
    fn a_recreated_topic_names_what_no_store_has_of_the_old_one() {
        let incarnation = NOW.millis() + 9;
        let seen = seen(incarnation, &[50, 40, 3], &[50, 30, 0]);
        let texts = successors(&[None, None], &[7, 0], &seen);
        assert_eq!((texts[0].incarnation, texts[0].last), (incarnation + 1, 0));
        let gone = |partition, first, from| {
            (LostCause::Recreated, incarnation, partition, first, UnixNanos(from))
        };
        // The third partition is remembered with the first.
        assert_eq!(lost(&texts), [gone(0, 50, 77), gone(2, 0, 0), gone(1, 30, 0)]);
        assert_eq!(texts[0].lost[0].append_times, (UnixNanos(77), NOW));
    }

    #[test]
    fn a_topic_that_was_cut_names_what_was_behind_the_cut() {
        let kept = [kept(50, 77, 2), kept(60, 77, 2)];
        let texts = successors(&kept, &[40, 60], &seen(77, &[30, 60], &[20, 60]));
        let one = &texts[0];
        assert_eq!((one.incarnation, one.last, one.cut), (NOW.millis(), 77, 40));
        assert_eq!(lost(&texts), [(LostCause::WentBack, 77, 0, 40, UnixNanos(77))]);
    }

    #[test]
    fn a_topic_that_was_given_partitions_has_lost_nothing() {
        let kept = [kept(50, 77, 1), None];
        let texts = successors(&kept, &[51, 0], &Seen::default());
        assert_eq!((texts[0].last, texts[0].cut, texts[1].cut), (77, 51, 0));
        assert_eq!(lost(&texts), []);
        let written: Vec<_> =
            texts.iter().map(|text| Some(Kept { offset: 0, text: text.encode() })).collect();
        assert_eq!(judge(&written, &[51, 0], &Seen::default()), Verdict::Same(texts));
    }

    #[test]
    fn lost_runs_are_taken_over_and_forgotten_when_told() {
        let mut first = text(77, 1);
        let range = LogRange { partition: 0, first: 3, next: 5 };
        let append_times = (UnixNanos::from_millis(1), UnixNanos::from_millis(8));
        let cause = LostCause::Damaged;
        first.lose(&LostRun { incarnation: 77, range, append_times, cause });
        let kept = [Some(Kept { offset: 9, text: first.encode() })];
        let mut texts = successors(&kept, &[2], &Seen::default());
        assert_eq!(texts[0].lost.len(), 2);
        let time = UnixNanos::from_millis(9);
        assert_eq!(texts[0].forget(ForgetLost::Before(UnixNanos::from_millis(8))), 0);
        assert_eq!(texts[0].forget(ForgetLost::Before(time)), 1);
        assert_eq!(texts[0].forgotten_until, Some(time.minus(1)));
        let run = ForgetLost::Run { incarnation: 77, partition: 0, first: 2 };
        assert_eq!((texts[0].forget(run), texts[0].forget(run)), (1, 0));
    }
}
