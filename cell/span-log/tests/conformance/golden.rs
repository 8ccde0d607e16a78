//! Logs that released versions wrote open and read as they were written.

use std::collections::BTreeMap;
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

/// What `write_log` wrote is there, and the log goes on.
async fn assert_reads_as_written(directory: PathBuf) {
    // Opened within the retention of what it holds, whenever the test runs.
    let clock = Arc::new(ManualClock::at(NOW));
    let log = EmbeddedLog::open(config(directory), clock).unwrap();
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

/// A copy to open: opening locks, and may tidy.
fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Names of the files that begin with magic, checksum and version, and those without the checksum.
fn formats(directory: &Path) -> BTreeMap<String, (Vec<u8>, Vec<u8>)> {
    let mut formats = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == "identity" || name.starts_with("segment-") {
            let bytes = std::fs::read(entry.path()).unwrap();
            formats.insert(name, (bytes[..8].to_vec(), bytes[12..16].to_vec()));
        }
    }
    formats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_version_1_opens_and_reads_as_it_was_written() {
    let copy = copy_of(&golden("v1"));
    assert_reads_as_written(copy.path().to_owned()).await;
}

/// Leaves `golden-log` among cargo's temporary files: a release that changes the format copies it to
/// `tests/golden` under the new version's name. A directory of a released version is never replaced.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_today_is_of_the_newest_golden_version() {
    let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join("golden-log");
    if written.exists() {
        std::fs::remove_dir_all(&written).unwrap();
    }
    write_log(written.clone()).await;
    std::fs::remove_file(written.join("lock")).unwrap();
    let newest = formats(&golden("v1"));
    assert_eq!(newest.len(), 3);
    assert_eq!(formats(&written), newest, "another version needs a golden directory of its own");
    assert_reads_as_written(copy_of(&written).path().to_owned()).await;
}
