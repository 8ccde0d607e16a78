//! A cache within the process in front of a shared one: the only local copy of what is shared.
//!
//! An entry is put here by a read that found it behind, and by nothing else; the cache behind tells
//! what changes, and a change that comes while such a read is under way voids it. When the cache
//! behind can no longer tell, nothing is served from here that was put before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::moka::sync::Cache as Shelf;
use async_trait::async_trait;
use trace_model::Clock;

use super::port::{Away, Cache, CacheKey, FillOutcome, FillTicket, Held, Reading, Watcher};
use super::value::CachedValue;
use crate::metrics::{CachePlace, FillFate, ReadFate, SharedStateMetrics};

/// What an entry takes beside its key and value, about: the nodes of the table and of its queues.
const ENTRY_BYTES: usize = 256;
/// Nothing lies here longer, whatever the cache behind allows; its own end is checked at each read.
const LONGEST: Duration = Duration::from_secs(3_600);

/// The decorator.
#[derive(Debug)]
pub struct MokaCache {
    behind: Arc<dyn Cache>,
    front: Arc<Front>,
    metrics: SharedStateMetrics,
}

/// The local part; it watches the cache behind.
#[derive(Debug)]
struct Front {
    shelf: Shelf<CacheKey, Local>,
    reads: Mutex<Reads>,
    clock: Arc<dyn Clock>,
    metrics: SharedStateMetrics,
}

#[derive(Clone, Debug)]
struct Local {
    value: CachedValue,
    until: Duration,
    era: u64,
}

/// Reads of the cache behind that are under way.
#[derive(Debug, Default)]
struct Reads {
    /// How often everything was lost.
    era: u64,
    running: HashMap<CacheKey, Running>,
}

#[derive(Debug, Default)]
struct Running {
    reads: usize,
    changes: u64,
}

/// A read under way: what it finds may be put on the shelf while nothing has changed.
struct Pass {
    front: Arc<Front>,
    key: CacheKey,
    era: u64,
    changes: u64,
}

impl MokaCache {
    /// Puts at most so many bytes of entries in front of a cache.
    #[must_use]
    pub fn in_front_of(
        behind: Arc<dyn Cache>,
        bytes_max: u64,
        clock: Arc<dyn Clock>,
        metrics: SharedStateMetrics,
    ) -> Self {
        let weigh = |key: &CacheKey, local: &Local| {
            let bytes = key.as_str().len() + local.value.as_stored().len() + ENTRY_BYTES;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let shelf =
            Shelf::builder().max_capacity(bytes_max).weigher(weigh).time_to_live(LONGEST).build();
        let front =
            Arc::new(Front { shelf, reads: Mutex::default(), clock, metrics: metrics.clone() });
        let watcher: Weak<Front> = Arc::downgrade(&front);
        behind.watch(watcher);
        Self { behind, front, metrics }
    }

    /// Bytes held within the process, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.front.shelf.run_pending_tasks();
        self.front.shelf.weighted_size()
    }
}

impl Front {
    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &CacheKey) -> Option<Held> {
        let local = self.shelf.get(key)?;
        let fresh_for = local.until.saturating_sub(self.clock.monotonic());
        if fresh_for.is_zero() || local.era != self.reads().era {
            self.shelf.invalidate(key);
            return None;
        }
        Some(Held { value: local.value, fresh_for })
    }

    fn begin(self: &Arc<Self>, key: &CacheKey) -> Pass {
        let mut reads = self.reads();
        let era = reads.era;
        let running = reads.running.entry(key.clone()).or_default();
        running.reads += 1;
        Pass { front: Arc::clone(self), key: key.clone(), era, changes: running.changes }
    }
}

impl Pass {
    /// Puts what was read on the shelf, unless it has changed since the read began.
    fn put(&self, held: &Held) -> FillFate {
        let until = self.front.clock.monotonic() + held.fresh_for;
        // Under the lock, so that a change comes either before the check or after the insertion.
        let reads = self.front.reads();
        let changes = reads.running.get(&self.key).map(|running| running.changes);
        if reads.era != self.era || changes != Some(self.changes) {
            return FillFate::Discarded;
        }
        let local = Local { value: held.value.clone(), until, era: self.era };
        self.front.shelf.insert(self.key.clone(), local);
        FillFate::Stored
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut reads = self.front.reads();
        let Some(running) = reads.running.get_mut(&self.key) else { return };
        running.reads -= 1;
        if running.reads == 0 {
            reads.running.remove(&self.key);
        }
    }
}

impl Watcher for Front {
    fn changed(&self, key: &CacheKey) {
        let mut reads = self.reads();
        if let Some(running) = reads.running.get_mut(key) {
            running.changes += 1;
        }
        self.shelf.invalidate(key);
        self.metrics.count_invalidation();
    }

    fn lost(&self) {
        self.reads().era += 1;
        self.shelf.invalidate_all();
        self.metrics.count_flush();
    }
}

#[async_trait]
impl Cache for MokaCache {
    async fn read(&self, key: &CacheKey) -> Reading {
        if let Some(held) = self.front.get(key) {
            self.metrics.count_read(CachePlace::Local, ReadFate::Hit);
            return Reading::Held(held);
        }
        self.metrics.count_read(CachePlace::Local, ReadFate::Miss);
        let pass = self.front.begin(key);
        let reading = self.behind.read(key).await;
        if let Reading::Held(held) = &reading {
            self.metrics.count_fill(CachePlace::Local, pass.put(held));
        }
        reading
    }

    async fn fill(
        &self,
        ticket: FillTicket,
        value: CachedValue,
        keep_for: Duration,
    ) -> FillOutcome {
        self.behind.fill(ticket, value, keep_for).await
    }

    async fn evict(&self, key: &CacheKey) -> Result<(), Away> {
        let evicted = self.behind.evict(key).await;
        // Whatever became of it behind: whoever evicts here must not be served it here.
        self.front.changed(key);
        evicted
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.behind.watch(watcher);
    }
}

#[cfg(test)]
mod tests;
