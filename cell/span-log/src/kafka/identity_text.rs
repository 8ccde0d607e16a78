//! The text that a reserved group keeps for each partition: which log the topic is, where it was cut
//! off from the one before, and what is known to be lost of that partition. Pure.
//!
//! ```text
//! farspan-log 1 INCARNATION PARTITIONS LAST CUT [until:MILLIS] [RUN]…
//! RUN = CAUSE:INCARNATION:PARTITION:FIRST:NEXT:FROM:TO
//! ```
//!
//! A run is kept with its partition, or with the first where the topic has it no more. `LAST` is the incarnation before (0: none is known), `CUT` the partition's end when this one
//! began: offsets below it are the same in both. Times are milliseconds; a `NEXT` of `*` is unknown.

use trace_model::{LogRange, UnixNanos};

use crate::port::{LostCause, LostRun};

/// Runs kept for a partition; beyond it neighbours grow together. Brokers take 4 KiB of text.
const RUNS_MAX: usize = 32;

/// What is kept for a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityText {
    pub(crate) incarnation: u64,
    pub(crate) partitions: u32,
    pub(crate) last: u64,
    pub(crate) cut: u64,
    pub(crate) forgotten_until: Option<UnixNanos>,
    /// Lost runs, in the order of their offsets.
    pub(crate) lost: Vec<LostRun>,
}

const fn letter_of(cause: LostCause) -> &'static str {
    match cause {
        LostCause::Damaged => "d",
        LostCause::Dropped => "x",
        LostCause::WentBack => "w",
        LostCause::Recreated => "r",
        LostCause::SetAside => "s",
        LostCause::Retired => "g",
    }
}

/// A cause of a later release is damage to this one: the text must stay readable, or the topic would
/// be taken for another log.
fn cause_of(letter: &str) -> Option<LostCause> {
    let known = LostCause::ALL.into_iter().find(|cause| letter_of(*cause) == letter);
    let is_later = letter.len() == 1 && letter.bytes().all(|byte| byte.is_ascii_lowercase());
    known.or(is_later.then_some(LostCause::Damaged))
}

fn run_text(run: &LostRun) -> String {
    let next = match run.range.next {
        u64::MAX => "*".to_owned(),
        next => next.to_string(),
    };
    let (from, to) = run.append_times;
    // The whole milliseconds around the run.
    let to = if to == UnixNanos::MAX { u64::MAX / 1_000_000 } else { to.0.div_ceil(1_000_000) };
    let (cause, incarnation) = (letter_of(run.cause), run.incarnation);
    let LogRange { partition, first, .. } = run.range;
    format!("{cause}:{incarnation}:{partition}:{first}:{next}:{}:{to}", from.millis())
}

fn run_of(word: &str) -> Option<LostRun> {
    let mut parts = word.split(':');
    let cause = cause_of(parts.next()?)?;
    let incarnation = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let first = parts.next()?.parse().ok()?;
    let next = match parts.next()? {
        "*" => u64::MAX,
        next => next.parse().ok()?,
    };
    let mut time = || Some(UnixNanos::from_millis(parts.next()?.parse().ok()?));
    let append_times = (time()?, time()?);
    let range = LogRange { partition, first, next };
    Some(LostRun { incarnation, range, append_times, cause })
}

/// What its offsets belong to.
const fn log_of(run: &LostRun) -> (u64, u32) {
    (run.incarnation, run.range.partition)
}

impl IdentityText {
    pub(crate) fn encode(&self) -> String {
        let Self { incarnation, partitions, last, cut, .. } = self;
        let mut text = format!("farspan-log 1 {incarnation} {partitions} {last} {cut}");
        if let Some(until) = self.forgotten_until {
            text.push_str(&format!(" until:{}", until.millis()));
        }
        for run in &self.lost {
            text.push(' ');
            text.push_str(&run_text(run));
        }
        text
    }

    /// Reads the text of a partition; `None` where it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if (words.next(), words.next()) != (Some("farspan-log"), Some("1")) {
            return None;
        }
        let mut parsed = Self {
            incarnation: words.next()?.parse().ok()?,
            partitions: words.next()?.parse().ok()?,
            last: words.next()?.parse().ok()?,
            cut: words.next()?.parse().ok()?,
            forgotten_until: None,
            lost: Vec::new(),
        };
        for word in words {
            match word.strip_prefix("until:") {
                Some(millis) => {
                    parsed.forgotten_until = Some(UnixNanos::from_millis(millis.parse().ok()?));
                }
                None => parsed.lost.push(run_of(word)?),
            }
        }
        Some(parsed)
    }

    /// Adds a lost run; what overlaps or touches one of the same cause grows together, but for letters
    /// side by side: each may be taken again without the other. Says whether it was news.
    pub(crate) fn lose(&mut self, run: &LostRun) -> bool {
        if self.lost.iter().any(|known| known.holds(run.incarnation, run.range)) {
            return false;
        }
        self.lost.push(run.clone());
        self.lost.sort_unstable_by_key(|one| (log_of(one), one.range.first));
        let is_same = |left: &LostRun, right: &LostRun| left.cause == right.cause;
        let gap = |left: &LostRun, right: &LostRun| left.range.next.cmp(&right.range.first);
        self.join(|left, right| {
            let is_beside = left.cause != LostCause::SetAside && gap(left, right).is_eq();
            is_same(left, right) && (gap(left, right).is_gt() || is_beside)
        });
        if self.lost.len() > RUNS_MAX {
            self.join(|left, right| is_same(left, right) && gap(left, right).is_ge());
        }
        if self.lost.len() > RUNS_MAX {
            // Each too large rather than one too few.
            self.join(is_same);
        }
        if self.lost.len() > RUNS_MAX {
            self.join(|_, _| true);
        }
        true
    }

    /// Joins neighbours of one incarnation that belong together.
    fn join(&mut self, belong: impl Fn(&LostRun, &LostRun) -> bool) {
        let mut joined: Vec<LostRun> = Vec::with_capacity(self.lost.len());
        for run in self.lost.drain(..) {
            match joined.last_mut() {
                Some(last) if log_of(last) == log_of(&run) && belong(last, &run) => {
                    last.range.next = last.range.next.max(run.range.next);
                    last.append_times.0 = last.append_times.0.min(run.append_times.0);
                    last.append_times.1 = last.append_times.1.max(run.append_times.1);
                }
                _ => joined.push(run),
            }
        }
        self.lost = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ForgetLost;

    fn run(cause: LostCause, first: u64, next: u64) -> LostRun {
        let range = LogRange { partition: 3, first, next };
        let append_times = (UnixNanos::from_millis(first), UnixNanos::from_millis(first + 7));
        LostRun { incarnation: 1_790_000_000_000, range, append_times, cause }
    }

    fn text() -> IdentityText {
        IdentityText {
            incarnation: 1_790_000_000_000,
            partitions: 64,
            last: 5,
            cut: 99,
            forgotten_until: Some(UnixNanos::from_millis(4)),
            lost: vec![
                run(LostCause::Damaged, 1, 2),
                run(LostCause::SetAside, 4, 5),
                run(LostCause::Recreated, 9, u64::MAX),
            ],
        }
    }

    #[test]
    fn the_text_reads_back() {
        assert_eq!(IdentityText::parse(&text().encode()), Some(text()));
        let bare = IdentityText { forgotten_until: None, lost: Vec::new(), ..text() };
        assert_eq!(IdentityText::parse(&bare.encode()), Some(bare));
        for foreign in ["", "words", "farspan-log 2 1 1 0 0", "farspan-log 1 5 1", "farspan 1 5"] {
            assert_eq!(IdentityText::parse(foreign), None, "{foreign}");
        }
        assert_eq!(IdentityText::parse("farspan-log 1 5 1 0 0 q1:1:0:2:3:4:5"), None);
    }

    #[test]
    fn a_cause_of_a_later_release_is_damage_and_no_other_log() {
        let later = IdentityText::parse("farspan-log 1 5 1 0 0 q:1:0:2:3:4:5").unwrap();
        assert_eq!((later.incarnation, later.lost.len()), (5, 1));
        let run = &later.lost[0];
        assert_eq!((run.cause, run.range.first, run.range.next), (LostCause::Damaged, 2, 3));
    }

    #[test]
    fn runs_that_touch_grow_together_and_known_ones_are_no_news() {
        let mut text = IdentityText::default();
        assert!(text.lose(&run(LostCause::Damaged, 5, 7)));
        assert!(!text.lose(&run(LostCause::Damaged, 6, 7)));
        assert!(text.lose(&run(LostCause::Damaged, 7, 9)));
        assert!(text.lose(&run(LostCause::Dropped, 9, 12)));
        assert!(text.lose(&run(LostCause::Damaged, 1, 2)));
        let ranges: Vec<_> =
            text.lost.iter().map(|run| (run.range.first, run.range.next)).collect();
        assert_eq!(ranges, [(1, 2), (5, 9), (9, 12)]);
        assert_eq!(
            text.lost[1].append_times,
            (UnixNanos::from_millis(5), UnixNanos::from_millis(14))
        );
    }

    #[test]
    fn letters_side_by_side_stay_runs_of_their_own_so_that_one_can_be_taken_without_the_other() {
        let mut text = IdentityText::default();
        assert!(text.lose(&run(LostCause::SetAside, 5, 6)));
        assert!(text.lose(&run(LostCause::SetAside, 6, 7)));
        let first = ForgetLost::Run { incarnation: 1_790_000_000_000, partition: 3, first: 5 };
        assert_eq!(text.forget(first), 1);
        let left: Vec<_> = text.lost.iter().map(|run| (run.range.first, run.range.next)).collect();
        assert_eq!(left, [(6, 7)]);
        for place in 7..400 {
            text.lose(&run(LostCause::SetAside, place, place + 1));
            assert!(text.encode().len() < 4_000, "{}", text.encode().len());
        }
        let covers = |offset: u64| {
            text.lost.iter().any(|run| run.range.first <= offset && run.range.next > offset)
        };
        assert!((6..400).all(covers));
    }

    #[test]
    fn the_text_stays_small_and_covers_all_that_is_lost() {
        let mut text = text();
        for place in 0..2_000 {
            text.lose(&run(LostCause::Damaged, place * 10, place * 10 + 1));
            assert!(text.encode().len() < 4_000, "{}", text.encode().len());
        }
        let covers = |offset: u64| {
            text.lost.iter().any(|run| run.range.first <= offset && run.range.next > offset)
        };
        assert!((0..2_000).all(|place| covers(place * 10)));
    }
}
