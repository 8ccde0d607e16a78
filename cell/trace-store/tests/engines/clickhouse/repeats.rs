//! What a sender repeats is a record of its own in the log, and no row of its own.

use proto::LoggedBatch;
use trace_store::{ClickhouseSpans, SpanWriter};

use super::proxy::{Fault, Proxy};
use super::spans::{logged, today};
use super::{Database, clock, engine, is_unavailable};
use crate::fixture::Request;

/// A request of traces of two spans each.
fn request(traces: &[u64]) -> Request {
    let spans = traces.iter().flat_map(|trace| [0, 1].map(|id| today(*trace, id, "work")));
    Request::of("web", &spans.collect::<Vec<_>>())
}

async fn store(spans: &ClickhouseSpans, batches: &[LoggedBatch]) {
    spans.write(batches).await.unwrap();
    spans.flush(clock().now(), true).await.unwrap();
}

/// Rows of all traces, and distinct spans among them.
async fn rows(database: &Database) -> [u64; 2] {
    let rows = database.number("SELECT count() FROM otel_traces").await;
    let distinct = "SELECT uniqExact(Tenant, TraceId, SpanId) FROM otel_traces";
    [rows, database.number(distinct).await]
}

#[tokio::test]
async fn a_repeated_request_and_repeated_parts_of_a_cut_trace_are_rows_once() {
    let database = Database::new().await;
    let spans = database.spans().await;
    let sent = request(&[1, 2, 3]);
    // Each part of a trace that was cut for its size has a digest of its own.
    let parts = [0, 1].map(|id| Request::of("web", &[today(4, id, "part")]).batch());
    let batches = [
        logged(0, 0, sent.batch()),
        logged(0, 3, sent.batch()),
        logged(0, 6, parts[0].clone()),
        logged(0, 7, parts[1].clone()),
        logged(0, 8, parts[0].clone()),
        logged(0, 9, parts[1].clone()),
    ];
    store(&spans, &batches).await;
    assert_eq!(rows(&database).await, [8, 8]);
    // Also when the first ones are stored already, and when the group has begun a new turn.
    store(&spans, &[logged(0, 10, sent.batch())]).await;
    spans.begin_turn().await.unwrap();
    store(&spans, &[logged(0, 13, sent.batch())]).await;
    assert_eq!(rows(&database).await, [8, 8]);
    assert_eq!((spans.durable().next[&0], database.spans().await.durable().next[&0]), (16, 16));
    // Another request of the same trace, and the same of another tenant, are no repeats.
    let other = Request::of("web", &[today(1, 7, "more")]);
    let of_another = Request { tenant: "team-b", ..sent };
    store(&spans, &[logged(0, 16, other.batch()), logged(0, 17, of_another.batch())]).await;
    assert_eq!(rows(&database).await, [15, 15]);
    assert_eq!(spans.metrics().await.repeated_spans.get(), 20);
}

#[tokio::test]
async fn a_run_in_doubt_lacks_nothing_whichever_of_its_tries_is_stored() {
    let mut database = Database::new().await;
    let proxy = Proxy::before(&engine()).await;
    database.config.url.clone_from(&proxy.url);
    // The second try has the repeat as well: its window went with the process that made the first.
    let mut wanted = [0, 0];
    for (partition, fault, more) in [(0, Fault::Before, 2), (1, Fault::After, 0)] {
        let trace = u64::from(partition) * 10;
        let (sent, other) = (request(&[trace]).batch(), request(&[trace + 1]).batch());
        let first = database.spans().await;
        store(&first, &[logged(partition, 0, sent.clone())]).await;
        let doubtful = [logged(partition, 1, sent), logged(partition, 2, other)];
        first.write(&doubtful).await.unwrap();
        // Begun, and its block is lost or lands unheard.
        proxy.break_after(2, fault);
        assert!(is_unavailable(&first.flush(clock().now(), true).await));
        assert!(proxy.has_broken());
        store(&database.spans().await, &doubtful).await;
        wanted = [wanted[0] + 4 + more, wanted[1] + 4];
        assert_eq!(rows(&database).await, wanted, "partition {partition}");
    }
}
