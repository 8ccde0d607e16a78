//! Which segments a directory has, and which of them are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use trace_model::location::{Cursor, Epoch};
use trace_model::{TimeRange, UnixNanos};

use super::disk::is_rotten;
use super::part::Segment;
use super::sieve::SegmentState;
use crate::error::ReplicatorError;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) segments: BTreeMap<Cursor, Segment>,
    pub(super) by_number: BTreeMap<u32, Cursor>,
    pub(super) next_number: u32,
    lost: Vec<Lost>,
}

/// A file that was here and is not any more.
#[derive(Debug)]
struct Lost {
    first: Cursor,
    hole: TimeRange,
    is_noted: bool,
}

/// Whether a file whose opening failed so will not be read again; all else may pass.
fn is_lost(error: &ReplicatorError) -> bool {
    let ReplicatorError::Disk { source, .. } = error else { return false };
    source.kind() == std::io::ErrorKind::NotFound || is_rotten(source)
}

impl State {
    pub(super) fn insert(&mut self, first: Cursor, segment: Segment) {
        self.by_number.insert(segment.number, first);
        self.next_number = self.next_number.max(segment.number.saturating_add(1));
        self.segments.insert(first, segment);
    }

    pub(super) fn remove(&mut self, first: Cursor) -> Option<Segment> {
        let segment = self.segments.remove(&first)?;
        self.by_number.remove(&segment.number);
        Some(segment)
    }

    pub(super) fn end(&self) -> Option<Cursor> {
        let (first, segment) = self.segments.last_key_value()?;
        Some(Cursor { epoch: first.epoch, sequence: segment.next_sequence })
    }

    /// Whether the file behind one, of the same epoch, begins with all names before it.
    fn is_repeated(&self, first: Cursor) -> bool {
        let behind = (Bound::Excluded(first), Bound::Unbounded);
        let next = self.segments.range(behind).next();
        next.is_some_and(|(next, held)| next.epoch == first.epoch && held.begins_with_names)
    }

    /// The latest append in the files before one, and within it.
    pub(super) fn stamps_of(&self, first: Cursor) -> (u64, u64) {
        let earlier = self.segments.range(..first).map(|(_, segment)| segment.stamp);
        let before = earlier.max().unwrap_or_default();
        let own = self.segments.get(&first).map_or(0, |segment| segment.stamp);
        (before, own)
    }

    /// What was opened; `None` where the file is gone: then it is out of the state, and what it held
    /// is to be noted.
    pub(super) fn opened<T>(
        &mut self,
        first: Cursor,
        opened: Result<T, ReplicatorError>,
    ) -> Result<Option<T>, ReplicatorError> {
        let error = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if is_lost(&error) => error,
            Err(error) => return Err(error),
        };
        tracing::error!(%error, "a file of a log is gone");
        let (before, own) = self.stamps_of(first);
        let (start, end) = (UnixNanos(before), UnixNanos(own.max(before)).plus(1));
        self.lost.push(Lost { first, hole: TimeRange { start, end }, is_noted: false });
        self.remove(first);
        Ok(None)
    }

    /// The holes of files that are gone, until they are noted.
    pub(super) fn lost(&self) -> Vec<TimeRange> {
        self.lost.iter().filter(|lost| !lost.is_noted).map(|lost| lost.hole).collect()
    }

    pub(super) fn note_lost(&mut self, holes: &[TimeRange]) {
        for lost in &mut self.lost {
            lost.is_noted |= holes.contains(&lost.hole);
        }
    }

    /// The files that are to be missed where they are not there: a lost one is until the next
    /// opening, which may come before what it held was noted.
    pub(super) fn roll(&self) -> BTreeSet<Cursor> {
        let lost = self.lost.iter().map(|lost| lost.first);
        self.segments.keys().copied().chain(lost).collect()
    }

    /// The newest file takes nothing more, where it is this one: what is damaged in it would be met, and
    /// made a longer hole, whenever something was added.
    pub(super) fn seal(&mut self, number: u32) {
        if let Some(mut last) = self.segments.last_entry()
            && last.get().number == number
        {
            last.get_mut().is_sealed = true;
        }
    }

    /// All segments but the newest, oldest first.
    pub(super) fn older(&self) -> Vec<SegmentState> {
        let newest = self.segments.last_key_value().map(|(first, _)| *first);
        let states = self.segments.iter().filter(|(first, _)| Some(**first) != newest);
        let states = states.map(|(first, segment)| SegmentState {
            first: *first,
            number: segment.number,
            stamp: segment.stamp,
            is_compacted: segment.is_compacted,
            is_doubted: segment.doubts > 0 && !segment.is_compacted,
            is_repeated: self.is_repeated(*first),
        });
        states.collect()
    }

    /// The end of each epoch that has records, ascending.
    pub(super) fn epoch_ends(&self) -> Vec<Cursor> {
        let mut ends: BTreeMap<Epoch, u64> = BTreeMap::new();
        for (first, segment) in &self.segments {
            let end = ends.entry(first.epoch).or_default();
            *end = segment.next_sequence.max(*end);
        }
        let ends = ends.into_iter().filter(|(_, sequence)| *sequence > 0);
        ends.map(|(epoch, sequence)| Cursor { epoch, sequence }).collect()
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        let segments = self.segments.values();
        segments.map(|segment| segment.packed_bytes.unwrap_or(segment.length)).sum()
    }
}
