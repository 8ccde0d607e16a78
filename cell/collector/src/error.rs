//! Why a request was refused as a whole.

use proto::InvalidBatch;
use proto::wire::WireError;
use span_log::port::LogError;
use trace_model::names::InvalidName;

/// Why a request was refused. Nothing of it was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The tenant header is not a tenant.
    #[error("the header X-Scope-OrgID names no tenant")]
    Tenant(#[source] InvalidName),
    /// The tenant header is given more than once, or is not text.
    #[error("the header X-Scope-OrgID must be given once, as text")]
    AmbiguousTenant,
    /// The body is not an export request.
    #[error("the body is not an OTLP trace export request")]
    Malformed(#[source] WireError),
    /// The body is not JSON of what is taken here.
    #[error("the body is not {0}: {1}")]
    MalformedJson(&'static str, String),
    /// Not one span was good, of a request in a protocol that has no partial success.
    #[error("{0}")]
    NoGoodSpan(String),
    /// Nothing is served under this path.
    #[error("there is nothing here: OTLP is sent to /v1/traces, Zipkin's spans to /api/v2/spans")]
    UnknownPath,
    /// Spans are sent with POST.
    #[error("spans are sent with POST")]
    UnknownMethod,
    /// The body is not one gRPC message.
    #[error("the body is not one gRPC message: {0}")]
    Framing(&'static str),
    /// The body is not what its content encoding says.
    #[error("the body is not valid {0}")]
    Compression(&'static str),
    /// A content encoding that is not known.
    #[error("content encoding {0} is not supported; gzip, zstd, deflate and identity are")]
    UnknownEncoding(String),
    /// A content type that is not known.
    #[error("content type {sent} is not supported; {known}")]
    UnknownContentType {
        /// What was sent.
        sent: String,
        /// Which are supported, as the end of the sentence.
        known: &'static str,
    },
    /// The body is larger than the limit, after decompression.
    #[error("the body is larger than {bytes_max} bytes after decompression")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The request has too many spans, resources or scopes.
    #[error("the request has more than {spans_max} spans, resources or scopes")]
    TooManySpans {
        /// The limit.
        spans_max: usize,
    },
    /// The sender broke off.
    #[error("the body broke off")]
    BrokenOff(#[source] hyper::Error),
    /// The body took too long to arrive.
    #[error("the body took too long to arrive")]
    SlowBody,
    /// Too much is in flight.
    #[error("the collector has too much in flight")]
    Overloaded,
    /// The log took too long to acknowledge.
    #[error("the span log took too long to acknowledge")]
    Unacknowledged,
    /// The log refused.
    #[error("the span log refused the spans: {}", reason(.0))]
    Log(#[source] LogError),
    /// Validated spans could not be regrouped: a fault of ours.
    #[error("the spans could not be regrouped")]
    Batch(#[source] InvalidBatch),
}

impl ExportError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded | Self::Unacknowledged | Self::SlowBody | Self::BrokenOff(_) => true,
            Self::Log(error) => error.is_retryable(),
            Self::Tenant(_)
            | Self::AmbiguousTenant
            | Self::Malformed(_)
            | Self::MalformedJson(..)
            | Self::NoGoodSpan(_)
            | Self::UnknownPath
            | Self::UnknownMethod
            | Self::Framing(_)
            | Self::Compression(_)
            | Self::UnknownEncoding(_)
            | Self::UnknownContentType { .. }
            | Self::TooLarge { .. }
            | Self::TooManySpans { .. }
            | Self::Batch(_) => false,
        }
    }
}

/// Why the log refused, for a stranger: its kind, without what names places of ours.
const fn reason(error: &LogError) -> &'static str {
    match error {
        LogError::Full => "its disk, or its own limit, is full",
        LogError::Overloaded => "its queue is full",
        LogError::Disk(_) => "its disk failed",
        LogError::NoDescriptors => "the process has too many open files",
        LogError::Unavailable(_) => "who keeps it is away",
        LogError::Behind { .. } => "a group of readers is too far behind",
        LogError::Closed => "it is closing",
        LogError::TooLarge { .. } => "a batch is larger than it takes",
        LogError::Expired { .. } | LogError::NoPartition(_) | LogError::Damaged(_) => {
            "a fault of its own"
        }
    }
}

impl From<WireError> for ExportError {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}
