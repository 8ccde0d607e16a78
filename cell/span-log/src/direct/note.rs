//! A small file of JSON that is replaced as a whole: there as it was or as it is, whatever ends the
//! process.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DirectError;

/// Where a note is.
#[derive(Clone, Debug)]
pub(super) struct NoteFile {
    path: PathBuf,
}

impl NoteFile {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    fn fault(&self, reason: String) -> DirectError {
        DirectError::File { file: self.path.display().to_string(), reason }
    }

    /// What it says; `None` where it is not there.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, DirectError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.fault(error.to_string())),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| self.fault(error.to_string()))
    }

    /// Says something else from now on; durable when it returns.
    pub(super) fn write<T: Serialize>(&self, note: &T) -> Result<(), DirectError> {
        let text = serde_json::to_vec(note).map_err(|error| self.fault(error.to_string()))?;
        self.replace(&text).map_err(|error| self.fault(error.to_string()))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let directory = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
        fs::create_dir_all(directory)?;
        let next = self.path.with_extension("new");
        let mut file = File::create(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        File::open(directory)?.sync_all()
    }
}
