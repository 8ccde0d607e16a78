use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metadata_replicator::{ContributionLog, Entropy, MemoryOriginLog, MemoryRecords};
use service_kit::ManualClock;
use span_log::LogIdentity;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trace_model::location::{Cursor, Detail, EntrySpan, Epoch, Keep};
use trace_model::{Clock, Contribution, Region, SpanId, TenantId, TraceId, UnixNanos, WriterId};

use super::cursor_file::CursorFile;
use super::joiner::OriginJoiner;
use super::{
    BorderConfig, BorderParts, CallCounter, LookupError, OwnRows, OwnTraces, ParentLookup,
    ParentSpan,
};
use crate::metrics::BorderMetrics;
use crate::metrics_aggregator::cross_border::AggregatorEnded;
use crate::metrics_aggregator::{EntryJoin, JoinOutcome};

const START: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

fn trace(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

fn span(number: u8) -> SpanId {
    SpanId::from_bytes([number; 8]).unwrap()
}

fn cursor(sequence: u64) -> Cursor {
    Cursor { epoch: Epoch { millis: 1, random: 1 }, sequence }
}

fn us() -> Region {
    Region::new("us-east-1").unwrap()
}

/// The cell's own spans, and the aggregator: all that a joiner sees of its cell.
#[derive(Debug, Default)]
struct Cell {
    state: Mutex<CellState>,
}

#[derive(Debug, Default)]
struct CellState {
    /// Spans and their services by trace; a trace's version is their count.
    spans: BTreeMap<TraceId, BTreeMap<SpanId, Arc<str>>>,
    is_failing: bool,
    has_ended: bool,
    reads: usize,
    offered: usize,
    /// What the aggregator holds durably.
    counted: BTreeSet<(TraceId, SpanId)>,
    edges: Vec<String>,
}

impl Cell {
    fn hold(&self, in_trace: u8, id: u8, service: &str) {
        let mut state = self.state.lock().unwrap();
        state.spans.entry(trace(in_trace)).or_default().insert(span(id), service.into());
    }

    fn change(&self, change: impl FnOnce(&mut CellState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn see<T>(&self, see: impl FnOnce(&CellState) -> T) -> T {
        see(&self.state.lock().unwrap())
    }

    fn edges(&self) -> Vec<String> {
        self.see(|state| state.edges.clone())
    }
}

#[async_trait]
impl OwnTraces for Cell {
    async fn versions(
        &self,
        traces: &[(TenantId, TraceId)],
    ) -> Result<Vec<Option<u64>>, LookupError> {
        let state = self.state.lock().unwrap();
        let version =
            |(_, id): &(TenantId, TraceId)| state.spans.get(id).map(|held| held.len() as u64);
        Ok(traces.iter().map(version).collect())
    }
}

#[async_trait]
impl ParentLookup for Cell {
    async fn parents_of(
        &self,
        _tenant: &TenantId,
        trace_id: TraceId,
        spans: &[SpanId],
    ) -> Result<BTreeMap<SpanId, ParentSpan>, LookupError> {
        let mut state = self.state.lock().unwrap();
        state.reads += 1;
        if state.is_failing {
            return Err(LookupError("the disk is away".to_owned()));
        }
        let mut held = state.spans.get(&trace_id).cloned().unwrap_or_default();
        held.retain(|id, _| spans.contains(id));
        let parent = |service| ParentSpan { service, start: START, end: START.plus(100_000_000) };
        Ok(held.into_iter().map(|(id, service)| (id, parent(service))).collect())
    }
}

#[async_trait]
impl CallCounter for Cell {
    async fn count(&self, join: EntryJoin) -> Result<JoinOutcome, AggregatorEnded> {
        let mut state = self.state.lock().unwrap();
        if state.has_ended {
            return Err(AggregatorEnded);
        }
        state.offered += 1;
        if !state.counted.insert((join.trace_id, join.entry.span_id)) {
            return Ok(JoinOutcome::AlreadyCounted);
        }
        state.edges.push(format!("{}→{}", join.parent_service, join.entry.service));
        Ok(JoinOutcome::Counted)
    }
}

/// A joiner over the cell, driven by hand.
struct Bench {
    cell: Arc<Cell>,
    clock: Arc<ManualClock>,
    metrics: BorderMetrics,
    directory: tempfile::TempDir,
    joiner: OriginJoiner,
}

fn parts(bench: (&Arc<Cell>, &Arc<ManualClock>, &BorderMetrics), directory: &Path) -> BorderParts {
    let (cell, clock, metrics) = bench;
    let region = Region::new("eu-west-1").unwrap();
    BorderParts {
        config: BorderConfig { waiting_max: 3, ..BorderConfig::new(region, directory.into()) },
        own: Arc::clone(cell) as _,
        parents: Arc::clone(cell) as _,
        calls: Arc::clone(cell) as _,
        clock: Arc::clone(clock) as _,
        metrics: metrics.clone(),
    }
}

impl Bench {
    fn new() -> Self {
        let cell = Arc::new(Cell::default());
        let clock = Arc::new(ManualClock::at(START));
        let metrics = BorderMetrics::default();
        let directory = tempfile::tempdir().unwrap();
        let parts = parts((&cell, &clock, &metrics), directory.path());
        let file = CursorFile::new(directory.path(), &us());
        let joiner = OriginJoiner::new(us(), file, parts);
        Self { cell, clock, metrics, directory, joiner }
    }

    fn restart(&mut self) {
        self.metrics = BorderMetrics::default();
        let parts = parts((&self.cell, &self.clock, &self.metrics), self.directory.path());
        self.joiner = OriginJoiner::new(us(), self.file(), parts);
    }

    fn file(&self) -> CursorFile {
        CursorFile::new(self.directory.path(), &us())
    }

    fn saved(&self) -> Option<Cursor> {
        self.file().read().unwrap()
    }

    /// A contribution of the other region: trace, then (span, parent) of each entry.
    fn row(&self, of: u8, entries: &[(u8, u8)]) -> Contribution {
        let now = self.clock.now();
        let entry = |(id, parent): &(u8, u8)| EntrySpan {
            span_id: span(*id),
            parent_span_id: span(*parent),
            service: "cart".into(),
            start: now.minus(1_000_000),
            duration_nanos: 1_000_000,
            is_error: false,
        };
        Contribution {
            version: entries.len() as u64,
            tenant: TenantId::default(),
            trace_id: trace(of),
            writer: WriterId { region: us(), incarnation: 1, partition: 0 },
            last_append: now,
            keep: Keep::Keep,
            is_erased: false,
            detail: Some(Detail {
                entries: entries.iter().map(entry).collect(),
                ..Detail::default()
            }),
        }
    }

    /// Looks until nothing is due, waits for the aggregator, writes the cursor if it is due.
    async fn settle(&mut self) {
        self.joiner.look().await;
        self.joiner.close_all().await;
        self.joiner.save_if_due().await;
    }

    async fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            self.settle().await;
        }
    }
}

#[tokio::test]
async fn a_call_whose_parent_is_here_is_counted_once_however_often_it_is_named() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(1)));
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(2)));
    bench.settle().await;
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(3)));
    bench.pass(Duration::from_secs(2)).await;
    assert_eq!(bench.cell.edges(), ["web→cart"]);
    assert_eq!(bench.cell.see(|state| state.offered), 1);
    assert_eq!(bench.saved(), Some(cursor(3)));
    assert_eq!((bench.metrics.joined.get(), bench.metrics.pending.get()), (1, 0));
}

#[tokio::test]
async fn a_parent_that_comes_later_is_found_and_only_then_does_the_cursor_pass() {
    let mut bench = Bench::new();
    bench.joiner.take((vec![], cursor(4)));
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(5)));
    bench.joiner.take((vec![], cursor(6)));
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(bench.saved(), Some(cursor(4)), "not past what waits");
    assert_eq!(bench.cell.edges(), [""; 0]);
    bench.cell.hold(1, 9, "web");
    bench.pass(Duration::from_secs(31)).await;
    assert_eq!(bench.cell.edges(), ["web→cart"]);
    bench.pass(Duration::from_secs(30)).await;
    assert_eq!(bench.saved(), Some(cursor(6)));
}

#[tokio::test]
async fn after_a_restart_what_was_not_settled_comes_again_and_nothing_is_counted_twice() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    let deliveries = [
        (vec![bench.row(1, &[(2, 9)])], cursor(1)),
        (vec![bench.row(2, &[(3, 8)])], cursor(2)),
        (vec![bench.row(1, &[(4, 9)])], cursor(3)),
    ];
    for delivery in deliveries.clone() {
        bench.joiner.take(delivery);
    }
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.cell.edges(), ["web→cart", "web→cart"]);
    let from = bench.saved();
    assert_eq!(from, Some(cursor(1)), "the second waits for its parent");

    bench.restart();
    bench.cell.hold(2, 8, "checkout");
    for delivery in deliveries.into_iter().filter(|(_, next)| Some(*next) > from) {
        bench.joiner.take(delivery);
    }
    bench.pass(Duration::from_secs(2)).await;
    assert_eq!(bench.cell.edges(), ["web→cart", "web→cart", "checkout→cart"]);
    assert_eq!((bench.metrics.joined.get(), bench.metrics.repeated.get()), (1, 1));
    assert_eq!(bench.saved(), Some(cursor(3)));
}

#[tokio::test]
async fn a_trace_that_is_not_held_here_is_never_read_and_given_up_in_the_end() {
    let mut bench = Bench::new();
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(1)));
    bench.pass(Duration::from_secs(119)).await;
    assert_eq!(bench.metrics.pending.get(), 1);
    bench.pass(Duration::from_secs(3)).await;
    assert_eq!((bench.metrics.pending.get(), bench.metrics.dropped.get()), (0, 1));
    assert_eq!(bench.cell.see(|state| state.reads), 0);
    assert_eq!(bench.saved(), Some(cursor(1)));
}

#[tokio::test]
async fn a_trace_whose_parent_is_in_a_third_region_is_read_again_only_when_it_has_grown() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 7, "web");
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(1)));
    bench.pass(Duration::from_secs(60)).await;
    assert_eq!(bench.cell.see(|state| state.reads), 1);
    bench.cell.hold(1, 6, "web");
    bench.pass(Duration::from_secs(70)).await;
    assert_eq!(bench.cell.see(|state| state.reads), 2);
    assert_eq!((bench.cell.edges().len(), bench.metrics.dropped.get()), (0, 1));
}

#[tokio::test]
async fn a_look_that_fails_is_made_again_and_gives_nothing_up() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    bench.cell.change(|state| state.is_failing = true);
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(1)));
    bench.pass(Duration::from_secs(300)).await;
    assert_eq!((bench.metrics.dropped.get(), bench.saved()), (0, None));
    assert!(bench.metrics.failed_looks.get() > 100);
    bench.cell.change(|state| state.is_failing = false);
    bench.pass(Duration::from_secs(2)).await;
    assert_eq!(bench.cell.edges(), ["web→cart"]);
}

#[tokio::test]
async fn what_waits_is_bounded_the_stream_waits_and_late_deliveries_are_decided_soon() {
    let mut bench = Bench::new();
    let written_then = bench.row(2, &[(5, 9)]);
    assert!(bench.joiner.has_room());
    bench.joiner.take((vec![bench.row(1, &[(2, 9), (3, 9), (4, 9)])], cursor(1)));
    assert!(!bench.joiner.has_room(), "three of three");
    bench.pass(Duration::from_secs(121)).await;
    assert!(bench.joiner.has_room());
    bench.joiner.take((vec![written_then], cursor(2)));
    bench.pass(Duration::from_secs(11)).await;
    assert_eq!((bench.metrics.dropped.get(), bench.metrics.pending.get()), (4, 0));
}

#[tokio::test]
async fn what_could_have_been_counted_before_the_aggregators_window_is_not_offered() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    let old = bench.row(1, &[(2, 9)]);
    bench.clock.advance(Duration::from_secs(50 * 60 + 1));
    // A trace that grew for long: a new row, an old call.
    let grown = Contribution { last_append: bench.clock.now(), ..old.clone() };
    bench.joiner.take((vec![old], cursor(1)));
    bench.joiner.take((vec![grown], cursor(2)));
    bench.settle().await;
    assert_eq!((bench.cell.see(|state| state.offered), bench.metrics.late.get()), (0, 2));
    assert_eq!(bench.saved(), Some(cursor(2)));
}

#[tokio::test]
async fn erased_and_sampled_out_contributions_and_bare_routes_join_nothing() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    let row = bench.row(1, &[(2, 9)]);
    let rows = vec![
        Contribution { is_erased: true, ..row.clone() },
        Contribution { keep: Keep::SampledOut, ..row.clone() },
        Contribution { detail: None, ..row },
    ];
    bench.joiner.take((rows, cursor(1)));
    bench.pass(Duration::from_secs(2)).await;
    assert_eq!((bench.cell.see(|state| state.offered), bench.saved()), (0, Some(cursor(1))));
}

#[tokio::test]
async fn without_the_aggregator_nothing_is_settled_and_a_new_one_is_offered_it_again() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    bench.cell.change(|state| state.has_ended = true);
    bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(1)));
    bench.pass(Duration::from_secs(60)).await;
    assert_eq!((bench.saved(), bench.metrics.pending.get()), (None, 1));
    assert!(bench.metrics.skew.samples(&us()).is_empty());
    bench.cell.change(|state| state.has_ended = false);
    bench.pass(Duration::from_secs(32)).await;
    assert_eq!(bench.cell.edges(), ["web→cart"]);
    assert_eq!((bench.saved(), bench.metrics.pending.get()), (Some(cursor(1)), 0));
}

#[tokio::test]
async fn a_call_that_is_counted_is_one_sample_of_skew_however_often_it_is_named() {
    let mut bench = Bench::new();
    bench.cell.hold(1, 9, "web");
    for number in 1..4 {
        bench.joiner.take((vec![bench.row(1, &[(2, 9)])], cursor(number)));
        bench.pass(Duration::from_secs(2)).await;
    }
    let samples = bench.metrics.skew.samples(&us());
    assert_eq!(samples.len(), 1);
    assert_eq!((samples[0].parent_start, samples[0].parent_end), (START, START.plus(100_000_000)));
    assert_eq!(samples[0].child_start, START.minus(1_000_000));
    assert_eq!(samples[0].child_end, START);
}

#[tokio::test]
async fn a_running_joiner_takes_counts_and_writes_its_cursor_when_it_ends() {
    let Bench { cell, directory, joiner, .. } = {
        let bench = Bench::new();
        bench.cell.hold(1, 9, "web");
        bench
    };
    let row = Bench::new().row(1, &[(2, 9)]);
    let (sender, deliveries) = mpsc::channel(1);
    let token = CancellationToken::new();
    let running = joiner.run(deliveries, token.clone());
    let driving = async {
        sender.send((vec![row], cursor(1))).await.unwrap();
        let counted = async {
            while cell.edges().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), counted).await.unwrap();
        token.cancel();
    };
    tokio::join!(running, driving);
    let file = CursorFile::new(directory.path(), &us());
    assert_eq!(cell.edges(), ["web→cart"]);
    assert_eq!(file.read().unwrap(), Some(cursor(1)));
}

#[tokio::test]
async fn own_rows_tell_which_traces_are_held_and_grow_with_them() {
    let region = Region::new("eu-west-1").unwrap();
    let records = Arc::new(MemoryRecords::new(region.clone()));
    let clock = Arc::new(ManualClock::at(START));
    let log = Arc::new(MemoryOriginLog::open(records, clock, Entropy::seeded(1)));
    let mut held = Bench::new().row(1, &[]);
    held.writer = WriterId { region, incarnation: 5, partition: 3 };
    let erased = Contribution { is_erased: true, trace_id: trace(2), ..held.clone() };
    let older = WriterId { incarnation: 4, ..held.writer.clone() };
    let older = Contribution { writer: older, trace_id: trace(3), ..held.clone() };
    log.append(&[held.clone(), erased, older], None).await.unwrap();
    let own = OwnRows::new(Arc::clone(&log) as _, LogIdentity { incarnation: 5, partitions: 4 });
    let asked: Vec<_> = (0..4).map(|id| (TenantId::default(), trace(id + 1))).collect();
    assert_eq!(own.versions(&asked).await.unwrap(), [Some(0), None, None, None]);
    log.append(&[Contribution { version: 8, ..held.clone() }], None).await.unwrap();
    assert_eq!(own.versions(&asked).await.unwrap(), [Some(8), None, None, None]);
    // Another partition's part of the trace grows at offsets of its own.
    let writer = WriterId { partition: 1, ..held.writer.clone() };
    log.append(&[Contribution { version: 2, writer, ..held }], None).await.unwrap();
    assert_eq!(own.versions(&asked).await.unwrap(), [Some(10), None, None, None]);
}
