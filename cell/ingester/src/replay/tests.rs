//! The replay over a log in memory and a handler that fails as it is told to.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use proto::{BatchSource, SpanBatchBuilder};
use service_kit::SystemClock;
use span_log::memory::{MemoryConfig, MemoryLog};
use span_log::{GroupId, port::STORAGE_WRITER};
use trace_model::{Coverage, Region, TenantId, TraceId};
use trace_store::{MemoryStore, SpanWriter, TraceReader};

use super::*;

fn id(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

async fn append(log: &MemoryLog, number: u8) {
    let mut span = Vec::new();
    proto::wire::put_bytes_field(&mut span, 1, &[number; 16]);
    proto::wire::put_bytes_field(&mut span, 2, &[number; 8]);
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    let keep = trace_model::sampling_threshold::Threshold::KEEP_ALL;
    builder.add_span(id(number), keep, scope, &span);
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: SystemClock::new().now(),
        digest: u64::from(number),
    };
    log.append(Arc::new(builder.finish(source).unwrap())).await.unwrap();
}

/// A log of so many records, one span each.
async fn log_of(records: u8) -> Arc<MemoryLog> {
    let log = MemoryLog::new(MemoryConfig::default(), Arc::new(SystemClock::new()));
    for number in 1..=records {
        append(&log, number).await;
    }
    log
}

/// What a handler of this test does and has seen.
#[derive(Debug, Default)]
struct Script {
    refuses: BTreeSet<u64>,
    /// So many calls fail before one succeeds.
    failures: u32,
    stops_at: Option<(u64, CancellationToken)>,
    /// The call that is refused for good.
    fenced_in: Option<&'static str>,
    taken: Vec<u64>,
    next: u64,
    largest: usize,
}

impl Script {
    fn check(&self, call: &str) -> Result<(), HandleError> {
        let is_fenced = self.fenced_in == Some(call);
        if is_fenced { Err(HandleError::Fenced("another writes".to_owned())) } else { Ok(()) }
    }
}

#[derive(Clone, Debug, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[async_trait]
impl GroupHandler for Scripted {
    fn group(&self) -> GroupId {
        STORAGE_WRITER
    }

    async fn handle(&mut self, batches: &[LoggedBatch]) -> Result<(), HandleError> {
        let script = &mut *self.0.lock().unwrap();
        script.check("handle")?;
        if script.failures > 0 {
            script.failures -= 1;
            return Err(HandleError::Retry("the store is away".to_owned()));
        }
        if batches.iter().any(|batch| script.refuses.contains(&batch.range.first)) {
            return Err(HandleError::Poison("not this one".to_owned()));
        }
        script.largest = script.largest.max(batches.len());
        for batch in batches {
            script.taken.push(batch.range.first);
            script.next = batch.range.next;
            if let Some((_, stop)) =
                script.stops_at.as_ref().filter(|(at, _)| *at <= batch.range.first)
            {
                stop.cancel();
            }
        }
        Ok(())
    }

    async fn tick(
        &mut self,
        _: UnixNanos,
        _: Option<UnixNanos>,
        is_closing: bool,
    ) -> Result<(), HandleError> {
        self.0.lock().unwrap().check(if is_closing { "close" } else { "tick" })
    }

    async fn skip(&mut self, damaged: &DamagedRange) -> Result<(), HandleError> {
        self.0.lock().unwrap().next = damaged.range.next;
        Ok(())
    }

    fn durable(&self) -> Coverage {
        let mut durable = Coverage::none(1);
        durable.extend(0, self.0.lock().unwrap().next);
        durable
    }
}

const fn range(first: u64, next: u64) -> LogRange {
    LogRange { partition: 0, first, next }
}

fn parts(log: &Arc<MemoryLog>, handler: Box<dyn GroupHandler>, range: LogRange) -> ReplayParts {
    let clock = Arc::new(SystemClock::new());
    let log = Arc::clone(log) as _;
    ReplayParts { log, clock, handler, ranges: vec![range], records_per_second: None }
}

async fn replay(parts: ReplayParts) -> ReplayReport {
    Replay::new(parts, CancellationToken::new()).run().await
}

#[tokio::test]
async fn exactly_the_range_is_handed_over_and_the_group_stays_where_it_is() {
    let log = log_of(9).await;
    let handler = Scripted::default();
    let report = replay(parts(&log, Box::new(handler.clone()), range(2, 6))).await;
    assert_eq!(handler.0.lock().unwrap().taken, [2, 3, 4, 5]);
    assert!(report.is_whole(), "{report:?}");
    let progress = ReplayProgress { records: 4, total: 4, spans: 4, waits: None };
    assert_eq!(report.progress, progress);
    assert_eq!(log.committed(STORAGE_WRITER, 0).unwrap(), 0);
}

#[tokio::test]
async fn what_the_store_refuses_is_named_alone_and_the_rest_is_taken() {
    let log = log_of(8).await;
    let handler = Scripted::default();
    handler.0.lock().unwrap().refuses = BTreeSet::from([3, 4]);
    let report = replay(parts(&log, Box::new(handler.clone()), range(0, 8))).await;
    assert_eq!(handler.0.lock().unwrap().taken, [0, 1, 2, 5, 6, 7]);
    let refused: Vec<_> =
        report.refused.iter().map(|one| (one.range.first, &*one.reason)).collect();
    assert_eq!(refused, [(3, "not this one"), (4, "not this one")]);
    assert!(report.refused_records == 2 && !report.is_whole());
    assert_eq!(report.left, []);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_waited_for_and_the_reason_is_told() {
    let log = log_of(3).await;
    let handler = Scripted::default();
    handler.0.lock().unwrap().failures = 7;
    let replay =
        Replay::new(parts(&log, Box::new(handler.clone()), range(0, 3)), CancellationToken::new());
    let mut progress = replay.progress();
    let running = tokio_util::task::TaskTracker::new().spawn(replay.run());
    let waits = progress.wait_for(|told| told.waits.is_some()).await.unwrap().waits.clone();
    assert_eq!(waits.as_deref(), Some("the store is away"));
    assert!(running.await.unwrap().is_whole());
    assert_eq!(handler.0.lock().unwrap().taken, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_refused_for_good_ends_with_the_reason() {
    for call in ["handle", "tick", "close"] {
        let log = log_of(3).await;
        let handler = Scripted::default();
        handler.0.lock().unwrap().fenced_in = Some(call);
        let replayed = replay(parts(&log, Box::new(handler.clone()), range(0, 3)));
        let report = tokio::time::timeout(Duration::from_secs(60), replayed).await.expect(call);
        assert_eq!(report.fenced.as_deref(), Some("another writes"), "{call}");
        assert!(!report.is_whole(), "{report:?}");
    }
}

#[tokio::test]
async fn a_replay_that_was_stopped_says_from_where_another_goes_on() {
    let log = log_of(20).await;
    let (handler, stop) = (Scripted::default(), CancellationToken::new());
    handler.0.lock().unwrap().stops_at = Some((7, stop.clone()));
    let slow = ReplayParts {
        records_per_second: Some(8),
        ..parts(&log, Box::new(handler.clone()), range(1, 20))
    };
    handler.0.lock().unwrap().refuses = BTreeSet::from([19]);
    tokio::time::pause();
    let first = Replay::new(slow, stop).run().await;
    let [left] = first.left[..] else { panic!("{first:?}") };
    assert_eq!(left, range(first.progress.records + 1, 20));
    handler.0.lock().unwrap().stops_at = None;
    let second = replay(parts(&log, Box::new(handler.clone()), left)).await;
    assert_eq!(second.left, []);
    assert_eq!(handler.0.lock().unwrap().taken, (1..19).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_pace_bounds_what_is_handed_over_at_once() {
    let log = log_of(40).await;
    let handler = Scripted::default();
    let limited = ReplayParts {
        records_per_second: Some(40),
        ..parts(&log, Box::new(handler.clone()), range(0, 12))
    };
    tokio::time::pause();
    replay(limited).await;
    assert_eq!(handler.0.lock().unwrap().largest, 10);
    assert_eq!(handler.0.lock().unwrap().taken.len(), 12);
}

#[tokio::test]
async fn what_the_log_has_given_up_is_counted_and_the_rest_is_taken() {
    let config =
        MemoryConfig { bytes_max: 1_000, required_groups: Vec::new(), ..MemoryConfig::default() };
    let log = MemoryLog::new(config, Arc::new(SystemClock::new()));
    for number in 1..=30 {
        append(&log, number).await;
    }
    let first = log.end(0).unwrap().first;
    assert!(first > 0);
    let handler = Scripted::default();
    let report = replay(parts(&log, Box::new(handler.clone()), range(0, 30))).await;
    assert_eq!(handler.0.lock().unwrap().taken, (first..30).collect::<Vec<_>>());
    assert!(report.expired_records == first && !report.is_whole(), "{report:?}");
    assert_eq!(report.left, []);
}

#[tokio::test]
async fn what_is_written_again_is_there_once_and_moves_no_cover() {
    let log = log_of(6).await;
    let store = Arc::new(MemoryStore::new());
    let batches = log.read(0, 0, usize::MAX).await.unwrap();
    store.write(&batches[..2]).await.unwrap();
    let before = store.durable();
    let handler = AgainHandler::spans(Arc::clone(&store) as _, log.identity().incarnation);
    let report = replay(parts(&log, Box::new(handler), range(0, 5))).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(store.durable(), before, "what is written again is not covered by that");
    for (number, spans) in [(1, 1), (5, 1), (6, 0)] {
        let read = store.read_trace(&TenantId::default(), id(number)).await.unwrap();
        assert_eq!(read.spans.len(), spans, "{number}");
    }
}
