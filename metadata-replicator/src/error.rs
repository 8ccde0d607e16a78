//! Why the replicator did not do what was asked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::convert::index::InvalidIndexMessage;
use trace_model::location::Epoch;

/// Why the replicator did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplicatorError {
    /// The disk refused. Passes or not; nothing of the call is kept.
    #[error("the metadata index cannot {action} {}", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The directory is in use by another process.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A file of a newer release.
    #[error("{} has format version {version}; this release reads {newest}", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest that is read.
        newest: u32,
    },
    /// A later open of the same log has taken over.
    #[error("a later epoch of this origin log has taken over")]
    Fenced,
    /// A record that is larger than a file or frame may hold.
    #[error("a record of {bytes} bytes; at most {bytes_max} are kept")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A message that is not what it claims to be.
    #[error("an invalid message")]
    Message(#[from] InvalidIndexMessage),
    /// A stored record that cannot be read.
    #[error("a stored record that cannot be read")]
    Record,
    /// A peer broke the contract of the stream.
    #[error("the peer broke the stream's contract: {0}")]
    Protocol(&'static str),
    /// A peer cannot be reached, or its stream ended.
    #[error("the peer cannot be reached: {0}")]
    Peer(String),
    /// A cursor that lies too far in the future to be outrun.
    #[error("a cursor of epoch {0:?} lies too far ahead to be outrun")]
    FarCursor(Epoch),
    /// The log is being taken back from peers, and is not whole yet.
    #[error("the log of that region is being taken back from its peers")]
    Mending,
    /// The replica does not hold the log of this region.
    #[error("the log of that region is not held here")]
    UnknownOrigin,
    /// The process is stopping.
    #[error("the metadata index is closing")]
    Closed,
}

impl ReplicatorError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Disk { .. }
            | Self::InUse(_)
            | Self::Peer(_)
            | Self::Mending
            | Self::UnknownOrigin
            | Self::Closed => true,
            Self::NewerVersion { .. }
            | Self::Fenced
            | Self::TooLarge { .. }
            | Self::Message(_)
            | Self::Record
            | Self::Protocol(_)
            | Self::FarCursor(_) => false,
        }
    }

    /// Wraps what the system said.
    pub(crate) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Disk { action, path, source: Arc::new(source) }
    }
}
