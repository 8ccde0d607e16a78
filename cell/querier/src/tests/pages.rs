//! Rates and edges by pages: none is too large for a message, and together they are the whole.

use prost::Message;
use trace_store::MemoryMetricsStore;

use super::*;

const MINUTE: u64 = 60_000_000_000;
const PAGE_BYTES_MAX: usize = 16 << 20;

/// A querier over counts of services with names of so many bytes.
async fn querier_of_counts(name_bytes: usize, spans: SpanMode) -> Querier {
    let (mut querier, _) = querier_with(|config| {
        (config.page_rows_max, config.locality.spans) = (20, spans);
    });
    let store = MemoryMetricsStore::new();
    let mut delta = MetricsDelta { covered: cover(4), ..MetricsDelta::default() };
    for number in 0..40_u64 {
        let service: Arc<str> = format!("{number:02}{}", "x".repeat(name_bytes)).into();
        for status in [StatusCode::Unset, StatusCode::Error] {
            let key = RedKey {
                tenant: TenantId::default(),
                minute: UnixNanos(number % 7 * MINUTE),
                service: Arc::clone(&service),
                operation: None,
                kind: SpanKind::Server,
                status,
            };
            delta.red.push((key, RedRow { seen: number + 1, ..RedRow::default() }));
            let key = EdgeKey {
                tenant: TenantId::default(),
                bucket: UnixNanos(0),
                caller: Arc::clone(&service),
                callee: "callee".into(),
                is_error: status == StatusCode::Error,
            };
            delta.edges.push((key, EdgeRow { seen: number + 1, ..EdgeRow::default() }));
        }
    }
    store.apply(delta).await.unwrap();
    querier.ports.metrics = Arc::new(store);
    querier
}

async fn red(
    querier: &Querier,
    page_points: u32,
    after: Option<v1::RedPlace>,
) -> v1::QueryRedResponse {
    let (caller, range) = (caller("us"), Some(TimeRange::ALL.into()));
    let ask = v1::QueryRedRequest { caller, range, page_points, after, ..Default::default() };
    querier.query_red(Request::new(ask)).await.unwrap().into_inner()
}

async fn edges(
    querier: &Querier,
    page_edges: u32,
    after: Option<v1::EdgePlace>,
) -> v1::ListEdgesResponse {
    let (caller, range) = (caller("us"), Some(TimeRange::ALL.into()));
    let ask = v1::ListEdgesRequest { caller, range, page_edges, after };
    querier.list_edges(Request::new(ask)).await.unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn pages_of_points_are_together_what_is_given_whole() {
    for (name_bytes, page_points) in [(1, 1), (1, 7), (1, 20), (1, 10_000), (1_800_000, 20)] {
        let querier = querier_of_counts(name_bytes, SpanMode::Open).await;
        let whole = red(&querier, 0, None).await;
        assert_eq!((whole.points.len(), whole.next), (80, None));
        let (mut points, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = red(&querier, page_points, after).await;
            assert!(page.points.len() <= 20 && !page.points.is_empty());
            assert!(page.encoded_len() < PAGE_BYTES_MAX + (2 << 20), "{}", page.encoded_len());
            assert_eq!(page.reach, whole.reach);
            points.extend(page.points);
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(points == whole.points, "{name_bytes} {page_points}");
        assert!(pages >= 4, "{pages}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_edges_are_together_what_is_given_whole_and_split_no_edge() {
    for (name_bytes, page_edges) in [(1, 1), (1, 7), (1, 20), (1_800_000, 20)] {
        let querier = querier_of_counts(name_bytes, SpanMode::Open).await;
        let whole = edges(&querier, 0, None).await;
        assert_eq!((whole.edges.len(), whole.next), (80, None));
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = edges(&querier, page_edges, after).await;
            assert!(page.edges.len() <= 40 && page.edges.len().is_multiple_of(2));
            assert!(page.encoded_len() < PAGE_BYTES_MAX + (4 << 20), "{}", page.encoded_len());
            found.extend(page.edges);
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(found == whole.edges, "{name_bytes} {page_edges}");
        assert!(pages >= 2, "{pages}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_a_region_that_keeps_its_data_is_empty_and_the_last() {
    let closed = querier_of_counts(1, SpanMode::Closed).await;
    let page = red(&closed, 5, None).await;
    assert!(page.points.is_empty() && page.next.is_none());
    assert_eq!(page.outcome(), v1::CellOutcome::Forbidden);
}
