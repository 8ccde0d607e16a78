//! A directory of segment files: opening, appending, reading from a cursor, taking records out.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trace_model::TimeRange;
use trace_model::location::{Cursor, Epoch};

use super::batch::Batch;
use super::chunk::RawChunk;
use super::disk::{Disk, DiskFile};
use super::files::{file_name, load, segment_paths, sync_directory, write_file};
use super::packed::Body;
use super::part::{Part, Segment};
use super::roll::Roll;
use super::segment::{HEADER_BYTES, Header, Location, RECORD_HEAD_BYTES, record_at};
use super::sieve::SegmentState;
use super::state::State;
use crate::error::ReplicatorError;

/// What is met while a directory is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Met<'a> {
    /// A good record.
    Record { cursor: Cursor, location: Location, payload: &'a [u8] },
    /// Bytes that should be records and are none.
    Damaged { path: &'a Path, bytes: usize },
    /// A file that should be here and is not.
    Missing { path: &'a Path },
}

/// A directory of segments, held by one process. One caller appends or compacts at a time.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(super) directory: PathBuf,
    segment_bytes_max: u64,
    pub(super) disk: Arc<dyn Disk>,
    state: Mutex<State>,
    _lock: File,
}

impl Segments {
    /// Opens a directory that should have these files, cuts a torn tail and shows every record to
    /// `meet`, which gives the record's append time (0 for none).
    pub(crate) fn open(
        (directory, lock, segment_bytes_max): (&Path, File, u64),
        disk: Arc<dyn Disk>,
        roll: &BTreeSet<Cursor>,
        meet: &mut dyn FnMut(Met<'_>) -> Result<u64, ReplicatorError>,
    ) -> Result<Self, ReplicatorError> {
        let mut state = State::default();
        let present = segment_paths(directory)?;
        let listed = roll.iter().map(|first| directory.join(file_name(*first)));
        let paths: BTreeSet<PathBuf> = listed.chain(present.iter().cloned()).collect();
        let last = paths.last().cloned();
        for path in paths {
            if present.binary_search(&path).is_err() {
                meet(Met::Missing { path: &path })?;
                continue;
            }
            let (number, is_last) = (state.next_number, last.as_ref() == Some(&path));
            let is_listed = roll.iter().any(|first| path.ends_with(file_name(*first)));
            let place = (is_last, is_listed);
            if let Some((first, segment)) = load(disk.as_ref(), path, number, place, meet)? {
                state.insert(first, segment);
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            segment_bytes_max,
            disk,
            state: Mutex::new(state),
            _lock: lock,
        })
    }

    /// Notes which files there are: to be called when it is noted what those held that are not.
    pub(crate) fn save_roll(&self) -> Result<(), ReplicatorError> {
        Roll::save(&self.directory, &self.state().roll())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cursor after the last record of all.
    pub(crate) fn end(&self) -> Option<Cursor> {
        self.state().end()
    }

    /// Appends a batch of one epoch at or behind the end, in a new file behind `names`. On error nothing of it is readable, and
    /// the next append goes into a new file.
    pub(crate) fn append(
        &self,
        first: Cursor,
        batch: &Batch,
        names: &dyn Fn(Cursor) -> Result<Batch, ReplicatorError>,
        is_synced: bool,
    ) -> Result<Location, ReplicatorError> {
        if !self.active_takes(first, batch) {
            let first = Cursor { epoch: first.epoch, sequence: batch.first };
            self.begin(first, &self.head(&names(first)?))?;
        }
        let (file, path, offset) = self.active()?;
        let written = file
            .write_all_at(&batch.bytes, offset)
            .and_then(|()| if is_synced { file.sync() } else { Ok(()) });
        if let Err(error) = written {
            self.seal_active(file.as_ref(), offset);
            return Err(ReplicatorError::disk("write", &path)(error));
        }
        self.note_appended(batch)
    }

    fn active_takes(&self, first: Cursor, batch: &Batch) -> bool {
        let state = self.state();
        let Some((key, segment)) = state.segments.last_key_value() else { return false };
        let grown = segment.length.saturating_add(batch.bytes.len() as u64);
        let is_empty = segment.next_sequence <= key.sequence;
        !segment.is_sealed
            && key.epoch == first.epoch
            && (is_empty || grown <= self.segment_bytes_max)
    }

    fn active(&self) -> Result<(Arc<dyn DiskFile>, PathBuf, u64), ReplicatorError> {
        let state = self.state();
        let (_, segment) = state.segments.last_key_value().ok_or(ReplicatorError::Closed)?;
        let file = segment.file.clone().ok_or(ReplicatorError::Closed)?;
        Ok((file, segment.path.clone(), segment.length))
    }

    /// Cuts what a failed write left, so that a later open does not read it; the file takes no
    /// more, since after a failed sync nobody knows what the disk has.
    fn seal_active(&self, file: &dyn DiskFile, length: u64) {
        if let Err(error) = file.set_length(length) {
            tracing::warn!(%error, "a failed write could not be cut; it will be read as unacknowledged records");
        }
        if let Some(mut last) = self.state().segments.last_entry() {
            last.get_mut().is_sealed = true;
        }
    }

    fn note_appended(&self, batch: &Batch) -> Result<Location, ReplicatorError> {
        let mut state = self.state();
        let mut last = state.segments.last_entry().ok_or(ReplicatorError::Closed)?;
        let segment = last.get_mut();
        let offset = segment.length;
        for (sequence, at) in &batch.marks {
            segment.mark(*sequence, offset.saturating_add(*at as u64));
        }
        segment.length = offset.saturating_add(batch.bytes.len() as u64);
        segment.next_sequence = batch.last.saturating_add(1);
        segment.stamp = segment.stamp.max(batch.stamp);
        let offset = u32::try_from(offset).map_err(|_| ReplicatorError::Record)?;
        Ok(Location { segment: segment.number, offset })
    }

    /// What a new file begins with: names that take most of it would take it for nothing else.
    fn head(&self, names: &Batch) -> Vec<u8> {
        let is_small = (names.bytes.len() as u64) < self.segment_bytes_max / 8;
        if is_small { names.bytes.clone() } else { Vec::new() }
    }

    /// Starts a new file at a cursor at or behind the end, with records of that cursor. What the one
    /// before it holds is on disk first: nobody could tell later that its end is missing.
    pub(crate) fn begin(&self, first: Cursor, head: &[u8]) -> Result<(), ReplicatorError> {
        self.sync()?;
        let path = self.directory.join(file_name(first));
        let mut bytes = Header { first, is_compacted: false, is_packed: false }.encode();
        bytes.extend_from_slice(head);
        let file = write_file(self.disk.as_ref(), &path, &bytes)?;
        sync_directory(&self.directory)?;
        let mut roll = self.state().roll();
        roll.insert(first);
        Roll::save(&self.directory, &roll)?;
        let mut state = self.state();
        let mut segment = Segment::empty(state.next_number, path, first);
        segment.file = Some(file);
        segment.begins_with_names = !head.is_empty();
        segment.length = bytes.len() as u64;
        segment.mark(first.sequence, HEADER_BYTES as u64);
        if let Some(mut closed) = state.segments.last_entry() {
            closed.get_mut().file = None;
        }
        state.insert(first, segment);
        Ok(())
    }

    /// Waits until what was appended is on disk.
    pub(crate) fn sync(&self) -> Result<(), ReplicatorError> {
        let Ok((file, path, _)) = self.active() else { return Ok(()) };
        file.sync().map_err(ReplicatorError::disk("sync", &path))
    }

    /// Records from a cursor on, of one segment, at most about `bytes_max` but at least one. Empty
    /// where nothing lies there or behind.
    pub(crate) fn read(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<RawChunk, ReplicatorError> {
        let mut from = from.unwrap_or_default();
        let mut damage = Vec::new();
        loop {
            let mut chunk = match self.part_at(from)? {
                Place::Part(part) => {
                    let chunk = part.read(bytes_max)?;
                    if !chunk.damage.is_empty() {
                        self.state().seal(part.number);
                    }
                    chunk
                }
                Place::End(end) => return Ok(RawChunk { damage, ..RawChunk::empty(end) }),
                Place::Lost => continue,
            };
            damage.append(&mut chunk.damage);
            if !chunk.records.is_empty() {
                return Ok(RawChunk { damage, ..chunk });
            }
            from = chunk.next;
        }
    }

    /// The segment in which a read from the cursor begins; where there is none, the end as it was
    /// then: a reader that took a later one would step over what was appended in between.
    fn part_at(&self, from: Cursor) -> Result<Place, ReplicatorError> {
        let mut state = self.state();
        let holds = |(first, segment): &(&Cursor, &Segment)| {
            first.epoch == from.epoch && segment.next_sequence > from.sequence
        };
        let behind = (Bound::Excluded(from), Bound::Unbounded);
        let filled =
            |(first, segment): &(&Cursor, &Segment)| segment.next_sequence > first.sequence;
        let within = state.segments.range(..=from).next_back().filter(holds);
        let found = within.map(|(first, segment)| (first, segment, from.sequence)).or_else(|| {
            let next = state.segments.range(behind).find(filled);
            next.map(|(first, segment)| (first, segment, first.sequence))
        });
        let Some((first, segment, sequence)) = found else {
            // A file that was begun and holds nothing yet is passed, or a waiting reader would not
            // wait.
            return Ok(Place::End(state.end().map_or(from, |end| end.max(from))));
        };
        let (first, part) = (*first, segment.part(self.disk.as_ref(), *first, sequence));
        Ok(state.opened(first, part)?.map_or(Place::Lost, Place::Part))
    }

    /// The epoch and payload of a record; `None` where its segment is gone.
    pub(crate) fn payload(
        &self,
        location: Location,
    ) -> Result<Option<(Epoch, Vec<u8>)>, ReplicatorError> {
        let Some((epoch, body, path)) = self.body_of(location.segment)? else { return Ok(None) };
        let failed = || ReplicatorError::disk("read", &path);
        let offset = u64::from(location.offset);
        let head = body.read_range(offset, 4 << 10).map_err(failed())?;
        if let Some(record) = record_at(&head, 0) {
            return Ok(Some((epoch, record.payload.to_vec())));
        }
        let length = head.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
        let length = (length as usize).min(super::segment::PAYLOAD_BYTES_MAX);
        let whole = body.read_range(offset, length.saturating_add(RECORD_HEAD_BYTES));
        let whole = whole.map_err(failed())?;
        let record = record_at(&whole, 0).ok_or(ReplicatorError::Record)?;
        Ok(Some((epoch, record.payload.to_vec())))
    }

    fn body_of(&self, number: u32) -> Result<Option<(Epoch, Body, PathBuf)>, ReplicatorError> {
        let mut state = self.state();
        let first = state.by_number.get(&number);
        let found = first.and_then(|first| Some((*first, state.segments.get(first)?)));
        let Some((first, segment)) = found else { return Ok(None) };
        let (body, path) = (segment.body(self.disk.as_ref()), segment.path.clone());
        Ok(state.opened(first, body)?.map(|body| (first.epoch, body, path)))
    }

    /// The latest append in the files before one, and within it.
    pub(crate) fn stamps_of(&self, number: u32) -> (u64, u64) {
        let state = self.state();
        state.by_number.get(&number).map_or((0, 0), |first| state.stamps_of(*first))
    }

    /// The append times of files that were found gone, until they are noted.
    pub(crate) fn lost(&self) -> Vec<TimeRange> {
        self.state().lost()
    }

    /// They are noted.
    pub(crate) fn note_lost(&self, holes: &[TimeRange]) {
        self.state().note_lost(holes);
    }

    /// All segments but the newest, oldest first.
    pub(crate) fn older(&self) -> Vec<SegmentState> {
        self.state().older()
    }

    /// The end of each epoch that has records, ascending.
    pub(crate) fn epoch_ends(&self) -> Vec<Cursor> {
        self.state().epoch_ends()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes()
    }

    /// Removes older segments: no longer listed first, since one that is listed is missed.
    pub(crate) fn remove(&self, gone: &[Cursor]) -> Result<(), ReplicatorError> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut roll = self.state().roll();
        roll.retain(|first| !gone.contains(first));
        Roll::save(&self.directory, &roll)?;
        for first in gone {
            let Some(segment) = self.state().remove(*first) else { continue };
            let path = &segment.path;
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ReplicatorError::disk("remove", path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Where a read begins.
enum Place {
    Part(Part),
    /// Nothing lies there or behind.
    End(Cursor),
    /// The file was gone; it is looked for again behind it.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::super::disk::LocalDisk;
    use super::*;

    #[test]
    fn a_reader_beside_the_writer_steps_over_nothing() {
        const BATCHES: u64 = 4_000;
        let directory = tempfile::tempdir().unwrap();
        let lock = super::super::files::take(directory.path()).unwrap();
        let (place, roll) = ((directory.path(), lock, 64 << 10), BTreeSet::new());
        let disk = Arc::new(LocalDisk);
        let segments = Segments::open(place, disk, &roll, &mut |_| Ok(1)).unwrap();
        let epoch = Epoch { millis: 1, random: 1 };
        segments.begin(Cursor { epoch, sequence: 0 }, &[]).unwrap();
        let read_all = || {
            let (mut at, mut expected) = (None, 0);
            while expected < BATCHES {
                let chunk = segments.read(at, 1 << 10).unwrap();
                for (sequence, _) in &chunk.records {
                    assert_eq!(*sequence, expected);
                    expected += 1;
                }
                assert!(chunk.next.sequence <= expected, "{} of {expected}", chunk.next.sequence);
                at = Some(chunk.next);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(read_all);
            scope.spawn(read_all);
            for sequence in 0..BATCHES {
                let mut batch = Batch { stamp: 1, ..Batch::default() };
                batch.put(sequence, &sequence.to_le_bytes());
                let first = Cursor { epoch, sequence };
                segments.append(first, &batch, &|_| Ok(Batch::default()), false).unwrap();
            }
        });
    }
}
