//! Why a log could not be opened. None of these is answered by an empty log.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another log of this one, has the directory open.
    #[error("the span log's directory {} is in use by another process", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The file system refused.
    #[error("the span log in {} cannot be opened: {reason}", directory.display())]
    Disk {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file was written by a newer release.
    #[error("{file} has format version {found}; this release reads up to {known}")]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest that this release reads.
        known: u32,
    },
    /// A file without which the log cannot be read is damaged or missing.
    #[error("{file} of the span log is damaged or missing: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The log is an older copy: another one was made since, and read.
    #[error(
        "the span log is incarnation {ours}, but incarnation {seen} was read since: this is a copy \
         from before. Put the newer log back, or move this one away to begin a new one"
    )]
    Older {
        /// The log's.
        ours: u64,
        /// The newest that was read.
        seen: u64,
    },
    /// The configuration contradicts itself.
    #[error("{key} of the span log {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl OpenError {
    pub(crate) fn disk(directory: &Path, error: &io::Error) -> Self {
        Self::Disk { directory: directory.to_owned(), reason: error.to_string() }
    }

    /// Whether opening again later may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Disk { .. } => true,
            Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Older { .. }
            | Self::Config { .. } => false,
        }
    }
}
