//! A cell over a real socket: honest, resetting, talking another protocol, sending too much.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use proto::v1;
use proto::v1::cell_query_server::{CellQuery, CellQueryServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use trace_model::{Certificate, Filter, RegionOutcome, TenantId, TimeRange, Verdict};

use super::GrpcCellClient;
use crate::config::{CellEndpoint, Freshness, GatewayConfig, Patience};
use crate::error::GatewayError;
use crate::fakes::{FakeCell, FakeIndex, Manner, NOW, id, level, region, waiting};
use crate::gateway::Gateway;
use crate::port::{Caller, CellClient, CellError, TraceAsk};
use crate::room::AnswerRoom;
use crate::search::SearchRequest;

/// Serves a fake cell's frames over gRPC.
#[derive(Debug)]
struct Wire {
    cell: Arc<FakeCell>,
    /// Bytes of filler in one more frame.
    filler: usize,
}

type Frames = BoxStream<'static, Result<v1::FindTraceResponse, Status>>;

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

impl Wire {
    async fn hang_if_told(&self) {
        if *self.cell.manner.lock().unwrap() == Manner::Hanging {
            std::future::pending::<()>().await;
        }
    }

    async fn frames(&self, trace_ids: Vec<trace_model::TraceId>) -> Result<Frames, Status> {
        let caller = Caller { tenant: TenantId::default(), region: region("eu") };
        let time = Duration::from_secs(1);
        let ask = TraceAsk {
            caller,
            trace_ids,
            placed: vec![],
            is_miss_round: false,
            time,
            first_frame: time,
        };
        let frames = self.cell.find_traces(ask).await.map_err(|_| Status::internal("told so"))?;
        let large = (self.filler > 0).then(|| {
            Ok(v1::FindTraceResponse {
                resources: vec![vec![0; self.filler].into()],
                ..v1::FindTraceResponse::default()
            })
        });
        let frames = frames.map_err(|_| Status::unavailable("told so"));
        Ok(futures_util::stream::iter(large).chain(frames).boxed())
    }
}

#[tonic::async_trait]
impl CellQuery for Wire {
    type FindTraceStream = Frames;
    type FindTracesStream = Frames;

    async fn find_trace(
        &self,
        request: Request<v1::FindTraceRequest>,
    ) -> Result<Response<Frames>, Status> {
        let request = request.into_inner();
        assert!(request.first_frame_millis > 0, "a cell is told how long its first frame may take");
        let id = request.trace_id.as_ref().try_into().unwrap();
        Ok(Response::new(self.frames(vec![id]).await?))
    }

    async fn find_traces(
        &self,
        request: Request<v1::FindTracesRequest>,
    ) -> Result<Response<Frames>, Status> {
        let ids = request.into_inner().trace_ids;
        let ids = ids.iter().map(|id| id.as_ref().try_into().unwrap()).collect();
        Ok(Response::new(self.frames(ids).await?))
    }

    async fn search_traces(
        &self,
        _: Request<v1::SearchTracesRequest>,
    ) -> Result<Response<v1::SearchTracesResponse>, Status> {
        self.hang_if_told().await;
        unused()
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        self.hang_if_told().await;
        unused()
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        unused()
    }

    async fn list_edges(
        &self,
        _: Request<v1::ListEdgesRequest>,
    ) -> Result<Response<v1::ListEdgesResponse>, Status> {
        unused()
    }

    async fn query_red(
        &self,
        _: Request<v1::QueryRedRequest>,
    ) -> Result<Response<v1::QueryRedResponse>, Status> {
        unused()
    }

    async fn find_edge_traces(
        &self,
        _: Request<v1::FindEdgeTracesRequest>,
    ) -> Result<Response<v1::FindEdgeTracesResponse>, Status> {
        unused()
    }

    async fn get_cell_status(
        &self,
        _: Request<v1::GetCellStatusRequest>,
    ) -> Result<Response<v1::GetCellStatusResponse>, Status> {
        unused()
    }
}

/// What listens where a cell should be.
enum Listener {
    Cell {
        filler: usize,
    },
    /// Takes connections and drops them.
    Resetting,
    /// Answers in words that are not HTTP/2.
    Talking,
    /// Takes connections and says nothing.
    Silent,
    /// Nobody.
    Nobody,
}

async fn listen(kind: Listener, cell: Arc<FakeCell>, tasks: &TaskTracker) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    match kind {
        Listener::Nobody => drop(listener),
        Listener::Cell { filler } => {
            let service = CellQueryServer::new(Wire { cell, filler });
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            drop(tasks.spawn(server.serve_with_incoming(incoming)));
        }
        Listener::Resetting | Listener::Talking | Listener::Silent => {
            let is_talking = matches!(kind, Listener::Talking);
            let is_silent = matches!(kind, Listener::Silent);
            drop(tasks.spawn(async move {
                let mut held = Vec::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    if is_talking {
                        drop(stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await);
                    }
                    if is_silent {
                        held.push(stream);
                    }
                }
            }));
        }
    }
    url
}

async fn ask_over(kind: Listener) -> (RegionOutcome, Option<String>, usize) {
    ask_with(kind, AnswerRoom::new(1 << 30)).await
}

async fn ask_with(kind: Listener, room: AnswerRoom) -> (RegionOutcome, Option<String>, usize) {
    let other = FakeCell::new("us");
    other.hold(id(5), 2..4);
    let gateway = gateway_over(kind, other, room).await;
    let (first_frame, total) = (Duration::from_millis(1_500), Duration::from_secs(30));
    let context = waiting(Freshness::Auto, Patience { first_frame, total });
    let answer = gateway.find_trace(&context, id(5)).await.unwrap();
    let report = &answer.certificate.regions[&region("us")];
    let is_complete = answer.certificate.verdict() == Verdict::Complete;
    assert_eq!(is_complete, report.outcome == RegionOutcome::Answered);
    (report.outcome, report.reason.clone(), answer.spans.len())
}

/// A gateway of `eu` that reaches `us` over a socket.
async fn gateway_over(kind: Listener, other: Arc<FakeCell>, room: AnswerRoom) -> Gateway {
    let tasks = TaskTracker::new();
    let own = FakeCell::new("eu");
    own.hold(id(5), 0..2);
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    index.know(own.contribution(id(5)));
    index.know(other.contribution(id(5)));
    let url = listen(kind, other, &tasks).await;
    let remote = GrpcCellClient::connect_lazy(region("us"), &url, room.clone()).unwrap();
    let endpoint = CellEndpoint { region: region("us"), endpoint: url };
    let mut config = GatewayConfig::new(region("eu"), vec![endpoint]);
    config.answer_room = room;
    let clock = Arc::new(service_kit::ManualClock::at(NOW));
    let cells: Vec<Arc<dyn CellClient>> = vec![own, Arc::new(remote)];
    let mut registry = prometheus_client::registry::Registry::default();
    Gateway::new(config, index, cells, clock, &mut registry)
}

/// A peer that hangs: one whose process has stopped, and one whose handler never ends.
async fn gateway_over_a_hanging_peer(is_stopped: bool) -> Gateway {
    let other = FakeCell::new("us");
    other.hold(id(5), 2..4);
    other.behave(Manner::Hanging);
    let kind = if is_stopped { Listener::Silent } else { Listener::Cell { filler: 0 } };
    gateway_over(kind, other, AnswerRoom::new(1 << 30)).await
}

fn assert_timed_out(certificate: &Certificate) {
    let line = certificate.to_string();
    assert!(line.contains("us (timed_out)"), "{line}");
}

#[tokio::test]
async fn a_region_that_hangs_is_timed_out_by_id_in_a_search_and_in_a_list() {
    for is_stopped in [true, false] {
        let gateway = gateway_over_a_hanging_peer(is_stopped).await;
        let asked = || waiting(Freshness::Auto, Patience::exactly(Duration::from_millis(300)));
        // Over and over: whose timer is first is chance.
        for _ in 0..4 {
            let answer = gateway.find_trace(&asked(), id(5)).await.unwrap();
            assert_timed_out(&answer.certificate);
            let request =
                SearchRequest { filter: Filter::All, range: None, limit: 5, cursor: None };
            let Err(GatewayError::Unproven(certificate)) = gateway.search(&asked(), &request).await
            else {
                panic!("nothing was found, and a region is missing");
            };
            assert_timed_out(&certificate);
            let Err(GatewayError::Unproven(certificate)) = gateway.services(&asked()).await else {
                panic!("nothing was found, and a region is missing");
            };
            assert_timed_out(&certificate);
        }
    }
}

#[tokio::test]
async fn an_honest_cell_is_read_over_its_socket() {
    let (outcome, _, spans) = ask_over(Listener::Cell { filler: 0 }).await;
    assert_eq!((outcome, spans), (RegionOutcome::Answered, 4));
}

#[tokio::test]
async fn whatever_listens_in_a_cells_place_costs_no_more_than_its_part() {
    use RegionOutcome as Outcome;
    for (kind, outcomes) in [
        (Listener::Nobody, [Outcome::Unavailable, Outcome::Unavailable]),
        (Listener::Resetting, [Outcome::Unavailable, Outcome::Unavailable]),
        (Listener::Talking, [Outcome::Unavailable, Outcome::Invalid]),
        (Listener::Silent, [Outcome::TimedOut, Outcome::TimedOut]),
    ] {
        let (outcome, reason, spans) = ask_over(kind).await;
        assert!(outcomes.contains(&outcome), "{outcome:?} {reason:?}");
        assert_eq!(spans, 2);
        assert!(!reason.unwrap().contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_message_larger_than_allowed_is_not_read() {
    let filler = super::MESSAGE_BYTES_MAX + 1;
    let (outcome, reason, spans) = ask_over(Listener::Cell { filler }).await;
    assert_eq!((outcome, spans), (RegionOutcome::Invalid, 2));
    assert_eq!(reason.as_deref(), Some("a message larger than allowed"));
    assert!(!CellError::Invalid(String::new()).is_retryable());
}

#[tokio::test]
async fn a_message_takes_room_while_it_arrives_and_is_cut_off_where_there_is_none() {
    let room = AnswerRoom::new(2 << 20);
    let filler = 16 << 20;
    let (outcome, reason, spans) = ask_with(Listener::Cell { filler }, room.clone()).await;
    assert_eq!((outcome, spans), (RegionOutcome::Unavailable, 2));
    assert!(reason.unwrap().starts_with("cut off"));
    assert_eq!(room.used(), 0);
}

#[tokio::test]
async fn what_was_handed_over_is_counted_once() {
    let tasks = TaskTracker::new();
    let cell = FakeCell::new("us");
    cell.hold(id(5), 0..2_000);
    let url = listen(Listener::Cell { filler: 0 }, cell, &tasks).await;
    let room = AnswerRoom::new(1 << 30);
    let client = GrpcCellClient::connect_lazy(region("us"), &url, room.clone()).unwrap();
    let caller = Caller { tenant: TenantId::default(), region: region("eu") };
    let time = Duration::from_secs(5);
    let ask = TraceAsk {
        caller,
        trace_ids: vec![id(5)],
        placed: vec![None],
        is_miss_round: false,
        time,
        first_frame: time,
    };
    let frames: Vec<_> = client.find_traces(ask).await.unwrap().collect().await;
    assert!(frames.len() >= 2 && frames.iter().all(Result::is_ok));
    assert_eq!(room.used(), 0);
}

#[tokio::test]
async fn a_connection_that_is_given_up_for_its_silence_is_timed_out() {
    let tasks = TaskTracker::new();
    let url = listen(Listener::Silent, FakeCell::new("us"), &tasks).await;
    let (soon, patience) = (Duration::from_millis(50), Duration::from_secs(20));
    let endpoint = super::endpoint(&url).unwrap();
    let endpoint = endpoint.http2_keep_alive_interval(soon).keep_alive_timeout(soon);
    let room = AnswerRoom::new(1 << 20);
    let client = GrpcCellClient::new(region("us"), endpoint.connect_lazy(), room);
    let caller = Caller { tenant: TenantId::default(), region: region("eu") };
    let asked = client.services(&caller, TimeRange::ALL, patience);
    let refused = tokio::time::timeout(patience / 2, asked).await;
    let refused = refused.expect("the connection is given up first").unwrap_err();
    assert_eq!(refused.outcome(), RegionOutcome::TimedOut, "{refused}");
}
