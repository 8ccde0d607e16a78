//! Indices that were lost come back from a snapshot, by the requests of docs/OPERATIONS.md.

use serde_json::{Value, json as value};
use trace_model::query::Field;
use trace_store::elasticsearch::ElasticsearchStore;
use trace_store::{SearchIndexer, TraceSearch};

use super::documents::{Bench, ids};
use super::engine::{json, remove_all};
use crate::fixture::{NOW, Request, span, trace_id};
use crate::harness::{equals, query};

const DAY: u64 = 24 * 3_600 * 1_000_000_000;

/// A span of this many days ago.
fn aged(trace: u64, days: u64) -> Request {
    let mut span = span(trace, 0, "GET /");
    span.start_time_unix_nano -= days * DAY;
    span.end_time_unix_nano -= days * DAY;
    Request { receive_time: NOW.minus(days * DAY), ..Request::of("web", &[span]) }
}

async fn comes_back(engine: &str) {
    let mut bench = Bench::on(engine, |config| config).await;
    let (url, prefix) = (bench.url.clone(), bench.config.index_prefix.clone());
    for (trace, days) in [(1, 0), (2, 1)] {
        bench.index(&aged(trace, days)).await;
    }
    let indexed = bench.store.indexed();
    let repository = format!("/_snapshot/{prefix}-backups");
    let settings =
        value!({ "type": "fs", "settings": { "location": format!("{prefix}-backups") } });
    json(&url, "PUT", &repository, &settings);
    let indices = format!("{prefix}.*,{prefix}-farspan-*");
    let made = json(
        &url,
        "PUT",
        &format!("{repository}/farspan-t?wait_for_completion=true"),
        &value!({ "indices": indices }),
    );
    assert_eq!(made["snapshot"]["state"], "SUCCESS", "{made}");
    bench.index(&aged(3, 0)).await;
    assert_ne!(bench.store.indexed(), indexed);
    remove_all(&url, &prefix);
    let restored = json(
        &url,
        "POST",
        &format!("{repository}/farspan-t/_restore?wait_for_completion=true"),
        &value!({ "indices": indices, "include_aliases": true }),
    );
    assert_eq!(restored["snapshot"]["shards"]["failed"], 0, "{restored}");
    ElasticsearchStore::init(&bench.config).await.unwrap();
    let store = bench.another().await;
    assert_eq!(store.indexed(), indexed);
    let filter = query(equals(Field::Service, "web"));
    let found = ids(&store.search(&filter).await.unwrap().matches);
    assert_eq!(found, [trace_id(1), trace_id(2)]);
    // What came after the backup is read from the log again, and what was there already with it.
    let again = [bench.log.append(&aged(2, 1)), bench.log.append(&aged(3, 0))];
    store.index(&again).await.unwrap();
    SearchIndexer::flush(&*store, NOW, true).await.unwrap();
    assert_eq!(ids(&store.search(&filter).await.unwrap().matches).len(), 3);
    assert_eq!(bench.count("span-*"), 3);
    for path in [format!("{repository}/farspan-t"), repository] {
        json(&url, "DELETE", &path, &Value::Null);
    }
}

#[tokio::test]
async fn indices_that_were_lost_come_back_from_a_snapshot_of_elasticsearch() {
    comes_back("FARSPAN_TEST_ELASTICSEARCH").await;
}

#[tokio::test]
async fn indices_that_were_lost_come_back_from_a_snapshot_of_opensearch() {
    comes_back("FARSPAN_TEST_OPENSEARCH").await;
}
