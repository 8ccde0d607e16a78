//! What several processes share: identity, commits, the live tail.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use span_log::kafka::TopicSettings;
use span_log::port::{SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{
    CommitError, ForgetLost, KafkaLog, KafkaOpenError, KafkaTailConfig, KafkaTailDisk, LogError,
    LostCause, Seen, SpanLog,
};
use trace_model::{LogRange, UnixNanos};

use super::cluster::{TestTopic, at_last, clock, patient};
use crate::batches::{batch, batch_of, tenant, trace};

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_open_a_new_topic_at_once_agree_on_its_identity() {
    let topic = TestTopic::new(3).await;
    let open = || async { topic.open().await.identity() };
    let (first, second, third) = tokio::join!(open(), open(), open());
    assert_eq!((first, second), (second, third));
    assert_eq!(first.partitions, 3);
    assert_eq!(topic.open().await.identity(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_another_log_and_old_commits_are_not_believed() {
    let topic = TestTopic::new(1).await;
    let old = topic.open().await;
    old.append(batch(&[1, 2, 3])).await.unwrap();
    old.commit(STORAGE_WRITER, 0, 3).await.unwrap();
    old.close().await.unwrap();
    topic.delete().await;
    topic.create(1).await;
    let new = topic.open().await;
    assert!(new.identity().incarnation > old.identity().incarnation);
    new.append(batch(&[4, 5, 6, 7])).await.unwrap();
    assert_eq!(new.committed(STORAGE_WRITER, 0).unwrap(), 0);
    let tail = new.tail(&tenant("default"), trace(5)).await.unwrap();
    assert_eq!((tail.spans.len(), tail.covered.incarnation), (1, new.identity().incarnation));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_recreated_under_a_process_is_refused_by_it() {
    let topic = TestTopic::new(1).await;
    let (collector, log) = (topic.open().await, topic.open().await);
    collector.append(batch(&[1, 2, 3])).await.unwrap();
    at_last("the end is known", || async { log.end(0).unwrap().next == 3 }).await;
    topic.delete().await;
    topic.create(1).await;
    // One that appends knows by the first offset that was given before.
    let refused = collector.append(batch(&[4])).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    let refused = collector.append(batch(&[4])).await.unwrap_err();
    assert!(refused.to_string().contains("another log"), "{refused}");
    // One that reads believes it after a while.
    at_last("the reader notices", || async {
        log.end(0).is_err_and(|error| error.to_string().contains("another log"))
    })
    .await;
    assert!(log.append(batch(&[4])).await.unwrap_err().is_retryable());
    assert!(log.health().is_err() && collector.health().is_err());
    assert!(topic.open().await.identity().incarnation > log.identity().incarnation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_given_partitions_is_another_log() {
    let topic = TestTopic::new(1).await;
    let before = topic.open().await.identity();
    let name = topic.name();
    let grown = rdkafka::admin::NewPartitions::new(&name, 2);
    topic.admin().create_partitions(&[grown], &patient()).await.unwrap();
    at_last("the brokers know", || async { topic.partitions() == 2 }).await;
    let after = topic.open().await.identity();
    assert!(after.incarnation > before.incarnation);
    assert_eq!(after.partitions, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_known_to_other_processes_and_never_go_back() {
    let topic = TestTopic::new(1).await;
    let (one, other) = (topic.open().await, topic.open().await);
    one.append(batch(&[1, 2, 3, 4])).await.unwrap();
    one.commit(SEARCH_INDEXER, 0, 3).await.unwrap();
    at_last("the other knows", || async { other.committed(SEARCH_INDEXER, 0).unwrap() == 3 }).await;
    let back = other.commit(SEARCH_INDEXER, 0, 2).await.unwrap_err();
    assert!(matches!(back, CommitError::Backwards { wanted: 2, committed: 3 }), "{back}");
    // One that knows nothing yet of the other's commit does not undo it.
    at_last("the end is known", || async { other.end(0).unwrap().next == 4 }).await;
    one.commit(SEARCH_INDEXER, 0, 4).await.unwrap();
    one.close().await.unwrap();
    assert_eq!(topic.open().await.committed(SEARCH_INDEXER, 0).unwrap(), 4);
    at_last("the other knows", || async { other.committed(SEARCH_INDEXER, 0).unwrap() == 4 }).await;
    assert_eq!(other.committed(STORAGE_WRITER, 0).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_a_person_has_set_is_obeyed() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1, 2, 3, 4])).await.unwrap();
    log.commit(SEARCH_INDEXER, 0, 4).await.unwrap();
    log.close().await.unwrap();
    let mut client = topic.client();
    client.set("group.id", topic.config.group_name(SEARCH_INDEXER));
    let person: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic.name(), 0, Offset::Offset(1)).unwrap();
    person.commit(&list, CommitMode::Sync).unwrap();
    assert_eq!(topic.open().await.committed(SEARCH_INDEXER, 0).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_was_acknowledged_is_in_the_tail_at_once() {
    let topic = TestTopic::new(4).await;
    let collector = topic.open_with(|config| config.tail = None).await;
    let querier = topic.open().await;
    assert!(!collector.capabilities().has_live_tail);
    assert!(collector.tail(&tenant("default"), trace(1)).await.is_err());
    for number in 0..40 {
        collector.append(batch(&[number, 1_000])).await.unwrap();
        let tail = querier.tail(&tenant("default"), trace(number)).await.unwrap();
        assert_eq!((tail.spans.len(), tail.is_behind), (1, false), "trace {number}");
        let common = querier.tail(&tenant("default"), trace(1_000)).await.unwrap();
        assert_eq!(common.spans.len() as u64, number + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_begins_at_storage_writers_commit_after_a_restart() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    for number in 0..10 {
        log.append(batch(&[number])).await.unwrap();
    }
    log.commit(STORAGE_WRITER, 0, 4).await.unwrap();
    log.close().await.unwrap();
    let log = topic.open().await;
    for number in 0..10 {
        let tail = log.tail(&tenant("default"), trace(number)).await.unwrap();
        assert_eq!(tail.spans.len(), usize::from(number >= 4), "trace {number}");
        assert_eq!((tail.covered.next[&0], tail.is_behind), (10, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_without_room_says_how_far_it_covers_and_goes_on_after_commits() {
    let topic = TestTopic::new(1).await;
    let tail = KafkaTailConfig {
        bytes_max: 200_000,
        timeout: Duration::from_millis(300),
        ..KafkaTailConfig::default()
    };
    let log = topic.open_with(|config| config.tail = Some(tail)).await;
    for number in 0..100 {
        log.append(batch_of("default", &[number], 10_000)).await.unwrap();
    }
    let behind = log.tail(&tenant("default"), trace(99)).await.unwrap();
    let reached = behind.covered.next[&0];
    assert!(behind.is_behind && behind.spans.is_empty());
    assert!((5..90).contains(&reached), "{reached}");
    assert_eq!(log.tail(&tenant("default"), trace(0)).await.unwrap().spans.len(), 1);
    log.commit(STORAGE_WRITER, 0, 95).await.unwrap();
    until_tail_has(&log, 99, 100).await;
}

/// Waits until the tail has the one span of a trace, and the partition up to here.
async fn until_tail_has(log: &KafkaLog, number: u64, end: u64) {
    at_last("the tail goes on", || async {
        let tail = log.tail(&tenant("default"), trace(number)).await.unwrap();
        !tail.is_behind && tail.spans.len() == 1 && tail.covered.next[&0] == end
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_has_no_room_for_is_found_on_disk_until_that_is_full_too() {
    let topic = TestTopic::new(1).await;
    let place = tempfile::tempdir().unwrap();
    let tail = KafkaTailConfig {
        bytes_max: 200_000,
        timeout: Duration::from_secs(5),
        disk: Some(KafkaTailDisk { directory: place.path().join("tail"), bytes_max: 2_000_000 }),
        ..KafkaTailConfig::default()
    };
    let log = topic.open_with(|config| config.tail = Some(tail)).await;
    for number in 0..50 {
        log.append(batch_of("default", &[number, 1_000], 10_000)).await.unwrap();
    }
    for number in 0..50 {
        let tail = log.tail(&tenant("default"), trace(number)).await.unwrap();
        assert_eq!((tail.spans.len(), tail.is_behind), (1, false), "trace {number}");
    }
    // In memory and on disk.
    let common = log.tail(&tenant("default"), trace(1_000)).await.unwrap();
    assert_eq!((common.spans.len(), common.is_behind, common.is_damaged), (50, false, false));
    for number in 50..200 {
        log.append(batch_of("default", &[number], 10_000)).await.unwrap();
    }
    let behind = log.tail(&tenant("default"), trace(199)).await.unwrap();
    let reached = behind.covered.next[&0];
    assert!(behind.is_behind && behind.spans.is_empty());
    assert!((150..249).contains(&reached), "{reached}");
    log.commit(STORAGE_WRITER, 0, 245).await.unwrap();
    until_tail_has(&log, 199, 250).await;
    assert!(log.tail(&tenant("default"), trace(1)).await.unwrap().spans.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_at_different_places_do_not_disturb_each_other() {
    let topic = TestTopic::new(2).await;
    let log = topic
        .open_with(|config| {
            config.cache_bytes_max = 0;
            config.lanes_max = 2;
        })
        .await;
    for number in 0..300 {
        log.append(batch_of("default", &[number], 2_000)).await.unwrap();
    }
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..5_u64 {
        let log = Arc::clone(&log);
        readers.spawn(async move {
            read_without_gap(log.as_ref(), 0, reader * 7).await;
            read_without_gap(log.as_ref(), 1, reader * 7).await;
        });
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
}

async fn read_without_gap(log: &KafkaLog, partition: u32, from: u64) {
    let end = log.end(partition).unwrap().next;
    let mut at = from;
    while at < end {
        for logged in log.read(partition, at, 20_000).await.unwrap() {
            assert_eq!(logged.range.first, at);
            at = logged.range.next;
        }
    }
    assert_eq!(at, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_measured_for_every_group() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1, 2, 3, 4, 5])).await.unwrap();
    log.commit(STORAGE_WRITER, 0, 2).await.unwrap();
    at_last("the lag is a metric", || async {
        let mut registry = prometheus_client::registry::Registry::default();
        log.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("lag_records{group=\"storage-writer\"} 3")
            && text.contains("lag_records{group=\"search-indexer\"} 5")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_differences_are_named() {
    let topic = TestTopic::new(3).await;
    let settings = TopicSettings {
        partitions: 4,
        retention: Duration::from_secs(60),
        ..TopicSettings::default()
    };
    let reports = KafkaLog::init(&topic.config, &settings).await.unwrap();
    let names: Vec<&str> = reports.iter().map(|report| report.topic.as_str()).collect();
    assert_eq!(names, [topic.name(), format!("{}spans-sampled", topic.config.prefix)]);
    for report in &reports {
        assert!(!report.is_created);
        assert_eq!(
            report.differences,
            ["retention.ms is 14400000, not 60000", "3 partitions, not 4"]
        );
        assert!(report.warnings[0].starts_with("1 broker(s): 1 copies"), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_or_unfit_is_named() {
    let mut topic = TestTopic::new(1).await;
    let fit = topic.config.clone();
    topic.config.prefix.push_str("none-");
    let missing = KafkaLog::open(topic.config.clone(), Seen::default(), clock()).await.unwrap_err();
    assert!(
        matches!(&missing, KafkaOpenError::NoTopic(name) if *name == topic.name()),
        "{missing}"
    );
    let mut greedy = fit.clone();
    greedy.record_bytes_max = 8 << 20;
    let unfit = KafkaLog::open(greedy, Seen::default(), clock()).await.unwrap_err();
    assert!(unfit.to_string().contains("max.message.bytes"), "{unfit}");
    assert!(!unfit.is_retryable());
    let name = fit.topic_name();
    let resource = rdkafka::admin::ResourceSpecifier::Topic(&name);
    let create_time =
        rdkafka::admin::AlterConfig::new(resource).set("message.timestamp.type", "CreateTime");
    topic.admin().alter_configs([&create_time], &patient()).await.unwrap();
    at_last("brokers hear of it, and opening is refused", || async {
        let opened = KafkaLog::open(fit.clone(), Seen::default(), clock()).await;
        opened
            .is_err_and(|unfit| unfit.to_string().contains("message.timestamp.type is CreateTime"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_not_there_are_named_in_time() {
    let mut topic = TestTopic::new(1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    topic.config.brokers = vec![nobody];
    topic.config.open_timeout = Duration::from_secs(2);
    topic.config.request_timeout = Duration::from_secs(1);
    let opening = KafkaLog::open(topic.config.clone(), Seen::default(), clock());
    let opened = tokio::time::timeout(Duration::from_secs(15), opening).await.unwrap();
    let unreachable = opened.unwrap_err();
    assert!(matches!(unreachable, KafkaOpenError::Unreachable(_)), "{unreachable}");
    assert!(unreachable.is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_the_queue_is_refused_as_overloaded() {
    let topic = TestTopic::new(1).await;
    let log = topic.open_with(|config| config.queue_bytes_max = 1_000_000).await;
    let (first, second) = tokio::join!(
        log.append(batch_of("default", &[1], 600_000)),
        log.append(batch_of("default", &[2], 600_000)),
    );
    first.unwrap();
    let refused = second.unwrap_err();
    assert!(matches!(refused, LogError::Overloaded), "{refused}");
    log.append(batch_of("default", &[2], 600_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_sets_aside_every_process_knows_until_it_is_found_again() {
    let topic = TestTopic::new(2).await;
    let (ingester, querier) = (topic.open().await, topic.open().await);
    ingester.append(batch(&[1, 2, 3, 4])).await.unwrap();
    let range = LogRange { partition: 1, first: 0, next: 1 };
    let times = (UnixNanos::from_millis(5), UnixNanos::from_millis(7));
    for _ in 0..2 {
        ingester.note_set_aside(STORAGE_WRITER, range, times).await.unwrap();
    }
    let told = ingester.lost().runs;
    assert_eq!((told.len(), told[0].range, told[0].cause), (1, range, LostCause::SetAside));
    at_last("the other process knows", || async { querier.lost().runs == told }).await;
    // Also one that starts, and also when the one that had it is gone.
    ingester.close().await.unwrap();
    let next = topic.open().await;
    assert_eq!(next.lost().runs, told);
    let incarnation = next.identity().incarnation;
    let run = ForgetLost::Run { incarnation, partition: 1, first: 0 };
    assert_eq!(next.forget_lost(run).await.unwrap(), 1);
    at_last("nobody misses it", || async { querier.lost().runs.is_empty() }).await;
}
