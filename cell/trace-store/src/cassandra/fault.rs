//! What the driver reports, in the words of the port: what may pass by waiting, what never will.

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError,
    DeserializationError, ExecutionError, IntoRowsResultError, MetadataError, NewSessionError,
    PrepareError, RequestAttemptError, RowsError,
};

use crate::port::StoreError;

/// A request that failed. Only what the content of the rows makes impossible is refused: a missing
/// table or a wrong password is for a person to mend, and the records wait for it.
pub(super) fn of_request(error: &ExecutionError) -> StoreError {
    if is_of_content(error) {
        return StoreError::Refused(error.to_string());
    }
    StoreError::Unavailable(error.to_string())
}

fn is_of_content(error: &ExecutionError) -> bool {
    if let ExecutionError::BadQuery(BadQuery::SerializationError(_)) = error {
        return true;
    }
    let ExecutionError::LastAttemptError(attempt) = error else { return false };
    if let RequestAttemptError::SerializationError(_)
    | RequestAttemptError::CqlRequestSerialization(_) = attempt
    {
        return true;
    }
    // Servers have no code of its own for what is larger than they take.
    let RequestAttemptError::DbError(DbError::Invalid | DbError::ServerError, words) = attempt
    else {
        return false;
    };
    let too_large = ["oversized mutation", "is too large", "Request is too big"];
    too_large.into_iter().any(|too_large| words.contains(too_large))
}

/// A statement that could not be prepared.
pub(super) fn of_prepare(error: &PrepareError) -> StoreError {
    StoreError::Unavailable(format!("a statement was not prepared: {error}"))
}

/// An answer that is not rows.
pub(super) fn of_answer(error: &IntoRowsResultError) -> StoreError {
    StoreError::Damaged(error.to_string())
}

/// Rows of other types than the tables have.
pub(super) fn of_types(error: &RowsError) -> StoreError {
    StoreError::Damaged(error.to_string())
}

/// A row that cannot be read.
pub(super) fn of_row(error: &DeserializationError) -> StoreError {
    StoreError::Damaged(error.to_string())
}

/// Why there is no session.
#[derive(Clone, Debug)]
pub(super) enum Disconnected {
    /// No node answered: it may pass by itself.
    Unreachable(StoreError),
    /// A person must act first.
    Refused(StoreError),
}

impl Disconnected {
    /// The error for those who ask.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Unreachable(error) | Self::Refused(error) => error,
        }
    }
}

/// A session that was not opened.
pub(super) fn of_session(error: &NewSessionError) -> Disconnected {
    let words = StoreError::Unavailable(format!("no session: {error}"));
    let is_refused = if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken {
            last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
            ..
        },
    )) = error
    {
        is_of_login(setup.get_error())
    } else {
        matches!(error, NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_))
    };
    if is_refused { Disconnected::Refused(words) } else { Disconnected::Unreachable(words) }
}

fn is_of_login(error: &ConnectionSetupRequestErrorKind) -> bool {
    matches!(
        error,
        ConnectionSetupRequestErrorKind::MissingAuthentication
            | ConnectionSetupRequestErrorKind::DbError(
                DbError::AuthenticationError | DbError::Unauthorized,
                _
            )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_large_is_refused_and_all_else_may_pass() {
        let of = |error: DbError, words: &str| {
            let attempt = RequestAttemptError::DbError(error, words.to_owned());
            of_request(&ExecutionError::LastAttemptError(attempt)).is_retryable()
        };
        assert!(!of(DbError::Invalid, "Encountered an oversized mutation (9/8) for keyspace"));
        assert!(!of(DbError::ServerError, "Mutation of 9 bytes is too large for the maximum of 8"));
        assert!(!of(DbError::Invalid, "Request is too big: length 20 exceeds 16."));
        assert!(of(DbError::Invalid, "unconfigured table spans"));
        assert!(of(DbError::Overloaded, ""));
        assert!(of(DbError::Unauthorized, ""));
        assert!(of_request(&ExecutionError::EmptyPlan).is_retryable());
    }
}
