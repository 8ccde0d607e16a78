//! A trace store that is away or silent: the live tail answers, and says that it does so alone.

use super::*;

async fn ask_within(
    querier: &Querier,
    first_frame_millis: u32,
) -> (Vec<StoredSpan>, v1::FindTraceSummary) {
    let mut ask = ask("us", false);
    ask.get_mut().first_frame_millis = first_frame_millis;
    let frames = querier.find_trace(ask).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    let summary = frames.last().and_then(|frame| frame.summary.clone()).unwrap();
    let spans = frames.into_iter().flat_map(|frame| unpack_frame(frame, id(5)).unwrap());
    (spans.collect(), summary)
}

fn away() -> Option<StoreError> {
    Some(StoreError::Unavailable("no node answers".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_leaves_the_tail_and_is_named() {
    for committed in 0..=4_u64 {
        let (querier, cell) = querier_with(|_| {});
        cell.committed.store(committed, Ordering::SeqCst);
        *cell.failing_with.lock().unwrap() = away();
        let (spans, summary) = find(&querier, "us").await;
        assert_eq!(spans.len() as u64, 4 - committed);
        assert_eq!(summary.outcome(), v1::CellOutcome::Answered);
        // Both, for askers that do not know the one.
        assert!(summary.lacks_store && summary.is_damaged);
        let covered = Coverage::from(summary.coverage.unwrap());
        // Only a tail that begins with the log reaches anything.
        assert_eq!(covered, if committed == 0 { cover(4) } else { Coverage::none(3) });
        *cell.failing_with.lock().unwrap() = None;
        let (spans, summary) = find(&querier, "us").await;
        assert_eq!(spans.len(), 4);
        assert!(!summary.lacks_store && !summary.is_damaged);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_holds_nothing_and_lacks_its_store_proves_no_absence() {
    let (querier, cell) = querier_with(|_| {});
    cell.records.lock().unwrap().clear();
    assert!(!find(&querier, "us").await.1.lacks_store);
    *cell.failing_with.lock().unwrap() = away();
    let (spans, summary) = find(&querier, "us").await;
    assert!(spans.is_empty() && summary.lacks_store && summary.is_damaged);
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_left_out_before_the_asker_gives_up() {
    let (querier, cell) = querier_with(|_| {});
    cell.committed.store(3, Ordering::SeqCst);
    for (store_millis, first_frame, lacks_store, elapsed) in [
        (1_499, 2_000, false, 1_499),
        (60_000, 2_000, true, 1_500),
        (60_000, 200, true, 150),
        // The margin is a second at most.
        (18_999, 20_000, false, 18_999),
        (60_000, 20_000, true, 19_000),
        // Nothing said: of the whole time, which is 60 s here.
        (58_999, 0, false, 58_999),
        (59_500, 0, true, 59_000),
    ] {
        cell.store_delay_millis.store(store_millis, Ordering::SeqCst);
        let started = tokio::time::Instant::now();
        let (spans, summary) = ask_within(&querier, first_frame).await;
        assert_eq!(summary.lacks_store, lacks_store, "{store_millis} {first_frame}");
        assert_eq!(spans.len(), if lacks_store { 1 } else { 4 });
        assert_eq!(started.elapsed(), Duration::from_millis(elapsed), "{first_frame}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_damaged_or_refuses_is_an_error_and_no_short_answer() {
    for (error, code) in [
        (StoreError::Damaged("segment".to_owned()), Code::DataLoss),
        (StoreError::Unsupported("too large".to_owned()), Code::Unimplemented),
        (StoreError::Busy, Code::ResourceExhausted),
    ] {
        let (querier, cell) = querier_with(|_| {});
        *cell.failing_with.lock().unwrap() = Some(error);
        let refused = querier.find_trace(ask("us", false)).await;
        assert_eq!(refused.err().unwrap().code(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn one_answer_waits_for_a_silent_store_once() {
    let (querier, cell) = querier_with(|_| {});
    cell.committed.store(3, Ordering::SeqCst);
    cell.store_delay_millis.store(60_000, Ordering::SeqCst);
    let request = || {
        let (caller, trace_ids) = (caller("us"), vec![id_bytes(id(5)); 20]);
        let first_frame_millis = 2_000;
        Request::new(v1::FindTracesRequest {
            caller,
            trace_ids,
            placed: vec![],
            first_frame_millis,
        })
    };
    let started = tokio::time::Instant::now();
    let frames = querier.find_traces(request()).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    let summaries: Vec<_> = frames.into_iter().filter_map(|frame| frame.summary).collect();
    assert_eq!(summaries.len(), 20);
    assert!(summaries.iter().all(|summary| summary.lacks_store && summary.span_count == 1));
    assert_eq!(started.elapsed(), Duration::from_millis(1_500));
    assert_eq!(cell.store_reads.load(Ordering::SeqCst), 1);
    // The next answer asks it again.
    cell.store_delay_millis.store(0, Ordering::SeqCst);
    let frames = querier.find_traces(request()).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    let mut summaries = frames.into_iter().filter_map(|frame| frame.summary);
    assert!(summaries.all(|summary| !summary.lacks_store && summary.span_count == 4));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lacks_a_part_gives_the_rest_and_is_named() {
    let (querier, cell) = querier_with(|_| {});
    cell.committed.store(3, Ordering::SeqCst);
    cell.is_partly_away.store(true, Ordering::SeqCst);
    let (spans, summary) = find(&querier, "us").await;
    assert_eq!(spans.len(), 4);
    assert!(summary.lacks_store && summary.is_damaged);
    let searched = search(&querier).await;
    assert!(searched.lacks_store && searched.is_damaged, "older askers look at the latter");
    cell.is_partly_away.store(false, Ordering::SeqCst);
    let (_, summary) = find(&querier, "us").await;
    assert!(!summary.lacks_store && !summary.is_damaged);
    assert!(!search(&querier).await.lacks_store);
}
