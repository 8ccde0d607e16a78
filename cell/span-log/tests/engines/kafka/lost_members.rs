//! Members that are killed or stopped without a word, as processes of their own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use span_log::port::SEARCH_INDEXER;
use span_log::{Hold, KafkaConfig, KafkaLog, Sharing, SpanLog};
use tokio::task::JoinSet;

use super::cluster::{TestTopic, at_last, brokers};
use super::ledger::{Ledger, follow, follow_with};
use super::members::{SESSION, append_meanwhile, quick};

const PARTITIONS: u32 = 8;
const PREFIX: &str = "FARSPAN_TEST_MEMBER_OF";

/// A member in a process of its own. What it handles goes into the ledger before it is committed.
struct Other {
    child: Child,
    handled: Arc<AtomicU64>,
}

impl Other {
    /// The process runs the test of this name, which finds that it is the other one.
    fn start(topic: &TestTopic, ledger: &Arc<Ledger>, test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("kafka::lost_members::{test}"), "--nocapture"])
            .env(PREFIX, &topic.config.prefix)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, ledger) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(ledger));
        let handled = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&handled);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                let ["handled", partition, first, next] = words[..] else { continue };
                let (first, next) = (first.parse().unwrap(), next.parse().unwrap());
                ledger.note(partition.parse().unwrap(), first, next);
                count.fetch_add(next - first, Ordering::Relaxed);
            }
        });
        Self { child, handled }
    }

    fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The body of the other process, in which this gives `true` once it has ended: says what is handled,
/// and only then commits it.
async fn is_the_other_process() -> bool {
    #[expect(clippy::disallowed_methods, reason = "told by the test that has started it")]
    let Ok(prefix) = std::env::var(PREFIX) else { return false };
    let mut topic = TestTopic { config: KafkaConfig::at(vec![brokers()]) };
    topic.config.prefix = prefix;
    let log = topic.open_with(quick).await;
    let handle = |hold: Hold, first, next| {
        if first < next {
            let mut out = std::io::stdout().lock();
            write!(out, "\nhandled {} {first} {next}\n", hold.partition).unwrap();
            out.flush().unwrap();
        }
    };
    follow_with(log, handle, |_, _, _| {}).await;
    true
}

/// One member here and one elsewhere share a group under load.
struct Pair {
    topic: TestTopic,
    ledger: Arc<Ledger>,
    log: Arc<KafkaLog>,
    _reader: JoinSet<()>,
    other: Other,
}

impl Pair {
    async fn start(topic: TestTopic, test: &str) -> Self {
        let ledger = Arc::new(Ledger::default());
        let log = topic.open_with(quick).await;
        let mut reader = JoinSet::new();
        reader.spawn(follow(Arc::clone(&log) as Arc<dyn SpanLog>, Arc::clone(&ledger)));
        let other = Other::start(&topic, &ledger, test);
        at_last("the other handles its part", || async { other.handled() > 200 }).await;
        Self { topic, ledger, log, _reader: reader, other }
    }

    fn held(&self) -> usize {
        let told = self.log.join(SEARCH_INDEXER, Sharing::Partitions);
        told.borrow().partitions.len()
    }

    /// Looks for so long that no commit runs ahead of what is handled.
    async fn watch_commits(&self, duration: Duration) {
        let log = self.topic.open_with(|config| config.tail = None).await;
        let watching = async {
            loop {
                self.ledger.check_commits(log.as_ref());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(duration, watching).await.is_err());
        log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_killed_member_are_taken_over_and_no_record_is_left_out() {
    const THIS: &str = "the_partitions_of_a_killed_member_are_taken_over_and_no_record_is_left_out";
    if is_the_other_process().await {
        return;
    }
    let topic = TestTopic::new(PARTITIONS).await;
    let killing = async {
        let mut pair = Pair::start(topic.clone(), THIS).await;
        assert_eq!(pair.held(), 4);
        pair.other.child.kill().unwrap();
        pair.watch_commits(SESSION + Duration::from_secs(2)).await;
        at_last("all are taken over", || async { pair.held() == 8 }).await;
        pair
    };
    let (pair, ends) = append_meanwhile(&topic, killing).await;
    at_last("all is handled", || async { pair.ledger.has_all(&ends) }).await;
    pair.watch_commits(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_wakes_after_it_was_given_up_commits_nothing_and_joins_again() {
    const THIS: &str = "a_member_that_wakes_after_it_was_given_up_commits_nothing_and_joins_again";
    if is_the_other_process().await {
        return;
    }
    let topic = TestTopic::new(PARTITIONS).await;
    let stopping = async {
        let pair = Pair::start(topic.clone(), THIS).await;
        pair.other.signal("-STOP");
        at_last("all are taken over", || async { pair.held() == 8 }).await;
        let before = pair.other.handled();
        pair.other.signal("-CONT");
        pair.watch_commits(Duration::from_secs(4)).await;
        at_last("it has its part again", || async { pair.held() == 4 }).await;
        at_last("and reads it", || async { pair.other.handled() > before + 200 }).await;
        pair.watch_commits(Duration::from_secs(1)).await;
        pair
    };
    let (pair, ends) = append_meanwhile(&topic, stopping).await;
    at_last("all is handled", || async { pair.ledger.has_all(&ends) }).await;
    // It handles again at most what it held in its hands.
    assert!(pair.ledger.repeats() < 2_000, "{}", pair.ledger.repeats());
}
