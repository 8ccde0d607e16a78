//! What the writer, the housekeeper and the readers of one log share, and the rules under which it
//! changes.
//!
//! Locks are taken in this order: retention, checkpoint, state, segment extent, segment tail; the cache's and
//! the queue's are taken alone. No lock is held over file work but retention's and the checkpoint's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trace_model::{Clock, LogRange, UnixNanos};

use super::cache::BatchCache;
use super::checkpoint::{Checkpoint, CheckpointFile, DroppedRun};
use super::config::EmbeddedConfig;
use super::disk::{Disk, is_full};
use super::identity::Identity;
use super::queue::Queue;
use super::segment::Segment;
use super::tail_index::TraceHasher;
use super::times::Times;
use crate::metrics::LogMetrics;
use crate::port::{DamagedRange, GroupId, LogEnd, LogError};

/// The partition: an embedded log has one.
pub(crate) const PARTITION: u32 = 0;
/// Damage reports kept: beyond, damage is still met and counted, but not listed.
const DAMAGED_MAX: usize = 1_024;
/// Dropped runs remembered.
const DROPPED_MAX: usize = 256;
/// Damaged runs remembered over restarts; beyond, the last one grows. With the dropped ones they
/// fit the checkpoint's slot.
const SET_ASIDE_MAX: usize = 128;

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
    /// Damaged runs, also those that were met before the log was opened.
    pub(crate) set_aside: Vec<DroppedRun>,
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

    /// Whether acknowledged records were ever set aside: groups commit past them, so neither the
    /// tail nor a store can say that a trace had no spans in them.
    pub(crate) fn has_set_aside(&self) -> bool {
        !(self.set_aside.is_empty() && self.dropped.is_empty())
    }

    fn checkpoint(&self, ceiling: UnixNanos) -> Checkpoint {
        Checkpoint {
            first: self.first(),
            end: self.next,
            time_ceiling: ceiling.0,
            commits: self.commits.clone(),
            dropped: self.dropped.clone(),
            set_aside: self.set_aside.clone(),
        }
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
        }
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

    /// Notes damage once; gives the report as it was noted first.
    pub(crate) fn note_damage(
        &self,
        offsets: (u64, u64),
        times: (UnixNanos, UnixNanos),
        reason: &str,
    ) -> DamagedRange {
        let (first, next) = offsets;
        let mut state = self.state();
        let range = LogRange { partition: PARTITION, first, next };
        if let Some(known) = state.damaged.iter().find(|known| known.range == range) {
            return known.clone();
        }
        let append_times = (times.0, bounded_time(&state, next, times.1));
        let damaged = DamagedRange { range, append_times, reason: reason.to_owned() };
        if state.damaged.len() < DAMAGED_MAX {
            state.damaged.push(damaged.clone());
        }
        let (first_time, last_time) = (append_times.0.0, append_times.1.0);
        note_set_aside(&mut state.set_aside, DroppedRun { first, next, first_time, last_time });
        state.is_dirty = true;
        drop(state);
        self.metrics.damaged_records.inc_by(next.saturating_sub(first));
        tracing::error!(first, next, reason, "records of the span log are damaged and set aside");
        damaged
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

/// The end of a hole in time where the walk did not know it: the append time of what follows, or
/// the time that the log has given last.
fn bounded_time(state: &State, next: u64, time: UnixNanos) -> UnixNanos {
    if time != UnixNanos::MAX {
        return time;
    }
    let follows = state.segment_of(next).filter(|segment| segment.first_offset == next);
    let first_time = follows.and_then(|segment| segment.extent().first_time);
    first_time.unwrap_or_else(|| state.times.vouched())
}

/// A failed write, in the words of the port.
pub(crate) fn log_error(error: &io::Error) -> LogError {
    if is_full(error) { LogError::Full } else { LogError::Disk(error.to_string()) }
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

/// Remembers a damaged run. It is never forgotten: how long stores would have kept its records is
/// not the log's to know.
fn note_set_aside(set_aside: &mut Vec<DroppedRun>, run: DroppedRun) {
    if set_aside.iter().any(|known| known.first <= run.first && run.next <= known.next) {
        return;
    }
    let is_full = set_aside.len() >= SET_ASIDE_MAX;
    let Some(last) = set_aside.last_mut().filter(|_| is_full) else {
        set_aside.push(run);
        return;
    };
    last.first = last.first.min(run.first);
    last.next = last.next.max(run.next);
    last.first_time = last.first_time.min(run.first_time);
    last.last_time = last.last_time.max(run.last_time);
}
