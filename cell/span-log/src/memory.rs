//! A span log in memory, for tests of what stands on it: the same contract, nothing durable.
//!
//! Bounded: when it is full it lets go what its required groups have committed, and otherwise
//! refuses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::{LoggedBatch, SpanBatch};
use tokio::sync::watch;
use trace_model::{Clock, Coverage, LogRange, StoredSpan, TenantId, TraceId, UnixNanos};

use crate::embedded::missed::MissedRuns;
use crate::port::{
    Appended, Capabilities, CommitError, DamagedRange, ErasedRecords, ForgetLost, GroupId, LogEnd,
    LogEraser, LogError, LogIdentity, Lost, METADATA_PUBLISHER, MissedRun, STORAGE_WRITER, SpanLog,
    TailAnswer,
};

/// The one partition.
const PARTITION: u32 = 0;

/// Configuration of a log in memory.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Encoded bytes kept at most.
    pub bytes_max: usize,
    /// The largest batch taken, in encoded bytes.
    pub batch_bytes_max: usize,
    /// Groups whose uncommitted records are kept.
    pub required_groups: Vec<GroupId>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            batch_bytes_max: 64 << 20,
            required_groups: vec![STORAGE_WRITER, METADATA_PUBLISHER],
        }
    }
}

/// A log in memory.
#[derive(Debug)]
pub struct MemoryLog {
    config: MemoryConfig,
    clock: Arc<dyn Clock>,
    incarnation: u64,
    state: Mutex<State>,
    ends: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<LoggedBatch>,
    bytes: usize,
    next: u64,
    append_time: UnixNanos,
    commits: BTreeMap<GroupId, u64>,
    missed: MissedRuns,
    is_closed: bool,
}

impl State {
    fn first(&self) -> u64 {
        self.batches.front().map_or(self.next, |batch| batch.range.first)
    }

    /// Time goes on, never back.
    fn pass(&mut self, now: UnixNanos) -> UnixNanos {
        self.append_time = self.append_time.max(now);
        self.append_time
    }

    fn make_room(&mut self, bytes: usize, config: &MemoryConfig) -> Result<(), LogError> {
        let commits = config.required_groups.iter().map(|group| self.commits.get(group).copied());
        let floor = commits.map(Option::unwrap_or_default).min().unwrap_or(u64::MAX);
        while self.bytes.saturating_add(bytes) > config.bytes_max {
            match self.batches.front() {
                Some(oldest) if oldest.range.next <= floor => {
                    self.bytes = self.bytes.saturating_sub(oldest.batch.encoded().len());
                    self.batches.pop_front();
                }
                _ => return Err(LogError::Full),
            }
        }
        Ok(())
    }
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(config: MemoryConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        let incarnation = clock.now().millis();
        let (ends, _) = watch::channel(0);
        Arc::new(Self { config, clock, incarnation, state: Mutex::default(), ends })
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(LogError::Closed) } else { Ok(state) }
    }

    fn partition_state(&self, partition: u32) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.open_state()?;
        if partition == PARTITION { Ok(state) } else { Err(LogError::NoPartition(partition)) }
    }
}

#[async_trait]
impl LogEraser for MemoryLog {
    async fn erase(&self, tenant: &TenantId, trace_id: TraceId) -> Result<ErasedRecords, LogError> {
        let mut state = self.open_state()?;
        let mut spans = 0_u64;
        let State { batches, bytes, .. } = &mut *state;
        for logged in batches.iter_mut().filter(|one| one.batch.source().tenant == *tenant) {
            let left = logged.batch.without_trace(trace_id);
            let Some(left) = left.map_err(|error| LogError::Disk(error.to_string()))? else {
                continue;
            };
            let gone = logged.batch.spans().len().saturating_sub(left.spans().len());
            spans = spans.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX));
            let (before, after) = (logged.batch.encoded().len(), left.encoded().len());
            *bytes = bytes.saturating_sub(before).saturating_add(after);
            logged.batch = Arc::new(left);
        }
        Ok(ErasedRecords { files: 0, spans })
    }
}

#[async_trait]
impl SpanLog for MemoryLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities { is_durable: false, has_live_tail: true, can_seek_by_time: true }
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity { incarnation: self.incarnation, partitions: 1 }
    }

    async fn append(&self, batch: Arc<SpanBatch>) -> Result<Appended, LogError> {
        let (bytes, bytes_max) = (batch.encoded().len(), self.config.batch_bytes_max);
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let now = self.clock.now();
        let mut state = self.open_state()?;
        let records = batch.traces().len() as u64;
        let (first, next) = (state.next, state.next.saturating_add(records));
        let range = LogRange { partition: PARTITION, first, next };
        if records > 0 {
            state.make_room(bytes, &self.config)?;
        }
        let append_time = state.pass(now);
        if records > 0 {
            let incarnation = self.incarnation;
            state.batches.push_back(LoggedBatch { incarnation, range, append_time, batch });
            state.bytes = state.bytes.saturating_add(bytes);
            state.next = next;
        }
        drop(state);
        self.ends.send_if_modified(|end| {
            let has_moved = next > *end;
            *end = next.max(*end);
            has_moved
        });
        Ok(Appended { ranges: vec![range], append_time })
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<LoggedBatch>, LogError> {
        let state = self.partition_state(partition)?;
        let first = state.first();
        if from < first {
            return Err(LogError::Expired { wanted: from, first });
        }
        let start = state.batches.partition_point(|batch| batch.range.next <= from);
        let mut bytes = 0_usize;
        let mut read = Vec::new();
        for batch in state.batches.range(start..) {
            if bytes >= bytes_max && !read.is_empty() {
                break;
            }
            bytes = bytes.saturating_add(batch.batch.encoded().len());
            read.push(batch.clone());
        }
        Ok(read)
    }

    async fn wait_beyond(
        &self,
        partition: u32,
        offset: u64,
        at_most: Duration,
    ) -> Result<LogEnd, LogError> {
        self.end(partition)?;
        let mut ends = self.ends.subscribe();
        // Closing sends the last possible offset, so that every waiter wakes.
        drop(tokio::time::timeout(at_most, ends.wait_for(|end| *end > offset)).await);
        self.end(partition)
    }

    fn end(&self, partition: u32) -> Result<LogEnd, LogError> {
        let now = self.clock.now();
        let mut state = self.partition_state(partition)?;
        let append_time = state.pass(now);
        Ok(LogEnd { next: state.next, append_time, first: state.first() })
    }

    async fn offset_at(&self, partition: u32, time: UnixNanos) -> Result<u64, LogError> {
        let state = self.partition_state(partition)?;
        let place = state.batches.partition_point(|batch| batch.append_time < time);
        Ok(state.batches.get(place).map_or(state.next, |batch| batch.range.first))
    }

    fn committed(&self, group: GroupId, partition: u32) -> Result<u64, LogError> {
        let state = self.partition_state(partition)?;
        Ok(state.commits.get(&group).copied().unwrap_or_else(|| state.first()))
    }

    fn lost(&self) -> Lost {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Lost { missed: state.missed.tell(), ..Lost::default() }
    }

    async fn forget_lost(&self, which: ForgetLost) -> Result<usize, LogError> {
        Ok(self.open_state()?.missed.forget(which).0)
    }

    async fn note_missed(&self, missed: MissedRun) -> Result<(), LogError> {
        self.open_state()?.missed.note_run(&missed);
        Ok(())
    }

    fn has_committed(&self, group: GroupId, partition: u32) -> Result<bool, LogError> {
        Ok(self.partition_state(partition)?.commits.contains_key(&group))
    }

    async fn commit(&self, group: GroupId, partition: u32, next: u64) -> Result<(), CommitError> {
        let mut state = self.partition_state(partition)?;
        let committed = state.commits.get(&group).copied().unwrap_or(0);
        if next < committed {
            return Err(CommitError::Backwards { wanted: next, committed });
        }
        let next = next.min(state.next).max(committed);
        state.commits.insert(group, next);
        Ok(())
    }

    async fn tail(&self, tenant: &TenantId, trace_id: TraceId) -> Result<TailAnswer, LogError> {
        let state = self.open_state()?;
        let mut covered = Coverage::none(self.incarnation);
        covered.extend(PARTITION, state.next);
        let mut spans: Vec<StoredSpan> = Vec::new();
        // All that is kept, committed or not: the contract lets the tail hold more, and a reader
        // that asked the stores a moment ago misses nothing.
        for logged in &state.batches {
            crate::embedded::put_spans(&mut spans, logged, tenant, trace_id);
        }
        let (silent, begins) = (Vec::new(), None);
        Ok(TailAnswer { spans, covered, is_damaged: false, is_behind: false, silent, begins })
    }

    fn damaged(&self) -> Vec<DamagedRange> {
        Vec::new()
    }

    async fn close(&self) -> Result<(), LogError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.ends.send_replace(u64::MAX);
        Ok(())
    }
}
