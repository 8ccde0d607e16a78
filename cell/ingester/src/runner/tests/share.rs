//! Partitions that come and go.

use super::*;

const fn given(since: u64) -> Share {
    Share { since, is_leaving: false }
}

const fn leaving(since: u64) -> Share {
    Share { since, is_leaving: true }
}

/// A group over three batches, of which nothing is this process's yet.
async fn start(prepare: impl FnOnce(&FakeLog, &Script)) -> Bench {
    let assignment = Some(watch::channel(Assignment::default()).0);
    let log = FakeLog { assignment, ..FakeLog::default() };
    Bench::start_on(log, 3, 100, prepare).await
}

fn lag(bench: &Bench) -> GroupLag {
    bench.service.lag().into_iter().next().unwrap()
}

#[tokio::test]
async fn nothing_is_read_before_it_is_given() {
    let bench = start(|_, _| {}).await;
    bench.until("it runs", |bench| lag(bench).is_running).await;
    assert_eq!((bench.handled(), lag(&bench).partitions), (vec![], 0));
    bench.log.assign(&[given(1)]);
    bench.until("all is committed", |bench| bench.log.committed_next() == 6).await;
    bench.until("it is seen", |bench| lag(bench).partitions == 1).await;
}

#[tokio::test]
async fn a_partition_that_is_wanted_elsewhere_is_made_durable_committed_and_released() {
    // Nothing is durable before it must be.
    let lazy = |_: &FakeLog, script: &Script| script.is_lazy.store(true, Ordering::SeqCst);
    let bench = start(lazy).await;
    bench.log.assign(&[given(1)]);
    bench.until("all is handled", |bench| bench.handled() == [0, 2, 4]).await;
    assert_eq!(bench.log.committed_next(), 0);
    // While the store is away it is held, and nothing more is read of it.
    bench.script.cannot_flush.store(true, Ordering::SeqCst);
    bench.log.assign(&[leaving(1)]);
    bench.until("it is tried", |bench| lag(bench).retrying.is_some()).await;
    bench.log.with(|state| state.batches.push(logged(6)));
    assert!(bench.log.released.lock().unwrap().is_empty());
    bench.script.cannot_flush.store(false, Ordering::SeqCst);
    let hold = Hold { partition: 0, since: 1 };
    bench.until("it is released", |bench| *bench.log.released.lock().unwrap() == [hold]).await;
    assert_eq!(bench.log.committed_next(), 6);
    assert_eq!(bench.handled(), [0, 2, 4]);
}

#[tokio::test]
async fn a_lost_partition_is_not_committed_and_read_again_from_where_others_have_left_it() {
    let lazy = |_: &FakeLog, script: &Script| script.is_lazy.store(true, Ordering::SeqCst);
    let bench = start(lazy).await;
    bench.log.assign(&[given(1)]);
    bench.until("all is handled", |bench| bench.handled() == [0, 2, 4]).await;
    bench.log.assign(&[]);
    bench.until("it is gone", |bench| lag(bench).partitions == 0).await;
    assert_eq!(bench.log.committed_next(), 0);
    bench.script.is_lazy.store(false, Ordering::SeqCst);
    // It comes back, and another process has committed one batch meanwhile.
    bench.log.with(|state| state.committed = BTreeMap::from([(0, 2)]));
    bench.log.assign(&[given(3)]);
    bench.until("it goes on from the commit", |bench| bench.handled() == [0, 2, 4, 2, 4]).await;
    bench.until("and commits", |bench| bench.log.committed_next() == 6).await;
    assert!(bench.log.released.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_group_that_is_read_alone_stands_by_and_is_made_anew_for_each_turn() {
    let alone = |_: &FakeLog, script: &Script| {
        script.is_alone.store(true, Ordering::SeqCst);
        script.is_lazy.store(true, Ordering::SeqCst);
    };
    let bench = start(alone).await;
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    assert!(bench.service.is_running(), "one that stands by is well");
    assert_eq!(bench.script.made.load(Ordering::SeqCst), 0);
    bench.log.assign(&[given(1)]);
    bench.until("all is handled", |bench| bench.handled() == [0, 2, 4]).await;
    assert!(lag(&bench).is_running && !lag(&bench).is_standing_by);
    bench.log.assign(&[leaving(1)]);
    let hold = Hold { partition: 0, since: 1 };
    bench.until("it is released", |bench| *bench.log.released.lock().unwrap() == [hold]).await;
    assert_eq!(bench.log.committed_next(), 6, "its turn ends with everything durable");
    bench.until("it stands by again", |bench| lag(bench).is_standing_by).await;
    bench.log.with(|state| state.batches.push(logged(6)));
    bench.log.assign(&[given(9)]);
    bench.until("the next turn goes on behind", |bench| bench.handled() == [0, 2, 4, 6]).await;
    assert_eq!(bench.script.made.load(Ordering::SeqCst), 2);
    // Lost without a word: nothing is committed any more.
    bench.log.assign(&[]);
    bench.until("it stands by once more", |bench| lag(bench).is_standing_by).await;
    assert_eq!(bench.log.committed_next(), 6);
}

#[tokio::test]
async fn a_group_that_cannot_be_made_here_is_left_to_others_and_taken_again_when_it_can() {
    let bench = start(|_, script| script.is_alone.store(true, Ordering::SeqCst)).await;
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    bench.script.is_store_away.store(true, Ordering::SeqCst);
    bench.script.cannot_make.store(u32::MAX, Ordering::SeqCst);
    bench.log.assign(&[given(1)]);
    bench.until("it is left", |bench| bench.log.left.load(Ordering::SeqCst) == 1).await;
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    // Nobody else can: it comes back to this process, which tries once and leaves it again.
    let tries = bench.script.cannot_make.load(Ordering::SeqCst);
    bench.log.assign(&[given(2)]);
    bench.until("it is left again", |bench| bench.log.left.load(Ordering::SeqCst) == 2).await;
    assert_eq!(tries - bench.script.cannot_make.load(Ordering::SeqCst), 1);
    assert!(bench.service.is_running(), "a store that is away is no fault of this process");
    bench.until("it stands by once more", |bench| lag(bench).is_standing_by).await;
    assert!(lag(&bench).is_waiting && lag(&bench).retrying.is_some(), "it is still told");
    bench.script.cannot_make.store(0, Ordering::SeqCst);
    bench.log.assign(&[given(3)]);
    bench.until("all is handled", |bench| bench.handled() == [0, 2, 4]).await;
    bench.until("all is committed", |bench| bench.log.committed_next() == 6).await;
    assert!(lag(&bench).retrying.is_none() && !lag(&bench).is_waiting);
}

#[tokio::test]
async fn a_process_that_cannot_start_a_group_is_not_well_until_another_has_it() {
    let bench = start(|_, script| script.is_alone.store(true, Ordering::SeqCst)).await;
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    bench.script.cannot_make.store(u32::MAX, Ordering::SeqCst);
    bench.log.assign(&[given(1)]);
    bench.until("it is left", |bench| bench.log.left.load(Ordering::SeqCst) == 1).await;
    assert!(!bench.service.is_running(), "its own fault");
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    let reason = bench.service.check(GROUP).unwrap_err();
    assert!(reason.contains("the store is away"), "{reason}");
    // It is long since its turn: another process has it.
    bench.script.ahead_s.store(60, Ordering::SeqCst);
    bench.until("it is well", |bench| bench.service.is_running()).await;
    assert!(lag(&bench).is_standing_by && lag(&bench).failing_ms == 0);
    assert!(bench.metrics.failing_seconds.get_or_create(&GROUP.into()).get() < 1.0);
    // What comes later is told anew, and tried as often before it is left.
    let tries = bench.script.cannot_make.load(Ordering::SeqCst);
    bench.log.assign(&[given(2)]);
    bench.until("it is left again", |bench| bench.log.left.load(Ordering::SeqCst) == 2).await;
    assert_eq!(tries - bench.script.cannot_make.load(Ordering::SeqCst), 3);
    assert!(lag(&bench).failing_ms < 30_000);
}

#[tokio::test]
async fn who_is_fenced_in_its_turn_is_made_anew_and_reads_again_what_is_not_durable() {
    let bench = start(|_, script| script.is_alone.store(true, Ordering::SeqCst)).await;
    bench.log.assign(&[given(1)]);
    bench.until("all is committed", |bench| bench.log.committed_next() == 6).await;
    bench.script.epoch.fetch_add(1, Ordering::SeqCst);
    bench.log.with(|state| state.batches.push(logged(6)));
    bench.until("it goes on", |bench| bench.log.committed_next() == 8).await;
    assert_eq!(bench.script.made.load(Ordering::SeqCst), 2);
    bench.until("it is well", |bench| lag(bench).retrying.is_none()).await;
    // One whose turn is over as well gives back at once what nobody will let it finish.
    bench.script.is_lazy.store(true, Ordering::SeqCst);
    bench.log.with(|state| state.batches.push(logged(8)));
    bench.until("it is handled", |bench| bench.handled().last() == Some(&8)).await;
    bench.log.assign(&[leaving(1)]);
    bench.script.epoch.fetch_add(1, Ordering::SeqCst);
    let hold = Hold { partition: 0, since: 1 };
    bench.until("it is released", |bench| bench.log.released.lock().unwrap().contains(&hold)).await;
    bench.log.assign(&[]);
    bench.until("it stands by", |bench| lag(bench).is_standing_by).await;
    assert!(bench.service.is_running() && lag(&bench).failing_ms == 0);
    bench.stop().await;
}

#[tokio::test]
async fn who_was_late_for_its_turn_fences_the_next_one_once_and_not_in_a_circle() {
    let epoch = Arc::new(AtomicU32::new(0));
    let process = async |is_held_up: bool| {
        let assignment = Some(watch::channel(Assignment::default()).0);
        let log = FakeLog { assignment, ..FakeLog::default() };
        let script = Script {
            is_alone: AtomicBool::new(true),
            is_held_up: AtomicBool::new(is_held_up),
            epoch: Arc::clone(&epoch),
            ..Script::default()
        };
        Bench::start_as(log, script, 100).await
    };
    let (late, next) = (process(true).await, process(false).await);
    late.log.assign(&[given(1)]);
    late.until("it is made", |late| late.script.making.load(Ordering::SeqCst) == 1).await;
    // It stands there, and its turn goes to the next one.
    late.log.assign(&[]);
    next.log.assign(&[given(1)]);
    next.log.with(|state| state.batches.push(logged(0)));
    next.until("the next one works", |next| next.log.committed_next() == 2).await;
    late.script.is_held_up.store(false, Ordering::SeqCst);
    late.until("it stands by", |late| {
        late.script.made.load(Ordering::SeqCst) == 1 && lag(late).is_standing_by
    })
    .await;
    next.log.with(|state| state.batches.push(logged(2)));
    next.until("the next one goes on", |next| next.log.committed_next() == 4).await;
    assert_eq!(epoch.load(Ordering::SeqCst), 3, "each took the work when it had to, and no more");
    assert!(late.handled().is_empty(), "its turn was over when it was made");
}
