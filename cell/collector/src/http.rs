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
use crate::receipt::{Receipt, Rejections};
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
    let answered = match read_head(head) {
        Ok(sent_as) => export(collector, &head.headers, body, sent_as)
            .await
            .and_then(|receipt| accept(&receipt, sent_as)),
        Err(error) => Err(error),
    };
    match answered {
        Ok(response) => {
            collector.note_success();
            response
        }
        Err(error) => {
            collector.note_refusal(&error);
            refuse(&error, known_format(&head.headers).unwrap_or(BodyFormat::Json))
        }
    }
}

/// What the request says of itself before its body.
fn read_head(head: &Parts) -> Result<(Endpoint, BodyFormat), ExportError> {
    let endpoint = match head.uri.path() {
        "/v1/traces" => Endpoint::Otlp,
        "/api/v2/spans" => Endpoint::Zipkin,
        _ => return Err(ExportError::UnknownPath),
    };
    if head.method != Method::POST {
        return Err(ExportError::UnknownMethod);
    }
    Ok((endpoint, format(endpoint, &head.headers)?))
}

/// The answer to what was taken. Zipkin has no partial success: its senders are told in words, and
/// a request of which nothing was good is refused.
fn accept(
    receipt: &Receipt,
    (endpoint, format): (Endpoint, BodyFormat),
) -> Result<Response<Full<Bytes>>, ExportError> {
    if endpoint == Endpoint::Otlp {
        return Ok(answer(StatusCode::OK, success_body(receipt, format), format));
    }
    let Some(rejections) = receipt.rejection_message() else {
        return Ok(empty(StatusCode::ACCEPTED));
    };
    if receipt.accepted == 0 {
        return Err(ExportError::NoGoodSpan(rejections));
    }
    let told = serde_json::json!({ "code": 0, "message": rejections }).to_string();
    Ok(answer(StatusCode::ACCEPTED, told.into(), BodyFormat::Json))
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
    let (body, rejected) = match sent_as {
        (Endpoint::Otlp, BodyFormat::Protobuf) => (body, Rejections::default()),
        // Room for what is made of the body is taken before it is made.
        (Endpoint::Otlp, BodyFormat::Json) => {
            admitted.take(body.len())?;
            let (body, misfit) = otlp_json::transcode(&body, config.limits.depth_max)?;
            (body, Rejections::from(misfit))
        }
        (Endpoint::Zipkin, _) => {
            admitted.take(body.len().saturating_mul(zipkin::GROWTH_MAX))?;
            let translated = zipkin::translate(&body, &config.limits)?;
            (translated.body, translated.rejected)
        }
    };
    let received = None;
    let request = ExportRequest { tenant, body, rejected, digest, received, admitted };
    collector.pipeline().export(request).await
}

/// The encoding of a request that may be sent here.
fn format(endpoint: Endpoint, headers: &HeaderMap) -> Result<BodyFormat, ExportError> {
    let known = match endpoint {
        Endpoint::Otlp => "application/x-protobuf and application/json are",
        Endpoint::Zipkin => "application/json is",
    };
    match known_format(headers) {
        Some(BodyFormat::Json) => Ok(BodyFormat::Json),
        Some(BodyFormat::Protobuf) if endpoint == Endpoint::Otlp => Ok(BodyFormat::Protobuf),
        Some(BodyFormat::Protobuf) | None => {
            let sent = content_type(headers).chars().take(80).collect();
            Err(ExportError::UnknownContentType { sent, known })
        }
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.unwrap_or("(none)")
}

fn known_format(headers: &HeaderMap) -> Option<BodyFormat> {
    let essence = content_type(headers).split(';').next().unwrap_or_default().trim();
    for (name, format) in
        [("application/json", BodyFormat::Json), ("application/x-protobuf", BodyFormat::Protobuf)]
    {
        if essence.eq_ignore_ascii_case(name) {
            return Some(format);
        }
    }
    None
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
    if matches!(error, ExportError::UnknownMethod) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
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
