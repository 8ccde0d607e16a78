//! What a store knows beside its records: on what terms it keeps them, and where its log comes from.
//! One small file, replaced whole.
//!
//! ```text
//! magic "FSPNTERM" | version u32 | flags u32 | retention nanos u64 | expired until u64
//! | evicted until u64 | missing: cursor | mended until: cursor | ends: cursors
//! | crc32c u32 of all before
//! cursor: epoch millis u64 | epoch random u64 | sequence u64
//! ```
//!
//! A flag says whether a field is there. Integers are little-endian.

use std::path::Path;
use std::time::Duration;

use trace_model::location::{Cursor, Epoch};
use trace_model::{Forgotten, UnixNanos};

use super::disk::{LocalDisk, is_rotten};
use super::files::replace_file;
use crate::error::ReplicatorError;
use crate::feed::Terms;
use crate::origin_log::Lineage;

const MAGIC: &[u8; 8] = b"FSPNTERM";
/// The version that this release writes.
const VERSION: u32 = 1;
const FILE_NAME: &str = "terms";
/// Bytes of a cursor.
const CURSOR_BYTES: usize = 24;
/// Bytes before the ends.
const HEAD_BYTES: usize = 40 + 2 * CURSOR_BYTES;

const RETENTION: u32 = 1;
const EXPIRED: u32 = 1 << 1;
const EVICTED: u32 = 1 << 2;
const LINEAGE: u32 = 1 << 3;
const PRUNED: u32 = 1 << 4;
const MISSING: u32 = 1 << 5;
const MENDED: u32 = 1 << 6;
const ROLL: u32 = 1 << 7;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sheet {
    pub(crate) terms: Terms,
    /// Of an origin's own log, once it has been opened.
    pub(crate) lineage: Option<Lineage>,
    /// A list of the files stands beside, and is kept up with them.
    pub(crate) has_roll: bool,
}

/// Why a file says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BadSheet {
    Damaged,
    Newer(u32),
}

impl Sheet {
    /// Reads a directory's file; where there is none, nothing was noted. `None` where it is damaged:
    /// then anything may have been let go.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, ReplicatorError> {
        let path = directory.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(Self::default()));
            }
            Err(error) if is_rotten(&error) => Vec::new(),
            Err(error) => return Err(ReplicatorError::disk("read", &path)(error)),
        };
        match Self::decode(&bytes) {
            Ok(sheet) => Ok(Some(sheet)),
            Err(BadSheet::Newer(version)) => {
                Err(ReplicatorError::NewerVersion { path, version, newest: VERSION })
            }
            Err(BadSheet::Damaged) => {
                tracing::error!(path = %path.display(), "what was let go of a log cannot be read");
                Ok(None)
            }
        }
    }

    /// Whether a directory has the file.
    pub(crate) fn is_there(directory: &Path) -> bool {
        directory.join(FILE_NAME).exists()
    }

    /// Replaces a directory's file. Durable when this returns.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), ReplicatorError> {
        let path = directory.join(FILE_NAME);
        replace_file(&LocalDisk, &path, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let Terms { retention, forgotten } = self.terms;
        let lineage = self.lineage.clone().unwrap_or_default();
        let mut flags = 0;
        for (flag, is_set) in [
            (RETENTION, retention.is_some()),
            (EXPIRED, forgotten.expired_until.is_some()),
            (EVICTED, forgotten.evicted_until.is_some()),
            (LINEAGE, self.lineage.is_some()),
            (PRUNED, lineage.is_pruned),
            (MISSING, lineage.missing.is_some()),
            (MENDED, lineage.mended_until.is_some()),
            (ROLL, self.has_roll),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        let retention = retention.unwrap_or_default().as_nanos();
        let mut bytes = Vec::with_capacity(HEAD_BYTES.saturating_add(4));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        for word in [
            u64::try_from(retention).unwrap_or(u64::MAX),
            forgotten.expired_until.unwrap_or_default().0,
            forgotten.evicted_until.unwrap_or_default().0,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let pair = [lineage.missing, lineage.mended_until].map(Option::unwrap_or_default);
        for Cursor { epoch, sequence } in pair.iter().chain(&lineage.ends) {
            for word in [epoch.millis, epoch.random, *sequence] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadSheet> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(BadSheet::Damaged)?;
        if !body.starts_with(MAGIC) || *crc != crc32c::crc32c(body).to_le_bytes() {
            return Err(BadSheet::Damaged);
        }
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let mut words = body.chunks_exact(8).skip(1).map(word);
        let mut next = || words.next().ok_or(BadSheet::Damaged);
        let numbers = next()?;
        let version = u32::try_from(numbers & u64::from(u32::MAX)).unwrap_or(0);
        if version != VERSION {
            return Err(BadSheet::Newer(version));
        }
        let flags = u32::try_from(numbers >> 32).unwrap_or(0);
        let has = |flag: u32| flags & flag != 0;
        let retention = Duration::from_nanos(next()?);
        let (expired, evicted) = (UnixNanos(next()?), UnixNanos(next()?));
        let forgotten = Forgotten {
            expired_until: has(EXPIRED).then_some(expired),
            evicted_until: has(EVICTED).then_some(evicted),
        };
        let cursor = |bytes: &[u8]| {
            let mut words = bytes.chunks_exact(8).map(word);
            let mut next = || words.next().unwrap_or_default();
            let epoch = Epoch { millis: next(), random: next() };
            Cursor { epoch, sequence: next() }
        };
        let cursors = body.get(HEAD_BYTES - 2 * CURSOR_BYTES..).ok_or(BadSheet::Damaged)?;
        let mut cursors = cursors.chunks_exact(CURSOR_BYTES).map(cursor);
        let mut next = || cursors.next().ok_or(BadSheet::Damaged);
        let (missing, mended_until) = (next()?, next()?);
        let lineage = Lineage {
            missing: has(MISSING).then_some(missing),
            mended_until: has(MENDED).then_some(mended_until),
            is_pruned: has(PRUNED),
            ends: cursors.collect(),
        };
        Ok(Self {
            terms: Terms { retention: has(RETENTION).then_some(retention), forgotten },
            lineage: has(LINEAGE).then_some(lineage),
            has_roll: has(ROLL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheets() -> Vec<Sheet> {
        let cursor =
            |millis| Cursor { epoch: Epoch { millis, random: u64::MAX }, sequence: millis + 2 };
        let lineage = Lineage {
            ends: vec![cursor(3), cursor(9)],
            is_pruned: true,
            mended_until: Some(cursor(0)),
            missing: Some(cursor(12)),
        };
        let mark = |nanos| Some(UnixNanos(nanos));
        let forgotten = Forgotten { expired_until: mark(0), evicted_until: None };
        let terms = Terms { retention: Some(Duration::from_secs(3_600)), forgotten };
        let forgotten = Forgotten { expired_until: None, evicted_until: mark(5) };
        vec![
            Sheet::default(),
            Sheet { terms, ..Sheet::default() },
            Sheet { terms, lineage: Some(Lineage::default()), has_roll: true },
            Sheet {
                terms: Terms { retention: None, forgotten },
                lineage: Some(lineage),
                has_roll: false,
            },
        ]
    }

    #[test]
    fn what_was_noted_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Sheet::load(directory.path()).unwrap(), Some(Sheet::default()));
        for sheet in sheets() {
            sheet.save(directory.path()).unwrap();
            assert_eq!(Sheet::load(directory.path()).unwrap(), Some(sheet));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for sheet in sheets() {
            let good = sheet.encode();
            for bit in 0..good.len() * 8 {
                let mut bytes = good.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Sheet::decode(&bytes), Err(BadSheet::Damaged), "bit {bit}");
            }
            for cut in 0..good.len() {
                assert_eq!(Sheet::decode(&good[..cut]), Err(BadSheet::Damaged), "cut {cut}");
            }
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Sheet::default().encode();
        bytes[8] = 2;
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&crc);
        std::fs::write(directory.path().join(FILE_NAME), bytes).unwrap();
        let loaded = Sheet::load(directory.path());
        assert!(matches!(loaded, Err(ReplicatorError::NewerVersion { version: 2, .. })));
    }
}
