use service_kit::config::{Config, parse};

use super::super::finding::Part;
use super::super::limits::{CASSANDRA_UP, CLICKHOUSE_DISK, KAFKA_LAG, READ_P99};
use super::super::process;
use super::*;
use crate::seam::RoleContext;
use crate::wiring::start_cell;

fn shown(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[test]
fn the_worst_is_shown_and_what_is_no_longer_known_is_not() {
    let mut registry = Registry::default();
    let gauges = Gauges::register(&mut registry);
    let group =
        |seconds: f64, group| Finding { group: Some(group), ..Finding::of(&KAFKA_LAG, seconds) };
    gauges.show(&[
        Finding::of(&CLICKHOUSE_DISK, 0.2),
        Finding::of(&CLICKHOUSE_DISK, 0.4),
        Finding::of(&CASSANDRA_UP, 1.0),
        Finding::reading(&READ_P99, Reading::Unknown("x".to_owned())),
        group(7.0, "storage-writer"),
        group(8.0, "search-indexer"),
        Finding::told(Part::Kafka, "a word", "x"),
    ]);
    let text = shown(&registry);
    assert!(text.contains("farspan_engine_disk_used_ratio{engine=\"clickhouse\"} 0.4"), "{text}");
    assert!(text.contains("farspan_engine_up{engine=\"cassandra\"} 1.0"), "{text}");
    let lag = "farspan_engine_lag_seconds{engine=\"kafka\",group=\"search-indexer\"} 8.0";
    assert!(text.contains(lag), "{text}");
    assert!(!text.contains("read_p99"), "{text}");
    gauges.show(&[Finding::of(&CASSANDRA_UP, 0.0)]);
    let text = shown(&registry);
    assert!(text.contains("farspan_engine_up{engine=\"cassandra\"} 0.0"), "{text}");
    assert!(!text.contains("lag_seconds") && !text.contains("0.4"), "{text}");
}

/// Names of metrics in the conditions of alerts.
fn alerted() -> BTreeSet<&'static str> {
    ALL.iter().filter_map(|limit| limit.metric).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_an_alert_that_is_no_engines_is_shown_by_a_running_cell() {
    let directory = tempfile::tempdir().unwrap();
    let addresses: Vec<String> = ["otlp_grpc", "otlp_http", "zipkin", "internal", "admin"]
        .map(|name| format!("{name}: '127.0.0.1:0'"))
        .into();
    let text = format!(
        "kind: cell\nregion: eu\ndata_dir: '{}'\nlisten: {{{}}}\n",
        directory.path().display(),
        addresses.join(", ")
    );
    let Config::Cell(config) = parse("cell.yaml", &text).unwrap().config else { panic!("{text}") };
    let role = start_cell(*config, CellRole::All, RoleContext::new("listen")).await.unwrap();
    let admin = role.endpoints.iter().find(|(name, _)| *name == "admin").unwrap().1;
    let own: Vec<&str> =
        alerted().into_iter().filter(|name| !name.starts_with("farspan_engine_")).collect();
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let (_, text) = process::get(admin, "/metrics").await.unwrap();
            let is_shown = |metric: &&str| text.lines().any(|line| line.starts_with(*metric));
            if own.iter().all(is_shown) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "not all of {own:?} are shown");
    role.drain.drain(Duration::from_secs(10)).await.unwrap();
}

/// What is found of engines that tell all they can, their nodes being on this machine.
#[cfg(all(
    feature = "kafka",
    feature = "cassandra",
    feature = "elasticsearch",
    feature = "clickhouse"
))]
fn all_that_engines_tell() -> Vec<Finding> {
    use super::super::{cassandra, clickhouse, elasticsearch, engines, kafka};

    let parts = [Part::Kafka, Part::Cassandra, Part::Elasticsearch, Part::Clickhouse];
    let up = parts.into_iter().filter_map(engines::up).map(|limit| Finding::of(limit, 1.0));
    let nodes = [cassandra::tests::HERE.to_owned()];
    up.chain(kafka::judge(&kafka::tests::all(), 3, true))
        .chain(cassandra::judge(&cassandra::tests::all(), &nodes))
        .chain(elasticsearch::judge(&elasticsearch::tests::all()))
        .chain(clickhouse::judge(&clickhouse::tests::all()))
        .collect()
}

#[cfg(all(
    feature = "kafka",
    feature = "cassandra",
    feature = "elasticsearch",
    feature = "clickhouse"
))]
#[test]
fn every_metric_of_an_alert_about_an_engine_can_be_a_number_and_is_shown_then() {
    let mut registry = Registry::default();
    Gauges::register(&mut registry).show(&all_that_engines_tell());
    let text = shown(&registry);
    for limit in ALL {
        let Some(metric) = limit.metric.filter(|name| name.starts_with("farspan_engine_")) else {
            continue;
        };
        let line = format!("{metric}{{engine=\"{}\"", limit.part.name());
        assert!(text.lines().any(|shown| shown.starts_with(&line)), "{line} is never a number");
    }
}
