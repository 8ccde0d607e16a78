//! What the calls, the tasks and the threads of a log on Kafka share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trace_model::{Clock, LogRange, UnixNanos};

use super::blocks::{Item, Loss};
use super::commits::Commits;
use super::config::KafkaConfig;
use super::ends::Ends;
use super::identity::IdentityKeeper;
use super::lanes::Lanes;
use super::losses::Losses;
use super::lost::LostBoard;
use super::missed::MissedKeeper;
use super::questions::{Questions, ask};
use crate::metrics::LogMetrics;
use crate::port::{
    DamagedRange, LogEnd, LogError, LogIdentity, LostCause, LostRun, STORAGE_WRITER,
};

/// Damaged ranges that are listed; more are counted.
const DAMAGED_MAX: usize = 10_000;

/// The shared parts.
pub(crate) struct Core {
    pub(crate) config: KafkaConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) identity: LogIdentity,
    pub(crate) identity_keeper: Arc<IdentityKeeper>,
    pub(crate) metrics: LogMetrics,
    pub(crate) ends: Arc<Ends>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) lanes: Lanes,
    pub(crate) commits: Commits,
    pub(crate) damaged: Mutex<DamageList>,
    pub(crate) losses: Arc<Losses>,
    pub(crate) missed: MissedKeeper,
    /// What only a new start of the process mends.
    pub(crate) fatal: Mutex<Option<String>>,
    pub(crate) is_closed: AtomicBool,
}

/// Ranges set aside, each once.
#[derive(Debug, Default)]
pub(crate) struct DamageList {
    seen: BTreeSet<(u32, u64)>,
    pub(crate) ranges: Vec<DamagedRange>,
}

impl Core {
    pub(crate) fn check_open(&self) -> Result<(), LogError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(LogError::Closed);
        }
        if self.ends.is_another_log() {
            let topic = self.config.topic_name();
            let reason = format!("the topic {topic} is another log now; this process must restart");
            return Err(LogError::Unavailable(reason));
        }
        Ok(())
    }

    pub(crate) fn check_partition(&self, partition: u32) -> Result<(), LogError> {
        self.check_open()?;
        self.ends.get(partition).map(drop)
    }

    /// Asks where a partition ends now.
    pub(crate) async fn ask_end(&self, partition: u32) -> Result<u64, LogError> {
        let error = u64::try_from(self.config.clock_error_max.as_nanos()).unwrap_or(u64::MAX);
        let asked_at: UnixNanos = self.clock.now().minus(error);
        let ends = ask(&self.questions, move |one| one.ends(&[partition])).await?;
        let end = ends.first().map(|(_, end)| *end);
        let end = end.ok_or_else(|| LogError::Unavailable("no end was named".to_owned()))?;
        self.ends.answered(partition, end, asked_at);
        Ok(end)
    }

    /// Items from an offset on; damage is noted.
    pub(crate) async fn read_items(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Item>, LogError> {
        self.check_partition(partition)?;
        let read = self.lanes.read(partition, from, bytes_max).await;
        self.check_open()?;
        match read {
            Err(LogError::Expired { wanted, first }) => {
                let error = match first {
                    0 => self.expired(partition, wanted).await,
                    first => LogError::Expired { wanted, first },
                };
                // Before storage-writer steps over it and its commit says that it has it. Where it is
                // elsewhere it may be further than is known here: upkeep asks first.
                if self.commits.holds(STORAGE_WRITER, partition) {
                    self.note_overtaken(partition);
                }
                Err(error)
            }
            Err(LogError::Damaged(damaged)) => {
                self.note_damage(&damaged, &Loss::Unknown);
                Err(LogError::Damaged(damaged))
            }
            Ok(items) => {
                for item in &items {
                    if let Item::Damaged(damaged, loss) = item {
                        self.note_damage(damaged, loss);
                    }
                }
                Ok(items)
            }
            Err(error) => Err(error),
        }
    }

    /// The brokers do not have an offset: it is no longer kept, or the log has lost its end.
    async fn expired(&self, partition: u32, wanted: u64) -> LogError {
        let firsts = ask(&self.questions, move |one| one.firsts(&[partition])).await;
        match firsts.map(|firsts| firsts.first().map_or(0, |(_, first)| *first)) {
            Ok(first) if first > wanted => {
                self.ends.starts_at(partition, first);
                LogError::Expired { wanted, first }
            }
            Ok(_) => LogError::Unavailable(format!(
                "the brokers have no offset {wanted} of partition {partition}"
            )),
            Err(error) => error,
        }
    }

    fn note_damage(&self, damaged: &DamagedRange, loss: &Loss) {
        if *loss != Loss::Foreign {
            self.note_lost(damaged.range, damaged.append_times, LostCause::Damaged);
        }
        let mut list = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (damaged.range.partition, damaged.range.first);
        if list.seen.len() >= DAMAGED_MAX || !list.seen.insert(place) {
            return;
        }
        let records = damaged.range.next.saturating_sub(damaged.range.first);
        self.metrics.damaged_records.inc_by(records);
        list.ranges.push(damaged.clone());
    }

    /// Notes records that will not come, as far as storage-writer has not committed them.
    pub(crate) fn note_lost(
        &self,
        mut range: LogRange,
        append_times: (UnixNanos, UnixNanos),
        cause: LostCause,
    ) {
        let stored = self.commits.known_offset(STORAGE_WRITER, range.partition).unwrap_or(0);
        range.first = range.first.max(stored);
        if range.first < range.next {
            let incarnation = self.identity.incarnation;
            self.lost().note(LostRun { incarnation, range, append_times, cause });
        }
    }

    /// Notes what retention has taken before storage-writer had it.
    pub(crate) fn note_overtaken(&self, partition: u32) {
        let Some(next) = self.commits.known_offset(STORAGE_WRITER, partition) else { return };
        let Ok(LogEnd { first, .. }) = self.ends.get(partition) else { return };
        if next < first {
            let range = LogRange { partition, first: next, next: first };
            self.note_lost(range, (UnixNanos(0), self.clock.now()), LostCause::Dropped);
        }
    }

    pub(crate) fn lost(&self) -> MutexGuard<'_, LostBoard> {
        self.losses.board()
    }

    /// Notes what only a new start of the process mends.
    pub(crate) fn note_fatal(&self, reason: String) {
        *self.fatal.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// What only a new start of the process mends, if there is something.
    pub(crate) fn fatal(&self) -> Option<String> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an end lies beyond an offset, at most so long.
    pub(crate) async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.check_partition(partition)?;
        let mut next = self.ends.subscribe(partition)?;
        let grown = next.wait_for(|next| *next > offset);
        // Whether it has grown or the time is up, the end as it is now is the answer.
        drop(tokio::time::timeout(at_most, grown).await);
        self.check_open()?;
        self.ends.get(partition)
    }
}
