//! Foreign records from topics of their own, as a normal consumer group takes them.
//!
//! One thread polls: cooperative-sticky, earliest where nothing was committed, commits by hand. It
//! reads on only while there is room; where there is none for a second the partitions are paused and
//! it polls on, so that the group hears of it. It must never commit what is not settled, and never
//! keep the group waiting for longer than the drain time.

mod ledger;
mod member;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::mpsc;
use trace_model::Clock;

use self::ledger::{Key, Ledger, Taken};
use self::member::{
    Context, ForeignConsumer, client, commit, list_of, note_failure, time_of, values_of,
};
use super::Upkeep;
use super::client::{Voice, number_of, offset_from};
use super::config::KafkaConfig;
use super::error::KafkaOpenError;
use super::open::upkeep;
use super::upkeep::is_stopped;
use crate::foreign::{ForeignFigures, ForeignPlace, ForeignRecord, ForeignRecords};

pub use self::ledger::ForeignLimits;

/// Callbacks and stops are looked for this often.
const POLL: Duration = Duration::from_millis(100);
/// Without room for so long, reading rests: what was fetched ahead is dropped and fetched again.
const REST_AFTER: Duration = Duration::from_secs(1);
/// Commits are written so often.
const COMMIT_EVERY: Duration = Duration::from_millis(250);
/// The lag is measured so often.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// What failed is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Leaving takes at most this long.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Which records are taken.
#[derive(Clone, Debug)]
pub struct ForeignTopics {
    /// The topics, by their whole names: the prefix of ours does not stand before them.
    pub topics: Vec<String>,
    /// The header whose values are wanted, in any case of its letters.
    pub header: Option<String>,
    /// What may be given and not settled.
    pub limits: ForeignLimits,
}

/// What the thread, its callbacks and the readers share.
#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    lag: AtomicU64,
    expired: AtomicU64,
    is_paused: AtomicBool,
}

/// A consumer of foreign records. Close it with [`ForeignRecords::close`].
pub struct KafkaForeign {
    shared: Arc<Shared>,
    given: tokio::sync::Mutex<mpsc::Receiver<ForeignRecord>>,
    thread: Mutex<Option<Upkeep>>,
}

impl fmt::Debug for KafkaForeign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KafkaForeign").field("figures", &self.figures()).finish()
    }
}

impl KafkaForeign {
    /// Begins to read. Brokers that are away, and topics that do not exist yet, are waited for.
    pub fn open(
        config: &KafkaConfig,
        topics: ForeignTopics,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, KafkaOpenError> {
        config.check()?;
        if topics.topics.is_empty() {
            let reason = "must name at least one topic";
            return Err(KafkaOpenError::Config { key: "foreign.topics", reason });
        }
        let shared = Arc::new(Shared {
            ledger: Ledger::new(topics.limits),
            lag: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            is_paused: AtomicBool::new(false),
        });
        let context = Context {
            voice: Voice::default(),
            shared: Arc::clone(&shared),
            drain_timeout: config.drain_timeout,
        };
        let consumer = client(config)?.create_with_context(context);
        let consumer = consumer.map_err(|error| KafkaOpenError::Client(error.to_string()))?;
        // The ledger bounds what is sent: it is never full but for what came while it was paused.
        let (give, given) = mpsc::channel(topics.limits.records_max.saturating_mul(2).max(1));
        let timeout = config.request_timeout;
        let reader = Reader { consumer, topics, shared: Arc::clone(&shared), clock, timeout, give };
        let thread = upkeep("foreign-spans", move |stop| reader.run(&stop));
        let thread = thread.map_err(|error| KafkaOpenError::Client(error.to_string()))?;
        let given = tokio::sync::Mutex::new(given);
        Ok(Arc::new(Self { shared, given, thread: Mutex::new(Some(thread)) }))
    }
}

#[async_trait]
impl ForeignRecords for KafkaForeign {
    async fn next(&self) -> Option<ForeignRecord> {
        self.given.lock().await.recv().await
    }

    fn settle(&self, place: &ForeignPlace) {
        self.shared.ledger.settle(place);
    }

    fn figures(&self) -> ForeignFigures {
        ForeignFigures {
            partitions: self.shared.ledger.held().len() as u64,
            lag_records: self.shared.lag.load(Ordering::Relaxed),
            expired_records: self.shared.expired.load(Ordering::Relaxed),
            is_paused: self.shared.is_paused.load(Ordering::Relaxed),
        }
    }

    async fn close(&self) {
        self.shared.ledger.end();
        self.given.lock().await.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Upkeep { thread, stop }) = thread else { return };
        drop(stop);
        let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
        if !joined.unwrap_or(false) {
            tracing::error!("the thread that reads foreign records has panicked");
        }
    }
}

impl Drop for KafkaForeign {
    fn drop(&mut self) {
        // The thread ends by itself: its stop is dropped.
        self.shared.ledger.end();
    }
}

/// The thread.
struct Reader {
    consumer: ForeignConsumer,
    topics: ForeignTopics,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    give: mpsc::Sender<ForeignRecord>,
}

/// When what is due.
struct Timetable {
    commit_at: Duration,
    lag_at: Duration,
    /// Told once until it works again.
    is_failing: bool,
}

impl Reader {
    fn run(&self, stop: &Receiver<()>) {
        let names: Vec<&str> = self.topics.topics.iter().map(String::as_str).collect();
        while let Err(error) = self.consumer.subscribe(&names) {
            tracing::error!(%error, "foreign topics cannot be subscribed to");
            if is_stopped(stop, RETRY_AFTER) {
                return;
            }
        }
        let now = self.clock.monotonic();
        let mut due = Timetable { commit_at: now, lag_at: now, is_failing: false };
        while !is_stopped(stop, Duration::ZERO) {
            if self.has_room() {
                self.poll(&mut due);
            }
            self.keep_house(&mut due);
        }
        self.leave();
    }

    /// Whether a record may be taken. Where there is no room for a while reading rests.
    fn has_room(&self) -> bool {
        let is_paused = self.shared.is_paused.load(Ordering::Relaxed);
        let at_most = if is_paused { Duration::ZERO } else { REST_AFTER };
        let has_room = self.shared.ledger.wait_for_room(at_most);
        if has_room == is_paused {
            let rested = self.rest(!has_room);
            if let Err(error) = rested {
                tracing::debug!(%error, "a foreign topic was not paused or gone on with");
            }
        }
        if !has_room && let Some(Ok(message)) = self.consumer.poll(POLL) {
            // Given while it was paused: a bit more than is wanted is better than to lose it.
            self.take(&message);
        }
        has_room
    }

    fn rest(&self, is_to_rest: bool) -> Result<(), KafkaError> {
        let assignment = self.consumer.assignment()?;
        self.shared.is_paused.store(is_to_rest, Ordering::Relaxed);
        if is_to_rest {
            tracing::debug!("foreign topics rest: too much of them is not acknowledged");
            return self.consumer.pause(&assignment);
        }
        self.consumer.resume(&assignment)
    }

    fn poll(&self, due: &mut Timetable) {
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                due.is_failing = false;
                self.take(&message);
            }
            Some(Err(error)) => note_failure(&error, &mut due.is_failing),
            None => {}
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let (Ok(partition), Ok(offset)) =
            (u32::try_from(message.partition()), u64::try_from(message.offset()))
        else {
            return;
        };
        let topic: Arc<str> = message.topic().into();
        let key = (Arc::clone(&topic), partition);
        let bytes = message.payload_len().saturating_add(message.key_len()).saturating_add(256);
        let Taken::New { since, gap } = self.shared.ledger.take(&key, offset, bytes) else {
            return;
        };
        if gap > 0 {
            self.note_gap(&key, offset, gap);
        }
        let header = self.topics.header.as_deref();
        let record = ForeignRecord {
            place: ForeignPlace { topic, partition, offset, since },
            key: message.key().map(Bytes::copy_from_slice),
            header: header.map_or_else(Vec::new, |name| values_of(message, name)),
            payload: Bytes::copy_from_slice(message.payload().unwrap_or(&[])),
            time: time_of(message.timestamp()),
        };
        // Nobody reads any more only where the source closes.
        drop(self.give.blocking_send(record));
    }

    /// Offsets without a record are marks of transactions, or records that retention has taken: those
    /// are counted.
    fn note_gap(&self, (topic, partition): &Key, offset: u64, gap: u64) {
        let asked = self.consumer.fetch_watermarks(topic, number_of(*partition), self.timeout);
        let Ok((first, _)) = asked else { return };
        let first = u64::try_from(first).unwrap_or(0);
        let expired = first.saturating_sub(offset.saturating_sub(gap)).min(gap);
        if expired > 0 {
            self.shared.expired.fetch_add(expired, Ordering::Relaxed);
            tracing::error!(
                %topic, partition, expired, offset,
                "foreign records were taken by their topic's retention before they were read"
            );
        }
    }

    fn keep_house(&self, due: &mut Timetable) {
        self.place_new();
        let now = self.clock.monotonic();
        if now >= due.commit_at {
            due.commit_at = now.saturating_add(COMMIT_EVERY);
            if let Err(error) = commit(&self.consumer, &self.shared.ledger) {
                tracing::debug!(%error, "commits of foreign records are tried again");
            }
        }
        if now >= due.lag_at {
            due.lag_at = now.saturating_add(LAG_EVERY);
            if let Some(lag) = self.measure_lag() {
                self.shared.lag.store(lag, Ordering::Relaxed);
            }
        }
    }

    /// Learns how far partitions were committed that were just given.
    fn place_new(&self) {
        let unplaced = self.shared.ledger.unplaced();
        if unplaced.is_empty() {
            return;
        }
        let wanted: Vec<(Key, Offset)> =
            unplaced.iter().map(|key| (key.clone(), Offset::Invalid)).collect();
        let asked =
            list_of(&wanted).and_then(|list| self.consumer.committed_offsets(list, self.timeout));
        let Ok(found) = asked else { return };
        for key in unplaced {
            let element = found.find_partition(&key.0, number_of(key.1));
            let Some(element) = element.filter(|element| element.error().is_ok()) else { continue };
            self.shared.ledger.place(&key, offset_from(element.offset()));
        }
    }

    /// Records of the partitions held that are not settled; `None` where a broker does not say.
    fn measure_lag(&self) -> Option<u64> {
        let mut lag = 0_u64;
        for ((topic, partition), settled) in self.shared.ledger.held() {
            let ends = self.consumer.fetch_watermarks(&topic, number_of(partition), self.timeout);
            let (first, end) = ends.ok()?;
            let (first, end) = (u64::try_from(first).ok()?, u64::try_from(end).ok()?);
            lag = lag.saturating_add(end.saturating_sub(settled.unwrap_or(first).max(first)));
        }
        Some(lag)
    }

    fn leave(&self) {
        if let Err(error) = commit(&self.consumer, &self.shared.ledger) {
            tracing::warn!(%error, "the last commits of foreign records were not written: they are read again");
        }
        self.consumer.unsubscribe();
        let until = self.clock.monotonic().saturating_add(LEAVE_WITHIN);
        while !self.shared.ledger.held().is_empty() && self.clock.monotonic() < until {
            drop(self.consumer.poll(POLL));
        }
    }
}
