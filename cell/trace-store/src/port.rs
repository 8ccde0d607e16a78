//! The ports of the stores, one file each, and the error that they share.

mod cold_objects;
mod metrics_store;
mod names;
mod search;
mod spans;
mod status;

pub use cold_objects::{ColdObjects, ObjectFound};
#[cfg(feature = "clickhouse")]
pub(crate) use metrics_store::first_edges;
pub use metrics_store::{
    EdgeKey, EdgePlace, EdgeRow, EdgeTraceQuery, EdgeTraces, MetricsDelta, MetricsStore, Page,
    RedKey, RedQuery, RedRow,
};
pub(crate) use names::NamesFound;
pub use names::{NAME_BYTES_MAX, NAMES_MAX, NameList};
pub use search::{Operation, SearchAnswer, SearchIndexer, ServiceCatalog, TraceSearch};
pub use spans::{
    Eraser, ErasureReceipt, RestOfTrace, SpanWriter, StoreFigures, TracePieces, TraceRead,
    TraceReader,
};
pub use status::{PartSize, StoreStatus};

/// Why a store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No room. Passes when there is room.
    #[error("the store is full")]
    Full,
    /// As many questions are being answered or waiting as may. Passes when some are done.
    #[error("the store is answering as many questions as it can")]
    Busy,
    /// Disk or engine failed in a way that may pass.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Another process counts in this store since it asked for the checkpoint, and this one is refused:
    /// it passes when this one asks for it again ([`MetricsStore::checkpoint`]), and not by waiting.
    #[error("another process counts in this store now; this one is refused until its turn")]
    Fenced,
    /// Something read is damaged: the answer would be short, so there is none.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Written by a newer release: refused, never guessed.
    #[error("{file} has format version {found}; this release reads up to {known}")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The store cannot answer such a question.
    #[error("the store cannot answer this: {0}")]
    Unsupported(String),
    /// A batch that no retry will make good: goes to the dead letter.
    #[error("the store cannot take this record: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Busy | Self::Unavailable(_) | Self::Fenced => true,
            Self::Damaged(_)
            | Self::NewerFormat { .. }
            | Self::Unsupported(_)
            | Self::Refused(_) => false,
        }
    }
}
