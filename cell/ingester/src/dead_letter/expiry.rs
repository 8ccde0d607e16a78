//! Letters that are older than any store would have kept their spans: they go, and it is remembered
//! up to when, as a store remembers what it has expired.

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use trace_model::UnixNanos;

use super::{DeadLetterError, DeadLetters, write_durably};

/// Holds the latest append time of an expired letter, in nanoseconds, as text.
const FILE: &str = "expired-until";

pub(super) fn load(directory: &Path) -> io::Result<Option<UnixNanos>> {
    match fs::read_to_string(directory.join(FILE)) {
        Ok(text) => match text.trim().parse() {
            Ok(nanos) => Ok(Some(UnixNanos(nanos))),
            Err(error) => {
                tracing::error!(%error, file = FILE, "it cannot be read: expired letters are unnamed");
                Ok(None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl DeadLetters {
    /// Letters whose records were appended at or before this time have expired and are gone.
    #[must_use]
    pub fn expired_until(&self) -> Option<UnixNanos> {
        self.lock().expired_until
    }

    /// Removes letters whose records were appended before the time; of a letter that cannot be read
    /// the age of its file counts. Gives how many.
    pub fn expire(&self, before: UnixNanos) -> Result<usize, DeadLetterError> {
        let mut old = Vec::new();
        let candidates = self.index().older_than(before);
        for (sequence, appended) in candidates {
            let time = match appended {
                Some(time) => Some(time),
                None => written(&self.path(sequence))?.filter(|time| *time < before),
            };
            old.extend(time.map(|time| (sequence, time)));
        }
        let Some(until) = old.iter().map(|(_, time)| *time).max() else { return Ok(0) };
        self.note_expired(until)?;
        let mut expired = 0_usize;
        for (sequence, _) in old {
            expired = expired.saturating_add(usize::from(self.settle(sequence)?));
        }
        tracing::warn!(letters = expired, "dead letters have expired: nobody took them up in time");
        Ok(expired)
    }

    /// Remembers it before a letter goes: an answer never calls whole what has expired.
    fn note_expired(&self, until: UnixNanos) -> Result<(), DeadLetterError> {
        let mut state = self.lock();
        let until = state.expired_until.max(Some(until));
        if state.expired_until != until {
            let text = until.map_or(0, |until| until.0).to_string();
            let directory = &self.config.directory;
            write_durably(directory, &directory.join(FILE), text.as_bytes())?;
            state.expired_until = until;
        }
        Ok(())
    }
}

/// When a file was written.
fn written(path: &Path) -> io::Result<Option<UnixNanos>> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Some(UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
