//! Giving a collector up: one that is gone for good, and one that is only believed to be.

use std::time::Duration;

use span_log::direct::{INCARNATION, RetireError, Standing};
use span_log::port::{METADATA_PUBLISHER, METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{ForgetLost, LogError, LostCause, SpanLog};

use crate::batches::{batch, eventually, tenant, trace};
use crate::collectors::{Collectors, cover, end_is};
use crate::laws::{NOW, SECOND};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_for_good_is_retired_and_what_it_had_is_told_as_lost() {
    let mut cell = Collectors::new(2);
    cell.lease = 50 * SECOND;
    let (one, two) = (cell.start(0).await, cell.start(1).await);
    let front = cell.open_front().await;
    for number in 0..2 {
        cell.until_registered(&front, number).await;
    }
    two.append(batch(&[1, 2])).await.unwrap();
    two.commit(STORAGE_WRITER, 1, 2).await.unwrap();
    two.commit(SEARCH_INDEXER, 1, 2).await.unwrap();
    end_is(&front, 1, 2).await;
    cell.clock.advance(SECOND);
    two.append(batch(&[3])).await.unwrap();
    end_is(&front, 1, 3).await;
    assert_eq!(front.retire(1).await, Err(RetireError::Answers(1)));
    assert_eq!(front.retire(7).await, Err(RetireError::Absent(7)));
    cell.stop(1, two).await;
    cell.clock.advance(60 * SECOND);
    front.retire(1).await.unwrap();
    let retired_at = NOW.plus(61 * 1_000_000_000);
    // Readers meet one run and are at the end behind it, which goes with the time.
    let Err(LogError::Damaged(missing)) = front.read(1, 2, 1).await else { panic!("not damaged") };
    assert_eq!((missing.range.first, missing.range.next), (2, 4));
    assert!(missing.append_times.0 >= NOW && missing.append_times.0 <= NOW.plus(3_000_000_000));
    assert!(missing.append_times.1 > retired_at);
    let end = front.end(1).unwrap();
    assert!(end.next == 4 && end.append_time >= missing.append_times.1);
    assert!(front.read(1, 4, 1).await.unwrap().is_empty());
    front.commit(METADATA_PUBLISHER, 1, 4).await.unwrap();
    // No answer waits for it, and all are told of what no store has.
    let tail = front.tail(&tenant("default"), trace(3)).await.unwrap();
    assert!(!tail.is_behind && front.away().is_empty() && front.is_retired(1));
    let lost = front.lost().runs;
    assert_eq!((lost.len(), lost[0].cause, lost[0].range.first), (1, LostCause::Retired, 2));
    // Nothing of it was counted, and counts say so.
    let missed = front.lost().missed;
    assert_eq!((missed.len(), missed[0].group), (1, METRICS_AGGREGATOR));
    assert_eq!((missed[0].run.cause, missed[0].run.range.next), (LostCause::Retired, 4));
    // Durable, over a restart of the front; and the collector that comes back is told.
    front.close().await.unwrap();
    // Readers are behind the run by then, and have published since.
    let mut seen = cover(1, 4);
    (seen.stored, seen.append_time) = (cover(1, 2).stored, end.append_time.plus(1));
    let front = cell.open_front_that_has(seen).await.unwrap();
    assert_eq!((front.end(1).unwrap().next, front.lost().runs), (4, lost.clone()));
    assert!(front.read(1, 4, 1).await.unwrap().is_empty(), "and meet none again");
    let two = cell.start(1).await;
    eventually("it is told", || {
        matches!(front.standings()[1].standing, Standing::Retired { is_told: true, .. })
    })
    .await;
    assert!(two.append(batch(&[9])).await.unwrap_err().to_string().contains("retired"));
    cell.stop(1, two).await;
    let two = cell.start(1).await;
    assert!(two.append(batch(&[9])).await.is_err(), "also after a restart");
    // The others go on, and a person may end the loss.
    until_taken(&*one, 5).await;
    let run = ForgetLost::Run { incarnation: INCARNATION, partition: 1, first: 2 };
    assert_eq!(front.forget_lost(run).await.unwrap(), 1);
    assert_eq!((front.lost().runs, front.lost().missed), (vec![], missed));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_ends_what_was_lost_with_a_retired_one() {
    let (mut cell, log, front) = Collectors::of_one_leased(50 * SECOND).await;
    log.append(batch(&[1])).await.unwrap();
    end_is(&front, 0, 1).await;
    cell.stop(0, log).await;
    cell.clock.advance(60 * SECOND);
    front.retire(0).await.unwrap();
    let run = front.lost().runs.remove(0);
    assert_eq!(front.forget_lost(ForgetLost::Before(run.append_times.1)).await.unwrap(), 0);
    let behind = ForgetLost::Before(run.append_times.1.plus(1));
    assert_eq!(front.forget_lost(behind).await.unwrap(), 2, "what was not counted as well");
    let lost = front.lost();
    assert_eq!((lost.runs, lost.missed), (vec![], vec![]));
    assert_eq!(lost.expired_until, Some(run.append_times.1));
}

/// The front is heard every half second: a clock that was advanced by hand is ahead of it for that long.
async fn until_taken(log: &dyn SpanLog, trace: u64) {
    let taken = async {
        while log.append(batch(&[trace])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let taken = tokio::time::timeout(Duration::from_secs(10), taken).await;
    assert!(taken.is_ok(), "it takes no spans");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_hear_its_front_takes_nothing_by_the_time_that_it_may_be_given_up() {
    let (mut cell, log, front) = Collectors::of_one_leased(50 * SECOND).await;
    log.append(batch(&[1])).await.unwrap();
    // Heard, it goes on for as long as it likes.
    for _ in 0..4 {
        cell.clock.advance(40 * SECOND);
        until_taken(&*log, 2).await;
    }
    // It is told how long it may, with whatever else it is told.
    // (Something that it did not acknowledge may be in its log as well.)
    let end = log.end(0).unwrap().next;
    end_is(&front, 0, end).await;
    front.commit(METADATA_PUBLISHER, 0, end).await.unwrap();
    eventually("it is told", || log.committed(METADATA_PUBLISHER, 0).unwrap() == end).await;
    // Cut off, it goes on for a lease, and after a restart for half of what was left, at least.
    front.close().await.unwrap();
    cell.stop(0, log).await;
    let log = cell.open(0, "c0", Default::default()).unwrap();
    cell.clock.advance(20 * SECOND);
    log.append(batch(&[3])).await.unwrap();
    let last = log.read(0, end, 1 << 20).await.unwrap().pop().unwrap();
    cell.clock.advance(31 * SECOND);
    let refused = log.append(batch(&[4])).await.unwrap_err();
    assert!(refused.is_retryable() && refused.to_string().contains("was not heard"), "{refused}");
    assert!(log.health().is_err());
    // A front that was started meanwhile does not know what the one before has let it take.
    let front = cell.open_front().await;
    let refused = front.retire(0).await.unwrap_err();
    assert_eq!(refused, RetireError::MayRun { number: 0, seconds: 51 });
    cell.clock.advance(51 * SECOND);
    front.retire(0).await.unwrap();
    // All that it took, unseen as it was, lies in what is told as lost.
    let run = front.lost().runs.remove(0);
    assert!(run.append_times.0 <= last.append_time && last.append_time < run.append_times.1);
    let Err(LogError::Damaged(hole)) = front.read(0, 0, 1).await else { panic!("not damaged") };
    assert!(hole.append_times.0 <= last.append_time && last.append_time < hole.append_times.1);
    // It is reached again: it is told, and takes nothing.
    log.close().await.unwrap();
    drop(log);
    let log = cell.start(0).await;
    eventually("it is told", || {
        matches!(front.standings()[0].standing, Standing::Retired { is_told: true, .. })
    })
    .await;
    assert!(log.append(batch(&[5])).await.unwrap_err().to_string().contains("retired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_silent_for_a_moment_is_not_given_up() {
    let (mut cell, log, front) = Collectors::of_one_leased(50 * SECOND).await;
    cell.clock.advance(100 * SECOND);
    until_taken(&*log, 1).await;
    // (What it did not acknowledge may be in its log as well.)
    end_is(&front, 0, log.end(0).unwrap().next).await;
    cell.stop(0, log).await;
    let refused = front.retire(0).await.unwrap_err();
    let RetireError::MayRun { seconds, .. } = refused else { panic!("{refused}") };
    assert!((50..=51).contains(&seconds), "{seconds}");
    let log = cell.start(0).await;
    until_taken(&*log, 2).await;
    assert_eq!(front.retire(0).await, Err(RetireError::Answers(0)));
}
