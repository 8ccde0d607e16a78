//! One connection to a collector: OTLP over gRPC or HTTP with a body that is encoded already.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::cli::failure::Failure;

/// Largest answer that is taken: a refusal has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Until an export must be answered.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Window of a connection and of a stream: a request must not wait for window updates.
const WINDOW_BYTES: u32 = 8 << 20;
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";
/// Bytes in front of a gRPC message: a flag and the length.
pub(super) const GRPC_PREFIX_BYTES: usize = 5;
/// gRPC codes that the OTLP specification lets a client retry.
const RETRYABLE_CODES: [&str; 7] = ["1", "4", "8", "10", "11", "14", "15"];

/// How spans are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP/1, protobuf.
    Http,
}

/// What became of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exported {
    /// All of it is acknowledged.
    Acknowledged,
    /// Some spans were rejected for good.
    Rejected {
        /// How many.
        spans: i64,
    },
    /// Refused; the same request may be sent again.
    Refused(String),
}

/// A connection to a collector.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    host: String,
    link: Link,
}

#[derive(Clone, Debug)]
enum Link {
    Grpc(http2::SendRequest<Full<Bytes>>),
    Http(std::sync::Arc<tokio::sync::Mutex<http1::SendRequest<Full<Bytes>>>>),
}

impl Connection {
    /// Connects to `http://host:port`. Over HTTP/1 one request is under way at a time.
    pub(super) async fn open(
        url: &str,
        transport: Transport,
        tasks: &TaskTracker,
    ) -> Result<Self, Failure> {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Other(anyhow::anyhow!("no collector answers at {url}: {error}"))
        };
        let stream = TcpStream::connect(&host).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        let link = match transport {
            Transport::Grpc => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .handshake(stream)
                    .await
                    .map_err(|error| failed(&error))?;
                drop(tasks.spawn(connection));
                Link::Grpc(sender)
            }
            Transport::Http => {
                let (sender, connection) =
                    http1::handshake(stream).await.map_err(|error| failed(&error))?;
                drop(tasks.spawn(connection));
                Link::Http(std::sync::Arc::new(tokio::sync::Mutex::new(sender)))
            }
        };
        Ok(Self { host, link })
    }

    /// Sends a request; over gRPC the body begins with its prefix.
    pub(super) async fn export(&self, body: Bytes) -> Result<Exported, Failure> {
        let sent = async {
            match &self.link {
                Link::Grpc(sender) => self.export_grpc(sender.clone(), body).await,
                Link::Http(sender) => self.export_http(&mut *sender.lock().await, body).await,
            }
        };
        match tokio::time::timeout(EXPORT_TIMEOUT, sent).await {
            Ok(Ok(exported)) => Ok(exported),
            Ok(Err(error)) => Err(Failure::Other(anyhow::anyhow!("{}: {error}", self.host))),
            Err(_) => Err(Failure::Other(anyhow::anyhow!("{}: no answer in 30 s", self.host))),
        }
    }

    async fn export_grpc(
        &self,
        mut sender: http2::SendRequest<Full<Bytes>>,
        body: Bytes,
    ) -> Result<Exported, BoxError> {
        let request = Request::post(format!("http://{}{GRPC_PATH}", self.host))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(body))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let head = response.headers().clone();
        let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or(head);
        if status(&trailers) != "0" {
            return refusal(&trailers);
        }
        let body = collected.to_bytes();
        partial_success(body.get(GRPC_PREFIX_BYTES..).unwrap_or_default())
    }

    async fn export_http(
        &self,
        sender: &mut http1::SendRequest<Full<Bytes>>,
        body: Bytes,
    ) -> Result<Exported, BoxError> {
        let request = Request::post(HTTP_PATH)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        match code {
            200 => partial_success(&body),
            // What the OTLP specification lets a client retry.
            429 | 502 | 503 | 504 => Ok(Exported::Refused(format!("HTTP {code}"))),
            _ => Err(format!("HTTP {code}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn status(trailers: &HeaderMap) -> &str {
    let value = trailers.get("grpc-status").and_then(|value| value.to_str().ok());
    value.unwrap_or("no status")
}

fn refusal(trailers: &HeaderMap) -> Result<Exported, BoxError> {
    let message = trailers.get("grpc-message").and_then(|value| value.to_str().ok());
    let text = format!("gRPC {}: {}", status(trailers), message.unwrap_or_default());
    if RETRYABLE_CODES.contains(&status(trailers)) {
        return Ok(Exported::Refused(text));
    }
    Err(text.into())
}

fn partial_success(body: &[u8]) -> Result<Exported, BoxError> {
    let response = ExportTraceServiceResponse::decode(body)?;
    match response.partial_success {
        Some(partial) if partial.rejected_spans > 0 => {
            Ok(Exported::Rejected { spans: partial.rejected_spans })
        }
        _ => Ok(Exported::Acknowledged),
    }
}

/// Puts the prefix of an uncompressed gRPC message in front of `message_bytes` bytes to come.
pub(super) fn put_grpc_prefix(buffer: &mut Vec<u8>, message_bytes: usize) {
    buffer.push(0);
    buffer.extend_from_slice(&u32::try_from(message_bytes).unwrap_or(u32::MAX).to_be_bytes());
}
