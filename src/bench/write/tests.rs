//! Tests of the generator against a collector that counts: what is reported is what arrived.

use std::collections::BTreeSet;
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

use super::*;

#[derive(Debug, Default)]
struct Seen {
    spans: usize,
    span_ids: BTreeSet<Vec<u8>>,
    refusals_left: usize,
}

#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Seen>>);

impl Collector {
    fn take(&self, request: ExportTraceServiceRequest) -> bool {
        let mut seen = self.0.lock().unwrap();
        if seen.refusals_left > 0 {
            seen.refusals_left -= 1;
            return false;
        }
        for group in request.resource_spans {
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.spans += 1;
                seen.span_ids.insert(span.span_id);
            }
        }
        true
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        if self.take(request.into_inner()) {
            return Ok(tonic::Response::new(ExportTraceServiceResponse::default()));
        }
        Err(tonic::Status::unavailable("full"))
    }
}

async fn serve_grpc(collector: &Collector) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(collector.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
    drop(TaskTracker::new().spawn(server));
    format!("http://{address}")
}

async fn serve_http(collector: &Collector) -> String {
    let collector = collector.clone();
    let take = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        if collector.take(request) {
            return (http::StatusCode::OK, Vec::new());
        }
        (http::StatusCode::SERVICE_UNAVAILABLE, Vec::new())
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(TaskTracker::new().spawn(axum::serve(listener, router).into_future()));
    format!("http://{address}")
}

fn arguments(collector: &str, more: &[&str]) -> WriteArguments {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        write: WriteArguments,
    }
    let line = ["bench", "--collector", collector, "--connections", "2", "--in-flight", "2"];
    let line = line.iter().chain(more);
    <Line as clap::Parser>::try_parse_from(line).unwrap().write
}

fn gateway() -> GatewayClient {
    GatewayClient::new("http://127.0.0.1:1", None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_span_arrived_once_over_either_transport() {
    for transport in ["grpc", "http"] {
        let collector = Collector::default();
        collector.0.lock().unwrap().refusals_left = 3;
        let url = if transport == "grpc" {
            serve_grpc(&collector).await
        } else {
            serve_http(&collector).await
        };
        let directory = tempfile::tempdir().unwrap();
        let ledger = directory.path().join("ledger");
        let ledger_path = ledger.to_str().unwrap();
        let more = ["--transport", transport, "--spans", "20000", "--ledger", ledger_path];
        let report = run(arguments(&url, &more), &gateway()).await.unwrap();
        // Whole requests: 40 of 512 spans.
        assert_eq!(*report.value("acknowledged_spans"), 20_480, "{report:?}");
        assert_eq!(*report.value("refused_requests"), 3);
        assert!(report.is_well);
        let seen = collector.0.lock().unwrap();
        assert_eq!((seen.spans, seen.span_ids.len()), (20_480, 20_480), "{transport}");
        let entries = ledger::read(&ledger).unwrap();
        assert_eq!(entries.len(), 40 * 64 / LEDGER_EVERY);
        assert!(entries.iter().all(|entry| entry.spans == 8 && entry.session.len() == 16));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_time_ends_a_run() {
    let collector = Collector::default();
    let url = serve_grpc(&collector).await;
    let more = ["--rate", "10240", "--spans", "1000000", "--seconds", "1"];
    let report = run(arguments(&url, &more), &gateway()).await.unwrap();
    let spans = report.value("acknowledged_spans").as_u64().unwrap();
    assert!((5_000..=14_000).contains(&spans), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_process_can_be_the_server_and_settles() {
    let collector = Collector::default();
    let url = serve_grpc(&collector).await;
    let pid = std::process::id().to_string();
    let report = run(arguments(&url, &["--spans", "5000", "--server-pid", &pid]), &gateway()).await;
    let report = report.unwrap();
    assert!(report.value("server_anonymous_peak_bytes").as_u64().unwrap() > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_server_are_reported_together_and_each_by_its_name() {
    let collector = Collector::default();
    let url = serve_grpc(&collector).await;
    let pid = std::process::id();
    let (one, other) = (format!("receiving={pid}"), format!("storing={pid}"));
    let more = ["--spans", "200000", "--server-pid", &one, "--server-pid", &other];
    let report = run(arguments(&url, &more), &gateway()).await.unwrap();
    let bytes = |name: &str| report.value(name).as_u64().unwrap();
    let each = bytes("receiving_anonymous_peak_bytes").max(bytes("storing_anonymous_peak_bytes"));
    assert!(bytes("server_anonymous_peak_bytes") > each, "{report:?}");
    let micros = |name: &str| report.value(name).as_f64().unwrap();
    let sum = micros("receiving_acknowledged_cpu_us_per_span")
        + micros("storing_acknowledged_cpu_us_per_span");
    let together = micros("server_acknowledged_cpu_us_per_span");
    assert!(together > 0.0 && (sum - together).abs() < 0.021, "{report:?}");
}

#[tokio::test]
async fn where_no_collector_is_the_error_names_it() {
    let error = run(arguments("http://127.0.0.1:1", &[]), &gateway()).await.unwrap_err();
    assert!(error.to_string().contains("no collector answers at http://127.0.0.1:1"), "{error}");
}
