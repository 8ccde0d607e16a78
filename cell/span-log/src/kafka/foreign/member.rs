//! The client that is a member of the group: its settings, what happens when partitions come and go,
//! and what is read of a message. It must never give a partition up before what is settled of it is
//! committed, unless it is lost already.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _, Timestamp};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use trace_model::UnixNanos;

use super::super::client::{Voice, guarded, member, number_of, offset_at};
use super::super::config::KafkaConfig;
use super::super::error::KafkaOpenError;
use super::Shared;
use super::ledger::{Key, Ledger};
use crate::foreign::FOREIGN_SPANS;

/// Fetched ahead, over all partitions.
const FETCH_BYTES: usize = 8 << 20;

pub(super) fn client(config: &KafkaConfig) -> Result<ClientConfig, KafkaOpenError> {
    let mut client = member(config, &config.group_name(FOREIGN_SPANS), (&config.client_id, true))?;
    // What lay in the topic before the group was there is wanted as well.
    client.set("auto.offset.reset", "earliest");
    client.set("check.crcs", "true");
    client.set("queued.max.messages.kbytes", (FETCH_BYTES >> 10).to_string());
    client.set("fetch.max.bytes", FETCH_BYTES.to_string());
    client.set("fetch.wait.max.ms", "100");
    client.set("fetch.error.backoff.ms", "100");
    Ok(client)
}

pub(super) type ForeignConsumer = BaseConsumer<Context>;

/// What the callbacks work with; they run on the thread that polls.
pub(super) struct Context {
    pub(super) voice: Voice,
    pub(super) shared: Arc<Shared>,
    pub(super) drain_timeout: Duration,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let keys = keys_of(list);
        let is_given = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let done = if is_given {
            self.shared.ledger.add(&keys);
            // New ones are not paused: without room all of them are, once more.
            self.shared.is_paused.store(false, Ordering::Relaxed);
            consumer.incremental_assign(list)
        } else {
            self.give_up(consumer, &keys);
            consumer.incremental_unassign(list)
        };
        match done {
            Ok(()) if keys.is_empty() => {}
            Ok(()) => {
                let partitions = keys.len();
                tracing::info!(
                    is_given,
                    partitions,
                    "partitions of foreign topics were rebalanced"
                );
            }
            Err(error) => tracing::error!(%error, "foreign topics were not rebalanced"),
        }
    }
}

impl Context {
    /// Partitions are taken: what is in hand is waited for and committed, unless they are lost.
    fn give_up(&self, consumer: &ForeignConsumer, keys: &[Key]) {
        if !consumer.assignment_lost() {
            self.shared.ledger.wait_for_settled(keys, self.drain_timeout);
            if let Err(error) = commit(consumer, &self.shared.ledger) {
                tracing::warn!(%error, "the last commits of foreign records were not written: they are read again");
            }
        }
        self.shared.ledger.remove(keys);
    }
}

fn keys_of(list: &TopicPartitionList) -> Vec<Key> {
    let key = |(topic, number): (&str, i32)| Some((topic.into(), u32::try_from(number).ok()?));
    let elements = list.elements();
    elements.iter().filter_map(|one| key((one.topic(), one.partition()))).collect()
}

pub(super) fn list_of(keys: &[(Key, Offset)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in keys {
        list.add_partition_offset(topic, number_of(*partition), *offset)?;
    }
    Ok(list)
}

/// Writes what is settled. Blocks.
pub(super) fn commit(consumer: &ForeignConsumer, ledger: &Ledger) -> Result<(), KafkaError> {
    let due = ledger.due();
    if due.is_empty() {
        return Ok(());
    }
    let offsets: Vec<(Key, Offset)> =
        due.iter().map(|(key, next)| (key.clone(), offset_at(*next))).collect();
    consumer.commit(&list_of(&offsets)?, CommitMode::Sync)?;
    ledger.committed(&due);
    Ok(())
}

pub(super) fn note_failure(error: &KafkaError, is_failing: &mut bool) {
    let is_lasting = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
        )
    ) || matches!(error, KafkaError::MessageConsumptionFatal(_));
    if is_lasting && !*is_failing {
        *is_failing = true;
        tracing::error!(%error, "foreign records are not read; told once until some are");
        return;
    }
    tracing::debug!(%error, "foreign records are waited for");
}

pub(super) fn time_of(timestamp: Timestamp) -> Option<UnixNanos> {
    let millis = match timestamp {
        Timestamp::LogAppendTime(millis) | Timestamp::CreateTime(millis) => millis,
        Timestamp::NotAvailable => return None,
    };
    u64::try_from(millis).ok().filter(|millis| *millis > 0).map(UnixNanos::from_millis)
}

/// The values of a header. One whose name is no text hides those behind it: the client library cannot
/// step over it.
pub(super) fn values_of(message: &BorrowedMessage<'_>, name: &str) -> Vec<Bytes> {
    let values = guarded(|| {
        let headers = message.headers()?;
        let all = (0..headers.count()).filter_map(|place| headers.try_get(place));
        let named = all.filter(|header| header.key.eq_ignore_ascii_case(name));
        Some(named.map(|header| Bytes::copy_from_slice(header.value.unwrap_or(&[]))).collect())
    });
    values.unwrap_or_default()
}
