//! The power goes at any moment, writes are short, syncs fail: what was acknowledged is there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use service_kit::ManualClock;
use span_log::port::{METADATA_PUBLISHER, STORAGE_WRITER};
use span_log::{EmbeddedConfig, EmbeddedLog, SpanLog};
use trace_model::{TraceId, UnixNanos};

use crate::batches::{PARTITION, batch_of, read_all, tenant, trace};
use crate::faulty_disk::FaultyDisk;

pub(crate) const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
const SEEDS: u64 = 250;
const ROUNDS: u64 = 3;

pub(crate) fn small_config() -> EmbeddedConfig {
    let mut config = EmbeddedConfig::at(PathBuf::from("a disk of the test"));
    config.segment_bytes = 64 << 10;
    config.disk_reserve_bytes = 0;
    config
}

/// What a sender knows of its batches.
#[derive(Debug, Default)]
struct Ledger {
    /// Offset and trace of what was acknowledged.
    acknowledged: BTreeMap<u64, TraceId>,
    /// What the required groups have committed.
    committed: u64,
    sent: Vec<TraceId>,
}

async fn send(log: Arc<EmbeddedLog>, first: u64, batches: u64, seed: u64) -> Ledger {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::default();
    for number in 0..batches {
        let traces: Vec<u64> =
            (0..rng.random_range(1..4)).map(|n| first + number * 4 + n).collect();
        let name_bytes = [30, 700, 9_000, 40_000][rng.random_range(0..4)];
        ledger.sent.extend(traces.iter().map(|number| trace(*number)));
        let Ok(appended) = log.append(batch_of("default", &traces, name_bytes)).await else {
            continue;
        };
        let range = appended.ranges[0];
        let records = (range.first..range.next).zip(traces.into_iter().map(trace));
        ledger.acknowledged.extend(records);
    }
    ledger
}

async fn check(log: &EmbeddedLog, ledger: &Ledger, seed: u64) {
    let end = log.end(PARTITION).unwrap();
    assert!(end.first <= ledger.committed, "seed {seed}: expired before it was committed");
    let records = read_all(log, end.first, 100_000).await;
    assert_eq!(log.damaged(), Vec::new(), "seed {seed}");
    let read: BTreeMap<u64, TraceId> =
        records.iter().map(|record| (record.offset, record.trace_id)).collect();
    assert_eq!(read.len(), records.len(), "seed {seed}: an offset came twice");
    for (offset, trace_id) in ledger.acknowledged.range(end.first..) {
        assert_eq!(
            read.get(offset),
            Some(trace_id),
            "seed {seed}: offset {offset} was acknowledged"
        );
    }
    for (offset, trace_id) in ledger.acknowledged.range(ledger.committed..) {
        let answer = log.tail(&tenant("default"), *trace_id).await.unwrap();
        assert!(!answer.spans.is_empty() && !answer.is_damaged, "seed {seed}: offset {offset}");
    }
    for trace_id in read.values() {
        assert!(ledger.sent.contains(trace_id), "seed {seed}: {trace_id} was never sent");
    }
    let offsets: Vec<u64> = read.keys().copied().collect();
    assert_eq!(offsets, (end.first..end.next).collect::<Vec<_>>(), "seed {seed}: a gap");
}

/// Commits some of what is there and closes cleanly: from then on it may expire.
async fn commit_some(log: &EmbeddedLog, ledger: &mut Ledger, rng: &mut StdRng) {
    let end = log.end(PARTITION).unwrap().next;
    ledger.committed = rng.random_range(ledger.committed..=end);
    for group in [STORAGE_WRITER, METADATA_PUBLISHER] {
        log.commit(group, PARTITION, ledger.committed).await.unwrap();
    }
    log.close().await.unwrap();
}

async fn survive(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut disk = FaultyDisk::new(seed);
    let mut ledger = Ledger::default();
    let clock = Arc::new(ManualClock::at(NOW));
    let mut config = small_config();
    if seed.is_multiple_of(2) {
        config.retention_bytes = 256 << 10;
    }
    let open = |disk: &FaultyDisk| {
        EmbeddedLog::open_on(Arc::new(disk.clone()), config.clone(), clock.clone())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    };
    for round in 0..ROUNDS {
        let mut log = open(&disk);
        check(&log, &ledger, seed).await;
        if rng.random_bool(0.5) {
            commit_some(&log, &mut ledger, &mut rng).await;
            log = open(&disk);
        }
        disk.write_short();
        if rng.random_bool(0.4) {
            disk.fail_syncs_at_random(15);
        }
        disk.cut_power_after(rng.random_range(1..160));
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..3 {
            let first = (seed * 100 + round * 10 + sender) * 1_000;
            senders.spawn(send(log.clone(), first, 8, rng.random()));
        }
        while let Some(mine) = senders.join_next().await {
            let mine = mine.unwrap();
            ledger.acknowledged.extend(mine.acknowledged);
            ledger.sent.extend(mine.sent);
        }
        drop(log.close().await);
        disk = disk.after_power_cut();
    }
    check(&open(&disk), &ledger, seed).await;
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for seed in 0..SEEDS {
        runtime.block_on(survive(seed));
    }
}

/// A log that was being made when the power went is made anew.
#[test]
fn a_log_that_was_half_made_opens() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    for operations in 0..20 {
        for seed in 0..20 {
            let disk = FaultyDisk::new(seed);
            disk.cut_power_after(operations);
            drop(EmbeddedLog::open_on(Arc::new(disk.clone()), small_config(), clock.clone()));
            let after = Arc::new(disk.after_power_cut());
            let log = EmbeddedLog::open_on(after, small_config(), clock.clone());
            let log = log.unwrap_or_else(|error| {
                panic!("seed {seed}, cut after {operations} operations: {error}")
            });
            runtime.block_on(async {
                log.append(batch_of("default", &[1], 40)).await.unwrap();
                log.close().await.unwrap();
            });
        }
    }
}
