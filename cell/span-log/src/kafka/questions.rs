//! Questions to the brokers about a topic: its partitions, their ends, offsets at times. They block
//! for at most the request timeout, so they are asked on threads of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use trace_model::{Clock, UnixNanos};

use super::client::{Consumer, Voice, asker, list_of, offset_from};
use super::config::KafkaConfig;
use super::ends::Ends;
use super::error::KafkaOpenError;
use crate::port::LogError;

/// What the cluster says about a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicShape {
    /// Leader of each partition; -1 where it has none.
    pub(crate) leaders: Vec<i32>,
    /// Replicas of its partitions, at least.
    pub(crate) replicas: usize,
    /// Of each partition, in no order: replicas in sync, and all.
    pub(crate) in_sync: Vec<(usize, usize)>,
}

/// Messages of a client that are read to learn why it has no connection.
const SAID_MAX: usize = 64;
/// What librdkafka begins the words with by which a broker refuses a login.
const LOGIN_REFUSED: &str = "SASL authentication error";

/// Asks the brokers.
pub(crate) struct Questions {
    consumer: Consumer,
    topic: String,
    timeout: Duration,
}

impl Questions {
    pub(crate) fn new(
        config: &KafkaConfig,
        topic: String,
        voice: &Voice,
    ) -> Result<Self, KafkaOpenError> {
        let consumer = asker(config, None, voice)?;
        Ok(Self { consumer, topic, timeout: config.request_timeout })
    }

    /// The topic's shape; `None` where it does not exist.
    pub(crate) fn shape(&self) -> Result<Option<TopicShape>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), self.timeout)?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == self.topic) else {
            return Ok(None);
        };
        if topic.error().is_some() || topic.partitions().is_empty() {
            return Ok(None);
        }
        let mut leaders: Vec<(i32, i32)> =
            topic.partitions().iter().map(|one| (one.id(), one.leader())).collect();
        leaders.sort_unstable();
        let leaders = leaders.into_iter().map(|(_, leader)| leader).collect();
        let replicas = topic.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or(0);
        let in_sync = topic.partitions().iter();
        let in_sync = in_sync.map(|one| (one.isr().len(), one.replicas().len())).collect();
        Ok(Some(TopicShape { leaders, replicas, in_sync }))
    }

    /// The hosts of the brokers that the cluster has.
    pub(crate) fn brokers(&self) -> Result<Vec<String>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(None, self.timeout)?;
        Ok(metadata.brokers().iter().map(|broker| broker.host().to_owned()).collect())
    }

    /// For each of these partitions the offset that answers to `at`: `Offset::End`,
    /// `Offset::Beginning`, or a time in milliseconds.
    fn offsets(&self, partitions: &[u32], at: Offset) -> Result<Vec<(u32, Offset)>, KafkaError> {
        let list = list_of(&self.topic, partitions.iter().copied(), at)?;
        let answered = self.consumer.offsets_for_times(list, self.timeout)?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for element in answered.elements() {
            element.error()?;
            let Ok(partition) = u32::try_from(element.partition()) else { continue };
            offsets.push((partition, element.offset()));
        }
        Ok(offsets)
    }

    fn known_offsets(&self, partitions: &[u32], at: Offset) -> Result<Vec<(u32, u64)>, KafkaError> {
        let known = |(partition, offset)| Some((partition, offset_from(offset)?));
        Ok(self.offsets(partitions, at)?.into_iter().filter_map(known).collect())
    }

    /// The ends of these partitions.
    pub(crate) fn ends(&self, partitions: &[u32]) -> Result<Vec<(u32, u64)>, KafkaError> {
        self.known_offsets(partitions, Offset::End)
    }

    /// The oldest offsets of these partitions.
    pub(crate) fn firsts(&self, partitions: &[u32]) -> Result<Vec<(u32, u64)>, KafkaError> {
        self.known_offsets(partitions, Offset::Beginning)
    }

    /// The first offset whose record was appended at or after the time; `None` where none was.
    pub(crate) fn offset_at(
        &self,
        partition: u32,
        time: UnixNanos,
    ) -> Result<Option<u64>, KafkaError> {
        let answered = self.offsets_at(&[partition], time)?;
        Ok(answered.first().and_then(|(_, offset)| *offset))
    }

    /// The same of several partitions at once.
    pub(crate) fn offsets_at(
        &self,
        partitions: &[u32],
        time: UnixNanos,
    ) -> Result<Vec<(u32, Option<u64>)>, KafkaError> {
        // Brokers count in milliseconds.
        let millis = i64::try_from(time.0.div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let answered = self.offsets(partitions, Offset::Offset(millis))?.into_iter();
        Ok(answered.map(|(partition, offset)| (partition, offset_from(offset))).collect())
    }

    /// How many members a consumer group has.
    pub(crate) fn members(&self, group: &str) -> Result<usize, KafkaError> {
        let found = self.consumer.fetch_group_list(Some(group), self.timeout)?;
        Ok(found.groups().iter().map(|group| group.members().len()).sum())
    }

    /// Lets the client say what it has to say.
    pub(crate) fn serve(&self) {
        drop(self.consumer.poll(Duration::ZERO));
    }

    /// What a question failed with, and what the client has to say about its connections: its error
    /// alone says no more than that nobody answered.
    pub(crate) fn failure(&self, error: &KafkaError) -> KafkaOpenError {
        for _ in 0..SAID_MAX {
            self.serve();
        }
        match self.consumer.context().reachable.why() {
            Some(why) if why.contains(LOGIN_REFUSED) => KafkaOpenError::Login(why),
            Some(why) => KafkaOpenError::Unreachable(format!("{error}; {why}")),
            None => KafkaOpenError::Unreachable(error.to_string()),
        }
    }
}

/// Asks on a thread that may block.
pub(crate) async fn ask<T: Send + 'static>(
    questions: &Arc<Questions>,
    question: impl FnOnce(&Questions) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, LogError> {
    let questions = Arc::clone(questions);
    let asked = tokio::task::spawn_blocking(move || question(&questions)).await;
    let failed = |error: &dyn ToString| LogError::Unavailable(error.to_string());
    asked.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// Keeps the ends of a topic up to date. A broker that does not answer holds up its own partitions
/// alone.
pub(crate) struct EndKeeper {
    questions: Arc<Questions>,
    ends: Arc<Ends>,
    clock: Arc<dyn Clock>,
    clock_error: u64,
    by_leader: BTreeMap<i32, Vec<u32>>,
}

impl EndKeeper {
    pub(crate) fn new(
        questions: Arc<Questions>,
        ends: Arc<Ends>,
        clock: Arc<dyn Clock>,
        clock_error_max: Duration,
    ) -> Self {
        let clock_error = u64::try_from(clock_error_max.as_nanos()).unwrap_or(u64::MAX);
        Self { questions, ends, clock, clock_error, by_leader: BTreeMap::new() }
    }

    /// Learns which broker leads which partition.
    pub(crate) fn find_leaders(&mut self) -> Result<(), KafkaError> {
        let shape = self.questions.shape()?.unwrap_or_default();
        self.by_leader.clear();
        let partitions = 0..self.ends.count();
        for (partition, leader) in partitions.zip(shape.leaders) {
            self.by_leader.entry(leader).or_default().push(partition);
        }
        Ok(())
    }

    /// Asks every leader for the ends of its partitions. Gives those that lie before an end that is
    /// known: their records are gone. An error is the last one; what was answered counts.
    pub(crate) fn ask_ends(&mut self) -> Result<Vec<u32>, KafkaError> {
        if self.by_leader.is_empty() {
            self.find_leaders()?;
        }
        let mut shrunk = Vec::new();
        let mut failed = None;
        for (leader, partitions) in &self.by_leader {
            if *leader < 0 {
                failed = Some(KafkaError::NoMessageReceived);
                continue;
            }
            let known = self.ends.all();
            let asked_at = self.clock.now().minus(self.clock_error);
            let answered = match self.questions.ends(partitions) {
                Ok(answered) => answered,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for (partition, next) in answered {
                if known.get(partition as usize).is_some_and(|known| next < *known) {
                    shrunk.push(partition);
                }
                self.ends.answered(partition, next, asked_at);
            }
        }
        let Some(error) = failed else { return Ok(shrunk) };
        // The next round asks whoever leads then.
        self.by_leader.clear();
        Err(error)
    }

    /// Asks for the oldest offsets.
    pub(crate) fn ask_firsts(&mut self) -> Result<(), KafkaError> {
        for partitions in self.by_leader.values() {
            for (partition, first) in self.questions.firsts(partitions)? {
                self.ends.starts_at(partition, first);
            }
        }
        Ok(())
    }
}
