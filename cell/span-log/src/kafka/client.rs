//! How the clients of librdkafka are made, and where what they say goes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::error::KafkaOpenError;

/// Whether any broker can be reached, as the clients of one log find it. Said once, not at every
/// try.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reachable {
    is_lost: Arc<AtomicBool>,
    /// Why a connection failed last.
    why: Arc<Mutex<Option<String>>>,
}

impl Reachable {
    fn lost(&self, reason: &str) {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            let why = self.why().unwrap_or_default();
            tracing::warn!(reason, why, "no broker of the span log can be reached");
        }
    }

    fn failed(&self, why: &str) {
        // In front stands the client's thread.
        let why = why.split_once("]: ").map_or(why, |(_, why)| why);
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// Why a connection failed last, in the client's words: refused, a certificate, a login.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A broker has answered.
    pub(crate) fn found(&self) {
        if self.is_lost.load(Ordering::Relaxed) && self.is_lost.swap(false, Ordering::Relaxed) {
            tracing::info!("the brokers of the span log answer again");
        }
    }
}

/// Takes what a client says. librdkafka says a lot while it reconnects; what a person has to know
/// is told by [`Reachable`] and by whoever's call fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct Voice {
    pub(crate) reachable: Reachable,
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            self.reachable.failed(message);
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "the Kafka client is in trouble");
            }
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.reachable.lost(reason);
        }
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Voice {}

/// A consumer of ours.
pub(crate) type Consumer = BaseConsumer<Voice>;

/// The least that librdkafka takes for setting a connection up.
const SETUP_MIN: Duration = Duration::from_secs(1);

/// What all clients share: brokers, security, patience.
pub(crate) fn base(config: &KafkaConfig) -> Result<ClientConfig, KafkaOpenError> {
    let mut client = ClientConfig::new();
    // A broker that comes back is found within a second, a leader that moved within five.
    client.set("reconnect.backoff.max.ms", "1000");
    client.set("topic.metadata.refresh.interval.ms", "5000");
    client.set("socket.keepalive.enable", "true");
    client.set("socket.timeout.ms", millis(config.request_timeout));
    // A host that takes no connections is tried anew instead of at the kernel's growing intervals.
    client.set("socket.connection.setup.timeout.ms", millis(config.request_timeout.max(SETUP_MIN)));
    for (key, value) in &config.properties {
        client.set(key, value);
    }
    config.security.set(&mut client)?;
    if config.properties.contains_key("debug") {
        // Else the library leaves out what it was told to say.
        client.set_log_level(RDKafkaLogLevel::Debug);
    }
    client.set("bootstrap.servers", config.brokers.join(","));
    client.set("client.id", &config.client_id);
    client.set("allow.auto.create.topics", "false");
    Ok(client)
}

/// A consumer for questions to the brokers; in a group, also for its commits.
pub(crate) fn asker(
    config: &KafkaConfig,
    group: Option<&str>,
    voice: &Voice,
) -> Result<Consumer, KafkaOpenError> {
    let mut client = base(config)?;
    if let Some(group) = group {
        client.set("group.id", group);
        client.set("session.timeout.ms", "10000");
    }
    consumer(client, voice)
}

/// So many fetches fill what a lane fetches ahead in a partition.
const FETCHES_A_LANE: usize = 8;

/// A consumer that is told what to read.
pub(crate) fn lane(config: &KafkaConfig, voice: &Voice) -> Result<Consumer, KafkaOpenError> {
    let mut client = base(config)?;
    client.set("group.id", format!("{}farspan-reader", config.prefix));
    client.set("auto.offset.reset", "error");
    // A foreign transaction that stays open must not hold our records back.
    client.set("isolation.level", "read_uncommitted");
    client.set("check.crcs", "true");
    client.set("enable.partition.eof", "true");
    let kilobytes = (config.lane_bytes_max >> 10).max(1);
    client.set("queued.max.messages.kbytes", kilobytes.to_string());
    // What one fetch brings of a partition is decompressed whole, and may be ten times as much then: small ones. A
    // record that is larger comes all the same.
    let fetched = (config.lane_bytes_max / FETCHES_A_LANE).max(1 << 10);
    client.set("fetch.message.max.bytes", fetched.to_string());
    client.set("fetch.queue.backoff.ms", "20");
    // A place that is asked for is fetched when the fetch that waits at the end has come back.
    client.set("fetch.wait.max.ms", "100");
    client.set("fetch.error.backoff.ms", "100");
    consumer(client, voice)
}

/// A consumer that looks at the first record of each partition that it is given.
pub(crate) fn first_records(
    config: &KafkaConfig,
    voice: &Voice,
) -> Result<Consumer, KafkaOpenError> {
    let mut client = base(config)?;
    client.set("group.id", format!("{}farspan-reader", config.prefix));
    client.set("auto.offset.reset", "earliest");
    client.set("fetch.message.max.bytes", "65536");
    client.set("queued.max.messages.kbytes", "64");
    client.set("fetch.wait.max.ms", "100");
    consumer(client, voice)
}

/// A member of a group: it holds partitions and fetches nothing.
pub(crate) fn member(
    config: &KafkaConfig,
    group: &str,
    (client_id, is_static): (&str, bool),
) -> Result<ClientConfig, KafkaOpenError> {
    let mut client = base(config)?;
    client.set("client.id", client_id);
    client.set("group.id", group);
    if let Some(name) = config.member.as_ref().filter(|_| is_static) {
        client.set("group.instance.id", name);
    }
    client.set("partition.assignment.strategy", "cooperative-sticky");
    client.set("session.timeout.ms", millis(config.session_timeout));
    // Others' rebalances are heard of with a heartbeat.
    let heartbeat = (config.session_timeout / 6).min(Duration::from_secs(2));
    client.set("heartbeat.interval.ms", millis(heartbeat));
    let drained = config.drain_timeout.saturating_add(config.request_timeout).saturating_mul(2);
    client
        .set("max.poll.interval.ms", millis(drained.max(config.session_timeout.saturating_mul(2))));
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("auto.offset.reset", "latest");
    client.set("queued.max.messages.kbytes", "1");
    Ok(client)
}

fn consumer(mut client: ClientConfig, voice: &Voice) -> Result<Consumer, KafkaOpenError> {
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client
        .create_with_context(voice.clone())
        .map_err(|error| KafkaOpenError::Client(error.to_string()))
}

/// Milliseconds as librdkafka's properties want them: at least one.
pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().clamp(1, 1 << 30).to_string()
}

/// A partition's number on the wire.
pub(crate) fn number_of(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// An offset on the wire.
pub(crate) fn offset_at(offset: u64) -> Offset {
    Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// An offset from the wire; `None` for those that name no record.
pub(crate) fn offset_from(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        Offset::Beginning
        | Offset::End
        | Offset::Stored
        | Offset::Invalid
        | Offset::OffsetTail(_) => None,
    }
}

/// A list of these partitions, all at one place.
pub(crate) fn list_of(
    topic: &str,
    partitions: impl IntoIterator<Item = u32>,
    offset: Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, number_of(partition));
    }
    list.set_all_offsets(offset)?;
    Ok(list)
}

/// Reads text that others may have written and that the client library takes for UTF-8 without
/// looking: it panics where it is not.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}
