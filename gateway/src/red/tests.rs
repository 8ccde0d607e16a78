use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::convert::query::{FRAME_BYTES_TARGET, id_bytes};
use trace_model::{TimeRange, Verdict};

use super::*;
use crate::config::Freshness;
use crate::fakes::{
    FakeCell, FakeIndex, Manner, NOW, context, gateway, gateway_with, id, level, region,
};
use crate::room::AnswerRoom;

/// A whole minute.
const MINUTE: UnixNanos = UnixNanos(NOW.0 - NOW.0 % MINUTE_NANOS);

fn cells() -> (Vec<Arc<FakeCell>>, Arc<FakeIndex>) {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    (cells, FakeIndex::with_states(vec![level("eu"), level("us")]))
}

fn point(minute: u64, millis: std::ops::RangeInclusive<u64>, exemplar: u8) -> v1::RedPoint {
    let mut durations = DurationSketch::default();
    let seen = u32::try_from(millis.clone().count()).unwrap();
    millis.for_each(|millis| durations.add(millis * 1_000_000));
    v1::RedPoint {
        service: "web".to_owned(),
        operation: String::new(),
        kind: 2,
        status: 0,
        minute_unix_nano: MINUTE.plus(minute * MINUTE_NANOS).0,
        seen: seen.into(),
        estimated: f64::from(seen) * 10.0,
        durations: Some(v1::Sketch { ddsketch: durations.to_bytes().into() }),
        exemplar_trace_id: id_bytes(id(exemplar)),
    }
}

fn request(step_minutes: u64) -> RedRequest {
    let range = TimeRange { start: MINUTE, end: MINUTE.plus(10 * MINUTE_NANOS) };
    RedRequest { ask: RedAsk { service: None, by_operation: false, range }, step_minutes }
}

fn is_near(found: Option<f64>, millis: f64) -> bool {
    found.is_some_and(|nanos| (nanos / (millis * 1e6) - 1.0).abs() < 0.02)
}

#[tokio::test(start_paused = true)]
async fn percentiles_are_those_of_all_spans_and_not_of_regions_percentiles() {
    let (cells, index) = cells();
    // A thousand fast spans here, ten slow ones there: the mean of two P99s would be half a second.
    *cells[0].red.lock().unwrap() = vec![point(0, 1..=1_000, 1)];
    *cells[1].red.lock().unwrap() = vec![point(0, 5_001..=5_010, 2)];
    let gateway = gateway(&cells, &index);
    let answer = gateway.red(&context(Freshness::Auto), &request(1)).await.unwrap();
    assert_eq!(answer.certificate.verdict(), Verdict::Complete);
    let (series, points) = answer.series.first_key_value().unwrap();
    assert_eq!((&*series.service, series.operation.as_ref()), ("web", None));
    assert_eq!((series.kind, series.status), (SpanKind::Server, StatusCode::Unset));
    let counted = &points[&MINUTE];
    assert_eq!((counted.seen, counted.durations.count()), (1_010, 1_010));
    assert!((counted.estimated - 10_100.0).abs() < 1e-6);
    assert!(is_near(counted.durations.quantile(0.99), 1_000.0), "{counted:?}");
    assert!(is_near(counted.durations.quantile(0.5), 505.0), "{counted:?}");
    assert_eq!(counted.exemplar, Some(id(2)), "of the slowest part");
}

#[tokio::test(start_paused = true)]
async fn minutes_are_merged_into_steps() {
    let (cells, index) = cells();
    *cells[0].red.lock().unwrap() = (0..10).map(|minute| point(minute, 1..=10, 1)).collect();
    let gateway = gateway(&cells, &index);
    let by_minute = gateway.red(&context(Freshness::Auto), &request(1)).await.unwrap();
    assert_eq!(by_minute.series.values().next().unwrap().len(), 10);
    let by_hour = gateway.red(&context(Freshness::Auto), &request(60)).await.unwrap();
    let points = by_hour.series.values().next().unwrap();
    assert!(points.keys().all(|start| start.0.is_multiple_of(60 * MINUTE_NANOS)), "{points:?}");
    assert_eq!(points.values().map(|point| point.seen).sum::<u64>(), 100);
}

/// Points of each of so many minutes.
fn many(minutes: u64) -> Vec<v1::RedPoint> {
    (0..minutes).map(|minute| point(minute, 1..=10, 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn counts_that_come_by_pages_are_taken_to_the_last() {
    for (page_rows, pages) in [(1, 10), (3, 4), (10, 1), (11, 1)] {
        let (cells, index) = cells();
        *cells[0].red.lock().unwrap() = many(10);
        cells[0].page_rows.store(page_rows, Ordering::SeqCst);
        let gateway = gateway(&cells, &index);
        let answer = gateway.red(&context(Freshness::Auto), &request(1)).await.unwrap();
        assert_eq!(answer.certificate.verdict(), Verdict::Complete);
        assert_eq!(answer.series.values().map(BTreeMap::len).sum::<usize>(), 10);
        assert_eq!(cells[0].pages.load(Ordering::SeqCst), pages);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_page_has_the_time_of_a_beginning_and_all_of_them_that_of_an_answer() {
    let millis = Duration::from_millis;
    // Two seconds until an answer begins, thirty for all of it.
    for (a_page, is_whole) in [(1_900, true), (2_100, false)] {
        let (cells, index) = cells();
        cells[0].behave(Manner::Late(millis(a_page)));
        *cells[0].red.lock().unwrap() = many(10);
        cells[0].page_rows.store(1, Ordering::SeqCst);
        let gateway = gateway(&cells, &index);
        let answer = gateway.red(&context(Freshness::Auto), &request(1)).await;
        assert_eq!(answer.is_ok(), is_whole, "{answer:?}");
        // Each page in its time is not enough.
        cells[0].behave(Manner::Late(millis(1_900)));
        *cells[0].red.lock().unwrap() = many(20);
        let mut request = request(1);
        request.ask.range.end = request.ask.range.start.plus(20 * MINUTE_NANOS);
        let answer = gateway.red(&context(Freshness::Auto), &request).await;
        let Err(GatewayError::Unproven(certificate)) = answer else { panic!("{answer:?}") };
        assert!(certificate.to_string().contains("missing eu (timed_out)"), "{certificate}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_first_page_lacks_the_answer_lacks() {
    let (cells, index) = cells();
    cells[0].behave(Manner::Cutting);
    *cells[0].red.lock().unwrap() = many(10);
    cells[0].page_rows.store(4, Ordering::SeqCst);
    let gateway = gateway(&cells, &index);
    let answer = gateway.red(&context(Freshness::Auto), &request(1)).await.unwrap();
    assert!(answer.certificate.regions[&region("eu")].is_cut);
    assert_eq!(answer.series.values().map(BTreeMap::len).sum::<usize>(), 10);
}

#[tokio::test(start_paused = true)]
async fn pages_that_do_not_go_on_or_begin_anew_are_nonsense() {
    for manner in [Manner::Stuck, Manner::Forgetful] {
        let (cells, index) = cells();
        cells[0].behave(manner);
        *cells[0].red.lock().unwrap() = many(10);
        cells[0].page_rows.store(4, Ordering::SeqCst);
        let gateway = gateway(&cells, &index);
        let answer = gateway.red(&context(Freshness::Auto), &request(1)).await;
        let Err(GatewayError::Unproven(certificate)) = answer else { panic!("{answer:?}") };
        assert!(certificate.to_string().contains("missing eu (invalid)"), "{certificate}");
        assert_eq!(cells[0].pages.load(Ordering::SeqCst), 2, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_take_room_as_they_come_and_give_it_back() {
    let (cells, index) = cells();
    *cells[0].red.lock().unwrap() = many(10);
    cells[0].page_rows.store(1, Ordering::SeqCst);
    let room = AnswerRoom::new(1 << 20);
    let gateway = gateway_with(&cells, &index, |config| config.answer_room = room.clone());
    let answer = gateway.red(&context(Freshness::Auto), &request(1)).await.unwrap();
    let one = decoded_bytes(&point(0, 1..=10, 1), SKETCH_FACTOR);
    assert!(room.used() >= 10 * one, "{} of {one}", room.used());
    drop(answer);
    assert_eq!(room.used(), 0);
    // What is left has no room for all of them: the region is cut off and named.
    let frames = 2 * FRAME_BYTES_TARGET as u64;
    let rest = room.take(room.bytes_max() - frames - 5 * one).unwrap();
    let answer = gateway.red(&context(Freshness::Auto), &request(1)).await;
    let Err(GatewayError::Unproven(certificate)) = answer else { panic!("{answer:?}") };
    let report = &certificate.regions[&region("eu")];
    assert!(report.reason.as_ref().unwrap().starts_with("cut off"), "{report:?}");
    drop(rest);
    assert_eq!(room.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fails_is_named_and_nothing_found_is_no_answer() {
    let (cells, index) = cells();
    cells[1].behave(Manner::Unreachable);
    let gateway = gateway(&cells, &index);
    let context = context(Freshness::Auto);
    let refused = gateway.red(&context, &request(1)).await;
    assert!(matches!(refused, Err(GatewayError::Unproven(_))));
    *cells[0].red.lock().unwrap() = vec![point(0, 1..=10, 1)];
    let answer = gateway.red(&context, &request(1)).await.unwrap();
    let line = answer.certificate.to_string();
    assert!(
        line.starts_with("partial: 1 of 2 regions; missing us (unavailable); as of "),
        "{line}"
    );
}

#[tokio::test(start_paused = true)]
async fn counts_that_answer_another_question_are_nonsense_and_not_used() {
    let wrong = |change: fn(&mut v1::RedPoint)| {
        let mut point = point(0, 1..=10, 1);
        change(&mut point);
        point
    };
    for point in [
        wrong(|point| point.minute_unix_nano += 1),
        wrong(|point| point.minute_unix_nano -= MINUTE_NANOS),
        wrong(|point| point.minute_unix_nano += 10 * MINUTE_NANOS),
        wrong(|point| point.service = "other".to_owned()),
        wrong(|point| point.durations = Some(v1::Sketch { ddsketch: vec![1, 2, 3].into() })),
        wrong(|point| point.exemplar_trace_id = vec![1; 3].into()),
    ] {
        let (cells, index) = cells();
        *cells[0].red.lock().unwrap() = vec![self::point(0, 1..=10, 1)];
        *cells[1].red.lock().unwrap() = vec![point];
        let mut request = request(1);
        request.ask.service = Some("web".into());
        let gateway = gateway(&cells, &index);
        let answer = gateway.red(&context(Freshness::Auto), &request).await.unwrap();
        let line = answer.certificate.to_string();
        assert!(
            line.starts_with("partial: 1 of 2 regions; missing us (invalid); as of "),
            "{line}"
        );
        let points = answer.series.values().next().unwrap();
        assert_eq!(points.values().map(|point| point.seen).sum::<u64>(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn ranges_and_steps_have_limits() {
    let (cells, index) = cells();
    let gateway = gateway(&cells, &index);
    let context = context(Freshness::Auto);
    for (minutes, step, is_taken) in
        [(1, 1, true), (MINUTES_MAX, MINUTES_MAX, true), (MINUTES_MAX + 1, 1, false), (1, 0, false)]
    {
        let mut request = request(step);
        request.ask.range.end = request.ask.range.start.plus(minutes * MINUTE_NANOS);
        let answer = gateway.red(&context, &request).await;
        let is_refused = matches!(answer, Err(GatewayError::OutOfLimits { .. }));
        assert_eq!(!is_refused, is_taken, "{minutes} {step}");
    }
}

fn edge_ask(limit: usize) -> EdgeTraceAsk {
    EdgeTraceAsk {
        caller: "web".into(),
        callee: "cart".into(),
        only_errors: true,
        range: TimeRange::ALL,
        limit,
    }
}

#[tokio::test(start_paused = true)]
async fn traces_of_a_call_are_joined_over_regions_and_those_known_come_newest_first() {
    let (cells, index) = cells();
    *cells[0].edge_traces.lock().unwrap() = vec![id(1), id(2)];
    *cells[1].edge_traces.lock().unwrap() = vec![id(3), id(1)];
    for (number, start) in [(1, 10), (3, 30)] {
        let mut contribution = cells[0].contribution(id(number));
        let min_start = UnixNanos(start);
        let detail = trace_model::location::Detail { min_start, ..Default::default() };
        contribution.detail = Some(detail);
        index.know(contribution);
    }
    let gateway = gateway(&cells, &index);
    let answer = gateway.edge_traces(&context(Freshness::Auto), &edge_ask(5)).await.unwrap();
    let order: Vec<_> = answer.traces.iter().map(|trace| trace.trace_id).collect();
    assert_eq!(order, [id(3), id(1), id(2)]);
    assert_eq!(answer.traces[1].regions, BTreeSet::from([region("eu"), region("us")]));
    assert!(answer.traces[2].entry.contributions.is_empty());
    // No more than asked for, and the newest of all regions.
    *cells[0].edge_traces.lock().unwrap() = vec![id(1)];
    *cells[1].edge_traces.lock().unwrap() = vec![id(3)];
    let answer = gateway.edge_traces(&context(Freshness::Auto), &edge_ask(1)).await.unwrap();
    assert_eq!(answer.traces.len(), 1);
    assert_eq!(answer.traces[0].trace_id, id(3));
}

#[tokio::test(start_paused = true)]
async fn traces_of_a_call_need_no_index_and_more_than_asked_for_is_nonsense() {
    let (cells, index) = cells();
    *index.is_down.lock().unwrap() = true;
    *cells[0].edge_traces.lock().unwrap() = vec![id(1)];
    *cells[1].edge_traces.lock().unwrap() = vec![id(2), id(3)];
    let gateway = gateway(&cells, &index);
    let answer = gateway.edge_traces(&context(Freshness::Auto), &edge_ask(1)).await.unwrap();
    assert_eq!(answer.traces.len(), 1);
    let line = answer.certificate.to_string();
    assert!(line.starts_with("partial: 1 of 2 regions; missing us (invalid); as of "), "{line}");
    for limit in [0, 1_501] {
        let refused = gateway.edge_traces(&context(Freshness::Auto), &edge_ask(limit)).await;
        assert!(matches!(refused, Err(GatewayError::OutOfLimits { .. })), "{limit}");
    }
}
