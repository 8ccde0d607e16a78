//! OTLP over HTTP (`/v1/traces`, protobuf and JSON) and Zipkin (`/api/v2/spans`) on one listener.
//!
//! Source: OpenTelemetry Protocol specification, *OTLP/HTTP*; Zipkin API v2.

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use xxhash_rust::xxh3::xxh3_64;

use crate::answer::{BodyFormat, refusal_body, success_body};
use crate::body::{BodyLimits, announced_length, receive, tenant};
use crate::collector::Collector;
use crate::decompress::{Encoding, decompress};
use crate::error::ExportError;
use crate::pipeline::ExportRequest;
use crate::receipt::Receipt;
use crate::status::refusal;
use crate::{otlp_json, zipkin};

/// What a path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    /// `/v1/traces`.
    Otlp,
    /// `/api/v2/spans`.
    Zipkin,
}

/// Answers a request of the HTTP listener.
pub(crate) async fn handle(
    collector: &Collector,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let response = answer_to(collector, &head, &mut body).await;
    // HTTP/2 refuses one stream, and whoever expects 100-continue has sent nothing yet.
    let is_unread = head.version < Version::HTTP_2 && !body.is_end_stream();
    if !response.status().is_success() && is_unread && !head.headers.contains_key(EXPECT) {
        collector.discard(body);
    }
    response
}

async fn answer_to(
    collector: &Collector,
    head: &Parts,
    body: &mut Incoming,
) -> Response<Full<Bytes>> {
    let endpoint = match head.uri.path() {
        "/v1/traces" => Endpoint::Otlp,
        "/api/v2/spans" => Endpoint::Zipkin,
        _ => return empty(StatusCode::NOT_FOUND),
    };
    if head.method != Method::POST {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let format = match format(endpoint, &head.headers) {
        Ok(format) => format,
        Err(error) => {
            collector.note_refusal(&error);
            return refuse(&error, BodyFormat::Json);
        }
    };
    match export(collector, &head.headers, body, (endpoint, format)).await {
        Ok(receipt) => {
            collector.note_success();
            match endpoint {
                Endpoint::Otlp => answer(StatusCode::OK, success_body(&receipt, format), format),
                Endpoint::Zipkin => empty(StatusCode::ACCEPTED),
            }
        }
        Err(error) => {
            collector.note_refusal(&error);
            refuse(&error, format)
        }
    }
}

async fn export(
    collector: &Collector,
    headers: &HeaderMap,
    body: &mut Incoming,
    sent_as: (Endpoint, BodyFormat),
) -> Result<Receipt, ExportError> {
    let config = collector.config();
    let tenant = tenant(headers)?;
    let encoding = encoding(headers)?;
    let announced = announced_length(headers);
    let mut admitted = collector.pipeline().admit(announced)?;
    let bytes_max = config.http_body_bytes_max;
    let limits = BodyLimits { bytes_max, time_max: config.body_timeout, announced };
    let sent = receive(body, limits, &mut admitted).await?;
    let body = decompress(sent, encoding, bytes_max, &mut admitted)?;
    let digest = xxh3_64(&body);
    let body = match sent_as {
        (Endpoint::Otlp, BodyFormat::Protobuf) => body,
        (Endpoint::Otlp, BodyFormat::Json) => otlp_json::transcode(&body)?,
        (Endpoint::Zipkin, _) => zipkin::translate(&body, config.limits.spans_max)?,
    };
    collector.pipeline().export(ExportRequest { tenant, body, digest, admitted }).await
}

fn format(endpoint: Endpoint, headers: &HeaderMap) -> Result<BodyFormat, ExportError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("(none)");
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(BodyFormat::Json);
    }
    if endpoint == Endpoint::Otlp && essence.eq_ignore_ascii_case("application/x-protobuf") {
        return Ok(BodyFormat::Protobuf);
    }
    Err(ExportError::UnknownContentType(content_type.chars().take(80).collect()))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ExportError> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let name = value.to_str().map_err(|_| ExportError::UnknownEncoding("(not text)".into()))?;
    if values.next().is_some() {
        return Err(ExportError::UnknownEncoding("(several)".into()));
    }
    Encoding::from_header(name)
}

fn refuse(error: &ExportError, format: BodyFormat) -> Response<Full<Bytes>> {
    let refusal = refusal(error);
    let mut response = answer(refusal.http, refusal_body(error, &refusal, format), format);
    if let Some(after) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    if matches!(error, ExportError::UnknownEncoding(_)) {
        let known = HeaderValue::from_static("gzip, zstd, deflate");
        response.headers_mut().insert(ACCEPT_ENCODING, known);
    }
    response
}

fn answer(status: StatusCode, body: Bytes, format: BodyFormat) -> Response<Full<Bytes>> {
    let content_type = HeaderValue::from_static(match format {
        BodyFormat::Protobuf => "application/x-protobuf",
        BodyFormat::Json => "application/json",
    });
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
