//! What is lost with a log, or in it, and what a log that goes on has to respect.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::{Offset, TopicPartitionList};
use span_log::port::{SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{
    ForgetLost, KafkaLog, LogError, LostCause, LostRun, MissedRun, Seen, Sharing, SpanLog,
};
use trace_model::{Coverage, LogRange, UnixNanos};

use super::cluster::{TestTopic, at_last, clock};
use crate::batches::{batch, trace};

fn seen_of(incarnation: u64, covered: u64, stored: u64) -> Seen {
    let cover = |next| {
        let mut cover = Coverage::none(incarnation);
        cover.extend(0, next);
        cover
    };
    Seen { covered: cover(covered), stored: cover(stored), append_time: UnixNanos::from_millis(5) }
}

async fn open_with(topic: &TestTopic, seen: Seen) -> std::sync::Arc<KafkaLog> {
    KafkaLog::open(topic.config.clone(), seen, clock()).await.unwrap()
}

/// Cause, incarnation, range.
fn shapes(log: &KafkaLog) -> Vec<(LostCause, u64, u64, u64)> {
    let shape = |run: LostRun| (run.cause, run.incarnation, run.range.first, run.range.next);
    log.lost().runs.into_iter().map(shape).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_what_was_seen_goes_on_under_a_new_incarnation() {
    let topic = TestTopic::new(1).await;
    let old = topic.open().await;
    old.append(batch(&[1, 2, 3, 4])).await.unwrap();
    old.commit(STORAGE_WRITER, 0, 4).await.unwrap();
    old.commit(SEARCH_INDEXER, 0, 2).await.unwrap();
    old.close().await.unwrap();
    let last = old.identity().incarnation;
    // As if the brokers had lost two records that were published and one that was stored.
    let new = open_with(&topic, seen_of(last, 6, 5)).await;
    assert!(new.identity().incarnation > last);
    assert_eq!(shapes(&new), [(LostCause::WentBack, last, 5, u64::MAX)]);
    // What lies before the cut was handled, and is not handled again.
    assert_eq!(new.committed(STORAGE_WRITER, 0).unwrap(), 4);
    assert_eq!(new.committed(SEARCH_INDEXER, 0).unwrap(), 2);
    // Another process finds the same, also after a restart.
    assert_eq!(shapes(topic.open().await.as_ref()), shapes(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_made_anew_is_above_all_that_was_seen_and_names_what_is_gone() {
    let topic = TestTopic::new(1).await;
    let future = topic.open().await.identity().incarnation + 3_600_000;
    let log = open_with(&topic, seen_of(future, 9, 7)).await;
    assert_eq!(log.identity().incarnation, future + 1);
    assert_eq!(shapes(&log), [(LostCause::Recreated, future, 7, u64::MAX)]);
    let other = topic.open().await;
    let run = ForgetLost::Run { incarnation: future, partition: 0, first: 7 };
    assert_eq!(other.forget_lost(run).await.unwrap(), 1);
    assert_eq!(other.forget_lost(run).await.unwrap(), 0);
    assert!(other.lost().runs.is_empty());
    at_last("the first process hears of it", || async { log.lost().runs.is_empty() }).await;
    assert!(topic.open().await.lost().runs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn append_times_go_on_from_what_was_published() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    let first = log.append(batch(&[1])).await.unwrap().append_time;
    let published = first.plus(60_000_000_000);
    let seen = Seen { append_time: published, ..seen_of(log.identity().incarnation, 1, 1) };
    let log = open_with(&topic, seen).await;
    assert_eq!(log.end(0).unwrap().append_time, published);
    assert_eq!(log.append(batch(&[2])).await.unwrap().append_time, published);
    let mut read = log.read(0, 0, 1).await.unwrap();
    read.extend(log.read(0, 1, 1).await.unwrap());
    let found = (read[0].append_time, read.last().unwrap().append_time);
    assert_eq!(found, (first, published));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_of_ours_are_lost_and_foreign_ones_are_not() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    let key = [trace(1).as_bytes().as_slice(), b"default"].concat();
    let header = OwnedHeaders::new().insert(Header { key: "farspan", value: Some(b"\x01?") });
    topic.write_foreign(0, None, OwnedHeaders::new(), Some(b"foreign")).await;
    topic.write_foreign(0, Some(&key), header, Some(b"torn")).await;
    log.append(batch(&[2])).await.unwrap();
    let incarnation = log.identity().incarnation;
    let expected = [(LostCause::Damaged, incarnation, 1, 2)];
    at_last("it is met", || async { shapes(&log) == expected }).await;
    // It is remembered when storage-writer has passed it, and by others.
    log.commit(STORAGE_WRITER, 0, 3).await.unwrap();
    at_last("others know", || async { shapes(topic.open().await.as_ref()) == expected }).await;
    let lost = log.lost().runs.remove(0);
    assert_eq!(lost.range, LogRange { partition: 0, first: 1, next: 2 });
    let after = lost.append_times.1.plus(1);
    assert_eq!(log.forget_lost(ForgetLost::Before(after)).await.unwrap(), 1);
    assert!(log.lost().expired_until.is_some_and(|until| until < after));
    assert!(topic.open().await.lost().expired_until.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_before_storage_writer_had_it_is_lost() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1, 2, 3, 4, 5])).await.unwrap();
    log.commit(STORAGE_WRITER, 0, 2).await.unwrap();
    topic.let_go(4).await;
    let expected = [(LostCause::Dropped, log.identity().incarnation, 2, 4)];
    at_last("it is noted", || async { shapes(&log) == expected }).await;
    assert!(log.health().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_told_before_storage_writers_commit_passes_it() {
    let mut topic = TestTopic::new(1).await;
    // What a process that ends has met since its last look, and nobody reads again.
    topic.config.tail = None;
    topic.config.commit_every = Duration::from_secs(1);
    let log = topic.open().await;
    let key = [trace(1).as_bytes().as_slice(), b"default"].concat();
    let header = OwnedHeaders::new().insert(Header { key: "farspan", value: Some(b"\x01?") });
    topic.write_foreign(0, Some(&key), header, Some(b"torn")).await;
    log.append(batch(&[2])).await.unwrap();
    at_last("it is met", || async { matches!(log.read(0, 0, 1).await, Err(LogError::Damaged(_))) })
        .await;
    log.commit(STORAGE_WRITER, 0, 2).await.unwrap();
    log.close().await.unwrap();
    let next = topic.open().await;
    assert_eq!(next.committed(STORAGE_WRITER, 0).unwrap(), 2);
    assert_eq!(shapes(&next), [(LostCause::Damaged, log.identity().incarnation, 0, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_lost_also_where_storage_writer_steps_over_it_at_once() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    let held = log.join(STORAGE_WRITER, Sharing::Partitions);
    at_last("it is storage-writer's", || async { held.borrow().partitions.len() == 1 }).await;
    log.append(batch(&[1, 2, 3, 4, 5])).await.unwrap();
    log.commit(STORAGE_WRITER, 0, 2).await.unwrap();
    topic.let_go(4).await;
    at_last("it is gone", || async {
        matches!(log.read(0, 2, 1).await, Err(LogError::Expired { wanted: 2, first: 4 }))
    })
    .await;
    log.commit(STORAGE_WRITER, 0, 5).await.unwrap();
    let expected = [(LostCause::Dropped, log.identity().incarnation, 2, 4)];
    assert_eq!(shapes(&log), expected);
    at_last("others know", || async { shapes(topic.open().await.as_ref()) == expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_before_a_group_had_it_is_known_to_every_process_when_it_is_noted() {
    let topic = TestTopic::new(1).await;
    let (log, other) = (topic.open().await, topic.open().await);
    log.append(batch(&[1, 2, 3, 4, 5])).await.unwrap();
    log.commit(STORAGE_WRITER, 0, 5).await.unwrap();
    log.commit(SEARCH_INDEXER, 0, 2).await.unwrap();
    topic.let_go(4).await;
    at_last("it is gone", || async {
        matches!(log.read(0, 2, 1).await, Err(LogError::Expired { wanted: 2, first: 4 }))
    })
    .await;
    let range = LogRange { partition: 0, first: 2, next: 4 };
    let incarnation = log.identity().incarnation;
    let append_times = (UnixNanos::from_millis(5), UnixNanos::from_millis(9));
    let run = LostRun { incarnation, range, append_times, cause: LostCause::Dropped };
    let missed = MissedRun { group: SEARCH_INDEXER, run };
    log.note_missed(missed.clone()).await.unwrap();
    assert_eq!(log.lost().missed, std::slice::from_ref(&missed));
    at_last("others have asked since", || async { other.lost() == log.lost() }).await;
    assert!(log.lost().runs.is_empty(), "the store has all of it");
    let next = topic.open().await;
    assert_eq!((next.lost().missed, next.identity().incarnation), (vec![missed], incarnation));
    let gone = ForgetLost::Missed { group: SEARCH_INDEXER, incarnation, partition: 0, first: 2 };
    assert_eq!(next.forget_lost(gone).await.unwrap(), 1);
    at_last("nobody misses it", || async { log.lost().missed.is_empty() }).await;
}

/// A run of the first partition's records that search-indexer has missed.
fn missed_run(log: &KafkaLog, (first, next): (u64, u64), cause: LostCause) -> MissedRun {
    let range = LogRange { partition: 0, first, next };
    let append_times = (UnixNanos::from_millis(5), UnixNanos::from_millis(9));
    let incarnation = log.identity().incarnation;
    MissedRun { group: SEARCH_INDEXER, run: LostRun { incarnation, range, append_times, cause } }
}

/// What the brokers keep of search-indexer's misses, as another process asks them.
fn missed_offsets(topic: &TestTopic) -> BaseConsumer {
    let group = format!("{}farspan-log-missed-{SEARCH_INDEXER}", topic.config.prefix);
    let mut client = topic.client();
    client.set("group.id", group).set("enable.auto.commit", "false").create().unwrap()
}

fn missed_text(topic: &TestTopic, consumer: &BaseConsumer) -> String {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&topic.name(), 0);
    let found = consumer.committed_offsets(asked, Duration::from_secs(10)).unwrap();
    found.elements().first().map(|one| one.metadata().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_another_process_writes_over_is_made_again_before_the_group_goes_on() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1, 2, 3])).await.unwrap();
    let missed = missed_run(&log, (0, 2), LostCause::Dropped);
    let written_over = topic.clone();
    let overwriting = tokio::task::spawn_blocking(move || {
        let consumer = missed_offsets(&written_over);
        // Each look asks the brokers.
        let is_noted = || !missed_text(&written_over, &consumer).is_empty();
        assert!((0..100_000).any(|_| is_noted()), "nothing was noted");
        // One that had read the place before the note was made.
        let mut older = TopicPartitionList::new();
        let mut place = older.add_partition(&written_over.name(), 0);
        place.set_offset(Offset::Offset(3)).unwrap();
        place.set_metadata("farspan-log 1 1 0 0 0");
        consumer.commit(&older, CommitMode::Sync).unwrap();
    });
    let (noted, overwritten) = tokio::join!(log.note_missed(missed.clone()), overwriting);
    noted.unwrap();
    overwritten.unwrap();
    assert_eq!(topic.open().await.lost().missed, [missed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_search_indexer_sets_aside_every_process_knows_until_it_is_taken_after_all() {
    let topic = TestTopic::new(1).await;
    let (ingester, querier) = (topic.open().await, topic.open().await);
    ingester.append(batch(&[1, 2, 3])).await.unwrap();
    let letters = [(0, 1), (1, 2)].map(|run| missed_run(&ingester, run, LostCause::SetAside));
    for MissedRun { group, run } in &letters {
        ingester.note_set_aside(*group, run.range, run.append_times).await.unwrap();
    }
    at_last("the other process knows", || async { querier.lost().missed == letters }).await;
    assert!(querier.lost().runs.is_empty(), "by id they are there");
    let MissedRun { group, run } = &letters[0];
    let (incarnation, partition) = (run.incarnation, run.range.partition);
    let taken = ForgetLost::Missed { group: *group, incarnation, partition, first: 0 };
    assert_eq!(ingester.forget_lost(taken).await.unwrap(), 1);
    at_last("its neighbour is still away", || async { querier.lost().missed == letters[1..] })
        .await;
}
