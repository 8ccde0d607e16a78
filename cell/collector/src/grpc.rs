//! OTLP over gRPC: `TraceService/Export`, framed by hand over HTTP/2.
//!
//! One unary method with one message each way needs five bytes of framing; what a gRPC library adds
//! around it costs as much as the whole walk over the spans (LIMITS in docs/DECISIONS/008).
//! Source: *gRPC over HTTP2* and *gRPC compression* of the gRPC project.

use std::convert::Infallible;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use prost::Message;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};
use xxhash_rust::xxh3::xxh3_64;

use crate::answer::export_response;
use crate::body::{BodyLimits, announced_length, receive, tenant};
use crate::collector::Collector;
use crate::decompress::{Encoding, decompress};
use crate::error::ExportError;
use crate::pipeline::ExportRequest;
use crate::receipt::{Receipt, Rejections};
use crate::status::refusal;

/// The body of an answer: a message and trailers, or nothing.
pub(crate) type GrpcBody = UnsyncBoxBody<Bytes, Infallible>;

/// The one method that is served.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Compressed flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// Answers a request of the gRPC listener.
pub(crate) async fn handle(
    collector: &Collector,
    request: Request<Incoming>,
) -> Response<GrpcBody> {
    if !is_grpc(request.headers()) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.uri().path() != EXPORT {
        let message = format!("there is no method {}", request.uri().path());
        return trailers_only(&tonic::Status::unimplemented(message));
    }
    match export(collector, request).await {
        Ok(receipt) => {
            collector.note_success();
            success(&receipt)
        }
        Err(error) => {
            collector.note_refusal(&error);
            refuse(&error)
        }
    }
}

async fn export(collector: &Collector, request: Request<Incoming>) -> Result<Receipt, ExportError> {
    let (head, mut body) = request.into_parts();
    let config = collector.config();
    let tenant = tenant(&head.headers)?;
    let encoding = encoding(&head.headers)?;
    let announced = announced_length(&head.headers);
    let mut admitted = collector.pipeline().admit(announced)?;
    let limits = BodyLimits {
        bytes_max: config.grpc_body_bytes_max.saturating_add(PREFIX_BYTES),
        time_max: config.body_timeout,
        announced,
    };
    let framed = receive(&mut body, limits, &mut admitted).await?;
    let (is_compressed, message) = unframe(framed)?;
    let message = match (is_compressed, encoding) {
        (false, _) => message,
        (true, Encoding::Identity) => {
            return Err(ExportError::Framing("a compressed message without an encoding"));
        }
        (true, encoding) => {
            decompress(message, encoding, config.grpc_body_bytes_max, &mut admitted)?
        }
    };
    let digest = xxh3_64(&message);
    let (body, rejected) = (message, Rejections::default());
    let received = None;
    let request = ExportRequest { tenant, body, rejected, digest, received, admitted };
    collector.pipeline().export(request).await
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    matches!(content_type, b"application/grpc" | b"application/grpc+proto")
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ExportError> {
    let Some(value) = headers.get(GRPC_ENCODING) else { return Ok(Encoding::Identity) };
    let name = value.to_str().map_err(|_| ExportError::UnknownEncoding("(not text)".into()))?;
    Encoding::from_header(name)
}

/// The one message of a unary call.
fn unframe(mut framed: Bytes) -> Result<(bool, Bytes), ExportError> {
    if framed.len() < PREFIX_BYTES {
        return Err(ExportError::Framing("it ends within the message's prefix"));
    }
    let flag = framed.get_u8();
    let length = framed.get_u32() as usize;
    if framed.len() < length {
        return Err(ExportError::Framing("it ends within the message"));
    }
    if framed.len() > length {
        return Err(ExportError::Framing("a unary call has one message"));
    }
    match flag {
        0 => Ok((false, framed)),
        1 => Ok((true, framed)),
        _ => Err(ExportError::Framing("a compressed flag that is neither 0 nor 1")),
    }
}

fn success(receipt: &Receipt) -> Response<GrpcBody> {
    let message = export_response(receipt).encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // Our own answer: a few hundred bytes.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let trailers = std::future::ready(Some(Ok(trailers)));
    let body = Full::new(framed.freeze()).with_trailers(trailers).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn refuse(error: &ExportError) -> Response<GrpcBody> {
    let refusal = refusal(error);
    let status = match refusal.retry_after {
        Some(after) => tonic::Status::with_error_details(
            refusal.grpc,
            error.to_string(),
            ErrorDetails::with_retry_info(Some(after)),
        ),
        None => tonic::Status::new(refusal.grpc, error.to_string()),
    };
    let mut response = trailers_only(&status);
    if refusal.grpc == Code::Unimplemented {
        let known = HeaderValue::from_static("identity,gzip,zstd,deflate");
        response.headers_mut().insert(GRPC_ACCEPT_ENCODING, known);
    }
    response
}

/// A status without a message: it stands in the head.
fn trailers_only(status: &tonic::Status) -> Response<GrpcBody> {
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if status.add_header(response.headers_mut()).is_err() {
        response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static("13"));
    }
    response
}

fn plain(status: StatusCode) -> Response<GrpcBody> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}
