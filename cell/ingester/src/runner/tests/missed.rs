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
async fn a_letter_that_was_taken_after_all_is_missed_no_more_unless_something_else_is_with_it() {
    for is_joined in [false, true] {
        let bench = Bench::start(4, |_, script| {
            is_told(script);
            script.takes_again.store(true, Ordering::SeqCst);
            script.poison.lock().unwrap().push(2);
        })
        .await;
        bench.until("committed", |bench| bench.log.committed_next() == 8).await;
        let times = (logged(2).append_time, logged(2).append_time);
        assert_eq!(told(&bench), [(SEARCH_INDEXER, LostCause::SetAside, (2, 4), times)]);
        if is_joined {
            bench.log.with(|state| state.missed[0].run.range.next = 5);
        }
        bench.retries.retry(&bench.dead_letters, 1).await.unwrap();
        assert_eq!(told(&bench).len(), usize::from(is_joined));
        bench.stop().await;
    }
}
