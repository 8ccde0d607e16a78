//! Faults of the disk, limits, and what a restart finds: the embedded log.

use std::sync::Arc;
use std::time::Duration;

use service_kit::{ManualClock, SystemClock};
use span_log::metrics::Refusal;
use span_log::port::{METADATA_PUBLISHER, STORAGE_WRITER};
use span_log::{
    EmbeddedConfig, EmbeddedLog, GroupId, LogError, LostCause, OpenError, SpanLog, TailAnswer,
    WhenFull,
};
use trace_model::{LogRange, TraceId};

use crate::batches::{PARTITION, batch, batch_of, eventually, read_all, tenant, trace, traces_of};
use crate::faulty_disk::FaultyDisk;
use crate::power_cut::{NOW, small_config};

const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_NANOS: u64 = 3_600_000_000_000;

fn open(disk: &FaultyDisk, config: EmbeddedConfig, clock: &Arc<ManualClock>) -> Arc<EmbeddedLog> {
    EmbeddedLog::open_on(Arc::new(disk.clone()), config, clock.clone()).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

async fn tail_of(log: &EmbeddedLog, number: u64) -> TailAnswer {
    log.tail(&tenant("default"), trace(number)).await.unwrap()
}

/// Appends batches of about 20 KB, three to a small segment.
async fn fill(log: &EmbeddedLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.append(batch_of("default", &[number], 20_000)).await.unwrap();
    }
}

async fn commit_required(log: &EmbeddedLog, next: u64) {
    for group in [STORAGE_WRITER, METADATA_PUBLISHER] {
        log.commit(group, PARTITION, next).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_acknowledges_nothing_and_the_next_append_succeeds() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    log.append(batch(&[1])).await.unwrap();
    disk.fail_syncs(1);
    let error = log.append(batch(&[2])).await.unwrap_err();
    assert!(matches!(error, LogError::Disk(_)) && error.is_retryable(), "{error}");
    assert!(tail_of(&log, 2).await.spans.is_empty());
    assert_eq!(log.end(PARTITION).unwrap().next, 1);
    let appended = log.append(batch(&[2])).await.unwrap();
    assert_eq!(appended.ranges, [LogRange { partition: PARTITION, first: 1, next: 2 }]);
    assert_eq!(log.metrics().abandoned_segments.get(), 1);
    assert_eq!(log.metrics().refused(Refusal::Disk), 1);
    let after = disk.after_power_cut();
    let log = open(&after, small_config(), &clock);
    let records = read_all(log.as_ref(), 0, 1 << 20).await;
    assert_eq!(traces_of(&records), [trace(1), trace(2)]);
    assert_eq!(log.damaged(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_keeps_failing_refuses_until_it_is_well_again() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    log.append(batch(&[1])).await.unwrap();
    disk.fail_syncs(40);
    for _ in 0..5 {
        assert!(matches!(log.append(batch(&[2])).await, Err(LogError::Disk(_))));
    }
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(1)]);
    disk.fail_syncs(0);
    log.append(batch(&[3])).await.unwrap();
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(1), trace(3)]);
    let segments = disk.names().into_iter().filter(|name| name.ends_with(".log")).count();
    assert_eq!(segments, 2, "segments that never held a record are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_by_itself_when_there_is_room() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.disk_reserve_bytes = 100_000;
    let log = open(&disk, config, &clock);
    fill(&log, 0..3).await;
    // Room for no other segment once the reserve for the stores is left alone.
    disk.set_room(128 << 10 | 300_000);
    let mut taken = 3;
    let error = loop {
        match log.append(batch_of("default", &[taken], 20_000)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Full) && error.is_retryable(), "{error}");
    commit_required(&log, taken).await;
    assert_eq!(read_all(log.as_ref(), 0, 1).await.len() as u64, taken);
    disk.set_room(1 << 40);
    log.append(batch(&[taken])).await.unwrap();
    assert_eq!(read_all(log.as_ref(), 0, 1).await.len() as u64, taken + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_until_the_required_groups_have_committed() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.retention_bytes = 200 << 10;
    let log = open(&disk, config, &clock);
    let mut taken = 0;
    while log.append(batch_of("default", &[taken], 20_000)).await.is_ok() {
        taken += 1;
    }
    assert!(taken >= 6, "{taken}");
    assert_eq!(log.metrics().refused(Refusal::Full), 1);
    log.commit(STORAGE_WRITER, PARTITION, taken).await.unwrap();
    let refused = log.append(batch_of("default", &[taken], 20_000)).await;
    assert!(matches!(refused, Err(LogError::Full)), "the publisher has not committed");
    log.commit(METADATA_PUBLISHER, PARTITION, taken).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while log.append(batch_of("default", &[taken], 20_000)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let first = log.end(PARTITION).unwrap().first;
    assert!(first > 0);
    // A group that is not required and has lagged is told so.
    assert_eq!(log.committed(GroupId("search-indexer"), PARTITION).unwrap(), first);
    let expired = log.read(PARTITION, 0, 1).await;
    assert!(matches!(expired, Err(LogError::Expired { wanted: 0, first: f }) if f == first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_may_drop_its_oldest_counts_and_reports_what_it_drops() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.retention_bytes = 200 << 10;
    config.when_full = WhenFull::DropOldest;
    let log = open(&disk, config.clone(), &clock);
    fill(&log, 0..40).await;
    let first = log.end(PARTITION).unwrap().first;
    assert!(first > 0);
    assert_eq!(log.metrics().dropped_records.get(), first);
    let Err(LogError::Damaged(damaged)) = log.read(PARTITION, 1, 1).await else {
        panic!("dropped records must be a hole, not an end");
    };
    assert_eq!((damaged.range.first, damaged.range.next), (0, first));
    assert_eq!(damaged.append_times, (NOW, NOW));
    let lost = log.lost().runs;
    assert_eq!(lost.len(), 1, "the trace may have been dropped");
    assert_eq!((lost[0].range.first, lost[0].range.next), (0, first));
    assert_eq!((lost[0].cause, lost[0].append_times), (LostCause::Dropped, (NOW, NOW)));
    let kept = read_all(log.as_ref(), first, 1 << 20).await;
    assert_eq!(kept.len() as u64, 40 - first);
    log.close().await.unwrap();
    let log = open(&disk, config, &clock);
    let after_restart = log.read(PARTITION, 1, 1).await;
    assert!(matches!(after_restart, Err(LogError::Damaged(again)) if again == damaged));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_expire_by_age_but_never_before_a_required_group_has_them() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    fill(&log, 0..9).await;
    clock.advance(5 * HOUR);
    commit_required(&log, 4).await;
    let ends = log.clone();
    eventually("the first segments expire", || ends.end(PARTITION).unwrap().first > 0).await;
    let first = log.end(PARTITION).unwrap().first;
    assert!(first <= 4, "offset 4 is still needed, {first} is the oldest");
    assert_eq!(read_all(log.as_ref(), first, 1).await.len() as u64, 9 - first);
    commit_required(&log, 9).await;
    eventually("all but the newest segment expires", || {
        let names = disk.names();
        names.iter().filter(|name| name.starts_with("segment")).count() == 1
    })
    .await;
    assert_eq!(log.end(PARTITION).unwrap().next, 9);
    log.close().await.unwrap();
    let log = open(&disk, small_config(), &clock);
    assert_eq!(log.append(batch(&[9])).await.unwrap().ranges[0].first, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_wait_for_one_sync_are_committed_together_and_the_queue_is_bounded() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.queue_bytes_max = 100_000;
    let log = open(&disk, config, &clock);
    log.append(batch(&[0])).await.unwrap();
    let before = disk.syncs();
    disk.shut_gate();
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..100 {
        let log = log.clone();
        senders.spawn(async move { log.append(batch_of("default", &[number], 5_000)).await });
    }
    let refusals = log.metrics().clone();
    eventually("the queue is full", || refusals.refused(Refusal::Overloaded) > 70).await;
    disk.open_gate();
    let mut taken = 0;
    while let Some(answer) = senders.join_next().await {
        match answer.unwrap() {
            Ok(_) => taken += 1,
            Err(LogError::Overloaded) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!((15..=20).contains(&taken), "{taken} of 5 KB each fit 100 KB");
    assert!(disk.syncs() - before <= 8, "{} syncs", disk.syncs() - before);
    assert_eq!(read_all(log.as_ref(), 1, 1 << 20).await.len(), taken);
}

/// What a group has read, in order; it commits behind itself.
async fn consume(log: Arc<EmbeddedLog>, group: GroupId, records: usize) -> Vec<TraceId> {
    let mut read = Vec::new();
    let mut at = log.committed(group, PARTITION).unwrap();
    while read.len() < records {
        log.wait_beyond(PARTITION, at, Duration::from_secs(1)).await.unwrap();
        for logged in log.read(PARTITION, at, 30_000).await.unwrap() {
            read.extend(logged.batch.traces().iter().map(|trace| trace.trace_id));
            at = logged.range.next;
        }
        log.commit(group, PARTITION, at).await.unwrap();
    }
    read
}

/// Sends each batch until it is taken.
async fn send(log: Arc<EmbeddedLog>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let batch = batch_of("default", &[number], 9_000);
        while let Err(error) = log.append(batch.clone()).await {
            assert!(matches!(error, LogError::Full), "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!tail_of(&log, number).await.is_damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_much_smaller_than_its_traffic_holds_senders_back_and_its_groups_miss_nothing() {
    const BATCHES: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::at(directory.path().to_owned());
    config.segment_bytes = 64 << 10;
    config.retention_bytes = 192 << 10;
    config.disk_reserve_bytes = 0;
    config.cache_bytes_max = 40_000;
    let log = EmbeddedLog::open(config, Arc::new(SystemClock::new())).unwrap();
    let mut groups = tokio::task::JoinSet::new();
    for group in [STORAGE_WRITER, METADATA_PUBLISHER] {
        groups.spawn(consume(log.clone(), group, 3 * usize::try_from(BATCHES).unwrap()));
    }
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..3 {
        senders.spawn(send(log.clone(), sender * 1_000..sender * 1_000 + BATCHES));
    }
    let finished = async {
        while let Some(sender) = senders.join_next().await {
            sender.unwrap();
        }
        let mut expected: Vec<_> = (0..3)
            .flat_map(|sender| (0..BATCHES).map(move |number| trace(sender * 1_000 + number)))
            .collect();
        expected.sort_unstable();
        while let Some(read) = groups.join_next().await {
            let mut read = read.unwrap();
            read.sort_unstable();
            assert_eq!(read, expected, "each record once");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), finished).await.unwrap();
    assert!(log.end(PARTITION).unwrap().first > 0);
    assert_eq!(log.metrics().dropped_records.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_beyond_the_limit_is_refused_for_good_and_one_beyond_a_segment_is_taken() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.batch_bytes_max = 300_000;
    let log = open(&disk, config, &clock);
    let error = log.append(batch_of("default", &[1], 300_000)).await.unwrap_err();
    assert!(matches!(error, LogError::TooLarge { .. }) && !error.is_retryable(), "{error}");
    log.append(batch_of("default", &[2], 250_000)).await.unwrap();
    log.append(batch(&[3])).await.unwrap();
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(2), trace(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_log_and_a_new_directory_a_new_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let mut config = EmbeddedConfig::at(directory.path().join("a"));
    config.disk_reserve_bytes = 0;
    let log = EmbeddedLog::open(config.clone(), clock.clone()).unwrap();
    let error = EmbeddedLog::open(config.clone(), clock.clone()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }) && error.is_retryable());
    assert!(error.to_string().contains(config.directory.to_str().unwrap()), "{error}");
    let incarnation = log.identity().incarnation;
    log.append(batch(&[1])).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    clock.advance(HOUR);
    let log = EmbeddedLog::open(config.clone(), clock.clone()).unwrap();
    assert_eq!(log.identity().incarnation, incarnation);
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(1)]);
    config.directory = directory.path().join("b");
    let other = EmbeddedLog::open(config, clock).unwrap();
    assert!(other.identity().incarnation > incarnation);
    assert_eq!(other.end(PARTITION).unwrap().next, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_the_live_tail_are_there_after_a_kill() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    fill(&log, 0..12).await;
    log.commit(STORAGE_WRITER, PARTITION, 8).await.unwrap();
    // No close: what is opened is what a killed process leaves behind.
    let reopened = || open(&disk.after_power_cut(), small_config(), &clock);
    let committed = || reopened().committed(STORAGE_WRITER, PARTITION).unwrap();
    eventually("the commit is durable", || committed() == 8).await;
    let log = reopened();
    assert_eq!(log.committed(STORAGE_WRITER, PARTITION).unwrap(), 8);
    for number in 8..12 {
        assert_eq!(tail_of(&log, number).await.spans.len(), 1, "{number} is not in the stores");
    }
    assert!(tail_of(&log, 2).await.spans.is_empty(), "2 is in the stores alone");
    assert_eq!(tail_of(&log, 2).await.covered.next[&PARTITION], 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_lets_go_of_what_was_committed_after_the_grace_and_not_before() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    fill(&log, 0..12).await;
    log.commit(STORAGE_WRITER, PARTITION, 12).await.unwrap();
    let bytes = log.metrics().tail_index_bytes.clone();
    eventually("the index is measured", || bytes.get() > 0).await;
    for number in 0..12 {
        assert_eq!(tail_of(&log, number).await.spans.len(), 1, "{number} may not be seen yet");
    }
    let full = bytes.get();
    let moving = clock.clone();
    eventually("the index is dropped", || {
        moving.advance(Duration::from_secs(1));
        bytes.get() < full
    })
    .await;
    assert!(tail_of(&log, 0).await.spans.is_empty());
    log.append(batch(&[12])).await.unwrap();
    assert_eq!(tail_of(&log, 12).await.spans.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_over_a_restart_does_not_turn_time_back() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    clock.advance(Duration::from_secs(1));
    let vouched = log.end(PARTITION).unwrap().append_time;
    let appended = log.append(batch(&[1])).await.unwrap().append_time;
    assert!(vouched > NOW && appended >= vouched);
    clock.advance(Duration::from_secs(2));
    let vouched = log.end(PARTITION).unwrap().append_time;
    assert!(vouched > appended, "an idle log vouches on");
    let killed = disk.after_power_cut();
    clock.set_wall(NOW.minus(HOUR_NANOS));
    let log = open(&killed, small_config(), &clock);
    assert!(log.end(PARTITION).unwrap().append_time >= vouched, "not after a kill");
    let appended = log.append(batch(&[2])).await.unwrap().append_time;
    assert!(appended >= vouched);
    log.close().await.unwrap();
    let log = open(&killed, small_config(), &clock);
    assert_eq!(log.append(batch(&[3])).await.unwrap().append_time, appended, "nor after a close");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_is_no_damage() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    log.append(batch(&[1])).await.unwrap();
    // The torn write: a block's first bytes where the next one would have been written.
    let name = "segment-0000000000.log";
    let killed = disk.after_power_cut();
    let torn = killed.content(name)[4_096..4_200].to_vec();
    killed.overwrite(name, 8_192, &torn);
    let log = open(&killed, small_config(), &clock);
    assert_eq!(log.metrics().torn_tails.get(), 1);
    assert_eq!(log.damaged(), []);
    log.append(batch(&[2])).await.unwrap();
    log.close().await.unwrap();
    let log = open(&killed, small_config(), &clock);
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(1), trace(2)]);
    assert_eq!(log.metrics().torn_tails.get(), 0);
    assert_eq!(log.damaged(), []);
}

/// Opens a log of several segments after its second one was struck.
async fn check_hole(strike: impl Fn(&FaultyDisk, &str)) {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    fill(&log, 0..9).await;
    log.close().await.unwrap();
    assert!(disk.names().contains(&"segment-0000000002.log".to_owned()));
    strike(&disk, "segment-0000000001.log");
    // The second opening finds the same.
    for _ in 0..2 {
        let log = open(&disk, small_config(), &clock);
        let damaged = log.damaged();
        assert_eq!(damaged.len(), 1);
        let LogRange { first, next, .. } = damaged[0].range;
        assert!(first > 0 && next > first && next < 9, "{first}..{next}");
        assert_eq!(log.metrics().damaged_records.get(), next - first);
        assert!(matches!(log.read(PARTITION, first, 1).await, Err(LogError::Damaged(_))));
        assert_eq!(read_all(log.as_ref(), next, 1).await.len() as u64, 9 - next);
        let lost = log.lost().runs;
        assert_eq!((lost[0].range.first, lost[0].range.next), (first, next));
        log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_is_a_named_hole() {
    use span_log::embedded::disk::Disk;
    check_hole(|disk, name| disk.remove(name).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_noise_is_a_named_hole() {
    check_hole(|disk, name| {
        let length = disk.content(name).len();
        disk.overwrite(name, 0, &vec![0xa5; length]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_segment_of_noise_is_a_hole_before_the_first_record() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    fill(&log, 0..9).await;
    log.close().await.unwrap();
    let name = "segment-0000000000.log";
    disk.overwrite(name, 0, &vec![0xa5; disk.content(name).len()]);
    for opening in 0..2 {
        let log = open(&disk, small_config(), &clock);
        let first = log.end(PARTITION).unwrap().first;
        assert!(first > 0 && log.damaged().len() == 1 - opening);
        let Err(LogError::Damaged(damaged)) = log.read(PARTITION, 0, 1).await else {
            panic!("a lost record must be a hole");
        };
        assert_eq!((damaged.range.first, damaged.range.next), (0, first));
        let lost = log.lost().runs;
        assert_eq!((lost[0].range.first, lost[0].range.next), (0, first));
        assert_eq!(read_all(log.as_ref(), first, 1).await.len() as u64, 9 - first);
        log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_a_group_that_stands_still_grows() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let log = open(&disk, small_config(), &clock);
    log.append(batch(&[1, 2, 3])).await.unwrap();
    log.commit(STORAGE_WRITER, PARTITION, 2).await.unwrap();
    log.append(batch(&[4])).await.unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    log.metrics().register(&mut registry);
    eventually("the lag is two records", || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("lag_records{group=\"storage-writer\"} 2")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_newer_release_are_refused_by_name() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    open(&disk, small_config(), &clock).append(batch(&[1])).await.unwrap();
    let heads = [("segment-0000000000.log", vec![0_usize], 40), ("identity", vec![0, 4_096], 36)];
    for (name, positions, length) in heads {
        let copy = disk.after_power_cut();
        for position in positions {
            let mut head = copy.content(name)[position..position + length].to_vec();
            head[12..16].copy_from_slice(&2_u32.to_le_bytes());
            let checksum = crc32c::crc32c(&head[12..]);
            head[8..12].copy_from_slice(&checksum.to_le_bytes());
            copy.overwrite(name, position, &head);
        }
        let error =
            EmbeddedLog::open_on(Arc::new(copy), small_config(), clock.clone()).unwrap_err();
        assert!(
            matches!(&error, OpenError::Newer { file, found: 2, known: 1 } if file == name),
            "{error}"
        );
    }
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused_by_key() {
    let refused = |change: fn(&mut EmbeddedConfig)| {
        let mut config = small_config();
        change(&mut config);
        let disk = Arc::new(FaultyDisk::new(1));
        EmbeddedLog::open_on(disk, config, clock()).unwrap_err().to_string()
    };
    assert!(refused(|config| config.segment_bytes = 1).starts_with("segment_bytes"));
    assert!(refused(|config| config.retention_bytes = 70_000).starts_with("retention_bytes"));
    assert!(refused(|config| config.queue_bytes_max = 0).starts_with("queue_bytes_max"));
    assert!(refused(|config| config.batch_bytes_max = 0).starts_with("batch_bytes_max"));
}

#[test]
fn metrics_are_written_under_their_names_and_units() {
    let clock = clock();
    let log = open(&FaultyDisk::new(1), small_config(), &clock);
    let mut registry = prometheus_client::registry::Registry::default();
    log.metrics().register(&mut registry);
    log.metrics().observe_lag(STORAGE_WRITER, 7);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "farspan_span_log_appended_records_total 0",
        "farspan_span_log_lag_records{group=\"storage-writer\"} 7",
        "farspan_span_log_sync_seconds_count 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
