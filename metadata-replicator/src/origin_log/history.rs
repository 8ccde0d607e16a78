//! Where a log comes from, and how it is told that it has lost something.
//!
//! A reader's cursor is a witness: it stands behind records that this log once gave. A log remembers
//! the end of each of its epochs; a cursor beyond the end of its epoch, or of an epoch that the log
//! does not remember, says that the log was lost, or was restored from an old copy.

use trace_model::location::{Cursor, Epoch};

/// Ends of epochs that are remembered; of the oldest it is forgotten that they are.
const ENDS_MAX: usize = 256;

/// What a log remembers of itself over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The ends of former epochs, ascending.
    pub(crate) ends: Vec<Cursor>,
    /// There were epochs before the first of these.
    pub(crate) is_pruned: bool,
    /// Records up to here were looked for at a peer and taken back.
    pub(crate) mended_until: Option<Cursor>,
    /// The farthest cursor seen behind records that are not here.
    pub(crate) missing: Option<Cursor>,
}

impl Lineage {
    /// Of a log whose files were written before it remembered anything.
    pub(crate) fn of_unknown_age(has_epochs: bool) -> Self {
        Self { is_pruned: has_epochs, ..Self::default() }
    }

    /// Notes the end of an epoch that is over. An epoch without records has no readers.
    pub(crate) fn close(&mut self, end: Cursor) {
        if end.sequence == 0 || self.ends.last().is_some_and(|last| last.epoch >= end.epoch) {
            return;
        }
        self.ends.push(end);
        if self.ends.len() > ENDS_MAX {
            self.ends.remove(0);
            self.is_pruned = true;
        }
    }

    fn knows(&self, cursor: Cursor) -> bool {
        if cursor.sequence == 0 || Some(cursor) <= self.mended_until {
            return true;
        }
        match self.ends.binary_search_by_key(&cursor.epoch, |end| end.epoch) {
            Ok(place) => self.ends.get(place).is_some_and(|end| cursor <= *end),
            Err(place) => place == 0 && self.is_pruned,
        }
    }

    /// What could be taken back has been, up to here.
    pub(crate) fn note_mended(&mut self, until: Option<Cursor>) {
        self.mended_until = self.mended_until.max(until);
        self.missing = self.missing.filter(|missing| Some(*missing) > self.mended_until);
    }
}

/// Where a log comes from, as its handle sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHistory {
    pub(crate) lineage: Lineage,
    /// Epochs that this handle began.
    pub(crate) epochs: Vec<Epoch>,
}

impl LogHistory {
    /// Whether what lies before the cursor was in this log, or was taken back.
    #[must_use]
    pub fn knows(&self, cursor: Cursor) -> bool {
        self.epochs.contains(&cursor.epoch) || self.lineage.knows(cursor)
    }

    /// The farthest cursor that was seen behind records that this log does not have: it was lost, or
    /// restored from an old copy. Remembered until they have been looked for.
    #[must_use]
    pub const fn missing(&self) -> Option<Cursor> {
        self.lineage.missing
    }

    /// Whether a cursor is news of something that is missing.
    pub(crate) fn is_news(&self, seen: Cursor) -> bool {
        !self.knows(seen) && Some(seen) > self.lineage.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(millis: u64, sequence: u64) -> Cursor {
        Cursor { epoch: Epoch { millis, random: 1 }, sequence }
    }

    fn history(ends: &[Cursor]) -> LogHistory {
        let mut lineage = Lineage::of_unknown_age(false);
        ends.iter().for_each(|end| lineage.close(*end));
        LogHistory { lineage, epochs: vec![cursor(9, 0).epoch] }
    }

    #[test]
    fn a_reader_behind_records_that_are_not_here_is_a_witness_of_their_loss() {
        let mut history = history(&[cursor(4, 20), cursor(5, 40), cursor(8, 0)]);
        for (seen, is_news, why) in [
            (cursor(5, 40), false, "all that the epoch had"),
            (cursor(4, 20), false, "all of an earlier epoch"),
            (cursor(4, 21), true, "more of an earlier epoch"),
            (cursor(9, 7), false, "an epoch of this handle"),
            (cursor(5, 41), true, "an old copy: the same epoch went on"),
            (cursor(7, 1), true, "an old copy: an epoch that it does not know"),
            (cursor(3, 1), true, "another log's life"),
            (cursor(12, 1), true, "the clock went back as well"),
            (Cursor::default(), false, "a reader at the beginning"),
        ] {
            assert_eq!(history.is_news(seen), is_news, "{why}");
        }
        history.lineage.missing = Some(cursor(12, 1));
        assert!(!history.is_news(cursor(7, 1)), "less than is known to be missing");
        history.lineage.note_mended(Some(cursor(7, 1)));
        assert_eq!(history.missing(), Some(cursor(12, 1)), "taken back up to before it");
        history.lineage.note_mended(Some(cursor(12, 1)));
        assert_eq!(history.missing(), None);
        assert!(!history.is_news(cursor(12, 1)), "it has been taken back");
        assert!(history.is_news(cursor(12, 2)), "and this has not");
    }

    #[test]
    fn a_log_that_was_lost_still_knows_so_after_it_has_written_again() {
        let lost = history(&[]);
        assert!(lost.is_news(cursor(5, 1)));
        let written_again = history(&[cursor(7, 3)]);
        assert!(written_again.is_news(cursor(5, 1)));
    }

    #[test]
    fn what_was_forgotten_of_the_oldest_epochs_is_believed() {
        let ends: Vec<_> = (10..10 + 2 * ENDS_MAX as u64).map(|millis| cursor(millis, 5)).collect();
        let history = history(&ends);
        assert_eq!(history.lineage.ends.len(), ENDS_MAX);
        assert!(history.knows(cursor(11, 99)));
        assert!(!history.knows(cursor(10 + 2 * ENDS_MAX as u64 - 1, 6)));
        let upgraded = Lineage::of_unknown_age(true);
        assert!(upgraded.knows(cursor(11, 99)));
    }
}
