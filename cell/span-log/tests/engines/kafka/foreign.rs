//! Topics of others: what a group is given of them, and what it commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use span_log::kafka::{ForeignLimits, ForeignTopics, KafkaForeign};
use span_log::{ForeignRecord, ForeignRecords, KafkaConfig};

use super::cluster::{at_last, brokers, clock, patient};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// A topic of somebody else.
struct Foreign {
    config: KafkaConfig,
    topic: String,
}

impl Foreign {
    async fn new(partitions: i32) -> Self {
        let made = super::cluster::TestTopic::unmade(brokers());
        let topic = format!("{}otlp_spans", made.config.prefix);
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let created = made.admin().create_topics([&new], &patient()).await.unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        Self { config: made.config, topic }
    }

    fn producer(&self, codec: &str) -> FutureProducer {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", self.config.brokers.join(","));
        client.set("compression.codec", codec).create().unwrap()
    }

    async fn write(&self, producer: &FutureProducer, payload: &[u8]) {
        let value = Header { key: "x-scope-orgid", value: Some("acme") };
        let headers = OwnedHeaders::new().insert(value);
        let record = FutureRecord::<[u8], [u8]>::to(&self.topic).payload(payload).headers(headers);
        producer.send(record, Duration::from_secs(30)).await.unwrap();
    }

    fn open(&self, limits: ForeignLimits) -> Arc<KafkaForeign> {
        let topics = ForeignTopics {
            topics: vec![self.topic.clone()],
            header: Some("X-Scope-OrgID".to_owned()),
            limits,
        };
        KafkaForeign::open(&self.config, topics, clock()).unwrap()
    }

    /// What the group has committed, over all partitions.
    fn committed(&self, partitions: i32) -> i64 {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", self.config.brokers.join(","));
        client.set("group.id", format!("{}foreign-spans", self.config.prefix));
        let consumer: BaseConsumer = client.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(&self.topic, partition);
        }
        let found = consumer.committed_offsets(list, Duration::from_secs(30)).unwrap();
        found.elements().iter().filter_map(|one| one.offset().to_raw()).filter(|one| *one > 0).sum()
    }
}

/// A request of so many traces, one span each.
fn request(number: u8, traces: u8) -> Vec<u8> {
    let span = |trace: u8| Span {
        trace_id: [&[number, trace][..], &[7; 14]].concat(),
        span_id: vec![number | 1; 8],
        name: "compressed as far as it can be, ".repeat(8),
        ..Span::default()
    };
    let scope_spans =
        vec![ScopeSpans { spans: (0..traces).map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

async fn next(source: &KafkaForeign) -> ForeignRecord {
    let next = tokio::time::timeout(Duration::from_secs(60), source.next());
    next.await.expect("a record comes").expect("the source is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_compression_come_as_they_were_written() {
    let foreign = Foreign::new(3).await;
    let mut sent = BTreeMap::new();
    for (number, codec) in (1..).zip(CODECS) {
        let producer = foreign.producer(codec);
        for more in 0..4 {
            let body = request(number * 10 + more, 50);
            foreign.write(&producer, &body).await;
            sent.insert(body, codec);
        }
    }
    let source = foreign.open(ForeignLimits::default());
    let mut records = Vec::new();
    while records.len() < 20 {
        let record = next(&source).await;
        let codec = sent.remove(record.payload.as_ref());
        assert!(codec.is_some(), "{} came twice or changed", record.place);
        assert_eq!((record.key.is_none(), record.header[0].as_ref()), (true, &b"acme"[..]));
        assert!(record.time.is_some());
        records.push(record);
    }
    at_last("the lag is known", || async { source.figures().lag_records == 20 }).await;
    records.iter().for_each(|record| source.settle(&record.place));
    at_last("all is committed", || async { foreign.committed(3) == 20 }).await;
    at_last("nothing lags", || async { source.figures().lag_records == 0 }).await;
    assert_eq!(source.figures().partitions, 3);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_and_not_settled_comes_again_and_nothing_else() {
    let foreign = Foreign::new(1).await;
    let producer = foreign.producer("lz4");
    for number in 0..6 {
        foreign.write(&producer, &request(number, 1)).await;
    }
    let source = foreign.open(ForeignLimits::default());
    let mut records = Vec::new();
    for _ in 0..6 {
        records.push(next(&source).await);
    }
    // Settled out of order: the third holds all behind it up.
    for place in [1, 0, 5, 3] {
        source.settle(&records[place].place);
    }
    at_last("two are committed", || async { foreign.committed(1) == 2 }).await;
    // As after a kill: nobody settles the rest.
    source.close().await;
    let again = foreign.open(ForeignLimits::default());
    for offset in 2..6 {
        let record = next(&again).await;
        assert_eq!((record.place.offset, record.place.partition), (offset, 0));
        assert_eq!(record.payload, records[usize::try_from(offset).unwrap()].payload);
        again.settle(&record.place);
    }
    at_last("all are committed", || async { foreign.committed(1) == 6 }).await;
    again.close().await;
    assert!(again.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_reading_rests_and_goes_on_where_it_stopped() {
    let foreign = Foreign::new(2).await;
    let producer = foreign.producer("none");
    for number in 0..40 {
        foreign.write(&producer, &request(number, 1)).await;
    }
    let source = foreign.open(ForeignLimits { records_max: 4, bytes_max: 1 << 20 });
    let mut seen = std::collections::BTreeSet::new();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&source).await);
    }
    at_last("it rests", || async { source.figures().is_paused }).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), source.next()).await.is_err());
    while let Some(record) = held.pop() {
        assert!(seen.insert((record.place.partition, record.place.offset)), "{}", record.place);
        source.settle(&record.place);
        if seen.len() + held.len() < 40 {
            held.push(next(&source).await);
        }
    }
    assert_eq!(seen.len(), 40);
    at_last("all are committed", || async { foreign.committed(2) == 40 }).await;
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_while_reading_rests_rest_as_well() {
    let foreign = Foreign::new(2).await;
    let other = foreign.open(ForeignLimits::default());
    at_last("the other has all", || async { other.figures().partitions == 2 }).await;
    let one = foreign.open(ForeignLimits { records_max: 2, bytes_max: 1 << 20 });
    at_last("each has one", || async {
        one.figures().partitions == 1 && other.figures().partitions == 1
    })
    .await;
    let producer = foreign.producer("none");
    for number in 0..60 {
        foreign.write(&producer, &request(number, 1)).await;
    }
    let mut held = vec![next(&one).await, next(&one).await];
    at_last("it rests", || async { one.figures().is_paused }).await;
    other.close().await;
    at_last("it has all", || async { one.figures().partitions == 2 }).await;
    at_last("all rests", || async { one.figures().is_paused }).await;
    let more = tokio::time::timeout(Duration::from_millis(500), one.next()).await;
    assert!(more.is_err(), "{more:?}");
    let mut seen = std::collections::BTreeSet::new();
    while let Some(record) = held.pop() {
        assert!(seen.insert((record.place.partition, record.place.offset)), "{}", record.place);
        one.settle(&record.place);
        if seen.len() + held.len() < 60 {
            held.push(next(&one).await);
        }
    }
    at_last("all are committed", || async { foreign.committed(2) == 60 }).await;
    one.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_the_partitions_and_a_topic_that_comes_later_is_read() {
    let mut foreign = Foreign::new(4).await;
    let written = foreign.topic.clone();
    foreign.topic = format!("{written}-later");
    let later = foreign.open(ForeignLimits::default());
    foreign.topic = written;
    let (one, other) =
        (foreign.open(ForeignLimits::default()), foreign.open(ForeignLimits::default()));
    at_last("both have some", || async {
        let (one, other) = (one.figures().partitions, other.figures().partitions);
        one > 0 && other > 0 && one + other == 4
    })
    .await;
    one.close().await;
    at_last("the other has all", || async { other.figures().partitions == 4 }).await;
    other.close().await;
    let new = NewTopic::new("", 1, TopicReplication::Fixed(1));
    let name = format!("{}-later", foreign.topic);
    let new = NewTopic { name: &name, ..new };
    let admin: rdkafka::admin::AdminClient<_> = {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", foreign.config.brokers.join(",")).create().unwrap()
    };
    admin.create_topics([&new], &patient()).await.unwrap();
    foreign.topic = name;
    foreign.write(&foreign.producer("none"), &request(1, 1)).await;
    later.settle(&next(&later).await.place);
    later.close().await;
}
