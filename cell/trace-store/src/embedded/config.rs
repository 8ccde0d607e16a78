//! How an embedded store is set up.

use std::path::PathBuf;
use std::time::Duration;

use crate::port::NAMES_MAX;
use crate::questions::QuestionLimits;

/// Settings of an [`super::EmbeddedStore`]. [`EmbeddedStoreConfig::at`] gives the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedStoreConfig {
    /// Where its files are. One process at a time.
    pub directory: PathBuf,
    /// A segment is sealed at so many spans.
    pub segment_spans_max: usize,
    /// A segment is sealed at so many bytes of spans as sent: bounds what waits in memory.
    pub segment_bytes_max: usize,
    /// Spans in a block, the unit of reading.
    pub block_spans: usize,
    /// What waits is sealed after this time, however little it is.
    pub flush_interval: Duration,
    /// Where there are more segments than this, full ones are merged as well: each costs a probe per
    /// read and two open files.
    pub segments_max: usize,
    /// So many small segments are merged into one.
    pub merge_fan_in: usize,
    /// Segments go when the last of them arrived so long ago.
    pub retention: Duration,
    /// The oldest segments go while all of them take more than this.
    pub bytes_max: u64,
    /// Memory for contexts and directories of segments.
    pub cache_bytes: u64,
    /// Most services of a tenant, and most operations of a service, in one list.
    pub names_max: usize,
    /// Searches, and questions for services and operations. Each at work may hold a few MiB.
    pub searches: QuestionLimits,
    /// Reads by trace id.
    pub reads: QuestionLimits,
}

impl EmbeddedStoreConfig {
    /// The defaults, in this directory.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_spans_max: 128 << 10,
            segment_bytes_max: 80 << 20,
            block_spans: 2_048,
            flush_interval: Duration::from_secs(2),
            segments_max: 256,
            merge_fan_in: 8,
            retention: Duration::from_secs(7 * 24 * 3_600),
            bytes_max: 20 << 30,
            cache_bytes: 48 << 20,
            names_max: NAMES_MAX,
            searches: QuestionLimits { at_work_max: 8, waiting_max: 120 },
            reads: QuestionLimits { at_work_max: 32, waiting_max: 480 },
        }
    }
}
