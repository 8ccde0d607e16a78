//! How topics and groups are, asked of the brokers: for those who look after them. Makes nothing,
//! joins no group, and commits nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use trace_model::{Clock, UnixNanos};

use super::client::{Voice, first_records, number_of, offset_at};
use super::config::{KafkaConfig, KafkaTopic};
use super::error::KafkaOpenError;
use super::group_offsets::GroupOffsets;
use super::init::{Found, TopicSettings, look};
use super::questions::Questions;

/// The ages of one group's oldest records are waited for so long.
const AGES_TIMEOUT: Duration = Duration::from_secs(3);
/// A poll waits so long at most.
const POLL: Duration = Duration::from_millis(100);

/// What the brokers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaFigures {
    /// Brokers of the cluster that are up.
    pub brokers: usize,
    /// `host` of each of them.
    pub hosts: Vec<String>,
    /// The cell's topics.
    pub topics: Vec<TopicFigures>,
    /// The groups of the configuration, in the topic that it names.
    pub groups: Vec<GroupFigures>,
}

/// How a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFigures {
    /// Its name.
    pub topic: String,
    /// Partitions; 0 where there is no such topic.
    pub partitions: usize,
    /// Copies that every partition is to have, at least.
    pub copies: usize,
    /// Partitions of which a copy is not in sync.
    pub under_replicated: usize,
    /// Partitions with fewer copies in sync than `min.insync.replicas`: they take nothing.
    pub below_min_in_sync: usize,
    /// Partitions without a leader.
    pub offline: usize,
    /// How long records are kept; `None` where brokers do not say, and for ever.
    pub retention: Option<Duration>,
    /// Where it is set up otherwise than asked, and what the cluster cannot give, in words.
    pub differences: Vec<String>,
}

/// How far a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFigures {
    /// Its name without the prefix.
    pub group: &'static str,
    /// Records behind its commits, over all partitions.
    pub lag_records: u64,
    /// Age of the oldest of them; zero without any, `None` where it could not be read in time.
    pub lag: Option<Duration>,
    /// Whether it has ever committed.
    pub has_committed: bool,
}

/// Asks the brokers, within about the request timeout for each group. `settings` is what topics are
/// compared with.
///
/// # Errors
/// When no broker answers, or a file or property of the configuration cannot be used.
pub async fn figures(
    config: &KafkaConfig,
    settings: &TopicSettings,
    clock: &dyn Clock,
) -> Result<KafkaFigures, KafkaOpenError> {
    config.check()?;
    let voice = Voice::default();
    let mut topics = Vec::new();
    let mut partitions = 0;
    let (mut brokers, mut hosts) = (0, Vec::new());
    for topic in [KafkaTopic::SpansRaw, KafkaTopic::SpansSampled] {
        let config = KafkaConfig { topic, ..config.clone() };
        let found = look(&config, settings, &voice).await?;
        let topic_figures = topic_figures(config.topic_name(), &found);
        if topic == KafkaTopic::SpansRaw {
            partitions = topic_figures.partitions;
            (brokers, hosts) = (found.brokers, found.hosts);
        }
        topics.push(topic_figures);
    }
    let groups = match partitions {
        0 => Vec::new(),
        partitions => group_figures(config, partitions, &voice, clock.now()).await?,
    };
    Ok(KafkaFigures { brokers, hosts, topics, groups })
}

fn topic_figures(topic: String, found: &Found) -> TopicFigures {
    let shape = found.shape.clone().unwrap_or_default();
    let number = |key: &str| found.setting(key).and_then(|value| value.parse::<u64>().ok());
    let min_in_sync = number("min.insync.replicas").unwrap_or(1);
    let min_in_sync = usize::try_from(min_in_sync).unwrap_or(usize::MAX);
    let count = |is_so: &dyn Fn(&(usize, usize)) -> bool| {
        shape.in_sync.iter().filter(|one| is_so(one)).count()
    };
    TopicFigures {
        topic,
        partitions: shape.leaders.len(),
        copies: shape.replicas,
        under_replicated: count(&|(in_sync, copies)| in_sync < copies),
        below_min_in_sync: count(&|(in_sync, _)| *in_sync < min_in_sync),
        offline: shape.leaders.iter().filter(|leader| **leader < 0).count(),
        // -1 is for ever.
        retention: number("retention.ms").map(Duration::from_millis),
        differences: found.differences.iter().chain(&found.warnings).cloned().collect(),
    }
}

/// Asks for all groups at once, each on a thread of its own.
async fn group_figures(
    config: &KafkaConfig,
    partitions: usize,
    voice: &Voice,
    now: UnixNanos,
) -> Result<Vec<GroupFigures>, KafkaOpenError> {
    let partitions: Vec<u32> = (0..u32::try_from(partitions).unwrap_or(u32::MAX)).collect();
    let mut asked = Vec::new();
    for group in &config.groups {
        let (config, voice) = (config.clone(), voice.clone());
        let (group, partitions) = (*group, partitions.clone());
        let ask = move || {
            let questions = Questions::new(&config, config.topic_name(), &voice)?;
            let offsets = GroupOffsets::open(&config, &config.group_name(group), &voice)?;
            let far = Lag::of(&questions, &offsets, &partitions).map_err(unreachable)?;
            let lag = far.age(&config, &voice, now)?;
            let (lag_records, has_committed) = (far.records(), far.has_committed);
            Ok(GroupFigures { group: group.0, lag_records, lag, has_committed })
        };
        asked.push(tokio::task::spawn_blocking(ask));
    }
    let mut groups = Vec::new();
    for figures in asked {
        let figures = figures.await.map_err(|error| KafkaOpenError::Client(error.to_string()))?;
        groups.push(figures?);
    }
    Ok(groups)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn unreachable(error: KafkaError) -> KafkaOpenError {
    KafkaOpenError::Unreachable(error.to_string())
}

/// Where a group is behind: by partition the oldest offset that it has not committed, and the end.
struct Lag {
    behind: BTreeMap<u32, (u64, u64)>,
    has_committed: bool,
}

impl Lag {
    fn of(
        questions: &Questions,
        offsets: &GroupOffsets,
        partitions: &[u32],
    ) -> Result<Self, KafkaError> {
        // Commits before ends: what is committed meanwhile makes no lag that never was.
        let committed = offsets.read(partitions)?;
        let firsts: BTreeMap<u32, u64> = questions.firsts(partitions)?.into_iter().collect();
        let ends: BTreeMap<u32, u64> = questions.ends(partitions)?.into_iter().collect();
        let has_committed = committed.iter().any(Option::is_some);
        let mut behind = BTreeMap::new();
        for (partition, committed) in partitions.iter().zip(committed) {
            let Some(end) = ends.get(partition) else { continue };
            let first = firsts.get(partition).copied().unwrap_or(0);
            let next = committed.map_or(first, |kept| kept.offset).max(first);
            if next < *end {
                behind.insert(*partition, (next, *end));
            }
        }
        Ok(Self { behind, has_committed })
    }

    fn records(&self) -> u64 {
        self.behind.values().map(|(next, end)| end.saturating_sub(*next)).sum()
    }

    /// Age of the oldest record that is not committed: the first one of every partition is fetched.
    fn age(
        &self,
        config: &KafkaConfig,
        voice: &Voice,
        now: UnixNanos,
    ) -> Result<Option<Duration>, KafkaOpenError> {
        if self.behind.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        let consumer = first_records(config, voice)?;
        let topic = config.topic_name();
        let mut list = TopicPartitionList::new();
        for (partition, (next, _)) in &self.behind {
            let at: Offset = offset_at(*next);
            list.add_partition_offset(&topic, number_of(*partition), at).map_err(unreachable)?;
        }
        consumer.assign(&list).map_err(unreachable)?;
        let mut waiting = self.behind.len();
        let mut seen = vec![];
        let mut oldest: Option<i64> = None;
        let mut empty_polls = AGES_TIMEOUT.as_millis() / POLL.as_millis().max(1);
        while waiting > 0 && empty_polls > 0 {
            let Some(Ok(record)) = consumer.poll(POLL) else {
                empty_polls = empty_polls.saturating_sub(1);
                continue;
            };
            if seen.contains(&record.partition()) {
                continue;
            }
            seen.push(record.partition());
            waiting = waiting.saturating_sub(1);
            let millis = record.timestamp().to_millis();
            oldest = oldest.into_iter().chain(millis).min();
            // Its next records are of no use here.
            let mut read = TopicPartitionList::new();
            read.add_partition(&topic, record.partition());
            consumer.pause(&read).map_err(unreachable)?;
        }
        if waiting > 0 {
            return Ok(None);
        }
        Ok(oldest.map(|millis| age_of(millis, now)))
    }
}

/// How long ago a time of the brokers is, in milliseconds since the epoch.
fn age_of(millis: i64, now: UnixNanos) -> Duration {
    let appended = u64::try_from(millis).unwrap_or(0);
    Duration::from_millis(now.millis().saturating_sub(appended))
}

#[cfg(test)]
mod tests {
    use super::super::questions::TopicShape;
    use super::*;

    fn found(in_sync: &[(usize, usize)], leaders: &[i32], min: &str) -> Found {
        let shape =
            TopicShape { leaders: leaders.to_vec(), replicas: 3, in_sync: in_sync.to_vec() };
        let settings = [("min.insync.replicas", min), ("retention.ms", "14400000")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Found {
            shape: Some(shape),
            brokers: 3,
            hosts: vec![],
            settings: settings.to_vec(),
            differences: vec!["a".to_owned()],
            warnings: vec!["b".to_owned()],
        }
    }

    #[test]
    fn partitions_are_counted_by_what_they_lack() {
        let topic = topic_figures(
            "t".to_owned(),
            &found(&[(3, 3), (2, 3), (1, 3), (0, 3)], &[1, 2, 3, -1], "2"),
        );
        assert_eq!((topic.partitions, topic.copies), (4, 3));
        assert_eq!((topic.under_replicated, topic.below_min_in_sync, topic.offline), (3, 2, 1));
        assert_eq!(topic.retention, Some(Duration::from_secs(14_400)));
        assert_eq!(topic.differences, ["a", "b"]);
    }

    #[test]
    fn a_topic_that_is_missing_has_no_partitions_and_one_that_keeps_for_ever_no_retention() {
        let missing = Found { shape: None, ..found(&[], &[], "x") };
        assert_eq!(topic_figures("t".to_owned(), &missing).partitions, 0);
        let mut for_ever = found(&[(1, 1)], &[1], "1");
        for_ever.settings.push(("x".to_owned(), String::new()));
        for_ever.settings.retain(|(key, _)| key != "retention.ms");
        for_ever.settings.push(("retention.ms".to_owned(), "-1".to_owned()));
        assert_eq!(topic_figures("t".to_owned(), &for_ever).retention, None);
    }

    #[test]
    fn a_record_from_a_clock_ahead_has_no_age() {
        let now = UnixNanos(10_000 * 1_000_000);
        assert_eq!(age_of(4_000, now), Duration::from_secs(6));
        assert_eq!(age_of(11_000, now), Duration::ZERO);
    }
}
