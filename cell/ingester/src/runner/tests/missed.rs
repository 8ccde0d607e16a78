//! What a group will never read is told before the group goes on behind it.

use span_log::Stranger;

use super::*;

type Told = (GroupId, LostCause, (u64, u64), (UnixNanos, UnixNanos));

fn told(bench: &Bench) -> Vec<Told> {
    let state = bench.log.state.lock().unwrap();
    let told = state.missed.iter().map(|missed| {
        let run = &missed.run;
        assert_eq!((run.incarnation, run.range.partition), (INCARNATION, 0));
        (missed.group, run.cause, (run.range.first, run.range.next), run.append_times)
    });
    told.collect()
}

fn missed_records(bench: &Bench, group: GroupId) -> u64 {
    bench.metrics.missed_records.get_or_create(&group.into()).get()
}

fn is_told(script: &Script) {
    script.is_told.store(true, Ordering::SeqCst);
}

#[tokio::test]
async fn records_that_retention_took_are_noted_before_the_group_goes_on_and_with_their_times() {
    let bench = Bench::start(4, |log, script| {
        is_told(script);
        log.with(|state| {
            (state.first, state.cannot_note) = (4, true);
            state.committed = BTreeMap::from([(0, 2)]);
        });
    })
    .await;
    let tries = |bench: &Bench| bench.metrics.retries.get_or_create(&SEARCH_INDEXER.into()).get();
    bench.until("5 tries", |bench| tries(bench) > 5).await;
    assert!(bench.handled().is_empty(), "nobody knows yet what it would step over");
    assert!(bench.script.skipped.lock().unwrap().is_empty());
    assert_eq!((bench.log.committed_next(), missed_records(&bench, SEARCH_INDEXER)), (2, 0));
    bench.log.with(|state| state.cannot_note = false);
    bench.until("committed", |bench| bench.log.committed_next() == 8).await;
    // From what the log knows of offset 2 to the append time of the oldest that is kept.
    let times = (UnixNanos(3), logged(4).append_time);
    assert_eq!(told(&bench), [(SEARCH_INDEXER, LostCause::Dropped, (2, 4), times)]);
    assert_eq!((bench.handled(), missed_records(&bench, SEARCH_INDEXER)), (vec![4, 6], 2));
    bench.stop().await;
}

#[tokio::test]
async fn damaged_records_are_missed_from_the_position_on_and_foreign_ones_are_not() {
    for is_foreign in [false, true] {
        let append_times = (UnixNanos(1), UnixNanos(5));
        let bench = Bench::start(4, |log, script| {
            is_told(script);
            let stranger = is_foreign.then(Stranger::default);
            let range = LogRange { partition: 0, first: 2, next: 6 };
            let damaged = DamagedRange { range, append_times, reason: "crc".into(), stranger };
            log.with(|state| {
                state.damaged = Some(damaged);
                state.committed = BTreeMap::from([(0, 4)]);
            });
        })
        .await;
        bench.until("committed", |bench| bench.log.committed_next() == 8).await;
        let expected = [(SEARCH_INDEXER, LostCause::Damaged, (4, 6), append_times)];
        assert_eq!(told(&bench), if is_foreign { &[][..] } else { &expected[..] });
        assert_eq!(missed_records(&bench, SEARCH_INDEXER), if is_foreign { 0 } else { 2 });
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_group_of_which_no_commit_is_known_has_missed_what_its_store_lacks_and_the_log_too() {
    for (stored, expected) in [(0, Some((0, 4))), (2, Some((2, 4))), (4, None), (6, None)] {
        let bench = Bench::start(4, |log, script| {
            is_told(script);
            script.stored.lock().unwrap().extend_in(INCARNATION, 0, stored);
            log.with(|state| state.first = 4);
        })
        .await;
        bench.until("handled", |bench| bench.handled().contains(&6)).await;
        assert_eq!(bench.handled(), [4, 6], "{stored}");
        let told: Vec<_> = told(&bench).iter().map(|(_, _, range, _)| *range).collect();
        assert_eq!(told, Vec::from_iter(expected), "{stored}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_an_older_copy_of_the_log_lacks_and_the_store_has_is_not_missed() {
    for (stored, expected) in [(0, Some((2, 4))), (3, Some((3, 4))), (4, None), (6, None)] {
        let bench = Bench::start(4, |log, script| {
            is_told(script);
            script.stored.lock().unwrap().extend_in(INCARNATION, 0, stored);
            log.with(|state| {
                state.first = 4;
                state.committed = BTreeMap::from([(0, 2)]);
            });
        })
        .await;
        bench.until("handled", |bench| bench.handled().contains(&6)).await;
        let told: Vec<_> = told(&bench).iter().map(|(_, _, range, _)| *range).collect();
        assert_eq!(told, Vec::from_iter(expected), "{stored}");
        let records = expected.map_or(0, |(first, next)| next - first);
        assert_eq!(missed_records(&bench, SEARCH_INDEXER), records, "{stored}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_group_whose_misses_are_told_otherwise_is_counted_alone() {
    let bench = Bench::start(4, |log, _| {
        log.with(|state| (state.first, state.cannot_note) = (4, true));
    })
    .await;
    bench.until("handled", |bench| bench.handled().contains(&6)).await;
    assert_eq!(
        (told(&bench), missed_records(&bench, GROUP)),
        (vec![], 0),
        "it began at the oldest"
    );
    bench.stop().await;
    let bench = Bench::start(4, |log, _| {
        log.with(|state| {
            (state.first, state.cannot_note) = (4, true);
            state.committed = BTreeMap::from([(0, 2)]);
        });
    })
    .await;
    bench.until("handled", |bench| bench.handled().contains(&6)).await;
    assert_eq!((told(&bench), missed_records(&bench, GROUP)), (vec![], 2));
    bench.stop().await;
}

#[tokio::test]
async fn what_a_store_has_that_was_away_when_its_group_began_is_not_missed() {
    for committed in [None, Some(2)] {
        let bench = Bench::start(4, |log, script| {
            is_told(script);
            script.cannot_flush.store(true, Ordering::SeqCst);
            log.with(|state| {
                state.first = 4;
                state.committed = committed.map(|next| (0, next)).into_iter().collect();
            });
        })
        .await;
        let tries =
            |bench: &Bench| bench.metrics.retries.get_or_create(&SEARCH_INDEXER.into()).get();
        bench.until("5 tries", |bench| tries(bench) > 5).await;
        bench.script.stored.lock().unwrap().extend_in(INCARNATION, 0, 4);
        bench.script.cannot_flush.store(false, Ordering::SeqCst);
        bench.until("handled", |bench| bench.handled().contains(&6)).await;
        assert_eq!((told(&bench), bench.handled()), (vec![], vec![4, 6]), "{committed:?}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_another_group_has_set_aside_is_missed_and_what_nobody_has_is_told_already() {
    for (cause, expected) in [
        (LostCause::SetAside, Some((2, 4))),
        (LostCause::Dropped, None),
        (LostCause::Damaged, None),
    ] {
        let bench = Bench::start(4, |log, script| {
            is_told(script);
            let range = LogRange { partition: 0, first: 2, next: 4 };
            let append_times = (UnixNanos(1), UnixNanos(2));
            let run = LostRun { incarnation: INCARNATION, range, append_times, cause };
            log.with(|state| {
                state.lost.runs = vec![run];
                (state.first, state.committed) = (4, BTreeMap::from([(0, 2)]));
            });
        })
        .await;
        bench.until("handled", |bench| bench.handled().contains(&6)).await;
        let told: Vec<_> = told(&bench).iter().map(|(_, _, range, _)| *range).collect();
        assert_eq!(told, Vec::from_iter(expected), "a letter may be taken again: {cause:?}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_a_told_group_sets_aside_others_hear_of_before_it_goes_on_and_until_it_is_taken() {
    let bench = Bench::start(3, |log, script| {
        is_told(script);
        script.poison.lock().unwrap().push(2);
        log.with(|state| state.cannot_note = true);
    })
    .await;
    let tries = |bench: &Bench| bench.metrics.retries.get_or_create(&SEARCH_INDEXER.into()).get();
    bench.until("5 tries", |bench| tries(bench) > 5).await;
    assert_eq!((bench.handled(), bench.dead_letters.figures().0), (vec![0], 0));
    bench.log.with(|state| state.cannot_note = false);
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    let range = LogRange { partition: 0, first: 2, next: 4 };
    assert_eq!(bench.log.state.lock().unwrap().aside, [(SEARCH_INDEXER, range)]);
    assert_eq!(bench.dead_letters.figures().0, 1);
    bench.script.takes_again.store(true, Ordering::SeqCst);
    bench.retries.retry(&bench.dead_letters, 1).await.unwrap();
    let forgotten = bench.log.state.lock().unwrap().forgotten.clone();
    let (group, incarnation) = (SEARCH_INDEXER, INCARNATION);
    assert_eq!(forgotten, [ForgetLost::Missed { group, incarnation, partition: 0, first: 2 }]);
    bench.stop().await;
}

#[tokio::test]
async fn a_letter_that_is_told_of_with_its_neighbours_is_not_forgotten_alone() {
    let bench = Bench::start(3, |_, script| {
        is_told(script);
        script.poison.lock().unwrap().push(2);
    })
    .await;
    bench.until("committed", |bench| bench.log.committed_next() == 6).await;
    // The log has told of the next record in the same run.
    bench.log.with(|state| state.lost.missed.iter_mut().for_each(|one| one.run.range.next = 9));
    bench.script.takes_again.store(true, Ordering::SeqCst);
    bench.retries.retry(&bench.dead_letters, 1).await.unwrap();
    assert_eq!(bench.log.state.lock().unwrap().forgotten, [], "its neighbours are still away");
    bench.stop().await;
}

#[tokio::test]
async fn all_partitions_that_miss_something_wait_at_once_until_others_have_heard() {
    let log = FakeLog { more: 2, ..FakeLog::default() };
    let bench = Bench::start_on(log, 4, 100, |log, script| {
        is_told(script);
        log.with(|state| {
            (state.first, state.is_unheard) = (4, true);
            state.committed = BTreeMap::from([(0, 0), (1, 0), (2, 0)]);
        });
    })
    .await;
    let noted = |bench: &Bench| {
        let state = bench.log.state.lock().unwrap();
        state.missed.iter().map(|missed| missed.run.range.partition).collect::<Vec<_>>()
    };
    bench.until("all are noted", |bench| noted(bench).len() == 3).await;
    assert!(bench.script.skipped.lock().unwrap().is_empty(), "nobody has heard of them yet");
    assert!(bench.handled().is_empty());
    bench.log.with(|state| state.is_unheard = false);
    let ends = BTreeMap::from([(0, 8), (1, 8), (2, 8)]);
    bench.until("all go on", |bench| bench.log.state.lock().unwrap().committed == ends).await;
    assert_eq!(noted(&bench), [0, 1, 2], "each once");
    assert_eq!(missed_records(&bench, SEARCH_INDEXER), 12);
    bench.stop().await;
}
