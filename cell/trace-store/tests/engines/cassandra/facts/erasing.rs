//! Erasing, with others that write and read at the same time.

use std::time::Duration;

use trace_model::query::Field;
use trace_model::{SpanKind, TenantId, TimeRange};
use trace_store::{Eraser, Operation, ServiceCatalog, SpanWriter, TraceReader, TraceSearch};

use super::{Bench, read, received};
use crate::fixture::{NOW, Request, attribute, span, text, trace_id};
use crate::harness::{equals, query};

#[tokio::test]
async fn an_erasure_leaves_no_row_of_the_trace_in_any_table() {
    let mut bench = Bench::with("no-row", |config| config.partition_bytes_max = 1).await;
    let body = "b".repeat(1_000);
    let spans: Vec<_> = (0..3_000)
        .map(|id| {
            let mut span = span(1, id, "step");
            span.start_time_unix_nano += id * 5_000_000_000;
            span.end_time_unix_nano = span.start_time_unix_nano + 1;
            span.attributes = vec![attribute("body", text(&body))];
            span
        })
        .collect();
    for chunk in spans.chunks(1_000) {
        bench.write(&Request::of("web", chunk)).await;
    }
    bench.write(&received(90_000_000_000, "web", &spans[..10])).await;
    let mut undated = span(1, 9_999, "undated");
    undated.start_time_unix_nano = 0;
    for after in [4_000_000_000_000, 9_000_000_000_000] {
        bench.write(&received(after, "web", std::slice::from_ref(&undated))).await;
    }
    bench.write(&received(9_000_000_000_000, "cart", &[undated])).await;
    bench.write(&Request::of("web", &[span(2, 0, "other")])).await;
    assert!(bench.span_rows().await.iter().any(|row| row.1 > 0));
    let receipt = bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    // Ten lie in two shards: they were sent again when the first one was full.
    assert!((3_002..=3_012).contains(&receipt.spans), "{receipt:?}");
    let spans = bench.rows::<(Vec<u8>,)>("SELECT trace_id FROM {}.spans").await;
    assert!(spans.iter().all(|row| row.0 == trace_id(2).as_bytes()), "accounts and contexts too");
    let index = bench.rows::<(Vec<u8>,)>("SELECT trace_id FROM {}.service_index").await;
    assert!(!index.is_empty() && index.iter().all(|row| row.0 == trace_id(2).as_bytes()));
    let again = bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!(again.spans, 0);
}

#[tokio::test]
async fn late_spans_are_refused_and_counted_by_every_process() {
    let mut bench = Bench::new("late").await;
    let other = bench.another().await;
    bench.write(&Request::of("web", &[span(1, 0, "a")])).await;
    bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    // The other one's list is fresh, and without it: what it writes is dated before the deletion.
    let late = bench.log.append(&received(1_000_000_000, "web", &[span(1, 1, "late")]));
    other.write(&[late]).await.unwrap();
    assert_eq!(other.metrics().erased_spans.get(), 0);
    assert!(bench.span_rows().await.is_empty());
    assert!(read(&other, trace_id(1)).await.is_empty());
    bench.clock.advance(Duration::from_secs(6));
    let later = bench.log.append(&received(7_000_000_000, "web", &[span(1, 2, "later")]));
    for store in [&other, &bench.store] {
        store.write(std::slice::from_ref(&later)).await.unwrap();
        assert_eq!(store.metrics().erased_spans.get(), 1);
    }
    assert!(bench.span_rows().await.is_empty());
    for store in [&other, &bench.store] {
        let found = store.search(&query(equals(Field::Service, "web"))).await.unwrap();
        assert!(found.matches.is_empty());
    }
}

#[tokio::test]
async fn services_and_operations_stay_listed_while_another_trace_has_them() {
    let mut bench = Bench::new("doubts").await;
    let tenant = TenantId::default();
    let mut client = span(1, 1, "call");
    client.kind = 3;
    bench.write(&Request::of("web", &[span(1, 0, "call"), client, span(1, 2, "alone")])).await;
    bench.write(&Request::of("web", &[span(2, 0, "call")])).await;
    bench.write(&Request::of("canary", &[span(1, 5, "call")])).await;
    bench.store.erase(&tenant, trace_id(1)).await.unwrap();
    let range = TimeRange { start: NOW, end: NOW.plus(1_000_000_000) };
    for range in [range, TimeRange::ALL] {
        let services = bench.store.services(&tenant, range).await.unwrap();
        assert_eq!(services, ["web".into()]);
        let operations = bench.store.operations(&tenant, "web", range).await.unwrap();
        assert_eq!(operations, [Operation { name: "call".into(), kind: SpanKind::Server }]);
        assert!(bench.store.operations(&tenant, "canary", range).await.unwrap().is_empty());
    }
    // Another trace brings them back, in the same process, whose announcements are made already.
    bench.write(&Request::of("canary", &[span(3, 0, "alone")])).await;
    assert_eq!(bench.store.services(&tenant, range).await.unwrap().len(), 2);
    bench.store.erase(&tenant, trace_id(2)).await.unwrap();
    assert_eq!(bench.store.services(&tenant, range).await.unwrap(), ["canary".into()]);
    assert!(bench.store.operations(&tenant, "web", range).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_erased_trace_is_erased_for_a_process_that_opens_later() {
    let mut bench = Bench::new("opens-later").await;
    bench.store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    let other = bench.another().await;
    let late = bench.log.append(&received(3_600_000_000_000, "web", &[span(1, 1, "late")]));
    other.write(&[late]).await.unwrap();
    assert_eq!(other.metrics().erased_spans.get(), 1);
    let read = other.read_trace(&TenantId::default(), trace_id(1)).await.unwrap();
    assert!(read.spans.is_empty());
}
