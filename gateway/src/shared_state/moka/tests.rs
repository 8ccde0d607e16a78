use std::sync::atomic::{AtomicUsize, Ordering};

use service_kit::ManualClock;
use tokio::sync::Semaphore;
use trace_model::{TenantId, UnixNanos};

use super::*;
use crate::shared_state::{CacheKind, MemoryCache};

/// A cache whose answers to reads stay on their way until they are let through.
#[derive(Debug)]
struct Gated {
    inner: MemoryCache,
    gate: Semaphore,
    on_the_way: Semaphore,
    reads: AtomicUsize,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

impl Gated {
    fn lose(&self) {
        for watcher in self.watchers.lock().unwrap().iter().filter_map(Weak::upgrade) {
            watcher.lost();
        }
    }
}

#[async_trait]
impl Cache for Gated {
    async fn read(&self, key: &CacheKey) -> Reading {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let reading = self.inner.read(key).await;
        self.on_the_way.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        reading
    }

    async fn fill(
        &self,
        ticket: FillTicket,
        value: CachedValue,
        keep_for: Duration,
    ) -> FillOutcome {
        self.inner.fill(ticket, value, keep_for).await
    }

    async fn evict(&self, key: &CacheKey) -> Result<(), Away> {
        self.inner.evict(key).await
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.watchers.lock().unwrap().push(watcher.clone());
        self.inner.watch(watcher);
    }
}

struct Bench {
    behind: Arc<Gated>,
    cache: Arc<MokaCache>,
    clock: Arc<ManualClock>,
}

fn bench(bytes_max: u64) -> Bench {
    let clock = Arc::new(ManualClock::at(UnixNanos(1_790_000_000_000_000_000)));
    let behind = Arc::new(Gated {
        inner: MemoryCache::new(64 << 20, clock.clone()),
        gate: Semaphore::new(0),
        on_the_way: Semaphore::new(0),
        reads: AtomicUsize::new(0),
        watchers: Mutex::default(),
    });
    let shared: Arc<dyn Cache> = behind.clone();
    let metrics = SharedStateMetrics::default();
    let cache = Arc::new(MokaCache::in_front_of(shared, bytes_max, clock.clone(), metrics));
    Bench { behind, cache, clock }
}

fn key(name: &str) -> CacheKey {
    CacheKey::new(&TenantId::default(), CacheKind::Services, &[name]).unwrap()
}

fn value(text: &str) -> CachedValue {
    CachedValue::pack(text.as_bytes()).unwrap()
}

fn text(reading: &Reading) -> Option<String> {
    let Reading::Held(held) = reading else { return None };
    Some(String::from_utf8(held.value.unpack().unwrap()).unwrap())
}

impl Bench {
    /// Fills behind the decorator's back, as another gateway does.
    async fn fill(&self, name: &str, text: &str) {
        let ticket = match self.behind.inner.read(&key(name)).await {
            Reading::Absent(ticket) => ticket,
            Reading::Held(_) | Reading::Away => panic!("it is there"),
        };
        let kept = Duration::from_secs(300);
        let filled = self.behind.inner.fill(ticket, value(text), kept).await;
        assert_eq!(filled, FillOutcome::Stored);
    }

    fn let_through(&self, reads: usize) {
        self.behind.gate.add_permits(reads);
    }

    fn reads(&self) -> usize {
        self.behind.reads.load(Ordering::Relaxed)
    }

    /// Reads, and lets `meanwhile` happen while the answer is on its way.
    async fn read_while(&self, name: &str, meanwhile: impl Future<Output = ()>) -> Reading {
        let key = key(name);
        let reading = self.cache.read(&key);
        let happening = async {
            self.behind.on_the_way.acquire().await.unwrap().forget();
            meanwhile.await;
            self.let_through(1);
        };
        tokio::join!(reading, happening).0
    }
}

#[tokio::test]
async fn what_was_read_is_served_from_here_until_it_changes_or_ends() {
    let bench = bench(1 << 20);
    bench.fill("a", "one").await;
    bench.let_through(10);
    for _ in 0..5 {
        assert_eq!(text(&bench.cache.read(&key("a")).await).unwrap(), "one");
    }
    assert_eq!(bench.reads(), 1);
    bench.behind.evict(&key("a")).await.unwrap();
    assert!(text(&bench.cache.read(&key("a")).await).is_none());
    bench.fill("a", "two").await;
    assert_eq!(text(&bench.cache.read(&key("a")).await).unwrap(), "two");
    assert_eq!(bench.reads(), 3);
    bench.clock.advance(Duration::from_secs(299));
    let Reading::Held(held) = bench.cache.read(&key("a")).await else { panic!("it has not ended") };
    assert_eq!(held.fresh_for, Duration::from_secs(1));
    bench.clock.advance(Duration::from_secs(1));
    assert!(text(&bench.cache.read(&key("a")).await).is_none());
    assert_eq!(bench.reads(), 4);
}

#[tokio::test]
async fn an_invalidation_in_flight_discards_the_fill() {
    let bench = bench(1 << 20);
    bench.fill("a", "old").await;
    bench.fill("b", "other").await;
    let evicting = async { bench.behind.evict(&key("a")).await.unwrap() };
    let reading = bench.read_while("a", evicting).await;
    assert_eq!(text(&reading).unwrap(), "old", "it was so when it was asked");
    // It is not here: the next read goes behind, and finds what is there now.
    bench.let_through(1);
    assert!(text(&bench.cache.read(&key("a")).await).is_none());
    assert_eq!(bench.reads(), 2);
    // Another key's eviction voids nothing.
    bench.behind.on_the_way.forget_permits(9);
    let evicting = async { bench.behind.evict(&key("a")).await.unwrap() };
    bench.read_while("b", evicting).await;
    assert_eq!(text(&bench.cache.read(&key("b")).await).unwrap(), "other");
    assert_eq!(bench.reads(), 3);
    assert!(bench.cache.front.reads().running.is_empty(), "nothing stays behind");
}

#[tokio::test]
async fn a_lost_connection_flushes_and_voids_reads_under_way() {
    let bench = bench(1 << 20);
    bench.fill("a", "one").await;
    bench.fill("b", "two").await;
    bench.let_through(1);
    bench.cache.read(&key("a")).await;
    bench.behind.on_the_way.forget_permits(9);
    bench.read_while("b", async { bench.behind.lose() }).await;
    assert_eq!(bench.reads(), 2);
    bench.let_through(2);
    bench.cache.read(&key("a")).await;
    bench.cache.read(&key("b")).await;
    assert_eq!(bench.reads(), 4, "neither was here");
    bench.cache.read(&key("a")).await;
    bench.cache.read(&key("b")).await;
    assert_eq!(bench.reads(), 4, "both are again");
}

#[tokio::test]
async fn a_read_that_is_given_up_leaves_nothing_behind() {
    let bench = bench(1 << 20);
    bench.fill("a", "one").await;
    let key = key("a");
    {
        let mut reading = std::pin::pin!(bench.cache.read(&key));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        assert!(reading.as_mut().poll(&mut context).is_pending());
        assert_eq!(bench.cache.front.reads().running.len(), 1);
    }
    assert!(bench.cache.front.reads().running.is_empty());
}

#[tokio::test]
async fn local_bytes_are_bounded() {
    let bench = bench(64 << 10);
    bench.let_through(1_000);
    let mut noise = vec![0; 4 << 10];
    for number in 0..200 {
        getrandom::fill(&mut noise).unwrap();
        let name = number.to_string();
        let Reading::Absent(ticket) = bench.behind.inner.read(&key(&name)).await else {
            panic!("it is there")
        };
        let kept = Duration::from_secs(300);
        bench.behind.inner.fill(ticket, CachedValue::pack(&noise).unwrap(), kept).await;
        assert!(matches!(bench.cache.read(&key(&name)).await, Reading::Held(_)));
    }
    assert!(bench.cache.bytes() <= 64 << 10, "{}", bench.cache.bytes());
    assert!(bench.cache.bytes() > 16 << 10, "{}", bench.cache.bytes());
}
