//! Tests of the configuration: all faults at once, each with its line.

use std::time::Duration;

use trace_model::locality::{IndexMode, SpanMode};

use super::*;

fn cell(text: &str) -> CellConfig {
    let Config::Cell(config) = parse("cell.yaml", text).unwrap().config else {
        panic!("not a cell");
    };
    *config
}

fn faults(text: &str) -> Vec<(u64, String)> {
    let faults = parse("cell.yaml", text).unwrap_err();
    faults.list().iter().map(|fault| (fault.line, fault.to_string())).collect()
}

#[test]
fn a_file_with_five_mistakes_reports_all_five_with_their_lines() {
    let text = "kind: cell
region: EU West
listen:
  otlp_grcp: 127.0.0.1:4317
  otlp_http: 0.0.0.0:4318
head:
  rate: 1.5
log:
  retention: soon
";
    let faults = faults(text);
    let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 4, 5, 7, 9], "{faults:?}");
    assert!(faults[0].1.contains("region: `EU West` is not a region"), "{}", faults[0].1);
    assert!(faults[1].1.contains("did you mean otlp_grpc?"), "{}", faults[1].1);
    assert!(faults[2].1.contains("insecure: true"), "{}", faults[2].1);
    assert!(faults[3].1.contains("1.5 is not within 0 to 1"), "{}", faults[3].1);
    assert!(faults[4].1.contains("`soon` is not a duration"), "{}", faults[4].1);
}

#[test]
fn the_report_names_the_file_the_line_and_the_key() {
    let report = parse("cell.yaml", "kind: cell\nregion: a\nhead:\n  rate: x\n").unwrap_err();
    assert_eq!(
        report.to_string(),
        "cell.yaml has 1 fault\n  cell.yaml:4:9: head.rate: needs a number, and has a text"
    );
}

#[test]
fn a_region_is_all_that_a_cell_needs() {
    let config = cell("kind: cell\nregion: eu-west-1\n");
    assert_eq!(config.listen.otlp_grpc.to_string(), "127.0.0.1:4317");
    assert_eq!(config.listen.otlp_http.to_string(), "127.0.0.1:4318");
    assert_eq!(config.listen.zipkin.to_string(), "127.0.0.1:9411");
    assert_eq!(config.listen.internal.to_string(), "127.0.0.1:17400");
    assert_eq!(config.retention, Duration::from_secs(7 * 86_400));
    assert_eq!(config.retention_bytes, 20 << 30);
    assert_eq!(config.log.retention, Duration::from_secs(4 * 3_600));
    assert!((config.head.rate - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.locality.index, IndexMode::Full);
    assert_eq!(config.locality.spans, SpanMode::Open);
    assert_eq!(config.receiver.grpc_body_bytes_max, 16 << 20);
    assert_eq!(config.receiver.http_body_bytes_max, 20 << 20);
    assert_eq!(config.receiver.spans_max, 100_000);
}

#[test]
fn values_are_read_with_their_units() {
    let config = cell(
        "kind: cell\nregion: a\nretention: 1.5d\nreceiver: {http_body_max: 512 KiB, \
         grpc_body_max: 1048576}\nlocality: {index: none, spans: closed}\ninsecure: true\n\
         listen: {otlp_grpc: '[::]:4317'}\n",
    );
    assert_eq!(config.retention, Duration::from_secs(36 * 3_600));
    assert_eq!(config.receiver.http_body_bytes_max, 512 << 10);
    assert_eq!(config.receiver.grpc_body_bytes_max, 1 << 20);
    assert_eq!(config.locality.index, IndexMode::None);
    assert_eq!(config.listen.otlp_grpc.to_string(), "[::]:4317");
}

#[test]
fn limits_under_which_what_is_acknowledged_could_not_be_read_back_are_refused() {
    let text = |depth: &str, value: &str, body: &str| {
        format!(
            "kind: cell\nregion: a\nreceiver:\n  depth_max: {depth}\n  value_max: {value}\n  \
             http_body_max: {body}\n  grpc_body_max: {body}\n"
        )
    };
    let largest = cell(&text("32", "16MiB", "32MiB")).receiver;
    assert_eq!((largest.depth_max, largest.value_bytes_max), (32, 16 << 20));
    let lines: Vec<_> = faults(&text("33", "17MiB", "33MiB")).into_iter().map(|at| at.0).collect();
    assert_eq!(lines, [4, 5, 6, 7]);
}

#[test]
fn browsers_may_send_from_the_own_machine_unless_another_list_or_none_is_written() {
    let of = |text: &str| {
        let loaded = parse("cell.yaml", &format!("kind: cell\nregion: a\n{text}")).unwrap();
        let shown = loaded.effective.values().find(|(key, ..)| *key == "receiver.cors_origins");
        let shown = shown.unwrap().1.to_owned();
        let Config::Cell(config) = loaded.config else { panic!("not a cell") };
        (config.receiver.cors_origins, shown)
    };
    let (origins, shown) = of("");
    assert!(origins.contains(&"http://localhost:*".to_owned()), "{origins:?}");
    assert!(shown.starts_with("[http://localhost, http://localhost:*, "), "{shown}");
    assert_eq!(of("receiver: {cors_origins: []}\n"), (Vec::new(), "[]".to_owned()));
    let one = vec!["https://a.example".to_owned()];
    assert_eq!(of("receiver: {cors_origins: ['https://a.example']}\n").0, one);
}

#[test]
fn a_cell_may_name_its_replicator_and_does_not_have_to() {
    let address = |text: &str| cell(text).replicator.map(|url| url.as_str().to_owned());
    assert_eq!(address("kind: cell\nregion: a\n"), None);
    let named = "kind: cell\nregion: a\nreplicator: http://127.0.0.1:17401\n";
    assert_eq!(address(named).as_deref(), Some("http://127.0.0.1:17401"));
    let found = faults("kind: cell\nregion: a\nreplicator: nowhere\n");
    assert!(found.len() == 1 && found[0].0 == 3, "{found:?}");
}

#[test]
fn modes_that_do_not_exist_yet_are_refused_by_name() {
    let found = faults("kind: cell\nregion: a\nlocality:\n  index: filter\n  spans: masked\n");
    let lines: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [4, 5], "{found:?}");
    for (fault, word) in found.iter().zip(["filter", "masked"]) {
        assert!(fault.1.contains(word), "{fault:?}");
    }
}

const GROWTH: &str = "kind: cell
region: a
profile: growth
kafka: {brokers: ['k1:9092', 'k2:9092'], properties: {client.dns.lookup: resolve_canonical_bootstrap_servers_only}}
cassandra: {nodes: ['c1:9042'], datacenter: dc1}
elasticsearch: {urls: ['http://e1:9200']}
clickhouse: {url: 'http://h1:8123'}
";

#[test]
fn a_profile_chooses_stores_rate_and_retention_and_each_can_be_overridden() {
    let config = cell(GROWTH);
    let kafka = config.stores.kafka.as_ref().unwrap();
    assert_eq!((kafka.brokers.len(), kafka.partitions, kafka.replication), (2, 64, 3));
    assert_eq!(config.stores.cassandra.as_ref().unwrap().keyspace, "farspan");
    let copies = &config.stores.cassandra.as_ref().unwrap().replication;
    assert_eq!(copies.0, [("dc1".to_owned(), "3".to_owned())]);
    assert_eq!(config.stores.elasticsearch.as_ref().unwrap().shards, 5);
    assert_eq!(config.stores.clickhouse.as_ref().unwrap().url.as_str(), "http://h1:8123");
    assert!((config.head.rate - 0.01).abs() < f64::EPSILON);
    assert_eq!(config.retention, Duration::from_secs(30 * 86_400));
    let overridden = GROWTH.replace("clickhouse: {url: 'http://h1:8123'}", "head: {rate: 0.5}");
    let config = cell(&format!("{overridden}stores: {{metrics: embedded}}\n"));
    assert!(config.stores.clickhouse.is_none());
    assert!((config.head.rate - 0.5).abs() < f64::EPSILON);
    let loaded = parse("cell.yaml", GROWTH).unwrap();
    let find = |wanted: &str| loaded.effective.values().find(|(key, _, _)| *key == wanted);
    let profile = effective::Origin::Profile("growth");
    assert_eq!(find("stores.log"), Some(("stores.log", "kafka", profile)));
    let shown = find("kafka.properties").unwrap().1;
    assert_eq!(shown, "{client.dns.lookup}", "a value may be a secret");
}

#[test]
fn processes_that_share_a_log_take_part_in_the_groups_that_they_name() {
    let engines = "kind: cell\nregion: a\nprofile: growth\nkafka: {brokers: ['k:9092'], member: \
                   'pod-3'}\ncassandra: {nodes: ['c:9042'], datacenter: d}\nelasticsearch: {urls: \
                   ['http://e:9200']}\nclickhouse: {url: 'http://h:8123'}\n";
    let all = cell(engines);
    assert_eq!(all.groups, cell::GroupKind::ALL);
    let kafka = all.stores.kafka.as_ref().unwrap();
    assert_eq!((kafka.member.as_deref(), kafka.session_timeout.as_secs()), (Some("pod-3"), 15));
    assert!(all.stores.embedded_parts().is_empty());
    let stores = "ingester: {groups: [storage-writer, search-indexer]}\n";
    let two = cell(&format!("{engines}{stores}replicator: 'http://r:1'\n")).groups;
    assert_eq!(two, [cell::GroupKind::StorageWriter, cell::GroupKind::SearchIndexer]);
    let refused = |more: &str, word: &str| {
        let found = faults(&format!("{engines}{more}"));
        assert!(found.len() == 1 && found[0].1.contains(word), "{found:?}");
    };
    refused("ingester: {groups: []}\n", "names no group");
    refused("ingester: {groups: [storage]}\n", "not one of storage-writer");
    let lone = "ingester: {groups: [metrics-aggregator]}\nreplicator: 'http://r:1'\n";
    refused(lone, "in one process");
    let embedded = faults(&format!("kind: cell\nregion: a\n{stores}"));
    assert!(embedded[0].1.contains("no other process can read"), "{embedded:?}");
    assert_eq!(cell("kind: cell\nregion: a\n").stores.embedded_parts().len(), 4);
}

#[test]
fn startup_has_no_kafka_and_counts_in_its_own_files() {
    let config = cell(
        "kind: cell\nregion: a\nprofile: startup\ncassandra: {nodes: ['c:9042'], datacenter: \
         dc1}\nelasticsearch: {urls: ['http://e:9200']}\n",
    );
    assert!(config.stores.kafka.is_none() && config.stores.clickhouse.is_none());
    assert!(config.stores.cassandra.is_some() && config.stores.elasticsearch.is_some());
    assert!((config.head.rate - 0.1).abs() < f64::EPSILON);
}

#[test]
fn a_search_engine_that_others_write_to_is_named_so() {
    let others = |text: &str| cell(text).stores.elasticsearch.unwrap().is_written_by_others;
    assert!(!others(GROWTH));
    let told = "{urls: ['http://e1:9200'], written_by_others: true}";
    assert!(others(&GROWTH.replace("{urls: ['http://e1:9200']}", told)));
}

#[test]
fn how_a_jaeger_beside_us_writes_tags_is_asked_for_and_shown() {
    let nested = |text: &str| cell(text).stores.elasticsearch.unwrap().jaeger_tags_are_nested;
    assert!(!nested(GROWTH));
    let told = "{urls: ['http://e1:9200'], jaeger_tags_are_nested: true}";
    let told = GROWTH.replace("{urls: ['http://e1:9200']}", told);
    assert!(nested(&told));
    let shown = parse("c.yaml", &told).unwrap().effective.to_string();
    assert!(shown.contains("jaeger_tags_are_nested: true"), "{shown}");
}

#[test]
fn the_tables_of_the_trace_store_search_where_there_is_no_search_engine() {
    let config = cell(
        "kind: cell\nregion: a\nprofile: startup\nstores: {search: cassandra}\ncassandra: {nodes: \
         ['c:9042'], datacenter: dc1}\n",
    );
    assert!(config.stores.cassandra.is_some() && config.stores.elasticsearch.is_none());
    assert_eq!(config.stores.embedded_parts(), ["stores.log", "stores.metrics"]);
}

#[test]
fn every_engine_that_a_profile_needs_and_nobody_wrote_is_named() {
    let found = faults("kind: cell\nregion: a\nprofile: growth\n");
    for key in ["kafka.brokers", "cassandra.nodes", "cassandra.datacenter", "elasticsearch.urls"] {
        assert!(
            found.iter().any(|(_, text)| text.contains(&format!("{key}: is missing"))),
            "{key}"
        );
    }
    assert!(found.iter().any(|(_, text)| text.contains("clickhouse.url: is missing")));
}

#[test]
fn an_engine_that_is_not_used_or_makes_no_sense_is_a_fault() {
    let found = faults(
        "kind: cell\nregion: a\nkafka: {brokers: ['k:9092']}\nstores: {traces: cassandra}\n\
         cassandra:\n  nodes: [c]\n  datacenter: dc1\n  keyspace: a-b\n  user: me\n  replication: \
         {dc1: 0}\n",
    );
    let has =
        |line: u64, text: &str| found.iter().any(|(at, word)| *at == line && word.contains(text));
    assert!(has(3, "kafka: is not used"), "{found:?}");
    assert!(has(4, "needs `stores.traces: embedded`"), "{found:?}");
    let tables = faults("kind: cell\nregion: a\nstores: {search: cassandra}\n");
    assert!(tables[0].1.contains("needs `stores.traces: cassandra`"), "{tables:?}");
    assert!(has(6, "`c` is not host:port"), "{found:?}");
    assert!(has(8, "letters, digits and underscores"), "{found:?}");
    assert!(has(10, "1 to 7 copies"), "{found:?}");
    assert!(found.iter().any(|(_, text)| text.contains("goes with `user`")), "{found:?}");
    assert_eq!(found.len(), 6, "{found:?}");
    let secret = GROWTH.replace("http://e1:9200", "http://me:secret@e1:9200");
    assert!(faults(&secret)[0].1.contains("password_file"), "{:?}", faults(&secret));
}

#[test]
fn copies_that_are_waited_for_are_chosen_by_a_word() {
    let consistency = |line: &str| {
        let nodes = format!("datacenter: dc1{line}}}");
        cell(&GROWTH.replace("datacenter: dc1}", &nodes)).stores.cassandra.unwrap().consistency
    };
    assert_eq!(consistency(""), engines::Consistency::LocalQuorum);
    assert_eq!(consistency(", consistency: quorum"), engines::Consistency::Quorum);
    assert_eq!(consistency(", consistency: each_quorum"), engines::Consistency::EachQuorum);
    let one = GROWTH.replace("datacenter: dc1}", "datacenter: dc1, consistency: one}");
    assert!(faults(&one)[0].1.contains("`one` is not one of local_quorum, quorum, each_quorum"));
}

#[test]
fn what_a_profile_stands_for_and_is_not_served_is_said_and_no_fault() {
    let notes = |text: &str| parse("cell.yaml", text).unwrap().effective.notes().to_vec();
    assert!(notes(GROWTH).is_empty());
    let notes = notes(&GROWTH.replace("growth", "hyperscale"));
    assert_eq!(notes.len(), 6, "{notes:?}");
    assert!(notes[0].contains("tail sampling is not served yet"), "{notes:?}");
}

#[test]
fn keys_that_disagree_are_refused() {
    let found = faults(
        "kind: cell\nregion: a\nretention: 2h\nlog:\n  retention: 4h\nlisten:\n  admin: \
         127.0.0.1:4317\n",
    );
    assert!(found.iter().any(|fault| fault.0 == 5 && fault.1.contains("longer than `retention`")));
    assert!(found.iter().any(|fault| fault.0 == 7 && fault.1.contains("already taken by")));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn one_retention_drives_the_default_of_the_log() {
    let config = cell("kind: cell\nregion: a\nretention: 2h\n");
    assert_eq!(config.log.retention, config.retention);
}

#[test]
fn a_missing_key_is_reported_at_its_section() {
    let found = faults("kind: gateway\nregion: a\ncells:\n  - region: b\n");
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("replicator: is missing")), "{texts:?}");
    let lost = found.iter().find(|(_, text)| text.contains("cells[0].address: is missing"));
    assert_eq!(lost.unwrap().0, 4, "{found:?}");
}

#[test]
fn regions_are_listed_once_and_hold_the_own_one_where_they_must() {
    let found = faults(
        "kind: gateway\nregion: a\nreplicator: 127.0.0.1:1\ncells:\n  - {region: b, address: \
         h:1}\n  - {region: b, address: h:2}\n",
    );
    assert!(found.iter().any(|(line, text)| *line == 6 && text.contains("listed twice")));
    assert!(found.iter().any(|(_, text)| text.contains("lacks the gateway's own region")));
    let peers = "kind: replicator\nregion: a\ncell: h:1\npeers: [{region: a, address: h:2}]\n";
    assert!(faults(peers)[0].1.contains("own region"));
}

#[test]
fn collectors_of_the_page_have_an_address_that_an_exporter_takes() {
    let head = "kind: gateway\nregion: a\nreplicator: h:1\ncells: [{region: a, address: h:2}]\n";
    let read = |collectors: &str| parse("x", &format!("{head}collectors:\n{collectors}"));
    let loaded = read("  - {region: a, otlp_grpc: 'https://otel.a.example:4317'}\n").unwrap();
    let Config::Gateway(config) = loaded.config else { panic!("not a gateway") };
    let [only] = config.collectors.as_slice() else { panic!("{:?}", config.collectors) };
    assert_eq!(only.otlp_grpc.as_ref().unwrap().as_str(), "https://otel.a.example:4317");
    assert_eq!(only.otlp_http, None);
    for (bad, said) in [
        ("  - {region: a}\n", "needs `otlp_grpc`, `otlp_http` or both"),
        ("  - {region: a, otlp_http: 'redis://h:1'}\n", "neither http:// nor https://"),
        ("  - {region: a, otlp_http: 'h:4318'}\n", "is not an address"),
    ] {
        let faults = read(bad).unwrap_err().to_string();
        assert!(faults.contains(said), "{bad}: {faults}");
    }
}

#[test]
fn addresses_of_services_are_checked() {
    for good in ["http://h:1", "h:1", "http://[::1]:17400/"] {
        assert!(ServiceUrl::new(good).is_ok(), "{good}");
    }
    for bad in ["", "h", "http://h", "h:0", "h:99999", "http://a/b:1", "https://h:1", "a b:1"] {
        assert!(ServiceUrl::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_not_yaml_says_where_reading_stopped() {
    let found = faults("kind: cell\nregion: [a\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((2..=3).contains(&found[0].0), "{found:?}");
    for text in ["", "- a\n", "just words\n"] {
        assert!(!faults(text).is_empty(), "{text}");
    }
}

#[test]
fn keys_that_are_written_twice_are_faults_among_all_others() {
    let found = faults(
        "kind: cell
region: a
listen:
  admin: 127.0.0.1:1
  admin: 127.0.0.1:2
  wrong: 1
kind: gateway
head:
  rate: 7
listen: {}
kafka: {brokers: ['k:9092'], properties: {a: b, a: c}}
stores: {log: kafka}
",
    );
    let expected = [
        (5, "listen.admin: is written twice; it is in line 4 already"),
        (6, "listen.wrong: is not known"),
        (7, "kind: is written twice; it is in line 1 already"),
        (9, "head.rate: 7 is not within 0 to 1"),
        (10, "listen: is written twice; it is in line 3 already"),
        (11, "kafka.properties: has `a` twice, in lines 11 and 11"),
    ];
    for ((line, text), (at, said)) in expected.iter().zip(&found) {
        assert!(line == at && said.contains(text), "{text}: {found:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn deep_and_repeated_nesting_is_refused_cheaply() {
    let deep = format!("kind: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse("x", &deep).is_err());
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        bomb.push_str(&format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
    }
    assert!(parse("x", &bomb).is_err());
}

#[test]
fn every_value_in_force_is_shown_with_its_origin() {
    let loaded = parse("cell.yaml", "kind: cell\nregion: a\nretention: 3d\n").unwrap();
    let find = |wanted: &str| loaded.effective.values().find(|(key, _, _)| *key == wanted);
    assert_eq!(find("retention"), Some(("retention", "3d", effective::Origin::Line(3))));
    assert_eq!(find("log.segment"), Some(("log.segment", "128MiB", effective::Origin::Default)));
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let error = load(&directory.path().join("none.yaml")).unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
    let path = directory.path().join("cell.yaml");
    std::fs::write(&path, "kind: cell\nregion: a\n").unwrap();
    assert!(load(&path).is_ok());
}

const DIRECT: &str = "kind: cell\nregion: eu\nprofile: startup\ncassandra: {nodes: ['c:1'], datacenter: a}\n\
                      elasticsearch: {urls: ['http://e:1']}\n";

#[test]
fn a_process_of_several_collectors_says_which_part_it_is_and_has_the_groups_of_that_part() {
    let collector = cell(&format!("{DIRECT}direct: {{collector: 3}}\n"));
    assert_eq!(collector.direct, Some(DirectConfig::Collector { number: 3 }));
    assert_eq!(collector.groups, [cell::GroupKind::StorageWriter, cell::GroupKind::SearchIndexer]);
    let front = cell(&format!("{DIRECT}direct: {{collectors: ['a:1', 'b:1']}}\n"));
    assert!(matches!(&front.direct, Some(DirectConfig::Front { collectors, lease })
            if collectors.len() == 2 && lease.as_secs() == 3_600));
    assert!(!front.groups.contains(&cell::GroupKind::StorageWriter));
    assert!(front.groups.contains(&cell::GroupKind::MetadataPublisher));
    assert_eq!(cell(DIRECT).direct, None);
}

#[test]
fn what_several_collectors_cannot_be_is_refused_by_name() {
    let embedded = "kind: cell\nregion: eu\n";
    let with = |direct: &str| format!("{DIRECT}direct: {direct}\n");
    for (text, words) in [
        (format!("{embedded}direct: {{collector: 0}}\n"), "stores that collectors share"),
        (with("{}"), "needs `collector`"),
        (with("{collector: 0, collectors: ['a:1']}"), "stands beside `collectors`"),
        (with("{collector: 256}"), "0 to 255"),
        (with("{collectors: ['a:1', 'a:1']}"), "`a:1` twice"),
        (with("{collectors: ['a']}"), "`a` is not host:port"),
        (with("{collector: 0}\ningester: {groups: [storage-writer]}"), "not used with `direct`"),
        (with("{collector: 0, lease: 1m}"), "is the front's: it tells"),
        (with("{collectors: ['a:1'], lease: 1s}"), "10s"),
        (with("{collector: 0}\nreplicator: 'r:1'"), "a collector neither answers nor publishes"),
        (with("{collector: 0}\nquerier: {concurrency: 1}"), "neither answers nor publishes"),
        (with("{collector: 0}\nlocality: {spans: closed}"), "neither answers nor publishes"),
        (
            with("{collector: 0}\nstores: {metrics: clickhouse}\nclickhouse: {url: 'http://c:1'}"),
            "a collector does not count",
        ),
        (with("{collectors: ['a:1']}\nreceiver: {spans_max: 9}"), "the front takes no spans"),
        (with("{collectors: ['a:1']}\nlog: {retention: 1h}"), "the front takes no spans"),
        (with("{collectors: ['a:1']}\nlisten: {zipkin: '127.0.0.1:1'}"), "addresses for senders"),
        (with("{collectors: ['a:1']}\ncold: {url: 's3://b/p'}"), "`stores.traces: embedded`"),
        (
            format!(
                "{}kafka: {{brokers: ['k:1']}}\nstores: {{log: kafka}}\n",
                with("{collector: 0}")
            ),
            "without Kafka",
        ),
    ] {
        let faults = faults(&text);
        assert!(faults.iter().any(|(_, fault)| fault.contains(words)), "{words}: {faults:?}");
    }
}
