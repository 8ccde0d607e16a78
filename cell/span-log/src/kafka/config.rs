//! What a log on Kafka may use, keep and refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::KafkaOpenError;
use super::security::{self, KafkaSecurity};
use crate::port::{
    GroupId, METADATA_PUBLISHER, METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER,
};

/// Which topic a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KafkaTopic {
    /// What collectors append.
    #[default]
    SpansRaw,
    /// What the tail sampler keeps.
    SpansSampled,
}

impl KafkaTopic {
    /// Its name without the prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpansRaw => "spans-raw",
            Self::SpansSampled => "spans-sampled",
        }
    }
}

/// The live tail of a log on Kafka.
#[derive(Clone, Debug)]
pub struct KafkaTailConfig {
    /// Memory for records that storage-writer has not committed (default 256 MiB). What has no room
    /// goes to disk; of each record there about 200 bytes stay in memory, a quarter of this at most.
    pub bytes_max: usize,
    /// Where records go for which memory has no room. Without it, or where it is full too, the tail
    /// stops where it is, and its cover says so.
    pub disk: Option<KafkaTailDisk>,
    /// How long a read waits for the tail to reach the end of its partition (default 1 s).
    pub timeout: Duration,
    /// Records are kept for so long after storage-writer's commit, where there is room (default
    /// 5 s).
    pub grace: Duration,
}

/// Disk of the live tail. Nothing there outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTailDisk {
    /// The directory, made where it is not there.
    pub directory: std::path::PathBuf,
    /// Bytes at most.
    pub bytes_max: u64,
}

impl Default for KafkaTailConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            disk: None,
            timeout: Duration::from_secs(1),
            grace: Duration::from_secs(5),
        }
    }
}

/// Configuration of a log on Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port` of some brokers; the others are found by them.
    pub brokers: Vec<String>,
    /// Stands before the names of topics and consumer groups: several cells can share brokers.
    pub prefix: String,
    /// Which topic the log is.
    pub topic: KafkaTopic,
    /// Name of this process, as brokers see it.
    pub client_id: String,
    /// How the brokers are spoken to.
    pub security: KafkaSecurity,
    /// Other properties of librdkafka, passed through.
    pub properties: BTreeMap<String, String>,
    /// Payload of a record at most; larger traces are cut into several (default 900,000 bytes; a
    /// broker takes 1 MB by default).
    pub record_bytes_max: usize,
    /// The largest batch taken, in encoded bytes (default 64 MiB).
    pub batch_bytes_max: usize,
    /// Bytes on their way to the brokers; more is refused as overloaded (default 64 MiB).
    pub queue_bytes_max: usize,
    /// An append is acknowledged or refused within this time (default 15 s).
    pub append_timeout: Duration,
    /// Time for one question to the brokers (default 5 s).
    pub request_timeout: Duration,
    /// Time for opening the log (default 30 s).
    pub open_timeout: Duration,
    /// How long a record waits for others of its partition: they form batches anyway while requests
    /// are in flight (default 0).
    pub linger: Duration,
    /// The ends of all partitions are asked for so often: how soon readers here see what was
    /// appended elsewhere, and how old the time is that an idle end vouches for (default 100 ms).
    pub ends_every: Duration,
    /// Commits go to the brokers so often (default 250 ms; at most 1 s).
    pub commit_every: Duration,
    /// Groups whose commits are known from the start; others are asked for at their first call,
    /// which blocks for that long.
    pub groups: Vec<GroupId>,
    /// Groups that must have every record: appends are refused before what one of them has not committed
    /// is as old as the topic's retention (default storage-writer and metadata-publisher; none: what a
    /// group has not read in time is gone).
    pub required_groups: Vec<GroupId>,
    /// How long the topic keeps its records where brokers do not say (default 4 h; `None`: for ever).
    pub retention: Option<Duration>,
    /// How far a broker's clock may lag ours, and how long a deposed leader may answer: an end
    /// vouches for the moment it was asked for, less this (default 1 s).
    pub clock_error_max: Duration,
    /// Consumers that read at different places of one partition (default 4).
    pub lanes_max: usize,
    /// Bytes fetched ahead in each partition that a lane reads (default 1 MiB).
    pub lane_bytes_max: usize,
    /// Decoded records shared by groups that read at the same place (default 32 MiB).
    pub cache_bytes_max: usize,
    /// Name of this process among the members of its groups, for static membership: one that is
    /// started again within the session gets its partitions back without a rebalance. No two
    /// processes may have the same; `None`: a member leaves when its log is closed.
    pub member: Option<String>,
    /// A member that was not heard of for so long is given up for dead, and others get its partitions
    /// (default 15 s; the brokers' `group.min.session.timeout.ms`, 6 s, at least).
    pub session_timeout: Duration,
    /// A partition that is wanted elsewhere is given up at the latest after this, whatever its reader
    /// still has in hand (default 10 s).
    pub drain_timeout: Duration,
    /// The live tail; `None` for processes that answer no reads by id.
    pub tail: Option<KafkaTailConfig>,
}

impl KafkaConfig {
    /// The defaults, at these brokers.
    #[must_use]
    pub fn at(brokers: Vec<String>) -> Self {
        Self {
            brokers,
            prefix: String::new(),
            topic: KafkaTopic::SpansRaw,
            client_id: "farspan".to_owned(),
            properties: BTreeMap::new(),
            security: KafkaSecurity::default(),
            record_bytes_max: 900_000,
            batch_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            append_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(30),
            linger: Duration::ZERO,
            ends_every: Duration::from_millis(100),
            commit_every: Duration::from_millis(250),
            groups: vec![STORAGE_WRITER, SEARCH_INDEXER, METRICS_AGGREGATOR, METADATA_PUBLISHER],
            required_groups: vec![STORAGE_WRITER, METADATA_PUBLISHER],
            retention: Some(Duration::from_secs(4 * 3_600)),
            clock_error_max: Duration::from_secs(1),
            lanes_max: 4,
            lane_bytes_max: 1 << 20,
            cache_bytes_max: 32 << 20,
            member: None,
            session_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
            tail: Some(KafkaTailConfig::default()),
        }
    }

    /// The topic's whole name.
    #[must_use]
    pub fn topic_name(&self) -> String {
        format!("{}{}", self.prefix, self.topic.name())
    }

    /// A group's whole name.
    #[must_use]
    pub fn group_name(&self, group: GroupId) -> String {
        format!("{}{group}", self.prefix)
    }

    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<(), KafkaOpenError> {
        let fault = |key, reason| Err(KafkaOpenError::Config { key, reason });
        if self.brokers.is_empty() {
            return fault("brokers", "must name at least one");
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.prefix.len() > PREFIX_BYTES_MAX || !self.prefix.bytes().all(fits) {
            return fault("prefix", "may hold up to 200 letters, digits and - _ .");
        }
        if !(1_024..=RECORD_BYTES_CEILING).contains(&self.record_bytes_max) {
            return fault("record_bytes_max", "must lie between 1 KiB and 16 MiB");
        }
        if self.batch_bytes_max == 0 || self.queue_bytes_max < self.record_bytes_max {
            return fault("queue_bytes_max", "must hold at least one record");
        }
        if self.commit_every.is_zero() || self.commit_every > Duration::from_secs(1) {
            return fault("commit_every", "must lie above 0 and at most at 1 s");
        }
        let times = [self.append_timeout, self.request_timeout, self.open_timeout, self.ends_every];
        if times.iter().any(Duration::is_zero) {
            return fault("timeouts", "must not be 0");
        }
        let member_times = [self.session_timeout, self.drain_timeout];
        if member_times.iter().any(|time| time.is_zero() || *time > MEMBER_TIME_MAX) {
            return fault("session_timeout", "must lie above 0 and at most at 10 min");
        }
        if self.lanes_max == 0 || self.lane_bytes_max == 0 {
            return fault("lanes_max", "must not be 0");
        }
        let holds = |own: &[&str]| self.properties.keys().any(|key| own.contains(&key.as_str()));
        if holds(&OWN_PROPERTIES) {
            return fault("properties", "must not hold what the span log sets itself");
        }
        if holds(&security::PROPERTIES) {
            return fault("properties", "must not hold what `security` says");
        }
        self.security.check()
    }
}

const MEMBER_TIME_MAX: Duration = Duration::from_secs(600);
const PREFIX_BYTES_MAX: usize = 200;
const RECORD_BYTES_CEILING: usize = 16 << 20;

/// Properties that are ours alone: every client of the log is given them after `properties`, so that a
/// value there would have no effect, or no client could be made with it.
const OWN_PROPERTIES: [&str; 46] = [
    "acks",
    "request.required.acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "metadata.broker.list",
    "check.crcs",
    "client.id",
    "compression.codec",
    "compression.type",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "isolation.level",
    "linger.ms",
    "queue.buffering.max.ms",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.max.bytes",
    "message.send.max.retries",
    "retries",
    "partition.assignment.strategy",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queued.max.messages.kbytes",
    "queuing.strategy",
    "session.timeout.ms",
    "transactional.id",
];

/// Every property that `KafkaConfig::properties` must not hold: what the log's guarantees rest on, what
/// it sets itself, and what `security` says.
pub fn own_properties() -> impl Iterator<Item = &'static str> {
    OWN_PROPERTIES.into_iter().chain(security::PROPERTIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_whole_and_each_fault_is_named() {
        let good = KafkaConfig::at(vec!["localhost:9092".to_owned()]);
        assert!(good.check().is_ok());
        type Change = fn(&mut KafkaConfig);
        let faults: [(Change, &str); 10] = [
            (|config| config.session_timeout = Duration::ZERO, "session_timeout"),
            (|config| config.brokers.clear(), "brokers"),
            (|config| config.prefix = "a b".to_owned(), "prefix"),
            (|config| config.record_bytes_max = 10, "record_bytes_max"),
            (|config| config.queue_bytes_max = 100, "queue_bytes_max"),
            (|config| config.commit_every = Duration::from_secs(2), "commit_every"),
            (|config| config.request_timeout = Duration::ZERO, "timeouts"),
            (|config| config.lanes_max = 0, "lanes_max"),
            (
                |config| drop(config.properties.insert("acks".to_owned(), "0".to_owned())),
                "properties",
            ),
            (
                |config| {
                    drop(config.properties.insert("sasl.password".to_owned(), "p".to_owned()));
                },
                "properties",
            ),
        ];
        for (change, expected) in faults {
            let mut config = good.clone();
            change(&mut config);
            let fault = config.check().unwrap_err();
            assert!(
                matches!(fault, KafkaOpenError::Config { key, .. } if key == expected),
                "{fault}"
            );
        }
    }

    /// Names of the properties that a file sets, in order.
    fn set_in(source: &'static str) -> impl Iterator<Item = &'static str> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        code.split(".set(\"").skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn what_a_client_is_given_after_the_users_properties_is_refused_there() {
        let base = include_str!("client.rs").split_once("for (key, value) in &config.properties");
        let (before, after) = base.unwrap();
        let defaults: Vec<_> = set_in(before).collect();
        assert_eq!(defaults.len(), 5, "{defaults:?}");
        let own: Vec<_> = own_properties().collect();
        assert!(defaults.iter().all(|name| !own.contains(name)), "a default may be changed");
        let others = [
            include_str!("appender.rs"),
            include_str!("identity.rs"),
            include_str!("security.rs"),
            include_str!("foreign/member.rs"),
        ];
        for source in std::iter::once(after).chain(others) {
            for name in set_in(source) {
                assert!(own.contains(&name), "{name} is set and not refused");
            }
        }
    }

    #[test]
    fn names_carry_the_prefix() {
        let mut config = KafkaConfig::at(vec!["localhost:9092".to_owned()]);
        config.prefix = "eu-".to_owned();
        assert_eq!(config.topic_name(), "eu-spans-raw");
        assert_eq!(config.group_name(STORAGE_WRITER), "eu-storage-writer");
    }
}
