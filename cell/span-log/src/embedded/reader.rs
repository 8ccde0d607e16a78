//! Reading: from the cache where several groups read at the same place, else from the segments,
//! checked. Damage is met as an error, after what lies before it was given.

use std::io;
use std::sync::Arc;

use proto::LoggedBatch;
use trace_model::{LogRange, UnixNanos};

use super::block::{BlockHeader, SectionPlace, unpack};
use super::damage::Damage;
use super::disk::{DiskFile, read_up_to};
use super::segment::{Segment, Step};
use super::shared::{PARTITION, Shared};
use crate::port::{DamagedRange, LogError};

/// Why records are damaged of which nothing is left.
pub(crate) const NO_BLOCK: &str = "no block can be found in their place";

/// A section's bytes; fewer where the file ends before.
pub(crate) fn stored_bytes(file: &dyn DiskFile, place: &SectionPlace) -> io::Result<Vec<u8>> {
    let mut stored = vec![0; place.entry.stored_bytes as usize];
    let read = read_up_to(file, &mut stored, place.position)?;
    stored.truncate(read);
    Ok(stored)
}

/// What became of a section.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The disk refused; it may pass.
    Io(io::Error),
    /// The bytes are not those that were written.
    Damaged(DamagedRange),
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LoadError> for LogError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Io(error) => disk_error(&error),
            LoadError::Damaged(damaged) => Self::Damaged(damaged),
        }
    }
}

pub(crate) fn disk_error(error: &io::Error) -> LogError {
    LogError::Disk(error.to_string())
}

/// A read under way.
#[derive(Debug)]
struct Reading {
    from: u64,
    bytes_max: usize,
    bytes: usize,
    read: Vec<LoggedBatch>,
}

impl Reading {
    const fn is_done(&self) -> bool {
        self.bytes >= self.bytes_max && !self.read.is_empty()
    }

    /// Takes the batches that reach beyond the offset asked for.
    fn take(&mut self, batches: Vec<LoggedBatch>) {
        for logged in batches.into_iter().filter(|logged| logged.range.next > self.from) {
            self.bytes = self.bytes.saturating_add(logged.batch.encoded().len());
            self.read.push(logged);
        }
    }
}

impl Shared {
    /// Refuses an offset that is no longer kept: as damage where it was dropped unread.
    pub(crate) fn check_kept(&self, from: u64) -> Result<(), LogError> {
        let state = self.state();
        let first = state.first();
        if from >= first {
            return Ok(());
        }
        let holds_it =
            |known: &&DamagedRange| (known.range.first..known.range.next).contains(&from);
        if let Some(known) = state.damaged.iter().find(holds_it) {
            return Err(LogError::Damaged(known.clone()));
        }
        let dropped = state.dropped.iter().find(|run| (run.first..run.next).contains(&from));
        let Some(run) = dropped else { return Err(LogError::Expired { wanted: from, first }) };
        Err(LogError::Damaged(DamagedRange {
            range: LogRange { partition: PARTITION, first: run.first, next: run.next },
            append_times: (UnixNanos(run.first_time), UnixNanos(run.last_time)),
            reason: "dropped because the log was full, or lost with its file".to_owned(),
            stranger: None,
        }))
    }

    /// Reads batches from the segments: those of one segment, at least one batch.
    pub(crate) fn read_disk(
        &self,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        let mut reading = Reading { from, bytes_max, bytes: 0, read: Vec::new() };
        match self.read_segment(&mut reading) {
            Err(error) if reading.read.is_empty() => Err(error.into()),
            Ok(()) if reading.read.is_empty() => {
                Err(LogError::Disk(format!("no block with offset {from} was found")))
            }
            // What lies before damage is given first; the next read meets the damage.
            Ok(()) | Err(_) => Ok(reading.read),
        }
    }

    fn read_segment(&self, reading: &mut Reading) -> Result<(), LoadError> {
        let from = reading.from;
        let Some(segment) = self.state().segment_of(from) else { return Ok(()) };
        let mark = segment.extent().mark_of_offset(from).unwrap_or_else(|| segment.start());
        let mut walk = segment.walk(mark);
        while !reading.is_done() {
            match walk.step()? {
                Step::Block(position, block) if block.next_offset() > from => {
                    self.read_block(&segment, position, &block, reading)?;
                }
                Step::Damaged { first, next, times } if next > from => {
                    let damage = Damage::new((first, next), times, NO_BLOCK);
                    return Err(LoadError::Damaged(self.note_damage(&damage)));
                }
                Step::Block(..) | Step::Damaged { .. } => {}
                Step::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn read_block(
        &self,
        segment: &Segment,
        position: u64,
        block: &BlockHeader,
        reading: &mut Reading,
    ) -> Result<(), LoadError> {
        for place in block.places(position) {
            if reading.is_done() {
                break;
            }
            if place.next_offset() > reading.from {
                reading.take(self.load(segment.file.as_ref(), block, &place)?);
            }
        }
        Ok(())
    }

    /// Reads, checks and decodes a section, and keeps its batches for other readers.
    pub(crate) fn load(
        &self,
        file: &dyn DiskFile,
        block: &BlockHeader,
        place: &SectionPlace,
    ) -> Result<Vec<LoggedBatch>, LoadError> {
        let generation = self.cache().generation();
        let stored = stored_bytes(file, place)?;
        let batches = unpack(&place.entry, &stored).map_err(|reason| {
            let offsets = (place.first_offset, place.next_offset());
            let times = (block.append_time, block.append_time);
            LoadError::Damaged(self.note_damage(&Damage::new(offsets, times, reason)))
        })?;
        let mut first = place.first_offset;
        let mut loaded = Vec::with_capacity(batches.len());
        let mut cache = self.cache();
        for batch in batches {
            let next = first.saturating_add(batch.traces().len() as u64);
            let logged = LoggedBatch {
                incarnation: self.identity.log.incarnation,
                range: LogRange { partition: PARTITION, first, next },
                append_time: block.append_time,
                batch: Arc::new(batch),
            };
            first = next;
            cache.insert_read(generation, logged.clone());
            loaded.push(logged);
        }
        Ok(loaded)
    }

    /// The offset of the first record appended at or after the time.
    pub(crate) fn find_time(&self, time: UnixNanos) -> Result<u64, LogError> {
        let (segments, next) = {
            let state = self.state();
            (state.segments.clone(), state.next)
        };
        let holds = |segment: &&Arc<Segment>| {
            let extent = segment.extent();
            extent.first_time.is_some() && extent.last_time >= time
        };
        let Some(segment) = segments.iter().find(holds) else { return Ok(next) };
        let mark = segment.extent().mark_before(time).unwrap_or_else(|| segment.start());
        let mut walk = segment.walk(mark);
        loop {
            match walk.step().map_err(|error| disk_error(&error))? {
                Step::Block(_, block) if block.append_time >= time => {
                    return Ok(block.first_offset);
                }
                Step::Block(..) | Step::Damaged { .. } => {}
                Step::End => return Ok(next),
            }
        }
    }
}
