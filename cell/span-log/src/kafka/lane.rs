//! A lane: one consumer with manual assignment, and in each partition that it was asked for a
//! stream that goes on where its last reader stopped.
//!
//! librdkafka fetches ahead, bounded in each partition; what is not asked for is not fetched. It must
//! never step over an offset without saying so: what is missing or unreadable is an item of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::KnownContexts;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::Notify;
use trace_model::{LogRange, UnixNanos};

use super::blocks::Item;
use super::client::{Consumer, Voice, lane, list_of, number_of, offset_at};
use super::config::KafkaConfig;
use super::ends::Ends;
use super::error::KafkaOpenError;
use super::message::{item_of, no_record, push, time_of};
use super::questions::{Questions, ask};
use crate::port::{DamagedRange, LogError};

/// No place.
const NOWHERE: u64 = u64::MAX;
/// So often must a partition end before a place where its leader says that it does not.
const EMPTY_ROUNDS: u32 = 3;
const EMPTY_EVERY: Duration = Duration::from_millis(300);
/// Records decoded in one go before other tasks get their turn.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// What the streams of a log share.
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) incarnation: u64,
    pub(crate) ends: Arc<Ends>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) timeout: Duration,
}

/// One consumer.
pub(crate) struct Lane {
    consumer: Arc<Consumer>,
    place: Arc<Place>,
    streams: Mutex<HashMap<u32, Arc<Stream>>>,
}

/// One partition of a lane.
pub(crate) struct Stream {
    partition: u32,
    /// Offset that the next record has; [`NOWHERE`] while the partition is not assigned.
    position: AtomicU64,
    /// When it was read last, in milliseconds of the monotonic clock.
    used_at: AtomicU64,
    state: tokio::sync::Mutex<StreamState>,
    filled: Arc<Notify>,
}

struct StreamState {
    queue: PartitionQueue<Voice>,
    met: Met,
}

/// What the records read so far leave to the next.
#[derive(Default)]
struct Met {
    /// Append time of the last record: the next has none before it.
    last_append: UnixNanos,
    /// The partition's end when it was assigned, until a record comes: where the end is reached
    /// without one, there is none in between.
    end_at_assign: Option<u64>,
    contexts: KnownContexts,
}

/// What a look into the queue gave.
#[derive(Default)]
struct Drained {
    items: Vec<Item>,
    bytes: usize,
    has_reached_end: bool,
    error: Option<LogError>,
}

impl Lane {
    pub(crate) fn open(
        config: &KafkaConfig,
        voice: &Voice,
        place: Arc<Place>,
    ) -> Result<Self, KafkaOpenError> {
        let consumer = Arc::new(lane(config, voice)?);
        Ok(Self { consumer, place, streams: Mutex::default() })
    }

    /// The stream of a partition, made where it was never asked for.
    pub(crate) fn stream(&self, partition: u32) -> Option<Arc<Stream>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(&partition) {
            return Some(Arc::clone(stream));
        }
        // Split before it is assigned: then no record ever takes the consumer's common queue.
        let number = number_of(partition);
        let mut queue = self.consumer.split_partition_queue(&self.place.topic, number)?;
        let filled = Arc::new(Notify::new());
        let wake = Arc::clone(&filled);
        queue.set_nonempty_callback(move || wake.notify_one());
        let state = StreamState { queue, met: Met::default() };
        let stream = Arc::new(Stream {
            partition,
            position: AtomicU64::new(NOWHERE),
            used_at: AtomicU64::new(0),
            state: tokio::sync::Mutex::new(state),
            filled,
        });
        streams.insert(partition, Arc::clone(&stream));
        Some(stream)
    }

    /// Lets the client say what it has to say, and lets go of partitions that nobody has read since
    /// `since_ms`. Gives whether any is still assigned.
    pub(crate) fn keep_house(&self, since_ms: u64) -> bool {
        drop(self.consumer.poll(Duration::ZERO));
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_used = false;
        for stream in streams.values() {
            let is_idle = stream.used_at.load(Ordering::Relaxed) < since_ms;
            match stream.state.try_lock() {
                Ok(_held) if is_idle && stream.position() != NOWHERE => self.unassign(stream),
                Ok(_) => is_used |= stream.position() != NOWHERE,
                Err(_) => is_used = true,
            }
        }
        is_used
    }

    fn unassign(&self, stream: &Stream) {
        if stream.position.swap(NOWHERE, Ordering::Relaxed) == NOWHERE {
            return;
        }
        let list = list_of(&self.place.topic, [stream.partition], rdkafka::Offset::Invalid);
        let unassigned = list.and_then(|list| self.consumer.incremental_unassign(&list));
        if let Err(error) = unassigned {
            tracing::debug!(%error, partition = stream.partition, "a partition was not let go");
        }
    }

    fn assign(&self, stream: &Stream, state: &mut StreamState, from: u64) -> Result<(), LogError> {
        self.unassign(stream);
        let end = self.place.ends.get(stream.partition)?.next;
        let assigned = list_of(&self.place.topic, [stream.partition], offset_at(from))
            .and_then(|list| self.consumer.incremental_assign(&list));
        assigned.map_err(|error| LogError::Unavailable(error.to_string()))?;
        stream.position.store(from, Ordering::Relaxed);
        state.met.last_append = UnixNanos(0);
        state.met.end_at_assign = Some(end);
        Ok(())
    }

    /// Items from an offset on: at least one, or why there is none in time. None where another
    /// reader was first and has read them.
    pub(crate) async fn read(
        &self,
        stream: &Stream,
        from: u64,
        bytes_max: usize,
        is_read: impl Fn() -> bool + Send,
    ) -> Result<Vec<Item>, LogError> {
        let mut state = stream.state.lock().await;
        if stream.position() != from {
            if is_read() {
                return Ok(Vec::new());
            }
            self.assign(stream, &mut state, from)?;
        }
        let timeout = self.place.timeout;
        let reading = self.read_on(stream, &mut state, bytes_max);
        match tokio::time::timeout(timeout, reading).await {
            Ok(read) => read,
            Err(_) => {
                // Whatever it was waiting for, it begins anew.
                self.unassign(stream);
                let place = format!("no record at offset {from} of partition {}", stream.partition);
                Err(LogError::Unavailable(format!("{place} within {timeout:?}")))
            }
        }
    }

    async fn read_on(
        &self,
        stream: &Stream,
        state: &mut StreamState,
        bytes_max: usize,
    ) -> Result<Vec<Item>, LogError> {
        let quiet_max = self.place.timeout / 4;
        let mut empty_rounds = 0;
        loop {
            let drained = self.drain(stream, state, bytes_max.min(DRAIN_BYTES_MAX));
            if drained.error.is_some() {
                // What failed is met again by the next read, which begins anew.
                self.unassign(stream);
            }
            match drained.error {
                _ if !drained.items.is_empty() => return Ok(drained.items),
                Some(error) => return Err(error),
                None => {}
            }
            let position = stream.position();
            let end = state.met.end_at_assign.filter(|end| *end > position);
            if let (true, Some(end)) = (drained.has_reached_end, end) {
                empty_rounds += 1;
                if empty_rounds >= EMPTY_ROUNDS {
                    return Ok(vec![self.nothing_until(stream, state, end)]);
                }
                self.assign_when_ended(stream, state, end).await?;
                continue;
            }
            let filled = stream.filled.notified();
            if tokio::time::timeout(quiet_max, filled).await.is_err() {
                // Nothing comes although something must: asked anew, the broker says what is there.
                self.assign(stream, state, position)?;
            }
        }
    }

    /// The partition was read to its end without a record, although it is known to end later. That
    /// proves nothing yet: a new leader may not know for a moment what was acknowledged by the old
    /// one. So the leader has to say that it does, before it is asked for the records once more.
    async fn assign_when_ended(
        &self,
        stream: &Stream,
        state: &mut StreamState,
        end: u64,
    ) -> Result<(), LogError> {
        let (partition, position) = (stream.partition, stream.position());
        loop {
            tokio::time::sleep(EMPTY_EVERY).await;
            let ends = ask(&self.place.questions, move |one| one.ends(&[partition])).await?;
            if ends.first().is_some_and(|(_, found)| *found >= end) {
                return self.assign(stream, state, position);
            }
        }
    }

    /// There is no record from the position up to `end`.
    fn nothing_until(&self, stream: &Stream, state: &StreamState, end: u64) -> Item {
        let first = stream.position.swap(end, Ordering::Relaxed);
        let range = LogRange { partition: stream.partition, first, next: end };
        no_record(range, (state.met.last_append, self.end_time(stream)))
    }

    /// Takes what the queue holds, without waiting.
    fn drain(&self, stream: &Stream, state: &mut StreamState, bytes_max: usize) -> Drained {
        let mut drained = Drained::default();
        let StreamState { queue, met } = state;
        while drained.bytes < bytes_max && drained.error.is_none() {
            let Some(polled) = queue.poll(Duration::ZERO) else { break };
            match polled {
                Ok(message) => self.take(stream, &message, met, &mut drained),
                Err(KafkaError::PartitionEOF(_)) => drained.has_reached_end = true,
                Err(error) => drained.error = self.failure(stream, met.last_append, &error),
            }
        }
        drained
    }

    /// Takes a message in: skips one that is already read, names a gap before it.
    fn take(
        &self,
        stream: &Stream,
        message: &BorrowedMessage<'_>,
        met: &mut Met,
        drained: &mut Drained,
    ) {
        let Ok(offset) = u64::try_from(message.offset()) else { return };
        let position = stream.position();
        if offset < position || position == NOWHERE {
            return;
        }
        let brokers = time_of(message.timestamp()).max(met.last_append);
        let append_time = self.place.ends.passed(stream.partition, offset, brokers);
        let (partition, next) = (stream.partition, offset.saturating_add(1));
        let range = LogRange { partition, first: offset, next };
        let item = match item_of(
            message,
            &mut met.contexts,
            self.place.incarnation,
            range,
            append_time,
        ) {
            Ok(item) => item,
            Err(version) => {
                let reason = format!(
                    "the record at offset {offset} of partition {partition} was written by a newer \
                     release (version {version})"
                );
                drained.error = Some(LogError::Unavailable(reason));
                return;
            }
        };
        if offset > position {
            let gap = LogRange { partition, first: position, next: offset };
            push(&mut drained.items, no_record(gap, (met.last_append, append_time)));
        }
        drained.bytes = drained.bytes.saturating_add(message.payload_len() + 256);
        push(&mut drained.items, item);
        met.last_append = append_time;
        met.end_at_assign = None;
        stream.position.store(next, Ordering::Relaxed);
    }

    fn end_time(&self, stream: &Stream) -> UnixNanos {
        self.place.ends.get(stream.partition).map(|end| end.append_time).unwrap_or_default()
    }

    /// What an error of the queue means; `None` where the client goes on by itself.
    fn failure(
        &self,
        stream: &Stream,
        last_append: UnixNanos,
        error: &KafkaError,
    ) -> Option<LogError> {
        let position = stream.position();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Some(LogError::Expired { wanted: position, first: 0 })
            }
            Some(RDKafkaErrorCode::InvalidMessage | RDKafkaErrorCode::BadMessage) => {
                let partition = stream.partition;
                let next = position.saturating_add(1);
                let range = LogRange { partition, first: position, next };
                let append_times = (last_append, self.end_time(stream));
                let reason = format!("the broker's copy is damaged: {error}");
                Some(LogError::Damaged(DamagedRange {
                    range,
                    append_times,
                    reason,
                    stranger: None,
                }))
            }
            _ => {
                tracing::debug!(%error, partition = stream.partition, "a lane waits");
                None
            }
        }
    }
}

impl Stream {
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    pub(crate) fn is_assigned(&self) -> bool {
        self.position() != NOWHERE
    }

    /// Notes that it is read now.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.used_at.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn used_at(&self) -> u64 {
        self.used_at.load(Ordering::Relaxed)
    }
}
