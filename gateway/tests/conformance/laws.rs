//! The laws of the ports `Cache` and `Counters`, for two gateways over one state.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway::shared_state::{
    BucketKey, Cache, CacheKey, CacheKind, CachedValue, Counters, FillOutcome, FillTicket, Quota,
    Reading,
};
use trace_model::TenantId;

/// Time, as the adapter sees it.
#[async_trait]
pub(crate) trait Bench: Send + Sync {
    /// Lets time pass: turns a clock, or waits.
    async fn pass(&self, time: Duration);
}

/// Two gateways that share one state.
pub(crate) trait CacheBench: Bench {
    fn one(&self) -> Arc<dyn Cache>;
    fn other(&self) -> Arc<dyn Cache>;
}

const KEPT: Duration = Duration::from_secs(300);
/// What others changed is known within this.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn key_of(tenant: &str, name: &str) -> CacheKey {
    CacheKey::new(&TenantId::new(tenant).unwrap(), CacheKind::Operations, &[name]).unwrap()
}

pub(crate) fn key(name: &str) -> CacheKey {
    key_of("default", name)
}

pub(crate) fn value(text: &str) -> CachedValue {
    CachedValue::pack(text.as_bytes()).unwrap()
}

pub(crate) fn text(reading: &Reading) -> Option<String> {
    let Reading::Held(held) = reading else { return None };
    Some(String::from_utf8(held.value.unpack().unwrap()).unwrap())
}

pub(crate) async fn ticket(cache: &Arc<dyn Cache>, key: &CacheKey) -> FillTicket {
    match cache.read(key).await {
        Reading::Absent(ticket) => ticket,
        found @ (Reading::Held(_) | Reading::Away) => panic!("{key:?}: {found:?}"),
    }
}

pub(crate) async fn put(cache: &Arc<dyn Cache>, key: &CacheKey, text: &str) {
    let ticket = ticket(cache, key).await;
    assert_eq!(cache.fill(ticket, value(text), KEPT).await, FillOutcome::Stored);
}

/// Waits until a read gives this.
pub(crate) async fn becomes(cache: &Arc<dyn Cache>, key: &CacheKey, wanted: Option<&str>) {
    let waiting = async {
        while text(&cache.read(key).await).as_deref() != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{key:?} does not become {wanted:?}");
}

pub(crate) async fn what_one_fills_the_other_reads(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    assert!(matches!(other.read(&key).await, Reading::Absent(_)));
    put(&one, &key, "GET /cart").await;
    for cache in [&one, &other, &one] {
        let Reading::Held(held) = cache.read(&key).await else { panic!("it was filled") };
        assert_eq!(held.value, value("GET /cart"));
        assert!(held.fresh_for <= KEPT && held.fresh_for > KEPT / 2, "{:?}", held.fresh_for);
    }
}

pub(crate) async fn keys_and_tenants_do_not_meet(bench: &impl CacheBench) {
    let cache = bench.one();
    put(&cache, &key_of("a", "x"), "a's").await;
    put(&cache, &key_of("b", "x"), "b's").await;
    put(&cache, &key_of("a", "}:v{\r\n* ü"), "odd").await;
    assert_eq!(text(&cache.read(&key_of("a", "x")).await).unwrap(), "a's");
    assert_eq!(text(&cache.read(&key_of("b", "x")).await).unwrap(), "b's");
    assert_eq!(text(&cache.read(&key_of("a", "}:v{\r\n* ü")).await).unwrap(), "odd");
    assert!(matches!(cache.read(&key_of("c", "x")).await, Reading::Absent(_)));
    cache.evict(&key_of("a", "x")).await.unwrap();
    assert!(matches!(cache.read(&key_of("a", "x")).await, Reading::Absent(_)));
    assert_eq!(text(&cache.read(&key_of("b", "x")).await).unwrap(), "b's");
}

pub(crate) async fn a_value_ends_everywhere(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    let kept = Duration::from_millis(400);
    let ticket = ticket(&one, &key).await;
    assert_eq!(one.fill(ticket, value("short"), kept).await, FillOutcome::Stored);
    for cache in [&one, &other] {
        if let Reading::Held(held) = cache.read(&key).await {
            assert!(held.fresh_for <= kept, "{:?}", held.fresh_for);
        }
    }
    bench.pass(kept).await;
    for cache in [&one, &other] {
        becomes(cache, &key, None).await;
        assert!(matches!(cache.read(&key).await, Reading::Absent(_)));
    }
}

pub(crate) async fn an_eviction_by_one_reaches_the_others_copy(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    put(&one, &key, "old").await;
    for cache in [&one, &other, &other] {
        assert_eq!(text(&cache.read(&key).await).unwrap(), "old");
    }
    other.evict(&key).await.unwrap();
    assert!(text(&other.read(&key).await).is_none(), "whoever evicts does not see it again");
    becomes(&one, &key, None).await;
    put(&other, &key, "new").await;
    for cache in [&one, &other] {
        becomes(cache, &key, Some("new")).await;
    }
}

pub(crate) async fn a_fill_begun_before_an_eviction_is_discarded(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    let old = ticket(&one, &key).await;
    other.evict(&key).await.unwrap();
    assert_eq!(one.fill(old, value("old"), KEPT).await, FillOutcome::Discarded);
    assert!(matches!(other.read(&key).await, Reading::Absent(_)));
    // Also when someone has filled it since, and that has ended.
    let old = ticket(&one, &key).await;
    other.evict(&key).await.unwrap();
    let short = Duration::from_millis(20);
    let newer = ticket(&other, &key).await;
    assert_eq!(other.fill(newer, value("new"), short).await, FillOutcome::Stored);
    bench.pass(short).await;
    becomes(&other, &key, None).await;
    assert_eq!(one.fill(old, value("old"), KEPT).await, FillOutcome::Discarded);
    // Two evictions are not one.
    other.evict(&key).await.unwrap();
    let old = ticket(&one, &key).await;
    other.evict(&key).await.unwrap();
    assert_eq!(one.fill(old, value("old"), KEPT).await, FillOutcome::Discarded);
    put(&one, &key, "new").await;
    becomes(&other, &key, Some("new")).await;
}

pub(crate) async fn of_two_fills_the_later_stands(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    let (first, second) = (ticket(&one, &key).await, ticket(&other, &key).await);
    assert_eq!(one.fill(first, value("first"), KEPT).await, FillOutcome::Stored);
    assert_eq!(text(&one.read(&key).await).unwrap(), "first");
    assert_eq!(other.fill(second, value("second"), KEPT).await, FillOutcome::Stored);
    for cache in [&one, &other] {
        becomes(cache, &key, Some("second")).await;
    }
}

pub(crate) async fn large_values_come_back_whole(bench: &impl CacheBench) {
    let (one, other, key) = (bench.one(), bench.other(), key("a"));
    let long: String =
        (0..150_000_u64).map(|number| (number * 2_654_435_761).to_string()).collect();
    put(&one, &key, &long).await;
    assert_eq!(text(&other.read(&key).await).unwrap(), long);
    assert_eq!(text(&other.read(&key).await).unwrap(), long);
}

/// Readers and evicters at once: whoever reads after an eviction was acknowledged to it never finds
/// what was computed before it.
pub(crate) async fn nothing_older_than_the_last_eviction_is_read(bench: &impl CacheBench) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (truth, key) = (AtomicU64::new(0), key("a"));
    let reader = async |cache: Arc<dyn Cache>| {
        for _ in 0..150 {
            match cache.read(&key).await {
                Reading::Held(held) => {
                    let bytes = held.value.unpack().unwrap();
                    let found = String::from_utf8(bytes).unwrap().parse::<u64>().unwrap();
                    assert!(found <= truth.load(Ordering::SeqCst));
                }
                Reading::Absent(ticket) => {
                    let computed = truth.load(Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    cache.fill(ticket, value(&computed.to_string()), KEPT).await;
                }
                Reading::Away => {}
            }
            tokio::task::yield_now().await;
        }
    };
    let evicter = async |cache: Arc<dyn Cache>| {
        for _ in 0..40 {
            truth.fetch_add(1, Ordering::SeqCst);
            cache.evict(&key).await.unwrap();
            let now = truth.load(Ordering::SeqCst);
            if let Some(found) = text(&cache.read(&key).await) {
                assert!(found.parse::<u64>().unwrap() >= now, "{found} after {now}");
            }
            tokio::task::yield_now().await;
        }
    };
    let (one, other) = (bench.one(), bench.other());
    tokio::join!(
        reader(one.clone()),
        reader(other.clone()),
        reader(one.clone()),
        evicter(other.clone())
    );
    // At rest everyone has what is true now, or nothing.
    let now = truth.load(Ordering::SeqCst).to_string();
    for cache in [&one, &other] {
        let settled = async {
            loop {
                match text(&cache.read(&key).await) {
                    None => return,
                    Some(found) if found == now => return,
                    Some(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("something old stays");
    }
}

pub(crate) fn address(last: u8) -> BucketKey {
    BucketKey::Address([10, 0, 0, last].into())
}

pub(crate) async fn a_bucket_gives_its_burst_and_then_its_rate(
    counters: &Arc<dyn Counters>,
    bench: &impl Bench,
) {
    // Slow enough that nothing comes in while the burst is taken.
    let quota = Quota::new(1, 10);
    assert_eq!(counters.take(&address(1), quota, 4).await.unwrap().tokens, 4);
    assert_eq!(counters.take(&address(1), quota, 99).await.unwrap().tokens, 6);
    let empty = counters.take(&address(1), quota, 1).await.unwrap();
    assert_eq!(empty.tokens, 0);
    assert!(!empty.wait.is_zero() && empty.wait <= Duration::from_secs(1), "{:?}", empty.wait);
    assert_eq!(counters.take(&address(2), quota, 1).await.unwrap().tokens, 1, "its own bucket");
    bench.pass(empty.wait).await;
    assert_eq!(counters.take(&address(1), quota, 1).await.unwrap().tokens, 1);
}

pub(crate) async fn what_many_take_is_what_one_may(
    counters: &Arc<dyn Counters>,
    _bench: &impl Bench,
) {
    let quota = Quota::new(1, 300);
    let taker = async || {
        let mut taken = 0;
        for _ in 0..60 {
            taken += counters.take(&address(3), quota, 3).await.unwrap().tokens;
            tokio::task::yield_now().await;
        }
        taken
    };
    let started = tokio::time::Instant::now();
    let (one, two, three) = tokio::join!(taker(), taker(), taker());
    let sum = one + two + three;
    let most = 300 + started.elapsed().as_secs() + 1;
    assert!((300..=most).contains(&u64::from(sum)), "{sum} of {most}");
}

pub(crate) async fn a_bucket_that_had_time_is_full_and_no_fuller(
    counters: &Arc<dyn Counters>,
    bench: &impl Bench,
) {
    let quota = Quota::new(1_000, 50);
    assert_eq!(counters.take(&address(4), quota, 50).await.unwrap().tokens, 50);
    bench.pass(Duration::from_millis(200)).await;
    assert_eq!(counters.take(&address(4), quota, 500).await.unwrap().tokens, 50);
}

macro_rules! cache_laws {
    ($open:expr) => {
        $crate::laws::cache_laws!($open;
            what_one_fills_the_other_reads
            keys_and_tenants_do_not_meet
            a_value_ends_everywhere
            an_eviction_by_one_reaches_the_others_copy
            a_fill_begun_before_an_eviction_is_discarded
            of_two_fills_the_later_stands
            large_values_come_back_whole
            nothing_older_than_the_last_eviction_is_read
        );
    };
    ($open:expr; $($law:ident)*) => {$(
        #[tokio::test]
        async fn $law() {
            let bench = $open.await.unwrap();
            $crate::laws::$law(&bench).await;
        }
    )*};
}
pub(crate) use cache_laws;

macro_rules! counter_laws {
    ($open:expr) => {
        $crate::laws::counter_laws!($open;
            a_bucket_gives_its_burst_and_then_its_rate
            what_many_take_is_what_one_may
            a_bucket_that_had_time_is_full_and_no_fuller
        );
    };
    ($open:expr; $($law:ident)*) => {$(
        #[tokio::test]
        async fn $law() {
            let (counters, bench) = $open.await;
            $crate::laws::$law(&counters, &bench).await;
        }
    )*};
}
pub(crate) use counter_laws;
