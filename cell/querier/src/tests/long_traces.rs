//! A trace that the store gives in pieces goes through in pieces.

use super::slow_readers::{SPAN_BYTES, SPANS, find_stream, large, take};
use super::*;

/// A cell whose store gives its trace in pieces of so many spans; the tail has the last `in_tail`.
fn cell_of_pieces(
    piece_spans: usize,
    in_tail: u8,
    adjust: impl FnOnce(&mut QuerierConfig),
) -> (Querier, Arc<Cell>) {
    let (querier, cell) = querier_with(adjust);
    large(&cell);
    cell.piece_spans.store(piece_spans, Ordering::SeqCst);
    cell.committed.store(u64::from(SPANS - in_tail), Ordering::SeqCst);
    (querier, cell)
}

#[tokio::test(start_paused = true)]
async fn a_long_trace_is_whole_in_less_room_than_it_would_take() {
    let piece = 5 * SPAN_BYTES;
    for in_tail in [0, 1, 4] {
        let (querier, cell) =
            cell_of_pieces(4, in_tail, |config| config.answer_bytes_max = 2 * piece);
        let mut frames = find_stream(&querier).await.unwrap();
        let (mut spans, mut summary, mut most) = (Vec::new(), None, 0);
        while let Some(frame) = frames.next().await {
            let frame = frame.unwrap();
            assert!(summary.is_none(), "a frame behind the summary");
            assert!(!frame.spans.is_empty() || frame.summary.is_some(), "an empty frame");
            most = most.max(querier.metrics.outgoing_bytes.get());
            summary.clone_from(&frame.summary);
            spans.extend(unpack_frame(frame, id(5)).unwrap());
        }
        let summary = summary.unwrap();
        assert_eq!(spans.len(), usize::from(SPANS));
        assert_eq!(summary.span_count, u64::from(SPANS));
        assert!(!summary.is_damaged && !summary.lacks_store);
        assert_eq!(Coverage::from(summary.coverage.unwrap()), cover(u64::from(SPANS)));
        assert!(most <= i64::try_from(2 * piece).unwrap(), "{most}");
        // Nobody holds a place while it is the reader's turn, and the trace was asked for once.
        assert_eq!(querier.metrics.running.get(), 0);
        assert_eq!(cell.store_reads.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_between_two_pieces_is_named() {
    let (querier, cell) = cell_of_pieces(4, 1, |_| {});
    let away = StoreError::Unavailable("no node answers".to_owned());
    *cell.breaks.lock().unwrap() = Some((3, away));
    let mut frames = find_stream(&querier).await.unwrap();
    let (mut spans, mut summary) = (0, None);
    while let Some(frame) = frames.next().await {
        let frame = frame.unwrap();
        spans += frame.spans.len() as u64;
        summary = frame.summary;
    }
    let summary = summary.unwrap();
    // Three pieces and the tail.
    assert_eq!((spans, summary.span_count), (13, 13));
    assert!(summary.lacks_store && summary.is_damaged);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_finds_damage_between_two_pieces_ends_the_answer_without_a_summary() {
    let (querier, cell) = cell_of_pieces(4, 1, |_| {});
    *cell.breaks.lock().unwrap() = Some((3, StoreError::Damaged("a row".to_owned())));
    let frames = find_stream(&querier).await.unwrap();
    assert_eq!(take(frames).await, Err(Code::DataLoss));
    assert_eq!(querier.metrics.outgoing_answers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn records_lost_about_when_any_piece_came_in_make_the_answer_damaged() {
    let (querier, cell) = cell_of_pieces(4, 0, |_| {});
    let received: Vec<_> =
        cell.records.lock().unwrap().iter().map(|span| span.envelope.receive_time).collect();
    let last = received.into_iter().max().unwrap();
    let day = 24 * 3_600 * 1_000_000_000;
    for (apart, expected) in [(day / 2, true), (2 * day, false)] {
        let start = last.plus(apart);
        let runs = vec![TimeRange { start, end: start.plus(1) }];
        *cell.lost.lock().unwrap() = Lost { runs, ..Lost::default() };
        let frames = find_stream(&querier).await.unwrap();
        let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
        let summary = frames.last().and_then(|frame| frame.summary.clone()).unwrap();
        assert_eq!(summary.is_damaged, expected, "{apart}");
    }
}

#[tokio::test(start_paused = true)]
async fn several_traces_in_pieces_come_one_after_the_other() {
    let (querier, _) = cell_of_pieces(7, 3, |_| {});
    let trace_ids = vec![id_bytes(id(5)); 3];
    let caller = caller("us");
    let ask = v1::FindTracesRequest { caller, trace_ids, ..v1::FindTracesRequest::default() };
    let frames = querier.find_traces(Request::new(ask)).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    let mut spans = 0;
    let mut counts = Vec::new();
    for frame in frames {
        spans += frame.spans.len();
        if let Some(summary) = frame.summary {
            assert_eq!(summary.span_count, spans as u64);
            counts.push(std::mem::take(&mut spans));
        }
    }
    assert_eq!(counts, [usize::from(SPANS); 3]);
}
