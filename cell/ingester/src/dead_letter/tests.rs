use std::sync::Arc;

use proto::{BatchSource, LoggedBatch, SpanBatch, SpanBatchBuilder};
use tempfile::TempDir;
use trace_model::{Region, TenantId};

use super::letter::REASON_BYTES_MAX;
use super::*;

const GROUP: GroupId = GroupId("storage-writer");

fn batch(first: u64) -> LoggedBatch {
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: UnixNanos(1),
        digest: first,
    };
    LoggedBatch {
        incarnation: 3,
        range: LogRange { partition: 1, first, next: first + 2 },
        append_time: UnixNanos(first + 1),
        batch: Arc::new(SpanBatchBuilder::new().finish(source).unwrap()),
    }
}

fn open(directory: &TempDir) -> DeadLetters {
    DeadLetters::open(DeadLetterConfig::new(directory.path().to_owned())).unwrap()
}

#[test]
fn a_letter_survives_reopening_and_goes_when_it_is_settled() {
    let directory = TempDir::new().unwrap();
    let sequence = open(&directory).put(GROUP, "no such tenant", &batch(4)).unwrap();
    let letters = open(&directory);
    let letter = letters.take_for_retry(sequence).unwrap().unwrap();
    assert_eq!((letter.group.as_str(), letter.reason.as_str()), (GROUP.0, "no such tenant"));
    assert_eq!((letter.incarnation, letter.range.first, letter.append_time.0), (3, 4, 5));
    assert_eq!(letter.encoded, batch(4).batch.encoded());
    assert!(letters.settle(sequence).unwrap() && !letters.settle(sequence).unwrap());
    assert!(letters.take_for_retry(sequence).unwrap().is_none());
    assert_eq!(open(&directory).figures(), (0, 0));
}

#[test]
fn letters_are_listed_in_order_and_a_number_is_never_given_twice() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for first in [2, 4, 6] {
        letters.put(GROUP, "r", &batch(first)).unwrap();
    }
    letters.settle(1).unwrap();
    let listed = letters.list(0, 10).unwrap();
    let firsts: Vec<_> = listed.iter().map(|letter| letter.as_ref().unwrap().range.first).collect();
    assert_eq!(firsts, [4, 6]);
    assert_eq!(letters.list(3, 10).unwrap().len(), 1);
    assert_eq!(open(&directory).put(GROUP, "r", &batch(8)).unwrap(), 4);
}

#[test]
fn a_full_dead_letter_refuses_and_passes_when_there_is_room() {
    let directory = TempDir::new().unwrap();
    let config =
        DeadLetterConfig { letters_max: 1, ..DeadLetterConfig::new(directory.path().into()) };
    let letters = DeadLetters::open(config).unwrap();
    letters.put(GROUP, "r", &batch(2)).unwrap();
    let error = letters.put(GROUP, "r", &batch(4)).unwrap_err();
    assert!(matches!(error, DeadLetterError::Full) && error.is_retryable());
    letters.settle(1).unwrap();
    assert!(letters.put(GROUP, "r", &batch(4)).is_ok());
    let config =
        DeadLetterConfig { bytes_max: 10, ..DeadLetterConfig::new(directory.path().into()) };
    let letters = DeadLetters::open(config).unwrap();
    assert!(matches!(letters.put(GROUP, "r", &batch(6)), Err(DeadLetterError::Full)));
}

#[test]
fn a_damaged_or_newer_letter_is_reported_and_hides_no_other() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for first in [2, 4, 6] {
        letters.put(GROUP, "r", &batch(first)).unwrap();
    }
    let alter = |sequence: u64, place: usize| {
        let path = letters.path(sequence);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] ^= 0x40;
        fs::write(&path, bytes).unwrap();
    };
    alter(1, 30);
    alter(2, 8);
    let listed = letters.list(0, 10).unwrap();
    assert!(matches!(listed[0], Err(DeadLetterError::Damaged { sequence: 1, .. })));
    assert!(matches!(listed[1], Err(DeadLetterError::NewerFormat { sequence: 2, found: 65 })));
    assert_eq!(listed[2].as_ref().unwrap().range.first, 6);
    for cut in 0..fs::read(letters.path(3)).unwrap().len() {
        let bytes = fs::read(letters.path(3)).unwrap();
        assert!(decode(3, bytes[..cut].to_vec()).is_err(), "{cut}");
    }
}

#[test]
fn a_half_written_letter_of_a_crash_is_removed() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("0000000000000001.partial"), b"half").unwrap();
    assert_eq!(open(&directory).list(0, 10).unwrap().len(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    let sequence = letters.put(GROUP, &"ü".repeat(2_000), &batch(2)).unwrap();
    let reason = letters.take_for_retry(sequence).unwrap().unwrap().reason;
    assert!(reason.len() <= REASON_BYTES_MAX && reason.chars().all(|letter| letter == 'ü'));
}

/// A batch of spans of these traces.
fn batch_with(first: u64, traces: &[u8]) -> LoggedBatch {
    let encoded: Vec<_> = traces
        .iter()
        .map(|byte| {
            let mut bytes = Vec::new();
            proto::wire::put_bytes_field(&mut bytes, 1, &[*byte; 16]);
            proto::wire::put_bytes_field(&mut bytes, 2, &[*byte; 8]);
            (trace(*byte), bytes)
        })
        .collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (trace_id, bytes) in &encoded {
        let threshold = trace_model::sampling_threshold::Threshold::KEEP_ALL;
        builder.add_span(*trace_id, threshold, scope, bytes);
    }
    let mut logged = batch(first);
    let source = logged.batch.source().clone();
    logged.batch = Arc::new(builder.finish(source).unwrap());
    logged
}

fn trace(byte: u8) -> TraceId {
    TraceId::from_bytes([byte; 16]).unwrap()
}

/// Which of the traces 1 to 6 may lie in a letter of the group.
fn held(letters: &DeadLetters, group: GroupId) -> Vec<u8> {
    let may_hold = |byte: &u8| letters.may_hold(group, &TenantId::default(), trace(*byte));
    (1..=6).filter(may_hold).collect()
}

#[test]
fn a_letter_is_known_by_its_group_tenant_and_traces_alone_also_after_reopening() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    assert_eq!(held(&letters, GROUP), [0; 0]);
    letters.put(GROUP, "r", &batch_with(0, &[1, 2])).unwrap();
    letters.put(GROUP, "r", &batch_with(2, &[2, 3])).unwrap();
    letters.put(GroupId("search-indexer"), "r", &batch_with(4, &[5])).unwrap();
    for letters in [&letters, &open(&directory)] {
        assert_eq!(held(letters, GROUP), [1, 2, 3]);
        assert_eq!(held(letters, GroupId("search-indexer")), [5]);
        assert!(!letters.may_hold(GROUP, &TenantId::new("other").unwrap(), trace(1)));
        let counts: Vec<_> = letters.counts().into_values().collect();
        assert_eq!(counts, [1, 2]);
    }
    letters.settle(1).unwrap();
    assert_eq!(held(&letters, GROUP), [2, 3], "another letter still has trace 2");
    letters.erase(&TenantId::default(), trace(3)).unwrap();
    assert_eq!(held(&letters, GROUP), [2]);
    letters.settle(2).unwrap();
    assert_eq!(held(&letters, GROUP), [0; 0]);
}

#[test]
fn beyond_the_limit_any_trace_may_be_in_a_letter_until_there_is_room() {
    let directory = TempDir::new().unwrap();
    let config =
        DeadLetterConfig { traces_max: 3, ..DeadLetterConfig::new(directory.path().into()) };
    let letters = DeadLetters::open(config.clone()).unwrap();
    letters.put(GROUP, "r", &batch_with(0, &[1, 2])).unwrap();
    letters.put(GROUP, "r", &batch_with(2, &[3, 4])).unwrap();
    for letters in [&letters, &DeadLetters::open(config).unwrap()] {
        assert_eq!(held(letters, GROUP), [1, 2, 3, 4, 5, 6], "all");
        assert_eq!(held(letters, GroupId("search-indexer")), [0; 0], "of this group");
    }
    letters.settle(1).unwrap();
    assert_eq!(held(&letters, GROUP), [3, 4]);
}

#[test]
fn a_letter_that_cannot_be_read_may_hold_any_trace_until_it_is_dropped() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    letters.put(GROUP, "r", &batch_with(0, &[1])).unwrap();
    fs::write(letters.path(1), b"noise").unwrap();
    let letters = open(&directory);
    assert_eq!(held(&letters, GROUP), [1, 2, 3, 4, 5, 6]);
    let all = (UnixNanos(0), UnixNanos::MAX);
    assert_eq!(letters.append_times(&[GROUP], &TenantId::default()), [all]);
    assert!(letters.settle(1).unwrap());
    assert_eq!(held(&letters, GROUP), [0; 0]);
}

#[test]
fn append_times_are_of_the_tenant_and_the_groups_and_joined_within_an_hour() {
    const MINUTE: u64 = 60_000_000_000;
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for minute in [0, 200, 30, 60, 320] {
        let mut logged = batch_with(minute, &[1]);
        logged.append_time = UnixNanos(minute * MINUTE);
        letters.put(GROUP, "r", &logged).unwrap();
    }
    letters.put(GroupId("other"), "r", &batch_with(9, &[1])).unwrap();
    let times = letters.append_times(&[GROUP], &TenantId::default());
    let minutes: Vec<_> = times.iter().map(|(a, b)| (a.0 / MINUTE, b.0 / MINUTE)).collect();
    assert_eq!(minutes, [(0, 60), (200, 200), (320, 320)]);
    assert!(letters.append_times(&[GROUP], &TenantId::new("other").unwrap()).is_empty());
}

#[test]
fn letters_expire_and_it_is_remembered_up_to_when() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for first in [10, 20, 30] {
        letters.put(GROUP, "r", &batch_with(first, &[1])).unwrap();
    }
    assert_eq!((letters.expire(UnixNanos(11)).unwrap(), letters.expired_until()), (0, None));
    assert_eq!(letters.expire(UnixNanos(31)).unwrap(), 2);
    assert_eq!(letters.expired_until(), Some(UnixNanos(21)));
    letters.settle(3).unwrap();
    let letters = open(&directory);
    assert_eq!((letters.figures().0, letters.expired_until()), (0, Some(UnixNanos(21))));
    fs::write(letters.path(9), b"noise").unwrap();
    let letters = open(&directory);
    assert_eq!(letters.expire(UnixNanos(31)).unwrap(), 0, "its file is of today");
    assert_eq!(letters.expire(UnixNanos::MAX).unwrap(), 1);
}

#[test]
fn a_letter_that_cannot_be_read_is_an_error_of_an_erasure_and_the_others_lose_the_trace() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for first in [0, 2, 4] {
        letters.put(GROUP, "r", &batch_with(first, &[1, 2])).unwrap();
    }
    fs::write(letters.path(2), b"noise").unwrap();
    let erased = letters.erase(&TenantId::default(), trace(1));
    assert!(matches!(erased, Err(DeadLetterError::Damaged { sequence: 2, .. })));
    for sequence in [1, 3] {
        let bytes = fs::read(letters.path(sequence)).unwrap();
        assert!(!bytes.windows(16).any(|window| window == [1; 16]), "letter {sequence}");
        assert!(bytes.windows(16).any(|window| window == [2; 16]), "letter {sequence}");
    }
}

#[test]
fn an_erased_trace_leaves_every_letter_and_other_traces_and_tenants_stay() {
    let directory = TempDir::new().unwrap();
    let letters = open(&directory);
    for (first, traces) in [(0, [1, 2, 2].as_slice()), (3, &[2]), (4, &[3])] {
        letters.put(GROUP, "r", &batch_with(first, traces)).unwrap();
    }
    let other = TenantId::new("other").unwrap();
    assert_eq!(letters.erase(&other, trace(2)).unwrap(), (0, 0));
    assert_eq!(letters.erase(&TenantId::default(), trace(2)).unwrap(), (2, 3));
    assert_eq!(letters.erase(&TenantId::default(), trace(2)).unwrap(), (0, 0));
    let traces: Vec<_> = letters
        .list(0, 10)
        .unwrap()
        .into_iter()
        .map(|letter| letters.take_for_retry(letter.unwrap().sequence).unwrap().unwrap())
        .map(|letter| SpanBatch::decode(letter.encoded).unwrap().traces()[0].trace_id)
        .collect();
    assert_eq!(traces, [trace(1), trace(3)]);
    assert_eq!(open(&directory).figures(), letters.figures());
}

/// The directory as the first released format wrote it. A directory of a released version is never
/// replaced: another version gets one of its own.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dead-letters-v1")
}

/// Letters with everything that the format has a part for.
fn write_golden(directory: &TempDir) {
    let mut span = Vec::new();
    proto::wire::put_bytes_field(&mut span, 1, &[7; 16]);
    proto::wire::put_bytes_field(&mut span, 2, &[8; 8]);
    let mut resource = Vec::new();
    proto::wire::put_bytes_field(&mut resource, 3, b"https://schema.example");
    let mut logged = batch(300);
    let source = logged.batch.source().clone();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(resource);
    let scope = builder.add_scope(resource, Vec::new());
    let trace_id = TraceId::from_bytes([7; 16]).unwrap();
    let keep_all = trace_model::sampling_threshold::Threshold::KEEP_ALL;
    builder.add_span(trace_id, keep_all, scope, &span);
    logged.batch = Arc::new(builder.finish(source).unwrap());
    let letters = open(directory);
    letters.put(GROUP, "no such tenant: \u{fc}", &logged).unwrap();
    letters.put(GroupId("search-indexer"), "", &batch(4)).unwrap();
}

#[test]
fn the_golden_letters_of_version_1_are_read_and_are_what_is_written_today() {
    let directory = TempDir::new().unwrap();
    write_golden(&directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        assert_eq!(fs::read(&path).unwrap(), fs::read(directory.path().join(&name)).unwrap());
        names.push(name);
    }
    assert_eq!(names.len(), 2);
    let copy = TempDir::new().unwrap();
    for name in names {
        fs::copy(golden().join(&name), copy.path().join(&name)).unwrap();
    }
    let letters = open(&copy);
    let letter = letters.take_for_retry(1).unwrap().unwrap();
    assert_eq!(
        (letter.group.as_str(), letter.reason.as_str()),
        (GROUP.0, "no such tenant: \u{fc}")
    );
    assert_eq!((letter.incarnation, letter.range.first, letter.range.next), (3, 300, 302));
    assert_eq!((letter.range.partition, letter.append_time), (1, UnixNanos(301)));
    let read = SpanBatch::decode(letter.encoded).unwrap();
    assert_eq!((read.traces().len(), read.spans().len()), (1, 1));
    assert_eq!(read.traces()[0].trace_id, TraceId::from_bytes([7; 16]).unwrap());
    let listed = letters.list(2, 10).unwrap();
    assert_eq!(listed[0].as_ref().unwrap().group, "search-indexer");
}
