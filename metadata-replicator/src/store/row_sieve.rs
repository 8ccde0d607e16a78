//! Which records of a file stay when it is rewritten.

use proto::v1;
use proto::v1::origin_record::Record;
use trace_model::UnixNanos;

use super::framer::stamp_of;
use super::gaps::Gaps;
use super::records::{JudgeRows, Judged, RecordStore, record_of};
use super::segment::Location;
use super::sieve::Sieve;
use crate::error::ReplicatorError;
use crate::index::hot::LetGo;

/// Lets through what is still needed, and notes what is gone before it goes.
pub(super) struct RowSieve<'a> {
    pub(super) store: &'a RecordStore,
    pub(super) judge: &'a mut dyn JudgeRows,
    pub(super) newest_watermark: Option<v1::Watermark>,
    pub(super) horizon: u64,
    pub(super) why: LetGo,
    /// The latest append among rows that go with nothing standing for them.
    pub(super) gone: Option<UnixNanos>,
    pub(super) gaps: Gaps,
    /// Damage was met in the file.
    pub(super) is_damaged: bool,
}

impl Sieve for RowSieve<'_> {
    fn keep(&mut self, location: Location, payload: &[u8]) -> Option<u64> {
        let Ok(record) = record_of(payload) else {
            self.meet_damage();
            return None;
        };
        let stamp = stamp_of(&record);
        self.gaps.meet(stamp);
        let is_kept = match &record {
            Record::ServiceName(_) => true,
            Record::Watermark(mark) => self.newest_watermark.as_ref() == Some(mark),
            Record::Contribution(row) => {
                let judged = self.judge.judge(location, row, stamp < self.horizon);
                if judged == Judged::Gone {
                    self.gone = self.gone.max(Some(UnixNanos(row.last_append_unix_nano)));
                }
                judged == Judged::Stays
            }
        };
        is_kept.then_some(stamp)
    }

    fn meet_damage(&mut self) {
        self.gaps.open();
        self.is_damaged = true;
    }

    fn before_swap(&mut self) -> Result<(), ReplicatorError> {
        if let Some(append) = self.gone {
            self.store.forget(self.why.mark(append))?;
        }
        let met = std::mem::take(&mut self.gaps).finish().0;
        // The damage will not be there to be met at the next open.
        self.store.note_damage(&met)
    }
}
