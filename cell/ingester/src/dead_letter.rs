//! Records that no retry will make good, kept durably with their reason until a person or a newer
//! release takes them up again.
//!
//! One immutable file for each letter, so that one can be taken or erased without touching another.
//! A full dead letter refuses: the group then waits and shows lag, and nothing is thrown away.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use span_log::GroupId;
use trace_model::{LogRange, TenantId, TraceId, UnixNanos};

mod erase;
mod expiry;
mod index;
mod letter;

use index::LetterIndex;
use letter::{VERSION, decode, encode, shortened};

/// Extension of a letter; others in the directory are left alone.
const EXTENSION: &str = "letter";

/// Limits of the dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// Where the letters are.
    pub directory: PathBuf,
    /// Most bytes that they take together (default 1 GiB).
    pub bytes_max: u64,
    /// Most letters (default 10,000).
    pub letters_max: usize,
    /// Most trace ids of letters that are known without a look into a file (default 262,144, about
    /// 8 MB). Beyond, any trace may be in a letter.
    pub traces_max: usize,
}

impl DeadLetterConfig {
    /// The default limits.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, bytes_max: 1 << 30, letters_max: 10_000, traces_max: 1 << 18 }
    }
}

/// Why the dead letter did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// At its limit: passes when letters are taken.
    #[error("the dead letter is full")]
    Full,
    /// The disk refused.
    #[error("the dead letter's disk failed")]
    Disk(#[from] io::Error),
    /// A letter that cannot be read.
    #[error("dead letter {sequence} is damaged: {reason}")]
    Damaged {
        /// Its number.
        sequence: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Written by a newer release.
    #[error("dead letter {sequence} has version {found}; this release reads up to {VERSION}")]
    NewerFormat {
        /// Its number.
        sequence: u64,
        /// Its version.
        found: u32,
    },
}

impl DeadLetterError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Disk(_) => true,
            Self::Damaged { .. } | Self::NewerFormat { .. } => false,
        }
    }
}

/// A batch that was set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Name of the group that could not take it.
    pub group: String,
    /// Why.
    pub reason: String,
    /// The log that it comes from.
    pub incarnation: u64,
    /// Its place there.
    pub range: LogRange,
    /// When the log appended it.
    pub append_time: UnixNanos,
    /// The batch's encoded form: decode it with [`proto::SpanBatch::decode`].
    pub encoded: Bytes,
}

/// A letter as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterSummary {
    /// Its number: ever growing within the directory.
    pub sequence: u64,
    /// Name of the group.
    pub group: String,
    /// Why it was set aside.
    pub reason: String,
    /// Its place in the log.
    pub range: LogRange,
    /// When the log appended it.
    pub append_time: UnixNanos,
    /// Whose spans they are.
    pub tenant: TenantId,
    /// Traces in it.
    pub traces: usize,
    /// Spans in it.
    pub spans: usize,
    /// Its size on disk.
    pub bytes: u64,
}

/// The dead letter of a cell. Shared by all groups.
#[derive(Debug)]
pub struct DeadLetters {
    config: DeadLetterConfig,
    /// Held while files change.
    state: Mutex<State>,
    /// Held for moments; taken after `state`.
    index: Mutex<LetterIndex>,
}

#[derive(Debug)]
struct State {
    next_sequence: u64,
    letters: usize,
    bytes: u64,
    /// Letters appended until then have expired.
    expired_until: Option<UnixNanos>,
}

impl DeadLetters {
    /// Opens the directory, creating it where it is missing, and reads the letters for the index of
    /// their traces. Half-written letters of a crash are removed: their batches were not committed
    /// and come again.
    pub fn open(config: DeadLetterConfig) -> Result<Self, DeadLetterError> {
        fs::create_dir_all(&config.directory)?;
        let expired_until = expiry::load(&config.directory)?;
        let mut state = State { next_sequence: 1, letters: 0, bytes: 0, expired_until };
        let mut sequences = Vec::new();
        for entry in fs::read_dir(&config.directory)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                fs::remove_file(&path)?;
                continue;
            }
            let Some(sequence) = sequence_of(&path) else { continue };
            state.next_sequence = state.next_sequence.max(sequence.saturating_add(1));
            state.letters = state.letters.saturating_add(1);
            state.bytes = state.bytes.saturating_add(entry.metadata()?.len());
            sequences.push(sequence);
        }
        let index = Mutex::new(LetterIndex::new(config.traces_max));
        let letters = Self { config, state: Mutex::new(state), index };
        sequences.sort_unstable();
        sequences.into_iter().try_for_each(|sequence| letters.index_file(sequence))?;
        Ok(letters)
    }

    /// Reads a letter into the index.
    fn index_file(&self, sequence: u64) -> Result<(), DeadLetterError> {
        let Some(bytes) = self.read(sequence)? else { return Ok(()) };
        match decode(sequence, bytes) {
            Ok((letter, batch)) => self.index().insert(sequence, &letter, &batch),
            Err(error) => {
                tracing::error!(%error, "a dead letter cannot be read: any trace may be in it");
                self.index().insert_unreadable(sequence);
            }
        }
        Ok(())
    }

    /// Keeps a batch with its reason; durable when this returns. Gives the letter's number. The
    /// same batch may be put twice (a crash before the commit): its readers bear duplicates.
    pub fn put(
        &self,
        group: GroupId,
        reason: &str,
        batch: &proto::LoggedBatch,
    ) -> Result<u64, DeadLetterError> {
        let letter = DeadLetter {
            group: group.0.to_owned(),
            reason: shortened(reason).to_owned(),
            incarnation: batch.incarnation,
            range: batch.range,
            append_time: batch.append_time,
            encoded: batch.batch.encoded().clone(),
        };
        let encoded = encode(&letter);
        let bytes = u64::try_from(encoded.len()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        let is_full = state.letters >= self.config.letters_max
            || state.bytes.saturating_add(bytes) > self.config.bytes_max;
        if is_full {
            return Err(DeadLetterError::Full);
        }
        let sequence = state.next_sequence;
        write_durably(&self.config.directory, &self.path(sequence), &encoded)?;
        self.index().insert(sequence, &letter, &batch.batch);
        state.next_sequence = sequence.saturating_add(1);
        state.letters = state.letters.saturating_add(1);
        state.bytes = state.bytes.saturating_add(bytes);
        Ok(sequence)
    }

    /// The letters in the order in which they were set aside, from a number on, at most so many. A
    /// letter that cannot be read is listed as an error and hides none behind it.
    pub fn list(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Result<DeadLetterSummary, DeadLetterError>>, DeadLetterError> {
        let sequences: Vec<u64> =
            self.index().sequences().filter(|sequence| *sequence >= from).take(limit).collect();
        Ok(sequences
            .into_iter()
            .filter_map(|sequence| self.summary(sequence).transpose())
            .collect())
    }

    /// Reads a letter for another try; `None` where it is not there. It stays until
    /// [`Self::settle`] is told that the try was durable.
    pub fn take_for_retry(&self, sequence: u64) -> Result<Option<DeadLetter>, DeadLetterError> {
        let Some(bytes) = self.read(sequence)? else { return Ok(None) };
        decode(sequence, bytes).map(|(letter, _)| Some(letter))
    }

    /// Removes a letter for good: it was handled, or given up. Says whether it was there.
    pub fn settle(&self, sequence: u64) -> Result<bool, DeadLetterError> {
        let mut state = self.lock();
        let path = self.path(sequence);
        let Some(bytes) = length_of(&path)? else { return Ok(false) };
        fs::remove_file(&path)?;
        self.index().remove(sequence);
        state.letters = state.letters.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(bytes);
        self.index_where_there_is_room()?;
        sync_directory(&self.config.directory)?;
        Ok(true)
    }

    /// Letters whose traces there was no room for are indexed when there is.
    fn index_where_there_is_room(&self) -> Result<(), DeadLetterError> {
        let next = {
            let index = self.index();
            index.first_without_room().filter(|_| index.has_room())
        };
        next.map_or(Ok(()), |sequence| self.index_file(sequence))
    }

    /// Whether a letter of the group may hold spans of the trace. Touches no file.
    #[must_use]
    pub fn may_hold(&self, group: GroupId, tenant: &TenantId, trace_id: TraceId) -> bool {
        self.index().may_hold(group, tenant, trace_id)
    }

    /// Append times of the tenant's records in letters of these groups, joined where less than an
    /// hour lies between them. Touches no file.
    #[must_use]
    pub fn append_times(
        &self,
        groups: &[GroupId],
        tenant: &TenantId,
    ) -> Vec<(UnixNanos, UnixNanos)> {
        self.index().append_times(groups, tenant)
    }

    /// Letters by group; those that cannot be read under no name.
    #[must_use]
    pub fn counts(&self) -> std::collections::BTreeMap<String, u64> {
        self.index().counts()
    }

    /// How many letters there are, and their bytes.
    #[must_use]
    pub fn figures(&self) -> (usize, u64) {
        let state = self.lock();
        (state.letters, state.bytes)
    }

    fn rewrite(&self, sequence: u64, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let bytes = encode(letter);
        let mut state = self.lock();
        let path = self.path(sequence);
        let before = length_of(&path)?.unwrap_or(0);
        write_durably(&self.config.directory, &path, &bytes)?;
        self.index_file(sequence)?;
        let after = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        state.bytes = state.bytes.saturating_sub(before).saturating_add(after);
        Ok(())
    }

    fn summary(&self, sequence: u64) -> Result<Option<DeadLetterSummary>, DeadLetterError> {
        let Some(bytes) = self.read(sequence)? else { return Ok(None) };
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (letter, batch) = decode(sequence, bytes)?;
        let DeadLetter { group, reason, range, append_time, .. } = letter;
        Ok(Some(DeadLetterSummary {
            sequence,
            group,
            reason,
            range,
            append_time,
            tenant: batch.source().tenant.clone(),
            traces: batch.traces().iter().filter(|trace| !trace.is_erased()).count(),
            spans: batch.spans().len(),
            bytes: size,
        }))
    }

    fn read(&self, sequence: u64) -> Result<Option<Vec<u8>>, DeadLetterError> {
        let mut bytes = Vec::new();
        match File::open(self.path(sequence)) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(bytes))
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.config.directory.join(format!("{sequence:016}.{EXTENSION}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, LetterIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sequence_of(path: &Path) -> Option<u64> {
    path.extension().filter(|extension| *extension == EXTENSION)?;
    path.file_stem()?.to_str()?.parse().ok()
}

fn length_of(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file is whole under its own name, or it is not there.
pub(crate) fn write_durably(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&partial, path)) {
        drop(fs::remove_file(&partial));
        return Err(error);
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
