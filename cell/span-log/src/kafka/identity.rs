//! Which log a topic is: an incarnation that grows, and changes when the topic is recreated or has
//! lost what it held.
//!
//! The brokers keep it as the text of offsets that a reserved group has committed, and drop it with
//! the topic. Each offset is the partition's end as it was seen last: a partition that ends below it
//! has lost records, and its next offsets were given before. Whoever finds no identity takes a lock
//! (the one member of another reserved group that owns partition 0) and writes it; the others wait.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use trace_model::Clock;

use super::client::{Consumer, Voice, base};
use super::config::KafkaConfig;
use super::error::KafkaOpenError;
use super::group_offsets::{GroupOffsets, Kept};
use super::questions::Questions;

/// A shrunk end is believed when the brokers have said so this many times.
const SHRUNK_TRIES: u32 = 5;
const SHRUNK_EVERY: Duration = Duration::from_millis(400);
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Keeps a topic's identity.
pub(crate) struct IdentityKeeper {
    offsets: GroupOffsets,
    questions: Arc<Questions>,
    config: KafkaConfig,
    voice: Voice,
    clock: Arc<dyn Clock>,
    partitions: Vec<u32>,
}

/// What was found at the brokers.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The log's incarnation.
    Same(u64),
    /// The log is new, or another than that of this incarnation.
    New(Option<u64>),
}

/// The identity's text.
fn text_of(incarnation: u64, partitions: usize) -> String {
    format!("farspan-log 1 {incarnation} {partitions}")
}

/// Incarnation and number of partitions of a text.
fn parse(text: &str) -> Option<(u64, usize)> {
    let mut words = text.split(' ');
    if (words.next(), words.next()) != (Some("farspan-log"), Some("1")) {
        return None;
    }
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Judges what is kept against the ends that the brokers gave afterwards.
fn judge(kept: &[Option<Kept>], ends: &[(u32, u64)]) -> Found {
    let texts = kept.iter().flatten().filter_map(|kept| parse(&kept.text));
    let Some((incarnation, partitions)) = texts.max() else { return Found::New(None) };
    let kept_of = |partition: u32| kept.get(partition as usize).and_then(Option::as_ref);
    let has_shrunk =
        ends.iter().any(|(at, end)| kept_of(*at).is_some_and(|kept| kept.offset > *end));
    // A trace lies in one partition within an incarnation: more partitions, another incarnation.
    if has_shrunk || partitions != kept.len() {
        return Found::New(Some(incarnation));
    }
    Found::Same(incarnation)
}

impl IdentityKeeper {
    pub(crate) fn open(
        config: &KafkaConfig,
        questions: Arc<Questions>,
        voice: &Voice,
        clock: Arc<dyn Clock>,
        partitions: u32,
    ) -> Result<Self, KafkaOpenError> {
        let group = format!("{}farspan-log-identity", config.prefix);
        Ok(Self {
            offsets: GroupOffsets::open(config, &group, voice)?,
            questions,
            config: config.clone(),
            voice: voice.clone(),
            clock,
            partitions: (0..partitions).collect(),
        })
    }

    /// What is kept first, the ends after it: so an end can lie below only where records are gone.
    fn find(&self) -> Result<Found, KafkaError> {
        let kept = self.offsets.read(&self.partitions)?;
        let ends = self.questions.ends(&self.partitions)?;
        Ok(judge(&kept, &ends))
    }

    /// The same, but a loss is believed only when it is said again and again.
    fn find_surely(&self) -> Result<Found, KafkaError> {
        let mut found = self.find()?;
        for _ in 0..SHRUNK_TRIES {
            if !matches!(found, Found::New(Some(_))) {
                break;
            }
            // A consumer without records waits out its poll.
            drop(self.offsets.consumer.poll(SHRUNK_EVERY));
            found = self.find()?;
        }
        Ok(found)
    }

    /// The log's incarnation, given a new one where it is another log. Blocks for at most about the
    /// time for opening.
    pub(crate) fn settle(&self) -> Result<u64, KafkaOpenError> {
        let deadline = self.clock.monotonic().saturating_add(self.config.open_timeout);
        let mut lock = None;
        loop {
            let reason = match self.try_settle(&mut lock) {
                Ok(Some(incarnation)) => return Ok(incarnation),
                Ok(None) => "another process holds the lock".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.clock.monotonic() >= deadline {
                return Err(KafkaOpenError::Identity(reason));
            }
            // A consumer without records waits out its poll.
            drop(lock.as_ref().unwrap_or(&self.offsets.consumer).poll(LOCK_POLL));
        }
    }

    /// Finds the incarnation, or begins one where this process holds the lock.
    fn try_settle(&self, lock: &mut Option<Consumer>) -> Result<Option<u64>, KafkaError> {
        let last = match self.find_surely()? {
            Found::Same(incarnation) => {
                self.renew(incarnation)?;
                return Ok(Some(incarnation));
            }
            Found::New(last) => last,
        };
        let held = match lock {
            Some(lock) => lock,
            None => lock.insert(self.lock()?),
        };
        if !self.is_held(held) {
            return Ok(None);
        }
        // Asked again: who held the lock before may have written it in between.
        match self.find()? {
            Found::Same(incarnation) => Ok(Some(incarnation)),
            Found::New(_) => self.begin(last).map(Some),
        }
    }

    /// Begins an incarnation, above the last one.
    fn begin(&self, last: Option<u64>) -> Result<u64, KafkaError> {
        let after_last = last.map_or(1, |last| last.saturating_add(1));
        let incarnation = self.clock.now().millis().max(after_last);
        match last {
            Some(last) => tracing::warn!(
                incarnation,
                last,
                "the topic of the span log was recreated, cut or given partitions: it is a new log"
            ),
            None => tracing::info!(incarnation, "a new span log"),
        }
        self.renew(incarnation)?;
        Ok(incarnation)
    }

    /// Writes the identity with the ends as they are.
    fn renew(&self, incarnation: u64) -> Result<(), KafkaError> {
        let ends = self.questions.ends(&self.partitions)?;
        self.offsets.write(&ends, &text_of(incarnation, self.partitions.len()))
    }

    /// Whether the topic is still the log of this incarnation; writes it again, so that it does not
    /// expire. Blocks.
    pub(crate) fn confirm(&self, incarnation: u64) -> Result<bool, KafkaError> {
        if self.find_surely()? != Found::Same(incarnation) {
            return Ok(false);
        }
        self.renew(incarnation)?;
        Ok(true)
    }

    /// Joins the group whose one member may write.
    fn lock(&self) -> Result<Consumer, KafkaError> {
        let failed = |error: KafkaOpenError| KafkaError::ClientCreation(error.to_string());
        let mut client: ClientConfig = base(&self.config).map_err(failed)?;
        client.set("group.id", format!("{}farspan-log-identity-lock", self.config.prefix));
        client.set("enable.auto.commit", "false");
        client.set("session.timeout.ms", "10000");
        client.set("auto.offset.reset", "latest");
        let consumer: Consumer = client.create_with_context(self.voice.clone())?;
        consumer.subscribe(&[&self.config.topic_name()])?;
        Ok(consumer)
    }

    fn is_held(&self, lock: &Consumer) -> bool {
        let topic = self.config.topic_name();
        let assigned = lock.assignment();
        assigned.is_ok_and(|assigned| assigned.find_partition(&topic, 0).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(offset: u64, text: &str) -> Option<Kept> {
        Some(Kept { offset, text: text.to_owned() })
    }

    #[test]
    fn a_log_is_the_same_while_its_ends_hold_what_was_seen() {
        let text = text_of(77, 2);
        let found =
            |first, second| judge(&[kept(5, &text), kept(0, &text)], &[(0, first), (1, second)]);
        assert_eq!(found(5, 0), Found::Same(77));
        assert_eq!(found(9, 3), Found::Same(77));
        assert_eq!(found(4, 3), Found::New(Some(77)));
    }

    #[test]
    fn a_topic_without_identity_or_with_other_partitions_is_a_new_log() {
        assert_eq!(judge(&[None, None], &[(0, 5), (1, 5)]), Found::New(None));
        assert_eq!(judge(&[kept(5, "words"), None], &[(0, 5), (1, 5)]), Found::New(None));
        let text = text_of(77, 1);
        assert_eq!(judge(&[kept(5, &text), None], &[(0, 5), (1, 5)]), Found::New(Some(77)));
        let (old, new) = (text_of(77, 2), text_of(78, 2));
        assert_eq!(judge(&[kept(5, &old), kept(5, &new)], &[(0, 5), (1, 5)]), Found::Same(78));
    }

    #[test]
    fn the_text_reads_back() {
        assert_eq!(parse(&text_of(1_790_000_000_000, 64)), Some((1_790_000_000_000, 64)));
        for foreign in ["", "farspan-log 2 1 1", "farspan-log 1 x 1", "farspan-log 1 5"] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
