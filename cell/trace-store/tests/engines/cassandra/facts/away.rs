//! A cluster that is away, hangs, breaks off, is killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1 as otlp;
use service_kit::SystemClock;
use trace_model::{Clock as _, LogPosition, TenantId};
use trace_store::{CassandraStore, SpanWriter, StoreError, TraceReader};

use super::{Bench, read};
use crate::cassandra::cluster;
use crate::cassandra::node::Node;
use crate::cassandra::proxy::Proxy;
use crate::fixture::{INCARNATION, Log, NOW, Request, span, trace_id};

/// Does it again until it succeeds; fails after a minute.
pub(super) async fn until_ok<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, StoreError>,
) -> T {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) if error.is_retryable() && begun.elapsed() < Duration::from_secs(60) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// Spans that are received now, by the machine's clock.
pub(super) fn fresh(spans: &[otlp::Span]) -> Request {
    Request { receive_time: SystemClock::new().now(), ..Request::of("web", spans) }
}

pub(super) fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

#[tokio::test]
async fn a_store_whose_cluster_is_away_opens_and_goes_on_when_it_is_there() {
    let bench = Bench::new("away").await;
    let proxy = Proxy::new().await;
    proxy.close();
    let mut config = cluster::config(&bench.keyspace);
    config.contact_points = vec![proxy.address()];
    config.connect_timeout = Duration::from_secs(2);
    let begun = Instant::now();
    let store = CassandraStore::connect(config, Arc::new(SystemClock::new())).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15) && !store.is_connected());
    assert!(store.connection().is_err());
    let mut log = Log::new();
    let batch = log.append(&fresh(&[span(1, 0, "a")]));
    unavailable(store.write(std::slice::from_ref(&batch)).await);
    unavailable(store.read_trace(&TenantId::default(), trace_id(1)).await);
    proxy.open(&cluster::address());
    until_ok("write", async || store.write(std::slice::from_ref(&batch)).await).await;
    assert!(store.is_connected() && store.connection().is_ok() && store.reconnect().await.is_ok());
    assert_eq!(read(&store, trace_id(1)).await.len(), 1);
}

#[tokio::test]
async fn a_cluster_that_hangs_or_breaks_off_fails_what_is_asked_and_is_used_again_after_it() {
    let bench = Bench::new("hangs").await;
    let proxy = Proxy::new().await;
    proxy.open(&cluster::address());
    let mut config = cluster::config(&bench.keyspace);
    config.contact_points = vec![proxy.address()];
    config.request_timeout = Duration::from_secs(3);
    let store = CassandraStore::connect(config, Arc::new(SystemClock::new())).await.unwrap();
    let mut log = Log::new();
    let spans: Vec<_> = (0..500).map(|id| span(1, id, "step")).collect();
    let batch = log.append(&fresh(&spans));
    store.write(&[batch]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    let durable = store.durable();

    proxy.hang();
    let next = log.append(&fresh(&[span(2, 0, "a")]));
    let begun = Instant::now();
    unavailable(store.write(std::slice::from_ref(&next)).await);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(store.durable(), durable);
    proxy.release();
    until_ok("write", async || store.write(std::slice::from_ref(&next)).await).await;

    // A read that breaks off between two pages is an error and not the first page.
    let tenant = TenantId::default();
    let mut pages = store.pages(&tenant, trace_id(1)).await.unwrap().unwrap();
    let first = pages.next_page().await.unwrap().unwrap();
    assert!(first.spans.len() < 500);
    proxy.close();
    unavailable(pages.next_page().await);
    unavailable(store.read_trace(&tenant, trace_id(1)).await);
    proxy.open(&cluster::address());
    let read = until_ok("read", async || store.read_trace(&tenant, trace_id(1)).await).await;
    assert_eq!(read.spans.len(), 500);
    let third = log.append(&fresh(&[span(3, 0, "a")]));
    until_ok("write", async || store.write(std::slice::from_ref(&third)).await).await;
    until_ok("flush", async || SpanWriter::flush(&*store, NOW, true).await).await;
    assert!(store.durable().covers(INCARNATION, LogPosition { partition: 0, offset: 2 }));
}

#[tokio::test]
async fn a_node_killed_between_writes_loses_nothing_that_was_durable() {
    // One replica: what it has not on disk when it is killed is nowhere.
    let node = Node::start("kills", &[("CASS_SYNC", "batch")]).await;
    let mut config = cluster::config("farspan_kills");
    config.contact_points = vec![node.address()];
    config.request_timeout = Duration::from_secs(5);
    CassandraStore::init(&config).await.unwrap();
    let clock = Arc::new(SystemClock::new());
    let store = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap();
    let mut log = Log::new();
    for round in 0..2_u64 {
        for at in 0..20 {
            let trace = round * 20 + at;
            let spans = [span(trace, 0, "a"), span(trace, 1, "b")];
            let batch = log.append(&fresh(&spans));
            let batch = std::slice::from_ref(&batch);
            until_ok("write", async || store.write(batch).await).await;
            if at == 10 {
                node.kill();
            }
            // While the node is away this fails; what was durable stays so.
            drop(SpanWriter::flush(&*store, NOW, at % 3 == 0).await);
            if at == 10 {
                node.start_again().await;
            }
        }
        until_ok("flush", async || SpanWriter::flush(&*store, NOW, true).await).await;
        let durable = store.durable();
        node.kill();
        node.start_again().await;
        let again = CassandraStore::connect(config.clone(), clock.clone()).await.unwrap();
        assert_eq!(again.durable(), durable);
        for offset in 0..durable.next[&0] {
            assert_eq!(read(&again, trace_id(offset)).await.len(), 2, "{offset}");
        }
    }
}
