//! What is read while a store writes.

use super::super::ahead::{Reading, alongside, reading_beside};
use super::super::partition::PartitionReader;
use super::*;

const fn hold(partition: u32) -> Hold {
    Hold { partition, since: 1 }
}

fn reader(partition: u32) -> PartitionReader {
    let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(2));
    let mut reader = PartitionReader::new(hold(partition), Backoff::new(shortest, longest, 1));
    reader.start_at(0);
    reader
}

fn log(batches: u64) -> FakeLog {
    let log = FakeLog::default();
    log.with(|state| state.batches = (0..batches).map(|place| logged(place * 2)).collect());
    log
}

/// Work that is done once the log has met its reader with what was prepared.
async fn work_until(log: &FakeLog, is_met: impl Fn(&LogState) -> bool) {
    let meeting = async {
        while !is_met(&log.state.lock().unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), meeting).await.expect("read meanwhile");
}

#[tokio::test]
async fn while_a_store_writes_the_next_records_are_read_and_what_comes_behind_them_is_kept() {
    let log = log(3);
    let range = LogRange { partition: 0, first: 4, next: 6 };
    let append_times = (UnixNanos(0), UnixNanos(1));
    let damaged = DamagedRange { range, append_times, reason: "crc".into(), stranger: None };
    log.with(|state| state.damaged = Some(damaged));
    let mut reading = Reading::new(hold(0), 2, 1 << 20);
    let work = work_until(&log, |state| state.damaged.is_none());
    alongside(work, Some(&mut reading), &log).await;
    let mut reader = reader(0);
    reader.start_at(2);
    reader.keep_ahead(reading);
    let firsts: Vec<u64> = reader.held.iter().map(|batch| batch.range.first).collect();
    assert_eq!((firsts, reader.reads_at()), (vec![2], 4));
    assert!(matches!(reader.fault, Some(LogError::Damaged(damaged)) if damaged.range == range));
}

#[tokio::test]
async fn work_that_is_done_waits_for_no_read() {
    let log = log(3);
    let mut reading = Reading::new(hold(0), 2, 1 << 20);
    assert_eq!(alongside(std::future::ready(7), Some(&mut reading), &log).await, 7);
    assert!(reading.batches.is_empty() && reading.fault.is_none());
}

#[test]
fn the_next_partition_that_has_more_is_read_ahead_and_its_own_where_none_has() {
    let mut readers: Vec<PartitionReader> = (0..3).map(reader).collect();
    let partition = |readers: &[PartitionReader], has_more: &[u32]| {
        let has_more = |reader: &PartitionReader| has_more.contains(&reader.partition);
        reading_beside(readers, 1, 100, has_more).map(|reading| reading.hold().partition)
    };
    assert_eq!(partition(&readers, &[0, 1, 2]), Some(2));
    assert_eq!(partition(&readers, &[0, 1]), Some(0));
    assert_eq!(partition(&readers, &[1]), Some(1));
    assert_eq!(partition(&readers, &[]), None);
    // What is held, narrowed down, failing, waiting for others or leaving is not read ahead.
    readers[2].keep(vec![logged(0)]);
    assert_eq!(partition(&readers, &[0, 1, 2]), Some(0));
    readers[0].backoff.fail(Duration::ZERO);
    assert_eq!(partition(&readers, &[0, 1, 2]), Some(1));
    readers[1].chunk = 1;
    assert_eq!(partition(&readers, &[0, 1, 2]), None);
    readers[1].chunk = usize::MAX;
    readers[1].is_waiting = true;
    assert_eq!(partition(&readers, &[0, 1, 2]), None);
    readers[1].is_waiting = false;
    readers[1].leave();
    assert_eq!(partition(&readers, &[0, 1, 2]), None);
}

#[tokio::test]
async fn what_a_store_refuses_holds_a_bounded_part_of_the_log_whatever_the_partitions() {
    const PARTITIONS: u32 = 16;
    let assignment = Some(watch::channel(Assignment::of_all(PARTITIONS)).0);
    let log = Arc::new(FakeLog { assignment, ..FakeLog::default() });
    log.with(|state| state.batches = (0..8).map(|place| logged(place * 2)).collect());
    let bytes_of =
        |batches: &[LoggedBatch]| batches.iter().map(|one| one.batch.encoded().len()).sum();
    let read_bytes: usize = bytes_of(&log.state.lock().unwrap().batches);
    let script = Arc::new(Script::default());
    script.is_full.store(true, Ordering::SeqCst);
    let directory = TempDir::new().unwrap();
    let letters = DeadLetters::open(DeadLetterConfig::new(directory.path().join("dead")));
    let mut parts = parts_of(&log, &script, &Arc::new(letters.unwrap()));
    parts.config.read_bytes_max = read_bytes;
    let handler = FakeMaker { script: Arc::clone(&script) }.make().await.unwrap();
    let mut runner = ConsumerRunner::new(handler, parts, Sharing::Partitions);
    let token = CancellationToken::new();
    for _ in 0..5 {
        runner.round(&token).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let held: usize = runner.readers.iter().map(PartitionReader::held_bytes).sum();
    let bound = 3 * read_bytes + PARTITIONS as usize * read_bytes / 8;
    assert!(runner.readers.iter().all(|reader| reader.backoff.tries() > 0));
    assert!(held <= bound, "{held} B of {} B are held", read_bytes * PARTITIONS as usize);
    // Nothing is left out of what was let go.
    script.is_full.store(false, Ordering::SeqCst);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        runner.round(&token).await;
    }
    assert!(runner.readers.iter().all(|reader| reader.is_at(16)));
    let handled = script.handled.lock().unwrap().clone();
    for first in (0..16).step_by(2) {
        let times = handled.iter().filter(|handled| **handled == first).count();
        assert_eq!(times, PARTITIONS as usize, "{first}");
    }
}

#[test]
fn what_was_met_behind_records_that_are_let_go_is_met_again() {
    let mut reader = reader(0);
    reader.keep(vec![logged(0), logged(2), logged(4)]);
    reader.fault = Some(LogError::Expired { wanted: 6, first: 9 });
    reader.keep_first();
    assert_eq!((reader.held.len(), reader.reads_at()), (1, 2));
    assert!(reader.fault.is_none(), "it would lead past the records in between");
}
