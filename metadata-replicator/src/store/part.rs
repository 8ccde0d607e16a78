//! A segment as it is held open, and a part of it to read without any lock.

use std::path::PathBuf;
use std::sync::Arc;

use trace_model::location::Cursor;

use super::chunk::{Damage, RawChunk};
use super::disk::{Access, Disk, DiskFile};
use super::packed::{Blocks, Body};
use super::segment::{HEADER_BYTES, PAYLOAD_BYTES_MAX, Scan, Scanned};
use crate::error::ReplicatorError;

/// Distance of the places at which a read can enter a file.
pub(super) const MARK_BYTES: u64 = 32 << 10;

/// A file that is not whole is written anew without what it lacks after so many tries, one in each
/// maintenance: an error that passes (a path, a controller that is away) costs nothing.
pub(crate) const DOUBTS_MAX: u32 = 30;

/// Whether all bytes of a file are records.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    Scan::new(bytes, HEADER_BYTES, 0).all(|scanned| matches!(scanned, Scanned::Record(_)))
}

/// A segment file. It is open while it is written to; else it is opened at each read, since there
/// may be more files than a process may hold open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// Where its blocks lie, where it is packed.
    pub(super) blocks: Option<Arc<Blocks>>,
    /// It begins with all names that its epoch had before it.
    pub(super) begins_with_names: bool,
    pub(super) path: PathBuf,
    pub(super) next_sequence: u64,
    /// Bytes of the plain form.
    pub(super) length: u64,
    /// Bytes on disk, where the records are packed.
    pub(super) packed_bytes: Option<u64>,
    pub(super) marks: Vec<(u64, u64)>,
    pub(super) stamp: u64,
    pub(super) is_compacted: bool,
    pub(super) is_sealed: bool,
    /// How often it was found not to be whole when it was to be written anew.
    pub(super) doubts: u32,
}

impl Segment {
    pub(super) const fn empty(number: u32, path: PathBuf, first: Cursor) -> Self {
        Self {
            number,
            file: None,
            blocks: None,
            begins_with_names: false,
            path,
            next_sequence: first.sequence,
            length: HEADER_BYTES as u64,
            packed_bytes: None,
            marks: Vec::new(),
            stamp: 0,
            is_compacted: false,
            is_sealed: false,
            doubts: 0,
        }
    }

    /// Whether the file is kept as it is for now, since not all of its bytes are records: what cannot be
    /// read at the moment may be read at another. Each call is a try; after the last it is damage.
    pub(super) fn is_doubted(&mut self, is_whole: bool) -> bool {
        let is_doubted = !is_whole && self.doubts < DOUBTS_MAX;
        self.doubts = self.doubts.saturating_add(u32::from(is_doubted));
        is_doubted
    }

    /// Notes that records from this sequence on begin at the offset: its first one does.
    pub(super) fn mark(&mut self, sequence: u64, offset: u64) {
        let is_due = self
            .marks
            .last()
            .is_none_or(|(held, at)| *held < sequence && offset.saturating_sub(*at) >= MARK_BYTES);
        if is_due {
            self.marks.push((sequence, offset));
        }
    }

    /// Opens the file. Called while nobody can put another one in its place.
    pub(super) fn body(&self, disk: &dyn Disk) -> Result<Body, ReplicatorError> {
        let failed = || ReplicatorError::disk("open", &self.path);
        let open = || disk.open(&self.path, Access::Read).map_err(failed());
        let file = self.file.clone().map_or_else(open, Ok)?;
        Ok(Body::of(file, self.blocks.clone()))
    }

    /// The part from a sequence on.
    pub(super) fn part(
        &self,
        disk: &dyn Disk,
        first: Cursor,
        sequence: u64,
    ) -> Result<Part, ReplicatorError> {
        let place = self.marks.partition_point(|(held, _)| *held <= sequence);
        let mark = place.checked_sub(1).and_then(|place| self.marks.get(place));
        Ok(Part {
            body: self.body(disk)?,
            path: self.path.clone(),
            offset: mark.map_or(HEADER_BYTES as u64, |(_, offset)| *offset),
            length: self.length,
            first: Cursor { epoch: first.epoch, sequence },
            next_sequence: self.next_sequence,
            number: self.number,
        })
    }
}

/// A part of a segment, readable without the lock.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) body: Body,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) first: Cursor,
    pub(super) next_sequence: u64,
    pub(super) number: u32,
}

impl Part {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, ReplicatorError> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let bytes = self.body.read_range(0, length);
        let mut bytes = bytes.map_err(ReplicatorError::disk("read", &self.path))?;
        // What cannot be read any more is met as damage.
        bytes.resize(length, 0);
        Ok(bytes)
    }

    /// Records of the part, about `bytes_max` of them but at least one where there is one; a run of
    /// equal sequences is never cut. What lies between `first` and `next` and is not given is not
    /// there.
    pub(super) fn read(&self, bytes_max: usize) -> Result<RawChunk, ReplicatorError> {
        let mut reach = (bytes_max as u64)
            .saturating_add(2 * MARK_BYTES)
            .saturating_add(PAYLOAD_BYTES_MAX as u64);
        loop {
            if let Some(chunk) = self.read_within(reach, bytes_max)? {
                return Ok(chunk);
            }
            reach = reach.saturating_mul(2);
        }
    }

    /// The same from the next `reach` bytes; `None` where no whole run of records ends in them.
    fn read_within(
        &self,
        reach: u64,
        bytes_max: usize,
    ) -> Result<Option<RawChunk>, ReplicatorError> {
        let left = self.length.saturating_sub(self.offset);
        let length = usize::try_from(left.min(reach)).unwrap_or(usize::MAX);
        let bytes = self.body.read_range(self.offset, length);
        let bytes = bytes.map_err(ReplicatorError::disk("read", &self.path))?;
        let mut chunk = RawChunk { segment: self.number, ..RawChunk::empty(self.first) };
        let mut taken = 0_usize;
        let mut behind = None;
        let (mut before, mut is_damaged) = (None, false);
        for scanned in Scan::new(&bytes, 0, 0) {
            let Scanned::Record(record) = scanned else {
                // Behind what was read the record may go on.
                is_damaged = matches!(scanned, Scanned::Damaged { .. }) || left <= reach;
                continue;
            };
            if record.sequence < self.first.sequence {
                (before, is_damaged) = (Some(record.payload), false);
                continue;
            }
            let last = chunk.records.last().map(|(sequence, _)| *sequence);
            if taken >= bytes_max && last != Some(record.sequence) {
                behind = last;
                break;
            }
            if std::mem::take(&mut is_damaged) {
                chunk.damage.push(self.damage(before, Some(record.payload)));
            }
            before = Some(record.payload);
            taken = taken.saturating_add(record.payload.len());
            chunk.records.push((record.sequence, record.payload.to_vec()));
        }
        if behind.is_none() && left <= reach && (is_damaged || bytes.len() < length) {
            chunk.damage.push(self.damage(before, None));
        }
        if behind.is_none() && left > reach {
            // The last run may go on behind what was read.
            let cut = chunk.records.last().map_or(0, |(sequence, _)| *sequence);
            chunk.records.retain(|(sequence, _)| *sequence < cut);
            behind = chunk.records.last().map(|(sequence, _)| *sequence);
            if behind.is_none() {
                return Ok(None);
            }
        }
        chunk.next.sequence =
            behind.map_or(self.next_sequence, |sequence| sequence.saturating_add(1));
        Ok(Some(chunk))
    }

    fn damage(&self, before: Option<&[u8]>, after: Option<&[u8]>) -> Damage {
        let neighbours = (before.map(<[u8]>::to_vec), after.map(<[u8]>::to_vec));
        Damage { neighbours, segment: self.number }
    }
}
