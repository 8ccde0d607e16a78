//! Several processes that share a group: partitions move, and every record is handled all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use span_log::port::{GroupId, METRICS_AGGREGATOR, SEARCH_INDEXER};
use span_log::{CommitError, Hold, KafkaConfig, KafkaLog, Sharing, SpanLog};
use tokio::task::JoinSet;

use super::cluster::{TestTopic, at_last};
use super::ledger::{Ledger, follow};
use crate::batches::batch_of;

const PARTITIONS: u32 = 8;
/// What the brokers allow at least.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

pub(crate) fn quick(config: &mut KafkaConfig) {
    config.session_timeout = SESSION;
    config.drain_timeout = Duration::from_secs(3);
    config.tail = None;
}

/// A process of the cell, as far as the group is concerned.
struct Process {
    log: Arc<KafkaLog>,
    reader: JoinSet<()>,
}

impl Process {
    async fn start(topic: &TestTopic, ledger: &Arc<Ledger>) -> Self {
        let log = topic.open_with(quick).await;
        let mut reader = JoinSet::new();
        reader.spawn(follow(Arc::clone(&log) as Arc<dyn SpanLog>, Arc::clone(ledger)));
        Self { log, reader }
    }

    fn held(&self) -> usize {
        self.log.join(SEARCH_INDEXER, Sharing::Partitions).borrow().partitions.len()
    }

    /// Reads no further, and leaves the group.
    async fn end(mut self) {
        self.reader.shutdown().await;
        self.log.close().await.unwrap();
    }
}

/// Appends until it is told to stop; gives how many records each partition has then.
pub(crate) async fn append_meanwhile<T>(
    topic: &TestTopic,
    meanwhile: impl Future<Output = T>,
) -> (T, BTreeMap<u32, u64>) {
    let sender = topic.open_with(|config| config.tail = None).await;
    let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut sending = JoinSet::new();
    let (log, over, count) = (Arc::clone(&sender), Arc::clone(&is_over), Arc::clone(&sent));
    sending.spawn(async move {
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let traces: Vec<u64> = (number..number + 20).collect();
            log.append(batch_of("default", &traces, 200)).await.unwrap();
            number += 20;
            count.store(number, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let done = meanwhile.await;
    is_over.store(true, Ordering::Relaxed);
    sending.join_next().await.unwrap().unwrap();
    let ends: BTreeMap<u32, u64> = (0..sender.identity().partitions)
        .map(|partition| (partition, sender.end(partition).unwrap().next))
        .collect();
    assert_eq!(ends.values().sum::<u64>(), sent.load(Ordering::Relaxed));
    sender.close().await.unwrap();
    (done, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_under_load_and_each_record_is_handled_once() {
    let topic = TestTopic::new(PARTITIONS).await;
    let ledger = Arc::new(Ledger::default());
    let moving = async {
        let first = Process::start(&topic, &ledger).await;
        at_last("the first has all", || async { first.held() == 8 }).await;
        let second = Process::start(&topic, &ledger).await;
        at_last("two share", || async { (first.held(), second.held()) == (4, 4) }).await;
        let third = Process::start(&topic, &ledger).await;
        at_last("three share", || async {
            let held = [first.held(), second.held(), third.held()];
            held.iter().sum::<usize>() == 8 && held.iter().all(|held| (2..=3).contains(held))
        })
        .await;
        first.end().await;
        at_last("two are left", || async { (second.held(), third.held()) == (4, 4) }).await;
        (second, third)
    };
    let ((second, third), ends) = append_meanwhile(&topic, moving).await;
    at_last("all is handled", || async { ledger.has_all(&ends) }).await;
    // Nobody was lost, so that each partition was handed over at a commit.
    assert_eq!(ledger.repeats(), 0);
    second.end().await;
    third.end().await;
    let log = topic.open().await;
    for (partition, end) in &ends {
        assert_eq!(log.committed(SEARCH_INDEXER, *partition).unwrap(), *end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_let_go_is_fenced_and_holds_nobody_up() {
    let topic = TestTopic::new(2).await;
    topic.open().await.append(batch_of("default", &[1, 2, 3, 4, 5, 6, 7, 8], 10)).await.unwrap();
    let stubborn = topic.open_with(quick).await;
    let mut told = stubborn.join(SEARCH_INDEXER, Sharing::Partitions);
    let all = told.wait_for(|assignment| assignment.is_whole(2)).await.unwrap().clone();
    let other = topic.open_with(quick).await;
    let mut others = other.join(SEARCH_INDEXER, Sharing::Partitions);
    let waited = tokio::time::timeout(
        Duration::from_secs(60),
        others.wait_for(|assignment| assignment.partitions.len() == 1),
    );
    let taken = *waited.await.unwrap().unwrap().partitions.keys().next().unwrap();
    let hold = Hold { partition: taken, since: all.partitions[&taken].since };
    let fenced = stubborn.commit_held(SEARCH_INDEXER, hold, 1).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced(of) if of == hold), "{fenced}");
    // Without a hold it is no better.
    let fenced = stubborn.commit(SEARCH_INDEXER, taken, 1).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced(of) if of.partition == taken), "{fenced}");
    assert_eq!(other.committed(SEARCH_INDEXER, taken).unwrap(), 0);
    // What it kept is still its own.
    let (hold, _) = told.borrow().holds().next().unwrap();
    assert_ne!(hold.partition, taken);
    let end = stubborn.end(hold.partition).unwrap().next;
    stubborn.commit_held(SEARCH_INDEXER, hold, end).await.unwrap();
    at_last("the other process knows", || async {
        other.committed(SEARCH_INDEXER, hold.partition).unwrap() == end
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_read_alone_has_one_reader_and_the_next_one_takes_over() {
    let topic = TestTopic::new(PARTITIONS).await;
    let (first, second) = (topic.open_with(quick).await, topic.open_with(quick).await);
    let mut told = first.join(METRICS_AGGREGATOR, Sharing::Alone);
    told.wait_for(|assignment| assignment.is_whole(PARTITIONS)).await.unwrap();
    let since = told.borrow().generation;
    let mut others = second.join(METRICS_AGGREGATOR, Sharing::Alone);
    // Time for several looks: the one who stands by disturbs nobody.
    let waited = others.wait_for(|assignment| !assignment.partitions.is_empty());
    assert!(tokio::time::timeout(Duration::from_secs(5), waited).await.is_err());
    assert_eq!(told.borrow().generation, since);
    first.close().await.unwrap();
    let waited = others.wait_for(|assignment| assignment.is_whole(PARTITIONS));
    tokio::time::timeout(Duration::from_secs(60), waited).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_want_a_group_alone_at_the_same_moment_agree_in_the_end() {
    let topic = TestTopic::new(2).await;
    let (one, other) = (topic.open_with(quick).await, topic.open_with(quick).await);
    let told = one.join(METRICS_AGGREGATOR, Sharing::Alone);
    let others = other.join(METRICS_AGGREGATOR, Sharing::Alone);
    at_last("one of them has all", || async {
        told.borrow().is_whole(2) != others.borrow().is_whole(2)
    })
    .await;
    at_last("the other has nothing", || async {
        told.borrow().partitions.is_empty() != others.borrow().partitions.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_read_a_group_leaves_it_to_others_at_once_and_shares_it_again_when_it_can() {
    let topic = TestTopic::new(PARTITIONS).await;
    let patient = topic.open_with(|config| {
        quick(config);
        config.drain_timeout = Duration::from_secs(300);
    });
    let (first, second) = (patient.await, topic.open_with(quick).await);
    let told = first.join(SEARCH_INDEXER, Sharing::Partitions);
    at_last("it has all", || async { told.borrow().is_whole(PARTITIONS) }).await;
    let others = second.join(SEARCH_INDEXER, Sharing::Partitions);
    at_last("it is asked for some", || async {
        told.borrow().partitions.values().any(|share| share.is_leaving)
    })
    .await;
    assert!(others.borrow().partitions.is_empty(), "nobody releases them");
    first.leave(SEARCH_INDEXER);
    at_last("the other has all", || async {
        others.borrow().is_whole(PARTITIONS) && told.borrow().partitions.is_empty()
    })
    .await;
    drop(first.join(SEARCH_INDEXER, Sharing::Partitions));
    at_last("they share", || async {
        told.borrow().partitions.len() == 4 && others.borrow().partitions.len() == 4
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_name_gets_its_partitions_back_and_nobody_else_moves() {
    let topic = TestTopic::new(PARTITIONS).await;
    let open = |name: &'static str| {
        topic.open_with(move |config| {
            quick(config);
            config.session_timeout = Duration::from_secs(45);
            config.member = Some(name.to_owned());
        })
    };
    let (first, second) = (open("first").await, open("second").await);
    let told = first.join(SEARCH_INDEXER, Sharing::Partitions);
    let others = second.join(SEARCH_INDEXER, Sharing::Partitions);
    // Nobody reads, so that whoever is asked for a partition is waited for in vain.
    at_last("they share", || async {
        told.borrow().partitions.len() == 4 && others.borrow().partitions.len() == 4
    })
    .await;
    let before: Vec<u32> = told.borrow().partitions.keys().copied().collect();
    let kept = others.borrow().clone();
    first.close().await.unwrap();
    assert_eq!(members_of(&topic, SEARCH_INDEXER), ("Stable".to_owned(), 2), "its place is kept");
    let again = open("first").await;
    let told = again.join(SEARCH_INDEXER, Sharing::Partitions);
    at_last("it has its part again", || async { told.borrow().partitions.len() == 4 }).await;
    let after: Vec<u32> = told.borrow().partitions.keys().copied().collect();
    assert_eq!((after, others.borrow().clone()), (before, kept));
    // One without a name gives its place up at once.
    let third = topic.open_with(quick).await;
    let told = third.join(SEARCH_INDEXER, Sharing::Partitions);
    at_last("it has some", || async { !told.borrow().partitions.is_empty() }).await;
    assert_eq!(members_of(&topic, SEARCH_INDEXER).1, 3);
    third.close().await.unwrap();
    at_last("it is gone", || async { members_of(&topic, SEARCH_INDEXER).1 == 2 }).await;
}

/// A group's state and how many members it has, as the brokers say.
fn members_of(topic: &TestTopic, group: GroupId) -> (String, usize) {
    let client: BaseConsumer = topic.client().create().unwrap();
    let name = topic.config.group_name(group);
    let found = client.fetch_group_list(Some(&name), Duration::from_secs(30)).unwrap();
    let group = &found.groups()[0];
    (group.state().to_owned(), group.members().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_assigned_is_a_metric() {
    let topic = TestTopic::new(PARTITIONS).await;
    let log = topic.open_with(quick).await;
    let mut told = log.join(SEARCH_INDEXER, Sharing::Partitions);
    told.wait_for(|assignment| assignment.is_whole(PARTITIONS)).await.unwrap();
    at_last("both are metrics", || async {
        let mut registry = prometheus_client::registry::Registry::default();
        log.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("assigned_partitions{group=\"search-indexer\"} 8")
            && text.contains("rebalances_total{group=\"search-indexer\"} 1")
    })
    .await;
}
