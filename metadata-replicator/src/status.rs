//! Which gRPC code an error becomes. The cause goes to the log, not to the caller.

use tonic::{Code, Status};

use crate::error::ReplicatorError;

/// The status of an error.
pub(crate) fn of(error: &ReplicatorError) -> Status {
    let code = match error {
        ReplicatorError::Disk { .. } | ReplicatorError::InUse(_) | ReplicatorError::Closed => {
            Code::Unavailable
        }
        ReplicatorError::Peer(_) | ReplicatorError::Mending => Code::Unavailable,
        ReplicatorError::Message(_)
        | ReplicatorError::Protocol(_)
        | ReplicatorError::FarCursor(_) => Code::InvalidArgument,
        ReplicatorError::UnknownOrigin => Code::NotFound,
        ReplicatorError::Fenced => Code::FailedPrecondition,
        ReplicatorError::TooLarge { .. } => Code::ResourceExhausted,
        ReplicatorError::NewerVersion { .. } | ReplicatorError::Record => Code::DataLoss,
    };
    if matches!(error, ReplicatorError::Mending) {
        // So begins every fresh region: it asks its peers for a log that there never was.
        tracing::debug!(%error, "a subscriber was not served yet");
        return Status::new(code, error.to_string());
    }
    if matches!(code, Code::Unavailable | Code::DataLoss) {
        tracing::warn!(%error, "a subscriber or reader was not served");
        return Status::new(code, "the metadata index cannot read its records");
    }
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proto::convert::index::InvalidIndexMessage;
    use trace_model::location::Epoch;

    use super::*;

    #[test]
    fn every_error_has_its_code() {
        let disk = ReplicatorError::disk("read", Path::new("/secret"))(std::io::Error::other("x"));
        for (error, code) in [
            (disk, Code::Unavailable),
            (ReplicatorError::InUse(PathBuf::from("/secret")), Code::Unavailable),
            (ReplicatorError::Closed, Code::Unavailable),
            (ReplicatorError::Peer("secret".to_owned()), Code::Unavailable),
            (ReplicatorError::Message(InvalidIndexMessage::OtherTrace), Code::InvalidArgument),
            (ReplicatorError::Protocol("x"), Code::InvalidArgument),
            (ReplicatorError::FarCursor(Epoch::default()), Code::InvalidArgument),
            (ReplicatorError::Mending, Code::Unavailable),
            (ReplicatorError::UnknownOrigin, Code::NotFound),
            (ReplicatorError::Fenced, Code::FailedPrecondition),
            (ReplicatorError::TooLarge { bytes: 2, bytes_max: 1 }, Code::ResourceExhausted),
            (ReplicatorError::Record, Code::DataLoss),
        ] {
            let status = of(&error);
            assert_eq!(status.code(), code, "{error}");
            assert!(!status.message().contains("secret"), "{error}");
        }
    }
}
