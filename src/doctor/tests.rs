use service_kit::config::{Config, parse};

use super::finding::Verdict;
use super::*;

fn cell(text: &str) -> CellConfig {
    let text = format!("kind: cell\nregion: eu\n{text}");
    let Config::Cell(config) = parse("cell.yaml", &text).unwrap().config else { panic!("{text}") };
    *config
}

const GROWTH: &str = "profile: growth\nkafka: {brokers: ['127.0.0.1:1', '[::1]:9092']}\n\
    cassandra: {nodes: ['127.0.0.1:1'], datacenter: dc1}\n\
    elasticsearch: {urls: ['http://127.0.0.1:1']}\nclickhouse: {url: 'http://ch.example:1'}\n";

#[test]
fn a_file_has_the_parts_that_it_names() {
    use Part::{Cassandra, Cell, Clickhouse, Elasticsearch, Embedded, Kafka, Machine};
    assert_eq!(Patient::Cell(&cell("")).parts(), [Machine, Embedded, Cell]);
    let growth = cell(GROWTH);
    let all = [Machine, Embedded, Cell, Kafka, Cassandra, Elasticsearch, Clickhouse];
    assert_eq!(Patient::Cell(&growth).parts(), all);
    assert_eq!(hosts(&growth), ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.1", "ch.example"]);
}

#[tokio::test]
async fn engines_that_are_away_are_a_line_each_and_hold_nobody_up() {
    let text = GROWTH.replace("ch.example", "127.0.0.1");
    let config = cell(&text);
    let patient = Patient::Cell(&config);
    let only = [Part::Cassandra, Part::Elasticsearch, Part::Clickhouse, Part::Embedded];
    let found = patient.examine(&only).await;
    for part in [Part::Cassandra, Part::Elasticsearch, Part::Clickhouse] {
        let of: Vec<_> = found.iter().filter(|finding| finding.part == part).collect();
        assert_eq!(of.len(), 1, "{of:?}");
        assert_eq!((of[0].check, of[0].verdict()), ("answers", Verdict::Act));
        assert!(!of[0].advice().is_empty());
    }
    assert!(found.iter().any(|finding| finding.part == Part::Embedded));
    assert!(!found.iter().any(|finding| finding.part == Part::Kafka), "it was not asked for");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_hangs_is_a_line_and_the_others_are_whole() {
    let told = || vec![Finding::told(Part::Embedded, "x", "y")];
    let questions = vec![
        question(Part::Kafka, std::future::pending()),
        question(Part::Embedded, async move { told() }),
        question(Part::Cell, std::future::pending()),
    ];
    let begun = tokio::time::Instant::now();
    let found = ask(questions).await;
    assert_eq!(begun.elapsed(), PART_TIMEOUT);
    let verdicts: Vec<_> = found.iter().map(|one| (one.part, one.verdict())).collect();
    assert_eq!(
        verdicts,
        [
            (Part::Kafka, Verdict::Act),
            (Part::Embedded, Verdict::Ok),
            (Part::Cell, Verdict::Unknown)
        ]
    );
    assert_eq!(found[0].advice(), "no answer within 10 s");
}
