//! Which files a store has, noted beside them: one that is gone is missed.
//!
//! ```text
//! magic "FSPNROLL" | version u32 | count u32 | first cursors of the files, ascending
//! | crc32c u32 of all before
//! cursor: epoch millis u64 | epoch random u64 | sequence u64
//! ```
//!
//! Integers are little-endian. A file is noted before it takes records, and is not noted any more
//! before it is removed.

use std::collections::BTreeSet;
use std::path::Path;

use trace_model::location::{Cursor, Epoch};

use super::disk::{LocalDisk, is_rotten};
use super::files::replace_file;
use crate::error::ReplicatorError;

const MAGIC: &[u8; 8] = b"FSPNROLL";
/// The version that this release writes.
const VERSION: u32 = 1;
const FILE_NAME: &str = "files";
const HEAD_BYTES: usize = 16;
const CURSOR_BYTES: usize = 24;

/// What a directory says of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roll {
    /// The first cursor of each.
    Files(BTreeSet<Cursor>),
    /// Nothing: there is no list.
    Absent,
    /// It cannot be read any more.
    Damaged,
}

impl Roll {
    /// Reads a directory's list.
    pub(super) fn load(directory: &Path) -> Result<Self, ReplicatorError> {
        let path = directory.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) if is_rotten(&error) => Vec::new(),
            Err(error) => return Err(ReplicatorError::disk("read", &path)(error)),
        };
        match decode(&bytes) {
            Some((VERSION, files)) => Ok(Self::Files(files)),
            Some((version, _)) => {
                Err(ReplicatorError::NewerVersion { path, version, newest: VERSION })
            }
            None => {
                tracing::error!(path = %path.display(), "the list of a log's files cannot be read");
                Ok(Self::Damaged)
            }
        }
    }

    /// Replaces a directory's list. Durable when this returns.
    pub(super) fn save(directory: &Path, files: &BTreeSet<Cursor>) -> Result<(), ReplicatorError> {
        replace_file(&LocalDisk, &directory.join(FILE_NAME), &encode(files))
    }
}

fn encode(files: &BTreeSet<Cursor>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(files.len()).unwrap_or(u32::MAX).to_le_bytes());
    for Cursor { epoch, sequence } in files {
        for word in [epoch.millis, epoch.random, *sequence] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u32, BTreeSet<Cursor>)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if !body.starts_with(MAGIC) || *crc != crc32c::crc32c(body).to_le_bytes() {
        return None;
    }
    let version = body.get(8..12)?.try_into().map(u32::from_le_bytes).ok()?;
    let cursor = |bytes: &[u8]| {
        let mut words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok());
        let mut next = || words.next().map(u64::from_le_bytes).unwrap_or_default();
        let epoch = Epoch { millis: next(), random: next() };
        Cursor { epoch, sequence: next() }
    };
    Some((version, body.get(HEAD_BYTES..)?.chunks_exact(CURSOR_BYTES).map(cursor).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeSet<Cursor> {
        let cursor = |sequence| Cursor { epoch: Epoch { millis: 7, random: 1 << 60 }, sequence };
        [0, 9, u64::MAX].map(cursor).into()
    }

    #[test]
    fn a_list_comes_back_and_one_of_a_newer_release_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Roll::load(directory.path()).unwrap(), Roll::Absent);
        for files in [files(), BTreeSet::new()] {
            Roll::save(directory.path(), &files).unwrap();
            assert_eq!(Roll::load(directory.path()).unwrap(), Roll::Files(files));
        }
        let mut bytes = encode(&files());
        bytes[8] = 2;
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&crc);
        std::fs::write(directory.path().join(FILE_NAME), bytes).unwrap();
        let loaded = Roll::load(directory.path());
        assert!(matches!(loaded, Err(ReplicatorError::NewerVersion { version: 2, .. })));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&files());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), None, "cut {cut}");
        }
    }
}
