use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use service_kit::ManualClock;
use trace_model::UnixNanos;

use super::super::Away;
use super::*;

const QUOTA: Quota = Quota::new(200, 400);

/// Counters of all gateways, which may be away.
#[derive(Debug)]
struct Region {
    counters: MemoryCounters,
    is_away: AtomicBool,
    calls: AtomicU32,
}

#[async_trait]
impl Counters for Region {
    async fn take(&self, key: &BucketKey, quota: Quota, wanted: u32) -> Result<Grant, Away> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Away);
        }
        self.counters.take(key, quota, wanted).await
    }
}

struct Gateways {
    region: Arc<Region>,
    limits: Vec<AddressLimit>,
    clock: Arc<ManualClock>,
}

fn gateways_of(number: u32) -> Gateways {
    let clock = Arc::new(ManualClock::at(UnixNanos(1_790_000_000_000_000_000)));
    clock.advance(Duration::from_secs(10));
    let region = Arc::new(Region {
        counters: MemoryCounters::new(clock.clone()),
        is_away: AtomicBool::new(false),
        calls: AtomicU32::new(0),
    });
    let limit = |_| {
        let counters: Arc<dyn Counters> = region.clone();
        let metrics = SharedStateMetrics::default();
        AddressLimit::new(counters, QUOTA, number, clock.clone(), metrics)
    };
    Gateways { limits: (0..number).map(limit).collect(), region, clock }
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

impl Gateways {
    /// Every gateway is asked `per_milli` times in each millisecond; how many were let through.
    async fn flood(&self, millis: u32, per_milli: u32) -> u32 {
        let mut admitted = 0;
        for _ in 0..millis {
            for limit in &self.limits {
                for _ in 0..per_milli {
                    admitted += u32::from(limit.admit(address(1)).await.is_ok());
                }
            }
            self.clock.advance(Duration::from_millis(1));
        }
        admitted
    }
}

#[tokio::test]
async fn three_gateways_let_through_what_one_may() {
    let gateways = gateways_of(3);
    let admitted = gateways.flood(10_000, 3).await;
    let most = QUOTA.burst() + 10 * QUOTA.per_second();
    assert!(admitted <= most, "{admitted} of {most}");
    assert!(admitted >= most * 95 / 100, "{admitted} of {most}");
}

#[tokio::test]
async fn a_flood_costs_the_counters_little() {
    let gateways = gateways_of(1);
    gateways.flood(1_000, 50).await;
    let calls = gateways.region.calls.load(Ordering::Relaxed);
    assert!(calls < 250, "{calls} calls for 50,000 requests");
}

#[tokio::test]
async fn without_the_counters_each_gateway_allows_its_share_and_no_second_burst() {
    let gateways = gateways_of(3);
    let before = gateways.flood(5_000, 3).await;
    gateways.region.is_away.store(true, Ordering::Relaxed);
    let without = gateways.flood(10_000, 3).await;
    let (rate, burst) = (QUOTA.per_second(), QUOTA.burst());
    let most = burst + 15 * rate;
    // What was leased may still be used: a twentieth of a second's tokens each.
    assert!(before + without <= most + 3 * rate / 20, "{before} + {without} of {most}");
    assert!(without >= 10 * rate * 8 / 10, "{without}: not shut either");
    // From the beginning, with the counters never there.
    let fresh = gateways_of(3);
    fresh.region.is_away.store(true, Ordering::Relaxed);
    let admitted = fresh.flood(10_000, 3).await;
    let most = burst + 10 * rate;
    assert!(admitted <= most && admitted >= most * 8 / 10, "{admitted} of {most}");
}

#[tokio::test]
async fn counters_that_come_back_decide_again() {
    let gateways = gateways_of(2);
    gateways.region.is_away.store(true, Ordering::Relaxed);
    let limit = &gateways.limits[0];
    while limit.admit(address(1)).await.is_ok() {}
    gateways.region.is_away.store(false, Ordering::Relaxed);
    gateways.clock.advance(Duration::from_millis(1));
    assert!(limit.admit(address(1)).await.is_ok(), "the region's bucket is full");
}

#[tokio::test]
async fn addresses_do_not_share_a_limit_and_who_waits_as_told_is_let_through() {
    let gateways = gateways_of(1);
    let limit = &gateways.limits[0];
    let mut admitted = 0;
    let wait = loop {
        match limit.admit(address(1)).await {
            Ok(()) => admitted += 1,
            Err(wait) => break wait,
        }
    };
    assert_eq!(admitted, QUOTA.burst());
    assert!(limit.admit(address(2)).await.is_ok());
    let told = limit.admit(address(1)).await.unwrap_err();
    assert!(told <= wait && wait <= Duration::from_millis(10), "{told:?}, {wait:?}");
    gateways.clock.advance(told);
    assert!(limit.admit(address(1)).await.is_ok());
}

#[tokio::test]
async fn a_quiet_address_holds_no_tokens_back() {
    let gateways = gateways_of(5);
    // Two requests a second at each of five gateways, for a minute.
    for _ in 0..120 {
        for limit in &gateways.limits {
            assert!(limit.admit(address(1)).await.is_ok());
        }
        gateways.clock.advance(Duration::from_millis(500));
    }
    let key = BucketKey::Address(address(1));
    assert_eq!(gateways.region.counters.take_now(&key, QUOTA, 999).tokens, QUOTA.burst());
}
