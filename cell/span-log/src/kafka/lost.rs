//! What is known to be lost: as the brokers keep it, and what they have not been told yet. Pure.

use super::identity_text::IdentityText;
use crate::port::{Lost, LostRun};

/// Runs that wait to be told; beyond it the newest are met again by the next reader.
const PENDING_MAX: usize = 1_000;

/// The lost runs of a log.
#[derive(Debug, Default)]
pub(crate) struct LostBoard {
    known: Lost,
    pending: Vec<LostRun>,
}

const fn is_within(run: &LostRun, whole: &LostRun) -> bool {
    whole.holds(run.incarnation, run.range)
}

impl LostBoard {
    /// Notes a run that somebody has met.
    pub(crate) fn note(&mut self, run: LostRun) {
        let mut all = self.known.runs.iter().chain(&self.pending);
        let is_known = all.any(|whole| is_within(&run, whole));
        if !is_known && self.pending.len() < PENDING_MAX {
            self.pending.push(run);
        }
    }

    /// What the brokers have to be told.
    pub(crate) fn pending(&self) -> &[LostRun] {
        &self.pending
    }

    /// Takes over what the brokers keep. What was pending is told again until they are found to
    /// have it: another process may have written at the same time.
    pub(crate) fn learn(&mut self, texts: &[IdentityText], was_written: bool) {
        let runs: Vec<LostRun> = texts.iter().flat_map(|text| text.lost.clone()).collect();
        if !was_written {
            self.pending.retain(|run| !runs.iter().any(|whole| is_within(run, whole)));
        }
        let expired_until = texts.iter().filter_map(|text| text.forgotten_until).max();
        self.known = Lost { runs, missed: Vec::new(), expired_until };
    }

    /// These need not be told any more.
    pub(crate) fn drop_pending(&mut self, told: &[LostRun]) {
        self.pending.retain(|run| !told.contains(run));
    }

    /// All that is known here.
    pub(crate) fn all(&self) -> Lost {
        let mut lost = self.known.clone();
        for run in &self.pending {
            if !lost.runs.iter().any(|whole| is_within(run, whole)) {
                lost.runs.push(run.clone());
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use trace_model::{LogRange, UnixNanos};

    use super::*;
    use crate::port::LostCause;

    fn run(first: u64, next: u64) -> LostRun {
        let range = LogRange { partition: 0, first, next };
        let append_times = (UnixNanos::from_millis(1), UnixNanos::from_millis(2));
        LostRun { incarnation: 7, range, append_times, cause: LostCause::Damaged }
    }

    #[test]
    fn what_was_met_is_told_until_the_brokers_are_found_to_have_it() {
        let mut board = LostBoard::default();
        board.note(run(3, 5));
        board.note(run(4, 5));
        assert_eq!((board.pending(), board.all().runs.len()), (&[run(3, 5)][..], 1));
        let mut text = IdentityText::default();
        text.lose(&run(3, 5));
        board.learn(std::slice::from_ref(&text), true);
        assert_eq!(board.pending().len(), 1);
        board.learn(&[text], false);
        assert_eq!((board.pending().len(), board.all().runs), (0, vec![run(3, 5)]));
        board.learn(&[IdentityText::default()], false);
        assert!(board.all().runs.is_empty());
    }
}
