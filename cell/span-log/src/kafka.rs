//! The span log on Apache Kafka: the port's promises on a topic that brokers keep.
//!
//! An append is acknowledged when all in-sync replicas have its records. Readers have positions of
//! their own; Kafka only keeps how far each group has come. It must never acknowledge what the
//! brokers have not, never step over an offset in silence, and never wait without an end. The
//! decisions behind it are `docs/DECISIONS/015-kafka-log.md`.

mod appender;
mod blocks;
mod board;
mod client;
mod commits;
mod config;
mod core;
mod ends;
mod envelope;
mod error;
mod figures;
mod foreign;
mod group_offsets;
mod identity;
mod identity_text;
mod init;
mod lane;
mod lanes;
mod losses;
mod lost;
mod member;
mod membership;
mod message;
mod missed;
mod open;
mod pending;
mod questions;
mod record;
mod required;
mod security;
mod succession;
mod tail;
mod tail_disk;
mod tail_memory;
mod upkeep;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::watch;
use tokio::task::JoinSet;
use trace_model::{LogRange, TenantId, TraceId, UnixNanos};

use self::appender::Appender;
use self::core::Core;
use self::envelope::{key_of, partition_of};
use self::lanes::batches_of;
use self::membership::Membership;
use self::open::upkeep;
use self::questions::ask;
use self::record::span_bytes_max;
use self::required::Required;
use self::tail::{Tail, read_from_disk};
use self::upkeep::{HEARD_WITHIN, Upkeep, forget_lost, shut};
use crate::assignment::{Assignment, Hold, Sharing};
use crate::metrics::LogMetrics;
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ForgetLost, GroupId, LogEnd, LogError,
    LogIdentity, Lost, LostCause, LostRun, MissedRun, STORAGE_WRITER, SpanLog, TailAnswer,
};

pub use self::config::{KafkaConfig, KafkaTailConfig, KafkaTailDisk, KafkaTopic, own_properties};
pub use self::error::KafkaOpenError;
pub use self::figures::{GroupFigures, KafkaFigures, TopicFigures, figures};
pub use self::foreign::{ForeignLimits, ForeignTopics, KafkaForeign};
pub use self::init::{TopicReport, TopicSettings};
pub use self::security::{KafkaLogin, KafkaSecurity, KafkaTls, SaslMechanism};

/// An open log. Close it with [`SpanLog::close`], which brings appends and commits to the brokers;
/// dropping it does not.
pub struct KafkaLog {
    core: Arc<Core>,
    appender: Arc<Appender>,
    required: Arc<Required>,
    tail: Option<Arc<Tail>>,
    tasks: Mutex<JoinSet<()>>,
    threads: Mutex<Vec<Upkeep>>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = self.core.config.topic_name();
        formatter.debug_struct("KafkaLog").field("topic", &topic).finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// The log's metrics.
    #[must_use]
    pub fn metrics(&self) -> &LogMetrics {
        &self.core.metrics
    }

    /// Does what waits for the brokers on a thread that may wait.
    async fn ask_brokers<T: Send + 'static, E: ToString + Send + 'static>(
        &self,
        question: impl FnOnce(&Core) -> Result<T, E> + Send + 'static,
    ) -> Result<T, LogError> {
        self.core.check_open()?;
        let failed = |error: &dyn ToString| LogError::Unavailable(error.to_string());
        let core = Arc::clone(&self.core);
        let asked = tokio::task::spawn_blocking(move || question(&core)).await;
        asked.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    async fn append_batch(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        let (bytes, bytes_max) = (batch.encoded().len(), self.core.config.batch_bytes_max);
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        self.required.check()?;
        let records = batch.traces().len() as u64;
        let appended = self.appender.append(batch).await;
        let queued = i64::try_from(self.appender.queued_bytes()).unwrap_or(i64::MAX);
        self.core.metrics.queue_bytes.set(queued);
        let appended = appended?;
        self.core.metrics.appended_bytes.inc_by(bytes as u64);
        self.core.metrics.appended_batches.inc();
        self.core.metrics.appended_records.inc_by(records);
        Ok(appended)
    }

    /// An empty batch takes no offset.
    fn appended_nothing(&self) -> Result<Appended, LogError> {
        let LogEnd { next, append_time, .. } = self.core.ends.get(0)?;
        let range = LogRange { partition: 0, first: next, next };
        Ok(Appended { ranges: vec![range], append_time })
    }

    /// Asks the trace's leader for the end, and waits inside the tail's time limit until the tail is
    /// there. Gives the end, where it was learnt.
    async fn catch_up(&self, tail: &Tail, partition: u32) -> Option<u64> {
        let catching_up = async {
            let end = self.core.ask_end(partition).await.ok()?;
            tail.wait_for(partition, end, tail.timeout()).await;
            Some(end)
        };
        tokio::time::timeout(tail.timeout(), catching_up).await.ok().flatten()
    }

    /// Commits a partition, held by this process where it has joined the group.
    fn note_commit(
        &self,
        group: GroupId,
        (partition, hold): (u32, Option<Hold>),
        next: u64,
    ) -> Result<(), CommitError> {
        self.core.check_partition(partition)?;
        let end = self.core.ends.get(partition)?.next;
        if next > end {
            tracing::warn!(%group, partition, next, end, "a commit beyond the end was held there");
        }
        self.core.commits.commit(group, (partition, hold), next, end)
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // Threads and tasks end by themselves: nothing waits for them here.
        self.core.is_closed.store(true, Ordering::Relaxed);
        self.core.ends.close();
    }
}

#[async_trait]
impl SpanLog for KafkaLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            has_live_tail: self.tail.is_some(),
            can_seek_by_time: true,
        }
    }

    fn identity(&self) -> LogIdentity {
        self.core.identity
    }

    fn span_bytes_max(&self) -> Option<usize> {
        Some(span_bytes_max(self.core.config.record_bytes_max))
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        self.core.check_open()?;
        self.health().map_err(LogError::Unavailable)?;
        if batch.traces().is_empty() {
            return self.appended_nothing();
        }
        let appended = self.append_batch(batch).await;
        appended.inspect_err(|error| self.core.metrics.refuse(error))
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        let items = self.core.read_items(partition, from, bytes_max).await?;
        batches_of(items, from)
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.core.wait_beyond(partition, offset, at_most).await
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        self.core.check_open()?;
        self.core.ends.get(partition)
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        self.core.check_partition(partition)?;
        let asked = ask(&self.core.questions, move |one| one.offset_at(partition, time)).await?;
        match asked {
            Some(offset) => Ok(offset),
            None => self.core.ask_end(partition).await,
        }
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        self.core.check_partition(partition)?;
        let committed = self.core.commits.committed(group, partition)?;
        match committed {
            Some(committed) => Ok(committed),
            None => self.core.ends.get(partition).map(|end| end.first),
        }
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        self.core.check_partition(partition)?;
        Ok(self.core.commits.committed(group, partition)?.is_some())
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        self.note_commit(group, (partition, None), next)
    }

    fn join(&self, group: GroupId, sharing: Sharing) -> watch::Receiver<Assignment> {
        let (board, is_new) = self.core.commits.board_to_join(group);
        board.set_absent(false);
        let told = board.subscribe();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new && !self.core.is_closed.load(Ordering::Relaxed) {
            let membership = Membership::new(Arc::clone(&self.core), group, sharing, board);
            let started = upkeep(&format!("span-log-{group}"), move |stop| membership.run(&stop));
            match started {
                Ok(thread) => threads.push(thread),
                Err(error) => self.core.note_fatal(format!("no thread for {group}: {error}")),
            }
        }
        told
    }

    async fn commit_held(&self, group: GroupId, hold: Hold, next: u64) -> Result<(), CommitError> {
        self.note_commit(group, (hold.partition, Some(hold)), next)
    }

    fn release(&self, group: GroupId, hold: Hold) {
        if let Some(board) = self.core.commits.board(group) {
            board.release(hold);
        }
    }

    fn leave(&self, group: GroupId) {
        if let Some(board) = self.core.commits.board(group) {
            board.set_absent(true);
        }
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        self.core.check_open()?;
        let Some(tail) = &self.tail else {
            return Err(LogError::Unavailable("this process holds no live tail".to_owned()));
        };
        let partition = partition_of(&key_of(tenant, trace_id), self.core.ends.count());
        let end = self.catch_up(tail, partition).await;
        self.core.check_open()?;
        let incarnation = self.core.identity.incarnation;
        let (found, covered) = tail.find(partition, tenant, trace_id, incarnation)?;
        let found = read_from_disk(found, tenant, trace_id).await?;
        let reached = covered.next.get(&partition).copied().unwrap_or(0);
        let is_behind = end.is_none_or(|end| reached < end);
        let is_damaged = found.is_damaged;
        let (silent, begins) = (Vec::new(), None);
        Ok(TailAnswer { spans: found.spans, covered, is_damaged, is_behind, silent, begins })
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        self.core.damaged.lock().unwrap_or_else(PoisonError::into_inner).ranges.clone()
    }

    fn lost(&self) -> Lost {
        let (lost, missed) = (self.core.lost().all(), self.core.missed.known());
        let expired_until = lost.expired_until.max(missed.expired_until);
        Lost { missed: missed.missed, expired_until, ..lost }
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        let left = self.ask_brokers(move |core| forget_lost(core, which)).await?;
        left.ok_or_else(|| LogError::Unavailable("the topic is another log now".to_owned()))
    }

    fn appended_since(&self, partition: u32, offset: u64) -> UnixNanos {
        self.core.ends.bound(partition, offset)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        loop {
            let missed = missed.clone();
            if !self.ask_brokers(move |core| core.missed.note(&missed, &core.ends)).await? {
                return Ok(());
            }
            // The group goes on only when those who answer have heard of it; and when no process that
            // had read the note's place before has written that over it.
            tokio::time::sleep(HEARD_WITHIN).await;
        }
    }

    async fn note_set_aside(
        &self,
        group: GroupId,
        range: LogRange,
        append_times: (UnixNanos, UnixNanos),
    ) -> Result<(), LogError> {
        self.core.check_open()?;
        let (incarnation, cause) = (self.core.identity.incarnation, LostCause::SetAside);
        let run = LostRun { incarnation, range, append_times, cause };
        if group == STORAGE_WRITER {
            self.core.lost().note(run);
            return self.ask_brokers(|core| core.losses.tell(false)).await;
        }
        let missed = MissedRun { group, run };
        self.ask_brokers(move |core| core.missed.note(&missed, &core.ends)).await.map(drop)
    }

    fn health(&self) -> Result<(), String> {
        if self.core.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.core.check_open().map_err(|error| error.to_string())?;
        if let Some(reason) = self.core.fatal() {
            return Err(reason);
        }
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = threads.iter().find(|one| one.thread.is_finished());
        if let Some(name) = ended.and_then(|one| one.thread.thread().name()) {
            return Err(format!("the thread {name} has ended"));
        }
        match self.tail.as_ref().map_or(0, |tail| tail.ended()) {
            0 => Ok(()),
            ended => Err(format!("the live tail of {ended} partitions has ended")),
        }
    }

    async fn close(&self) -> Result<(), LogError> {
        if self.core.is_closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.core.ends.close();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let (core, appender) = (Arc::clone(&self.core), Arc::clone(&self.appender));
        let shut = tokio::task::spawn_blocking(move || shut(&core, &appender, threads)).await;
        shut.map_err(|error| LogError::Unavailable(error.to_string()))?
    }
}
