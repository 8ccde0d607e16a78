//! What answers cost in memory stays within what is counted for them. Stands alone, since the peak of
//! memory is the process's.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops where it fails")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use gateway::port::{
    Caller, CellClient, CellError, EdgeTraceAsk, FrameStream, IndexError, IndexRegions, LookUp,
    MetadataIndex, RedAsk, SummaryPage, TraceAsk,
};
use gateway::{AnswerRoom, Gateway, GatewayConfig};
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prometheus_client::registry::Registry;
use prost::Message;
use proto::convert::query::{FramePacker, id_bytes};
use proto::v1;
use service_kit::ManualClock;
use tower::ServiceExt;
use trace_model::location::{Keep, RegionState, SummaryQuery};
use trace_model::merge::{Envelope, content_hash};
use trace_model::{
    Contribution, Coverage, Region, ScopeContext, SearchQuery, SpanId, SpanKey, StoredSpan,
    TenantId, TimeRange, TraceEntry, TraceId, UnixNanos, WriterId,
};

const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
const TRACE: &str = "05050505050505050505050505050505";
const SPANS_PER_FRAME: u64 = 400;

fn region() -> Region {
    Region::new("eu").unwrap()
}

fn id() -> TraceId {
    TraceId::from_bytes([5; 16]).unwrap()
}

/// About 500 bytes with ten attributes, as spans are.
fn span(number: u64, envelope: &Arc<Envelope>, context: &Arc<ScopeContext>) -> StoredSpan {
    let span_id = (number + 1).to_be_bytes();
    let attribute = |place: u64| {
        let text = format!("value {place} of span {number:08} and some more");
        let value = Some(AnyValue { value: Some(Value::StringValue(text)) });
        KeyValue { key: format!("attribute.{place}"), value, ..KeyValue::default() }
    };
    let span = Span {
        trace_id: vec![5; 16],
        span_id: span_id.to_vec(),
        parent_span_id: if number == 0 { vec![] } else { 1_u64.to_be_bytes().to_vec() },
        name: format!("operation {}", number % 50),
        kind: 2,
        start_time_unix_nano: NOW.0 + number,
        end_time_unix_nano: NOW.0 + number + 900,
        attributes: (0..8).map(attribute).collect(),
        ..Span::default()
    };
    let span = Bytes::from(span.encode_to_vec());
    let content = content_hash(b"", b"", &span);
    StoredSpan {
        key: SpanKey { span_id: SpanId::from_bytes(span_id).unwrap(), kind: 2, content },
        span,
        context: Arc::clone(context),
        envelope: Arc::clone(envelope),
    }
}

fn frame(place: u64) -> v1::FindTraceResponse {
    let envelope = Envelope { receive_time: NOW, region: region(), collector: "c".into() };
    let context =
        ScopeContext { resource: Bytes::new(), scope: Bytes::new(), service: "web".into() };
    let (envelope, context) = (Arc::new(envelope), Arc::new(context));
    let numbers = place * SPANS_PER_FRAME..(place + 1) * SPANS_PER_FRAME;
    let spans = numbers.map(|number| span(number, &envelope, &context));
    FramePacker::new(id(), spans).next().unwrap()
}

/// A cell with one trace of so many frames, each made when it is read, as from a socket.
#[derive(Debug)]
struct LargeTrace {
    region: Region,
    frames: u64,
}

#[async_trait]
impl CellClient for LargeTrace {
    fn region(&self) -> &Region {
        &self.region
    }

    async fn find_traces(&self, _: TraceAsk) -> Result<FrameStream, CellError> {
        let (counted, mut coverage) = (self.frames, Coverage::none(1));
        coverage.extend(0, 9);
        let frames = stream::iter(0..self.frames).map(|place| {
            // Over the wire and back: the bytes of a message are one piece of memory.
            let bytes = Bytes::from(frame(place).encode_to_vec());
            Ok(v1::FindTraceResponse::decode(bytes).unwrap())
        });
        let summary = v1::FindTraceSummary {
            outcome: v1::CellOutcome::Answered.into(),
            coverage: Some((&coverage).into()),
            span_count: counted * SPANS_PER_FRAME,
            region: "eu".to_owned(),
            ..v1::FindTraceSummary::default()
        };
        let last = v1::FindTraceResponse {
            trace_id: id_bytes(id()),
            summary: Some(summary),
            ..v1::FindTraceResponse::default()
        };
        // Questions take turns, frame by frame.
        let frames = frames.chain(stream::iter([Ok(last)])).then(|frame| async move {
            tokio::task::yield_now().await;
            frame
        });
        Ok(frames.boxed())
    }

    async fn search(
        &self,
        _: &Caller,
        _: &SearchQuery,
        _: Duration,
    ) -> Result<v1::SearchTracesResponse, CellError> {
        Err(unused())
    }

    async fn services(
        &self,
        _: &Caller,
        _: TimeRange,
        _: Duration,
    ) -> Result<v1::ListServicesResponse, CellError> {
        Err(unused())
    }

    async fn operations(
        &self,
        _: &Caller,
        _: &str,
        _: TimeRange,
        _: Duration,
    ) -> Result<v1::ListOperationsResponse, CellError> {
        Err(unused())
    }

    async fn edges(
        &self,
        _: &Caller,
        _: TimeRange,
        _: Option<v1::EdgePlace>,
        _: Duration,
    ) -> Result<v1::ListEdgesResponse, CellError> {
        Err(unused())
    }

    async fn red(
        &self,
        _: &Caller,
        _: &RedAsk,
        _: Option<v1::RedPlace>,
        _: Duration,
    ) -> Result<v1::QueryRedResponse, CellError> {
        Err(unused())
    }

    async fn edge_traces(
        &self,
        _: &Caller,
        _: &EdgeTraceAsk,
        _: Duration,
    ) -> Result<v1::FindEdgeTracesResponse, CellError> {
        Err(unused())
    }

    async fn status(
        &self,
        _: &Caller,
        _: Duration,
    ) -> Result<v1::GetCellStatusResponse, CellError> {
        Err(unused())
    }
}

fn unused() -> CellError {
    CellError::Unavailable("not in this test".to_owned())
}

/// An index that knows the trace.
#[derive(Debug)]
struct Knowing;

#[async_trait]
impl MetadataIndex for Knowing {
    async fn look_up(&self, _: &TenantId, ids: &[TraceId]) -> Result<LookUp, IndexError> {
        let mut entry = TraceEntry::default();
        entry.join(Contribution {
            version: 9,
            tenant: TenantId::default(),
            trace_id: id(),
            writer: WriterId { region: region(), incarnation: 1, partition: 0 },
            last_append: NOW,
            keep: Keep::Pending,
            is_erased: false,
            detail: None,
        });
        Ok(LookUp { entries: ids.iter().map(|_| entry.clone()).collect(), regions: Vec::new() })
    }

    async fn list_summaries(&self, _: &SummaryQuery) -> Result<SummaryPage, IndexError> {
        Ok(SummaryPage::default())
    }

    async fn regions(&self) -> Result<IndexRegions, IndexError> {
        Ok(IndexRegions { regions: Vec::<RegionState>::new(), traces_held: 1 })
    }
}

fn router(frames: u64, room: &AnswerRoom) -> axum::Router {
    let mut config = GatewayConfig::new(region(), Vec::new());
    config.answer_room = room.clone();
    config.requests_per_second = 0;
    let cell: Arc<dyn CellClient> = Arc::new(LargeTrace { region: region(), frames });
    let clock = Arc::new(ManualClock::at(NOW));
    let registry = &mut Registry::default();
    gateway::http::router(Arc::new(Gateway::new(
        config,
        Arc::new(Knowing),
        vec![cell],
        clock,
        registry,
    )))
}

async fn ask(router: &axum::Router, path: &str, accept: &str) -> Response<Body> {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

/// By how much memory grew at most since the last call (proc(5), clear_refs).
fn restart_peak() -> u64 {
    let peak = status_bytes("VmHWM:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_cost_no_more_memory_than_is_counted() {
    let path = format!("/api/farspan/v1/traces/{TRACE}");
    let jaeger = format!("/api/traces/{TRACE}");
    let spans_bytes = 24 * (frame(0).encoded_len() as u64 + 256 * SPANS_PER_FRAME);

    // One after the other: what each form costs at its peak.
    let open = AnswerRoom::new(8 << 30);
    let one = router(24, &open);
    for (path, accept, factor) in [(&path, PROTOBUF, 3), (&path, JSON, 5), (&jaeger, JSON, 8)] {
        let before = status_bytes("VmRSS:");
        restart_peak();
        let response = ask(&one, path, accept).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let grown = restart_peak().saturating_sub(before);
        let ratio = grown * 100 / spans_bytes;
        println!(
            "{path} {accept}: {spans_bytes} B of spans, {} B sent, peak {ratio} %",
            body.len()
        );
        assert!(grown <= spans_bytes * factor + (16 << 20), "{path} {accept}: {grown}");
    }
    assert_eq!(open.used(), 0);

    // Many at once, whose readers do not read.
    let room = AnswerRoom::new(8 * spans_bytes);
    let all = router(24, &room);
    let before = status_bytes("VmRSS:");
    restart_peak();
    let asked = (0..16).map(|number| {
        let (all, path) = (all.clone(), if number % 2 == 0 { &path } else { &jaeger });
        async move { ask(&all, path, JSON).await }
    });
    let responses: Vec<_> = stream::iter(asked).buffer_unordered(16).collect().await;
    let grown = restart_peak().saturating_sub(before);
    let answered = responses.iter().filter(|response| response.status() == StatusCode::OK).count();
    println!("room {} B, peak {grown} B, {answered} of 16 answered", room.bytes_max());
    for response in responses.iter().filter(|response| response.status() != StatusCode::OK) {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
    }
    assert!(answered > 0 && answered < 16, "{answered}");
    assert!(grown <= room.bytes_max() + (32 << 20), "grew by {grown}");
    drop(responses);
    assert_eq!(room.used(), 0);
}
