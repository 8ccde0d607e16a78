//! Every single bit of a segment, of the checkpoint and of the identity, flipped: damage is found,
//! named and stepped over in the open; no wrong span is ever given.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use service_kit::ManualClock;
use span_log::port::STORAGE_WRITER;
use span_log::{EmbeddedLog, ForgetLost, LogError, Lost, LostCause, OpenError, SpanLog};

use crate::batches::{PARTITION, batch, batch_of, read_all, says_damage, tenant, trace};
use crate::faulty_disk::FaultyDisk;
use crate::power_cut::{NOW, small_config};

const SEGMENT: &str = "segment-0000000000.log";
const PAGE: usize = 4_096;
/// Records of the log under test, in blocks of one batch each.
const RECORDS: u64 = 6;

fn open(disk: FaultyDisk) -> Result<Arc<EmbeddedLog>, OpenError> {
    let mut config = small_config();
    config.cache_bytes_max = 0;
    EmbeddedLog::open_on(Arc::new(disk), config, Arc::new(ManualClock::at(NOW)))
}

/// A closed log of three blocks with two records each.
async fn three_blocks() -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let log = open(disk.clone()).unwrap();
    for number in 0..RECORDS / 2 {
        log.append(batch(&[number * 2, number * 2 + 1])).await.unwrap();
    }
    log.close().await.unwrap();
    assert_eq!(disk.content(SEGMENT).len(), 4 * PAGE);
    disk
}

/// Reads on behind damage, as a consumer group does; gives the offsets that were damaged. Whatever
/// is read must be what was written at its place.
async fn read_past_damage(log: &EmbeddedLog, what: &str) -> BTreeSet<u64> {
    let mut damaged = BTreeSet::new();
    let mut read = BTreeSet::new();
    let mut at = 0;
    let end = log.end(PARTITION).unwrap().next;
    while at < end {
        match log.read(PARTITION, at, 1).await {
            Ok(batches) => {
                assert!(!batches.is_empty(), "{what}: nothing at {at} of {end}");
                for logged in batches {
                    let first = logged.range.first;
                    let expected = batch(&[first, first + 1]);
                    assert_eq!(logged.batch.encoded(), expected.encoded(), "{what}");
                    read.extend(logged.range.first..logged.range.next);
                    at = logged.range.next;
                }
            }
            Err(LogError::Damaged(range)) => {
                assert!(range.range.first <= at && at < range.range.next, "{what}: {range:?}");
                assert!(range.append_times.0 <= range.append_times.1, "{what}: {range:?}");
                assert!(log.damaged().contains(&range), "{what}: {range:?}");
                damaged.extend(range.range.first..range.range.next);
                at = range.range.next;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(read.is_disjoint(&damaged), "{what}");
    read.extend(&damaged);
    assert_eq!(read, (0..RECORDS).collect(), "{what}: records vanished in silence");
    damaged
}

/// Bits of a block that mean something: all up to the last section's end.
fn used_bytes(content: &[u8], block: usize) -> usize {
    let block = &content[block * PAGE..(block + 1) * PAGE];
    PAGE - block.iter().rev().take_while(|byte| **byte == 0).count()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn every_flipped_bit_of_a_segment_is_found_when_it_is_opened() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let content = disk.content(SEGMENT);
        for block in 1..=3 {
            let (start, used) = (block * PAGE, used_bytes(&content, block));
            for bit in start * 8..(start + used) * 8 {
                let what = format!("bit {bit}");
                let log = open(disk.with_flipped(SEGMENT, bit)).unwrap();
                let first = (block as u64 - 1) * 2;
                let damaged = read_past_damage(&log, &what).await;
                assert_eq!(damaged, [first, first + 1].into(), "{what}");
                let answer = log.tail(&tenant("default"), trace(first)).await.unwrap();
                assert!(says_damage(log.as_ref(), &answer) && answer.spans.is_empty(), "{what}");
                let lost = log.lost().runs;
                assert_eq!((lost[0].range.first, lost[0].range.next), (first, first + 2), "{what}");
            }
        }
    });
}

#[test]
fn damage_is_not_forgotten_when_storage_writer_has_passed_it_and_the_log_is_opened_again() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let log = open(disk.copy()).unwrap();
        log.commit(STORAGE_WRITER, PARTITION, RECORDS).await.unwrap();
        assert!(!log.tail(&tenant("default"), trace(0)).await.unwrap().is_damaged);
        let struck = disk.with_flipped(SEGMENT, (PAGE + 20) * 8);
        let log = open(struck.clone()).unwrap();
        log.commit(STORAGE_WRITER, PARTITION, RECORDS).await.unwrap();
        log.close().await.unwrap();
        // The segment is whole again: only the checkpoint remembers.
        struck.flip(SEGMENT, (PAGE + 20) * 8);
        let log = open(struck.clone()).unwrap();
        assert_eq!(log.damaged(), []);
        let answer = log.tail(&tenant("default"), trace(0)).await.unwrap();
        assert!(!answer.is_damaged && answer.spans.is_empty());
        let runs = log.lost().runs;
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].range.first, runs[0].range.next), (0, 2));
        assert_eq!(runs[0].cause, LostCause::Damaged);
        // Until a person has seen to it.
        let run = ForgetLost::Run { incarnation: NOW.millis(), partition: PARTITION, first: 0 };
        assert_eq!(log.forget_lost(run).await.unwrap(), 1);
        let killed = struck.after_power_cut();
        assert_eq!(open(killed).unwrap().lost(), Lost::default());
    });
}

#[test]
fn damage_that_storage_writer_had_passed_before_it_came_is_in_the_store_and_not_lost() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let log = open(disk.clone()).unwrap();
        log.commit(STORAGE_WRITER, PARTITION, 3).await.unwrap();
        log.close().await.unwrap();
        for (block, lost) in [(1, None), (2, Some((3, 4))), (3, Some((4, 6)))] {
            let log = open(disk.with_flipped(SEGMENT, (block * PAGE + 20) * 8)).unwrap();
            assert_eq!(read_past_damage(&log, "struck").await.len(), 2);
            let runs = log.lost().runs;
            let runs: Vec<_> = runs.iter().map(|run| (run.range.first, run.range.next)).collect();
            assert_eq!(runs, lost.into_iter().collect::<Vec<_>>(), "block {block}");
        }
    });
}

#[test]
fn a_flipped_bit_of_the_head_or_between_blocks_costs_nothing() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let content = disk.content(SEGMENT);
        let head = (0..64 * 8).collect::<Vec<_>>();
        let padding = (0..=3_usize).flat_map(|block| {
            let used = if block == 0 { 64 } else { used_bytes(&content, block) };
            ((block * PAGE + used) * 8..(block + 1) * PAGE * 8).step_by(211)
        });
        for bit in head.into_iter().chain(padding) {
            let log = open(disk.with_flipped(SEGMENT, bit)).unwrap();
            let damaged = read_past_damage(&log, &format!("bit {bit}")).await;
            assert!(damaged.is_empty(), "bit {bit}");
        }
    });
}

#[test]
fn a_bit_that_flips_under_an_open_log_is_found_when_it_is_read() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let content = disk.content(SEGMENT);
        for block in 1..=3 {
            let (start, used) = (block * PAGE, used_bytes(&content, block));
            for bit in (start * 8..(start + used) * 8).step_by(7) {
                let copy = disk.with_flipped(SEGMENT, bit);
                copy.flip(SEGMENT, bit);
                let log = open(copy.clone()).unwrap();
                assert!(log.damaged().is_empty());
                copy.flip(SEGMENT, bit);
                let what = format!("bit {bit}");
                let first = (block as u64 - 1) * 2;
                let answer = log.tail(&tenant("default"), trace(first)).await.unwrap();
                assert!(answer.is_damaged && answer.spans.is_empty(), "{what}");
                let damaged = read_past_damage(&log, &what).await;
                assert_eq!(damaged, [first, first + 1].into(), "{what}");
                assert_eq!(log.metrics().damaged_records.get(), 2, "{what}");
            }
        }
    });
}

#[test]
fn a_flipped_bit_of_checkpoint_or_identity_loses_no_record() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let identity = disk.content("identity");
        for bit in (0..64 * 8).chain((PAGE..identity.len()).flat_map(|byte| byte * 8..byte * 8 + 8))
        {
            let log = open(disk.with_flipped("identity", bit)).unwrap();
            assert_eq!(log.identity().incarnation, NOW.millis());
            assert!(read_past_damage(&log, &format!("identity bit {bit}")).await.is_empty());
        }
        for byte in (0..256).chain(64 << 10..(64 << 10) + 256) {
            for bit in byte * 8..byte * 8 + 8 {
                let log = open(disk.with_flipped("checkpoint", bit)).unwrap();
                assert!(read_past_damage(&log, &format!("checkpoint bit {bit}")).await.is_empty());
            }
        }
    });
}

#[test]
fn bytes_that_a_sender_shaped_like_a_block_are_not_one() {
    runtime().block_on(async {
        // A log whose second block is destroyed, and whose third holds a copy of the first in its
        // payload, at a page's start.
        let disk = FaultyDisk::new(3);
        let log = open(disk.clone()).unwrap();
        log.append(batch(&[0, 1])).await.unwrap();
        log.append(batch_of("default", &[2], 20_000)).await.unwrap();
        log.append(batch(&[3])).await.unwrap();
        log.close().await.unwrap();
        let content = disk.content(SEGMENT);
        let first_block = &content[PAGE..2 * PAGE];
        disk.overwrite(SEGMENT, 2 * PAGE, &[0; 64]);
        disk.overwrite(SEGMENT, 3 * PAGE, first_block);
        let log = open(disk).unwrap();
        let damaged = log.damaged();
        assert_eq!(damaged.len(), 1);
        assert_eq!((damaged[0].range.first, damaged[0].range.next), (2, 3));
        assert!(matches!(log.read(PARTITION, 2, 1).await, Err(LogError::Damaged(_))));
        let behind = read_all(log.as_ref(), 3, 1).await;
        assert_eq!(behind.len(), 1);
        assert_eq!(behind[0].trace_id, trace(3));
    });
}

#[test]
fn noise_over_any_part_of_a_segment_is_found() {
    runtime().block_on(async {
        let disk = three_blocks().await;
        let content = disk.content(SEGMENT);
        for seed in 0..400 {
            let mut rng = StdRng::seed_from_u64(seed);
            let copy = disk.copy();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..content.len());
                let length = rng.random_range(1..=(content.len() - at).min(6_000));
                let noise: Vec<u8> = (0..length).map(|_| rng.random()).collect();
                copy.overwrite(SEGMENT, at, &noise);
            }
            let struck = copy.content(SEGMENT);
            let is_struck = |block: &usize| {
                let used = block * PAGE..block * PAGE + used_bytes(&content, *block);
                struck[used.clone()] != content[used]
            };
            let expected = (1..=3).filter(is_struck).flat_map(|block| {
                let first = (block as u64 - 1) * 2;
                [first, first + 1]
            });
            let log = open(copy).unwrap();
            let damaged = read_past_damage(&log, &format!("seed {seed}")).await;
            assert_eq!(damaged, expected.collect(), "seed {seed}");
        }
    });
}
