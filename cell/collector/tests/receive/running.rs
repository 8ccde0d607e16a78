//! A collector that listens on loopback, and senders for it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use collector::{Collector, CollectorConfig};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use sampling::{HeadRules, HeadSampler, RateSampler};
use service_kit::SystemClock;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::Region;

use crate::fake_log::FakeLog;

pub(crate) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

/// A collector with both listeners.
pub(crate) struct Running {
    pub(crate) log: Arc<FakeLog>,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    registry: Registry,
}

pub(crate) fn config() -> CollectorConfig {
    CollectorConfig::new(Region::new("eu-west-1").unwrap(), "c1")
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::with(config(), HeadRules::default()).await
    }

    pub(crate) async fn with(config: CollectorConfig, rules: HeadRules) -> Self {
        let log = FakeLog::new();
        let sampler: Arc<dyn HeadSampler> = Arc::new(RateSampler::new(rules).unwrap());
        let mut registry = Registry::default();
        let clock = Arc::new(SystemClock::new());
        let collector = Collector::new(config, log.clone(), sampler, clock, &mut registry);
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (grpc_address, http_address) = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        tracker.spawn(Arc::clone(&collector).serve_grpc(grpc, stop.clone()));
        tracker.spawn(Arc::clone(&collector).serve_http(http, stop.clone()));
        tracker.close();
        Self { log, grpc: grpc_address, http: http_address, stop, tracker, registry }
    }

    /// The metrics as Prometheus reads them.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(Bytes::from(body))).unwrap()).await
    }

    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.http).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tracker.spawn(async move { drop(connection.await) });
        request.headers_mut().insert("host", "collector".parse().unwrap());
        let response = within(sender.send_request(request)).await.unwrap();
        Answer::read(response).await
    }

    /// Posts protobuf to `/v1/traces`.
    pub(crate) async fn export_http(&self, encoding: &str, body: Vec<u8>) -> Answer {
        self.post("/v1/traces", &[("content-type", PROTOBUF), ("content-encoding", encoding)], body)
            .await
    }

    /// Calls `Export` with one message.
    pub(crate) async fn export_grpc(&self, encoding: &str, message: Vec<u8>) -> GrpcAnswer {
        let is_compressed = encoding != "identity";
        self.call(EXPORT, &[("grpc-encoding", encoding)], framed(is_compressed, &message)).await
    }

    pub(crate) async fn call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> GrpcAnswer {
        self.call_as("application/grpc", path, headers, body).await
    }

    pub(crate) async fn call_as(
        &self,
        content_type: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> GrpcAnswer {
        let stream = TcpStream::connect(self.grpc).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        self.tracker.spawn(async move { drop(connection.await) });
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.grpc))
            .header("content-type", content_type);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        GrpcAnswer::read(response).await
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn read(response: Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer over gRPC.
#[derive(Debug)]
pub(crate) struct GrpcAnswer {
    pub(crate) http_status: u16,
    pub(crate) status: tonic::Status,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

impl GrpcAnswer {
    async fn read(response: Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let collected = within(body.collect()).await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let status = tonic::Status::from_header_map(&trailers)
            .or_else(|| tonic::Status::from_header_map(&head.headers))
            .unwrap_or_else(|| tonic::Status::unknown("no grpc-status"));
        let body = collected.to_bytes();
        let message = if body.len() >= 5 { body.slice(5..) } else { Bytes::new() };
        Self { http_status: head.status.as_u16(), status, headers: head.headers, message }
    }
}

/// A message with its prefix.
pub(crate) fn framed(is_compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::from(is_compressed)];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    body
}

/// Waits for something that must happen soon.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
