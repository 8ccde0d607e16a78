//! What the brokers say of topics and groups, against what was done to them.

use std::sync::Arc;
use std::time::Duration;

use service_kit::SystemClock;
use span_log::kafka::{GroupFigures, KafkaConfig, KafkaFigures, TopicSettings, figures};
use span_log::port::{METADATA_PUBLISHER, STORAGE_WRITER};
use span_log::{GroupId, SpanLog};

use super::cluster::{TestTopic, at_last};
use crate::batches::batch;

fn settings(partitions: u32) -> TopicSettings {
    TopicSettings { partitions, replication: 1, ..TopicSettings::default() }
}

async fn ask(topic: &TestTopic) -> KafkaFigures {
    figures(&topic.config, &settings(2), &SystemClock::new()).await.unwrap()
}

fn group(figures: &KafkaFigures, group: GroupId) -> GroupFigures {
    figures.groups.iter().find(|one| one.group == group.0).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_lags_by_what_it_has_not_committed_and_by_the_age_of_the_oldest_of_it() {
    let topic = TestTopic::new(2).await;
    let log = topic.open().await;
    let numbers: Vec<u64> = (1..=40).collect();
    let appended = log.append(batch(&numbers)).await.unwrap();
    let before = ask(&topic).await;
    let lag = group(&before, STORAGE_WRITER);
    assert_eq!((lag.lag_records, lag.has_committed), (40, false));
    assert!(lag.lag.is_some_and(|lag| lag < Duration::from_secs(120)), "{lag:?}");
    // All of one partition but its last record, nothing of the other.
    let range = appended.ranges[0];
    log.commit(STORAGE_WRITER, range.partition, range.next - 1).await.unwrap();
    let left = 40 - (range.next - 1 - range.first);
    at_last("the commit is seen", || async {
        let lag = group(&ask(&topic).await, STORAGE_WRITER);
        lag.has_committed && lag.lag_records == left
    })
    .await;
    // The records age, whoever else commits.
    let first = group(&ask(&topic).await, STORAGE_WRITER).lag.unwrap();
    at_last("the lag has grown", || async {
        group(&ask(&topic).await, STORAGE_WRITER).lag.is_some_and(|lag| lag > first)
    })
    .await;
    for range in &appended.ranges {
        log.commit(METADATA_PUBLISHER, range.partition, range.next).await.unwrap();
    }
    at_last("a group that has all lags by nothing", || async {
        let lag = group(&ask(&topic).await, METADATA_PUBLISHER);
        lag.lag_records == 0 && lag.lag == Some(Duration::ZERO)
    })
    .await;
    assert_eq!(group(&ask(&topic).await, STORAGE_WRITER).lag_records, left);
    Arc::clone(&log).close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_says_how_it_is_and_where_it_differs_and_one_that_is_missing_is_not_made() {
    let topic = TestTopic::new(2).await;
    let asked = figures(&topic.config, &settings(2), &SystemClock::new()).await.unwrap();
    assert_eq!(asked.brokers, 1);
    let raw = &asked.topics[0];
    assert_eq!((raw.topic.clone(), raw.partitions, raw.copies), (topic.name(), 2, 1));
    assert_eq!((raw.under_replicated, raw.below_min_in_sync, raw.offline), (0, 0, 0));
    assert_eq!(raw.retention, Some(Duration::from_secs(4 * 3_600)));
    assert_eq!(raw.differences, Vec::<String>::new());
    let other = TopicSettings { retention: Duration::from_secs(60), ..settings(3) };
    let asked = figures(&topic.config, &other, &SystemClock::new()).await.unwrap();
    let words = asked.topics[0].differences.join("; ");
    assert!(words.contains("retention.ms is 14400000, not 60000"), "{words}");
    assert!(words.contains("2 partitions, not 3"), "{words}");
    topic.delete().await;
    let asked = figures(&topic.config, &settings(2), &SystemClock::new()).await.unwrap();
    assert_eq!((asked.topics[0].partitions, asked.groups.len()), (0, 0));
    assert_eq!(topic.partitions(), 0, "it was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_an_error_in_time() {
    let mut config = KafkaConfig::at(vec!["127.0.0.1:1".to_owned()]);
    config.request_timeout = Duration::from_secs(1);
    let (settings, clock) = (settings(1), SystemClock::new());
    let asked = figures(&config, &settings, &clock);
    let asked = tokio::time::timeout(Duration::from_secs(30), asked).await;
    assert!(asked.expect("it hangs").is_err());
}
