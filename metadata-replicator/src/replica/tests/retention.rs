//! What is let go of is known: over restarts, by new readers, and by its cause.

use service_kit::ManualClock;
use trace_model::{Absence, Forgotten, Sought};

use super::*;
use crate::disk::DiskThreads;

const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// An origin log in files of a few rows each, and what a replica of it needs.
struct Bench {
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        Self { clock, directory: tempfile::tempdir().unwrap() }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    fn origin(&self, retention: Duration) -> Arc<OriginLog> {
        let directory = self.directory.path().join("origin");
        let config = OriginLogConfig {
            retention,
            segment_bytes_max: 300,
            disk: DiskThreads::Inline,
            ..OriginLogConfig::new(directory, region("eu-west-1"))
        };
        Arc::new(OriginLog::open(config, self.clock(), Entropy::seeded(1)).unwrap())
    }

    fn replica(&self, name: &str, url: &str, retention: Duration) -> Arc<Replica> {
        let endpoint = OriginEndpoint { region: region("eu-west-1"), url: url.to_owned() };
        let config = ReplicaConfig {
            retention,
            segment_bytes_max: 300,
            ..ReplicaConfig::new(region(name), self.directory.path().join(name), vec![endpoint])
        };
        let metrics = ReplicatorMetrics::default();
        Arc::new(Replica::open(config, self.clock(), Entropy::seeded(2), metrics).unwrap())
    }

    fn row(&self, trace: u8) -> Contribution {
        Contribution { last_append: self.clock.now(), ..row("eu-west-1", trace, u64::from(trace)) }
    }

    fn watermark(&self, next: u64) -> Watermark {
        Watermark { as_of: self.clock.now(), ..watermark("eu-west-1", next) }
    }

    async fn write(&self, log: &OriginLog, traces: std::ops::Range<u8>) {
        for trace in traces {
            let mark = self.watermark(u64::from(trace));
            log.append(&[self.row(trace)], Some(&mark)).await.unwrap();
        }
    }

    /// A replica that has followed the origin through these traces, and follows nobody any more.
    async fn alone(&self, traces: std::ops::Range<u8>) -> Arc<Replica> {
        let log = self.origin(7 * DAY);
        let cell = Process::serve(vec![log.clone()], None).await;
        let replica = self.replica("us-east-1", &cell.url(), 7 * DAY);
        let process = Process::serve(vec![], Some(&replica)).await;
        self.write(&log, traces).await;
        until_level(&replica, &log).await;
        process.stop().await;
        cell.stop().await;
        replica
    }
}

fn state(replica: &Replica) -> RegionState {
    replica.list_regions().remove(0)
}

async fn until_level(replica: &Replica, log: &OriginLog) {
    until("all of the log", || state(replica).cursor == log.end()).await;
}

#[tokio::test]
async fn rows_that_have_expired_prove_no_absence_when_no_file_has_them_any_more() {
    let bench = Bench::new();
    let log = bench.origin(7 * DAY);
    let cell = Process::serve(vec![log.clone()], None).await;
    let replica = bench.replica("us-east-1", &cell.url(), 30 * DAY);
    let process = Process::serve(vec![], Some(&replica)).await;
    bench.write(&log, 1..9).await;
    until_level(&replica, &log).await;
    assert_eq!(state(&replica).judge_absence(&Sought::UNKNOWN), Absence::Proven);
    let written = bench.clock.now();

    bench.clock.advance(8 * DAY);
    bench.write(&log, 9..13).await;
    until_level(&replica, &log).await;
    replica.maintain().await;
    let gone = Forgotten { expired_until: Some(written), evicted_until: None };
    assert_eq!((replica.traces_held(), state(&replica).forgotten), (4, gone));
    process.stop().await;
    drop(replica);

    let replica = bench.replica("us-east-1", &cell.url(), 30 * DAY);
    assert_eq!(replica.traces_held(), 4, "no file has the old rows any more");
    let held = state(&replica);
    assert_eq!(held.forgotten, gone);
    assert_eq!(held.judge_absence(&Sought::UNKNOWN), Absence::Expired);
    let holes = &held.watermark.as_ref().unwrap().holes;
    assert!(holes.iter().any(|hole| hole.contains(written)), "{holes:?}");
    let recent = Sought { began: Some(bench.clock.now()), newest: None };
    assert_eq!(held.judge_absence(&recent), Absence::Proven);
    cell.stop().await;
}

#[tokio::test]
async fn a_new_replica_is_told_what_the_origin_no_longer_has() {
    let bench = Bench::new();
    let log = bench.origin(7 * DAY);
    let cell = Process::serve(vec![log.clone()], None).await;
    let level = bench.replica("us-east-1", &cell.url(), 30 * DAY);
    let level_process = Process::serve(vec![], Some(&level)).await;
    bench.write(&log, 1..9).await;
    let written = bench.clock.now();
    until_level(&level, &log).await;

    bench.clock.advance(8 * DAY);
    bench.write(&log, 9..13).await;
    until_level(&level, &log).await;
    log.maintain().await.unwrap();
    let gone = Forgotten { expired_until: Some(written), evicted_until: None };
    assert_eq!(log.terms().forgotten, gone);

    let new = bench.replica("ap-southeast-1", &cell.url(), 30 * DAY);
    let new_process = Process::serve(vec![], Some(&new)).await;
    until_level(&new, &log).await;
    assert!(new.traces_held() < 12);
    assert_eq!(state(&new).forgotten, gone);
    assert_eq!(state(&new).judge_absence(&Sought::UNKNOWN), Absence::Expired);
    // The one that has followed all along has the rows until it lets them go itself.
    assert_eq!((level.traces_held(), state(&level).forgotten), (12, Forgotten::default()));
    new_process.stop().await;
    level_process.stop().await;
    cell.stop().await;
    drop((log, new));
    assert_eq!(bench.origin(7 * DAY).terms().forgotten, gone, "over a restart");
    let new = bench.replica("ap-southeast-1", "http://127.0.0.1:1", 30 * DAY);
    assert_eq!(state(&new).forgotten, gone, "over a restart");
}

#[tokio::test]
async fn an_origins_retention_counts_where_it_is_shorter_and_else_the_difference_is_shown() {
    for (origins, own, kept) in [(DAY, 7 * DAY, DAY), (30 * DAY, 7 * DAY, 7 * DAY)] {
        let bench = Bench::new();
        let log = bench.origin(origins);
        let cell = Process::serve(vec![log.clone()], None).await;
        let replica = bench.replica("us-east-1", &cell.url(), own);
        assert_eq!(state(&replica).retention, None);
        let process = Process::serve(vec![], Some(&replica)).await;
        bench.write(&log, 1..5).await;
        let written = bench.clock.now();
        until_level(&replica, &log).await;
        assert_eq!((state(&replica).retention, state(&replica).kept_for), (Some(origins), kept));
        let label = crate::metrics::OriginLabel::of(&region("eu-west-1"));
        let shown = &replica.metrics;
        let seconds = |gauge: f64| Duration::from_secs_f64(gauge);
        assert_eq!(seconds(shown.origin_retention.get_or_create(&label).get()), origins);
        assert_eq!(seconds(shown.kept.get_or_create(&label).get()), kept);
        process.stop().await;

        bench.clock.advance(kept - DAY / 2);
        replica.maintain().await;
        assert_eq!(replica.traces_held(), 4, "not yet");
        bench.clock.advance(DAY);
        replica.maintain().await;
        assert_eq!(replica.traces_held(), 0);
        let judged = state(&replica).judge_absence(&Sought::UNKNOWN);
        let expected = if origins < own { Absence::Expired } else { Absence::Evicted };
        assert_eq!(judged, expected, "{origins:?} {own:?}");
        assert_eq!(state(&replica).forgotten.until(), Some(written));
        cell.stop().await;
    }
}

#[tokio::test]
async fn a_copy_that_kept_less_than_the_origin_says_so_to_who_reads_it_from_there() {
    let bench = Bench::new();
    let log = bench.origin(30 * DAY);
    let cell = Process::serve(vec![log.clone()], None).await;
    let short = bench.replica("us-east-1", &cell.url(), 7 * DAY);
    let short_process = Process::serve(vec![], Some(&short)).await;
    bench.write(&log, 1..9).await;
    let written = bench.clock.now();
    until_level(&short, &log).await;
    bench.clock.advance(8 * DAY);
    bench.write(&log, 9..13).await;
    until_level(&short, &log).await;
    short.maintain().await;

    let third = bench.replica("ap-southeast-1", &short_process.url(), 30 * DAY);
    let third_process = Process::serve(vec![], Some(&third)).await;
    until_level(&third, &log).await;
    assert!(third.traces_held() < 12);
    let held = state(&third);
    assert_eq!(held.retention, Some(30 * DAY), "the origin's, by way of the copy");
    assert_eq!(held.forgotten.evicted_until, Some(written));
    assert_eq!(held.judge_absence(&Sought::UNKNOWN), Absence::Evicted);
    third_process.stop().await;
    short_process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn where_it_cannot_be_read_what_was_let_go_anything_may_have_been() {
    let bench = Bench::new();
    let replica = bench.alone(1..4).await;
    drop(replica);
    let terms = bench.directory.path().join("us-east-1/origins/eu-west-1/terms");
    let mut bytes = std::fs::read(&terms).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&terms, bytes).unwrap();
    let replica = bench.replica("us-east-1", "http://127.0.0.1:1", 7 * DAY);
    assert_eq!(replica.traces_held(), 3);
    assert_eq!(state(&replica).forgotten.evicted_until, Some(bench.clock.now()));
    assert_eq!(state(&replica).judge_absence(&Sought::UNKNOWN), Absence::Evicted);
}

#[tokio::test]
async fn damage_that_was_compacted_away_is_a_hole_over_restarts() {
    let bench = Bench::new();
    let replica = bench.alone(1..9).await;
    drop(replica);
    let directory = bench.directory.path().join("us-east-1/origins/eu-west-1");
    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[1]).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 0x20;
    std::fs::write(&files[1], bytes).unwrap();
    let open = || bench.replica("us-east-1", "http://127.0.0.1:1", 7 * DAY);
    let replica = open();
    assert!(!state(&replica).judge_absence(&Sought::UNKNOWN).is_proven());
    replica.maintain().await;
    drop(replica);
    let replica = open();
    assert!(!state(&replica).judge_absence(&Sought::UNKNOWN).is_proven(), "{:?}", state(&replica));
}

#[tokio::test]
async fn rows_that_go_between_a_state_and_a_look_up_are_not_vouched_for() {
    let bench = Bench::new();
    let replica = bench.alone(1..4).await;
    let mut states = replica.list_regions();
    assert!(states[0].judge_absence(&Sought::UNKNOWN).is_proven());
    bench.clock.advance(8 * DAY);
    replica.maintain().await;
    assert_eq!(version_in(&replica, 1), 0);
    replica.add_forgotten(&mut states);
    assert_eq!(states[0].judge_absence(&Sought::UNKNOWN), Absence::Expired);
    let hole = states[0].watermark.as_ref().unwrap().holes[0];
    assert!(hole.contains(NOW), "{hole:?}");
}

#[tokio::test]
async fn a_sender_that_talks_nonsense_of_its_terms_takes_nothing_away() {
    let bench = Bench::new();
    let records = Arc::new(MemoryRecords::new(region("eu-west-1")));
    let log = Arc::new(MemoryOriginLog::open(records, bench.clock(), Entropy::seeded(1)));
    log.append(&[bench.row(1)], Some(&bench.watermark(1))).await.unwrap();
    let cell = Process::serve(vec![log.clone()], None).await;
    let replica = bench.replica("us-east-1", &cell.url(), 7 * DAY);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("the row", || replica.traces_held() == 1).await;
    let far = Forgotten { expired_until: Some(UnixNanos::MAX), evicted_until: None };
    log.forget(far).await.unwrap();
    log.append(&[bench.row(2)], None).await.unwrap();
    let label = crate::metrics::OriginLabel::of(&region("eu-west-1"));
    until("a refusal", || replica.metrics.refused.get_or_create(&label).get() > 0).await;
    assert_eq!(state(&replica).forgotten, Forgotten::default());
    process.stop().await;
    cell.stop().await;

    let log = bench.origin(Duration::from_secs(1));
    let cell = Process::serve(vec![log.clone()], None).await;
    let replica = bench.replica("ap-southeast-1", &cell.url(), 7 * DAY);
    let process = Process::serve(vec![], Some(&replica)).await;
    bench.write(&log, 1..4).await;
    until_level(&replica, &log).await;
    bench.clock.advance(Duration::from_secs(600));
    replica.maintain().await;
    assert_eq!(replica.traces_held(), 3, "no cell keeps its spans for a second");
    process.stop().await;
    cell.stop().await;
}
