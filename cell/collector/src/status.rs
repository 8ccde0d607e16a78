//! Which codes a refusal is told with, over gRPC and over HTTP.
//!
//! Source: OpenTelemetry Protocol specification, *OTLP/gRPC failures* and *OTLP/HTTP response*:
//! over gRPC a sender repeats `UNAVAILABLE`, and `RESOURCE_EXHAUSTED` only with `RetryInfo`; over
//! HTTP it repeats 429, 502, 503 and 504.

use std::time::Duration;

use http::StatusCode;
use span_log::port::LogError;
use tonic::Code;

use crate::error::ExportError;

/// How a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Over HTTP.
    pub http: StatusCode,
    /// Over gRPC, and in `google.rpc.Status`.
    pub grpc: Code,
    /// When to repeat; `None` where repeating does not help.
    pub retry_after: Option<Duration>,
    /// What is counted.
    pub reason: RefuseReason,
}

/// Refused requests are counted by these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// The tenant header is wrong.
    Tenant,
    /// The body is not what it should be.
    Malformed,
    /// Path, method, content type or encoding is not known.
    Unsupported,
    /// The body, or the number of its spans, is over the limit.
    TooLarge,
    /// The body came too slowly or broke off.
    BrokenOff,
    /// Too much is in flight.
    Overloaded,
    /// The log is full, closing, slow or broken.
    Log,
    /// A fault of ours.
    Internal,
}

impl RefuseReason {
    /// The label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::BrokenOff => "broken_off",
            Self::Overloaded => "overloaded",
            Self::Log => "log",
            Self::Internal => "internal",
        }
    }
}

/// What passes within moments: other requests ending, a queue draining.
const SOON: Duration = Duration::from_secs(1);
/// What an operator or a consumer has to mend: room on a disk.
const LATER: Duration = Duration::from_secs(10);

/// The codes of a refusal.
#[must_use]
pub(crate) const fn refusal(error: &ExportError) -> Refusal {
    match error {
        ExportError::Tenant(_) | ExportError::AmbiguousTenant => {
            permanent(StatusCode::BAD_REQUEST, Code::InvalidArgument, RefuseReason::Tenant)
        }
        ExportError::Malformed(_)
        | ExportError::MalformedJson(..)
        | ExportError::NoGoodSpan(_)
        | ExportError::Framing(_)
        | ExportError::Compression(_) => {
            permanent(StatusCode::BAD_REQUEST, Code::InvalidArgument, RefuseReason::Malformed)
        }
        ExportError::UnknownEncoding(_) | ExportError::UnknownContentType { .. } => permanent(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::Unimplemented,
            RefuseReason::Unsupported,
        ),
        ExportError::UnknownPath => {
            permanent(StatusCode::NOT_FOUND, Code::Unimplemented, RefuseReason::Unsupported)
        }
        ExportError::UnknownMethod => permanent(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Unimplemented,
            RefuseReason::Unsupported,
        ),
        ExportError::TooLarge { .. } | ExportError::TooManySpans { .. } => permanent(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted,
            RefuseReason::TooLarge,
        ),
        // Whoever sends that slowly, or went away, may find a better moment.
        ExportError::SlowBody | ExportError::BrokenOff(_) => {
            retryable(StatusCode::SERVICE_UNAVAILABLE, SOON, RefuseReason::BrokenOff)
        }
        ExportError::Overloaded => {
            retryable(StatusCode::TOO_MANY_REQUESTS, SOON, RefuseReason::Overloaded)
        }
        ExportError::Unacknowledged => {
            retryable(StatusCode::SERVICE_UNAVAILABLE, SOON, RefuseReason::Log)
        }
        ExportError::Log(error) => log_refusal(error),
        ExportError::Batch(_) => {
            permanent(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, RefuseReason::Internal)
        }
    }
}

const fn log_refusal(error: &LogError) -> Refusal {
    match error {
        LogError::Overloaded => {
            retryable(StatusCode::TOO_MANY_REQUESTS, SOON, RefuseReason::Overloaded)
        }
        LogError::Closed => retryable(StatusCode::SERVICE_UNAVAILABLE, SOON, RefuseReason::Log),
        LogError::Full
        | LogError::Behind { .. }
        | LogError::Disk(_)
        | LogError::NoDescriptors
        | LogError::Unavailable(_) => {
            retryable(StatusCode::SERVICE_UNAVAILABLE, LATER, RefuseReason::Log)
        }
        LogError::TooLarge { .. } => permanent(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted,
            RefuseReason::TooLarge,
        ),
        // Answers of readers; from an append they would be a fault of ours.
        LogError::Expired { .. } | LogError::NoPartition(_) | LogError::Damaged(_) => {
            permanent(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, RefuseReason::Internal)
        }
    }
}

const fn permanent(http: StatusCode, grpc: Code, reason: RefuseReason) -> Refusal {
    Refusal { http, grpc, retry_after: None, reason }
}

/// `UNAVAILABLE` and not `RESOURCE_EXHAUSTED`: senders that do not read `RetryInfo` repeat it too.
const fn retryable(http: StatusCode, after: Duration, reason: RefuseReason) -> Refusal {
    Refusal { http, grpc: Code::Unavailable, retry_after: Some(after), reason }
}

#[cfg(test)]
mod tests {
    use proto::wire::WireError;
    use span_log::GroupId;
    use trace_model::names::InvalidName;

    use super::*;

    /// Whether senders repeat the code, as the specification's table says.
    fn is_repeated_over_grpc(refusal: Refusal) -> bool {
        match refusal.grpc {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            Code::ResourceExhausted => refusal.retry_after.is_some(),
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Internal
            | Code::Unauthenticated => false,
        }
    }

    fn is_repeated_over_http(refusal: Refusal) -> bool {
        matches!(refusal.http.as_u16(), 429 | 502 | 503 | 504)
    }

    fn behind() -> LogError {
        let [age_max, retention] = [36, 40].map(Duration::from_secs);
        LogError::Behind { group: GroupId("storage-writer"), age_max, retention }
    }

    fn table() -> Vec<(ExportError, u16, Code)> {
        let unknown = || "x".into();
        vec![
            (ExportError::Tenant(InvalidName::Tenant), 400, Code::InvalidArgument),
            (ExportError::AmbiguousTenant, 400, Code::InvalidArgument),
            (ExportError::Malformed(WireError::Truncated), 400, Code::InvalidArgument),
            (ExportError::MalformedJson("x", unknown()), 400, Code::InvalidArgument),
            (ExportError::NoGoodSpan(unknown()), 400, Code::InvalidArgument),
            (ExportError::UnknownPath, 404, Code::Unimplemented),
            (ExportError::UnknownMethod, 405, Code::Unimplemented),
            (ExportError::Framing("x"), 400, Code::InvalidArgument),
            (ExportError::Compression("gzip"), 400, Code::InvalidArgument),
            (ExportError::UnknownEncoding(unknown()), 415, Code::Unimplemented),
            (
                ExportError::UnknownContentType { sent: unknown(), known: "x" },
                415,
                Code::Unimplemented,
            ),
            (ExportError::TooLarge { bytes_max: 1 }, 413, Code::ResourceExhausted),
            (ExportError::TooManySpans { spans_max: 1 }, 413, Code::ResourceExhausted),
            (ExportError::SlowBody, 503, Code::Unavailable),
            (ExportError::Overloaded, 429, Code::Unavailable),
            (ExportError::Unacknowledged, 503, Code::Unavailable),
            (ExportError::Log(LogError::Full), 503, Code::Unavailable),
            (ExportError::Log(behind()), 503, Code::Unavailable),
            (ExportError::Log(LogError::Overloaded), 429, Code::Unavailable),
            (ExportError::Log(LogError::Disk(unknown())), 503, Code::Unavailable),
            (ExportError::Log(LogError::NoDescriptors), 503, Code::Unavailable),
            (ExportError::Log(LogError::Unavailable(unknown())), 503, Code::Unavailable),
            (ExportError::Log(LogError::Closed), 503, Code::Unavailable),
            (
                ExportError::Log(LogError::TooLarge { bytes: 2, bytes_max: 1 }),
                413,
                Code::ResourceExhausted,
            ),
            (ExportError::Log(LogError::NoPartition(1)), 500, Code::Internal),
            (ExportError::Batch(WireError::Truncated.into()), 500, Code::Internal),
        ]
    }

    #[test]
    fn senders_repeat_what_may_succeed_later_and_nothing_else() {
        for (error, http, grpc) in table() {
            let refusal = refusal(&error);
            assert_eq!((refusal.http.as_u16(), refusal.grpc), (http, grpc), "{error}");
            assert_eq!(is_repeated_over_grpc(refusal), error.is_retryable(), "{error}");
            assert_eq!(is_repeated_over_http(refusal), error.is_retryable(), "{error}");
        }
    }

    #[test]
    fn a_refusal_names_its_kind_and_no_place() {
        let disk = LogError::Disk("/secret/place: it broke".into());
        for (error, word) in [
            (LogError::Full, "full"),
            (behind(), "too far behind"),
            (disk, "disk failed"),
            (LogError::NoDescriptors, "too many open files"),
            (LogError::Unavailable("broker-7.secret:9092".into()), "away"),
        ] {
            let text = ExportError::Log(error).to_string();
            assert!(text.contains(word) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn every_retryable_refusal_says_when() {
        for (error, _, _) in table() {
            assert_eq!(refusal(&error).retry_after.is_some(), error.is_retryable(), "{error}");
        }
    }
}
