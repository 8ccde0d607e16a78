//! What passes costs nothing: errors of the disk that go away, and a clock that was wrong for a start.

use super::damage::{closed_file, holes, lost_rows, maintain_for_sure, open_on, rows};
use super::*;
use crate::store::{DOUBTS_MAX, FaultyDisk};

const SECTOR: u64 = 4 << 10;
const YEAR_NANOS: u64 = 365 * 24 * 3_600 * 1_000_000_000;

#[tokio::test]
async fn an_error_that_passes_while_a_file_is_written_anew_costs_nothing() {
    for is_reopened in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (clock, disk) = (clock(), FaultyDisk::default());
        let path = closed_file(&disk, directory.path(), &clock).await;
        if is_reopened {
            // It is away at the start as well: what is in it is not known until the next one.
            disk.rot(&path, SECTOR + 77);
        }
        let log = open_on(&disk, directory.path(), &clock);
        log.append(&rows(100..101), Some(&watermark(101))).await.unwrap();
        let before = std::fs::read(&path).unwrap();
        disk.rot(&path, SECTOR + 77);
        for _ in 0..DOUBTS_MAX {
            log.maintain().await.unwrap();
            assert!(std::fs::read(&path).unwrap() == before);
        }
        disk.heal(&path);
        log.maintain().await.unwrap();
        assert!(std::fs::read(&path).unwrap() != before, "it is whole, and written anew");
        assert_eq!(holes(&log).is_empty(), !is_reopened);
        drop(log);
        let log = open_on(&disk, directory.path(), &clock);
        assert_eq!(lost_rows(&log, 101).await, 0);
    }
}

#[tokio::test]
async fn what_cannot_be_read_for_long_is_damage_and_its_file_is_written_anew_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let path = closed_file(&disk, directory.path(), &clock).await;
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(100..101), Some(&watermark(101))).await.unwrap();
    disk.rot(&path, SECTOR + 77);
    maintain_for_sure(&log).await;
    disk.heal(&path);
    let lost = lost_rows(&log, 101).await;
    assert!((10..60).contains(&lost), "{lost}");
    assert!(log.terms().forgotten.evicted_until.is_some());
}

#[tokio::test]
async fn a_file_that_can_neither_be_synced_nor_read_in_full_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let path = closed_file(&disk, directory.path(), &clock).await;
    // Only the newest file is synced at a start.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let other = entry.unwrap().path();
        if other.extension().is_some_and(|extension| extension == "log") && other > path {
            std::fs::remove_file(other).unwrap();
        }
    }
    let before = std::fs::read(&path).unwrap();
    disk.rot(&path, SECTOR + 77);
    disk.fail_sync(&path);
    drop(open_on(&disk, directory.path(), &clock));
    disk.heal(&path);
    assert!(std::fs::read(&path).unwrap() == before);
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(lost_rows(&log, 100).await, 0);
}

#[tokio::test]
async fn a_sector_of_the_file_that_is_written_to_is_one_hole_that_does_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(0..40), Some(&watermark(40))).await.unwrap();
    let path = newest_file(directory.path(), 0);
    let length = std::fs::metadata(&path).unwrap().len();
    disk.rot(&path, length - 1);
    let lost = lost_rows(&log, 40).await;
    assert!(lost > 0);
    let noted = holes(&log);
    for place in 40..60 {
        log.append(&rows(place..place + 1), None).await.unwrap();
        assert_eq!(lost_rows(&log, place + 1).await, lost, "what is appended now is elsewhere");
        assert_eq!(holes(&log), noted);
    }
}

#[tokio::test]
async fn a_clock_that_runs_years_ahead_for_a_start_lets_go_of_nothing_that_is_to_come() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&[], Some(&watermark(0))).await.unwrap();
    log.append(&rows(0..100), None).await.unwrap();
    drop(log);
    let path = newest_file(directory.path(), 0);
    let length = std::fs::metadata(&path).unwrap().len();
    disk.rot(&path, length - 1);
    let ahead = Arc::new(ManualClock::at(NOW.plus(10 * YEAR_NANOS)));
    let log = open_on(&disk, directory.path(), &ahead);
    assert!(lost_rows(&log, 100).await > 0);
    let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
    let changed = changed.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let newest = UnixNanos(u64::try_from(changed).unwrap()).max(NOW);
    assert!(log.terms().forgotten.evicted_until < Some(newest.plus(YEAR_NANOS / 100)));
}
