//! Between which append times records are damaged, told while they are met in order.

use trace_model::{TimeRange, UnixNanos};

/// Collects the holes of a walk over records.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    newest: UnixNanos,
    /// No record of the walk is later than this, where that is known.
    last: Option<UnixNanos>,
    /// The append time before damage whose other side has not been met.
    from: Option<UnixNanos>,
    holes: Vec<TimeRange>,
}

impl Gaps {
    /// A walk over a file whose latest record is known.
    pub(super) fn behind(newest: UnixNanos, last: UnixNanos) -> Self {
        Self { newest, last: Some(last), ..Self::default() }
    }

    /// What should be a record is none.
    pub(super) fn open(&mut self) {
        self.from.get_or_insert(self.newest);
    }

    /// A good record, with its append time; 0 where it has none.
    pub(super) fn meet(&mut self, stamp: u64) {
        if stamp == 0 {
            return;
        }
        self.pass(stamp);
        if let Some(start) = self.from.take() {
            self.holes.push(TimeRange { start, end: self.newest.plus(1) });
        }
    }

    /// A record that is there and cannot be used.
    pub(super) fn pass(&mut self, stamp: u64) {
        self.newest = self.newest.max(UnixNanos(stamp));
    }

    /// The holes, and the newest append time met.
    pub(super) fn finish(mut self) -> (Vec<TimeRange>, UnixNanos) {
        if let Some(start) = self.from.take() {
            // Rows that are whole and cannot be used are stepped over, and never given again.
            let known = start.max(self.newest);
            let end = self.last.map_or(UnixNanos::MAX, |last| last.max(known).plus(1));
            self.holes.push(TimeRange { start, end });
        }
        (self.holes, self.newest)
    }
}
