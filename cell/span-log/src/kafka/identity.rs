//! Which log a topic is: an incarnation that grows, and changes when the topic is recreated, cut or
//! given partitions. Beside it what is known to be lost.
//!
//! The brokers keep it as the text of offsets that a reserved group has committed, and drop it with
//! the topic. Each offset is the partition's end as it was seen last: a partition that ends below it
//! has lost records, and its next offsets were given before. Whoever finds no identity takes a lock
//! (the one member of another reserved group that owns partition 0) and writes it; the others wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use trace_model::Clock;

use super::client::{Consumer, Voice, base};
use super::config::KafkaConfig;
use super::error::KafkaOpenError;
use super::group_offsets::{GroupOffsets, Kept};
use super::identity_text::IdentityText;
use super::questions::Questions;
use super::succession::{Change, Verdict, judge, succeed};
use crate::port::{ForgetLost, LostRun, Seen};

/// A loss is believed when the brokers have said so this many times.
const LOSS_TRIES: u32 = 5;
const LOSS_EVERY: Duration = Duration::from_millis(400);
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Keeps a topic's identity.
pub(crate) struct IdentityKeeper {
    offsets: GroupOffsets,
    questions: Arc<Questions>,
    config: KafkaConfig,
    voice: Voice,
    clock: Arc<dyn Clock>,
    partitions: Vec<u32>,
    /// One change at a time.
    turn: Mutex<()>,
}

/// The texts of all partitions.
pub(crate) type Texts = Vec<IdentityText>;

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
            turn: Mutex::default(),
        })
    }

    /// What is kept first, the ends after it: so an end can lie below only where records are gone.
    fn find(&self, seen: &Seen) -> Result<Verdict, KafkaError> {
        let kept = self.offsets.read(&self.partitions)?;
        let ends = self.ends()?;
        Ok(judge(&kept, &ends, seen))
    }

    fn ends(&self) -> Result<Vec<u64>, KafkaError> {
        let mut ends = vec![0; self.partitions.len()];
        for (partition, end) in self.questions.ends(&self.partitions)? {
            if let Some(slot) = ends.get_mut(partition as usize) {
                *slot = end;
            }
        }
        Ok(ends)
    }

    /// The same, but a loss is believed only when it is said again and again.
    fn find_surely(&self, seen: &Seen) -> Result<Verdict, KafkaError> {
        let mut found = self.find(seen)?;
        for _ in 0..LOSS_TRIES {
            if matches!(&found, Verdict::Same(_) | Verdict::New(Change { last: None, .. })) {
                break;
            }
            self.pause(LOSS_EVERY);
            found = self.find(seen)?;
        }
        Ok(found)
    }

    /// A consumer without records waits out its poll.
    fn pause(&self, duration: Duration) {
        drop(self.offsets.consumer.poll(duration));
    }

    /// The log's identity, given a new incarnation where it is another log than was seen. Blocks for
    /// at most about the time for opening.
    pub(crate) fn settle(&self, seen: &Seen) -> Result<Texts, KafkaOpenError> {
        let deadline = self.clock.monotonic().saturating_add(self.config.open_timeout);
        let mut lock = None;
        loop {
            let reason = match self.try_settle(seen, &mut lock) {
                Ok(Some(texts)) => return Ok(texts),
                Ok(None) => "another process holds the lock".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.clock.monotonic() >= deadline {
                return Err(KafkaOpenError::Identity(reason));
            }
            match &lock {
                Some(lock) => drop(lock.poll(LOCK_POLL)),
                None => self.pause(LOCK_POLL),
            }
        }
    }

    /// Finds the identity, or begins an incarnation where this process holds the lock.
    fn try_settle(
        &self,
        seen: &Seen,
        lock: &mut Option<Consumer>,
    ) -> Result<Option<Texts>, KafkaError> {
        if let Verdict::Same(texts) = self.find_surely(seen)? {
            self.write(&texts)?;
            return Ok(Some(texts));
        }
        let held = match lock {
            Some(lock) => lock,
            None => lock.insert(self.lock()?),
        };
        if !self.is_held(held) {
            return Ok(None);
        }
        // Asked again: who held the lock before may have written it in between.
        match self.find(seen)? {
            Verdict::Same(texts) => Ok(Some(texts)),
            Verdict::New(change) => self.begin(&change, seen).map(Some),
        }
    }

    fn begin(&self, change: &Change, seen: &Seen) -> Result<Texts, KafkaError> {
        let texts = succeed(change, &self.ends()?, seen, self.clock.now());
        let incarnation = texts.first().map_or(0, |text| text.incarnation);
        let lost = texts.iter().map(|text| text.lost.len()).sum::<usize>();
        match &change.last {
            Some(last) => tracing::warn!(
                incarnation,
                last = last.incarnation,
                lost,
                "the topic was recreated, cut or given partitions: it is a new log"
            ),
            None => tracing::info!(incarnation, lost, "a new span log"),
        }
        self.write(&texts)?;
        Ok(texts)
    }

    /// Writes the identity with the ends as they are.
    fn write(&self, texts: &[IdentityText]) -> Result<(), KafkaError> {
        let places = self.partitions.iter().zip(self.ends()?);
        let kept = places
            .zip(texts)
            .map(|((partition, offset), text)| (*partition, Kept { offset, text: text.encode() }));
        self.offsets.write(&kept.collect::<Vec<_>>())
    }

    /// What is kept of this incarnation, with these runs among what is lost, and whether it was
    /// written; `None` where the topic is another log now. It is written where it changes, and always
    /// when it `is_due`, so that it does not expire. Blocks.
    pub(crate) fn keep(
        &self,
        incarnation: u64,
        lost: &[LostRun],
        is_due: bool,
    ) -> Result<Option<(Texts, bool)>, KafkaError> {
        let place_of = |run: &LostRun| run.range.partition as usize;
        self.change(incarnation, is_due, |texts| {
            let mut is_news = false;
            for run in lost {
                if let Some(text) = texts.get_mut(place_of(run)) {
                    is_news |= text.lose(run);
                }
            }
            is_news
        })
    }

    /// Forgets lost runs. Gives how many, and what is left; `None` where the topic is another log.
    /// Blocks.
    pub(crate) fn forget(
        &self,
        incarnation: u64,
        which: ForgetLost,
    ) -> Result<Option<(usize, Texts)>, KafkaError> {
        let mut forgotten = 0;
        let left = self.change(incarnation, false, |texts| {
            for text in texts {
                forgotten += text.forget(which);
            }
            forgotten > 0
        })?;
        Ok(left.map(|(texts, _)| (forgotten, texts)))
    }

    fn change(
        &self,
        incarnation: u64,
        is_due: bool,
        change: impl FnOnce(&mut Texts) -> bool,
    ) -> Result<Option<(Texts, bool)>, KafkaError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Verdict::Same(mut texts) = self.find_surely(&Seen::default())? else {
            return Ok(None);
        };
        if texts.iter().any(|text| text.incarnation != incarnation) {
            return Ok(None);
        }
        let is_written = change(&mut texts) || is_due;
        if is_written {
            self.write(&texts)?;
        }
        Ok(Some((texts, is_written)))
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
