//! The checkpoint: committed offsets of the groups, the durable end and the time that the log has
//! vouched for, as of a moment ago.
//!
//! Two slots in one preallocated file are written in turn, so that a torn write leaves the other,
//! and a full disk cannot keep a group from committing.
//!
//! ```text
//! at 0 and at 64 KiB, little-endian:
//!   magic "FSPLOGCP" | crc32c of what follows u32 | version u32 | sequence u64 | length u32 | JSON
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile, read_up_to, write_all_at};
use super::error::OpenError;
use super::identity::FileFault;
use super::lost::KeptRun;
use super::missed::{KeptMissed, Removed};

const FILE: &str = "checkpoint";
const MAGIC: [u8; 8] = *b"FSPLOGCP";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 64 << 10;
const FIXED_BYTES: usize = 28;

/// What is kept across restarts beside the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The oldest record that was kept.
    pub(crate) first: u64,
    /// Everything below was durable when this was written: what is missing below it is damage,
    /// not a torn tail.
    pub(crate) end: u64,
    /// The log vouched for no append time beyond this, in nanoseconds.
    pub(crate) time_ceiling: u64,
    /// Next offset by group.
    pub(crate) commits: BTreeMap<String, u64>,
    /// Runs before the first record that a required group may not have read: dropped for room, or
    /// lost with their file. Oldest first.
    pub(crate) dropped: Vec<DroppedRun>,
    /// Damaged runs, as releases before `lost` wrote them.
    #[serde(default, skip_serializing)]
    pub(crate) set_aside: Vec<DroppedRun>,
    /// Runs that no store has; `None` from a release before this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<Vec<KeptRun>>,
    /// Runs that one group has missed. A release before this field forgets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missed: Vec<KeptMissed>,
    /// Segments that are gone.
    #[serde(default, skip_serializing_if = "Removed::is_empty")]
    pub(crate) removed: Removed,
    /// Lost runs appended until then were forgotten, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expired_until: Option<u64>,
}

/// A run of records that is gone unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DroppedRun {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
}

/// The open checkpoint file.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
}

impl CheckpointFile {
    /// Opens the file, making it where there is none; gives the last checkpoint, or `None` where
    /// none can be read: the groups then begin at the oldest record, which is a replay.
    pub(crate) fn open(disk: &dyn Disk) -> Result<(Self, Option<Checkpoint>), FileFault> {
        match disk.open(FILE) {
            Ok(file) => Self::load(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((Self::create(disk)?, None))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn create(disk: &dyn Disk) -> io::Result<Self> {
        let file = disk.create("checkpoint.new")?;
        file.allocate(2 * SLOT_BYTES as u64)?;
        file.sync()?;
        disk.rename("checkpoint.new", FILE)?;
        disk.sync_directory()?;
        Ok(Self { file, sequence: 0 })
    }

    fn load(file: Arc<dyn DiskFile>) -> Result<(Self, Option<Checkpoint>), FileFault> {
        let mut best: Option<(u64, Checkpoint)> = None;
        for position in [0, SLOT_BYTES as u64] {
            let mut slot = vec![0; SLOT_BYTES];
            read_up_to(file.as_ref(), &mut slot, position)?;
            let Some(read) = decode(&slot)? else { continue };
            if best.as_ref().is_none_or(|(sequence, _)| *sequence < read.0) {
                best = Some(read);
            }
        }
        let sequence = best.as_ref().map_or(0, |(sequence, _)| *sequence);
        Ok((Self { file, sequence }, best.map(|(_, checkpoint)| checkpoint)))
    }

    /// Writes a checkpoint into the older slot and makes it durable.
    pub(crate) fn write(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let sequence = self.sequence.saturating_add(1);
        let slot = encode(sequence, checkpoint)?;
        let position = if sequence.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 };
        write_all_at(self.file.as_ref(), &slot, position)?;
        self.file.sync()?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(sequence: u64, checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(checkpoint)?;
    if json.len() > SLOT_BYTES - FIXED_BYTES {
        return Err(io::Error::other("the checkpoint is larger than its slot"));
    }
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut body = VERSION.to_le_bytes().to_vec();
    body.extend_from_slice(&sequence.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&json);
    let mut slot = MAGIC.to_vec();
    slot.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    slot.extend_from_slice(&body);
    Ok(slot)
}

/// A good slot's sequence and content; `None` where the slot is empty, torn or damaged.
fn decode(slot: &[u8]) -> Result<Option<(u64, Checkpoint)>, FileFault> {
    let Some((checksum, version, body)) = split(slot) else { return Ok(None) };
    let Some((sequence, rest)) = body.split_first_chunk() else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    let Some(json) = rest.get(..length) else { return Ok(None) };
    let covered = slot.get(12..FIXED_BYTES.saturating_add(length)).unwrap_or(&[]);
    if crc32c::crc32c(covered) != checksum {
        return Ok(None);
    }
    if version > VERSION {
        let file = FILE.to_owned();
        return Err(FileFault::Open(OpenError::Newer { file, found: version, known: VERSION }));
    }
    let checkpoint = serde_json::from_slice(json).map_err(|_| {
        let reason = "a good checksum over what is no checkpoint";
        FileFault::Open(OpenError::Damaged { file: FILE.to_owned(), reason })
    })?;
    Ok(Some((u64::from_le_bytes(*sequence), checkpoint)))
}

/// Checksum, version and the rest.
fn split(slot: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (checksum, rest) = slot.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*checksum), u32::from_le_bytes(*version), rest))
}
