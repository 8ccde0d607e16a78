use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use metadata_replicator::feed::Chunk;
use metadata_replicator::{Entropy, LogHistory, MemoryOriginLog, MemoryRecords, OriginFeed, Terms};
use proptest::prelude::*;
use proto::convert::index::{OTHER_SERVICE, PARTS_MAX};
use proto::wire::{put_bytes_field, put_varint};
use proto::{BatchSource, SpanBatchBuilder};
use service_kit::ManualClock;
use span_log::LogIdentity;
use trace_model::locality::IndexMode;
use trace_model::location::{Cursor, Epoch, Keep};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Forgotten, LogRange, TenantId, TimeRange, Watermark};

use super::*;
use crate::spread::tests::FakeEnds;

pub(super) const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
const MILLIS: u64 = 1_000_000;

/// A span for a test: times are milliseconds after [`NOW`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    trace: u8,
    id: u8,
    parent: u8,
    start: u64,
    end: u64,
    is_error: bool,
}

pub(super) fn span(trace: u8, id: u8, parent: u8) -> Span {
    let start = u64::from(id);
    Span { trace, id, parent, start, end: start + 10, is_error: id.is_multiple_of(4) }
}

impl Span {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes_field(&mut bytes, 1, &[self.trace; 16]);
        put_bytes_field(&mut bytes, 2, &[self.id; 8]);
        if self.parent > 0 {
            put_bytes_field(&mut bytes, 4, &[self.parent; 8]);
        }
        put_bytes_field(&mut bytes, 5, format!("op-{}", self.id).as_bytes());
        for (number, millis) in [(7, self.start), (8, self.end)] {
            put_varint(&mut bytes, number << 3 | 1);
            bytes.extend_from_slice(&(NOW.0 + millis * MILLIS).to_le_bytes());
        }
        if self.is_error {
            put_bytes_field(&mut bytes, 15, &[3 << 3, 2]);
        }
        bytes
    }

    fn service(self) -> &'static str {
        ["web", "cart", "payment"][usize::from(self.id % 3)]
    }
}

fn resource(service: &str) -> Vec<u8> {
    let (mut any, mut pair, mut resource, mut frame) = (vec![], vec![], vec![], vec![]);
    put_bytes_field(&mut any, 1, service.as_bytes());
    put_bytes_field(&mut pair, 1, b"service.name");
    put_bytes_field(&mut pair, 2, &any);
    put_bytes_field(&mut resource, 1, &pair);
    put_bytes_field(&mut frame, 1, &resource);
    frame
}

pub(super) fn region() -> Region {
    Region::new("eu-west-1").unwrap()
}

pub(super) fn batch_of(spans: &[Span], first: u64, partition: u32, digest: u64) -> LoggedBatch {
    let all: Vec<_> = spans.iter().map(|span| (*span, span.bytes())).collect();
    let mut builder = SpanBatchBuilder::new();
    let scopes: BTreeMap<_, _> = ["web", "cart", "payment"]
        .into_iter()
        .map(|service| {
            let resource = builder.add_resource(resource(service));
            (service, builder.add_scope(resource, vec![]))
        })
        .collect();
    for (span, bytes) in &all {
        let trace_id = TraceId::from_bytes([span.trace; 16]).unwrap();
        builder.add_span(trace_id, Threshold::KEEP_ALL, scopes[span.service()], bytes);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: region(),
        collector: "c1".into(),
        receive_time: NOW.plus(50 * MILLIS),
        digest,
    };
    let batch = builder.finish(source).unwrap();
    let next = first + batch.traces().len() as u64;
    LoggedBatch {
        incarnation: 1,
        range: LogRange { partition, first, next },
        append_time: NOW.plus(1_000 + first),
        batch: Arc::new(batch),
    }
}

/// An origin log that can be told to fail.
#[derive(Debug)]
struct Unreliable {
    log: MemoryOriginLog,
    fails: AtomicBool,
}

#[async_trait]
impl OriginFeed for Unreliable {
    fn origin(&self) -> &Region {
        self.log.origin()
    }
    fn end(&self) -> Option<Cursor> {
        self.log.end()
    }
    async fn read_from(
        &self,
        from: Option<Cursor>,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicatorError> {
        self.log.read_from(from, bytes_max).await
    }
    async fn wait_beyond(&self, from: Option<Cursor>, at_most: Duration) {
        self.log.wait_beyond(from, at_most).await;
    }
    fn names(&self, epoch: Epoch) -> Vec<proto::v1::ServiceName> {
        self.log.names(epoch)
    }
    fn terms(&self) -> Terms {
        self.log.terms()
    }
    async fn outrun(&self, seen: Cursor) -> Result<(), ReplicatorError> {
        self.log.outrun(seen).await
    }
}

#[async_trait]
impl ContributionLog for Unreliable {
    fn epoch(&self) -> Epoch {
        self.log.epoch()
    }
    async fn append(
        &self,
        rows: &[Contribution],
        watermark: Option<&Watermark>,
    ) -> Result<Option<Cursor>, ReplicatorError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(ReplicatorError::Closed);
        }
        self.log.append(rows, watermark).await
    }
    async fn own_rows(
        &self,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Contribution>>, ReplicatorError> {
        self.log.own_rows(keys).await
    }
    fn published(&self) -> Option<Watermark> {
        self.log.published()
    }
    fn history(&self) -> LogHistory {
        self.log.history()
    }
    async fn note_missing(&self, cursor: Cursor) -> Result<(), ReplicatorError> {
        self.log.note_missing(cursor).await
    }
    async fn note_mended(&self, until: Option<Cursor>) -> Result<(), ReplicatorError> {
        self.log.note_mended(until).await
    }
    async fn forget(&self, forgotten: Forgotten) -> Result<(), ReplicatorError> {
        self.log.forget(forgotten).await
    }
}

/// A publisher with its world.
struct Bench {
    records: Arc<MemoryRecords>,
    clock: Arc<ManualClock>,
    log: Arc<Unreliable>,
    publisher: MetadataPublisher,
    mode: IndexMode,
    incarnation: u64,
    next: u64,
}

impl Bench {
    fn new(mode: IndexMode) -> Self {
        let records = Arc::new(MemoryRecords::new(region()));
        let clock = Arc::new(ManualClock::at(NOW));
        Self::with(mode, PublisherConfig::new(region()), (records, clock))
    }

    fn with(
        mode: IndexMode,
        config: PublisherConfig,
        (records, clock): (Arc<MemoryRecords>, Arc<ManualClock>),
    ) -> Self {
        let (log, publisher) = Self::open(&records, &clock, mode, 1, 1_000, config).unwrap();
        Self { records, clock, log, publisher, mode, incarnation: 1, next: 0 }
    }

    /// Over a log whose traces lie in two partitions.
    fn spread() -> Self {
        let ends = Arc::new(FakeEnds::default());
        let config = PublisherConfig { spread_over: Some(ends), ..PublisherConfig::new(region()) };
        let world = (Arc::new(MemoryRecords::new(region())), Arc::new(ManualClock::at(NOW)));
        Self::with(IndexMode::Full, config, world)
    }

    fn open(
        records: &Arc<MemoryRecords>,
        clock: &Arc<ManualClock>,
        mode: IndexMode,
        incarnation: u64,
        end: u64,
        config: PublisherConfig,
    ) -> Result<(Arc<Unreliable>, MetadataPublisher), PublisherError> {
        let timed: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        let log =
            MemoryOriginLog::open(Arc::clone(records), Arc::clone(&timed), Entropy::seeded(1));
        let log = Arc::new(Unreliable { log, fails: AtomicBool::new(false) });
        let source = SpanLogState {
            identity: LogIdentity { incarnation, partitions: 1 },
            ends: BTreeMap::from([(0, end)]),
            committed: BTreeMap::new(),
            end_time: NOW,
        };
        let publisher = MetadataPublisher::new(
            config,
            &source,
            Arc::clone(&log) as Arc<dyn ContributionLog>,
            Arc::new(FixedPolicy(mode)),
            timed,
            PublisherMetrics::default(),
        )?;
        Ok((log, publisher))
    }

    /// The process is killed and started again on the same logs.
    fn restart(&mut self) {
        let config = PublisherConfig::new(region());
        let opened =
            Self::open(&self.records, &self.clock, self.mode, self.incarnation, 1_000, config);
        (self.log, self.publisher) = opened.unwrap();
    }

    async fn give(&mut self, spans: &[Span]) -> LoggedBatch {
        let batch = batch_of(spans, self.next, 0, self.next + 77);
        self.next = batch.range.next;
        self.publisher.handle(std::slice::from_ref(&batch)).await.unwrap();
        batch
    }

    async fn tick(&mut self, after_millis: u64) {
        self.clock.advance(Duration::from_millis(after_millis));
        self.publisher.tick(self.clock.now(), None, false).await.unwrap();
    }

    async fn row(&self, trace: u8) -> Option<Contribution> {
        let key = RowKey {
            tenant: TenantId::default(),
            trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
            incarnation: 1,
            partition: 0,
        };
        self.log.own_rows(&[key]).await.unwrap().remove(0)
    }

    async fn detail(&self, trace: u8) -> trace_model::location::Detail {
        self.row(trace).await.unwrap().detail.unwrap()
    }

    fn durable(&self) -> u64 {
        self.publisher.durable().next[&0]
    }

    fn appended(&self) -> u64 {
        self.log.end().unwrap().sequence
    }
}

#[tokio::test]
async fn the_first_contribution_goes_out_at_first_sight() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.tick(0).await;
    bench.give(&[span(1, 1, 0), span(1, 4, 1), span(1, 3, 9)]).await;
    assert_eq!((bench.row(1).await, bench.durable()), (None, 0));
    bench.tick(100).await;
    let row = bench.row(1).await.unwrap();
    assert_eq!((row.version, row.keep, bench.durable()), (1, Keep::Keep, 1));
    let detail = row.detail.unwrap();
    assert_eq!((detail.span_count, detail.error_count), (3, 1));
    assert_eq!((detail.min_start, detail.max_end), (NOW.plus(MILLIS), NOW.plus(14 * MILLIS)));
    let services: Vec<_> =
        detail.services.iter().map(|count| (&*count.service, count.spans)).collect();
    assert_eq!(services, [("cart", 2), ("web", 1)]);
    assert_eq!(&*detail.root.unwrap().operation, "op-1");
    let entries: Vec<_> =
        detail.entries.iter().map(|entry| entry.parent_span_id.as_bytes()[0]).collect();
    assert_eq!(entries, [9]);
    assert!(!detail.is_lower_bound);
}

#[tokio::test]
async fn a_growing_trace_is_published_every_second_and_closed_when_quiet() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    for id in 2..10 {
        bench.give(&[span(1, id, 1)]).await;
        bench.tick(100).await;
    }
    let version = bench.row(1).await.map(|row| row.version);
    assert_eq!((version, bench.durable()), (Some(1), 1), "not before a second has passed");
    bench.tick(300).await;
    assert_eq!((bench.detail(1).await.span_count, bench.durable()), (9, 9));
    assert_eq!(bench.publisher.open.len(), 1);
    for _ in 0..60 {
        bench.tick(100).await;
    }
    assert_eq!((bench.publisher.open.len(), bench.publisher.held_spans), (0, 0));
}

#[tokio::test]
async fn entry_spans_go_when_their_parents_come() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 5, 2), span(1, 6, 2), span(1, 7, 99)]).await;
    bench.tick(100).await;
    assert_eq!(bench.detail(1).await.entries.len(), 3);
    bench.give(&[span(1, 2, 98)]).await;
    bench.tick(1_000).await;
    let entries = bench.detail(1).await.entries;
    let parents: Vec<_> = entries.iter().map(|entry| entry.parent_span_id.as_bytes()[0]).collect();
    assert_eq!(parents.len(), 2);
    assert!(parents.contains(&98) && parents.contains(&99));
}

#[tokio::test]
async fn the_earliest_32_entry_spans_are_published() {
    let mut bench = Bench::new(IndexMode::Full);
    let spans: Vec<_> = (1..60).rev().map(|id| span(1, id, 200)).collect();
    bench.give(&spans).await;
    bench.tick(100).await;
    let mut ids: Vec<_> =
        bench.detail(1).await.entries.iter().map(|entry| entry.span_id.as_bytes()[0]).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..33).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_retry_of_the_same_bytes_counts_once_also_when_the_trace_is_closed() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0), span(2, 2, 0)]).await;
    for _ in 0..70 {
        bench.tick(100).await;
    }
    assert!(bench.publisher.open.is_empty());
    let retry = batch_of(&[span(1, 1, 0), span(2, 2, 0)], 2, 0, 77);
    bench.publisher.handle(&[retry]).await.unwrap();
    bench.tick(100).await;
    assert_eq!((bench.detail(1).await.span_count, bench.durable()), (1, 4));
    let other_part = batch_of(&[span(3, 1, 0)], 4, 0, 77);
    bench.publisher.handle(&[other_part]).await.unwrap();
    bench.tick(100).await;
    assert_eq!(bench.detail(3).await.span_count, 1, "another part of the same request counts");
}

#[tokio::test]
async fn a_span_that_is_sent_again_within_an_open_trace_counts_once() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0), span(1, 2, 1)]).await;
    bench.give(&[span(1, 2, 1), span(1, 3, 1)]).await;
    let same_id = Span { end: 99, ..span(1, 2, 1) };
    bench.give(&[same_id]).await;
    bench.tick(100).await;
    assert_eq!(bench.detail(1).await.span_count, 4, "one that shares an id and differs is another");
}

#[tokio::test]
async fn late_spans_are_folded_onto_the_published_row() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0)]).await;
    for _ in 0..70 {
        bench.tick(100).await;
    }
    assert!(bench.publisher.open.is_empty());
    bench.give(&[span(1, 2, 1)]).await;
    bench.tick(100).await;
    let row = bench.row(1).await.unwrap();
    assert_eq!(row.version, 2);
    let detail = row.detail.unwrap();
    assert_eq!((detail.span_count, detail.is_lower_bound), (2, true));
    assert!(detail.root.is_some());
}

#[tokio::test]
async fn a_replay_after_a_restart_changes_nothing() {
    let mut bench = Bench::new(IndexMode::Full);
    let mut batches = Vec::new();
    for id in 1..6 {
        batches.push(bench.give(&[span(1, id, 0), span(2, id, 1)]).await);
        bench.tick(400).await;
    }
    bench.tick(1_000).await;
    let before = (bench.row(1).await, bench.row(2).await);
    bench.restart();
    assert_eq!(bench.durable(), 10);
    bench.publisher.handle(&batches).await.unwrap();
    bench.tick(100).await;
    assert_eq!((bench.row(1).await, bench.row(2).await), before);
}

#[test]
fn a_lost_origin_log_proves_no_absence_of_what_it_had_published() {
    let holes_of = |committed: u64| {
        let source = SpanLogState {
            identity: LogIdentity { incarnation: 1, partitions: 1 },
            ends: BTreeMap::from([(0, 9)]),
            committed: BTreeMap::from([(0, committed)]),
            end_time: NOW,
        };
        let progress = Progress::resume(&region(), &source, None, false).unwrap();
        progress.watermark(None, Duration::ZERO, Duration::ZERO).unwrap().holes
    };
    assert_eq!(holes_of(5), [TimeRange { start: UnixNanos(0), end: NOW.plus(1) }]);
    assert_eq!(holes_of(0), [], "nothing was published before");
}

#[test]
fn holes_that_are_taken_over_are_joined() {
    let source = SpanLogState {
        identity: LogIdentity { incarnation: 1, partitions: 1 },
        ends: BTreeMap::from([(0, 9)]),
        committed: BTreeMap::new(),
        end_time: NOW,
    };
    let hole =
        |place: u64| TimeRange { start: UnixNanos(place * 9), end: UnixNanos(place * 9 + 2) };
    let published = Watermark {
        region: region(),
        incarnation: 1,
        as_of: NOW,
        next: BTreeMap::from([(0, 9)]),
        holes: (0..5_000).map(hole).collect(),
    };
    let progress = Progress::resume(&region(), &source, Some(&published), false).unwrap();
    let holes = progress.watermark(None, Duration::ZERO, Duration::ZERO).unwrap().holes;
    assert_eq!(holes.len(), trace_model::HOLES_MAX);
    assert_eq!((holes[0].start, holes[63]), (UnixNanos(0), hole(4_999)));
}

#[tokio::test]
async fn a_failing_origin_log_holds_everything_back_and_loses_nothing() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.tick(0).await;
    let published = bench.log.published();
    bench.log.fails.store(true, Ordering::SeqCst);
    bench.give(&[span(1, 1, 0), span(2, 1, 0)]).await;
    for _ in 0..100 {
        bench.clock.advance(Duration::from_millis(100));
        let tick =
            bench.publisher.tick(bench.clock.now(), Some(NOW.plus(u64::MAX / 4)), false).await;
        assert!(matches!(tick, Err(HandleError::Retry(_))));
        assert_eq!(bench.durable(), 0);
    }
    assert_eq!(bench.log.published(), published);
    bench.log.fails.store(false, Ordering::SeqCst);
    bench.tick(100).await;
    assert_eq!((bench.detail(1).await.span_count, bench.durable()), (1, 2));
    assert!(bench.log.published().unwrap().as_of <= NOW.plus(1_001));
}

#[tokio::test]
async fn the_watermark_stays_below_what_is_not_published_and_follows_an_idle_log() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    let first = bench.log.published().unwrap();
    assert_eq!((first.as_of, first.next[&0]), (NOW.plus(999), 1));
    let held = bench.give(&[span(1, 2, 1)]).await;
    let end = NOW.plus(1_000_000);
    bench.clock.advance(Duration::from_millis(600));
    bench.publisher.tick(bench.clock.now(), Some(end), false).await.unwrap();
    let second = bench.log.published().unwrap();
    assert_eq!((second.as_of, second.next[&0]), (held.append_time.minus(1), 1));
    bench.clock.advance(Duration::from_millis(600));
    bench.publisher.tick(bench.clock.now(), Some(end), false).await.unwrap();
    let third = bench.log.published().unwrap();
    assert_eq!((third.as_of, third.next[&0]), (end.minus(1), 2));
    let before = bench.appended();
    for _ in 0..4 {
        bench.clock.advance(Duration::from_millis(100));
        let end = end.plus(bench.clock.now().0);
        bench.publisher.tick(bench.clock.now(), Some(end), false).await.unwrap();
    }
    assert_eq!(bench.appended(), before, "an idle watermark keeps its pace");
    bench.publisher.tick(NOW, Some(NOW), true).await.unwrap();
    assert!(bench.log.published().unwrap().as_of >= third.as_of, "never backwards");
}

#[tokio::test]
async fn lost_records_make_a_hole_before_the_group_goes_on_behind_them() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    let range = LogRange { partition: 0, first: 1, next: 5 };
    let times = (NOW.plus(2_000), NOW.plus(3_000));
    let damaged =
        DamagedRange { range, append_times: times, reason: "flipped".to_owned(), stranger: None };
    bench.publisher.skip(&damaged).await.unwrap();
    assert_eq!(bench.durable(), 1, "no watermark shows the hole yet");
    bench.tick(100).await;
    assert_eq!(bench.durable(), 5);
    let hole = TimeRange { start: times.0, end: times.1.plus(1) };
    assert_eq!(bench.log.published().unwrap().holes, [hole]);
    bench.restart();
    bench.tick(600).await;
    assert_eq!(bench.log.published().unwrap().holes, [hole], "it stays over a restart");
}

#[tokio::test]
async fn index_mode_routing_lets_out_the_route_alone() {
    let mut bench = Bench::new(IndexMode::Routing);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    let row = bench.row(1).await.unwrap();
    assert_eq!((row.detail, row.version), (None, 1));
    assert!(bench.log.names(bench.log.epoch()).is_empty(), "no service name either");
    assert!(bench.log.published().unwrap().holes.is_empty());
}

#[tokio::test]
async fn index_mode_none_lets_nothing_out_and_proves_nothing() {
    let mut bench = Bench::new(IndexMode::None);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    assert_eq!((bench.row(1).await, bench.durable()), (None, 1));
    assert_eq!(bench.log.published().unwrap().holes, [TimeRange::ALL]);
    assert_eq!(bench.appended(), 1, "the watermark and nothing else");
    bench.mode = IndexMode::Full;
    bench.restart();
    bench.give(&[span(2, 1, 0)]).await;
    bench.tick(100).await;
    assert!(bench.row(2).await.is_some());
    let holes = bench.log.published().unwrap().holes;
    let withheld = TimeRange { start: UnixNanos(0), end: NOW.plus(1_000) };
    assert_eq!(holes, [withheld], "what was withheld stays unprovable");
}

#[tokio::test]
async fn a_narrower_policy_holds_for_what_was_published_under_a_wider_one() {
    use proto::v1::origin_record::Record;

    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    for mode in [IndexMode::Full, IndexMode::Routing, IndexMode::None] {
        let feed = LetOut::under(Arc::new(FixedPolicy(mode)), Arc::clone(&bench.log) as _);
        let chunk = feed.read_from(None, 1 << 20).await.unwrap();
        let (mut rows, mut details, mut names, mut holes) = (0, 0, 0, Vec::new());
        for record in chunk.records {
            match record.record.unwrap() {
                Record::Contribution(row) => {
                    rows += 1;
                    details += usize::from(row.detail.is_some());
                }
                Record::ServiceName(_) => names += 1,
                Record::Watermark(mark) => holes = mark.holes,
            }
        }
        names += feed.names(chunk.first.epoch).len();
        let is_full = mode == IndexMode::Full;
        let is_none = mode == IndexMode::None;
        assert_eq!((rows, details), (usize::from(!is_none), usize::from(is_full)), "{mode:?}");
        assert_eq!((names > 0, holes.is_empty()), (is_full, !is_none), "{mode:?}");
        assert_eq!(
            chunk.next,
            bench.log.end().unwrap(),
            "a reader goes on behind what it did not get"
        );
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_back_holds_nothing_up() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.tick(100).await;
    bench.clock.set_wall(NOW.minus(3_600_000 * MILLIS));
    bench.give(&[span(1, 1, 0)]).await;
    bench.tick(100).await;
    assert!(bench.row(1).await.is_some());
}

#[tokio::test]
async fn records_that_were_published_before_they_were_lost_are_no_hole() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0), span(2, 1, 0)]).await;
    bench.tick(100).await;
    assert_eq!(bench.durable(), 2);
    let damaged = |first, next| DamagedRange {
        range: LogRange { partition: 0, first, next },
        append_times: (NOW, NOW.plus(9)),
        reason: "the log ended before what had been read of it".into(),
        stranger: None,
    };
    bench.publisher.skip(&damaged(0, 2)).await.unwrap();
    bench.tick(600).await;
    assert!(bench.log.published().unwrap().holes.is_empty());
    bench.publisher.skip(&damaged(1, 5)).await.unwrap();
    assert_eq!(bench.durable(), 2, "no watermark shows the hole yet");
    bench.tick(600).await;
    assert_eq!(bench.log.published().unwrap().holes.len(), 1);
    assert_eq!(bench.durable(), 5);
}

#[tokio::test]
async fn a_log_that_ends_below_what_was_published_is_refused() {
    let mut bench = Bench::new(IndexMode::Full);
    bench.give(&[span(1, 1, 0), span(2, 1, 0)]).await;
    bench.tick(100).await;
    let open = |incarnation, end| {
        let config = PublisherConfig::new(region());
        Bench::open(&bench.records, &bench.clock, IndexMode::Full, incarnation, end, config)
    };
    let refused = open(1, 1).map(|_| ());
    let expected = PublisherError::LogWentBack { partition: 0, end: 1, published: 2 };
    assert_eq!(refused.unwrap_err().to_string(), expected.to_string());
    let born = NOW.millis() + 60_000;
    let (log, mut publisher) = open(born, 0).unwrap();
    bench.clock.advance(Duration::from_millis(600));
    publisher.tick(bench.clock.now(), None, false).await.unwrap();
    let watermark = log.published().unwrap();
    assert_eq!((watermark.incarnation, watermark.next[&0]), (born, 0));
    assert_eq!(watermark.holes.len(), 1, "what the old log had not published is lost");
    assert!(watermark.holes[0].contains(NOW.plus(30_000 * MILLIS)));
}

#[tokio::test]
async fn traces_beyond_the_limit_are_published_and_closed() {
    let records = Arc::new(MemoryRecords::new(region()));
    let clock = Arc::new(ManualClock::at(NOW));
    let config = PublisherConfig { open_traces_max: 20, ..PublisherConfig::new(region()) };
    let opened = Bench::open(&records, &clock, IndexMode::Full, 1, 1_000, config).unwrap();
    let (log, publisher) = opened;
    let mode = IndexMode::Full;
    let mut bench = Bench { records, clock, log, publisher, mode, incarnation: 1, next: 0 };
    for round in 0..3 {
        for trace in 1..100 {
            bench.give(&[span(trace, 1 + round, 0)]).await;
            assert!(bench.publisher.open.len() <= 20);
        }
    }
    bench.tick(2_000).await;
    for trace in 1..100 {
        assert_eq!(bench.detail(trace).await.span_count, 3, "trace {trace}");
    }
}

/// The log's first record, with what was built.
fn first_record(builder: SpanBatchBuilder<'_>) -> LoggedBatch {
    let source = batch_of(&[], 0, 0, 1).batch.source().clone();
    LoggedBatch {
        batch: Arc::new(builder.finish(source).unwrap()),
        ..batch_of(&[span(1, 1, 0)], 0, 0, 1)
    }
}

#[tokio::test]
async fn names_that_peers_would_refuse_are_cut() {
    let mut bench = Bench::new(IndexMode::Full);
    let mut bytes = span(1, 1, 0).bytes();
    put_bytes_field(&mut bytes, 5, "ü".repeat(9_000).as_bytes());
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(resource(&"s".repeat(9_000)));
    let scope = builder.add_scope(resource, vec![]);
    builder.add_span(TraceId::from_bytes([1; 16]).unwrap(), Threshold::KEEP_ALL, scope, &bytes);
    bench.publisher.handle(&[first_record(builder)]).await.unwrap();
    bench.tick(100).await;
    let detail = bench.detail(1).await;
    let root = detail.root.unwrap();
    assert_eq!((root.operation.len(), root.service.len()), (4096, 4096));
    assert_eq!(detail.services[0].service, root.service);
}

#[tokio::test]
async fn services_beyond_those_of_a_message_share_a_name_and_are_counted() {
    let (mut bench, beyond) = (Bench::new(IndexMode::Full), 10);
    let mut builder = SpanBatchBuilder::new();
    let all = PARTS_MAX as u64 + beyond;
    let spans: Vec<_> = (0..all)
        .map(|number| {
            let mut bytes = span(1, 1, 0).bytes();
            put_bytes_field(&mut bytes, 2, &(number + 1).to_be_bytes());
            (format!("s{number}"), bytes)
        })
        .collect();
    for (service, bytes) in spans.iter().chain(&spans[..1]) {
        let resource = builder.add_resource(resource(service));
        let scope = builder.add_scope(resource, vec![]);
        builder.add_span(TraceId::from_bytes([1; 16]).unwrap(), Threshold::KEEP_ALL, scope, bytes);
    }
    bench.publisher.handle(&[first_record(builder)]).await.unwrap();
    bench.tick(100).await;
    let detail = bench.detail(1).await;
    let spans_of = |name: &str| {
        let count = detail.services.iter().find(|count| &*count.service == name);
        count.map(|count| u64::from(count.spans))
    };
    assert_eq!(detail.services.len(), PARTS_MAX);
    assert_eq!((spans_of("s0"), spans_of(OTHER_SERVICE)), (Some(1), Some(beyond + 1)));
    let counted: u64 = detail.services.iter().map(|count| u64::from(count.spans)).sum();
    assert_eq!((counted, u64::from(detail.span_count)), (all, all));
    assert!(!detail.is_lower_bound, "all are counted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However records are batched, wherever the process is killed, whatever is given again: the
    /// rows end as one fold over all records gives them.
    #[test]
    fn kills_and_replays_do_not_change_what_is_counted(
        steps in proptest::collection::vec((1_u8..5, 0_u8..4, 0_u64..1_500), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(IndexMode::Full);
            let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
            let mut batches: Vec<LoggedBatch> = Vec::new();
            for (number, (trace, action, wait)) in (1_u8..).zip(&steps) {
                batches.push(bench.give(&[span(*trace, number, 0)]).await);
                *counts.entry(*trace).or_default() += 1;
                if *action == 1 {
                    bench.tick(*wait).await;
                }
                if *action == 2 {
                    let committed = bench.durable();
                    bench.restart();
                    let again: Vec<_> = batches
                        .iter()
                        .filter(|batch| batch.range.next > committed)
                        .cloned()
                        .collect();
                    bench.publisher.handle(&again).await.unwrap();
                }
                if *action == 3 {
                    bench.publisher.handle(&batches).await.unwrap();
                }
            }
            bench.publisher.tick(NOW, None, true).await.unwrap();
            assert_eq!(bench.durable(), bench.next);
            for (trace, count) in counts {
                assert_eq!(bench.detail(trace).await.span_count, count, "trace {trace}");
            }
        });
    }
}

#[tokio::test]
async fn a_trace_with_records_in_two_partitions_has_a_row_of_each_writer() {
    let mut bench = Bench::new(IndexMode::Full);
    let one = batch_of(&[span(1, 1, 0), span(1, 2, 1)], 4, 0, 77);
    let two = batch_of(&[span(1, 3, 1)], 900, 1, 78);
    bench.publisher.handle(&[one, two]).await.unwrap();
    bench.tick(100).await;
    let trace_id = TraceId::from_bytes([1; 16]).unwrap();
    let key =
        |partition| RowKey { tenant: TenantId::default(), trace_id, incarnation: 1, partition };
    let rows = bench.log.own_rows(&[key(0), key(1)]).await.unwrap();
    let told: Vec<_> = rows
        .into_iter()
        .flatten()
        .map(|row| (row.writer.partition, row.version, row.detail.unwrap().span_count))
        .collect();
    assert_eq!(told, [(0, 5, 2), (1, 901, 1)]);
    let durable = bench.publisher.durable();
    assert_eq!((durable.next[&0], durable.next[&1]), (5, 901));
}

#[tokio::test]
async fn a_span_whose_parent_is_in_another_partition_enters_nothing() {
    let mut bench = Bench::spread();
    let one = batch_of(&[span(1, 1, 0), span(1, 2, 1)], 4, 0, 77);
    // Children of a span that is elsewhere, more than a row has places, and then one of nobody here.
    let mut children: Vec<Span> = (10..50).map(|id| span(1, id, 1)).collect();
    children.push(span(1, 60, 99));
    let two = batch_of(&children, 900, 1, 78);
    bench.publisher.handle(&[one, two]).await.unwrap();
    bench.tick(100).await;
    let trace_id = TraceId::from_bytes([1; 16]).unwrap();
    let key = RowKey { tenant: TenantId::default(), trace_id, incarnation: 1, partition: 1 };
    let row = bench.log.own_rows(&[key]).await.unwrap().remove(0).unwrap();
    let entries = row.detail.unwrap().entries;
    let parents: Vec<u8> = entries.iter().map(|entry| entry.parent_span_id.as_bytes()[0]).collect();
    assert_eq!(parents, [99]);
}

#[tokio::test]
async fn a_repeat_is_remembered_for_the_partition_that_is_read_last() {
    let hour = 3_600_000 * MILLIS;
    for (spread, repeated) in [(true, 1), (false, 0)] {
        let mut bench = if spread { Bench::spread() } else { Bench::new(IndexMode::Full) };
        let first = batch_of(&[span(1, 1, 0)], 0, 1, 77);
        bench.publisher.handle(&[first]).await.unwrap();
        // The other one is read on for three hours of the log's time.
        for step in 1..4 {
            let mut later = batch_of(&[span(2, 1, 0)], step, 1, 100 + step);
            later.append_time = NOW.plus(step * hour);
            bench.publisher.handle(&[later]).await.unwrap();
        }
        bench.publisher.handle(&[batch_of(&[span(1, 1, 0)], 0, 0, 77)]).await.unwrap();
        assert_eq!(bench.publisher.metrics.batches_repeated.get(), repeated);
    }
}
