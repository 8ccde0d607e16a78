//! The note as it is kept: read at once, and written by one at a time off the way of the spans.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::note::NoteFile;
use super::own_note::Note;
use crate::port::LogError;

/// The note, and its file.
#[derive(Debug)]
pub(super) struct Kept {
    file: NoteFile,
    /// Held while the file is written: by nobody who receives spans.
    writing: Mutex<()>,
    note: Mutex<Note>,
    is_registered: AtomicBool,
    is_retired: AtomicBool,
}

impl Kept {
    /// As the file has it.
    pub(super) fn new(file: NoteFile, note: Note) -> Self {
        Self {
            file,
            writing: Mutex::new(()),
            is_registered: AtomicBool::new(note.is_registered),
            is_retired: AtomicBool::new(note.is_retired),
            note: Mutex::new(note),
        }
    }

    pub(super) fn note(&self) -> MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the front has noted the collector, and whether it is retired.
    pub(super) fn standing(&self) -> (bool, bool) {
        (self.is_registered.load(Ordering::Acquire), self.is_retired.load(Ordering::Acquire))
    }

    /// Changes the note; durable when it returns, and not changed where that failed. Blocks.
    pub(super) fn change(&self, change: impl FnOnce(&mut Note)) -> Result<(), LogError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.note().clone();
        change(&mut changed);
        self.file.write(&changed).map_err(|error| LogError::Disk(error.to_string()))?;
        self.is_registered.store(changed.is_registered, Ordering::Release);
        self.is_retired.store(changed.is_retired, Ordering::Release);
        *self.note() = changed;
        Ok(())
    }
}
