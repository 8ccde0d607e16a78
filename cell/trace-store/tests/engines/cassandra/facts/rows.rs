//! What lies in the tables.

use std::collections::BTreeSet;
use std::time::Duration;

use trace_model::{Coverage, LogPosition, TenantId};
use trace_store::{SearchIndexer, SpanWriter, TraceReader};

use super::{Bench, received};
use crate::fixture::{INCARNATION, NOW, Request, span, trace_id};
use crate::workload::Workload;

const DAY: u64 = 24 * 3_600 * 1_000_000_000;

#[tokio::test]
async fn everything_written_three_times_lies_there_once() {
    let mut bench = Bench::new("three-times").await;
    let mut workload = Workload::new(11, 100_000);
    let batches: Vec<_> = (0..3).map(|_| workload.request()).collect();
    let mut keys = BTreeSet::new();
    for logged in &batches {
        let batch = &logged.batch;
        for slice in batch.traces() {
            let of = batch.spans_of(slice).iter().map(|span| (slice.trace_id, batch.key_of(span)));
            keys.extend(of);
        }
    }
    bench.store.write(&batches).await.unwrap();
    bench.flush().await;
    let index = "SELECT newest, trace_id, record FROM {}.service_index";
    let indexed = bench.rows::<(i64, Vec<u8>, i64)>(index).await.len();
    for logged in &batches {
        bench.store.write(std::slice::from_ref(logged)).await.unwrap();
    }
    bench.store = bench.another().await;
    bench.store.write(&batches).await.unwrap();
    bench.flush().await;
    let rows = bench.span_rows().await;
    assert_eq!(rows.len(), keys.len());
    let distinct: BTreeSet<_> = rows.iter().map(|(trace, _, id, hash)| (trace, id, hash)).collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(bench.rows::<(i64, Vec<u8>, i64)>(index).await.len(), indexed);
    assert_eq!(bench.store.figures().spans, keys.len() as u64);
}

#[tokio::test]
async fn the_first_receive_time_stays_whatever_the_order_of_the_copies() {
    let mut bench = Bench::new("first-stays").await;
    for after in [5_000_000_000, 0, 9_000_000_000] {
        bench.write(&received(after, "web", &[span(1, 0, "root")])).await;
    }
    let spans = bench.read(trace_id(1)).await;
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].envelope.receive_time, NOW);
    let mut elsewhere = Request::of("web", &[span(1, 0, "root")]);
    elsewhere.region = "ap-south-1";
    bench.write(&elsewhere).await;
    assert_eq!(bench.read(trace_id(1)).await[0].envelope.region.as_str(), "ap-south-1");
}

#[tokio::test]
async fn rows_are_dated_by_their_receipt_and_live_for_what_retention_leaves() {
    let mut bench = Bench::new("dated").await;
    let early = Request {
        receive_time: NOW.minus(29 * DAY),
        ..Request::of("web", &[span(1, 0, "early"), span(1, 1, "too")])
    };
    bench.write(&early).await;
    let gone =
        Request { receive_time: NOW.minus(30 * DAY), ..Request::of("web", &[span(2, 0, "gone")]) };
    bench.write(&gone).await;
    bench.flush().await;
    let text = "SELECT TTL(span), WRITETIME(span), part FROM {}.spans";
    let rows = bench.rows::<(Option<i32>, Option<i64>, i8)>(text).await;
    let spans: Vec<_> = rows.iter().filter(|row| row.2 == 2).collect();
    assert_eq!(spans.len(), 2);
    for (ttl, written, _) in spans {
        assert!((24 * 3_600 - 600..=24 * 3_600).contains(&ttl.unwrap()), "{ttl:?}");
        assert_eq!(written.unwrap().unsigned_abs(), NOW.minus(29 * DAY).micros());
    }
    assert_eq!(bench.store.metrics().expired_spans.get(), 1);
    // What expired is covered, and the answer says since when it may be gone.
    let read = bench.store.read_trace(&TenantId::default(), trace_id(2)).await.unwrap();
    assert!(read.spans.is_empty());
    assert!(read.covered.covers(INCARNATION, LogPosition { partition: 0, offset: 1 }));
    assert_eq!(read.expired_until, Some(NOW.minus(30 * DAY).plus(600_000_000_000)));
}

#[tokio::test]
async fn a_context_lies_once_in_a_batch_or_in_the_row_that_alone_needs_it() {
    let mut bench = Bench::new("contexts").await;
    let shared: Vec<_> = (0..5).map(|id| span(1, id, "step")).collect();
    let mut request = Request::of("web", &shared);
    request.groups.extend(Request::of("cart", &[span(1, 9, "alone")]).groups);
    bench.write(&request).await;
    let rows = bench.rows::<(i8, Option<Vec<u8>>)>("SELECT part, resource FROM {}.spans").await;
    let with_resource =
        |part: i8| rows.iter().filter(|row| row.0 == part && row.1.is_some()).count();
    assert_eq!((with_resource(1), with_resource(2)), (1, 1));
    let spans = bench.read(trace_id(1)).await;
    let of = |service: &str| spans.iter().filter(|one| &*one.context.service == service).count();
    assert_eq!((of("web"), of("cart")), (5, 1));
}

#[tokio::test]
async fn a_span_whose_context_is_gone_makes_the_answer_damaged_and_not_shorter_in_silence() {
    let mut bench = Bench::new("damaged").await;
    bench.write(&Request::of("web", &[span(1, 0, "a"), span(1, 1, "b")])).await;
    let text = format!(
        "DELETE FROM {}.spans WHERE tenant = ? AND trace_id = ? AND shard = 0 AND part = 1",
        bench.keyspace
    );
    let id = trace_id(1);
    bench.session.query_unpaged(text, ("default", id.as_bytes().as_slice())).await.unwrap();
    let read = bench.store.read_trace(&TenantId::default(), id).await.unwrap();
    assert!(read.is_damaged && read.spans.is_empty());
    assert_eq!(bench.store.metrics().damaged_rows.get(), 2);
}

#[tokio::test]
async fn progress_is_the_furthest_whatever_the_order_of_its_writers() {
    let mut bench = Bench::new("furthest").await;
    let late = bench.another().await;
    let first = bench.write(&Request::of("web", &[span(1, 0, "a")])).await;
    late.write(&[first]).await.unwrap();
    bench.write(&Request::of("web", &[span(2, 0, "b")])).await;
    assert_eq!(bench.store.durable(), Coverage::default());
    bench.flush().await;
    SpanWriter::flush(&*late, NOW, true).await.unwrap();
    let covered = bench.another().await.durable();
    assert!(covered.covers(INCARNATION, LogPosition { partition: 0, offset: 1 }));
    assert!(!covered.covers(INCARNATION, LogPosition { partition: 0, offset: 2 }));
}

#[tokio::test]
async fn a_reader_covers_what_writers_have_written_down_and_no_more() {
    let mut bench = Bench::new("reader").await;
    let reader = bench.another().await;
    let tenant = TenantId::default();
    let position = LogPosition { partition: 0, offset: 0 };
    bench.write(&Request::of("web", &[span(1, 0, "a")])).await;
    bench.clock.advance(Duration::from_secs(2));
    let read = reader.read_trace(&tenant, trace_id(1)).await.unwrap();
    assert!(read.spans.len() == 1 && !read.covered.covers(INCARNATION, position));
    bench.flush().await;
    bench.clock.advance(Duration::from_secs(2));
    let read = reader.read_trace(&tenant, trace_id(1)).await.unwrap();
    assert!(read.covered.covers(INCARNATION, position));
    let indexer = bench.another().await;
    SearchIndexer::flush(&*indexer, NOW, false).await.unwrap();
    assert!(indexer.indexed().covers(INCARNATION, position));
    // Who takes a partition over counts on from what the other has counted.
    let next = bench.log.append(&Request::of("web", &[span(2, 0, "b")]));
    reader.write(&[next]).await.unwrap();
    assert_eq!(reader.figures().spans, 2);
}

#[tokio::test]
async fn a_dead_letter_is_written_beside_the_cover_which_it_does_not_move() {
    let mut bench = Bench::new("again").await;
    let letter = bench.log.append(&Request::of("web", &[span(1, 0, "a")]));
    bench.write(&Request::of("web", &[span(2, 0, "b")])).await;
    bench.flush().await;
    let durable = bench.store.durable();
    assert!(bench.read(trace_id(1)).await.is_empty());
    bench.store.write_again(&letter).await.unwrap();
    bench.flush().await;
    assert_eq!(bench.read(trace_id(1)).await.len(), 1);
    assert_eq!(bench.store.durable(), durable);
}

#[tokio::test]
async fn the_cover_of_an_earlier_incarnation_is_kept_over_reopening() {
    let mut bench = Bench::new("earlier").await;
    bench.write(&Request::of("web", &[span(1, 0, "a")])).await;
    let mut anew = bench.log.append(&Request::of("web", &[span(2, 0, "b")]));
    anew.incarnation = INCARNATION + 1;
    anew.range = trace_model::LogRange { partition: 0, first: 0, next: 1 };
    bench.store.write(&[anew]).await.unwrap();
    bench.flush().await;
    let durable = bench.another().await.durable();
    assert_eq!(durable, bench.store.durable());
    for incarnation in [INCARNATION, INCARNATION + 1] {
        assert!(durable.covers(incarnation, LogPosition { partition: 0, offset: 0 }));
    }
}

#[tokio::test]
async fn progress_is_written_at_most_once_a_second_unless_it_is_forced() {
    let mut bench = Bench::new("paced").await;
    let next = |bench: &Bench| bench.store.durable().next.get(&0).copied();
    let steps = [(0, 0, Some(1)), (1, 0, Some(1)), (2, 999, Some(1)), (3, 1, Some(4))];
    for (trace, moves, expected) in steps {
        bench.write(&Request::of("web", &[span(trace, 0, "a")])).await;
        bench.clock.advance(Duration::from_millis(moves));
        SpanWriter::flush(&*bench.store, NOW, false).await.unwrap();
        assert_eq!(next(&bench), expected, "{trace}");
    }
    bench.write(&Request::of("web", &[span(4, 0, "a")])).await;
    bench.flush().await;
    assert_eq!(next(&bench), Some(5));
}
