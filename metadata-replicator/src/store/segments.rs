//! A directory of segment files: opening, appending, reading from a cursor, taking records out.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trace_model::location::{Cursor, Epoch};

use super::batch::Batch;
use super::chunk::RawChunk;
use super::files::{file_name, load, lock, segment_paths, short, sync_directory, write_file};
use super::packed::{Body, Packer};
use super::part::{Part, Segment};
use super::segment::{
    HEADER_BYTES, Header, Location, RECORD_HEAD_BYTES, Scan, Scanned, put_record, record_at,
};
use super::sieve::{SegmentState, Sieve};
use crate::error::ReplicatorError;

/// What is met while a directory is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Met<'a> {
    /// A good record.
    Record { cursor: Cursor, location: Location, payload: &'a [u8] },
    /// Bytes that should be records and are none.
    Damaged { path: &'a Path, bytes: usize },
}

#[derive(Debug, Default)]
struct State {
    segments: BTreeMap<Cursor, Segment>,
    by_number: BTreeMap<u32, Cursor>,
    next_number: u32,
}

impl State {
    fn end(&self) -> Option<Cursor> {
        let (first, segment) = self.segments.last_key_value()?;
        Some(Cursor { epoch: first.epoch, sequence: segment.next_sequence })
    }

    /// Whether the file behind one, of the same epoch, begins with all names before it.
    fn is_repeated(&self, first: Cursor) -> bool {
        let behind = (Bound::Excluded(first), Bound::Unbounded);
        let next = self.segments.range(behind).next();
        next.is_some_and(|(next, held)| next.epoch == first.epoch && held.begins_with_names)
    }
}

/// A directory of segments, held by one process. One caller appends or compacts at a time.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: PathBuf,
    segment_bytes_max: u64,
    state: Mutex<State>,
    _lock: File,
}

impl Segments {
    /// Opens a directory, cuts a torn tail and shows every record to `meet`, which gives the
    /// record's append time (0 for none).
    pub(crate) fn open(
        directory: &Path,
        segment_bytes_max: u64,
        meet: &mut dyn FnMut(Met<'_>) -> Result<u64, ReplicatorError>,
    ) -> Result<Self, ReplicatorError> {
        std::fs::create_dir_all(directory).map_err(ReplicatorError::disk("create", directory))?;
        let lock = lock(directory)?;
        let mut state = State::default();
        let paths = segment_paths(directory)?;
        let count = paths.len();
        for (place, path) in paths.into_iter().enumerate() {
            let number = state.next_number;
            let is_last = place.saturating_add(1) == count;
            if let Some((first, segment)) = load(path, number, is_last, meet)? {
                state.by_number.insert(number, first);
                state.segments.insert(first, segment);
                state.next_number = number.saturating_add(1);
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            segment_bytes_max,
            state: Mutex::new(state),
            _lock: lock,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
            .and_then(|()| if is_synced { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            self.seal_active(&file, offset);
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

    fn active(&self) -> Result<(Arc<File>, PathBuf, u64), ReplicatorError> {
        let state = self.state();
        let (_, segment) = state.segments.last_key_value().ok_or(ReplicatorError::Closed)?;
        let file = segment.file.clone().ok_or(ReplicatorError::Closed)?;
        Ok((file, segment.path.clone(), segment.length))
    }

    /// Cuts what a failed write left, so that a later open does not read it; the file takes no
    /// more, since after a failed sync nobody knows what the disk has.
    fn seal_active(&self, file: &File, length: u64) {
        if let Err(error) = file.set_len(length) {
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
        let file = Arc::new(write_file(&path, &bytes)?);
        sync_directory(&self.directory)?;
        let mut state = self.state();
        let number = state.next_number;
        state.next_number = number.saturating_add(1);
        state.by_number.insert(number, first);
        let mut segment = Segment::empty(number, path, first);
        segment.file = Some(file);
        segment.begins_with_names = !head.is_empty();
        segment.length = bytes.len() as u64;
        segment.mark(first.sequence, HEADER_BYTES as u64);
        if let Some(mut closed) = state.segments.last_entry() {
            closed.get_mut().file = None;
        }
        state.segments.insert(first, segment);
        Ok(())
    }

    /// Waits until what was appended is on disk.
    pub(crate) fn sync(&self) -> Result<(), ReplicatorError> {
        let Ok((file, path, _)) = self.active() else { return Ok(()) };
        file.sync_data().map_err(ReplicatorError::disk("sync", &path))
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
                Ok(part) => part.read(bytes_max)?,
                Err(end) => return Ok(RawChunk { damage, ..RawChunk::empty(end) }),
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
    fn part_at(&self, from: Cursor) -> Result<Result<Part, Cursor>, ReplicatorError> {
        let state = self.state();
        let holds = |(first, segment): &(&Cursor, &Segment)| {
            first.epoch == from.epoch && segment.next_sequence > from.sequence
        };
        if let Some((first, segment)) = state.segments.range(..=from).next_back().filter(holds) {
            return segment.part(*first, from.sequence).map(Ok);
        }
        let behind = (Bound::Excluded(from), Bound::Unbounded);
        let filled =
            |(first, segment): &(&Cursor, &Segment)| segment.next_sequence > first.sequence;
        match state.segments.range(behind).find(filled) {
            Some((first, segment)) => segment.part(*first, first.sequence).map(Ok),
            // A file that was begun and holds nothing yet is passed, or a waiting reader would not
            // wait.
            None => Ok(Err(state.end().map_or(from, |end| end.max(from)))),
        }
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
        let state = self.state();
        let first = state.by_number.get(&number);
        let found = first.and_then(|first| Some((first, state.segments.get(first)?)));
        let Some((first, segment)) = found else { return Ok(None) };
        Ok(Some((first.epoch, segment.body()?, segment.path.clone())))
    }

    /// The latest append in the files before one, and within it.
    pub(crate) fn stamps_of(&self, number: u32) -> (u64, u64) {
        let state = self.state();
        let Some(first) = state.by_number.get(&number).copied() else { return (0, 0) };
        let earlier = state.segments.range(..first).map(|(_, segment)| segment.stamp);
        let before = earlier.max().unwrap_or_default();
        let own = state.segments.get(&first).map_or(0, |segment| segment.stamp);
        (before, own)
    }

    /// All segments but the newest, oldest first.
    pub(crate) fn older(&self) -> Vec<SegmentState> {
        let state = self.state();
        let newest = state.segments.last_key_value().map(|(first, _)| *first);
        let states = state.segments.iter().filter(|(first, _)| Some(**first) != newest);
        let states = states.map(|(first, segment)| SegmentState {
            first: *first,
            stamp: segment.stamp,
            is_compacted: segment.is_compacted,
            is_repeated: state.is_repeated(*first),
        });
        states.collect()
    }

    /// The end of each epoch that has records, ascending.
    pub(crate) fn epoch_ends(&self) -> Vec<Cursor> {
        let mut ends: BTreeMap<Epoch, u64> = BTreeMap::new();
        for (first, segment) in &self.state().segments {
            let end = ends.entry(first.epoch).or_default();
            *end = segment.next_sequence.max(*end);
        }
        let ends = ends.into_iter().filter(|(_, sequence)| *sequence > 0);
        ends.map(|(epoch, sequence)| Cursor { epoch, sequence }).collect()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.state();
        let segments = state.segments.values();
        segments.map(|segment| segment.packed_bytes.unwrap_or(segment.length)).sum()
    }

    /// Rewrites an older segment without the records that do not stay. Gives where the others went.
    /// Cursors stay valid.
    pub(crate) fn compact(
        &self,
        first: Cursor,
        sieve: &mut dyn Sieve,
    ) -> Result<Vec<(Location, Location)>, ReplicatorError> {
        let (number, path, part) = {
            let state = self.state();
            let Some(segment) = state.segments.get(&first) else { return Ok(Vec::new()) };
            (segment.number, segment.path.clone(), segment.part(first, first.sequence)?)
        };
        let bytes = part.bytes()?;
        let failed = || ReplicatorError::disk("pack", &path);
        let header = Header { first, is_compacted: true, is_packed: true };
        let mut packer = Packer::new(header.encode());
        let mut rewritten = Segment::empty(number, path.clone(), first);
        let (mut moved, mut last) = (Vec::new(), None);
        for scanned in Scan::new(&bytes, HEADER_BYTES, 0) {
            let Scanned::Record(record) = scanned else {
                sieve.meet_damage();
                continue;
            };
            let from = Location { segment: number, offset: short(record.offset)? };
            let Some(stamp) = sieve.keep(from, record.payload) else { continue };
            let offset = packer.plain_bytes();
            let put = |output: &mut Vec<u8>| put_record(output, record.sequence, record.payload);
            packer.put(put).map_err(failed())?;
            if last.replace(record.sequence) != Some(record.sequence) {
                rewritten.mark(record.sequence, offset as u64);
            }
            rewritten.stamp = rewritten.stamp.max(stamp);
            moved.push((from, Location { segment: number, offset: short(offset)? }));
        }
        sieve.before_swap()?;
        rewritten.length = packer.plain_bytes() as u64;
        let (output, blocks) = packer.finish().map_err(failed())?;
        let temporary = path.with_extension("tmp");
        write_file(&temporary, &output)?;
        rewritten.blocks = Some(Arc::new(blocks));
        rewritten.packed_bytes = Some(output.len() as u64);
        rewritten.is_compacted = true;
        rewritten.is_sealed = true;
        {
            // Who opens the file by its name finds the blocks that are said to be in it.
            let mut state = self.state();
            std::fs::rename(&temporary, &path).map_err(ReplicatorError::disk("rename", &path))?;
            if let Some(segment) = state.segments.get_mut(&first) {
                rewritten.next_sequence = segment.next_sequence;
                rewritten.begins_with_names = segment.begins_with_names;
                *segment = rewritten;
            }
        }
        sync_directory(&self.directory)?;
        Ok(moved)
    }

    /// Removes an older segment.
    pub(crate) fn remove(&self, first: Cursor) -> Result<(), ReplicatorError> {
        let Some(segment) = self.state().segments.remove(&first) else { return Ok(()) };
        self.state().by_number.remove(&segment.number);
        std::fs::remove_file(&segment.path).map_err(ReplicatorError::disk("remove", &segment.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_beside_the_writer_steps_over_nothing() {
        const BATCHES: u64 = 4_000;
        let directory = tempfile::tempdir().unwrap();
        let segments = Segments::open(directory.path(), 64 << 10, &mut |_| Ok(1)).unwrap();
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
