//! Tests of reading and searching, against a gateway and a cell that hold one trace.

use std::path::{Path, PathBuf};

use clap::Parser;
use proto::v1;
use proto::v1::cell_query_server::{CellQuery, CellQueryServer};
use serde_json::json;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use trace_model::TraceId;

use super::*;

const ID: &str = "5759e988bd862e3fe1be46a994272793";
const SESSION: &str = "00000000000000ff";

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    bench: BenchCommand,
}

async fn measure(line: &[&str], gateway: &str) -> Result<Report, Failure> {
    let line = ["bench"].into_iter().chain(line.iter().copied());
    let client = GatewayClient::new(gateway, None)?;
    match Line::try_parse_from(line).unwrap().bench {
        BenchCommand::Write(arguments) => write::run(arguments, &client).await,
        BenchCommand::Read(arguments) => read::run(arguments, &client).await,
        BenchCommand::Search(arguments) => search::run(&arguments, &client).await,
        BenchCommand::Receive(arguments) => panic!("{arguments:?}"),
    }
}

fn ledger(directory: &Path, spans: usize) -> PathBuf {
    let path = directory.join(format!("ledger-{spans}"));
    let entry = ledger::Entry { id: ID.parse().unwrap(), spans, session: SESSION.to_owned() };
    ledger::append(&path, &[entry]).unwrap();
    path
}

/// Gives a trace of two spans, and finds it by its session or a service.
async fn gateway() -> String {
    let answer = |uri: http::Uri| {
        let query = uri.query().unwrap_or_default();
        let body = if uri.path() == format!("/api/farspan/v1/traces/{ID}") {
            json!({"resourceSpans": [{"scopeSpans": [{"spans": [{}, {}]}]}]})
        } else if query.contains(SESSION) || query.contains("service=bench-") {
            json!({"traces": [{"traceId": ID}], "stats": {"blocksTotal": 10, "blocksOpened": 1}})
        } else {
            json!({"traces": []})
        };
        std::future::ready(body.to_string())
    };
    let router = axum::Router::new().fallback(answer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(TaskTracker::new().spawn(axum::serve(listener, router).into_future()));
    format!("http://{address}")
}

struct Cell;

type Answer<T> = Result<Response<T>, Status>;
type Frames = tokio_stream::Iter<std::vec::IntoIter<Result<v1::FindTraceResponse, Status>>>;

fn refused<T>() -> Answer<T> {
    Err(Status::unimplemented("not asked here"))
}

#[tonic::async_trait]
impl CellQuery for Cell {
    type FindTraceStream = Frames;
    type FindTracesStream = Frames;

    async fn find_trace(&self, request: Request<v1::FindTraceRequest>) -> Answer<Frames> {
        let request = request.into_inner();
        assert_eq!(request.caller.unwrap().region, "eu-west-1", "asks as its own region");
        assert_eq!(TraceId::try_from(request.trace_id.as_ref()).unwrap().to_string(), ID);
        let frame = || {
            let spans = vec![v1::SpanFrame::default()];
            Ok(v1::FindTraceResponse { spans, ..v1::FindTraceResponse::default() })
        };
        Ok(Response::new(tokio_stream::iter(vec![frame(), frame()])))
    }

    async fn search_traces(
        &self,
        request: Request<v1::SearchTracesRequest>,
    ) -> Answer<v1::SearchTracesResponse> {
        let filter = request.into_inner().filter.unwrap().node.unwrap();
        let v1::filter::Node::Compare(compare) = filter else { panic!("no comparison") };
        let v1::compare::Literal::Str(text) = compare.literal.unwrap() else { panic!("no text") };
        let id: TraceId = ID.parse().unwrap();
        let found = v1::TraceMatch {
            trace_id: bytes::Bytes::copy_from_slice(id.as_bytes()),
            ..v1::TraceMatch::default()
        };
        let is_found = text == SESSION || text.starts_with("bench-");
        let matches = if is_found { vec![found] } else { Vec::new() };
        Ok(Response::new(v1::SearchTracesResponse {
            matches,
            ..v1::SearchTracesResponse::default()
        }))
    }

    async fn get_cell_status(
        &self,
        request: Request<v1::GetCellStatusRequest>,
    ) -> Answer<v1::GetCellStatusResponse> {
        let caller = request.into_inner().caller.unwrap();
        assert!(trace_model::Region::new(&caller.region).is_ok(), "a caller has a region");
        let region = "eu-west-1".to_owned();
        Ok(Response::new(v1::GetCellStatusResponse {
            region,
            ..v1::GetCellStatusResponse::default()
        }))
    }

    async fn find_traces(&self, _: Request<v1::FindTracesRequest>) -> Answer<Frames> {
        refused()
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Answer<v1::ListServicesResponse> {
        refused()
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Answer<v1::ListOperationsResponse> {
        refused()
    }

    async fn list_edges(&self, _: Request<v1::ListEdgesRequest>) -> Answer<v1::ListEdgesResponse> {
        refused()
    }

    async fn query_red(&self, _: Request<v1::QueryRedRequest>) -> Answer<v1::QueryRedResponse> {
        refused()
    }

    async fn find_edge_traces(
        &self,
        _: Request<v1::FindEdgeTracesRequest>,
    ) -> Answer<v1::FindEdgeTracesResponse> {
        refused()
    }
}

async fn cell() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .serve_with_incoming(CellQueryServer::new(Cell), incoming);
    drop(TaskTracker::new().spawn(server));
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_whole_only_with_exactly_the_spans_that_were_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (gateway, cell) = (gateway().await, cell().await);
    for (spans, is_whole) in [(2, true), (3, false), (1, false)] {
        let path = ledger(directory.path(), spans);
        let path = path.to_str().unwrap();
        for target in [&["--concurrency", "2"][..], &["--cell", &cell]] {
            let line = [&["read", "--ledger", path, "--reads", "20"][..], target].concat();
            let report = measure(&line, &gateway).await.unwrap();
            assert_eq!(report.is_well, is_whole, "{report:?}");
            assert_eq!(*report.value("whole"), if is_whole { 20 } else { 0 });
            assert_eq!(*report.value("reads"), 20);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_value_must_find_its_trace_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = ledger(directory.path(), 2);
    let path = path.to_str().unwrap();
    let (gateway, cell) = (gateway().await, cell().await);
    for target in [&[][..], &["--cell", &cell]] {
        for by in [&["--by", "service"][..], &["--by", "rare", "--ledger", path]] {
            let line = [&["search", "--searches", "10"][..], by, target].concat();
            let report = measure(&line, &gateway).await.unwrap();
            assert!(report.is_well, "{report:?}");
            assert_eq!(*report.value("answered_rightly"), 10);
        }
    }
    let other = directory.path().join("other");
    let id = TraceId::from_bytes([1; 16]).unwrap();
    let entry = ledger::Entry { id, spans: 2, session: SESSION.to_owned() };
    ledger::append(&other, &[entry]).unwrap();
    let line = ["search", "--by", "rare", "--ledger", other.to_str().unwrap()];
    assert!(!measure(&line, &gateway).await.unwrap().is_well, "another trace was found");
}

#[test]
fn a_report_is_lines_or_json() {
    let mut report = Report::new();
    report.add("spans", 7).add_ratio("seconds", 1.005_4);
    let (mut output, buffer) = Output::to_buffer(false);
    report.print(&mut output).unwrap();
    let text = buffer.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("spans ") && lines[1].starts_with("seconds "), "{text}");
    let (mut output, buffer) = Output::to_buffer(true);
    report.print(&mut output).unwrap();
    assert_eq!(buffer.text(), "{\"seconds\":1.01,\"spans\":7}\n");
}
