//! What lies in the topic: our records to strangers, and strangers' records to us.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use span_log::{LogError, SpanLog};

use super::cluster::{TestTopic, at_last, read_as_a_group};
use crate::batches::{batch, batch_of, tenant, trace};

fn no_headers() -> OwnedHeaders {
    OwnedHeaders::new()
}

fn our_header(value: &[u8]) -> OwnedHeaders {
    OwnedHeaders::new().insert(Header { key: "farspan", value: Some(value) })
}

fn our_key(number: u64) -> Vec<u8> {
    [trace(number).as_bytes().as_slice(), b"default"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_consumer_decodes_our_records_as_otlp() {
    let topic = TestTopic::new(2).await;
    let log = topic.open().await;
    log.append(batch(&[1, 2, 3, 4, 5])).await.unwrap();
    let mut client = topic.client();
    let consumer: BaseConsumer = client.set("group.id", "a-stranger").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..2 {
        list.add_partition_offset(&topic.name(), partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = BTreeMap::new();
    while found.len() < 5 {
        let message = consumer.poll(Duration::from_secs(30)).unwrap().unwrap();
        let read = TracesData::decode(message.payload().unwrap()).unwrap();
        let span = &read.resource_spans[0].scope_spans[0].spans[0];
        let key = message.key().unwrap();
        assert_eq!(&key[..16], span.trace_id.as_slice());
        assert_eq!(&key[16..], b"default");
        assert_eq!(message.headers().unwrap().get(0).key, "farspan");
        found.insert(span.trace_id.clone(), span.name.clone());
    }
    for number in 1..=5 {
        assert_eq!(found[trace(number).as_bytes().as_slice()].len(), 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_records_of_a_trace_lie_in_one_partition() {
    let topic = TestTopic::new(8).await;
    let log = topic.open().await;
    let mut partitions: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for _ in 0..3 {
        for number in 0..40 {
            let appended = log.append(batch(&[number])).await.unwrap();
            partitions.entry(number).or_default().push(appended.ranges[0].partition);
        }
    }
    assert!(partitions.values().all(|taken| taken.iter().all(|one| *one == taken[0])));
    let used: std::collections::BTreeSet<u32> = partitions.values().map(|taken| taken[0]).collect();
    assert!(used.len() > 4, "{used:?}");
    let appended = log.append(batch(&(0..40).collect::<Vec<_>>())).await.unwrap();
    assert_eq!(appended.ranges.iter().map(|range| range.next - range.first).sum::<u64>(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_larger_than_a_record_is_cut_and_comes_back_whole() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    let names = vec![7; 50];
    let large = batch_of("default", &names, 60_000);
    assert_eq!((large.traces().len(), large.spans().len()), (1, 50));
    let appended = log.append(large.clone()).await.unwrap();
    assert_eq!(appended.ranges.len(), 1);
    assert!((4..=6).contains(&appended.ranges[0].next), "{:?}", appended.ranges);
    let (mut at, mut found, mut digests) = (0, Vec::new(), std::collections::BTreeSet::new());
    while at < appended.ranges[0].next {
        for one in log.read(0, at, 64 << 20).await.unwrap() {
            at = one.range.next;
            found.extend(one.batch.spans().iter().map(|span| one.batch.bytes_of(span).to_vec()));
            assert!(digests.insert(one.batch.source().digest), "it would be dropped as a repeat");
        }
    }
    let sent: Vec<Vec<u8>> =
        large.spans().iter().map(|span| large.bytes_of(span).to_vec()).collect();
    assert!(found == sent, "{} spans of {}", found.len(), sent.len());
    let tail = log.tail(&tenant("default"), trace(7)).await.unwrap();
    assert_eq!(tail.spans.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_no_record_can_hold_is_refused_for_good() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    let refused = log.append(batch_of("default", &[1], 950_000)).await.unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { bytes_max: 900_000, .. }), "{refused}");
    assert!(!refused.is_retryable());
    // What the log says that it can keep it does keep.
    let bytes_max = log.span_bytes_max().unwrap();
    assert!((899_900..900_000).contains(&bytes_max), "{bytes_max}");
    let largest = batch_of("default", &[1], bytes_max - 32);
    assert_eq!(largest.bytes_of(&largest.spans()[0]).len(), bytes_max);
    assert_eq!(log.append(largest).await.unwrap().ranges[0].next, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_records_are_damage_and_stop_no_group() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1])).await.unwrap();
    topic.write_foreign(0, None, no_headers(), Some(b"no key")).await;
    topic.write_foreign(0, Some(b"a key"), no_headers(), None).await;
    log.append(batch(&[2])).await.unwrap();
    topic.write_foreign(0, Some(&our_key(3)), no_headers(), Some(b"no header")).await;
    topic.write_foreign(0, Some(&our_key(4)), our_header(b"\x01?"), Some(b"bad header")).await;
    topic.write_foreign(0, Some(&our_key(5)), our_header(b""), None).await;
    log.append(batch(&[6])).await.unwrap();
    let end = log.end(0).unwrap().next;
    assert_eq!(end, 8);
    for _ in 0..2 {
        let (traces, damage) = read_as_a_group(log.as_ref(), 0, 0, end).await;
        assert_eq!(traces, [(0, trace(1)), (3, trace(2)), (7, trace(6))]);
        let covered: u64 = damage.iter().map(|one| one.range.next - one.range.first).sum();
        assert_eq!(covered, 5, "{damage:?}");
        for one in &damage {
            assert!(one.append_times.0 > log.read(0, 0, 1).await.unwrap()[0].append_time);
        }
    }
    let listed: u64 = log.damaged().iter().map(|one| one.range.next - one.range.first).sum();
    assert_eq!(listed, 5);
    assert_eq!(log.metrics().damaged_records.get(), 5);
    for (number, is_damaged) in [(1, false), (2, false), (3, true), (4, true), (6, false)] {
        let tail = log.tail(&tenant("default"), trace(number)).await.unwrap();
        assert_eq!((tail.is_damaged, tail.is_behind), (is_damaged, false), "trace {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_release_is_waited_for() {
    let topic = TestTopic::new(1).await;
    let log = topic.open_with(|config| config.cache_bytes_max = 0).await;
    log.append(batch(&[1])).await.unwrap();
    topic.write_foreign(0, Some(&our_key(2)), our_header(&[2, 0, 0]), Some(b"future")).await;
    at_last("the end is known", || async { log.end(0).unwrap().next == 2 }).await;
    log.append(batch(&[3])).await.unwrap();
    for _ in 0..3 {
        let read = log.read(0, 0, 1 << 20).await.unwrap();
        assert_eq!(read.last().unwrap().range.next, 1);
        let refused = log.read(0, 1, 1 << 20).await.unwrap_err();
        assert!(
            refused.is_retryable() && refused.to_string().contains("newer release"),
            "{refused}"
        );
    }
    assert!(log.damaged().is_empty());
    let tail = log.tail(&tenant("default"), trace(3)).await.unwrap();
    assert!(tail.is_behind && tail.spans.is_empty());
    assert_eq!(tail.covered.next[&0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marks_of_a_foreign_transaction_are_stepped_over_by_name() {
    let topic = TestTopic::new(1).await;
    let log = topic.open().await;
    log.append(batch(&[1])).await.unwrap();
    let mut client = topic.client();
    client.set("transactional.id", topic.name());
    let name = topic.name();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = client.create().unwrap();
        let timeout = Duration::from_secs(30);
        producer.init_transactions(timeout).unwrap();
        for is_committed in [true, false] {
            producer.begin_transaction().unwrap();
            let record = BaseRecord::<[u8], [u8]>::to(&name).partition(0).payload(b"foreign");
            assert!(producer.send(record).is_ok());
            producer.flush(timeout).unwrap();
            if is_committed {
                producer.commit_transaction(timeout).unwrap();
            } else {
                producer.abort_transaction(timeout).unwrap();
            }
        }
    })
    .await
    .unwrap();
    at_last("the end is known", || async { log.end(0).unwrap().next == 5 }).await;
    // Record, record, mark, record, mark: the last mark has nothing behind it.
    let (traces, damage) = read_as_a_group(log.as_ref(), 0, 0, 5).await;
    assert_eq!(traces, [(0, trace(1))]);
    assert_eq!(damage.iter().map(|one| one.range.next - one.range.first).sum::<u64>(), 4);
    log.append(batch(&[2])).await.unwrap();
    let (traces, _) = read_as_a_group(log.as_ref(), 0, 0, 6).await;
    assert_eq!(traces, [(0, trace(1)), (5, trace(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_taken_is_expired_by_name() {
    let topic = TestTopic::new(1).await;
    let log = topic.open_with(|config| config.cache_bytes_max = 0).await;
    for number in 0..10 {
        log.append(batch(&[number])).await.unwrap();
    }
    assert_eq!(log.read(0, 0, 1).await.unwrap()[0].range.first, 0);
    topic.let_go(6).await;
    let group = span_log::GroupId("late");
    let expired = log.read(0, 3, 1).await.unwrap_err();
    assert!(matches!(expired, LogError::Expired { wanted: 3, first: 6 }), "{expired}");
    assert_eq!(log.committed(group, 0).unwrap(), 6);
    let (traces, damage) = read_as_a_group(log.as_ref(), 0, 6, 10).await;
    assert_eq!((traces.len(), damage.len()), (4, 0));
}
