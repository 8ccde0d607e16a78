use std::sync::atomic::{AtomicUsize, Ordering};

use service_kit::ManualClock;
use trace_model::{Certificate, TraceSpans, UnixNanos};

use super::*;
use crate::room::Held;

fn key() -> RoundKey {
    (TenantId::default(), TraceId::from_bytes([1; 16]).unwrap())
}

fn patience(millis: u64) -> Patience {
    Patience::exactly(Duration::from_millis(millis))
}

async fn work(millis: u64, count: Arc<AtomicUsize>) -> TraceAnswer {
    count.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    TraceAnswer {
        spans: TraceSpans::new(key().1),
        certificate: Certificate::default(),
        held: Held::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_that_has_not_begun_is_shared_and_one_under_way_is_not() {
    let (rounds, count) = (MissRounds::default(), Arc::new(AtomicUsize::new(0)));
    let first = rounds.begin(key(), patience(2_000), work(100, Arc::clone(&count)));
    assert!(matches!(rounds.find_seat(&key(), &patience(2_000)), Seat::Shared(_)));
    let waiting = tokio::time::timeout(Duration::from_millis(10), first.clone()).await;
    assert!(waiting.is_err());
    assert!(matches!(rounds.find_seat(&key(), &patience(2_000)), Seat::Own));
    let second = rounds.begin(key(), patience(2_000), work(100, Arc::clone(&count)));
    assert!(matches!(rounds.find_seat(&key(), &patience(2_000)), Seat::Shared(_)));
    let started = tokio::time::Instant::now();
    tokio::join!(first, second);
    assert_eq!(started.elapsed(), Duration::from_millis(190));
    assert_eq!(count.load(Ordering::Relaxed), 2);
    assert_eq!(rounds.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_more_patient_question_does_not_join_an_impatient_round() {
    let (rounds, count) = (MissRounds::default(), Arc::new(AtomicUsize::new(0)));
    let _round = rounds.begin(key(), patience(100), work(10, count));
    assert!(matches!(rounds.find_seat(&key(), &patience(101)), Seat::Own));
    assert!(matches!(rounds.find_seat(&key(), &patience(99)), Seat::Shared(_)));
}

#[tokio::test(start_paused = true)]
async fn another_tenants_round_is_not_joined() {
    let (rounds, count) = (MissRounds::default(), Arc::new(AtomicUsize::new(0)));
    let _round = rounds.begin(key(), patience(100), work(10, count));
    let other = (TenantId::new("other").unwrap(), key().1);
    assert!(matches!(rounds.find_seat(&other, &patience(50)), Seat::Own));
}

#[tokio::test(start_paused = true)]
async fn a_round_that_everyone_gave_up_leaves_nothing_behind() {
    let (rounds, count) = (MissRounds::default(), Arc::new(AtomicUsize::new(0)));
    let round = rounds.begin(key(), patience(100), work(10_000, count));
    let given_up = tokio::time::timeout(Duration::from_millis(10), round).await;
    assert!(given_up.is_err());
    assert_eq!(rounds.len(), 0);
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let clock = Arc::new(ManualClock::at(UnixNanos(0)));
    let bucket = TokenBucket::new(2.0, 3.0, Arc::clone(&clock) as Arc<dyn Clock>);
    let take = |count: usize| (0..count).filter(|_| bucket.try_take()).count();
    assert_eq!(take(10), 3);
    clock.advance(Duration::from_secs(1));
    assert_eq!(take(10), 2);
    clock.advance(Duration::from_secs(1_000));
    assert_eq!(take(10), 3);
    clock.set_wall(UnixNanos(5));
    assert_eq!(take(1), 0);
}
