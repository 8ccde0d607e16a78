//! Files of this store: magic, version, and what is there is there whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::port::StoreError;

/// Format version of every file of this store.
pub(super) const VERSION: u32 = 1;
/// Magic and version.
pub(super) const HEADER_BYTES: usize = 12;

/// What a file holds; its name is `<prefix>-<sequence>.fsm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Deltas since the last seal.
    Log,
    /// Sealed rows.
    Sealed,
    /// The aggregator's state.
    Checkpoint,
    /// Traces that were erased.
    Erased,
}

impl FileKind {
    const ALL: [Self; 4] = [Self::Log, Self::Sealed, Self::Checkpoint, Self::Erased];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Sealed => "sealed",
            Self::Checkpoint => "checkpoint",
            Self::Erased => "erased",
        }
    }

    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Log => b"FSMETLOG",
            Self::Sealed => b"FSMETSEA",
            Self::Checkpoint => b"FSMETCHK",
            Self::Erased => b"FSMETERA",
        }
    }

    pub(super) fn header(self) -> Vec<u8> {
        let mut header = self.magic().to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header
    }

    pub(super) fn path(self, directory: &Path, sequence: u64) -> PathBuf {
        directory.join(format!("{}-{sequence:012}.fsm", self.prefix()))
    }

    /// Checks the header; gives what follows.
    pub(super) fn check(self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let header = bytes.split_first_chunk::<HEADER_BYTES>().map(|(header, _)| header);
        let parts = header.and_then(|header| header.split_first_chunk::<8>());
        let version = parts.and_then(|(magic, version)| {
            (magic == self.magic()).then(|| <[u8; 4]>::try_from(version).ok()).flatten()
        });
        let Some(version) = version else {
            return Err(damaged(path, "it does not start as it should"));
        };
        let found = u32::from_le_bytes(version);
        if found > VERSION {
            return Err(StoreError::NewerFormat { file: name_of(path), found, known: VERSION });
        }
        Ok(())
    }
}

/// The files of a directory, by kind and number. Half-written ones of a crash are removed.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(FileKind, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_file(&path)?;
            continue;
        }
        files.extend(kind_of(&path));
    }
    Ok(files)
}

fn kind_of(path: &Path) -> Option<(FileKind, u64)> {
    path.extension().filter(|extension| *extension == "fsm")?;
    let (prefix, sequence) = path.file_stem()?.to_str()?.split_once('-')?;
    let kind = FileKind::ALL.into_iter().find(|kind| kind.prefix() == prefix)?;
    Some((kind, sequence.parse().ok()?))
}

/// Where the files are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
}

impl Place {
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync_directory(&self.directory)
    }
}

/// Writes a file that is whole under its name or not there, and durable when this returns. After a
/// failure it may be there, and the next start may find it.
pub(super) fn write_whole(place: &Place, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&partial, path)) {
        drop(fs::remove_file(&partial));
        return Err(error);
    }
    place.sync()
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn damaged(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{}: {reason}", name_of(path)))
}

/// A failing disk; a full one is told apart.
#[expect(clippy::needless_pass_by_value, reason = "for use in map_err")]
pub(super) fn disk(error: io::Error) -> StoreError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return StoreError::Full;
    }
    StoreError::Unavailable(error.to_string())
}
