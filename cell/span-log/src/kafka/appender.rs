//! Appends batches: one record a trace, acknowledged by all in-sync replicas.
//!
//! It must never answer before the brokers have, and never wait without an end: librdkafka reports
//! each record as delivered or failed within the append's time limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use proto::{SpanBatch, TraceSlice};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::client::{Voice, base, millis, number_of};
use super::config::KafkaConfig;
use super::ends::Ends;
use super::envelope::{Envelope, HEADER, key_of, partition_of};
use super::error::KafkaOpenError;
use super::message::time_of;
use super::pending::{Budget, Pending};
use super::record::{RecordWriter, Uncuttable, uncuttable};
use crate::port::{Appended, LogError};

/// The delivery thread looks up this often whether it is to stop. The client counts down whole milliseconds: the last of
/// each wait is spent turning.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Room for key, header and framing beside a payload.
const RECORD_FRAME_BYTES: usize = 64 << 10;
/// A batch of this many bytes takes milliseconds to cut: not on a thread of the runtime.
const CUT_ASIDE_BYTES: usize = 1 << 20;

/// Takes the delivery reports.
struct Reports {
    voice: Voice,
    ends: Arc<Ends>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, append: Arc<Pending>) {
        match result {
            Ok(message) => {
                self.voice.reachable.found();
                let brokers = time_of(message.timestamp());
                let partition = u32::try_from(message.partition());
                match (partition, u64::try_from(message.offset())) {
                    (Ok(partition), Ok(offset)) if append.is_possible(partition, offset) => {
                        let time = self.ends.passed(partition, offset, brokers);
                        append.delivered(Some((partition, offset)), time);
                    }
                    (Ok(_), Ok(offset)) => {
                        let reason = format!("offset {offset} was given a second time");
                        self.ends.note_another_log(&reason);
                        append.failed(LogError::Unavailable(reason));
                    }
                    _ => append.delivered(None, brokers),
                }
            }
            Err((error, _)) => append.failed(refusal(error)),
        }
    }
}

/// What a failed record means to the sender: it may always be repeated.
fn refusal(error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => LogError::Overloaded,
        Some(code) => LogError::Unavailable(code.to_string()),
        None => LogError::Unavailable(error.to_string()),
    }
}

/// A producer and the thread that serves its reports.
struct Line {
    producer: Arc<BaseProducer<Reports>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    fn open(config: &KafkaConfig, reports: Reports) -> Result<Self, KafkaOpenError> {
        let failed = |error: &dyn ToString| KafkaOpenError::Client(error.to_string());
        let mut client = base(config)?;
        client.set("acks", "all");
        client.set("enable.idempotence", "true");
        client.set("compression.codec", "lz4");
        client.set("linger.ms", config.linger.as_millis().to_string());
        client.set("message.timeout.ms", millis(config.append_timeout));
        client.set("queue.buffering.max.messages", "0");
        // The budget bounds what is queued; this only has to hold it with its frames.
        let kilobytes = (config.queue_bytes_max.max(config.batch_bytes_max) >> 10) * 4 + 65_536;
        client.set("queue.buffering.max.kbytes", kilobytes.min(2_000_000_000).to_string());
        let message_max = config.record_bytes_max + RECORD_FRAME_BYTES;
        client.set("message.max.bytes", message_max.to_string());
        let producer: BaseProducer<Reports> =
            client.create_with_context(reports).map_err(|error| failed(&error))?;
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let polled = (Arc::clone(&producer), Arc::clone(&stop));
        let serve = move || {
            let (producer, stop) = polled;
            while !stop.load(Ordering::Relaxed) {
                producer.poll(POLL_EVERY);
            }
        };
        let named = std::thread::Builder::new().name("span-log-reports".to_owned());
        let thread = named.spawn(serve).map_err(|error| failed(&error))?;
        Ok(Self { producer, stop, thread: Some(thread) })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within one poll.
            drop(thread.join());
        }
    }
}

/// Appends to the topic's partitions.
pub(crate) struct Appender {
    config: KafkaConfig,
    topic: String,
    ends: Arc<Ends>,
    voice: Voice,
    budget: Arc<Budget>,
    line: Mutex<Held>,
}

/// The producer, and before and after it.
enum Held {
    /// Nothing was appended yet: most processes of a cell only read, and a producer has threads and connections.
    NoneYet,
    Open(Arc<Line>),
    Closed,
}

impl Appender {
    pub(crate) fn new(config: &KafkaConfig, ends: Arc<Ends>, voice: Voice) -> Self {
        Self {
            config: config.clone(),
            topic: config.topic_name(),
            ends,
            voice,
            budget: Budget::new(config.queue_bytes_max),
            line: Mutex::new(Held::NoneYet),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer in use, made by the first who appends. One that has failed for good (its sequence is broken) is
    /// replaced: what it had in flight was refused, and its senders repeat it.
    fn line(&self) -> Result<Arc<Line>, LogError> {
        let mut held = self.lock();
        match &*held {
            Held::Closed => return Err(LogError::Closed),
            Held::NoneYet => {}
            Held::Open(line) => match line.producer.client().fatal_error() {
                None => return Ok(Arc::clone(line)),
                Some((code, reason)) => {
                    tracing::warn!(%code, reason, "the producer of the span log is replaced");
                }
            },
        }
        let reports = Reports { voice: self.voice.clone(), ends: Arc::clone(&self.ends) };
        let line = Line::open(&self.config, reports);
        let line = Arc::new(line.map_err(|error| LogError::Unavailable(error.to_string()))?);
        *held = Held::Open(Arc::clone(&line));
        Ok(line)
    }

    /// Bytes on their way.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.budget.held()
    }

    /// Appends a batch that is not empty; ends when all its records are acknowledged, or one is
    /// not.
    pub(crate) async fn append(
        self: &Arc<Self>,
        batch: Arc<SpanBatch>,
    ) -> Result<Appended, LogError> {
        let bytes = batch.encoded().len();
        let share = self.budget.take(bytes).ok_or(LogError::Overloaded)?;
        let line = self.line()?;
        let (append, answer) = Pending::new(share);
        if bytes < CUT_ASIDE_BYTES {
            self.hand_over(&line, &batch, &append)?;
        } else {
            let this = Arc::clone(self);
            let work = move || this.hand_over(&line, &batch, &append);
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| LogError::Unavailable(error.to_string()))??;
        }
        // Every record is reported; a sender is dropped only with its producer.
        answer.await.unwrap_or(Err(LogError::Closed))
    }

    /// Hands the records of a batch to the producer. What was handed over before a failure is sent
    /// all the same: the sender repeats the whole, and readers bear it.
    fn hand_over(
        &self,
        line: &Line,
        batch: &SpanBatch,
        append: &Arc<Pending>,
    ) -> Result<(), LogError> {
        let bytes_max = self.config.record_bytes_max;
        if let Some(bytes) = uncuttable(batch, bytes_max) {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let mut writer = RecordWriter::default();
        for trace in batch.traces() {
            self.hand_over_trace(line, batch, trace, &mut writer, append)?;
        }
        append.all_handed();
        Ok(())
    }

    fn hand_over_trace(
        &self,
        line: &Line,
        batch: &SpanBatch,
        trace: &TraceSlice,
        writer: &mut RecordWriter,
        append: &Arc<Pending>,
    ) -> Result<(), LogError> {
        let key = key_of(&batch.source().tenant, trace.trace_id);
        let partition = partition_of(&key, self.ends.count());
        let source = batch.source().clone();
        let mut envelope = Envelope { source, threshold: trace.threshold, part: 0 };
        let mut sent = Ok(());
        let bytes_max = self.config.record_bytes_max;
        let cut = writer.payloads(batch, trace, bytes_max, |payload| {
            if sent.is_err() {
                return;
            }
            let value = envelope.encode();
            envelope.part += 1;
            let header = Header { key: HEADER, value: Some(&value) };
            let headers = OwnedHeaders::new_with_capacity(1).insert(header);
            append.expect_one(partition, self.ends.get(partition).map_or(0, |end| end.next));
            let record = BaseRecord::with_opaque_to(&self.topic, Arc::clone(append))
                .key(&key)
                .payload(payload)
                .partition(number_of(partition))
                .headers(headers);
            if let Err((error, _)) = line.producer.send(record) {
                sent = Err(refusal(&error));
            }
        });
        cut.map_err(|Uncuttable { bytes }| LogError::TooLarge { bytes, bytes_max })?;
        sent
    }

    /// Sends what waits, inside the append's time limit, and ends. Blocks.
    pub(crate) fn close(&self) -> Result<(), LogError> {
        let held = std::mem::replace(&mut *self.lock(), Held::Closed);
        let Held::Open(line) = held else { return Ok(()) };
        let flushed = line.producer.flush(self.config.append_timeout);
        flushed.map_err(|error| LogError::Unavailable(error.to_string()))
    }
}
