//! Why a query was not answered, and the one table from reasons to gRPC codes.

use proto::convert::query::InvalidMessage;
use tonic::{Code, Status};
use trace_store::port::StoreError;

use crate::port::PortError;

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QuerierError {
    /// The question does not say who asks.
    #[error("the caller's tenant or region is missing or invalid")]
    NoCaller,
    /// The question is not one.
    #[error("the question is invalid")]
    Invalid(#[from] InvalidMessage),
    /// A number in the question lies outside of its limits.
    #[error("{what} must lie between {min} and {max}")]
    OutOfLimits {
        /// Which number.
        what: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Too many queries at once.
    #[error("the cell is answering as many queries as it can")]
    Busy,
    /// Too many questions at once for traces that the index does not know.
    #[error("the cell is answering as many questions for unknown traces as it can")]
    MissBudget,
    /// The caller's time is over.
    #[error("the time allowed for the query is over")]
    Deadline,
    /// The reader took the answer too slowly, and others wanted its room.
    #[error("the answer was taken too slowly")]
    TooSlow,
    /// A store did not answer.
    #[error("a store did not answer")]
    Store(#[source] StoreError),
    /// The log did not answer.
    #[error("the span log did not answer")]
    Log(#[from] PortError),
}

/// A store with too many questions is one reason why the cell has too many.
impl From<StoreError> for QuerierError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Busy) { Self::Busy } else { Self::Store(error) }
    }
}

impl QuerierError {
    /// Whether the same question may be answered later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoCaller | Self::Invalid(_) | Self::OutOfLimits { .. } => false,
            Self::Busy | Self::MissBudget | Self::Deadline | Self::TooSlow | Self::Log(_) => true,
            Self::Store(error) => error.is_retryable(),
        }
    }

    /// The gRPC code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NoCaller => Code::Unauthenticated,
            Self::Invalid(_) | Self::OutOfLimits { .. } => Code::InvalidArgument,
            Self::Busy | Self::MissBudget => Code::ResourceExhausted,
            Self::Deadline | Self::TooSlow => Code::DeadlineExceeded,
            Self::Log(_) => Code::Unavailable,
            Self::Store(error) => match error {
                StoreError::Busy => Code::ResourceExhausted,
                StoreError::Full | StoreError::Unavailable(_) | StoreError::Fenced => {
                    Code::Unavailable
                }
                StoreError::Damaged(_) => Code::DataLoss,
                StoreError::NewerFormat { .. } | StoreError::Refused(_) => Code::FailedPrecondition,
                StoreError::Unsupported(_) => Code::Unimplemented,
            },
        }
    }
}

/// Callers get our words; causes (paths, engines) stay in the log of the cell.
impl From<QuerierError> for Status {
    fn from(error: QuerierError) -> Self {
        let message = match &error {
            QuerierError::Invalid(cause) => format!("{error}: {cause}"),
            QuerierError::NoCaller
            | QuerierError::OutOfLimits { .. }
            | QuerierError::Busy
            | QuerierError::MissBudget
            | QuerierError::Deadline
            | QuerierError::TooSlow
            | QuerierError::Store(_)
            | QuerierError::Log(_) => error.to_string(),
        };
        Self::new(error.code(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_code() {
        let store = |error| QuerierError::Store(error);
        for (error, code, is_retryable) in [
            (QuerierError::NoCaller, Code::Unauthenticated, false),
            (InvalidMessage::Missing("range").into(), Code::InvalidArgument, false),
            (
                QuerierError::OutOfLimits { what: "limit", min: 1, max: 2 },
                Code::InvalidArgument,
                false,
            ),
            (QuerierError::Busy, Code::ResourceExhausted, true),
            (QuerierError::MissBudget, Code::ResourceExhausted, true),
            (QuerierError::Deadline, Code::DeadlineExceeded, true),
            (QuerierError::TooSlow, Code::DeadlineExceeded, true),
            (PortError("closed".to_owned()).into(), Code::Unavailable, true),
            (StoreError::Busy.into(), Code::ResourceExhausted, true),
            (store(StoreError::Busy), Code::ResourceExhausted, true),
            (store(StoreError::Full), Code::Unavailable, true),
            (store(StoreError::Unavailable(String::new())), Code::Unavailable, true),
            (store(StoreError::Damaged(String::new())), Code::DataLoss, false),
            (store(StoreError::Unsupported(String::new())), Code::Unimplemented, false),
            (store(StoreError::Refused(String::new())), Code::FailedPrecondition, false),
        ] {
            assert_eq!(error.code(), code, "{error}");
            assert_eq!(error.is_retryable(), is_retryable, "{error}");
        }
    }

    #[test]
    fn a_cause_does_not_leave_the_cell() {
        let error = QuerierError::Store(StoreError::Unavailable("/var/lib/secret".to_owned()));
        assert!(!Status::from(error).message().contains("secret"));
    }
}
