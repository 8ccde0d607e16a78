//! The frame that every sealed file shares: magic and version, sections with checksums, a footer
//! that says where they are, written to a temporary name and renamed when it is durable.
//!
//! ```text
//! magic [8] | version u32 | sections … | footer (JSON) | footer length u32 | its CRC-32C u32 | magic [8]
//! ```
//!
//! A file of a newer version is refused. A file is never changed after the rename.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Largest footer and largest section that is read: bounds what a damaged length allocates.
const SECTION_BYTES_MAX: u64 = 1 << 31;
const HEADER_BYTES: u64 = 12;
const TRAILER_BYTES: u64 = 16;
const ZSTD_LEVEL: i32 = 3;
/// How the name of an unfinished file ends; such files are removed when the store opens.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A kind of sealed file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Length before compression; 0 where it is not compressed.
    pub(crate) raw_length: u64,
    pub(crate) crc: u32,
}

/// What the disk said, in the store's words.
pub(crate) fn disk_error(path: &Path, error: &std::io::Error) -> StoreError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded) {
        return StoreError::Full;
    }
    StoreError::Unavailable(format!("{}: {error}", file_name(path)))
}

pub(crate) fn damaged(path: &Path, what: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{}: {what}", file_name(path)))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A sealed file being written.
#[derive(Debug)]
pub(crate) struct SealedWriter {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    offset: u64,
    format: Format,
    is_finished: bool,
}

impl SealedWriter {
    pub(crate) fn create(path: &Path, format: Format) -> Result<Self, StoreError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| disk_error(path, &error))?;
        let path = path.to_owned();
        let mut writer = Self { file, path, temporary, offset: 0, format, is_finished: false };
        writer.write(&format.magic)?;
        writer.write(&format.version.to_le_bytes())?;
        Ok(writer)
    }

    /// Bytes written so far.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|error| disk_error(&self.path, &error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Appends a section.
    pub(crate) fn section(&mut self, bytes: &[u8], compress: bool) -> Result<Section, StoreError> {
        let offset = self.offset;
        let (stored, raw_length) = if compress && !bytes.is_empty() {
            let stored = zstd::bulk::compress(bytes, ZSTD_LEVEL);
            (stored.map_err(|error| disk_error(&self.path, &error))?, bytes.len() as u64)
        } else {
            (bytes.to_vec(), 0)
        };
        self.write(&stored)?;
        let length = stored.len() as u64;
        Ok(Section { offset, length, raw_length, crc: crc32c::crc32c(&stored) })
    }

    /// Writes the footer, makes the file durable and gives it its name. The directory is the
    /// caller's to sync.
    pub(crate) fn finish(mut self, footer: &impl Serialize) -> Result<u64, StoreError> {
        let footer = serde_json::to_vec(footer).map_err(|error| damaged(&self.path, &error))?;
        let length = u32::try_from(footer.len()).map_err(|error| damaged(&self.path, &error))?;
        self.write(&footer)?;
        self.write(&length.to_le_bytes())?;
        self.write(&crc32c::crc32c(&footer).to_le_bytes())?;
        let magic = self.format.magic;
        self.write(&magic)?;
        self.file.sync_data().map_err(|error| disk_error(&self.path, &error))?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|error| disk_error(&self.path, &error))?;
        self.is_finished = true;
        Ok(self.offset)
    }
}

impl Drop for SealedWriter {
    /// What was not finished leaves nothing behind: on a full disk that makes room.
    fn drop(&mut self) {
        if !self.is_finished {
            drop(std::fs::remove_file(&self.temporary));
        }
    }
}

/// A sealed file, open.
#[derive(Debug)]
pub(crate) struct SealedFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl SealedFile {
    /// Opens a file and reads its footer.
    pub(crate) fn open<F: DeserializeOwned>(
        path: &Path,
        format: Format,
    ) -> Result<(Self, F), StoreError> {
        let file = File::open(path).map_err(|error| {
            let is_gone = error.kind() == std::io::ErrorKind::NotFound;
            if is_gone { damaged(path, &"the file is gone") } else { disk_error(path, &error) }
        })?;
        let length = file.metadata().map_err(|error| disk_error(path, &error))?.len();
        let sealed = Self { file, path: path.to_owned(), length };
        sealed.check_header(format)?;
        let footer = sealed.read_footer(format)?;
        let footer = serde_json::from_slice(&footer).map_err(|error| damaged(path, &error))?;
        Ok((sealed, footer))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    fn check_header(&self, format: Format) -> Result<(), StoreError> {
        let header = self.read(0, HEADER_BYTES)?;
        let (magic, version) = header.split_at_checked(8).unwrap_or((&[], &[]));
        if magic != format.magic {
            return Err(damaged(&self.path, &"not a file of this kind"));
        }
        let found = version.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if found > format.version {
            let file = file_name(&self.path);
            return Err(StoreError::NewerFormat { file, found, known: format.version });
        }
        Ok(())
    }

    fn read_footer(&self, format: Format) -> Result<Vec<u8>, StoreError> {
        let cut = || damaged(&self.path, &"the footer is cut off");
        let trailer_at = self.length.checked_sub(TRAILER_BYTES).ok_or_else(cut)?;
        let trailer = self.read(trailer_at, TRAILER_BYTES)?;
        let word = |at: usize| {
            let bytes = trailer.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        if trailer.get(8..) != Some(&format.magic[..]) {
            return Err(cut());
        }
        let length = u64::from(word(0));
        let footer_at = trailer_at.checked_sub(length).ok_or_else(cut)?;
        let footer = self.read(footer_at, length)?;
        if crc32c::crc32c(&footer) != word(4) {
            return Err(damaged(&self.path, &"the footer's checksum differs"));
        }
        Ok(footer)
    }

    /// Reads bytes of the file.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        if !is_inside || length > SECTION_BYTES_MAX {
            return Err(damaged(&self.path, &"a part beyond the end"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| {
            let is_cut = error.kind() == std::io::ErrorKind::UnexpectedEof;
            let cut = || damaged(&self.path, &"the file is cut short");
            if is_cut { cut() } else { disk_error(&self.path, &error) }
        })?;
        Ok(bytes)
    }

    /// Reads bytes over which this checksum stands.
    pub(crate) fn read_checked(
        &self,
        offset: u64,
        length: u64,
        crc: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let bytes = self.read(offset, length)?;
        if crc32c::crc32c(&bytes) != crc {
            return Err(damaged(&self.path, &format!("a checksum differs at {offset}")));
        }
        Ok(bytes)
    }

    /// Reads a section.
    pub(crate) fn section(&self, section: &Section) -> Result<Vec<u8>, StoreError> {
        let stored = self.read_checked(section.offset, section.length, section.crc)?;
        if section.raw_length == 0 {
            return Ok(stored);
        }
        if section.raw_length > SECTION_BYTES_MAX {
            return Err(damaged(&self.path, &"a section too large"));
        }
        let raw_length = usize::try_from(section.raw_length).unwrap_or(0);
        zstd::bulk::decompress(&stored, raw_length).map_err(|error| damaged(&self.path, &error))
    }
}
