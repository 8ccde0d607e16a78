//! The topics of a cell: made where they are missing, compared where they exist.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaLog;
use super::client::{Voice, base};
use super::config::{KafkaConfig, KafkaTopic};
use super::error::KafkaOpenError;
use super::questions::{Questions, TopicShape};
use crate::port::GroupId;

/// How the topics of a cell are set up.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Partitions (default 64). Changing them later makes another log of the topic.
    pub partitions: u32,
    /// Copies of each record (default 3); fewer brokers, fewer copies.
    pub replication: u32,
    /// How long records are kept (default 4 h).
    pub retention: Duration,
    /// Size of a segment: retention works in whole ones (default 1 GB).
    pub segment_bytes: u64,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            partitions: 64,
            replication: 3,
            retention: Duration::from_secs(4 * 3_600),
            segment_bytes: 1_000_000_000,
        }
    }
}

/// What became of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicReport {
    /// Its name.
    pub topic: String,
    /// It did not exist and was made.
    pub is_created: bool,
    /// Where it is set up otherwise than asked, in words: nothing of it was changed.
    pub differences: Vec<String>,
    /// What the cluster cannot give, in words.
    pub warnings: Vec<String>,
}

/// A setting of a topic, and what it is to be.
struct Wanted {
    key: &'static str,
    value: String,
}

impl TopicSettings {
    fn wanted(&self, copies: usize) -> Vec<Wanted> {
        let in_sync = if copies >= 2 { 2 } else { 1 };
        let wanted = |key, value: &dyn ToString| Wanted { key, value: value.to_string() };
        vec![
            wanted("retention.ms", &self.retention.as_millis()),
            // By size it would let go what a group has not read, whatever its age.
            wanted("retention.bytes", &-1),
            wanted("segment.bytes", &self.segment_bytes),
            wanted("cleanup.policy", &"delete"),
            wanted("compression.type", &"lz4"),
            wanted("min.insync.replicas", &in_sync),
            wanted("message.timestamp.type", &"LogAppendTime"),
            wanted("unclean.leader.election.enable", &"false"),
        ]
    }
}

/// A topic that does not seem to exist is asked for again after this.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// So many times where it may just have been made, and where it was made by us.
const OPEN_TRIES: u32 = 10;
const INIT_TRIES: u32 = 100;

/// What the brokers say about a topic's settings, by key.
type Settings = Vec<(String, String)>;

/// Asks for, and makes, topics.
struct Admin {
    client: AdminClient<Voice>,
    timeout: Duration,
}

impl Admin {
    fn open(config: &KafkaConfig, voice: &Voice) -> Result<Self, KafkaOpenError> {
        let client: ClientConfig = base(config)?;
        let client = client.create_with_context(voice.clone());
        let client = client.map_err(|error| KafkaOpenError::Client(error.to_string()))?;
        Ok(Self { client, timeout: config.open_timeout })
    }

    fn options(&self) -> AdminOptions {
        let timeout = Some(self.timeout);
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    async fn settings(&self, topic: &str) -> Result<Settings, KafkaOpenError> {
        let asked = [ResourceSpecifier::Topic(topic)];
        let answered = self.client.describe_configs(&asked, &self.options()).await;
        let answered = answered.map_err(|error| KafkaOpenError::Unreachable(error.to_string()))?;
        let mut settings = Vec::new();
        for resource in answered {
            let resource = match resource {
                Ok(resource) => resource,
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    return Err(KafkaOpenError::NoTopic(topic.to_owned()));
                }
                Err(code) => return Err(KafkaOpenError::Unreachable(code.to_string())),
            };
            let entries = resource.entries.into_iter();
            settings.extend(entries.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        // A topic that does not exist has no settings; one that does has dozens.
        if settings.is_empty() {
            return Err(KafkaOpenError::NoTopic(topic.to_owned()));
        }
        Ok(settings)
    }

    /// The settings of a topic that may have been made a moment ago: brokers hear of it one by one.
    async fn settings_soon(&self, topic: &str, tries: u32) -> Result<Settings, KafkaOpenError> {
        let mut settings = self.settings(topic).await;
        for _ in 0..tries {
            if !matches!(settings, Err(KafkaOpenError::NoTopic(_))) {
                break;
            }
            tokio::time::sleep(TRY_EVERY).await;
            settings = self.settings(topic).await;
        }
        settings
    }

    async fn create(
        &self,
        topic: &str,
        settings: &TopicSettings,
        copies: usize,
    ) -> Result<(), KafkaOpenError> {
        let wanted = settings.wanted(copies);
        let partitions = i32::try_from(settings.partitions).unwrap_or(i32::MAX);
        let copies = TopicReplication::Fixed(i32::try_from(copies).unwrap_or(1));
        let mut new = NewTopic::new(topic, partitions, copies);
        for Wanted { key, value } in &wanted {
            new = new.set(key, value);
        }
        let created = self.client.create_topics([&new], &self.options()).await;
        let created = created.map_err(|error| KafkaOpenError::Unreachable(error.to_string()))?;
        for result in created {
            match result {
                // Another process was first.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => {
                    let (topic, faults) = (topic.to_owned(), code.to_string());
                    return Err(KafkaOpenError::Unfit { topic, faults });
                }
            }
        }
        Ok(())
    }
}

/// Where the settings of a topic are not what they are to be.
fn differences(found: &Settings, wanted: &[Wanted]) -> Vec<String> {
    let mut differences = Vec::new();
    for Wanted { key, value } in wanted {
        let found = found.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value);
        if found != value {
            differences.push(format!("{key} is {found}, not {value}"));
        }
    }
    differences
}

/// The settings of the log's topic.
pub(super) async fn settings_of(
    config: &KafkaConfig,
    voice: &Voice,
) -> Result<Settings, KafkaOpenError> {
    Admin::open(config, voice)?.settings(&config.topic_name()).await
}

/// Refuses a topic on which the log's promises would not hold. A cluster that does not tell is
/// trusted, with a warning.
pub(super) async fn check_fit(config: &KafkaConfig, voice: &Voice) -> Result<(), KafkaOpenError> {
    let topic = config.topic_name();
    let admin = Admin::open(config, voice)?;
    let settings = match admin.settings_soon(&topic, OPEN_TRIES).await {
        Ok(settings) => settings,
        Err(KafkaOpenError::Unreachable(reason)) => {
            tracing::warn!(topic, reason, "the topic's settings could not be checked");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let must = [("message.timestamp.type", "LogAppendTime"), ("cleanup.policy", "delete")];
    let wanted = must.map(|(key, value)| Wanted { key, value: value.to_owned() });
    let mut faults = differences(&settings, &wanted);
    let of = |key: &str| settings.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let bytes_max = of("max.message.bytes").and_then(|value| value.parse::<usize>().ok());
    let needed = config.record_bytes_max.saturating_add(MESSAGE_FRAME_BYTES);
    if let Some(bytes_max) = bytes_max.filter(|bytes_max| *bytes_max < needed) {
        faults.push(format!("max.message.bytes is {bytes_max}; records need {needed}"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(KafkaOpenError::Unfit { topic, faults: faults.join("; ") })
}

/// Room for key, header and framing of a record.
const MESSAGE_FRAME_BYTES: usize = 4 << 10;

impl KafkaLog {
    /// Makes the topics of a cell that are missing, and says where existing ones are set up
    /// otherwise: those are never changed.
    pub async fn init(
        config: &KafkaConfig,
        settings: &TopicSettings,
    ) -> Result<Vec<TopicReport>, KafkaOpenError> {
        report_topics(config, settings, true).await
    }

    /// As [`Self::init`], but makes nothing: a topic that is missing is a difference.
    pub async fn look(
        config: &KafkaConfig,
        settings: &TopicSettings,
    ) -> Result<Vec<TopicReport>, KafkaOpenError> {
        report_topics(config, settings, false).await
    }

    /// How many members a consumer group of the cell has: processes that read it, or stand by to.
    pub async fn members(config: &KafkaConfig, group: GroupId) -> Result<usize, KafkaOpenError> {
        config.check()?;
        let questions = Questions::new(config, config.topic_name(), &Voice::default())?;
        let name = config.group_name(group);
        let asked = tokio::task::spawn_blocking(move || {
            questions.members(&name).map_err(|error| questions.failure(&error))
        });
        asked.await.map_err(|error| KafkaOpenError::Client(error.to_string()))?
    }
}

async fn report_topics(
    config: &KafkaConfig,
    settings: &TopicSettings,
    may_create: bool,
) -> Result<Vec<TopicReport>, KafkaOpenError> {
    config.check()?;
    let voice = Voice::default();
    let admin = Admin::open(config, &voice)?;
    let mut reports = Vec::new();
    for topic in [KafkaTopic::SpansRaw, KafkaTopic::SpansSampled] {
        let config = KafkaConfig { topic, ..config.clone() };
        reports.push(report_topic(&config, (settings, may_create), &admin, &voice).await?);
    }
    Ok(reports)
}

async fn report_topic(
    config: &KafkaConfig,
    (settings, may_create): (&TopicSettings, bool),
    admin: &Admin,
    voice: &Voice,
) -> Result<TopicReport, KafkaOpenError> {
    let topic = config.topic_name();
    let (before, brokers) = shape_of(config, voice).await?;
    let (copies, warnings) = copies_of(settings, brokers.len());
    let is_created = before.is_none() && may_create;
    if before.is_none() && !may_create {
        let differences = vec!["the topic is missing".to_owned()];
        return Ok(TopicReport { topic, is_created, differences, warnings });
    }
    if is_created {
        admin.create(&topic, settings, copies).await?;
    }
    let found = admin.settings_soon(&topic, INIT_TRIES).await?;
    let mut differences = differences(&found, &settings.wanted(copies));
    if let Some(shape) = before {
        differences.extend(shape_differences(&shape, settings, copies));
    }
    Ok(TopicReport { topic, is_created, differences, warnings })
}

/// How many copies the cluster can give, and a word where these are fewer than asked.
fn copies_of(settings: &TopicSettings, brokers: usize) -> (usize, Vec<String>) {
    let wanted = usize::try_from(settings.replication).unwrap_or(usize::MAX);
    let copies = wanted.clamp(1, brokers.max(1));
    let mut warnings = Vec::new();
    if copies < wanted {
        warnings.push(format!(
            "{brokers} broker(s): {copies} copies of a record instead of {wanted}; what one \
             broker loses may be lost"
        ));
    }
    (copies, warnings)
}

fn shape_differences(shape: &TopicShape, settings: &TopicSettings, copies: usize) -> Vec<String> {
    let mut differences = Vec::new();
    let partitions = shape.leaders.len();
    if u32::try_from(partitions).ok() != Some(settings.partitions) {
        differences.push(format!("{partitions} partitions, not {}", settings.partitions));
    }
    if shape.replicas < copies {
        differences.push(format!("{} copies, not {copies}", shape.replicas));
    }
    differences
}

/// A topic as it is, beside what it is to be.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// `None` where it does not exist.
    pub(super) shape: Option<TopicShape>,
    pub(super) brokers: usize,
    pub(super) hosts: Vec<String>,
    pub(super) settings: Settings,
    pub(super) differences: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Found {
    pub(super) fn setting(&self, key: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// Looks at a topic and makes nothing.
pub(super) async fn look(
    config: &KafkaConfig,
    settings: &TopicSettings,
    voice: &Voice,
) -> Result<Found, KafkaOpenError> {
    let (shape, hosts) = shape_of(config, voice).await?;
    let brokers = hosts.len();
    let (copies, warnings) = copies_of(settings, brokers);
    let Some(shape) = shape else {
        let (settings, differences) = (Vec::new(), Vec::new());
        return Ok(Found { shape: None, brokers, hosts, settings, differences, warnings });
    };
    let admin = Admin::open(config, voice)?;
    let found = admin.settings_soon(&config.topic_name(), OPEN_TRIES).await?;
    let mut differences = differences(&found, &settings.wanted(copies));
    differences.extend(shape_differences(&shape, settings, copies));
    Ok(Found { shape: Some(shape), brokers, hosts, settings: found, differences, warnings })
}

/// The topic as it is, and the hosts of the cluster's brokers.
async fn shape_of(
    config: &KafkaConfig,
    voice: &Voice,
) -> Result<(Option<TopicShape>, Vec<String>), KafkaOpenError> {
    let questions = Questions::new(config, config.topic_name(), voice)?;
    let asked = tokio::task::spawn_blocking(move || {
        let of = |error: rdkafka::error::KafkaError| questions.failure(&error);
        Ok((questions.shape().map_err(of)?, questions.brokers().map_err(of)?))
    });
    asked.await.map_err(|error| KafkaOpenError::Client(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_in_words() {
        let wanted = TopicSettings::default().wanted(3);
        let mut found: Settings =
            wanted.iter().map(|one| (one.key.to_owned(), one.value.clone())).collect();
        assert_eq!(differences(&found, &wanted), Vec::<String>::new());
        found.retain(|(key, _)| key != "compression.type");
        for (key, value) in &mut found {
            if key == "retention.ms" {
                "1000".clone_into(value);
            }
        }
        assert_eq!(
            differences(&found, &wanted),
            ["retention.ms is 1000, not 14400000", "compression.type is , not lz4"]
        );
    }

    #[test]
    fn two_copies_must_be_in_sync_where_there_are_two() {
        let in_sync = |copies| {
            let wanted = TopicSettings::default().wanted(copies);
            wanted.into_iter().find(|one| one.key == "min.insync.replicas").unwrap().value
        };
        assert_eq!((in_sync(1), in_sync(2), in_sync(3)), ("1".into(), "2".into(), "2".into()));
    }
}
