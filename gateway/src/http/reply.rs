//! How answers and refusals look: one table from the gateway's words to HTTP, in our shape and in
//! Jaeger's.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use trace_model::{Certificate, TimeRange};

use super::certificate_json::CertificateJson;
use crate::error::GatewayError;
use crate::room::NoRoom;

/// The line that says how complete an answer is: `complete: 3 of 3 regions`.
pub const COMPLETENESS_HEADER: HeaderName = HeaderName::from_static("farspan-completeness");
/// The whole certificate as compact JSON, on answers whose body has no place for it.
pub(super) const CERTIFICATE_HEADER: HeaderName = HeaderName::from_static("farspan-certificate");

/// The time range that a search was made over: its start and its end, which is not in it.
pub(super) const RANGE_HEADER: HeaderName = HeaderName::from_static("farspan-range");

/// Headers are kept below what proxies take by default.
const CERTIFICATE_HEADER_BYTES_MAX: usize = 6 << 10;
/// Seconds until a refused question may be asked again.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    retry_after_seconds: Option<u64>,
    certificate: Option<Box<Certificate>>,
}

impl ApiError {
    /// The request cannot be understood; the text says which part.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message.into())
    }

    /// Nothing was found, and that is proven or answered by all.
    pub(super) fn not_found(message: impl Into<String>, certificate: &Certificate) -> Self {
        let error = Self::new(StatusCode::NOT_FOUND, message.into());
        Self { certificate: Some(Box::new(certificate.clone())), ..error }
    }

    /// Too much at once: ask again in so many seconds.
    pub(super) fn refused(status: StatusCode, message: &str, retry_after_seconds: u64) -> Self {
        let error = Self::new(status, message.to_owned());
        Self { retry_after_seconds: Some(retry_after_seconds.max(1)), ..error }
    }

    /// Something of ours went wrong.
    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message.to_owned())
    }

    const fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, retry_after_seconds: None, certificate: None }
    }

    /// `{"error":{"code":…,"message":…},"completeness":…}`
    pub(super) fn into_our_shape(self) -> Response<Body> {
        let body = OurError {
            error: ErrorBody { code: self.status.as_u16(), message: &self.message },
            completeness: self.certificate.as_deref().map(CertificateJson::new),
        };
        self.with_headers(json(&body))
    }

    /// `{"data":null,"errors":[{"code":…,"msg":…}]}`
    fn into_jaegers_shape(self) -> Response<Body> {
        let body = JaegerError {
            data: (),
            total: 0,
            limit: 0,
            offset: 0,
            errors: [JaegerErrorBody { code: self.status.as_u16(), msg: &self.message }],
        };
        self.with_headers(json(&body))
    }

    fn with_headers(&self, mut response: Response<Body>) -> Response<Body> {
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(certificate) = &self.certificate {
            put_completeness(&mut response, certificate);
        }
        response
    }
}

/// The one table from reasons to statuses. Callers get our words; causes go to the log.
impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let message = error.to_string();
        match error {
            GatewayError::OutOfLimits { .. } | GatewayError::Cursor => Self::bad_request(message),
            GatewayError::MissBudget | GatewayError::NoRoom(_) => {
                Self::refused(StatusCode::SERVICE_UNAVAILABLE, &message, RETRY_AFTER_SECONDS)
            }
            GatewayError::Index(cause) => {
                tracing::warn!(%cause, "a question that needs the index has no answer");
                Self::refused(StatusCode::SERVICE_UNAVAILABLE, &message, RETRY_AFTER_SECONDS)
            }
            GatewayError::Unproven(certificate) => {
                let message = format!("{message}; {certificate}");
                let unavailable = StatusCode::SERVICE_UNAVAILABLE;
                let error = Self::refused(unavailable, &message, RETRY_AFTER_SECONDS);
                Self { certificate: Some(certificate), ..error }
            }
        }
    }
}

impl From<NoRoom> for ApiError {
    fn from(error: NoRoom) -> Self {
        GatewayError::from(error).into()
    }
}

/// An error in our shape.
#[derive(Debug)]
pub(super) struct Ours(ApiError);

/// An error in Jaeger's shape.
#[derive(Debug)]
pub(super) struct Jaegers(ApiError);

impl<E: Into<ApiError>> From<E> for Ours {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl<E: Into<ApiError>> From<E> for Jaegers {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Ours {
    fn into_response(self) -> Response<Body> {
        self.0.into_our_shape()
    }
}

impl IntoResponse for Jaegers {
    fn into_response(self) -> Response<Body> {
        self.0.into_jaegers_shape()
    }
}

#[derive(Serialize)]
struct OurError<'a> {
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completeness: Option<CertificateJson<'a>>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
}

#[derive(Serialize)]
struct JaegerError<'a> {
    data: (),
    total: usize,
    limit: usize,
    offset: usize,
    errors: [JaegerErrorBody<'a>; 1],
}

#[derive(Serialize)]
struct JaegerErrorBody<'a> {
    code: u16,
    msg: &'a str,
}

/// A JSON answer.
pub(super) fn json(body: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(bytes) => bytes_of_type("application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// An answer of this media type.
pub(super) fn bytes_of_type(media_type: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Says in a header how complete the answer is.
pub(super) fn put_completeness(response: &mut Response<Body>, certificate: &Certificate) {
    if let Ok(value) = HeaderValue::from_str(&certificate.to_string()) {
        response.headers_mut().insert(COMPLETENESS_HEADER, value);
    }
}

/// Says in a header which time range was searched.
pub(super) fn put_range(response: &mut Response<Body>, range: TimeRange) {
    if let Ok(value) = HeaderValue::from_str(&format!("{}/{}", range.start, range.end)) {
        response.headers_mut().insert(RANGE_HEADER, value);
    }
}

/// Puts the whole certificate into a header, for bodies that have no place for it. One that is too
/// long for a header is left out: the completeness line is there in any case.
pub(super) fn put_certificate(response: &mut Response<Body>, certificate: &Certificate) {
    let text = serde_json::to_string(&CertificateJson::new(certificate)).unwrap_or_default();
    if text.len() <= CERTIFICATE_HEADER_BYTES_MAX
        && let Ok(value) = HeaderValue::from_str(&text)
    {
        response.headers_mut().insert(CERTIFICATE_HEADER, value);
    }
}

/// A path that is not ours.
pub(super) async fn no_such_path() -> Ours {
    Ours(ApiError::new(StatusCode::NOT_FOUND, "there is no such path; / lists them".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::IndexError;

    #[test]
    fn each_reason_has_its_status() {
        let unproven = GatewayError::Unproven(Box::default());
        let index = GatewayError::Index(IndexError::Unavailable("10.0.0.1".to_owned()));
        for (error, status, retries) in [
            (GatewayError::MissBudget, 503, true),
            (GatewayError::NoRoom(NoRoom), 503, true),
            (index, 503, true),
            (unproven, 503, true),
            (GatewayError::Cursor, 400, false),
            (GatewayError::OutOfLimits { what: "limit", min: 1, max: 2 }, 400, false),
        ] {
            let error = ApiError::from(error);
            assert!(!error.message.contains("10.0.0.1"));
            let response = error.into_our_shape();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retries);
        }
    }
}
