//! A directory as each released format wrote it: it opens and answers for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::v1::origin_record::Record;
use service_kit::ManualClock;
use trace_model::location::{Detail, EntrySpan, Keep, RootSpan, ServiceCount};
use trace_model::{
    Contribution, Forgotten, Region, SpanId, TenantId, TimeRange, TraceId, UnixNanos,
};
use trace_model::{Watermark, WriterId};

use super::{ContributionLog, OriginLog, OriginLogConfig, RowKey};
use crate::disk::DiskThreads;
use crate::epoch::Entropy;
use crate::feed::OriginFeed;

const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

fn region() -> Region {
    Region::new("eu-west-1").unwrap()
}

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

fn open(directory: &Path) -> OriginLog {
    let config = OriginLogConfig {
        segment_bytes_max: 4 << 10,
        disk: DiskThreads::Inline,
        ..OriginLogConfig::new(directory, region())
    };
    OriginLog::open(config, Arc::new(ManualClock::at(NOW)), Entropy::seeded(3)).unwrap()
}

/// Rows with everything that a contribution may carry.
fn rows() -> Vec<Contribution> {
    let row = |number: u8| {
        let service: Arc<str> = ["web", "cart", "payment"][usize::from(number % 3)].into();
        let span_id = SpanId::from_bytes([number.max(1); 8]).unwrap();
        let detail = Detail {
            min_start: NOW.plus(u64::from(number)),
            max_end: NOW.plus(1_000),
            span_count: 3,
            error_count: u32::from(number % 2),
            is_lower_bound: number == 4,
            services: vec![ServiceCount { service: Arc::clone(&service), spans: 3, errors: 1 }],
            root: number.is_multiple_of(4).then(|| RootSpan {
                service: Arc::clone(&service),
                operation: "GET /cart".into(),
                start: NOW,
                span_id,
                duration_nanos: 12_345,
                is_error: true,
            }),
            entries: vec![EntrySpan {
                span_id,
                parent_span_id: SpanId::from_bytes([77; 8]).unwrap(),
                service,
                start: NOW,
                duration_nanos: 9,
                is_error: false,
            }],
        };
        Contribution {
            version: u64::from(number) + 1,
            tenant: TenantId::new(if number == 5 { "team-a" } else { "default" }).unwrap(),
            trace_id: TraceId::from_bytes([number.max(1); 16]).unwrap(),
            writer: WriterId { region: region(), incarnation: 7, partition: u32::from(number % 2) },
            last_append: NOW.plus(u64::from(number) * 10),
            keep: [Keep::Pending, Keep::SampledOut, Keep::Keep][usize::from(number % 3)],
            is_erased: number == 6,
            detail: (number != 7).then_some(detail),
        }
    };
    (1..60).map(row).collect()
}

fn watermark() -> Watermark {
    Watermark {
        region: region(),
        incarnation: 7,
        as_of: NOW.plus(600),
        next: [(0, 60), (1, 61)].into(),
        holes: vec![TimeRange { start: UnixNanos(5), end: UnixNanos(9) }],
    }
}

/// A compacted file and one that is open.
async fn write(directory: &Path) {
    let log = open(directory);
    for rows in rows().chunks(20) {
        log.append(rows, Some(&watermark())).await.unwrap();
    }
    log.maintain().await.unwrap();
}

#[tokio::test]
async fn every_version_opens_and_answers() {
    opens_and_answers("v2", (watermark().holes, None)).await;
    // The hole lies before all retention: a release that lets go of holes did so.
    opens_and_answers("v3", (Vec::new(), Some(UnixNanos(8)))).await;
}

async fn opens_and_answers(version: &str, missing: (Vec<TimeRange>, Option<UnixNanos>)) {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(version)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let log = open(copy.path());
    let keys: Vec<_> = rows().iter().map(RowKey::of).collect();
    let held: Vec<_> = log.own_rows(&keys).await.unwrap().into_iter().map(Option::unwrap).collect();
    assert_eq!(held, rows());
    let (holes, expired_until) = missing;
    assert_eq!(log.published(), Some(Watermark { holes, ..watermark() }));
    assert_eq!(log.terms().retention, Some(std::time::Duration::from_secs(7 * 24 * 3_600)));
    let (mut from, mut read) = (None, 0);
    loop {
        let chunk = log.read_from(from, 1_000).await.unwrap();
        if chunk.records.is_empty() {
            break;
        }
        let is_row = |record: &Option<Record>| matches!(record, Some(Record::Contribution(_)));
        read += chunk.records.iter().filter(|record| is_row(&record.record)).count();
        from = Some(chunk.next);
    }
    assert_eq!(read, rows().len());
    let forgotten = Forgotten { expired_until, evicted_until: None };
    assert_eq!(log.terms().forgotten, forgotten);
}

/// With `FARSPAN_GOLDEN=DIR` the directory is left there: a release that changes the format puts it
/// into `tests/golden` under the new version's name. A directory of a released version is never
/// replaced.
#[tokio::test]
async fn what_is_written_today_is_of_the_newest_golden_version() {
    let directory = std::env::temp_dir().join(format!("golden-origin-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&directory));
    write(&directory).await;
    std::fs::remove_file(directory.join("LOCK")).unwrap();
    if let Some(kept) = std::env::var_os("FARSPAN_GOLDEN") {
        std::fs::rename(&directory, kept).unwrap();
        return;
    }
    let heads = |directory: &Path| {
        let mut heads: Vec<(String, Vec<u8>)> = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            heads.push((name, std::fs::read(&path).unwrap()[..12].to_vec()));
        }
        heads.sort();
        heads
    };
    let (then, now) = (heads(&golden("v3")), heads(&directory));
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(then, now, "another version needs a directory of its own");
    assert!(then.iter().any(|(_, head)| head[8] == 2) && then.len() >= 3, "{then:?}");
}
