//! A broker that is killed in the middle of appends. It is a broker of this test's own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use span_log::port::SEARCH_INDEXER;
use span_log::{Assignment, KafkaLog, LogError, Sharing, SpanLog};
use tokio::sync::watch;
use trace_model::{Clock, TraceId};

use super::cluster::{TestTopic, at_last, clock, read_as_a_group};
use super::ledger::{Ledger as Handled, follow};
use super::members::{SESSION, quick};
use crate::batches::{batch_of, tenant, trace};

#[path = "../../../../../tests/system/ports.rs"]
mod ports;

use ports::free_run;

/// A broker that a test may kill.
pub(super) struct OwnBroker {
    name: String,
    pub(super) port: u16,
    settings: Vec<(&'static str, String)>,
}

impl OwnBroker {
    fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With more settings of the script, given the first of a hundred ports.
    pub(super) fn start_with(settings: impl FnOnce(u16) -> Vec<(&'static str, String)>) -> Self {
        // The controller takes the port that is 100 higher.
        let port = free_run(101);
        let name = format!("restart-{}-{port}", std::process::id());
        let broker = Self { name, port, settings: settings(port) };
        broker.script(&["start"]);
        broker.script(&["wait", "180"]);
        broker
    }

    fn script(&self, arguments: &[&str]) -> String {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(root.join("tests/engines/kafka.sh"));
        let output = command
            .args(arguments)
            .env("KAFKA_NAME", &self.name)
            .env("KAFKA_PORT", self.port.to_string())
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// One that is killed is gone when this returns.
    fn signal(&self, signal: &str) {
        let status = self.script(&["status"]);
        let pid = status.split_whitespace().nth(3).unwrap();
        assert!(Command::new("kill").args([signal, pid]).status().unwrap().success(), "{status}");
        let deadline = Instant::now() + Duration::from_secs(30);
        while signal == "-9" && self.script(&["status"]).split_whitespace().nth(3) == Some(pid) {
            assert!(Instant::now() < deadline, "{pid} does not die");
        }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.script(&["wipe"]);
    }
}

/// What the senders have been told.
#[derive(Default)]
struct Ledger {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    is_over: AtomicBool,
}

/// Appends traces of its own one by one, each until it is acknowledged, and gives them.
async fn send(log: Arc<dyn SpanLog>, ledger: Arc<Ledger>, sender: u64) -> Vec<TraceId> {
    let mut acknowledged = Vec::new();
    let mut number = sender * 1_000_000;
    while !ledger.is_over.load(Ordering::Relaxed) {
        let started = clock().monotonic();
        match log.append(batch_of("default", &[number, number + 1], 400)).await {
            Ok(_) => {
                acknowledged.extend([trace(number), trace(number + 1)]);
                ledger.acknowledged.fetch_add(1, Ordering::Relaxed);
                number += 2;
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                ledger.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let waited = clock().monotonic().saturating_sub(started);
        assert!(waited < Duration::from_secs(12), "an append took {waited:?}");
    }
    acknowledged
}

async fn grows(what: &str, counter: &AtomicU64, by: u64) {
    let wanted = counter.load(Ordering::Relaxed) + by;
    at_last(what, || async { counter.load(Ordering::Relaxed) >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_in_mid_append_loses_nothing_acknowledged_and_the_log_recovers() {
    let broker = OwnBroker::start();
    let topic = TestTopic::at(broker.address(), 4).await;
    let log = topic
        .open_with(|config| {
            config.append_timeout = Duration::from_secs(5);
            config.request_timeout = Duration::from_secs(2);
        })
        .await;
    let identity = log.identity();
    let ledger = Arc::new(Ledger::default());
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4 {
        senders.spawn(send(log.clone(), Arc::clone(&ledger), sender));
    }
    grows("appends are acknowledged", &ledger.acknowledged, 50).await;
    for signal in ["-9", "-9"] {
        broker.signal(signal);
        grows("appends are refused while the broker is away", &ledger.refused, 4).await;
        let unavailable = log.append(batch_of("default", &[9], 10)).await.unwrap_err();
        assert!(matches!(unavailable, LogError::Unavailable(_)), "{unavailable}");
        broker.script(&["start"]);
        broker.script(&["wait", "180"]);
        grows("the log takes appends again", &ledger.acknowledged, 50).await;
    }
    ledger.is_over.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    while let Some(sent) = senders.join_next().await {
        acknowledged.extend(sent.unwrap());
    }
    let mut kept = BTreeSet::new();
    for partition in 0..4 {
        let end = log.end(partition).unwrap().next;
        let (traces, damage) = read_as_a_group(log.as_ref(), partition, 0, end).await;
        assert!(damage.is_empty(), "{damage:?}");
        kept.extend(traces.into_iter().map(|(_, trace_id)| trace_id));
    }
    let lost: Vec<_> = acknowledged.difference(&kept).collect();
    assert!(lost.is_empty(), "{} of {} lost", lost.len(), acknowledged.len());
    for trace_id in acknowledged.iter().take(20) {
        let tail = log.tail(&tenant("default"), *trace_id).await.unwrap();
        assert!(!tail.spans.is_empty() && !tail.is_damaged && !tail.is_behind);
    }
    log.close().await.unwrap();
    assert_eq!(topic.open().await.identity(), identity);
}

/// Members of a group that share its partitions, and the broker that they lose.
struct Shared {
    topic: TestTopic,
    handled: Arc<Handled>,
    readers: tokio::task::JoinSet<()>,
    members: Vec<(Arc<KafkaLog>, watch::Receiver<Assignment>)>,
    sender: Arc<KafkaLog>,
    sent: u64,
}

impl Shared {
    async fn start(broker: &OwnBroker, members: usize) -> Self {
        let topic = TestTopic::at(broker.address(), 4).await;
        let sender = topic.open().await;
        let mut shared = Self {
            topic,
            handled: Arc::default(),
            readers: tokio::task::JoinSet::new(),
            members: Vec::new(),
            sender,
            sent: 0,
        };
        for _ in 0..members {
            shared.one_more().await;
        }
        shared.share("they share").await;
        shared
    }

    /// One more joins: from then on the group is rebalanced, until all have been given their part.
    async fn one_more(&mut self) {
        let log = self.topic.open_with(quick).await;
        self.readers.spawn(follow(log.clone(), Arc::clone(&self.handled)));
        self.members.push((log.clone(), log.join(SEARCH_INDEXER, Sharing::Partitions)));
    }

    async fn share(&self, what: &str) {
        at_last(what, || async {
            let held = self.members.iter().map(|(_, told)| told.borrow().partitions.len());
            let held: Vec<usize> = held.collect();
            held.iter().sum::<usize>() == 4 && held.iter().all(|partitions| *partitions > 0)
        })
        .await;
    }

    async fn append(&mut self) {
        for number in self.sent..self.sent + 200 {
            self.sender.append(batch_of("default", &[number], 100)).await.unwrap();
        }
        self.sent += 200;
    }

    /// No broker until every session is long over: the members have given up what they held, but for
    /// one that was asking to be let in again. Such a one holds it until a broker tells it otherwise,
    /// and its commits are refused meanwhile.
    async fn without(&self, broker: &OwnBroker) {
        broker.signal("-9");
        let all_are_out = async {
            for (_, told) in &self.members {
                let mut told = told.clone();
                told.wait_for(|assignment| assignment.partitions.is_empty()).await.unwrap();
            }
        };
        drop(tokio::time::timeout(2 * SESSION, all_are_out).await);
        broker.script(&["start"]);
        broker.script(&["wait", "180"]);
    }

    async fn all_is_handled_and_committed(&self) {
        let ends =
            (0..4).map(|partition| (partition, self.sender.end(partition).unwrap().next)).collect();
        at_last("all is handled", || async { self.handled.has_all(&ends) }).await;
        self.handled.check_commits(self.sender.as_ref());
        at_last("and committed", || async {
            let committed = |partition| self.sender.committed(SEARCH_INDEXER, partition).unwrap();
            ends.iter().all(|(partition, end)| committed(*partition) == *end)
        })
        .await;
    }
}

/// Longer than a session: the brokers have given every member up, or do not know them any more.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_were_without_brokers_for_longer_than_a_session_go_on_with_every_record() {
    let broker = OwnBroker::start();
    let mut shared = Shared::start(&broker, 2).await;
    shared.append().await;
    shared.without(&broker).await;
    shared.share("they share again").await;
    shared.append().await;
    shared.all_is_handled_and_committed().await;
    // Now while partitions are on their way from one to another.
    shared.one_more().await;
    shared.without(&broker).await;
    shared.share("all three share").await;
    shared.append().await;
    shared.all_is_handled_and_committed().await;
}
