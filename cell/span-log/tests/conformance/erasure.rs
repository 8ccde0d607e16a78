//! Erasure from the files of the embedded log: no byte stays, whatever the moment of a crash.

use std::path::Path;
use std::sync::Arc;

use proto::wire::put_bytes_field;
use proto::{BatchSource, SpanBatch, SpanBatchBuilder};
use service_kit::ManualClock;
use span_log::port::STORAGE_WRITER;
use span_log::{EmbeddedConfig, EmbeddedLog, LogEraser, LogError, SpanLog};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, UnixNanos};

use crate::batches::{PARTITION, batch, batch_of, read_all, tenant, trace, traces_of};
use crate::faulty_disk::FaultyDisk;
use crate::power_cut::{NOW, small_config};

const CANARY: &[u8] = b"canary-7f1e9c";
const CANARY_RESOURCE: &[u8] = b"resource-5d30ab";
const ERASED: u64 = 77;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

/// A batch of trace 1 and the trace with the canaries, which has a resource of its own.
fn canary_batch() -> Arc<SpanBatch> {
    let mut spans = Vec::new();
    for (number, name) in [(1, b"harmless".as_slice()), (ERASED, CANARY)] {
        let mut bytes = Vec::new();
        put_bytes_field(&mut bytes, 1, trace(number).as_bytes());
        put_bytes_field(&mut bytes, 2, &(number + 1).to_be_bytes());
        put_bytes_field(&mut bytes, 5, name);
        spans.push((number, bytes));
    }
    let mut builder = SpanBatchBuilder::new();
    for ((number, bytes), frame) in spans.iter().zip([b"shared".as_slice(), CANARY_RESOURCE]) {
        let mut resource = Vec::new();
        put_bytes_field(&mut resource, 3, frame);
        let resource = builder.add_resource(resource);
        let scope = builder.add_scope(resource, Vec::new());
        builder.add_span(trace(*number), Threshold::KEEP_ALL, scope, bytes);
    }
    let source = BatchSource {
        tenant: tenant("default"),
        region: Region::new("eu-west-1").unwrap(),
        collector: "collector-1".into(),
        receive_time: UnixNanos(5),
        digest: 5,
    };
    Arc::new(builder.finish(source).unwrap())
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Names of the files that hold one of the canaries.
fn files_with_canary(directory: &Path) -> Vec<String> {
    let secrets =
        [CANARY, CANARY_RESOURCE, trace(ERASED).as_bytes().as_slice()].map(<[u8]>::to_vec);
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let found = entries.filter(|entry| {
        let bytes = std::fs::read(entry.path()).unwrap();
        secrets.iter().any(|secret| holds(&bytes, secret))
    });
    found.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_no_file_of_the_log_holds_a_byte_of_the_trace() {
    let directory = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = EmbeddedConfig::at(directory.path().join("log"));
        config.segment_bytes = 64 << 10;
        config.disk_reserve_bytes = 0;
        config
    };
    let log = EmbeddedLog::open(config(), clock()).unwrap();
    // The canary is in the first, in a middle and in the active segment; large and small batches.
    for number in 0..9 {
        log.append(batch_of("default", &[100 + number], 20_000)).await.unwrap();
        if number % 4 == 0 {
            log.append(canary_batch()).await.unwrap();
        }
    }
    log.commit(STORAGE_WRITER, PARTITION, 5).await.unwrap();
    let before = read_all(log.as_ref(), 0, 1 << 20).await;
    assert!(files_with_canary(&config().directory).len() >= 3, "the test would prove nothing");
    let erased = log.erase(&tenant("default"), trace(ERASED)).await.unwrap();
    assert_eq!((erased.spans, erased.files), (3, 3));
    assert_eq!(files_with_canary(&config().directory), [""; 0]);
    // A reader that has the log open sees the same as one that opens it.
    let open = read_all(log.as_ref(), 0, 1 << 20).await;
    log.close().await.unwrap();
    drop(log);
    let log = EmbeddedLog::open(config(), clock()).unwrap();
    assert_eq!(log.damaged(), []);
    let reopened = read_all(log.as_ref(), 0, 1 << 20).await;
    assert_eq!((&open, open.len()), (&reopened, before.len()));
    for (old, new) in before.iter().zip(&reopened) {
        assert_eq!(old.offset, new.offset);
        let is_erased = old.trace_id == trace(ERASED);
        assert!(is_erased || old.trace_id == new.trace_id);
    }
    let tail = log.tail(&tenant("default"), trace(1)).await.unwrap();
    assert_eq!((tail.spans.len(), tail.is_damaged), (2, false));
    assert!(log.tail(&tenant("default"), trace(ERASED)).await.unwrap().spans.is_empty());
}

fn open(disk: &FaultyDisk) -> Arc<EmbeddedLog> {
    let mut config = small_config();
    config.cache_bytes_max = 0;
    EmbeddedLog::open_on(Arc::new(disk.clone()), config, clock()).unwrap()
}

/// Two segments with the canary between other traces.
async fn write(disk: &FaultyDisk) {
    let log = open(disk);
    for number in 0..4 {
        log.append(batch_of("default", &[10 + number], 20_000)).await.unwrap();
        log.append(canary_batch()).await.unwrap();
    }
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_in_an_erasure_loses_no_other_record_and_it_can_be_repeated() {
    let whole = FaultyDisk::new(1);
    write(&whole).await;
    let expected = [10, 1, 77, 11, 1, 77, 12, 1, 77, 13, 1, 77].map(trace);
    let mut cuts = 0;
    for operations in 0.. {
        let disk = whole.copy();
        let log = open(&disk);
        disk.cut_power_after(operations);
        let is_done = log.erase(&tenant("default"), trace(ERASED)).await.is_ok();
        let after = disk.after_power_cut();
        drop(log);
        let log = open(&after);
        assert_eq!(log.damaged(), [], "after {operations} operations");
        let read = traces_of(&read_all(log.as_ref(), 0, 1 << 20).await);
        for (place, (expected, read)) in expected.iter().zip(&read).enumerate() {
            let may_differ = *expected == trace(ERASED);
            assert!(expected == read || may_differ, "record {place} after {operations} operations");
        }
        assert_eq!(read.len(), expected.len());
        assert!(!is_done || !read.contains(&trace(ERASED)), "{operations}: told, and not durable");
        log.erase(&tenant("default"), trace(ERASED)).await.unwrap();
        log.close().await.unwrap();
        for name in after.names() {
            let content = after.content(&name);
            assert!(!holds(&content, CANARY), "{name} after {operations} operations");
        }
        cuts = operations;
        if is_done {
            break;
        }
    }
    assert!(cuts > 10, "the power was cut at {cuts} places only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_named_and_the_trace_is_erased_from_the_others() {
    let disk = FaultyDisk::new(1);
    write(&disk).await;
    let names: Vec<String> =
        disk.names().into_iter().filter(|name| name.ends_with(".log")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    disk.flip(&names[0], (4_096 + 20) * 8);
    let log = open(&disk);
    let error = log.erase(&tenant("default"), trace(ERASED)).await.unwrap_err();
    assert!(matches!(error, LogError::Damaged(_)), "{error}");
    assert!(holds(&disk.content(&names[0]), CANARY), "what cannot all be read is left alone");
    assert!(!holds(&disk.content(&names[1]), CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_readers_go_on_while_a_trace_is_erased() {
    let disk = FaultyDisk::new(1);
    write(&disk).await;
    let log = open(&disk);
    let appending = async {
        for number in 0..200 {
            log.append(batch(&[1_000 + number])).await.unwrap();
        }
    };
    let erasing = async {
        for _ in 0..5 {
            log.erase(&tenant("default"), trace(ERASED)).await.unwrap();
        }
    };
    tokio::join!(appending, erasing);
    let read = traces_of(&read_all(log.as_ref(), 0, 1 << 20).await);
    assert_eq!(read.len(), 212);
    assert!(!read.contains(&trace(ERASED)));
    assert_eq!(read[12..], (1_000..1_200).map(trace).collect::<Vec<_>>());
}
