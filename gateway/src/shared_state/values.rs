//! How a cache is asked: what is held is given, what is not is computed once for all who ask at the
//! same time, and kept if it is whole.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::flights::{Flights, Turn};
use super::port::{Away, Cache, CacheKey, FillTicket, Reading, Watcher};
use super::value::CachedValue;

/// What was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Computed {
    /// It lacks nothing, and may be served for so long.
    Whole(Arc<[u8]>, Duration),
    /// It lacks something: given to whoever asked, kept by nobody and shared with nobody.
    Partial(Arc<[u8]>),
}

/// Values out of a cache.
#[derive(Debug)]
pub struct Values {
    cache: Arc<dyn Cache>,
    running: Arc<Running>,
}

type Bytes = Arc<[u8]>;

#[derive(Debug, Default)]
struct Running(Flights<CacheKey, Bytes>);

impl Watcher for Running {
    fn changed(&self, key: &CacheKey) {
        self.0.detach(key);
    }

    fn lost(&self) {
        self.0.detach_all();
    }
}

impl Values {
    /// Values that lie there.
    #[must_use]
    pub fn new(cache: Arc<dyn Cache>) -> Self {
        let running = Arc::new(Running::default());
        let watcher: Weak<Running> = Arc::downgrade(&running);
        cache.watch(watcher);
        Self { cache, running }
    }

    /// The value of a key, computed where it is not held. Without the cache behind the same is
    /// computed for all who ask at the same time, and nothing is kept. What two questions may wait
    /// for differs: a key that is asked with different patience should name it.
    ///
    /// # Errors
    /// Those of `compute`.
    pub async fn get<E>(
        &self,
        key: &CacheKey,
        compute: impl AsyncFnOnce() -> Result<Computed, E>,
    ) -> Result<Bytes, E> {
        let lead = match self.running.0.join(key).await {
            Turn::Own(lead) => lead,
            Turn::Shared(bytes) => return Ok(bytes),
            Turn::Alone => {
                let (Computed::Whole(bytes, _) | Computed::Partial(bytes)) = compute().await?;
                return Ok(bytes);
            }
        };
        let ticket = match self.held(key).await {
            Ok(bytes) => {
                lead.share(Arc::clone(&bytes));
                return Ok(bytes);
            }
            Err(ticket) => ticket,
        };
        match compute().await? {
            Computed::Partial(bytes) => Ok(bytes),
            Computed::Whole(bytes, keep_for) => {
                lead.share(Arc::clone(&bytes));
                self.keep(ticket, &bytes, keep_for).await;
                Ok(bytes)
            }
        }
    }

    /// Removes a value for all: nobody who asks after this is given what was computed before.
    ///
    /// # Errors
    /// When it is not known to be done.
    pub async fn evict(&self, key: &CacheKey) -> Result<(), Away> {
        let evicted = self.cache.evict(key).await;
        self.running.0.detach(key);
        evicted
    }

    async fn held(&self, key: &CacheKey) -> Result<Bytes, Option<FillTicket>> {
        match self.cache.read(key).await {
            // A cache holds whole values: one that is not is computed anew.
            Reading::Held(held) => held.value.unpack().map(Arc::from).map_err(|_| None),
            Reading::Absent(ticket) => Err(Some(ticket)),
            Reading::Away => Err(None),
        }
    }

    async fn keep(&self, ticket: Option<FillTicket>, bytes: &[u8], keep_for: Duration) {
        let (Some(ticket), Ok(value)) = (ticket, CachedValue::pack(bytes)) else { return };
        self.cache.fill(ticket, value, keep_for).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use service_kit::ManualClock;
    use trace_model::{TenantId, UnixNanos};

    use super::super::{CacheKind, MemoryCache, MokaCache, SharedStateMetrics};
    use super::*;

    const KEPT: Duration = Duration::from_secs(60);

    fn values() -> (Values, Arc<dyn Cache>) {
        let clock = Arc::new(ManualClock::at(UnixNanos(1_790_000_000_000_000_000)));
        let behind: Arc<dyn Cache> = Arc::new(MemoryCache::new(1 << 20, clock.clone()));
        let metrics = SharedStateMetrics::default();
        let front = MokaCache::in_front_of(behind.clone(), 1 << 20, clock, metrics);
        (Values::new(Arc::new(front)), behind)
    }

    fn key() -> CacheKey {
        CacheKey::new(&TenantId::default(), CacheKind::Operations, &["web"]).unwrap()
    }

    fn whole(text: &str) -> Result<Computed, &'static str> {
        Ok(Computed::Whole(text.as_bytes().into(), KEPT))
    }

    async fn unexpected() -> Result<Computed, &'static str> {
        panic!("it is held")
    }

    #[tokio::test]
    async fn what_is_whole_is_computed_once_and_kept() {
        let (values, _) = values();
        let (computed, key) = (AtomicUsize::new(0), key());
        let ask = || async {
            let compute = async || {
                computed.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                whole("list")
            };
            values.get(&key, compute).await.unwrap()
        };
        let asked: Vec<_> = (0..20).map(|_| ask()).collect();
        #[expect(clippy::disallowed_methods, reason = "a bounded number, in a test")]
        let found = join_all(asked).await;
        assert!(found.iter().all(|bytes| **bytes == *b"list"));
        assert_eq!(*values.get(&key, unexpected).await.unwrap(), *b"list");
        assert_eq!(computed.load(Ordering::Relaxed), 1);
        values.evict(&key).await.unwrap();
        assert_eq!(*values.get(&key, async || whole("new")).await.unwrap(), *b"new");
    }

    #[tokio::test]
    async fn what_lacks_something_or_failed_is_neither_kept_nor_shared() {
        let (values, _) = values();
        let key = key();
        let partial = async || {
            tokio::task::yield_now().await;
            Ok::<_, &str>(Computed::Partial(b"half"[..].into()))
        };
        let first = values.get(&key, partial);
        let second = values.get(&key, async || whole("whole"));
        let (first, second) = tokio::join!(first, second);
        assert_eq!((&*first.unwrap(), &*second.unwrap()), (&b"half"[..], &b"whole"[..]));
        let failed = values.get(&key, async || Err("away")).await;
        assert_eq!(failed, Err("away"), "neither of the two is kept");
        assert_eq!(*values.get(&key, async || whole("kept")).await.unwrap(), *b"kept");
        assert_eq!(*values.get(&key, unexpected).await.unwrap(), *b"kept");
    }

    #[tokio::test]
    async fn who_asks_after_an_eviction_is_not_given_what_began_before_it() {
        let (values, behind) = values();
        let key = key();
        let old = values.get(&key, async || {
            // Someone else evicts while this is computed; someone asks after that.
            behind.evict(&key).await.unwrap();
            let new = values.get(&key, async || whole("new")).await;
            assert_eq!(*new.unwrap(), *b"new");
            whole("old")
        });
        assert_eq!(*old.await.unwrap(), *b"old", "it was asked before");
        assert_eq!(*values.get(&key, unexpected).await.unwrap(), *b"new");
    }
}
