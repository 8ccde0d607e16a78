//! The live tail: every partition followed from storage-writer's commit on.
//!
//! It must never claim to cover what it does not hold: where its memory is full it stops, and goes
//! on when storage-writer has committed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use trace_model::{Coverage, TenantId, TraceId};

use super::blocks::{Item, Loss};
use super::config::KafkaTailConfig;
use super::core::Core;
use super::tail_memory::{TailMemory, TraceTail};
use crate::port::{LogError, STORAGE_WRITER};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// A follower looks up at least this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A failed read is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One partition.
#[derive(Debug)]
struct Followed {
    memory: Mutex<TailMemory>,
    /// Next offset to take in: what readers wait for.
    next: watch::Sender<u64>,
}

/// The tails of all partitions.
#[derive(Debug)]
pub(crate) struct Tail {
    config: KafkaTailConfig,
    followed: Vec<Followed>,
    bytes: AtomicUsize,
    trimmed: Notify,
    /// Followers that have ended.
    ended: AtomicUsize,
}

/// Notes that a follower has ended, also by a panic.
struct EndMark<'a>(&'a Tail);

impl Drop for EndMark<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tail {
    /// Tails that start at these offsets.
    pub(crate) fn new(config: KafkaTailConfig, starts: Vec<u64>) -> Self {
        let follow = |start| Followed {
            memory: Mutex::new(TailMemory::starting_at(start)),
            next: watch::channel(start).0,
        };
        Self {
            config,
            followed: starts.into_iter().map(follow).collect(),
            bytes: AtomicUsize::new(0),
            trimmed: Notify::new(),
            ended: AtomicUsize::new(0),
        }
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Partitions that are not followed any more.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn one(&self, partition: u32) -> Result<&Followed, LogError> {
        self.followed.get(partition as usize).ok_or(LogError::NoPartition(partition))
    }

    /// Changes a partition's memory; the sum and the waiters hear of it.
    fn change<T>(&self, followed: &Followed, change: impl FnOnce(&mut TailMemory) -> T) -> T {
        let mut memory = followed.lock();
        let before = memory.bytes();
        let changed = change(&mut memory);
        let (after, next) = (memory.bytes(), memory.next());
        drop(memory);
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        followed.next.send_if_modified(|known| {
            let has_moved = next > *known;
            *known = next.max(*known);
            has_moved
        });
        changed
    }

    /// Half of the memory is shared by all; of the other half each partition has its part, so that
    /// one that lags does not stop the others.
    fn has_room(&self, followed: &Followed) -> bool {
        let half = self.config.bytes_max / 2;
        let own = half / self.followed.len().max(1);
        self.bytes() < half || followed.lock().bytes() < own
    }

    /// Waits until a partition's tail has taken in everything below `end`, at most so long.
    pub(crate) async fn wait_for(&self, partition: u32, end: u64, at_most: Duration) {
        let Ok(followed) = self.one(partition) else { return };
        let mut next = followed.next.subscribe();
        drop(tokio::time::timeout(at_most, next.wait_for(|next| *next >= end)).await);
    }

    /// What is held of a trace, with how far every partition is covered.
    pub(crate) fn find(
        &self,
        partition: u32,
        tenant: &TenantId,
        trace_id: TraceId,
        incarnation: u64,
    ) -> Result<(TraceTail, Coverage), LogError> {
        let mut covered = Coverage::none(incarnation);
        let memory = self.one(partition)?.lock();
        let found = memory.find(tenant, trace_id);
        covered.extend(partition, memory.next());
        drop(memory);
        for (other, followed) in (0_u32..).zip(&self.followed) {
            if other != partition {
                covered.extend(other, followed.lock().next());
            }
        }
        Ok((found, covered))
    }

    /// Lets go of what storage-writer has committed: at once where room is wanted.
    pub(crate) fn trim(&self, core: &Core) {
        let now = core.clock.monotonic();
        let is_full = self.bytes() >= self.config.bytes_max / 4;
        let grace = if is_full { Duration::ZERO } else { self.config.grace };
        for (partition, followed) in (0_u32..).zip(&self.followed) {
            let Ok(Some(committed)) = core.commits.committed(STORAGE_WRITER, partition) else {
                continue;
            };
            self.change(followed, |memory| memory.trim(committed, now, grace));
        }
        self.trimmed.notify_waiters();
    }
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, TailMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a partition until the log closes.
pub(crate) async fn follow(core: Arc<Core>, tail: Arc<Tail>, partition: u32) {
    let Ok(followed) = tail.one(partition) else { return };
    let _mark = EndMark(&tail);
    while core.check_open().is_ok() {
        if !tail.has_room(followed) {
            let trimmed = tail.trimmed.notified();
            drop(tokio::time::timeout(LOOK_EVERY, trimmed).await);
            continue;
        }
        let from = followed.lock().next();
        if let Err(error) = step(&core, &tail, followed, partition, from).await {
            tracing::debug!(%error, partition, "the live tail waits");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Reads on once; waits where there is nothing.
async fn step(
    core: &Core,
    tail: &Tail,
    followed: &Followed,
    partition: u32,
    from: u64,
) -> Result<(), LogError> {
    match core.read_items(partition, from, READ_BYTES).await {
        Ok(items) if items.is_empty() => {
            core.wait_beyond(partition, from, LOOK_EVERY).await?;
        }
        Ok(items) => tail.change(followed, |memory| {
            for item in items {
                memory.push(item);
            }
        }),
        Err(LogError::Damaged(damaged)) => {
            tail.change(followed, |memory| {
                memory.push(Item::Damaged(Box::new(damaged), Loss::Unknown));
            });
        }
        Err(LogError::Expired { first, .. }) => {
            tail.change(followed, |memory| memory.lose_until(first));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
