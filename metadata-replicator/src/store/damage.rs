//! What a store says of its own damage: holes in the watermark, and terms for whoever copies from
//! it. Holes are joined and never refused; those that retention has passed go.

use trace_model::{TimeRange, UnixNanos, Watermark, join_holes};

use super::chunk::Damage;
use super::framer::stamp_of;
use super::records::{RecordStore, record_of};
use crate::error::ReplicatorError;
use crate::index::hot::LetGo;

impl RecordStore {
    /// The newest watermark, with the holes that damage to this store has made.
    pub(crate) fn watermark(&self) -> Option<Watermark> {
        let watermark = self.words().watermark.clone()?;
        Some(self.with_damage(watermark))
    }

    /// A watermark with the holes that damage to this store has made, and without those of which all
    /// has expired: the terms say so already.
    pub(crate) fn with_damage(&self, mut watermark: Watermark) -> Watermark {
        watermark.holes.extend(&self.words().holes);
        if let Some(expired) = self.terms().forgotten.expired_until {
            watermark.holes.retain(|hole| hole.end > expired.plus(1));
        }
        join_holes(&mut watermark.holes);
        watermark
    }

    /// Notes durably which holes a newer watermark does not have any more: what they hid has expired.
    /// To be called before it is written.
    pub(crate) fn note_expired_holes(&self, newer: &Watermark) -> Result<(), ReplicatorError> {
        let is_held = |hole: &TimeRange| {
            newer.holes.iter().any(|held| held.start <= hole.start && hole.end <= held.end)
        };
        let before = self.words().watermark.as_ref().map(|held| held.holes.clone());
        let gone = before.into_iter().flatten().filter(|hole| {
            // The hole of a region that withholds goes when it withholds no longer.
            *hole != TimeRange::ALL && !is_held(hole)
        });
        let last = gone.map(|hole| hole.end.min(newer.as_of)).max();
        last.map_or(Ok(()), |end| self.forget(LetGo::Expired.mark(end.minus(1))))
    }

    /// Lets go of holes before the horizon: rows of that time have been let go as well.
    pub(super) fn let_holes_go(
        &self,
        horizon: UnixNanos,
        why: LetGo,
    ) -> Result<(), ReplicatorError> {
        let is_past = |hole: &&TimeRange| hole.end <= horizon;
        let last = {
            let words = self.words();
            let of_watermark = words.watermark.iter().flat_map(|watermark| &watermark.holes);
            words.holes.iter().chain(of_watermark).filter(is_past).map(|hole| hole.end).max()
        };
        let Some(end) = last else { return Ok(()) };
        self.forget(why.mark(end.minus(1)))?;
        self.words().holes.retain(|hole| hole.end > horizon);
        Ok(())
    }

    /// Notes that records of these append times cannot be read any more: for whoever asks here, and
    /// durably in the terms, for whoever copies from here and is told those with the next records.
    pub(super) fn note_damage(&self, holes: &[TimeRange]) -> Result<(), ReplicatorError> {
        let last = holes.iter().map(|hole| hole.end).max();
        for hole in holes {
            self.note_hole(*hole);
        }
        last.map_or(Ok(()), |end| self.forget(LetGo::Evicted.mark(end.minus(1))))
    }

    /// Notes what files held that were found gone, by this caller or by another one: nobody steps
    /// over them before that.
    pub(super) fn note_lost(&self) -> Result<(), ReplicatorError> {
        let lost = self.segments.lost();
        if lost.is_empty() {
            return Ok(());
        }
        self.note_damage(&lost)?;
        self.segments.note_lost(&lost);
        Ok(())
    }

    /// The append times between the neighbours of what is damaged; where there are none, those of its
    /// file.
    pub(super) fn hole_of(&self, damage: &Damage) -> TimeRange {
        let stamp_of = |payload: &Option<Vec<u8>>| {
            let record = payload.as_deref().and_then(|payload| record_of(payload).ok());
            record.map(|record| stamp_of(&record)).filter(|stamp| *stamp > 0)
        };
        let (before, after) = &damage.neighbours;
        let of_file = self.segments.stamps_of(damage.segment);
        let start = UnixNanos(stamp_of(before).unwrap_or(of_file.0));
        let end = UnixNanos(stamp_of(after).unwrap_or(of_file.1));
        TimeRange { start, end: start.max(end).plus(1) }
    }

    fn note_hole(&self, hole: TimeRange) {
        let holes = &mut self.words().holes;
        let is_known = holes.iter().any(|held| held.start <= hole.start && hole.end <= held.end);
        if !is_known {
            tracing::error!(?hole, directory = %self.config.directory.display(), "damaged records were set aside");
            holes.push(hole);
            join_holes(holes);
        }
    }
}
