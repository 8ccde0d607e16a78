//! What an embedded log may use, keep and refuse.

use std::path::PathBuf;
use std::time::Duration;

use super::error::OpenError;
use crate::port::{GroupId, METADATA_PUBLISHER, STORAGE_WRITER, Seen};

/// What happens to a batch when the log has reached its size and its oldest segment is still
/// needed by a required group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Senders are refused, retryable, until the groups have caught up.
    #[default]
    Refuse,
    /// The oldest segment goes: counted, and a damaged range to every group that had not read it.
    DropOldest,
}

/// Configuration of an embedded log.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Where it lives; made where it does not exist.
    pub directory: PathBuf,
    /// Size of a segment, preallocated. Retention works in whole segments.
    pub segment_bytes: u64,
    /// Encoded bytes that may wait for their group commit; more is refused as overloaded.
    pub queue_bytes_max: usize,
    /// The largest batch taken, in encoded bytes.
    pub batch_bytes_max: usize,
    /// Records are kept this long after their append, and longer while a required group needs them.
    pub retention: Duration,
    /// The log's size on disk.
    pub retention_bytes: u64,
    /// Groups whose uncommitted records are never expired.
    pub required_groups: Vec<GroupId>,
    /// What happens when the log is full.
    pub when_full: WhenFull,
    /// Room that the log leaves to others on its file system: the stores need it to let the log go.
    pub disk_reserve_bytes: u64,
    /// Decoded batches kept for groups that read at the same place.
    pub cache_bytes_max: usize,
    /// For so long after storage-writer's commit the live tail still answers: a reader that asked
    /// the stores before that commit and the tail after it misses nothing.
    pub tail_grace: Duration,
    /// What its readers have seen of the log: its offsets are not given again, however old the copy
    /// that is opened.
    pub seen: Seen,
}

impl EmbeddedConfig {
    /// The defaults, in this directory.
    #[must_use]
    pub fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            segment_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 64 << 20,
            retention: Duration::from_secs(4 * 3_600),
            retention_bytes: 8 << 30,
            required_groups: vec![STORAGE_WRITER, METADATA_PUBLISHER],
            when_full: WhenFull::Refuse,
            disk_reserve_bytes: 256 << 20,
            cache_bytes_max: 32 << 20,
            tail_grace: Duration::from_secs(5),
            seen: Seen::default(),
        }
    }

    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let fault = |key, reason| Err(OpenError::Config { key, reason });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return fault("segment_bytes", "must lie between 64 KiB and 4 GiB");
        }
        if self.retention_bytes < self.segment_bytes.saturating_mul(2) {
            return fault("retention_bytes", "must hold at least two segments");
        }
        if !(1..=BATCH_BYTES_CEILING).contains(&self.batch_bytes_max) {
            return fault("batch_bytes_max", "must lie between 1 byte and 1 GiB");
        }
        if self.queue_bytes_max == 0 {
            return fault("queue_bytes_max", "must not be 0");
        }
        Ok(())
    }
}

const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Positions are kept in 32 bits, in pages of 4 KiB; a segment far below that bound retires soon.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Lengths are kept in 32 bits.
const BATCH_BYTES_CEILING: usize = 1 << 30;
