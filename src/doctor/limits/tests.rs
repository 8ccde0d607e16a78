use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

/// The rule file as operators load it.
const ALERTS: &str = include_str!("../../../docs/alerts.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    after: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn rules() -> Vec<Rule> {
    let file: RuleFile = serde_saphyr::from_str(ALERTS).unwrap();
    let names: BTreeSet<_> = file.groups.iter().map(|group| group.name.clone()).collect();
    assert_eq!(names.len(), file.groups.len(), "names of groups must differ");
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Rules over what no limit's metric says: the limit that each goes by, its edge aside, and its metric.
fn others() -> [(&'static Limit, String); 3] {
    let full = |limit: &Limit, of: &str| {
        let edge = limit.act.map_or(f64::NAN, Edge::at);
        format!(
            "1 - node_filesystem_avail_bytes{{{of}}} / node_filesystem_size_bytes{{{of}}} > {edge}"
        )
    };
    [
        (&KAFKA_DISK, full(&KAFKA_DISK, r#"job="kafka",mountpoint="/var/lib/kafka""#)),
        (
            &CASSANDRA_DISK,
            full(&CASSANDRA_DISK, r#"job="cassandra",mountpoint="/var/lib/cassandra""#),
        ),
        (&REDIS_UP, "farspan_gateway_shared_state_connected < 1".to_owned()),
    ]
}

/// The limits that have an alert, in the order of the file, with its condition.
fn alerted() -> Vec<(&'static Limit, String)> {
    let of_limits = ALL.iter().filter_map(|limit| Some((*limit, limit.expression()?)));
    of_limits.chain(others()).collect()
}

#[test]
fn every_limit_with_a_metric_has_one_alert_with_its_edge_and_no_alert_has_another() {
    let written: Vec<String> = rules().into_iter().map(|rule| rule.expr).collect();
    let wanted: Vec<String> = alerted().into_iter().map(|(_, condition)| condition).collect();
    assert_eq!(written, wanted, "docs/alerts.yaml and the table of limits");
}

#[test]
fn an_alert_says_how_grave_it_is_and_what_to_do() {
    let rules = rules();
    let names: BTreeSet<_> = rules.iter().map(|rule| rule.alert.clone()).collect();
    assert_eq!(names.len(), rules.len(), "names of alerts must differ");
    for (rule, (limit, _)) in rules.iter().zip(alerted()) {
        let severity = if limit.act.is_some() { "act" } else { "warn" };
        assert_eq!(rule.labels["severity"], severity, "{}", rule.alert);
        assert_eq!(rule.annotations["action"], limit.advice, "{}", rule.alert);
        assert!(!rule.annotations["summary"].is_empty() && !rule.after.is_empty());
    }
}

#[test]
fn every_limit_names_its_source_and_what_to_do_and_metrics_end_in_their_unit() {
    for limit in ALL {
        assert!(!limit.source.is_empty() && !limit.advice.is_empty(), "{}", limit.check);
        let Some(metric) = limit.metric else { continue };
        let end = match limit.unit {
            Unit::Ratio => "_ratio",
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes_",
            Unit::Count => "",
        };
        assert!(metric.contains(end), "{metric}");
    }
}

#[test]
fn the_guides_edges_are_those_to_act_at() {
    let at = |limit: &Limit| limit.act.map(Edge::at);
    let gib = 1_073_741_824.0;
    for (limit, edge) in [
        (&HOST_CPU, 0.7),
        (&QUEUE, 10_000.0),
        (&CASSANDRA_DISK, 0.6),
        (&KAFKA_DISK, 0.7),
        (&CLICKHOUSE_DISK, 0.7),
        (&WRITE_P99, 0.05),
        (&READ_P99, 0.1),
        (&INSERT_P99, 0.1),
        (&QUERY_P99, 5.0),
        (&KAFKA_LAG, 900.0),
        (&CELL_LAG, 900.0),
        (&KAFKA_LAG_SHARE, 0.25),
        (&SHARD_LARGE, 50.0 * gib),
    ] {
        assert_eq!(at(limit), Some(edge), "{}", limit.check);
    }
    assert_eq!(SHARD_SMALL.warn, Some(Edge::Below(30.0 * gib)));
}
