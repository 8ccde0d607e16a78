//! What the writer, the housekeeper and the readers of one log share, and the rules under which it
//! changes.
//!
//! Locks are taken in this order: retention, checkpoint, state, segment extent, segment tail; the cache's and
//! the queue's are taken alone. No lock is held over file work but retention's and the checkpoint's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trace_model::{Clock, UnixNanos};

use super::cache::BatchCache;
use super::checkpoint::{Checkpoint, CheckpointFile, DroppedRun};
use super::config::EmbeddedConfig;
use super::disk::{Disk, is_full, lacks_descriptors};
use super::identity::Identity;
use super::lost::LostRuns;
use super::missed::{MissedRuns, Removed};
use super::queue::Queue;
use super::segment::Segment;
use super::tail_index::TraceHasher;
use super::times::Times;
use crate::metrics::LogMetrics;
use crate::port::{DamagedRange, ForgetLost, GroupId, LogEnd, LogError, MissedRun};

/// The partition: an embedded log has one.
pub(crate) const PARTITION: u32 = 0;
/// Dropped runs remembered.
const DROPPED_MAX: usize = 256;

/// What all parts of a log share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EmbeddedConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    pub(crate) hasher: TraceHasher,
    pub(crate) metrics: LogMetrics,
    pub(crate) queue: Queue,
    pub(crate) ends: watch::Sender<Progress>,
    /// Held while segments are removed.
    pub(crate) retention: Mutex<()>,
    state: Mutex<State>,
    cache: Mutex<BatchCache>,
    checkpoint: Mutex<CheckpointFile>,
    /// Which of the log's threads ended by a panic, if one did.
    dead: Mutex<Option<&'static str>>,
}

/// What waiters wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) next: u64,
    pub(crate) is_closed: bool,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    /// Oldest first.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    /// Offset of the next record: everything below is durable.
    pub(crate) next: u64,
    pub(crate) times: Times,
    pub(crate) commits: BTreeMap<String, u64>,
    /// Commits as of the last checkpoint that is durable: retention goes by these.
    pub(crate) durable_commits: BTreeMap<String, u64>,
    /// The end as of that checkpoint.
    pub(crate) durable_end: u64,
    pub(crate) damaged: Vec<DamagedRange>,
    pub(crate) dropped: Vec<DroppedRun>,
    /// Runs that no store has, also those that were met before the log was opened.
    pub(crate) lost: LostRuns,
    /// Runs that one group has missed.
    pub(crate) missed: MissedRuns,
    /// Segments that are gone.
    pub(crate) removed: Removed,
    /// Below this offset the live tail need not answer: storage-writer's commit of a while ago.
    pub(crate) tail_floor: u64,
    pub(crate) is_dirty: bool,
    /// Groups that have committed since the log was opened: their lag is a metric.
    pub(crate) groups: BTreeSet<GroupId>,
}

impl State {
    /// Offset of the oldest record that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first_offset)
    }

    /// The segment with this offset, if it is kept.
    pub(crate) fn segment_of(&self, offset: u64) -> Option<Arc<Segment>> {
        let behind = self.segments.partition_point(|segment| segment.first_offset <= offset);
        self.segments.get(behind.checked_sub(1)?).cloned()
    }

    /// What the groups that are required have handled, durably.
    pub(crate) fn required_floor(&self, required: &[GroupId]) -> u64 {
        let floor = required.iter().map(|group| self.durable_commits.get(group.0).copied());
        floor.map(Option::unwrap_or_default).min().unwrap_or(u64::MAX)
    }

    /// Bytes of all segments on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.extent().disk_bytes).sum()
    }

    fn checkpoint(&self, ceiling: UnixNanos) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            first: self.first(),
            end: self.next,
            time_ceiling: ceiling.0,
            commits: self.commits.clone(),
            dropped: self.dropped.clone(),
            missed: self.missed.to_checkpoint(),
            removed: self.removed.clone(),
            ..Checkpoint::default()
        };
        self.lost.put_into(&mut checkpoint);
        checkpoint
    }
}

/// What an opening found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) checkpoint: CheckpointFile,
    pub(crate) state: State,
}

impl Shared {
    pub(crate) fn new(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        metrics: LogMetrics,
        opened: Opened,
    ) -> Self {
        let Opened { identity, checkpoint, state } = opened;
        let (ends, _) = watch::channel(Progress { next: state.next, is_closed: false });
        Self {
            queue: Queue::new(config.queue_bytes_max),
            cache: Mutex::new(BatchCache::new(config.cache_bytes_max)),
            config,
            clock,
            disk,
            identity,
            hasher: TraceHasher::new(identity.salt),
            metrics,
            ends,
            retention: Mutex::new(()),
            state: Mutex::new(state),
            checkpoint: Mutex::new(checkpoint),
            dead: Mutex::new(None),
        }
    }

    /// Notes that a thread of the log is unwinding. What it held is left as it was.
    pub(crate) fn note_dead(&self, thread: &'static str) {
        tracing::error!(thread, "a thread of the span log ended by a panic: restart the process");
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(thread);
    }

    /// The thread that ended by a panic.
    pub(crate) fn dead(&self) -> Option<&'static str> {
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets lost runs; durable when it returns.
    pub(crate) fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        let forgotten = {
            let mut state = self.state();
            let (missed, expired_until) = state.missed.forget(which);
            state.lost.expire_until(expired_until);
            let forgotten = state.lost.forget(which).saturating_add(missed);
            state.is_dirty |= forgotten > 0;
            forgotten
        };
        if forgotten > 0 {
            self.write_checkpoint(false).map_err(|error| log_error(&error))?;
        }
        Ok(forgotten)
    }

    /// Notes records that a group will never read; durable when it returns.
    pub(crate) fn note_missed(&self, missed: &MissedRun) -> Result<(), LogError> {
        let is_dirty = {
            let mut state = self.state();
            state.is_dirty |= state.missed.note_run(missed);
            // What was noted a moment ago may not be durable yet.
            state.is_dirty
        };
        if is_dirty {
            self.write_checkpoint(false).map_err(|error| log_error(&error))?;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, BatchCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses once the log is closed.
    pub(crate) fn check_open(&self) -> Result<(), LogError> {
        if self.ends.borrow().is_closed { Err(LogError::Closed) } else { Ok(()) }
    }

    /// The end, with the time that the log vouches for.
    pub(crate) fn end(&self) -> LogEnd {
        let now = self.clock.now();
        let mut state = self.state();
        let append_time = state.times.vouch(now);
        LogEnd { next: state.next, append_time, first: state.first() }
    }

    /// Writes a checkpoint with all that has been committed. `is_last` gives up the lead that the
    /// time ceiling has: the log is closing cleanly.
    pub(crate) fn write_checkpoint(&self, is_last: bool) -> io::Result<()> {
        let mut file = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let (checkpoint, ceiling) = {
            let mut state = self.state();
            let times = state.times;
            let ceiling = if is_last { times.vouched() } else { times.next_ceiling(now) };
            state.is_dirty = false;
            (state.checkpoint(ceiling), ceiling)
        };
        let written = file.write(&checkpoint);
        let mut state = self.state();
        match written {
            Ok(()) => {
                state.durable_commits = checkpoint.commits;
                state.durable_end = checkpoint.end;
                state.times.raise_ceiling(ceiling);
            }
            Err(_) => state.is_dirty = true,
        }
        drop(state);
        written
    }
}

/// A failed write, in the words of the port.
pub(crate) fn log_error(error: &io::Error) -> LogError {
    match error {
        full if is_full(full) => LogError::Full,
        many if lacks_descriptors(many) => LogError::NoDescriptors,
        other => LogError::Disk(other.to_string()),
    }
}

/// Remembers a dropped run; joins it to the last one where they touch.
pub(crate) fn note_dropped(dropped: &mut Vec<DroppedRun>, run: DroppedRun) {
    if let Some(last) = dropped.last_mut().filter(|last| last.next == run.first) {
        last.next = run.next;
        last.last_time = run.last_time;
        return;
    }
    if dropped.len() >= DROPPED_MAX {
        dropped.remove(0);
    }
    dropped.push(run);
}
