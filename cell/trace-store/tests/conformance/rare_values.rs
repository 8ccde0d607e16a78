//! On data as a busy cell receives it, a rare value opens few blocks and a small store stays small.

use std::sync::Arc;

use service_kit::ManualClock;
use trace_model::Filter;
use trace_model::query::{Field, SearchStats};
use trace_store::{EmbeddedStore, EmbeddedStoreConfig, SpanWriter, TraceReader, TraceSearch};

use crate::harness::{equals, query, tag};
use crate::workload::{BEGIN, Workload};

async fn filled(requests: usize) -> (Arc<EmbeddedStore>, tempfile::TempDir, Workload) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(BEGIN));
    let config = EmbeddedStoreConfig {
        segment_spans_max: 20_000,
        ..EmbeddedStoreConfig::at(directory.path())
    };
    let store = EmbeddedStore::open(config, clock).unwrap();
    let mut workload = Workload::new(3, 3_333);
    for _ in 0..requests {
        store.write(&[workload.request()]).await.unwrap();
    }
    SpanWriter::flush(&*store, BEGIN, true).await.unwrap();
    (store, directory, workload)
}

#[tokio::test]
async fn a_rare_value_opens_at_most_one_block_in_twenty() {
    let (store, _directory, workload) = filled(200).await;
    let mut total = SearchStats::default();
    let mut matches = 0;
    for user in 0..100 {
        let answer =
            store.search(&query(tag("user.id", &format!("user-{user:06}")))).await.unwrap();
        matches += answer.matches.len();
        total.add(&answer.stats);
    }
    assert!(matches > 20, "{matches}");
    assert!(total.blocks_total >= 5_000);
    assert!(total.blocks_opened * 20 <= total.blocks_total, "{total:?}");
    // One in a hundred would be the goal: what is opened beyond the matches are false positives.
    assert!(total.blocks_without_match * 100 <= total.blocks_total, "{total:?}");
    let tenant = trace_model::TenantId::default();
    for trace_id in &workload.sample {
        let read = store.read_trace(&tenant, *trace_id).await.unwrap();
        assert!((1..=24).contains(&read.spans.len()), "{}", read.spans.len());
    }
}

#[tokio::test]
async fn the_newest_of_a_service_open_few_blocks() {
    let (store, _directory, _workload) = filled(200).await;
    let newest = trace_model::SearchQuery { limit: 20, ..query(equals(Field::Service, "payment")) };
    let answer = store.search(&newest).await.unwrap();
    assert_eq!(answer.matches.len(), 20);
    assert!(answer.stats.blocks_opened <= 22, "{:?}", answer.stats);
    let all = store.search(&query(Filter::All)).await.unwrap();
    assert!(all.stats.blocks_opened < all.stats.blocks_total, "{:?}", all.stats);
}

#[tokio::test]
async fn a_settled_span_takes_at_most_82_bytes_on_disk() {
    let (store, _directory, _workload) = filled(120).await;
    let figures = store.figures();
    let bytes_per_span = figures.bytes / figures.spans;
    assert!(bytes_per_span <= 82, "{bytes_per_span}");
}
