#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::convert::index::{ServiceDictionary, contribution_from_wire};
use proto::v1::origin_record::Record;
use service_kit::ManualClock;
use trace_model::location::{Detail, Keep, RootSpan, ServiceCount};
use trace_model::{Clock, Region, SpanId, UnixNanos};

use super::*;
use crate::disk::DiskThreads;
use crate::epoch::Entropy;

mod damage;
mod passing;

const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What survives of a log when it is closed.
enum Remains {
    Files(tempfile::TempDir),
    Memory(Arc<MemoryRecords>),
}

fn region() -> Region {
    Region::new("eu-west-1").unwrap()
}

fn config(directory: PathBuf) -> OriginLogConfig {
    OriginLogConfig {
        segment_bytes_max: 4 << 10,
        disk: DiskThreads::Inline,
        retention: 7 * DAY,
        ..OriginLogConfig::new(directory, region())
    }
}

fn open_files(directory: &std::path::Path, clock: &Arc<ManualClock>) -> OriginLog {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    OriginLog::open(config(directory.to_path_buf()), clock, Entropy::seeded(3)).unwrap()
}

impl Remains {
    fn both() -> [Self; 2] {
        [
            Self::Files(tempfile::tempdir().unwrap()),
            Self::Memory(Arc::new(MemoryRecords::new(region()))),
        ]
    }

    fn open(&self, clock: &Arc<ManualClock>) -> Box<dyn ContributionLog> {
        match self {
            Self::Files(directory) => Box::new(open_files(directory.path(), clock)),
            Self::Memory(records) => {
                let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
                Box::new(MemoryOriginLog::open(Arc::clone(records), clock, Entropy::seeded(3)))
            }
        }
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

fn row(trace: u64, version: u64, service: &str) -> Contribution {
    let mut id = [9; 16];
    id[..8].copy_from_slice(&trace.to_le_bytes());
    let detail = Detail {
        min_start: NOW,
        max_end: NOW.plus(5),
        span_count: version as u32,
        services: vec![ServiceCount { service: service.into(), spans: 1, errors: 0 }],
        root: Some(RootSpan {
            service: service.into(),
            operation: "GET /".into(),
            start: NOW,
            span_id: SpanId::from_bytes([1; 8]).unwrap(),
            duration_nanos: 5,
            is_error: false,
        }),
        ..Detail::default()
    };
    Contribution {
        version,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes(id).unwrap(),
        writer: WriterId { region: region(), incarnation: 1, partition: 0 },
        last_append: NOW.plus(version),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(detail),
    }
}

fn watermark(next: u64) -> Watermark {
    Watermark {
        region: region(),
        incarnation: 1,
        as_of: NOW.plus(next),
        next: BTreeMap::from([(0, next)]),
        holes: Vec::new(),
    }
}

/// What a reader that follows the log from a cursor holds in the end: the latest rows, the
/// watermark, and that no watermark came before a row that it covers.
#[derive(Debug, Default)]
struct Reader {
    at: Option<Cursor>,
    dictionaries: BTreeMap<Epoch, ServiceDictionary>,
    rows: BTreeMap<TraceId, Contribution>,
    next: u64,
    /// Of the last watermark.
    holes: usize,
    /// Rows and watermarks: names may come again.
    records: usize,
}

impl Reader {
    async fn follow(&mut self, log: &dyn ContributionLog, bytes_max: usize) {
        loop {
            let chunk = log.read_from(self.at, bytes_max).await.unwrap();
            if chunk.records.is_empty() {
                return;
            }
            assert!(self.at.is_none_or(|at| chunk.first >= at), "{chunk:?}");
            assert!(chunk.next > chunk.first);
            let services = self.dictionaries.entry(chunk.first.epoch).or_default();
            if chunk.first.sequence > 0 {
                for name in log.names(chunk.first.epoch) {
                    services.define(name.id, &name.name).unwrap();
                }
            }
            for record in chunk.records {
                let record = record.record.unwrap();
                self.records += usize::from(!matches!(record, Record::ServiceName(_)));
                match record {
                    Record::ServiceName(name) => {
                        services.define(name.id, &name.name).unwrap();
                    }
                    Record::Contribution(wire) => {
                        let row = contribution_from_wire(wire, &region(), services).unwrap();
                        self.rows.insert(row.trace_id, row);
                    }
                    Record::Watermark(mark) => {
                        self.holes = mark.holes.len();
                        self.next = mark.next.first().map_or(0, |part| part.offset);
                    }
                }
            }
            self.at = Some(chunk.next);
        }
    }
}

async fn read_all(log: &dyn ContributionLog) -> Reader {
    let mut reader = Reader::default();
    reader.follow(log, 500).await;
    reader
}

#[tokio::test]
async fn what_was_appended_is_read_back_over_restarts() {
    for remains in Remains::both() {
        let clock = clock();
        let log = remains.open(&clock);
        assert_eq!(log.published(), None);
        let first = log.append(&[row(1, 1, "web"), row(2, 2, "cart")], None).await.unwrap();
        let end = log.append(&[row(1, 5, "web")], Some(&watermark(5))).await.unwrap();
        assert!(end > first);
        let before = log.epoch();
        drop(log);
        let log = remains.open(&clock);
        assert!(log.epoch() > before);
        assert_eq!(log.published(), Some(watermark(5)));
        let keys =
            [RowKey::of(&row(1, 0, "")), RowKey::of(&row(9, 0, "")), RowKey::of(&row(2, 0, ""))];
        let rows = log.own_rows(&keys).await.unwrap();
        assert_eq!(rows, [Some(row(1, 5, "web")), None, Some(row(2, 2, "cart"))]);
        log.append(&[row(3, 7, "web")], Some(&watermark(7))).await.unwrap();
        let reader = read_all(log.as_ref()).await;
        assert_eq!(reader.rows.len(), 3);
        assert_eq!((reader.rows[&row(1, 0, "").trace_id].version, reader.next), (5, 7));
    }
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_left_off_in_chunks_of_any_size() {
    for remains in Remains::both() {
        let clock = clock();
        let log = remains.open(&clock);
        let mut reader = Reader::default();
        let mut all = 0;
        for round in 0..20_u64 {
            let rows: Vec<_> =
                (0..9).map(|trace| row(round * 9 + trace, round + 1, "web")).collect();
            log.append(&rows, Some(&watermark(round + 1))).await.unwrap();
            all += rows.len();
            if round % 3 == 0 {
                reader.follow(log.as_ref(), 1 + round as usize * 40).await;
            }
        }
        reader.follow(log.as_ref(), 1).await;
        assert_eq!((reader.rows.len(), reader.next), (all, 20));
        assert_eq!(reader.at, log.end());
        assert_eq!(reader.records, all + 20, "no row and no watermark comes twice");
    }
}

#[tokio::test]
async fn an_append_of_megabytes_is_read_whole_in_chunks_of_any_size() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let open = || {
        let config = OriginLogConfig {
            segment_bytes_max: 8 << 20,
            ..config(directory.path().to_path_buf())
        };
        OriginLog::open(config, Arc::clone(&clock) as _, Entropy::seeded(3)).unwrap()
    };
    let log = open();
    let rows = |from: u64| -> Vec<Contribution> {
        (from..from + 4_000).map(|trace| row(trace, 1, &format!("{trace:0>400}"))).collect()
    };
    log.append(&rows(0), Some(&watermark(1))).await.unwrap();
    log.append(&rows(4_000), Some(&watermark(2))).await.unwrap();
    let read = async |log: &OriginLog, bytes_max: usize| {
        let mut reader = Reader::default();
        reader.follow(log, bytes_max).await;
        assert_eq!((reader.rows.len(), reader.next), (8_000, 2), "{bytes_max}");
    };
    read(&log, 1 << 10).await;
    read(&log, 256 << 10).await;
    drop(log);
    let log = open();
    read(&log, 256 << 10).await;
    log.maintain().await.unwrap();
    read(&log, 256 << 10).await;
    read(&log, 4 << 10).await;
}

#[tokio::test]
async fn a_tenant_a_partition_and_an_incarnation_have_rows_of_their_own() {
    for remains in Remains::both() {
        let log = remains.open(&clock());
        let base = row(1, 1, "web");
        let others = [
            Contribution { tenant: TenantId::new("team-b").unwrap(), version: 2, ..base.clone() },
            Contribution {
                writer: WriterId { partition: 1, ..base.writer.clone() },
                ..base.clone()
            },
            Contribution {
                writer: WriterId { incarnation: 2, ..base.writer.clone() },
                ..base.clone()
            },
            base,
        ];
        log.append(&others, None).await.unwrap();
        let keys: Vec<_> = others.iter().map(RowKey::of).collect();
        let rows: Vec<_> = log.own_rows(&keys).await.unwrap().into_iter().flatten().collect();
        assert_eq!(rows, others);
    }
}

#[tokio::test]
async fn waiting_ends_when_something_is_appended() {
    for remains in Remains::both() {
        let log: Arc<dyn ContributionLog> = remains.open(&clock()).into();
        let end = log.append(&[row(1, 1, "web")], None).await.unwrap();
        log.wait_beyond(None, Duration::from_secs(60)).await;
        let waiting = Arc::clone(&log);
        let wait = async move { waiting.wait_beyond(end, Duration::from_secs(60)).await };
        let append = async { log.append(&[row(2, 2, "web")], None).await.unwrap() };
        let ((), after) =
            tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(wait, append) })
                .await
                .expect("the wait ends");
        assert!(after > end);
    }
}

#[tokio::test]
async fn an_older_handle_is_fenced() {
    let records = Arc::new(MemoryRecords::new(region()));
    let remains = Remains::Memory(records);
    let clock = clock();
    let old = remains.open(&clock);
    let new = remains.open(&clock);
    let refused = old.append(&[row(1, 1, "web")], None).await;
    assert!(matches!(refused, Err(ReplicatorError::Fenced)));
    new.append(&[row(1, 1, "web")], None).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let _held = open_files(directory.path(), &clock);
    let second = OriginLog::open(config(directory.path().to_path_buf()), clock, Entropy::seeded(1));
    assert!(matches!(second, Err(ReplicatorError::InUse(_))));
}

#[tokio::test]
async fn a_reader_from_a_later_epoch_gets_every_row_again() {
    for remains in Remains::both() {
        let clock = clock();
        let log = remains.open(&clock);
        log.append(&[row(1, 1, "web"), row(2, 2, "cart")], None).await.unwrap();
        log.append(&[row(1, 3, "fraud")], Some(&watermark(3))).await.unwrap();
        let ahead = log.epoch().millis + 3_600_000;
        let seen = Cursor { epoch: Epoch { millis: ahead, random: 5 }, sequence: 77 };
        log.outrun(seen).await.unwrap();
        assert!(log.epoch() > seen.epoch);
        let mut reader = Reader { at: Some(seen), ..Reader::default() };
        reader.follow(log.as_ref(), 500).await;
        assert_eq!(reader.rows.len(), 2);
        assert_eq!(reader.rows[&row(1, 0, "").trace_id], row(1, 3, "fraud"));
        assert_eq!(reader.next, 3);
        let epoch = log.epoch();
        log.outrun(seen).await.unwrap();
        assert_eq!(log.epoch(), epoch, "once is enough");
        let far = Cursor { epoch: Epoch { millis: u64::MAX, random: 0 }, sequence: 0 };
        assert!(matches!(log.outrun(far).await, Err(ReplicatorError::FarCursor(_))));
    }
}

#[tokio::test]
async fn an_epoch_is_above_the_former_when_the_clock_has_gone_back() {
    for remains in Remains::both() {
        let clock = clock();
        let before = remains.open(&clock).epoch();
        clock.set_wall(NOW.minus(3_600_000_000_000));
        assert!(remains.open(&clock).epoch() > before);
    }
}

/// Appends versions 1.. of a few traces until several files are closed.
async fn fill(log: &OriginLog, traces: u64, rounds: u64) {
    for round in 1..=rounds {
        let rows: Vec<_> = (0..traces).map(|trace| row(trace, round, "web")).collect();
        log.append(&rows, Some(&watermark(round))).await.unwrap();
    }
}

#[tokio::test]
async fn compaction_keeps_the_latest_rows_and_every_cursor() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    let mut behind = Reader::default();
    fill(&log, 5, 2).await;
    behind.follow(&log, 100).await;
    fill(&log, 5, 200).await;
    let before = log.bytes();
    log.maintain().await.unwrap();
    assert!(log.bytes() < before / 4, "{} of {before}", log.bytes());
    let keys: Vec<_> = (0..5).map(|trace| RowKey::of(&row(trace, 0, ""))).collect();
    let rows = log.own_rows(&keys).await.unwrap();
    assert!(rows.iter().all(|row| row.as_ref().is_some_and(|row| row.version == 200)));
    behind.follow(&log, 100).await;
    assert_eq!((behind.rows.len(), behind.next), (5, 200));
    assert!(behind.rows.values().all(|row| row.version == 200));
    let fresh = read_all(&log).await;
    assert_eq!(fresh.rows, behind.rows);
    drop(log);
    let log = open_files(directory.path(), &clock);
    assert_eq!(read_all(&log).await.rows, fresh.rows);
    assert_eq!(log.own_rows(&keys).await.unwrap(), rows);
}

#[tokio::test]
async fn a_row_stays_until_a_watermark_stands_behind_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_files(directory.path(), &clock());
    log.append(&[row(1, 1, "web")], Some(&watermark(1))).await.unwrap();
    for version in 2..100 {
        log.append(&[row(2, version, "web")], None).await.unwrap();
    }
    log.append(&[row(1, 100, "web")], None).await.unwrap();
    log.maintain().await.unwrap();
    let chunk = log.read_from(None, 1).await.unwrap();
    let kinds =
        |chunk: crate::feed::Chunk| chunk.records.into_iter().map(|record| record.record.unwrap());
    assert!(kinds(chunk).all(|record| matches!(record, Record::ServiceName(_))));
    let mut at = None;
    let mut seen_row = false;
    loop {
        let chunk = log.read_from(at, 1).await.unwrap();
        at = Some(chunk.next);
        for record in kinds(chunk) {
            match record {
                Record::Contribution(wire) => {
                    seen_row |= wire.trace_id == row(1, 0, "").trace_id.as_bytes()[..];
                }
                Record::Watermark(_) => {
                    assert!(seen_row, "a watermark vouches for a row that is not there");
                    return;
                }
                Record::ServiceName(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn what_has_expired_goes_and_its_cursors_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 30, 5).await;
    let mut reader = Reader::default();
    reader.follow(&log, 300).await;
    drop(log);
    clock.advance(8 * DAY);
    let log = open_files(directory.path(), &clock);
    let late = |trace| Contribution { last_append: clock.now(), ..row(trace, 9, "cart") };
    log.append(&[late(77)], None).await.unwrap();
    log.maintain().await.unwrap();
    assert_eq!(log.rows(), 1);
    assert!(log.bytes() < 1_000);
    reader.rows.clear();
    reader.follow(&log, 300).await;
    assert_eq!(reader.rows.len(), 1);
    drop(log);
    assert_eq!(open_files(directory.path(), &clock).rows(), 1);
}

fn newest_file(directory: &std::path::Path, place_from_end: usize) -> PathBuf {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    paths.sort();
    paths[paths.len() - 1 - place_from_end].clone()
}

/// What of a file is damaged.
#[derive(Clone, Copy)]
enum Damaged {
    /// The byte in its middle.
    Middle,
    /// Nearly all that it holds behind its header.
    BehindTheHeader,
}

fn damage(path: &std::path::Path, what: Damaged) {
    let mut bytes = std::fs::read(path).unwrap();
    let (from, until) = match what {
        Damaged::Middle => (bytes.len() / 2, bytes.len() / 2 + 1),
        Damaged::BehindTheHeader => (64, bytes.len()),
    };
    bytes[from..until].iter_mut().for_each(|byte| *byte ^= 0x10);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    for cut in 1..60 {
        let log = open_files(directory.path(), &clock);
        log.append(&[row(cut, 1, "web")], None).await.unwrap();
        log.append(&[row(1_000 + cut, 1, "web")], None).await.unwrap();
        drop(log);
        let path = newest_file(directory.path(), 0);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let log = open_files(directory.path(), &clock);
        let keys = [RowKey::of(&row(cut, 0, "")), RowKey::of(&row(1_000 + cut, 0, ""))];
        let rows = log.own_rows(&keys).await.unwrap();
        assert_eq!(rows, [Some(row(cut, 1, "web")), None], "cut {cut}");
    }
}

#[tokio::test]
async fn damage_in_the_middle_costs_its_record_and_makes_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 3, 4).await;
    drop(log);
    let path = newest_file(directory.path(), 0);
    damage(&path, Damaged::Middle);
    let log = open_files(directory.path(), &clock);
    let published = log.published().unwrap();
    assert_eq!(published.holes.len(), 1);
    let hole = published.holes[0];
    assert!(hole.start < hole.end && hole.end <= NOW.plus(5), "{hole:?}");
    assert_eq!(read_all(&log).await.rows.len(), 3);
}

#[tokio::test]
async fn a_packed_file_is_smaller_and_damage_to_it_makes_a_hole_that_stays() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 60, 1).await;
    log.append(&[row(60, 1, "web")], Some(&watermark(2))).await.unwrap();
    let path = newest_file(directory.path(), 1);
    let plain = std::fs::metadata(&path).unwrap().len();
    log.maintain().await.unwrap();
    let packed = std::fs::metadata(&path).unwrap().len();
    assert!(packed < plain / 2, "{packed} of {plain}");
    assert_eq!(read_all(&log).await.rows.len(), 61);
    drop(log);
    damage(&path, Damaged::Middle);
    for _ in 0..2 {
        let log = open_files(directory.path(), &clock);
        assert_eq!(log.published().unwrap().holes.len(), 1);
        assert!(read_all(&log).await.rows.len() < 61);
    }
}

#[tokio::test]
async fn damage_that_comes_after_opening_makes_a_hole_for_readers_and_for_what_follows() {
    for (is_packed, what) in
        [(false, Damaged::Middle), (false, Damaged::BehindTheHeader), (true, Damaged::Middle)]
    {
        let directory = tempfile::tempdir().unwrap();
        let clock = clock();
        let log = open_files(directory.path(), &clock);
        fill(&log, 60, 1).await;
        log.append(&[row(60, 1, "web")], Some(&watermark(2))).await.unwrap();
        let path = newest_file(directory.path(), 1);
        if is_packed {
            log.maintain().await.unwrap();
        }
        damage(&path, what);
        assert!(log.published().unwrap().holes.is_empty());
        let reader = read_all(&log).await;
        assert!(reader.rows.len() < 61, "{} rows, packed: {is_packed}", reader.rows.len());
        let published = log.published().unwrap();
        let [hole] = published.holes[..] else { panic!("{published:?}") };
        assert!(hole.start < hole.end && hole.end <= NOW.plus(5), "{hole:?}");
        // A second reader meets the same and adds nothing; what is published next says it.
        let rows = read_all(&log).await.rows.len();
        assert_eq!(rows, reader.rows.len());
        log.append(&[], Some(&watermark(3))).await.unwrap();
        let told = log.published().unwrap();
        assert_eq!((told.as_of, told.holes), (watermark(3).as_of, vec![hole]));
        assert_eq!(read_all(&log).await.holes, 1, "readers are told");
        assert!(log.terms().forgotten.evicted_until.is_some(), "those who copy are told at once");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_gone_on_from_without_its_detail() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    log.append(&[row(1, 1, "web")], Some(&watermark(2))).await.unwrap();
    let path = newest_file(directory.path(), 0);
    damage(&path, Damaged::BehindTheHeader);
    let key = RowKey::of(&row(1, 1, "web"));
    let held = log.own_rows(std::slice::from_ref(&key)).await.unwrap().remove(0).unwrap();
    assert_eq!((RowKey::of(&held), held.version, held.detail), (key.clone(), 0, None));
    assert_eq!(log.published().unwrap().holes.len(), 1);
    log.append(&[row(1, 2, "web")], None).await.unwrap();
    assert_eq!(log.own_rows(&[key]).await.unwrap(), [Some(row(1, 2, "web"))]);
}

#[tokio::test]
async fn files_are_open_while_they_are_written_or_read_and_go_when_all_in_them_has_expired() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 60, 20).await;
    let of_log =
        |path: std::io::Result<PathBuf>| path.is_ok_and(|p| p.starts_with(directory.path()));
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|entry| of_log(std::fs::read_link(entry.as_ref().unwrap().path()))).count()
    };
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let many = files();
    assert!(many > 20, "{many} files");
    assert!(open() <= 3, "{} open: the lock and the one that is written to", open());
    assert_eq!(read_all(&log).await.rows.len(), 60);
    clock.advance(8 * DAY);
    log.append(&[Contribution { last_append: clock.now(), ..row(61, 30, "web") }], None)
        .await
        .unwrap();
    for _ in 0..3 {
        log.maintain().await.unwrap();
    }
    assert!(files() < 8, "{} files of {many}", files());
    drop(log);
    let log = open_files(directory.path(), &clock);
    assert_eq!(read_all(&log).await.rows.len(), 1);
    assert!(log.published().is_some(), "the newest watermark stays");
}

#[tokio::test]
async fn damage_that_compaction_meets_first_is_noted_before_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let log = open_files(directory.path(), &clock);
    fill(&log, 60, 1).await;
    log.append(&[row(60, 1, "web")], Some(&watermark(2))).await.unwrap();
    let path = newest_file(directory.path(), 1);
    damage(&path, Damaged::Middle);
    damage::maintain_for_sure(&log).await;
    assert_eq!(log.published().unwrap().holes.len(), 1);
    drop(log);
    // The files are whole again, and lack rows.
    let log = open_files(directory.path(), &clock);
    assert!(read_all(&log).await.rows.len() < 61);
    assert!(log.terms().forgotten.evicted_until.is_some(), "{:?}", log.terms());
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    drop(open_files(directory.path(), &clock));
    let path = newest_file(directory.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..40]).to_le_bytes();
    bytes[40..44].copy_from_slice(&crc);
    std::fs::write(&path, bytes).unwrap();
    let opened = OriginLog::open(config(directory.path().to_path_buf()), clock, Entropy::seeded(1));
    assert!(matches!(opened, Err(ReplicatorError::NewerVersion { version: 9, .. })), "{opened:?}");
}

#[tokio::test]
async fn a_failed_append_shows_nothing_and_the_next_one_works() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_files(directory.path(), &clock());
    let mut large = row(1, 1, "web");
    if let Some(root) = large.detail.as_mut().and_then(|detail| detail.root.as_mut()) {
        root.operation = "x".repeat(2 << 20).as_str().into();
    }
    let refused = log.append(&[row(2, 1, "cart"), large], None).await;
    assert!(matches!(refused, Err(ReplicatorError::TooLarge { .. })));
    assert!(log.read_from(None, 1 << 20).await.unwrap().records.is_empty());
    log.append(&[row(2, 1, "cart")], None).await.unwrap();
    let reader = read_all(&log).await;
    assert_eq!(reader.rows.into_values().collect::<Vec<_>>(), [row(2, 1, "cart")]);
}
