//! The brokers under test, topics of a test's own on them, and records that are not ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use service_kit::SystemClock;
use span_log::kafka::TopicSettings;
use span_log::{DamagedRange, KafkaConfig, KafkaLog, LogError, Seen, SpanLog};
use trace_model::{Clock, TraceId};

/// Where the brokers are.
pub(crate) fn brokers() -> String {
    #[expect(clippy::disallowed_methods, reason = "a test of a real engine is told where it is")]
    let address = std::env::var("FARSPAN_TEST_KAFKA");
    address.expect(
        "FARSPAN_TEST_KAFKA is not set: run `tests/engines/kafka.sh install`, `start` and `wait`, \
         then set it to what `wait` printed, e.g. 127.0.0.1:19092",
    )
}

/// A number that no other test of any run has.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let place = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemClock::new().now().millis();
    format!("test-{now}-{}-{place}-", std::process::id())
}

pub(crate) fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

/// A topic of a test's own.
#[derive(Clone, Debug)]
pub(crate) struct TestTopic {
    pub(crate) config: KafkaConfig,
}

impl TestTopic {
    /// A new topic with so many partitions.
    pub(crate) async fn new(partitions: u32) -> Self {
        Self::at(brokers(), partitions).await
    }

    /// A new topic at these brokers.
    pub(crate) async fn at(brokers: String, partitions: u32) -> Self {
        let topic = Self::unmade(brokers);
        topic.create(partitions).await;
        topic
    }

    /// A name of its own at these brokers, and no topic yet.
    pub(crate) fn unmade(brokers: String) -> Self {
        let mut config = KafkaConfig::at(vec![brokers]);
        config.prefix = unique();
        Self { config }
    }

    pub(crate) fn name(&self) -> String {
        self.config.topic_name()
    }

    pub(crate) async fn create(&self, partitions: u32) {
        let settings = TopicSettings { partitions, ..TopicSettings::default() };
        KafkaLog::init(&self.config, &settings).await.unwrap();
    }

    pub(crate) async fn open(&self) -> Arc<KafkaLog> {
        self.open_with(|_| {}).await
    }

    pub(crate) async fn open_with(&self, change: impl FnOnce(&mut KafkaConfig)) -> Arc<KafkaLog> {
        let mut config = self.config.clone();
        change(&mut config);
        KafkaLog::open(config, Seen::default(), clock()).await.unwrap()
    }

    /// A plain client of these brokers.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.config.brokers.join(","));
        client
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    pub(crate) async fn delete(&self) {
        let deleted = self.admin();
        let deleted = deleted.delete_topics(&[&self.name()], &patient()).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        at_last("the topic is gone", || async { self.partitions() == 0 }).await;
    }

    /// Retention takes what lies below this offset of the first partition.
    pub(crate) async fn let_go(&self, first: i64) {
        let mut until = TopicPartitionList::new();
        until.add_partition_offset(&self.name(), 0, Offset::Offset(first)).unwrap();
        self.admin().delete_records(&until, &patient()).await.unwrap();
    }

    /// Partitions that the brokers name; 0 where there is no topic.
    pub(crate) fn partitions(&self) -> usize {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name()), Duration::from_secs(30));
        metadata.unwrap().topics().iter().map(|topic| topic.partitions().len()).sum()
    }

    /// Writes a record as another program would.
    pub(crate) async fn write_foreign(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        headers: OwnedHeaders,
        payload: Option<&[u8]>,
    ) {
        let producer: FutureProducer = self.client().create().unwrap();
        let topic = self.name();
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic).partition(partition);
        record.key = key;
        record.payload = payload;
        let sent = producer.send(record.headers(headers), Duration::from_secs(30)).await;
        sent.unwrap();
    }
}

pub(crate) fn patient() -> AdminOptions {
    let timeout = Some(Duration::from_secs(30));
    AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
}

/// What a group meets in a partition from an offset on, as its runner does: traces with their
/// offsets, and damage.
pub(crate) async fn read_as_a_group(
    log: &dyn SpanLog,
    partition: u32,
    from: u64,
    until: u64,
) -> (Vec<(u64, TraceId)>, Vec<DamagedRange>) {
    let (mut at, mut traces, mut damage) = (from, Vec::new(), Vec::new());
    while at < until {
        match log.read(partition, at, 1 << 20).await {
            Ok(batches) => {
                assert!(!batches.is_empty(), "nothing at {at} of {until}");
                for logged in batches {
                    let numbered = (logged.range.first..).zip(logged.batch.traces());
                    traces.extend(numbered.map(|(offset, trace)| (offset, trace.trace_id)));
                    at = logged.range.next;
                }
            }
            Err(LogError::Damaged(damaged)) => {
                assert!(damaged.range.next > at, "{damaged:?} at {at}");
                at = damaged.range.next;
                damage.push(damaged);
            }
            Err(error) => panic!("{error} at {at}"),
        }
    }
    (traces, damage)
}

/// Waits for a condition that takes a question, at most 90 seconds.
pub(crate) async fn at_last<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::timeout(Duration::from_secs(90), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(deadline.await.is_ok(), "never came true: {what}");
}
