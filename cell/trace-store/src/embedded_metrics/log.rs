//! The log of deltas: one frame for each, durable before the delta is counted.
//!
//! ```text
//! header | frames: mark "FRAM" | length u32 LE | crc32c of the payload u32 LE | payload
//! ```
//!
//! The last frame may be torn by a crash: nobody was told that it is there, so it is cut off. A
//! frame that does not fit with another one behind it is damage, and reported.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use trace_model::TraceId;

use super::codec::DeltaFrame;
use super::file::{self, FileKind, HEADER_BYTES, Place, damaged, disk};
use crate::port::StoreError;

const MARK: &[u8; 4] = b"FRAM";
const FRAME_HEADER_BYTES: usize = 12;

/// The open log.
#[derive(Debug)]
pub(super) struct DeltaLog {
    pub(super) sequence: u64,
    path: PathBuf,
    file: File,
    /// Where the next frame goes: behind all that is durable.
    end: u64,
    /// A write failed: what lies behind `end` has to be cut off first.
    is_torn: bool,
}

impl DeltaLog {
    /// Creates a log that starts with a frame.
    pub(super) fn create(
        place: &Place,
        sequence: u64,
        first: &DeltaFrame,
    ) -> Result<Self, StoreError> {
        let path = FileKind::Log.path(&place.directory, sequence);
        let mut bytes = FileKind::Log.header();
        put_frame(&mut bytes, &first.encode())?;
        file::write_whole(place, &path, &bytes).map_err(disk)?;
        let end = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let file = OpenOptions::new().write(true).open(&path).map_err(disk)?;
        Ok(Self { sequence, path, file, end, is_torn: false })
    }

    /// Opens a log and reads its frames.
    pub(super) fn open(
        directory: &Path,
        sequence: u64,
    ) -> Result<(Self, Vec<DeltaFrame>), StoreError> {
        let path = FileKind::Log.path(directory, sequence);
        let bytes = fs::read(&path).map_err(disk)?;
        FileKind::Log.check(&path, &bytes)?;
        let (frames, end) = read_frames(&path, &bytes)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(disk)?;
        let is_torn = end < bytes.len();
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        let mut log = Self { sequence, path, file, end, is_torn };
        log.mend().map_err(disk)?;
        Ok((log, frames))
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.end
    }

    /// Whether the id stands somewhere in the log: also in a row that later rows have outdone.
    pub(super) fn may_hold(&self, trace_id: TraceId) -> Result<bool, StoreError> {
        let bytes = fs::read(&self.path).map_err(disk)?;
        Ok(super::erase::may_hold(&bytes, trace_id))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a frame: durable when this returns, and not there when it fails.
    pub(super) fn append(&mut self, frame: &DeltaFrame) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, &frame.encode())?;
        self.mend().map_err(disk)?;
        self.is_torn = true;
        self.write(&bytes).map_err(disk)?;
        self.is_torn = false;
        self.end = self.end.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    /// Cuts off what a failed write or a crash has left.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.end)?;
            self.file.sync_data()?;
            self.is_torn = false;
        }
        Ok(())
    }
}

fn put_frame(output: &mut Vec<u8>, payload: &[u8]) -> Result<(), StoreError> {
    let length = u32::try_from(payload.len())
        .map_err(|_| StoreError::Refused("a delta of more than 4 GiB".into()))?;
    output.extend_from_slice(MARK);
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    output.extend_from_slice(payload);
    Ok(())
}

/// The frames, and where the last whole one ends.
fn read_frames(path: &Path, bytes: &[u8]) -> Result<(Vec<DeltaFrame>, usize), StoreError> {
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(payload) = frame_at(rest) else {
            return if has_frame_behind(rest) {
                Err(damaged(path, format!("a frame at byte {at} does not fit")))
            } else {
                Ok((frames, at))
            };
        };
        frames.push(DeltaFrame::decode(payload).map_err(|error| damaged(path, error))?);
        at = at.saturating_add(FRAME_HEADER_BYTES).saturating_add(payload.len());
    }
    Ok((frames, at))
}

/// The payload of a frame that starts here, if it is whole.
fn frame_at(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let (mark, numbers) = header.split_first_chunk::<4>()?;
    let (length, crc) = numbers.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (mark == MARK && crc32c::crc32c(payload).to_le_bytes() == *crc).then_some(payload)
}

fn has_frame_behind(bytes: &[u8]) -> bool {
    let starts = bytes.windows(MARK.len()).enumerate().skip(1).filter(|(_, mark)| *mark == MARK);
    starts.map(|(at, _)| at).any(|at| bytes.get(at..).is_some_and(|rest| frame_at(rest).is_some()))
}
