//! The templates led forward.

use serde_json::{Value, json as value};
use trace_model::Filter;
use trace_store::elasticsearch::{ElasticsearchStore, SCHEMA};
use trace_store::{Migration, Schema, SearchIndexer as _, StoreError};

use super::documents::{Bench, TODAY};
use super::engine::json;
use crate::fixture::{Request, span, trace_id};

static STEPS: [Migration; 1] = [Migration {
    to: 3,
    what: "a field of the days that are there",
    statements: &["PUT /{store}.*-jaeger-span-*/_mapping\n\
                   {\"properties\":{\"farspan\":{\"properties\":{\"owner\":{\"type\":\"keyword\"}}}}}"],
}];
static NEXT: Schema = Schema { version: 3, steps: &STEPS };

#[tokio::test]
async fn a_schema_goes_forward_while_the_old_release_writes_on() {
    let mut bench = Bench::new().await;
    let config = bench.config.clone();
    bench.index(&Request::of("web", &[span(1, 0, "a")])).await;
    let status = ElasticsearchStore::status(&config, bench.clock.clone()).await.unwrap();
    assert_eq!((status.schema, &status.differences[..]), (Some(2), &[][..]));
    assert_eq!(status.covered[0].1, bench.store.indexed());
    assert_eq!(status.sizes[0].rows, Some(1));
    let planned = ElasticsearchStore::migrate(&config, &NEXT, true).await.unwrap();
    assert_eq!((planned.found, planned.wanted, &planned.steps[..]), (2, 3, &STEPS[..]));
    assert_eq!(ElasticsearchStore::migrate(&config, &NEXT, false).await.unwrap(), planned);
    let noted = format!("/{}-farspan-state/_doc/migration-3", config.index_prefix);
    assert_eq!(json(&bench.url, "GET", &noted, &Value::Null)["_source"]["next"], 3);
    // Who was there writes on, and finds what was there and what comes.
    bench.index(&Request::of("web", &[span(2, 0, "b")])).await;
    let path = format!("/{}/_doc/new?refresh=true", bench.name(TODAY));
    json(&bench.url, "PUT", &path, &value!({ "farspan": { "owner": "team" } }));
    let mut found = bench.find(Filter::All).await;
    found.sort();
    let mut all = [1, 2].map(trace_id);
    all.sort();
    assert_eq!(found, all);
    let owned = value!({ "query": { "term": { "farspan.owner": "team" } } });
    let path = format!("/{}/_search", bench.name(TODAY));
    let hits = json(&bench.url, "POST", &path, &owned);
    assert_eq!(hits["hits"]["total"]["value"], 1, "{hits}");
    assert_eq!(ElasticsearchStore::migrate(&config, &NEXT, false).await.unwrap().steps, []);
    let refusals = [
        ElasticsearchStore::connect(config.clone(), bench.clock.clone()).await.err(),
        ElasticsearchStore::init(&config).await.err(),
        ElasticsearchStore::migrate(&config, &SCHEMA, false).await.err(),
    ];
    for refused in refusals {
        let is_newer = matches!(refused, Some(StoreError::NewerFormat { found: 3, known: 2, .. }));
        assert!(is_newer, "{refused:?}");
    }
    let status = ElasticsearchStore::status(&config, bench.clock.clone()).await.unwrap();
    let advice = status.advice("it", &SCHEMA).unwrap();
    assert!(advice.contains("version 3; this release reads up to 2"), "{advice}");
}

/// As a release of version 1 left it: companions under the templates of days.
#[tokio::test]
async fn companions_of_a_cluster_of_the_first_version_are_led_to_templates_of_their_own() {
    for engine in ["FARSPAN_TEST_ELASTICSEARCH", "FARSPAN_TEST_OPENSEARCH"] {
        lead_from_the_first_version(Bench::on(engine, |config| config).await).await;
    }
}

async fn lead_from_the_first_version(mut bench: Bench) {
    let config = bench.config.clone();
    let template = |name: &str| format!("/_index_template/{}-farspan-{name}", config.index_prefix);
    for name in ["late-span", "late-service"] {
        json(&bench.url, "DELETE", &template(name), &Value::Null);
    }
    let found = json(&bench.url, "GET", &template("span"), &Value::Null);
    let mut of_days = found["index_templates"][0]["index_template"].clone();
    of_days["version"] = value!(1);
    let is_ours = |key: &String| !key.ends_with("_date") && !key.ends_with("_date_millis");
    of_days.as_object_mut().unwrap().retain(|key, _| is_ours(key));
    json(&bench.url, "PUT", &template("span"), &of_days);
    bench.index(&Request::of("web", &[span(1, 0, "a")])).await;
    let late = format!("{TODAY}-late");
    let settings = value!({ "settings": { "index.blocks.write": true } });
    json(&bench.url, "PUT", &format!("/{}", bench.name(&late)), &settings);

    let old = ElasticsearchStore::init(&config).await.unwrap_err();
    assert!(old.to_string().contains("farspan store migrate"), "{old}");
    let led = ElasticsearchStore::migrate(&config, &SCHEMA, false).await.unwrap();
    assert_eq!((led.found, led.wanted, led.steps.len()), (1, 2, 1));
    let status = ElasticsearchStore::status(&config, bench.clock.clone()).await.unwrap();
    assert_eq!((status.schema, &status.differences[..]), (Some(2), &[][..]));
    let path = format!("/{}/_settings", bench.name(&late));
    let settings = json(&bench.url, "GET", &path, &Value::Null).to_string();
    assert!(settings.contains("number_of_shards") && !settings.contains("blocks"), "{settings}");
    ElasticsearchStore::init(&config).await.unwrap();
    json(&bench.url, "DELETE", &template("late-span"), &Value::Null);
    let status = ElasticsearchStore::status(&config, bench.clock.clone()).await.unwrap();
    let missing =
        format!("the index template {}-farspan-late-span is missing", config.index_prefix);
    assert_eq!(status.differences, [missing]);
}

#[tokio::test]
async fn what_differs_from_the_configuration_is_named_and_left() {
    let bench = Bench::new().await;
    let mut other = bench.config.clone();
    other.shards = 5;
    let status = ElasticsearchStore::status(&other, bench.clock.clone()).await.unwrap();
    let settings = format!(
        "the component template {}-farspan-settings differs at \
         template.settings.index.number_of_shards",
        other.index_prefix
    );
    assert_eq!(status.differences, [settings]);
    let same = ElasticsearchStore::status(&bench.config, bench.clock.clone()).await.unwrap();
    assert_eq!(same.differences, Vec::<String>::new());
}
