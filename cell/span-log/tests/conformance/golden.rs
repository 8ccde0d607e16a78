//! Logs that released versions wrote open and read as they were written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use service_kit::ManualClock;
use span_log::port::STORAGE_WRITER;
use span_log::{EmbeddedConfig, EmbeddedLog, SpanLog};

use crate::batches::{PARTITION, batch, batch_of, read_all, tenant, trace, traces_of};
use crate::power_cut::NOW;

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

fn config(directory: PathBuf) -> EmbeddedConfig {
    let mut config = EmbeddedConfig::at(directory);
    config.segment_bytes = 64 << 10;
    config.disk_reserve_bytes = 0;
    config
}

/// Two segments: twelve records, a commit at four.
async fn write_log(directory: PathBuf) {
    let clock = Arc::new(ManualClock::at(NOW));
    let log = EmbeddedLog::open(config(directory), clock).unwrap();
    log.append(batch(&[0, 1, 2, 3])).await.unwrap();
    for number in 4..8 {
        log.append(batch_of("default", &[number], 18_000)).await.unwrap();
    }
    log.append(batch_of("other", &[8, 9, 10, 11], 40)).await.unwrap();
    log.commit(STORAGE_WRITER, PARTITION, 4).await.unwrap();
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_version_1_opens_and_reads_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("v1")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    // Opened within the retention of what it holds, whenever the test runs.
    let clock = Arc::new(ManualClock::at(NOW));
    let log = EmbeddedLog::open(config(directory.path().to_owned()), clock).unwrap();
    assert_eq!(log.damaged(), []);
    assert_eq!(log.identity().incarnation, NOW.millis());
    assert_eq!(log.committed(STORAGE_WRITER, PARTITION).unwrap(), 4);
    let records = read_all(log.as_ref(), 0, 1 << 20).await;
    assert_eq!(traces_of(&records), (0..12).map(trace).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record.append_time == NOW));
    assert_eq!(records[0].encoded, batch(&[0, 1, 2, 3]).encoded().to_vec());
    assert_eq!(records[5].encoded, batch_of("default", &[5], 18_000).encoded().to_vec());
    let answer = log.tail(&tenant("other"), trace(9)).await.unwrap();
    assert_eq!(answer.spans.len(), 1);
    assert_eq!(log.append(batch(&[12])).await.unwrap().ranges[0].first, 12);
}

/// Run by hand once for a release that changes the format; the directory is then committed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the golden directory of a new format"]
async fn write_the_golden_directory() {
    let directory = golden("v1");
    assert!(!directory.exists(), "a released format is never written again");
    write_log(directory.clone()).await;
    std::fs::remove_file(directory.join("lock")).unwrap();
}
