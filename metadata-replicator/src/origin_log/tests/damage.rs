//! Damage of any extent costs what is damaged, leaves a hole, and stops nobody.

use trace_model::{HOLES_MAX, TimeRange};

use super::*;
use crate::store::{DOUBTS_MAX, FaultyDisk};

const SECTOR: u64 = 4 << 10;

/// A log on a disk that can rot, with files of 64 KiB.
pub(super) fn open_on(
    disk: &FaultyDisk,
    directory: &std::path::Path,
    clock: &Arc<ManualClock>,
) -> OriginLog {
    let config = OriginLogConfig { segment_bytes_max: 64 << 10, ..config(directory.to_path_buf()) };
    OriginLog::open_on(Arc::new(disk.clone()), config, Arc::clone(clock) as _, Entropy::seeded(3))
        .unwrap()
}

/// Maintenance until it is sure of what is damaged.
pub(super) async fn maintain_for_sure(log: &OriginLog) {
    for _ in 0..=DOUBTS_MAX {
        log.maintain().await.unwrap();
    }
}

fn keys(traces: u64) -> Vec<RowKey> {
    (0..traces).map(|trace| RowKey::of(&row(trace, 0, ""))).collect()
}

/// Rows 0.. of one version each, their append times ascending.
pub(super) fn rows(traces: std::ops::Range<u64>) -> Vec<Contribution> {
    traces.map(|trace| row(trace, trace + 1, "web")).collect()
}

pub(super) fn holes(log: &OriginLog) -> Vec<TimeRange> {
    log.published().unwrap().holes
}

/// Rows that are lost lie in holes; gives how many are.
pub(super) async fn lost_rows(log: &OriginLog, traces: u64) -> u64 {
    let (read, holes) = (read_all(log).await, holes(log));
    let mut lost = 0;
    for row in rows(0..traces) {
        if !read.rows.contains_key(&row.trace_id) {
            lost += 1;
            assert!(holes.iter().any(|hole| hole.contains(row.last_append)), "{row:?} {holes:?}");
        }
    }
    lost
}

/// A log with 100 rows in one file, closed; gives the file's path.
pub(super) async fn closed_file(
    disk: &FaultyDisk,
    directory: &std::path::Path,
    clock: &Arc<ManualClock>,
) -> PathBuf {
    let log = open_on(disk, directory, clock);
    log.append(&rows(0..100), Some(&watermark(100))).await.unwrap();
    drop(log);
    newest_file(directory, 0)
}

/// Nine rows that a process has written and no power cut would spare; gives their file and its length.
async fn leave_unsynced(
    disk: &FaultyDisk,
    directory: &std::path::Path,
    clock: &Arc<ManualClock>,
) -> (PathBuf, u64) {
    let log = open_on(disk, directory, clock);
    log.append(&rows(0..9), Some(&watermark(9))).await.unwrap();
    drop(log);
    disk.forget_syncs();
    let path = newest_file(directory, 0);
    let length = std::fs::metadata(&path).unwrap().len();
    (path, length)
}

#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_on_disk_before_anything_follows_it() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let (path, length) = leave_unsynced(&disk, directory.path(), &clock).await;
    drop(open_on(&disk, directory.path(), &clock));
    assert_eq!(disk.synced(&path), Some(length));
}

#[tokio::test]
async fn a_file_that_cannot_be_synced_at_the_start_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let (path, length) = leave_unsynced(&disk, directory.path(), &clock).await;
    disk.fail_sync(&path);
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(disk.synced(&path.with_extension("tmp")), Some(length));
    assert_eq!(lost_rows(&log, 9).await, 0);
    assert_eq!(holes(&log), []);
}

#[tokio::test]
async fn a_sector_that_cannot_be_read_costs_its_rows_and_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(0..100), Some(&watermark(100))).await.unwrap();
    let path = newest_file(directory.path(), 0);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length > 3 * SECTOR && length < 64 << 10, "{length}");
    disk.rot(&path, SECTOR + 77);
    // The publisher's reads go on from what is left of the rows.
    let held = log.own_rows(&keys(100)).await.unwrap();
    let held: Vec<_> = held.into_iter().map(Option::unwrap).collect();
    let unreadable = held.iter().filter(|row| row.version == 0).count() as u64;
    assert!((10..60).contains(&unreadable), "{unreadable}");
    // So do those who follow.
    assert_eq!(lost_rows(&log, 100).await, unreadable);
    // The file is compacted, and the log opened again.
    log.append(&rows(100..101), Some(&watermark(101))).await.unwrap();
    drop(log);
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(lost_rows(&log, 101).await, unreadable);
    maintain_for_sure(&log).await;
    assert_eq!(lost_rows(&log, 101).await, unreadable);
    let late = log.own_rows(&keys(1)).await.unwrap();
    assert_eq!(late, [Some(row(0, 1, "web"))]);
}

#[tokio::test]
async fn an_end_that_cannot_be_read_is_no_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&[], Some(&watermark(0))).await.unwrap();
    log.append(&rows(0..100), None).await.unwrap();
    drop(log);
    clock.advance(Duration::from_secs(1));
    let path = newest_file(directory.path(), 0);
    let length = std::fs::metadata(&path).unwrap().len();
    disk.rot(&path, length - 1);
    let log = open_on(&disk, directory.path(), &clock);
    assert!(lost_rows(&log, 100).await > 0);
    assert!(holes(&log)[0].end <= clock.now().plus(1), "{:?}", holes(&log));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "nothing was cut");
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_a_hole_at_once_and_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(0..50), Some(&watermark(50))).await.unwrap();
    let path = newest_file(directory.path(), 0);
    drop(log);
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(50..60), Some(&watermark(60))).await.unwrap();
    disk.close(&path);
    assert_eq!(lost_rows(&log, 60).await, 50);
    drop(log);
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(lost_rows(&log, 60).await, 50);
}

#[tokio::test]
async fn a_file_that_goes_while_the_log_is_open_is_a_hole() {
    for is_read_by_the_publisher in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let clock = clock();
        let log = open_files(directory.path(), &clock);
        log.append(&rows(0..40), Some(&watermark(40))).await.unwrap();
        log.append(&rows(40..80), Some(&watermark(80))).await.unwrap();
        log.append(&rows(80..120), Some(&watermark(120))).await.unwrap();
        assert_eq!(holes(&log), []);
        std::fs::remove_file(newest_file(directory.path(), 1)).unwrap();
        if is_read_by_the_publisher {
            let held = log.own_rows(&keys(120)).await.unwrap();
            let held: Vec<_> = held.into_iter().map(Option::unwrap).collect();
            let lost: Vec<_> = held.iter().filter(|row| row.version == 0).collect();
            assert!(lost.len() >= 40 && lost.iter().all(|row| row.detail.is_none()));
        } else {
            log.maintain().await.unwrap();
        }
        assert_eq!(holes(&log).len(), 1);
        assert!(lost_rows(&log, 120).await >= 40);
        assert!(log.terms().forgotten.evicted_until.is_some(), "those who copy are told");
        log.maintain().await.unwrap();
        let told = log.append(&rows(120..121), Some(&watermark(121))).await;
        assert!(told.is_ok() && read_all(&log).await.holes == 1);
        drop(log);
        let log = open_files(directory.path(), &clock);
        assert!(lost_rows(&log, 121).await >= 40);
    }
}

#[tokio::test]
async fn a_file_that_went_while_nobody_looked_is_a_hole() {
    for place_from_end in [0, 1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let clock = clock();
        let log = open_files(directory.path(), &clock);
        for from in [0, 40, 80] {
            let until = from + 40;
            log.append(&rows(from..until), Some(&watermark(until))).await.unwrap();
        }
        drop(log);
        clock.advance(Duration::from_secs(1));
        let log = open_files(directory.path(), &clock);
        log.append(&[], Some(&watermark(120))).await.unwrap();
        drop(log);
        // The newest file holds a watermark alone.
        std::fs::remove_file(newest_file(directory.path(), 1 + place_from_end)).unwrap();
        let log = open_files(directory.path(), &clock);
        assert_eq!(holes(&log).len(), 1, "{place_from_end}");
        assert_eq!(lost_rows(&log, 120).await, 40, "{place_from_end}");
        assert!(log.terms().forgotten.evicted_until.is_some());
        drop(log);
        let log = open_files(directory.path(), &clock);
        assert!(log.terms().forgotten.evicted_until.is_some(), "it is remembered");
    }
}

#[tokio::test]
async fn a_newest_file_that_went_is_a_hole_up_to_the_opening() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    log.append(&rows(0..40), Some(&watermark(40))).await.unwrap();
    drop(log);
    let log = open_files(directory.path(), &clock);
    log.append(&rows(40..80), Some(&watermark(80))).await.unwrap();
    drop(log);
    clock.advance(Duration::from_secs(1));
    std::fs::remove_file(newest_file(directory.path(), 0)).unwrap();
    let log = open_files(directory.path(), &clock);
    let [hole] = holes(&log)[..] else { panic!("{:?}", holes(&log)) };
    assert!(hole.start <= NOW.plus(40) && hole.end == clock.now().plus(1), "{hole:?}");
    assert_eq!(lost_rows(&log, 80).await, 40);
}

#[tokio::test]
async fn a_list_of_files_or_terms_that_are_gone_or_damaged_prove_nothing() {
    for (name, is_gone) in [("files", true), ("files", false), ("terms", true), ("terms", false)] {
        let directory = tempfile::tempdir().unwrap();
        let clock = clock();
        let log = open_files(directory.path(), &clock);
        log.append(&rows(0..40), Some(&watermark(40))).await.unwrap();
        drop(log);
        let path = directory.path().join(name);
        if is_gone {
            std::fs::remove_file(&path).unwrap();
        } else {
            damage(&path, Damaged::Middle);
        }
        let log = open_files(directory.path(), &clock);
        let until = log.terms().forgotten.evicted_until;
        assert!(until >= Some(NOW.plus(40)), "{name} {is_gone}: {until:?}");
        assert_eq!(read_all(&log).await.rows.len(), 40);
    }
}

#[tokio::test]
async fn damage_in_very_many_places_is_few_holes_and_the_log_opens_again() {
    const TRACES: u64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let (clock, disk) = (clock(), FaultyDisk::default());
    let log = open_on(&disk, directory.path(), &clock);
    log.append(&rows(0..TRACES), Some(&watermark(TRACES))).await.unwrap();
    drop(log);
    let path = newest_file(directory.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    for row in rows(0..TRACES).iter().step_by(4) {
        let id = row.trace_id.as_bytes();
        let place = bytes.windows(16).position(|window| window == &id[..]).unwrap();
        bytes[place] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(holes(&log).len(), HOLES_MAX);
    assert_eq!(lost_rows(&log, TRACES).await, TRACES / 4);
    // A reader that meets all of them again adds nothing.
    assert_eq!(holes(&log).len(), HOLES_MAX);
    let published = log.published().unwrap();
    log.append(&[], Some(&Watermark { holes: Vec::new(), ..published })).await.unwrap();
    assert_eq!(read_all(&log).await.holes, HOLES_MAX);
    maintain_for_sure(&log).await;
    drop(log);
    let log = open_on(&disk, directory.path(), &clock);
    assert_eq!(holes(&log).len(), HOLES_MAX);
    assert_eq!(lost_rows(&log, TRACES).await, TRACES / 4);
}

#[tokio::test]
async fn holes_go_when_retention_has_passed_them_and_what_they_hid_is_known_to_have_expired() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 3, 4).await;
    drop(log);
    damage(&newest_file(directory.path(), 0), Damaged::Middle);
    let log = open_files(directory.path(), &clock);
    let [hole] = holes(&log)[..] else { panic!("{:?}", holes(&log)) };
    // The publisher takes it over.
    let now = |next| Watermark { as_of: clock.now(), holes: vec![hole], ..watermark(next) };
    log.append(&[], Some(&now(5))).await.unwrap();
    log.maintain().await.unwrap();
    assert_eq!(holes(&log), [hole]);
    clock.advance(8 * DAY);
    log.maintain().await.unwrap();
    assert_eq!(holes(&log), []);
    assert!(log.terms().forgotten.expired_until >= Some(hole.end.minus(1)));
    log.append(&[], Some(&now(6))).await.unwrap();
    assert_eq!(read_all(&log).await.holes, 0, "readers are not told of it any more");
    drop(log);
    let log = open_files(directory.path(), &clock);
    assert_eq!(holes(&log), []);
}

#[tokio::test]
async fn a_row_whose_record_was_damaged_is_not_looked_for_in_the_file_that_is_written_anew() {
    for is_read_before in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let clock = clock();
        let log = open_files(directory.path(), &clock);
        log.append(&rows(0..60), Some(&watermark(60))).await.unwrap();
        log.append(&rows(60..120), Some(&watermark(120))).await.unwrap();
        damage(&newest_file(directory.path(), 1), Damaged::Middle);
        if is_read_before {
            log.own_rows(&keys(60)).await.unwrap();
        }
        maintain_for_sure(&log).await;
        let noted = (holes(&log), log.terms());
        assert_eq!(noted.0.len(), 1);
        for _ in 0..2 {
            let held = log.own_rows(&keys(60)).await.unwrap();
            let held: Vec<_> = held.into_iter().map(Option::unwrap).collect();
            let lost: Vec<_> = held.iter().filter(|row| row.version == 0).collect();
            assert!(lost.len() == 1 && lost[0].detail.is_none(), "{lost:?}");
            assert_eq!((holes(&log), log.terms()), noted, "nothing new is damaged");
        }
    }
}
