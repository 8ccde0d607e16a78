//! The cursor of one origin, on disk.
//!
//! `FSBC`, version (u32), epoch milliseconds, epoch random, sequence (u64 each), CRC-32C of all
//! before it; little endian. Replaced whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use trace_model::Region;
use trace_model::location::{Cursor, Epoch};

use crate::dead_letter::write_durably;

const MAGIC: &[u8; 4] = b"FSBC";
const VERSION: u32 = 1;
const BODY_BYTES: usize = 32;

/// Why the cursor of an origin cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CursorFileError {
    /// The disk refused.
    #[error("the disk failed at {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Written by a newer release: refused, never guessed.
    #[error("{} has format version {found}; this release reads {VERSION}", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl CursorFileError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Disk { .. } => true,
            Self::NewerVersion { .. } => false,
        }
    }
}

/// Where one origin's cursor is kept.
#[derive(Clone, Debug)]
pub(super) struct CursorFile {
    directory: PathBuf,
    path: PathBuf,
}

impl CursorFile {
    pub(super) fn new(directory: &Path, origin: &Region) -> Self {
        let path = directory.join(format!("{origin}.cursor"));
        Self { directory: directory.to_path_buf(), path }
    }

    /// The cursor; `None` where none was written. A damaged file is as none: everything comes
    /// again, and nothing is counted twice.
    pub(super) fn read(&self) -> Result<Option<Cursor>, CursorFileError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.disk(error)),
        };
        match decode(&bytes) {
            Decoded::Cursor(cursor) => Ok(Some(cursor)),
            Decoded::Newer(found) => {
                Err(CursorFileError::NewerVersion { path: self.path.clone(), found })
            }
            Decoded::Damaged => {
                tracing::warn!(path = %self.path.display(), "a cursor is damaged: from the start");
                Ok(None)
            }
        }
    }

    /// Replaces the cursor; durable when this returns.
    pub(super) fn write(&self, cursor: Cursor) -> Result<(), CursorFileError> {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| write_durably(&self.directory, &self.path, &encode(cursor)));
        written.map_err(|error| self.disk(error))
    }

    fn disk(&self, source: io::Error) -> CursorFileError {
        CursorFileError::Disk { path: self.path.clone(), source }
    }
}

fn encode(cursor: Cursor) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_BYTES + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    for word in [cursor.epoch.millis, cursor.epoch.random, cursor.sequence] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

enum Decoded {
    Cursor(Cursor),
    Newer(u32),
    Damaged,
}

fn decode(bytes: &[u8]) -> Decoded {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return Decoded::Damaged };
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Decoded::Damaged };
    let version = u32::from_le_bytes(*version);
    if version > VERSION {
        return Decoded::Newer(version);
    }
    let Some((body, crc)) = bytes.split_at_checked(BODY_BYTES) else { return Decoded::Damaged };
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Decoded::Damaged;
    }
    let mut words = rest.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let (Some(millis), Some(random), Some(sequence)) = (words.next(), words.next(), words.next())
    else {
        return Decoded::Damaged;
    };
    Decoded::Cursor(Cursor { epoch: Epoch { millis, random }, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &Path) -> CursorFile {
        CursorFile::new(&directory.join("border"), &Region::new("us-east-1").unwrap())
    }

    const fn cursor(sequence: u64) -> Cursor {
        Cursor { epoch: Epoch { millis: 1_700_000_000_000, random: 7 }, sequence }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_last_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        assert_eq!(file.read().unwrap(), None);
        for sequence in [1, 2] {
            file.write(cursor(sequence)).unwrap();
            assert_eq!(file.read().unwrap(), Some(cursor(sequence)));
        }
    }

    #[test]
    fn a_damaged_cursor_is_as_none_whichever_byte_or_length_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        file.write(cursor(9)).unwrap();
        let good = fs::read(&file.path).unwrap();
        for place in (0..4).chain(8..good.len()) {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&file.path, &bad).unwrap();
            assert_eq!(file.read().unwrap(), None, "byte {place}");
        }
        for length in 0..good.len() {
            fs::write(&file.path, &good[..length]).unwrap();
            assert_eq!(file.read().unwrap(), None, "length {length}");
        }
    }

    #[test]
    fn a_cursor_of_a_newer_release_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        file.write(cursor(9)).unwrap();
        let mut bytes = fs::read(&file.path).unwrap();
        bytes[4] = 2;
        fs::write(&file.path, &bytes).unwrap();
        let error = file.read().unwrap_err();
        assert!(matches!(error, CursorFileError::NewerVersion { found: 2, .. }), "{error}");
        assert!(!error.is_retryable());
    }

    #[test]
    fn the_golden_cursor_of_version_1_is_read_and_is_what_is_written_today() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/border-v1");
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        file.write(cursor(0x0102_0304)).unwrap();
        let written = fs::read(&file.path).unwrap();
        fs::copy(golden.join("us-east-1.cursor"), &file.path).unwrap();
        assert_eq!(file.read().unwrap(), Some(cursor(0x0102_0304)));
        assert_eq!(fs::read(&file.path).unwrap(), written);
    }
}
