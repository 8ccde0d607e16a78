//! Groups that must have every record: nothing more is taken before the log lets go what one of them has
//! not committed.

use std::time::Duration;

use rdkafka::admin::{AlterConfig, ResourceSpecifier};
use span_log::port::{METADATA_PUBLISHER, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{GroupId, KafkaLog, LogError, SpanLog};
use trace_model::LogRange;

use super::cluster::{TestTopic, at_last, patient};
use crate::batches::batch;

/// Half of it may pass before a record must be committed.
const RETENTION: Duration = Duration::from_secs(8);

async fn topic_that_keeps(retention: Duration) -> TestTopic {
    let topic = TestTopic::new(2).await;
    keep(&topic, retention).await;
    topic
}

/// Sets the topic's retention. Everything else becomes what brokers do by themselves, but for what a log
/// must have.
async fn keep(topic: &TestTopic, retention: Duration) {
    let (name, millis) = (topic.name(), retention.as_millis().to_string());
    let changed = AlterConfig::new(ResourceSpecifier::Topic(&name))
        .set("retention.ms", &millis)
        .set("message.timestamp.type", "LogAppendTime")
        .set("cleanup.policy", "delete");
    let changed = topic.admin().alter_configs(&[changed], &patient()).await.unwrap();
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
}

/// Who an append is refused for, if it is.
async fn refused_for(log: &KafkaLog) -> Option<GroupId> {
    match log.append(batch(&[7])).await {
        Ok(_) => None,
        Err(error @ LogError::Behind { group, .. }) => {
            assert!(error.is_retryable() && error.to_string().contains(group.0), "{error}");
            Some(group)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Commits all that a partition holds now, in each.
async fn commit_all(log: &KafkaLog, group: GroupId) {
    for partition in 0..log.identity().partitions {
        let next = log.wait_beyond(partition, u64::MAX, Duration::ZERO).await.unwrap().next;
        log.commit(group, partition, next).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_are_refused_while_a_required_group_is_too_far_behind_and_by_every_process() {
    let topic = topic_that_keeps(RETENTION).await;
    let log = topic.open().await;
    assert_eq!(refused_for(&log).await, None);
    commit_all(&log, METADATA_PUBLISHER).await;
    at_last("storage-writer is waited for", || async {
        refused_for(&log).await == Some(STORAGE_WRITER)
    })
    .await;
    // A process that begins knows it before its first append; one that requires nobody takes all.
    let (other, careless) =
        (topic.open().await, topic.open_with(|config| config.required_groups = vec![]).await);
    assert_eq!(refused_for(&other).await, Some(STORAGE_WRITER));
    assert_eq!(refused_for(&careless).await, None);
    // A group that is not required is waited for by nobody; one that is has to have all.
    commit_all(&log, SEARCH_INDEXER).await;
    commit_all(&log, STORAGE_WRITER).await;
    at_last("the publisher is waited for", || async {
        commit_all(&log, STORAGE_WRITER).await;
        refused_for(&log).await == Some(METADATA_PUBLISHER)
    })
    .await;
    for log in [&log, &other] {
        at_last("spans are taken again", || async {
            commit_all(log, METADATA_PUBLISHER).await;
            commit_all(log, STORAGE_WRITER).await;
            refused_for(log).await.is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_lengthened_is_heard_and_what_was_let_go_still_counts() {
    let topic = topic_that_keeps(RETENTION).await;
    let log = topic.open_with(|config| config.required_groups = vec![STORAGE_WRITER]).await;
    let appended = log.append(batch(&[1, 2, 3, 4, 5, 6, 7, 8])).await.unwrap();
    let of_first = |range: &&LogRange| range.partition == 0;
    let range = *appended.ranges.iter().find(of_first).unwrap();
    log.commit(STORAGE_WRITER, 0, range.first + 1).await.unwrap();
    at_last("it is waited for", || async { refused_for(&log).await.is_some() }).await;
    keep(&topic, Duration::from_secs(3_600)).await;
    at_last("an hour is enough", || async { refused_for(&log).await.is_none() }).await;
    keep(&topic, RETENTION).await;
    let log = topic.open_with(|config| config.required_groups = vec![STORAGE_WRITER]).await;
    assert_eq!(refused_for(&log).await, Some(STORAGE_WRITER));
    // Gone is not handled: it is waited for until the group has stepped over it.
    let end = log.wait_beyond(0, u64::MAX, Duration::ZERO).await.unwrap().next;
    topic.let_go(i64::try_from(end).unwrap()).await;
    let log = topic.open_with(|config| config.required_groups = vec![STORAGE_WRITER]).await;
    assert_eq!(refused_for(&log).await, Some(STORAGE_WRITER));
    at_last("it has stepped over it", || async {
        commit_all(&log, STORAGE_WRITER).await;
        refused_for(&log).await.is_none()
    })
    .await;
}
