//! Records beside the order of the log: dead letters that are tried again, and logs that were made
//! anew.

use proto::LoggedBatch;
use trace_model::{LogPosition, LogRange};

use crate::fixture::{INCARNATION, Request, span, trace_id};
use crate::harness::{Adapter, EMBEDDED, Harness, MEMORY, tag};

const ADAPTERS: [Adapter; 2] = [MEMORY, EMBEDDED];

fn at(offset: u64) -> LogPosition {
    LogPosition { partition: 0, offset }
}

/// A batch of one trace, at an offset of an incarnation.
fn batch(harness: &mut Harness, trace: u64, incarnation: u64, first: u64) -> LoggedBatch {
    let mut logged = harness.log.append(&Request::of("web", &[span(trace, 0, "late")]));
    logged.incarnation = incarnation;
    logged.range = LogRange { partition: 0, first, next: first + 1 };
    logged
}

#[tokio::test]
async fn a_batch_that_is_tried_again_is_found_once_and_moves_no_cover() {
    for adapter in ADAPTERS {
        let mut harness = Harness::new(adapter).await;
        for trace in 0..4 {
            harness.write(&Request::of("web", &[span(trace, 0, "first")])).await;
        }
        harness.seal().await;
        // Offset 1 was set aside, and trace 9 was in it; one of another log was, too.
        let letters =
            [batch(&mut harness, 9, INCARNATION, 1), batch(&mut harness, 8, INCARNATION - 3, 70)];
        for letter in &letters {
            for _ in 0..2 {
                harness.store.write_again(letter).await.unwrap();
                harness.seal().await;
            }
        }
        let harness = harness.reopen().await;
        for trace in [9, 8, 0, 3] {
            assert_eq!(harness.read(trace_id(trace)).await.len(), 1, "trace {trace}");
        }
        let covered = harness.store.durable();
        assert!(covered.covers(INCARNATION, at(3)) && !covered.covers(INCARNATION, at(4)));
        assert!(!covered.covers(INCARNATION - 3, at(0)), "nothing else of that log is here");
        assert_eq!(harness.store.indexed(), covered);
        assert!(harness.find(tag("no", "such")).await.is_empty());
    }
}

#[tokio::test]
async fn what_was_covered_of_a_log_is_remembered_when_another_one_follows_it() {
    for adapter in ADAPTERS {
        let mut harness = Harness::new(adapter).await;
        for trace in 0..3 {
            harness.write(&Request::of("web", &[span(trace, 0, "first")])).await;
        }
        harness.seal().await;
        let next = batch(&mut harness, 5, INCARNATION + 1, 0);
        harness.store.write(std::slice::from_ref(&next)).await.unwrap();
        harness.seal().await;
        let harness = harness.reopen().await;
        let read = harness.store.read_trace(&trace_model::TenantId::default(), trace_id(1)).await;
        let covered = read.unwrap().covered;
        assert_eq!(covered.incarnation, INCARNATION + 1);
        assert!(covered.covers(INCARNATION + 1, at(0)) && !covered.covers(INCARNATION + 1, at(1)));
        assert!(covered.covers(INCARNATION, at(2)) && !covered.covers(INCARNATION, at(3)));
    }
}
