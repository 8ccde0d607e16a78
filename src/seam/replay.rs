//! What a replay is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use trace_model::UnixNanos;

/// The group whose work is done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReplayGroup {
    /// Spans by id.
    StorageWriter,
    /// Search.
    SearchIndexer,
    /// Raw spans for dashboards.
    AnalyticsWriter,
    /// Counts.
    MetricsAggregator,
    /// The metadata index.
    MetadataPublisher,
}

impl fmt::Display for ReplayGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::StorageWriter => "storage-writer",
            Self::SearchIndexer => "search-indexer",
            Self::AnalyticsWriter => "analytics-writer",
            Self::MetricsAggregator => "metrics-aggregator",
            Self::MetadataPublisher => "metadata-publisher",
        })
    }
}

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The oldest records that are kept.
    Earliest,
    /// The end, as it is at the start.
    End,
    /// What was appended at or after a time.
    At(UnixNanos),
    /// What was appended since so long ago.
    Ago(Duration),
    /// This offset of every partition.
    Offset(u64),
    /// Offsets of some partitions; the others are left out.
    Offsets(BTreeMap<u32, u64>),
}

/// What is to be replayed, and where to.
#[derive(Clone, Debug)]
pub(crate) struct ReplayRequest {
    pub(crate) group: ReplayGroup,
    /// From here; `None`: where the view ends that it goes into.
    pub(crate) from: Option<Place>,
    pub(crate) until: Place,
    /// A view beside the cell's store.
    pub(crate) into: Option<String>,
    pub(crate) records_per_second: Option<NonZeroU64>,
}

/// Why a replay is not done.
#[derive(Debug)]
pub(crate) enum ReplayRefusal {
    /// It cannot be, or makes no sense.
    Usage(String),
    /// Something failed.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for ReplayRefusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
