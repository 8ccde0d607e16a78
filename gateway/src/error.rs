//! Why the gateway gave no answer at all. An answer that lacks something is an answer: what it
//! lacks is in its certificate.

use trace_model::Certificate;

use crate::port::IndexError;
use crate::room::NoRoom;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Too many questions for traces that the index does not know.
    #[error("too many questions for unknown traces; ask again, or with freshness=index")]
    MissBudget,
    /// The question needs the index, and it did not answer.
    #[error("the metadata index of this region did not answer")]
    Index(#[from] IndexError),
    /// Too many bytes of answers are held already.
    #[error("the gateway's memory for answers is used up; ask again")]
    NoRoom(#[from] NoRoom),
    /// A number of the question lies outside of its limits.
    #[error("{what} must lie between {min} and {max}")]
    OutOfLimits {
        /// Which.
        what: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The cursor is not one of this search.
    #[error("the cursor does not belong to this search")]
    Cursor,
    /// Nothing was found, and a region that may hold it did not answer: no proof of absence.
    #[error("nothing was found, and regions that may hold it did not answer")]
    Unproven(Box<Certificate>),
}

impl GatewayError {
    /// Whether the same question may be answered later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::MissBudget | Self::NoRoom(_) | Self::Unproven(_) => true,
            Self::Index(error) => error.is_retryable(),
            Self::OutOfLimits { .. } | Self::Cursor => false,
        }
    }
}
