//! Runs of the log are stored once, whoever dies and however the log is cut when it gives them
//! again.

use proto::LoggedBatch;
use trace_model::{Coverage, UnixNanos};
use trace_store::{ClickhouseSpans, SpanWriter};

use super::proxy::{Fault, Proxy};
use super::spans::{logged, today};
use super::{Database, clock, engine, is_unavailable};
use crate::fixture::{Request, trace_id};

/// Records of a partition: each a trace of two spans, one of them of yesterday.
fn records(partition: u32, first: u64, next: u64) -> LoggedBatch {
    let mut group = Vec::new();
    for offset in first..next {
        let trace = u64::from(partition) * 1_000_000 + offset;
        let mut yesterday = today(trace, 1, "yesterday");
        yesterday.start_time_unix_nano -= 86_400_000_000_000;
        yesterday.end_time_unix_nano -= 86_400_000_000_000;
        group.extend([today(trace, 0, "today"), yesterday]);
    }
    logged(partition, first, Request::of("web", &group).batch())
}

async fn force(spans: &ClickhouseSpans) -> Result<(), trace_store::StoreError> {
    spans.flush(clock().now(), true).await
}

/// Every span once, and every trace's time.
async fn assert_stored_once(database: &Database, records: u64, what: &str) {
    let distinct = "SELECT uniqExact(Tenant, TraceId, SpanId) FROM otel_traces";
    assert_eq!(database.number(distinct).await, records * 2, "{what}");
    let all = database.number("SELECT count() FROM otel_traces").await;
    assert_eq!(all, records * 2, "{what}");
    let times = "SELECT uniqExact(TraceId) FROM otel_traces_trace_id_ts";
    assert_eq!(database.number(times).await, records, "{what}");
}

#[tokio::test]
async fn what_is_not_stored_is_not_durable_and_what_comes_again_is_stored_once() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let batch = records(0, 0, 10);
    spans.write(std::slice::from_ref(&batch)).await.unwrap();
    assert!(spans.durable().next.is_empty());
    spans.flush(UnixNanos(clock().now().0 + 1), false).await.unwrap();
    assert!(spans.durable().next.is_empty(), "it waits for more");
    let later = clock().now().plus(6_000_000_000);
    until_durable(&spans, later, |durable| durable.next.get(&0) == Some(&10)).await;
    for again in [records(0, 0, 10), records(0, 3, 12), records(0, 0, 12)] {
        spans.write(&[again]).await.unwrap();
        force(&spans).await.unwrap();
    }
    assert_stored_once(&database, 12, "again").await;
    let next = database.spans().await;
    assert_eq!(next.durable(), spans.durable());
    next.write(&[records(0, 0, 15), records(1, 0, 5)]).await.unwrap();
    force(&next).await.unwrap();
    assert_stored_once(&database, 20, "by the next process").await;
    // An older log has nothing new, a newer one begins anew.
    let mut older = records(0, 15, 20);
    older.incarnation -= 1;
    next.write(&[older]).await.unwrap();
    let mut newer = records(0, 15, 20);
    newer.incarnation += 1;
    newer.range.first = 0;
    newer.range.next = 5;
    next.write(&[newer]).await.unwrap();
    force(&next).await.unwrap();
    assert_stored_once(&database, 25, "of a newer log").await;
    assert_eq!(next.durable().incarnation, records(0, 0, 1).incarnation + 1);
    assert_eq!(next.durable().next[&0], 5);
}

/// Ticks as its group does, until the blocks on their way are stored. Nothing grows older meanwhile.
async fn until_durable(spans: &ClickhouseSpans, now: UnixNanos, is_so: impl Fn(&Coverage) -> bool) {
    let ticking = async {
        while !is_so(&spans.durable()) {
            spans.flush(now, false).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(std::time::Duration::from_secs(20), ticking).await;
    assert!(reached.is_ok(), "{:?}", spans.durable());
}

#[tokio::test]
async fn who_writes_again_after_another_did_goes_on_from_what_that_one_has_begun_and_done() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    let first = database.spans().await;
    first.write(&[records(0, 0, 10)]).await.unwrap();
    force(&first).await.unwrap();
    // Taken, and not stored when its turn ended.
    first.write(&[records(0, 10, 20)]).await.unwrap();
    database.config.url.clone_from(&proxy.url);
    let second = database.spans().await;
    second.begin_turn().await.unwrap();
    second.write(&[records(0, 10, 15)]).await.unwrap();
    force(&second).await.unwrap();
    // It dies once a run is begun, whether or not that was inserted.
    let mut next = 15;
    for (passing, fault) in [(1, Fault::After), (2, Fault::Before), (2, Fault::After)] {
        second.begin_turn().await.unwrap();
        second.write(&[records(0, next, next + 10)]).await.unwrap();
        proxy.break_after(passing, fault);
        assert!(is_unavailable(&force(&second).await));
        assert!(proxy.has_broken());
        first.begin_turn().await.unwrap();
        // The log gives its records in other batches, from the last commit on.
        first.write(&[records(0, 8, next + 15)]).await.unwrap();
        force(&first).await.unwrap();
        next += 15;
        assert_stored_once(&database, next, "by the first again").await;
    }
}

#[tokio::test]
async fn a_block_is_stored_when_it_is_full_and_memory_is_bounded() {
    let mut database = Database::new().await;
    database.config.insert_block_rows = 100;
    let spans = database.spans().await;
    for first in (0..330).step_by(30) {
        spans.write(&[records(0, first, first + 30), records(1, first, first + 30)]).await.unwrap();
    }
    let has_all_full = |durable: &Coverage| {
        [0, 1].iter().all(|partition| durable.next.get(partition).is_some_and(|next| *next >= 300))
    };
    until_durable(&spans, clock().now(), has_all_full).await;
    let durable = spans.durable();
    database.config.insert_block_rows = 100_000;
    database.config.insert_block_bytes = 4_000;
    let small = database.spans().await;
    small.write(&[records(0, durable.next[&0], 400)]).await.unwrap();
    let has_most = |durable: &Coverage| durable.next.get(&0).is_some_and(|next| *next > 380);
    until_durable(&small, clock().now(), has_most).await;
}

/// Who goes on after the fault, and how the log gives its records then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Recovery {
    SameWriter,
    /// Another process gets the records in batches of other sizes.
    NewWriter(u64),
}

async fn breaks_at_every_request(fault: fn() -> Fault, recovery: Recovery) {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    let mut spans = database.spans().await;
    let (mut first, mut passing) = (0, 0);
    loop {
        let next = first + 10;
        proxy.break_after(passing, fault());
        let batches = [records(0, first, next), records(1, first, next)];
        let mut written = spans.write(&batches).await;
        let is_taken = written.is_ok();
        if is_taken {
            written = force(&spans).await;
        }
        let has_broken = proxy.has_broken();
        assert!(has_broken || written.is_ok(), "{written:?}");
        assert!(written.is_ok() || is_unavailable(&written), "{written:?}");
        let what = format!("request {passing} of {recovery:?}");
        match recovery {
            // What was taken is not given again.
            Recovery::SameWriter if is_taken => {}
            Recovery::SameWriter => spans.write(&batches).await.unwrap(),
            Recovery::NewWriter(size) => {
                spans = database.spans().await;
                for partition in 0..2 {
                    // The group begins where it has committed, and the log has grown.
                    let committed = spans.durable().next.get(&partition).copied().unwrap_or(0);
                    let mut from = committed.min(first);
                    while from < next {
                        let to = next.min(from + size);
                        spans.write(&[records(partition, from, to)]).await.unwrap();
                        from = to;
                    }
                }
            }
        }
        force(&spans).await.unwrap();
        assert_eq!(
            spans.durable().next.values().copied().collect::<Vec<_>>(),
            [next, next],
            "{what}"
        );
        assert_stored_once(&database, next * 2, &what).await;
        if !has_broken {
            break;
        }
        (first, passing) = (next, passing + 1);
    }
    assert!(passing > 6, "a flush has {passing} requests");
}

#[tokio::test]
async fn a_request_that_never_arrives_is_made_up_for_by_the_same_writer() {
    breaks_at_every_request(|| Fault::Before, Recovery::SameWriter).await;
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_is_stored_once_by_the_same_writer() {
    breaks_at_every_request(|| Fault::After, Recovery::SameWriter).await;
}

#[tokio::test]
async fn a_request_that_never_arrives_is_made_up_for_by_the_next_writer() {
    breaks_at_every_request(|| Fault::Before, Recovery::NewWriter(3)).await;
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_is_stored_once_by_the_next_writer() {
    breaks_at_every_request(|| Fault::After, Recovery::NewWriter(3)).await;
    breaks_at_every_request(|| Fault::After, Recovery::NewWriter(1_000)).await;
}

#[tokio::test]
async fn a_writer_that_lost_a_partition_to_another_does_not_store_its_records_again() {
    let database = Database::new().await;
    let (first, second) = (database.spans().await, database.spans().await);
    first.write(&[records(0, 0, 10), records(1, 0, 10)]).await.unwrap();
    // The group is balanced anew: the second gets partition 0 where nothing is committed.
    second.write(&[records(0, 0, 30)]).await.unwrap();
    force(&second).await.unwrap();
    force(&first).await.unwrap();
    assert_eq!(first.durable().next.get(&0), None);
    assert_eq!(first.durable().next[&1], 10);
    assert_stored_once(&database, 40, "after it was balanced").await;
    // And back: the first learns where it stands.
    first.write(&[records(0, 30, 40)]).await.unwrap();
    force(&first).await.unwrap();
    assert_stored_once(&database, 50, "after it came back").await;
    assert_eq!(first.durable().next[&0], 40);
}

#[tokio::test]
async fn records_that_were_given_up_are_not_left_out_when_the_partition_comes_back() {
    let database = Database::new().await;
    let (first, second) = (database.spans().await, database.spans().await);
    first.write(&[records(0, 0, 20)]).await.unwrap();
    second.write(&[records(0, 0, 10)]).await.unwrap();
    force(&second).await.unwrap();
    force(&first).await.unwrap();
    // The group believes that the first has 10 to 20.
    let refused = first.write(&[records(0, 20, 30)]).await;
    assert!(is_unavailable(&refused), "{refused:?}");
    assert_eq!(first.durable().next.get(&0), None);
    first.write(&[records(0, 10, 30)]).await.unwrap();
    force(&first).await.unwrap();
    assert_stored_once(&database, 30, "after it was read again").await;
}

#[tokio::test]
async fn a_hole_in_the_log_ends_a_run_that_was_begun_before_and_stops_nothing() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    for (lost_from, case) in [(4, "a part is lost"), (10, "all is lost"), (15, "more is lost")] {
        let partition = lost_from as u32;
        let spans = database.spans().await;
        spans.write(&[records(partition, 0, 10)]).await.unwrap();
        // Begun, and its first block is there; nobody knows.
        proxy.break_after(2, Fault::After);
        assert!(is_unavailable(&force(&spans).await), "{case}");
        assert!(proxy.has_broken());
        let next = database.spans().await;
        if lost_from < 10 {
            next.write(&[records(partition, 0, lost_from), records(partition, 7, 30)])
                .await
                .unwrap();
        } else {
            next.write(&[records(partition, lost_from, 30)]).await.unwrap();
        }
        force(&next).await.unwrap();
        assert_eq!(next.durable().next[&partition], 30, "{case}");
        let partition_start = u64::from(partition) * 1_000_000;
        let stored = (lost_from.max(10)..30)
            .map(|offset| format!("'{}'", trace_id(partition_start + offset)));
        let stored: Vec<String> = stored.collect();
        let count =
            format!("SELECT count() FROM otel_traces WHERE TraceId IN ({})", stored.join(", "));
        assert_eq!(database.number(&count).await, stored.len() as u64 * 2, "{case}");
    }
    let all = database.number("SELECT count() FROM otel_traces").await;
    let distinct = database.number("SELECT uniqExact(TraceId, SpanId) FROM otel_traces").await;
    assert_eq!(all, distinct);
}

#[tokio::test]
async fn a_writer_whose_engine_is_away_refuses_more_and_loses_nothing() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    database.config.insert_block_rows = 8;
    let spans = database.spans().await;
    proxy.break_after(0, Fault::Before);
    assert!(is_unavailable(&spans.write(&[records(0, 0, 10)]).await));
    assert!(proxy.has_broken());
    // It is given again and again, and more with it.
    for _ in 0..3 {
        proxy.break_after(0, Fault::Before);
        assert!(is_unavailable(&spans.write(&[records(0, 0, 20)]).await));
        assert!(proxy.has_broken());
    }
    spans.write(&[records(0, 0, 20)]).await.unwrap();
    force(&spans).await.unwrap();
    assert_stored_once(&database, 20, "after it came back").await;
}
