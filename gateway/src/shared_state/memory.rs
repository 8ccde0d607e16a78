//! The shared state of one process: for tests, and for gateways that share nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use trace_model::Clock;

use super::gcra::Bucket;
use super::port::{
    Away, BucketKey, Cache, CacheKey, Counters, FILL_TIME_MAX, FillOutcome, FillTicket, Grant,
    Held, Quota, Reading, Watcher,
};
use super::value::CachedValue;

/// Nothing here is ever lost: all tickets are of one time.
const ERA: u64 = 0;
/// What an entry takes beside its key and value, about.
const ENTRY_BYTES: usize = 128;
/// Evictions that are remembered before the old ones are looked for.
const EVICTIONS_BEFORE_SWEEP: usize = 1_024;
/// Buckets that are not full, at once. Further ones share a single bucket.
const BUCKETS_MAX: usize = 100_000;
/// The table of buckets is swept no more often than this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A cache in memory, bounded by bytes: the oldest fills go first.
#[derive(Debug)]
pub struct MemoryCache {
    clock: Arc<dyn Clock>,
    bytes_max: usize,
    state: Mutex<State>,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<CacheKey, Entry>,
    /// Keys by the order of their fills.
    by_age: BTreeMap<u64, CacheKey>,
    bytes: usize,
    /// The last eviction of a key: its number, and when it was.
    evictions: HashMap<CacheKey, (u64, Duration)>,
    last_number: u64,
}

#[derive(Debug)]
struct Entry {
    value: CachedValue,
    until: Duration,
    number: u64,
}

impl MemoryCache {
    /// An empty cache of at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize, clock: Arc<dyn Clock>) -> Self {
        Self { clock, bytes_max, state: Mutex::default(), watchers: Mutex::default() }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }

    fn tell(&self, key: &CacheKey) {
        let watchers = lock(&self.watchers).clone();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watcher.changed(key);
        }
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn seen(&self, key: &CacheKey) -> Vec<u8> {
        let number = self.evictions.get(key).map_or(0, |(number, _)| *number);
        number.to_le_bytes().to_vec()
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(entry) = self.held.remove(key) {
            self.by_age.remove(&entry.number);
            self.bytes = self.bytes.saturating_sub(cost(key, &entry.value));
        }
    }

    fn insert(&mut self, key: CacheKey, value: CachedValue, until: Duration) {
        self.remove(&key);
        let number = self.next_number();
        self.bytes += cost(&key, &value);
        self.by_age.insert(number, key.clone());
        self.held.insert(key, Entry { value, until, number });
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((_, key)) = self.by_age.pop_first() else { return };
            self.remove(&key);
        }
    }
}

fn cost(key: &CacheKey, value: &CachedValue) -> usize {
    key.as_str().len() * 2 + value.as_stored().len() + ENTRY_BYTES
}

#[async_trait]
impl Cache for MemoryCache {
    async fn read(&self, key: &CacheKey) -> Reading {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let found = state.held.get(key).map(|entry| (entry.value.clone(), entry.until));
        if let Some((value, until)) = found {
            let fresh_for = until.saturating_sub(now);
            if !fresh_for.is_zero() {
                return Reading::Held(Held { value, fresh_for });
            }
            state.remove(key);
        }
        let seen = state.seen(key);
        Reading::Absent(FillTicket { key: key.clone(), seen, era: ERA, begun: now })
    }

    async fn fill(
        &self,
        ticket: FillTicket,
        value: CachedValue,
        keep_for: Duration,
    ) -> FillOutcome {
        let now = self.clock.monotonic();
        let key = ticket.key;
        {
            let mut state = lock(&self.state);
            let is_late = now.saturating_sub(ticket.begun) > FILL_TIME_MAX;
            if is_late || ticket.era != ERA || state.seen(&key) != ticket.seen {
                return FillOutcome::Discarded;
            }
            state.insert(key.clone(), value, now + keep_for);
            state.shrink(self.bytes_max);
        }
        self.tell(&key);
        FillOutcome::Stored
    }

    async fn evict(&self, key: &CacheKey) -> Result<(), Away> {
        let now = self.clock.monotonic();
        {
            let mut state = lock(&self.state);
            state.remove(key);
            let number = state.next_number();
            if state.evictions.len() >= EVICTIONS_BEFORE_SWEEP {
                // Tickets from before these are too old to be taken.
                state.evictions.retain(|_, (_, at)| now.saturating_sub(*at) <= FILL_TIME_MAX);
            }
            state.evictions.insert(key.clone(), (number, now));
        }
        self.tell(key);
        Ok(())
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }
}

/// Token buckets in memory. Full ones are forgotten; of those that are not there are at most
/// 100,000, and who comes beyond shares one bucket with all that do: the limit stays a limit.
#[derive(Debug)]
pub struct MemoryCounters {
    clock: Arc<dyn Clock>,
    state: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_key: HashMap<BucketKey, Bucket>,
    overflow: Bucket,
    swept_at: Duration,
}

impl MemoryCounters {
    /// Full buckets.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Takes up to `wanted` tokens, as many as there are.
    pub fn take_now(&self, key: &BucketKey, quota: Quota, wanted: u32) -> Grant {
        let now = self.clock.monotonic();
        let mut buckets = lock(&self.state);
        if let Some(bucket) = buckets.by_key.get_mut(key) {
            return bucket.take(now, quota, wanted);
        }
        if buckets.by_key.len() >= BUCKETS_MAX && now.saturating_sub(buckets.swept_at) > SWEEP_EVERY
        {
            buckets.swept_at = now;
            buckets.by_key.retain(|_, bucket| !bucket.is_full(now));
        }
        if buckets.by_key.len() >= BUCKETS_MAX {
            return buckets.overflow.take(now, quota, wanted);
        }
        buckets.by_key.entry(key.clone()).or_default().take(now, quota, wanted)
    }

    /// Forgets the buckets that are full.
    pub fn forget_full(&self) {
        let now = self.clock.monotonic();
        let mut buckets = lock(&self.state);
        buckets.by_key.retain(|_, bucket| !bucket.is_full(now));
        buckets.by_key.shrink_to_fit();
    }

    /// Buckets that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        lock(&self.state).by_key.len()
    }
}

#[async_trait]
impl Counters for MemoryCounters {
    async fn take(&self, key: &BucketKey, quota: Quota, wanted: u32) -> Result<Grant, Away> {
        Ok(self.take_now(key, quota, wanted))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use service_kit::ManualClock;
    use trace_model::UnixNanos;

    use super::*;

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::at(UnixNanos(1_790_000_000_000_000_000)))
    }

    #[test]
    fn addresses_beyond_the_table_share_one_bucket_and_quiet_ones_are_forgotten() {
        let (clock, quota) = (clock(), Quota::new(1, 5));
        let counters = MemoryCounters::new(clock.clone());
        let key = |number: u32| BucketKey::Address(IpAddr::V4(Ipv4Addr::from_bits(number)));
        let most = u32::try_from(BUCKETS_MAX).unwrap();
        for number in 0..most {
            assert_eq!(counters.take_now(&key(number), quota, 1).tokens, 1);
        }
        let beyond: u32 =
            (most..most + 100).map(|number| counters.take_now(&key(number), quota, 1).tokens).sum();
        assert_eq!(beyond, 5, "one bucket for all of them");
        assert_eq!(counters.take_now(&key(0), quota, 9).tokens, 4, "its own is still there");
        assert_eq!(counters.remembered(), BUCKETS_MAX);
        clock.advance(Duration::from_secs(2));
        assert_eq!(counters.take_now(&key(most + 1), quota, 9).tokens, 5, "swept");
        clock.advance(Duration::from_secs(5));
        counters.forget_full();
        assert_eq!(counters.remembered(), 0);
    }
}
