//! OTLP's answers: `ExportTraceServiceResponse` and `google.rpc.Status`, in protobuf and in JSON.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use serde_json::json;
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::ExportError;
use crate::receipt::Receipt;
use crate::status::Refusal;

/// The encoding of a request, which its answer shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// The answer to a request that was taken: `partial_success` only where spans were rejected.
#[must_use]
pub(crate) fn export_response(receipt: &Receipt) -> ExportTraceServiceResponse {
    let partial_success = receipt.rejection_message().map(|error_message| {
        let rejected_spans = i64::from(receipt.rejected.total());
        ExportTracePartialSuccess { rejected_spans, error_message }
    });
    ExportTraceServiceResponse { partial_success }
}

/// The body of a success.
#[must_use]
pub(crate) fn success_body(receipt: &Receipt, format: BodyFormat) -> Bytes {
    let response = export_response(receipt);
    match (format, response.partial_success) {
        (BodyFormat::Protobuf, partial_success) => {
            ExportTraceServiceResponse { partial_success }.encode_to_vec().into()
        }
        (BodyFormat::Json, None) => Bytes::from_static(b"{}"),
        (BodyFormat::Json, Some(partial)) => json!({
            "partialSuccess": {
                // proto3 JSON writes 64-bit numbers as strings.
                "rejectedSpans": partial.rejected_spans.to_string(),
                "errorMessage": partial.error_message,
            }
        })
        .to_string()
        .into(),
    }
}

/// The body of a refusal: `google.rpc.Status`, with `RetryInfo` where repeating helps.
#[must_use]
pub(crate) fn refusal_body(error: &ExportError, refusal: &Refusal, format: BodyFormat) -> Bytes {
    match format {
        BodyFormat::Protobuf => {
            let details = refusal
                .retry_after
                .map_or_else(ErrorDetails::new, |after| ErrorDetails::with_retry_info(Some(after)));
            let status =
                tonic::Status::with_error_details(refusal.grpc, error.to_string(), details);
            Bytes::copy_from_slice(status.details())
        }
        BodyFormat::Json => {
            let mut status = json!({ "code": refusal.grpc as i32, "message": error.to_string() });
            if let (Some(after), Some(status)) = (refusal.retry_after, status.as_object_mut()) {
                let retry_info = json!([{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{}s", after.as_secs()),
                }]);
                status.insert("details".into(), retry_info);
            }
            status.to_string().into()
        }
    }
}
