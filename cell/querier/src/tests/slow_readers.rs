//! Readers that take their time, or never come back, keep nobody else waiting.

use futures_util::Stream;
use proto::v1::cell_query_client::CellQueryClient;
use tonic::transport::{Endpoint, Server};
use tonic::{Response, Status};

use super::*;
use crate::server;
use crate::stream::FrameStream;

/// Bytes of a large span.
pub(super) const SPAN_BYTES: usize = 64 << 10;
/// Spans of a large trace: ten frames.
pub(super) const SPANS: u8 = 40;

/// A trace that takes ten frames, read out of the store.
pub(super) fn large(cell: &Cell) {
    let mut records = cell.records.lock().unwrap();
    *records = (1..=SPANS)
        .map(|number| {
            let mut large = span(number);
            let mut bytes = large.span.to_vec();
            put_bytes_field(&mut bytes, 3, &vec![b'x'; SPAN_BYTES]);
            large.span = bytes.into();
            large.key.content = content_hash(b"", b"", &large.span);
            large
        })
        .collect();
    cell.committed.store(u64::from(SPANS), Ordering::SeqCst);
}

pub(super) async fn find_stream(querier: &Querier) -> Result<FrameStream, Status> {
    querier.find_trace(ask("us", false)).await.map(Response::into_inner)
}

/// Takes an answer to its end: its spans, or why it ended early.
pub(super) async fn take(
    mut frames: impl Stream<Item = Result<v1::FindTraceResponse, Status>> + Unpin,
) -> Result<usize, Code> {
    let mut spans = 0;
    let mut is_whole = false;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|status| status.code())?;
        spans += frame.spans.len();
        is_whole = frame.summary.is_some();
    }
    assert!(is_whole);
    Ok(spans)
}

fn busy(answer: Result<FrameStream, Status>) -> bool {
    answer.is_err_and(|status| status.code() == Code::ResourceExhausted)
}

#[tokio::test(start_paused = true)]
async fn a_place_at_work_is_free_when_the_stores_have_answered_however_slow_the_reader() {
    let (querier, _) = querier_with(|config| (config.queries_max, config.miss_rounds_max) = (1, 1));
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(find_stream(&querier).await.unwrap());
        held.push(querier.find_trace(ask("us", true)).await.unwrap().into_inner());
    }
    assert_eq!(querier.metrics.running.get(), 0);
    assert_eq!(querier.metrics.outgoing_answers.get(), 10);
    for frames in held {
        assert_eq!(take(frames).await, Ok(4));
    }
    assert_eq!(querier.metrics.outgoing_answers.get(), 0);
    assert_eq!(querier.metrics.outgoing_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_beyond_the_bound_are_refused_until_one_is_taken_or_given_up() {
    let (querier, _) = querier_with(|config| (config.queries_max, config.answers_max) = (2, 2));
    let first = find_stream(&querier).await.unwrap();
    let second = find_stream(&querier).await.unwrap();
    assert!(busy(find_stream(&querier).await));
    assert_eq!(take(first).await, Ok(4));
    let third = find_stream(&querier).await.unwrap();
    assert!(busy(find_stream(&querier).await));
    drop(second);
    assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(4));
    assert_eq!(take(third).await, Ok(4));
    assert_eq!(querier.metrics.cut_answers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_is_left_alone_until_its_place_is_wanted() {
    let (querier, _) = querier_with(|config| (config.queries_max, config.answers_max) = (2, 2));
    let stalled = find_stream(&querier).await.unwrap();
    tokio::time::advance(Duration::from_secs(50)).await;
    let other = find_stream(&querier).await.unwrap();
    assert_eq!(querier.metrics.cut_answers.get(), 0);
    let third = find_stream(&querier).await.unwrap();
    assert_eq!(querier.metrics.cut_answers.get(), 1);
    // Who comes back is told, and gets no summary.
    assert_eq!(take(stalled).await, Err(Code::DeadlineExceeded));
    assert_eq!((take(other).await, take(third).await), (Ok(4), Ok(4)));
    assert_eq!(querier.metrics.outgoing_answers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_keeps_the_pace_is_not_cut_and_one_that_falls_behind_is() {
    let large_bytes = usize::from(SPANS) * SPAN_BYTES;
    let (querier, cell) = querier_with(|config| config.answer_bytes_max = large_bytes);
    large(&cell);
    let mut in_pace = find_stream(&querier).await.unwrap();
    let mut spans = 0;
    for _ in 0..8 {
        tokio::time::advance(Duration::from_millis(2_900)).await;
        // There is no room for a second one, and the first is not to blame.
        assert!(busy(find_stream(&querier).await));
        spans += in_pace.next().await.unwrap().unwrap().spans.len();
        // As it is taken its room is free for others.
        let held = querier.metrics.outgoing_bytes.get();
        let left = i64::try_from((usize::from(SPANS) - spans) * (SPAN_BYTES + 200)).unwrap();
        assert!(held <= left, "{held} of {left}");
    }
    assert_eq!(querier.metrics.cut_answers.get(), 0);
    assert_eq!(spans + take(in_pace).await.unwrap(), usize::from(SPANS));
    let mut behind = find_stream(&querier).await.unwrap();
    for _ in 0..3 {
        behind.next().await.unwrap().unwrap();
    }
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(usize::from(SPANS)));
    assert_eq!(take(behind).await, Err(Code::DeadlineExceeded));
    assert_eq!(querier.metrics.cut_answers.get(), 1);
    assert_eq!(querier.metrics.outgoing_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_readers_have_not_taken_stays_within_its_bound() {
    let bound = 3 * usize::from(SPANS) * SPAN_BYTES;
    let (querier, cell) = querier_with(|config| config.answer_bytes_max = bound);
    large(&cell);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.extend(find_stream(&querier).await);
    }
    assert_eq!(held.len(), 3);
    let frames = i64::try_from(bound + held.len() * (256 << 10)).unwrap();
    assert!(querier.metrics.outgoing_bytes.get() <= frames);
    // A small one needs no room beside its place.
    cell.records.lock().unwrap().truncate(3);
    cell.committed.store(3, Ordering::SeqCst);
    assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(3));
    drop(held);
    large(&cell);
    for _ in 0..3 {
        assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(usize::from(SPANS)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_larger_than_all_the_room_has_it_alone() {
    let (querier, cell) = querier_with(|config| config.answer_bytes_max = 1 << 20);
    large(&cell);
    let alone = find_stream(&querier).await.unwrap();
    assert!(busy(find_stream(&querier).await));
    assert_eq!(take(alone).await, Ok(usize::from(SPANS)));
    assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(usize::from(SPANS)));
}

fn ask_several(count: usize) -> Request<v1::FindTracesRequest> {
    let trace_ids = vec![id_bytes(id(5)); count];
    let caller = caller("us");
    Request::new(v1::FindTracesRequest { caller, trace_ids, ..v1::FindTracesRequest::default() })
}

#[tokio::test(start_paused = true)]
async fn several_traces_hold_no_place_at_work_while_it_is_the_readers_turn() {
    let (querier, cell) = querier_with(|config| config.queries_max = 1);
    // Before the first trace, and between two.
    for taken in [0, 1, 2, 3] {
        let mut several = querier.find_traces(ask_several(3)).await.unwrap().into_inner();
        for _ in 0..taken {
            several.next().await.unwrap().unwrap();
        }
        assert_eq!(querier.metrics.running.get(), 0);
        assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(4));
        drop(several);
    }
    // The next trace waits for its turn; it is not refused.
    let mut several = querier.find_traces(ask_several(2)).await.unwrap().into_inner();
    cell.delay_millis.store(300, Ordering::SeqCst);
    let (other, frame) = tokio::join!(find_stream(&querier), several.next());
    assert!(other.is_ok() && frame.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn several_traces_of_a_reader_that_went_away_between_two_make_room() {
    let (querier, _) = querier_with(|config| (config.queries_max, config.answers_max) = (1, 1));
    let mut several = querier.find_traces(ask_several(3)).await.unwrap().into_inner();
    several.next().await.unwrap().unwrap();
    several.next().await.unwrap().unwrap();
    assert!(busy(find_stream(&querier).await));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(take(find_stream(&querier).await.unwrap()).await, Ok(4));
    let told = several.next().await.unwrap();
    assert_eq!(told.err().unwrap().code(), Code::DeadlineExceeded);
    assert!(several.next().await.is_none());
}

#[tokio::test]
async fn peers_that_read_nothing_do_not_starve_one_that_does() {
    let large_bytes = usize::from(SPANS) * SPAN_BYTES;
    let (querier, cell) = querier_with(|config| {
        config.queries_max = 1;
        config.answer_bytes_max = 2 * large_bytes;
        // Slow enough that a busy machine does not make a stalled peer of the one that reads.
        config.pace_bytes_per_second = 128 << 10;
    });
    large(&cell);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let metrics = querier.metrics.clone();
    let serving = Server::builder().add_service(server(querier)).serve_with_incoming(incoming);
    let connect = || async {
        let channel = Endpoint::from_shared(url.clone())
            .unwrap()
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 10);
        let channel = channel.connect().await.unwrap();
        CellQueryClient::new(channel).max_decoding_message_size(1 << 20)
    };
    let asking = async {
        // Two that take nothing: their window is full soon, the rest stays in the cell.
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let mut peer = connect().await;
            stalled.push((peer.find_trace(ask("us", false)).await.unwrap().into_inner(), peer));
        }
        let mut reader = connect().await;
        let services =
            v1::ListServicesRequest { caller: caller("us"), range: Some(TimeRange::ALL.into()) };
        reader.list_services(Request::new(services)).await.unwrap();
        // Large answers have to wait until those that stall are behind, and no longer.
        let reading = async {
            loop {
                match reader.find_trace(ask("us", false)).await {
                    Ok(answer) => return take(answer.into_inner()).await,
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
        assert_eq!(read, Ok(Ok(usize::from(SPANS))));
        // One place is enough for the reader: whether the other peer is cut as well before the
        // answer is taken is a matter of moments.
        assert!((1..=2).contains(&metrics.cut_answers.get()), "{}", metrics.cut_answers.get());
        drop(stalled);
    };
    tokio::select! {
        ended = serving => ended.unwrap(),
        () = asking => {}
    }
}
