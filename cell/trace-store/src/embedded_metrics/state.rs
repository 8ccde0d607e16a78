//! What the store has open: the writer's side and the readers' side.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use trace_model::{Coverage, UnixNanos};

use super::codec::{CheckpointChange, DeltaFrame, SeriesKey, Unfit};
use super::erase::Erased;
use super::file::{self, FileKind, HEADER_BYTES, Place, damaged, disk};
use super::log::DeltaLog;
use super::sealed::SealedFile;
use super::set_aside;
use super::table::Table;
use crate::port::{EdgeKey, MetricsDelta, StoreError};

/// The writer's side.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) log: DeltaLog,
    /// Arrival times never go backwards, also when the wall clock does.
    pub(super) last_arrival: UnixNanos,
    next_checkpoint: u64,
    /// Checkpoint files that nothing refers to any more.
    old_checkpoints: Vec<u64>,
    checkpoint: Option<u64>,
    pub(super) erased: Erased,
    /// A seal was begun and not ended: its sealed file, and the log that was to follow, may be there.
    pub(super) has_strays: bool,
}

/// The readers' side.
#[derive(Debug)]
pub(super) struct View {
    pub(super) series: Table<SeriesKey>,
    pub(super) edges: Table<EdgeKey>,
    /// When the first and the last of the rows in memory arrived.
    pub(super) arrivals: (UnixNanos, UnixNanos),
    /// Sealed files, oldest first.
    pub(super) sealed: Vec<Arc<SealedFile>>,
    /// An erasure has changed the rows in memory and not ended the log yet.
    pub(super) is_scrubbed: bool,
    /// Sealed files that cannot be read.
    pub(super) damaged: Vec<String>,
    pub(super) covered: Coverage,
    /// The file with the aggregator's state, and what was appended to it.
    checkpoint: (Option<u64>, Vec<u8>),
}

/// Opens what the directory holds, and finishes what a crash has left half done.
pub(super) fn open(place: &Place, now: UnixNanos) -> Result<(Writer, View), StoreError> {
    let directory = &place.directory;
    let files = file::list(directory).map_err(disk)?;
    let of_kind = |wanted: FileKind| {
        let mut sequences: Vec<u64> = files
            .iter()
            .filter(|(kind, _)| *kind == wanted)
            .map(|(_, sequence)| *sequence)
            .collect();
        sequences.sort_unstable();
        sequences
    };
    let mut view = View::empty();
    for sequence in of_kind(FileKind::Sealed) {
        view.open_sealed(directory, sequence)?;
    }
    let mut logs = of_kind(FileKind::Log);
    let newest = logs.pop();
    for superseded in logs {
        file::remove(&FileKind::Log.path(directory, superseded)).map_err(disk)?;
    }
    let checkpoints = of_kind(FileKind::Checkpoint);
    let mut writer = match newest {
        Some(sequence) => view.replay(directory, sequence, now)?,
        None => {
            let sequence =
                of_kind(FileKind::Sealed).last().map_or(1, |last| last.saturating_add(1));
            let log = DeltaLog::create(place, sequence, &view.base(now))?;
            Writer::new(log, now)
        }
    };
    writer.erased = Erased::open(directory)?;
    writer.checkpoint = view.checkpoint.0;
    writer.next_checkpoint = checkpoints.last().map_or(1, |last| last.saturating_add(1));
    writer.old_checkpoints =
        checkpoints.into_iter().filter(|held| Some(*held) != view.checkpoint.0).collect();
    writer.remove_old_checkpoints(directory);
    let is_sealed = FileKind::Sealed.path(directory, writer.log.sequence).exists();
    if is_sealed {
        view.clear_rows();
        writer.begin_log(place, &view)?;
    }
    Ok((writer, view))
}

impl Writer {
    fn new(log: DeltaLog, last_arrival: UnixNanos) -> Self {
        Self {
            log,
            last_arrival,
            next_checkpoint: 1,
            old_checkpoints: Vec::new(),
            checkpoint: None,
            erased: Erased::default(),
            has_strays: false,
        }
    }

    /// Removes what a seal that failed half way has left, the new log first: a start that finds it
    /// holds it for the successor of this one, and takes the sealed file for all that this one had.
    pub(super) fn remove_strays(&mut self, place: &Place) -> Result<(), StoreError> {
        if !self.has_strays {
            return Ok(());
        }
        let sequence = self.log.sequence;
        for (kind, sequence) in
            [(FileKind::Log, sequence.saturating_add(1)), (FileKind::Sealed, sequence)]
        {
            file::remove(&kind.path(&place.directory, sequence)).map_err(disk)?;
            place.sync().map_err(disk)?;
        }
        self.has_strays = false;
        Ok(())
    }

    /// Makes a delta durable: the aggregator's whole state in a file of its own first, since it is
    /// large and replaced often, then the delta in the log.
    pub(super) fn append(
        &mut self,
        place: &Place,
        mut delta: MetricsDelta,
        now: UnixNanos,
    ) -> Result<DeltaFrame, StoreError> {
        let state = std::mem::take(&mut delta.checkpoint);
        let checkpoint = if delta.extends_checkpoint {
            CheckpointChange::Extend(state)
        } else {
            let sequence = self.next_checkpoint;
            self.next_checkpoint = sequence.saturating_add(1);
            self.old_checkpoints.push(sequence);
            write_checkpoint(place, sequence, &state)?;
            CheckpointChange::Replace(sequence, Vec::new())
        };
        let covered = delta.covered.clone();
        let (red, edges) = DeltaFrame::rows_of(delta);
        let arrival = self.last_arrival.max(now);
        let mut frame = DeltaFrame { arrival, covered, checkpoint, red, edges };
        self.erased.scrub(&mut frame);
        self.log.append(&frame)?;
        self.last_arrival = arrival;
        if let CheckpointChange::Replace(sequence, _) = &frame.checkpoint {
            self.old_checkpoints.retain(|old| old != sequence);
            self.old_checkpoints.extend(self.checkpoint.replace(*sequence));
        }
        Ok(frame)
    }

    /// Begins a new log that starts where the view is, and removes the old one.
    pub(super) fn begin_log(&mut self, place: &Place, view: &View) -> Result<(), StoreError> {
        let sequence = self.log.sequence.saturating_add(1);
        let log = DeltaLog::create(place, sequence, &view.base(self.last_arrival))?;
        let old = std::mem::replace(&mut self.log, log);
        if let Err(error) = file::remove(old.path()) {
            tracing::warn!(%error, "a superseded log of metrics is left; the next start removes it");
        }
        Ok(())
    }

    /// Removes checkpoint files that nothing refers to. What cannot be removed is tried again.
    pub(super) fn remove_old_checkpoints(&mut self, directory: &Path) {
        self.old_checkpoints
            .retain(|old| file::remove(&FileKind::Checkpoint.path(directory, *old)).is_err());
    }
}

impl View {
    const fn empty() -> Self {
        Self {
            series: Table::new(),
            edges: Table::new(),
            arrivals: (UnixNanos(0), UnixNanos(0)),
            sealed: Vec::new(),
            damaged: Vec::new(),
            is_scrubbed: false,
            covered: Coverage::none(0),
            checkpoint: (None, Vec::new()),
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.series.bytes().saturating_add(self.edges.bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.edges.is_empty()
    }

    pub(super) fn clear_rows(&mut self) {
        self.series = Table::new();
        self.edges = Table::new();
    }

    /// Puts a rewritten sealed file in the place of the one that it was.
    pub(super) fn replace_sealed(&mut self, rewritten: &Arc<SealedFile>) {
        for held in &mut self.sealed {
            if held.sequence == rewritten.sequence {
                *held = Arc::clone(rewritten);
            }
        }
    }

    /// Counts a delta that is durable.
    pub(super) fn count(&mut self, frame: DeltaFrame) -> Result<(), Unfit> {
        if self.is_empty() {
            self.arrivals.0 = frame.arrival;
        }
        self.arrivals.1 = frame.arrival;
        self.series.add(frame.red)?;
        self.edges.add(frame.edges)?;
        self.covered.join(&frame.covered);
        match frame.checkpoint {
            CheckpointChange::Extend(bytes) => self.checkpoint.1.extend_from_slice(&bytes),
            CheckpointChange::Replace(file, bytes) => self.checkpoint = (Some(file), bytes),
        }
        Ok(())
    }

    /// The aggregator's state.
    pub(super) fn read_checkpoint(&self, directory: &Path) -> Result<Vec<u8>, StoreError> {
        let mut state = match self.checkpoint.0 {
            Some(sequence) => read_checkpoint(directory, sequence)?,
            None => Vec::new(),
        };
        state.extend_from_slice(&self.checkpoint.1);
        Ok(state)
    }

    /// The frame with which a new log goes on from here.
    fn base(&self, arrival: UnixNanos) -> DeltaFrame {
        let appended = self.checkpoint.1.clone();
        let checkpoint = match self.checkpoint.0 {
            Some(file) => CheckpointChange::Replace(file, appended),
            None => CheckpointChange::Extend(appended),
        };
        let covered = self.covered.clone();
        DeltaFrame { arrival, covered, checkpoint, red: Vec::new(), edges: Vec::new() }
    }

    fn open_sealed(&mut self, directory: &Path, sequence: u64) -> Result<(), StoreError> {
        match SealedFile::open(directory, sequence) {
            Ok(sealed) => self.sealed.push(Arc::new(sealed)),
            Err(error @ StoreError::Damaged(_)) => {
                let path = FileKind::Sealed.path(directory, sequence);
                self.damaged.push(set_aside(&path, &error));
            }
            Err(
                error @ (StoreError::Full
                | StoreError::Busy
                | StoreError::Unavailable(_)
                | StoreError::Fenced
                | StoreError::NewerFormat { .. }
                | StoreError::Unsupported(_)
                | StoreError::Refused(_)),
            ) => return Err(error),
        }
        Ok(())
    }

    fn replay(
        &mut self,
        directory: &Path,
        sequence: u64,
        now: UnixNanos,
    ) -> Result<Writer, StoreError> {
        let (log, frames) = DeltaLog::open(directory, sequence)?;
        let mut last_arrival = now;
        for frame in frames {
            last_arrival = last_arrival.max(frame.arrival);
            self.count(frame).map_err(|error| damaged(log.path(), error))?;
        }
        Ok(Writer::new(log, last_arrival))
    }
}

/// header | crc32c of the state u32 LE | state
fn write_checkpoint(place: &Place, sequence: u64, state: &[u8]) -> Result<(), StoreError> {
    let mut bytes = FileKind::Checkpoint.header();
    bytes.extend_from_slice(&crc32c::crc32c(state).to_le_bytes());
    bytes.extend_from_slice(state);
    let path = FileKind::Checkpoint.path(&place.directory, sequence);
    file::write_whole(place, &path, &bytes).map_err(disk)
}

fn read_checkpoint(directory: &Path, sequence: u64) -> Result<Vec<u8>, StoreError> {
    let path = FileKind::Checkpoint.path(directory, sequence);
    let bytes = super::if_there(fs::read(&path)).map_err(disk)?;
    let bytes = bytes.ok_or_else(|| damaged(&path, "it is missing"))?;
    FileKind::Checkpoint.check(&path, &bytes)?;
    let body = bytes.get(HEADER_BYTES..).and_then(|body| body.split_first_chunk::<4>());
    let Some((crc, state)) = body else { return Err(damaged(&path, "it is cut short")) };
    if crc32c::crc32c(state).to_le_bytes() != *crc {
        return Err(damaged(&path, "its checksum does not fit"));
    }
    Ok(state.to_vec())
}
