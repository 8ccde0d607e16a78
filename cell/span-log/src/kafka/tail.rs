//! The live tail: every partition followed from storage-writer's commit on.
//!
//! It must never claim to cover what it does not hold: where its memory is full it goes on on disk, and where that is
//! full too it stops, and goes on when storage-writer has committed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use trace_model::{Coverage, TenantId, TraceId};

use super::blocks::{Item, Loss};
use super::config::KafkaTailConfig;
use super::core::Core;
use super::tail_disk::TailDisk;
use super::tail_memory::{Held, TailMemory, TraceTail, Weights};
use crate::embedded::put_spans;
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
    disk: Option<Arc<TailDisk>>,
    /// Memory of the records.
    bytes: AtomicUsize,
    /// Memory of what is known about records on disk.
    place_bytes: AtomicUsize,
    trimmed: Notify,
    /// Followers that have ended.
    ended: AtomicUsize,
}

/// Where the next records have room.
#[derive(Clone, Debug)]
enum Room {
    InMemory,
    OnDisk(Arc<TailDisk>),
    None,
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
            disk: config.disk.as_ref().map(|disk| Arc::new(TailDisk::new(disk))),
            config,
            followed: starts.into_iter().map(follow).collect(),
            bytes: AtomicUsize::new(0),
            place_bytes: AtomicUsize::new(0),
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
        self.record_bytes().saturating_add(self.place_bytes.load(Ordering::Relaxed))
    }

    fn record_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Disk in use.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.bytes())
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
        self.count(before, after);
        followed.next.send_if_modified(|known| {
            let has_moved = next > *known;
            *known = next.max(*known);
            has_moved
        });
        changed
    }

    fn count(&self, before: Weights, after: Weights) {
        self.bytes.fetch_add(after.records, Ordering::Relaxed);
        self.bytes.fetch_sub(before.records, Ordering::Relaxed);
        self.place_bytes.fetch_add(after.places, Ordering::Relaxed);
        self.place_bytes.fetch_sub(before.places, Ordering::Relaxed);
    }

    fn room(&self, followed: &Followed) -> Room {
        if self.has_memory(followed) {
            return Room::InMemory;
        }
        let places_max = self.config.bytes_max / 4;
        let has_room = |disk: &&Arc<TailDisk>| {
            disk.has_room() && self.place_bytes.load(Ordering::Relaxed) < places_max
        };
        self.disk
            .as_ref()
            .filter(has_room)
            .map_or(Room::None, |disk| Room::OnDisk(Arc::clone(disk)))
    }

    /// Half of the memory is shared by all; of the other half each partition has its part, so that
    /// one that lags does not take that of the others.
    fn has_memory(&self, followed: &Followed) -> bool {
        let half = self.config.bytes_max / 2;
        let own = half / self.followed.len().max(1);
        self.record_bytes() < half || followed.lock().bytes().records < own
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
        let is_full = self.record_bytes() >= self.config.bytes_max / 4;
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
        let room = tail.room(followed);
        if matches!(room, Room::None) {
            let trimmed = tail.trimmed.notified();
            drop(tokio::time::timeout(LOOK_EVERY, trimmed).await);
            continue;
        }
        let from = followed.lock().next();
        if let Err(error) = step(&core, (&tail, followed), (partition, from), room).await {
            tracing::debug!(%error, partition, "the live tail waits");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Reads on once; waits where there is nothing.
async fn step(
    core: &Core,
    (tail, followed): (&Tail, &Followed),
    (partition, from): (u32, u64),
    room: Room,
) -> Result<(), LogError> {
    match core.read_items(partition, from, READ_BYTES).await {
        Ok(items) if items.is_empty() => {
            core.wait_beyond(partition, from, LOOK_EVERY).await?;
        }
        Ok(items) => {
            if let Room::OnDisk(disk) = room {
                return keep_on_disk(disk, (tail, followed), items).await;
            }
            tail.change(followed, |memory| items.into_iter().for_each(|item| memory.push(item)));
        }
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

/// What was read, on its way to disk.
enum Kept {
    Record(Held),
    /// What is no record takes no room.
    Other(Item),
}

/// Writes records to disk and takes them in; those before one that cannot be written are kept.
async fn keep_on_disk(
    disk: Arc<TailDisk>,
    (tail, followed): (&Tail, &Followed),
    items: Vec<Item>,
) -> Result<(), LogError> {
    let write = move || {
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Batch(logged) => match disk.write(&logged) {
                    Ok(place) => kept.push(Kept::Record(Held::on_disk(place, &logged))),
                    Err(error) => return (kept, Err(LogError::Disk(error.to_string()))),
                },
                Item::Damaged(..) => kept.push(Kept::Other(item)),
            }
        }
        (kept, Ok(()))
    };
    let written = tokio::task::spawn_blocking(write).await;
    let (kept, result) = written.map_err(|error| LogError::Unavailable(error.to_string()))?;
    tail.change(followed, |memory| {
        for one in kept {
            match one {
                Kept::Record(held) => memory.push_on_disk(held),
                Kept::Other(item) => memory.push(item),
            }
        }
    });
    result
}

/// Adds to what was found the spans that are on disk.
///
/// # Errors
/// Where the disk does not give them: the answer would be short.
pub(crate) async fn read_from_disk(
    found: TraceTail,
    tenant: &TenantId,
    trace_id: TraceId,
) -> Result<TraceTail, LogError> {
    if found.on_disk.is_empty() {
        return Ok(found);
    }
    let tenant = tenant.clone();
    let read = move || {
        let TraceTail { mut spans, on_disk, is_damaged } = found;
        for place in on_disk {
            let logged = place
                .read()
                .map_err(|error| LogError::Disk(format!("of the live tail: {error}")))?;
            put_spans(&mut spans, &logged, &tenant, trace_id);
        }
        Ok(TraceTail { spans, on_disk: Vec::new(), is_damaged })
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| LogError::Unavailable(error.to_string()))?
}
