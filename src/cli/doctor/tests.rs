use serde_json::json;

use super::*;
use crate::doctor::limits::{CASSANDRA_DISK, KAFKA_LAG, WRITE_P99};

fn findings() -> Vec<Finding> {
    let unknown = Reading::Untold("`df` on each of the 3".to_owned());
    vec![
        Finding::of(&WRITE_P99, 0.0625).about("10.0.0.1"),
        Finding::of(&KAFKA_LAG, 14.0).about("storage-writer").noting("7 records"),
        Finding::reading(&CASSANDRA_DISK, unknown),
        Finding::told(Part::Cassandra, "releases", "5.0.9 (3)"),
    ]
}

#[test]
fn a_line_has_value_limit_verdict_and_what_to_do() {
    let (mut output, buffer) = Output::to_buffer(false);
    in_lines(&findings(), &mut output).unwrap();
    assert_eq!(
        buffer.text(),
        "PART       CHECK                VALUE               LIMIT      VERDICT\n\
         cassandra  write P99: 10.0.0.1  62.5 ms             ≤ 50.0 ms  act  add nodes\n\
         kafka      lag: storage-writer  14.0 s (7 records)  ≤ 15 min   ok\n\
         cassandra  disk                 ?                   ≤ 60 %     unknown  `df` on each of the 3\n\
         cassandra  releases             5.0.9 (3)                      ok\n\
         4 checks: 1 act, 0 warn, 1 unknown, 2 ok\n"
    );
}

#[test]
fn what_to_do_is_never_cut() {
    let (mut output, buffer) = Output::to_buffer(false);
    output.width = 72;
    in_lines(&findings(), &mut output).unwrap();
    assert!(buffer.text().contains("act\n    add nodes\n"), "{}", buffer.text());
}

#[test]
fn json_has_the_number_its_edges_and_their_source() {
    let found = in_json(&findings());
    assert_eq!(
        found["checks"][0],
        json!({
            "part": "cassandra", "check": "write P99", "subject": "10.0.0.1",
            "value": 0.0625, "unit": "seconds", "text": "62.5 ms",
            "limit": {"warn": 0.045, "act": 0.05, "text": "≤ 50.0 ms"},
            "verdict": "act", "isTrouble": true, "advice": "add nodes",
            "source": "the guide, Cassandra: add nodes at write P99 > 50 ms",
        })
    );
    assert_eq!(found["checks"][2]["value"], Value::Null);
    assert_eq!((&found["act"], &found["unknown"], &found["ok"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(found["isWell"], false);
}

async fn doctor(text: &str, more: &[&str]) -> (String, Result<Outcome, Failure>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file.yaml");
    std::fs::write(&file, text.replace("DIR", &directory.path().display().to_string())).unwrap();
    let line = ["farspan", "doctor", "--config", file.to_str().unwrap()];
    let line = line.into_iter().chain(more.iter().copied());
    let arguments = <super::super::Arguments as clap::Parser>::try_parse_from(line).unwrap();
    let (mut output, buffer) = Output::to_buffer(arguments.global.json);
    let ended = super::super::dispatch(&arguments.global, arguments.command, &mut output).await;
    (buffer.text(), ended)
}

const CELL: &str = "kind: cell\nregion: eu\ndata_dir: 'DIR/data'\n\
    listen: {admin: '127.0.0.1:1'}\n";

#[tokio::test]
async fn an_embedded_cell_that_does_not_run_is_told_of_and_is_something_to_look_at() {
    let (text, ended) = doctor(CELL, &["--json"]).await;
    assert_eq!(ended.unwrap(), Outcome::Partial);
    let found: Value = serde_json::from_str(&text).unwrap();
    let checks = found["checks"].as_array().unwrap();
    let of = |part: &str| checks.iter().filter(|one| one["part"] == part).count();
    assert!(of("machine") >= 7 && of("embedded") >= 4, "{text}");
    let cell = checks.iter().find(|one| one["part"] == "cell").unwrap();
    assert_eq!(cell["verdict"], "unknown");
    assert!(cell["advice"].as_str().unwrap().contains("127.0.0.1:1"), "{cell}");
}

#[tokio::test]
async fn parts_that_are_well_end_with_0_and_parts_that_the_file_lacks_are_bad_usage() {
    let (text, ended) = doctor(CELL, &["--only", "embedded"]).await;
    assert_eq!(ended.unwrap(), Outcome::Done, "{text}");
    assert!(!text.contains("machine"), "{text}");
    let (_, ended) = doctor(CELL, &["--only", "embedded,kafka"]).await;
    let failure = ended.unwrap_err();
    assert!(matches!(failure, Failure::Usage(_)));
    assert!(failure.to_string().contains("has machine, embedded, cell"), "{failure}");
    let replicator = "kind: replicator\nregion: eu\ndata_dir: DIR/r\ncell: http://h:1\npeers: []\n";
    let (_, ended) = doctor(replicator, &[]).await;
    assert!(matches!(ended.unwrap_err(), Failure::Usage(_)));
}

#[tokio::test]
async fn a_gateways_redis_that_is_away_is_to_be_acted_on() {
    let gateway = "kind: gateway\nregion: eu\nreplicator: h:1\ncells: [{region: eu, address: h:2}]\n\
        redis: {url: 'redis://127.0.0.1:1'}\nrate_limit: {gateways: 1}\n";
    let (text, ended) = doctor(gateway, &["--only", "redis"]).await;
    assert_eq!(ended.unwrap(), Outcome::Partial);
    assert!(text.contains("redis  answers  0      ≥ 1    act"), "{text}");
}
