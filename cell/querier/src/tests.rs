//! The service over fake ports: order of reads, policy, limits, deadlines.

mod long_traces;
mod pages;
mod slow_readers;
mod store_away;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use prometheus_client::registry::Registry;
use proto::convert::query::{id_bytes, unpack_frame};
use proto::v1;
use proto::v1::cell_query_server::CellQuery;
use proto::wire::put_bytes_field;
use service_kit::ManualClock;
use tonic::{Code, Request};
use trace_model::locality::SpanMode;
use trace_model::merge::{Envelope, content_hash};
use trace_model::query::SearchStats;
use trace_model::{
    Coverage, Region, ScopeContext, SearchQuery, SpanId, SpanKey, SpanKind, StatusCode, StoredSpan,
    TenantId, TimeRange, TraceId, UnixNanos,
};
use trace_store::port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, EdgeTraces, MetricsDelta, MetricsStore, NameList, Operation,
    RedKey, RedQuery, RedRow, RestOfTrace, SearchAnswer, ServiceCatalog, StoreError, StoreFigures,
    TracePieces, TraceRead, TraceReader, TraceSearch,
};

use crate::{
    CellStatus, GroupLag, LiveTail, LogEnd, LogStatus, Lost, PortError, Querier, QuerierConfig,
    QuerierPorts, TailRead,
};

/// A cell whose storage-writer moves one record from tail to store whenever it is told to, or
/// between the two reads of a question.
#[derive(Debug, Default)]
struct Cell {
    /// How long the store alone takes to answer.
    store_delay_millis: AtomicU64,
    store_reads: AtomicUsize,
    /// Spans in a piece of a trace; 0: a trace is not given in pieces.
    piece_spans: AtomicUsize,
    /// The piece at which the store fails, and how.
    breaks: Mutex<Option<(usize, StoreError)>>,
    /// Spans of the only partition, one a record.
    records: Mutex<Vec<StoredSpan>>,
    committed: AtomicU64,
    commits_between_reads: AtomicU64,
    delay_millis: AtomicU64,
    reads: AtomicUsize,
    failing_with: Mutex<Option<StoreError>>,
    log_end: AtomicU64,
    is_log_closed: AtomicBool,
    is_uncounted: AtomicBool,
    /// A part of the store does not answer.
    is_partly_away: AtomicBool,
    is_cut: AtomicBool,
    /// The search index has no damaged file.
    has_whole_index: AtomicBool,
    /// It has counts of services that have none of their own.
    counts_others: AtomicBool,
    expired_until: Mutex<Option<UnixNanos>>,
    lost: Mutex<Lost>,
    /// Of the tenant `default`.
    buried: Mutex<Vec<TimeRange>>,
}

fn cover(next: u64) -> Coverage {
    let mut cover = Coverage::none(3);
    cover.extend(0, next);
    cover
}

impl Cell {
    fn split(&self) -> (Vec<StoredSpan>, Vec<StoredSpan>, u64, u64) {
        let records = self.records.lock().unwrap();
        let committed = self.committed.load(Ordering::SeqCst);
        let (stored, tail) = records.split_at(usize::try_from(committed).unwrap());
        (stored.to_vec(), tail.to_vec(), committed, records.len() as u64)
    }

    async fn touch(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let millis = self.delay_millis.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

#[async_trait]
impl LiveTail for Cell {
    async fn read_tail(&self, _: &TenantId, _: TraceId) -> Result<TailRead, PortError> {
        self.touch().await;
        let (_, spans, committed, end) = self.split();
        let moved = self.commits_between_reads.load(Ordering::SeqCst);
        self.committed.store((committed + moved).min(end), Ordering::SeqCst);
        Ok(TailRead {
            spans,
            from: cover(committed),
            covered: cover(end),
            is_damaged: false,
            away: Vec::new(),
        })
    }

    fn lost(&self) -> Lost {
        self.lost.lock().unwrap().clone()
    }

    fn buried(&self, tenant: &TenantId) -> Vec<TimeRange> {
        if tenant.as_str() == "default" { self.buried.lock().unwrap().clone() } else { Vec::new() }
    }
}

#[derive(Debug)]
struct Pieces(std::vec::IntoIter<Result<TraceRead, StoreError>>);

#[async_trait]
impl RestOfTrace for Pieces {
    async fn next_piece(&mut self) -> Result<Option<TraceRead>, StoreError> {
        self.0.next().transpose()
    }
}

#[async_trait]
impl TraceReader for Cell {
    async fn read_trace(&self, _: &TenantId, _: TraceId) -> Result<TraceRead, StoreError> {
        self.touch().await;
        self.store_reads.fetch_add(1, Ordering::SeqCst);
        let millis = self.store_delay_millis.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if let Some(error) = self.failing_with.lock().unwrap().clone() {
            return Err(error);
        }
        let (spans, _, committed, _) = self.split();
        let expired_until = *self.expired_until.lock().unwrap();
        let (is_damaged, is_away) = (false, self.is_partly_away.load(Ordering::SeqCst));
        Ok(TraceRead { spans, covered: cover(committed), is_damaged, is_away, expired_until })
    }

    async fn read_pieces(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TracePieces, StoreError> {
        let whole = self.read_trace(tenant, trace_id).await?;
        let size = self.piece_spans.load(Ordering::SeqCst);
        if size == 0 {
            return Ok(TracePieces { first: whole, rest: None });
        }
        let piece = |spans: &[StoredSpan]| TraceRead { spans: spans.to_vec(), ..whole.clone() };
        let mut pieces: Vec<_> = whole.spans.chunks(size).map(piece).map(Ok).collect();
        if let Some((at, error)) = self.breaks.lock().unwrap().clone() {
            pieces[at] = Err(error);
        }
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap()?;
        Ok(TracePieces { first, rest: Some(Box::new(Pieces(pieces))) })
    }

    fn figures(&self) -> StoreFigures {
        StoreFigures { spans: 7, bytes: 8, segments: 1 }
    }

    /// What was placed at 500 or later is all there.
    fn expired_within(&self, range: TimeRange, expired_until: UnixNanos) -> Option<UnixNanos> {
        (range.start < UnixNanos(500)).then_some(expired_until)
    }
}

#[async_trait]
impl TraceSearch for Cell {
    async fn search(&self, _: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        self.touch().await;
        let is_away = self.is_partly_away.load(Ordering::SeqCst);
        Ok(SearchAnswer {
            matches: Vec::new(),
            stats: SearchStats { spans_scanned: 9, ..SearchStats::default() },
            covered: cover(4),
            is_damaged: !is_away && !self.has_whole_index.load(Ordering::SeqCst),
            is_away,
            expired_until: *self.expired_until.lock().unwrap(),
        })
    }
}

#[async_trait]
impl ServiceCatalog for Cell {
    async fn services(&self, _: &TenantId, _: TimeRange) -> Result<NameList<Arc<str>>, StoreError> {
        self.touch().await;
        let names = vec!["web".into()];
        Ok(NameList { names, is_cut: self.is_cut.load(Ordering::SeqCst) })
    }

    async fn operations(
        &self,
        _: &TenantId,
        _: &str,
        _: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.touch().await;
        Ok(NameList { names: Vec::new(), is_cut: self.is_cut.load(Ordering::SeqCst) })
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        Ok(cover(4))
    }
}

#[async_trait]
impl MetricsStore for Cell {
    async fn apply(&self, _: MetricsDelta) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("read only".to_owned()))
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        Err(StoreError::Unsupported("read only".to_owned()))
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        if self.is_uncounted.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("cannot say".to_owned()));
        }
        Ok(cover(4))
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        self.touch().await;
        let is_asked = query.service.as_deref().is_none_or(|service| service == "__other__");
        let is_in = query.range.overlaps(UnixNanos(0), UnixNanos(0));
        if !is_asked || !is_in || !self.counts_others.load(Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        let key = RedKey {
            tenant: query.tenant.clone(),
            service: "__other__".into(),
            operation: None,
            kind: SpanKind::Server,
            status: StatusCode::Unset,
            minute: UnixNanos(0),
        };
        Ok(vec![(key, RedRow::default())])
    }

    async fn edges(
        &self,
        _: &TenantId,
        _: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        self.touch().await;
        Ok(Vec::new())
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        self.touch().await;
        let is_of_others =
            [&query.caller, &query.callee].iter().any(|name| ***name == *"__other__");
        if is_of_others && !self.counts_others.load(Ordering::SeqCst) {
            return Ok(EdgeTraces::default());
        }
        Ok(EdgeTraces { trace_ids: vec![id(5)], is_cut: self.is_cut.load(Ordering::SeqCst) })
    }
}

#[async_trait]
impl CellStatus for Cell {
    async fn log_status(&self) -> Result<LogStatus, PortError> {
        let lag = GroupLag {
            group: "storage-writer".into(),
            records: 2,
            age_millis: 3,
            dead_letters: 4,
            failing_millis: 5,
        };
        Ok(LogStatus { log_end: cover(6), groups: vec![lag], ..LogStatus::default() })
    }

    async fn log_end(&self) -> Result<LogEnd, PortError> {
        if self.is_log_closed.load(Ordering::SeqCst) {
            return Err(PortError("closed".to_owned()));
        }
        let next = cover(self.log_end.load(Ordering::SeqCst));
        Ok(LogEnd { next, appended_until: UnixNanos(900) })
    }

    async fn appended_until(&self, covered: &Coverage) -> Result<UnixNanos, PortError> {
        assert_eq!(*covered, cover(4));
        Ok(UnixNanos(400))
    }
}

fn id(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

fn span(number: u8) -> StoredSpan {
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, 1, &[5; 16]);
    put_bytes_field(&mut bytes, 2, &[number; 8]);
    let span = Bytes::from(bytes);
    StoredSpan {
        key: SpanKey {
            span_id: SpanId::from_bytes([number; 8]).unwrap(),
            kind: 0,
            content: content_hash(b"", b"", &span),
        },
        span,
        context: Arc::new(ScopeContext {
            resource: Bytes::new(),
            scope: Bytes::new(),
            service: "web".into(),
        }),
        envelope: Arc::new(Envelope {
            receive_time: UnixNanos(1),
            region: Region::new("eu").unwrap(),
            collector: "c".into(),
        }),
    }
}

fn querier_with(adjust: impl FnOnce(&mut QuerierConfig)) -> (Querier, Arc<Cell>) {
    let cell = Arc::new(Cell::default());
    *cell.records.lock().unwrap() = (1..=4).map(span).collect();
    let ports = QuerierPorts {
        traces: Arc::clone(&cell) as Arc<dyn TraceReader>,
        search: Arc::clone(&cell) as Arc<dyn TraceSearch>,
        catalog: Arc::clone(&cell) as Arc<dyn ServiceCatalog>,
        metrics: Arc::clone(&cell) as Arc<dyn MetricsStore>,
        tail: Arc::clone(&cell) as Arc<dyn LiveTail>,
        status: Arc::clone(&cell) as Arc<dyn CellStatus>,
        clock: Arc::new(ManualClock::at(UnixNanos(99))),
    };
    let mut config = QuerierConfig::new(Region::new("eu").unwrap());
    adjust(&mut config);
    (Querier::new(config, ports, &mut Registry::default()), cell)
}

fn caller(region: &str) -> Option<v1::Caller> {
    Some(v1::Caller {
        tenant: "default".to_owned(),
        region: region.to_owned(),
        ..v1::Caller::default()
    })
}

fn ask(region: &str, is_miss_round: bool) -> Request<v1::FindTraceRequest> {
    let (caller, trace_id) = (caller(region), id_bytes(id(5)));
    Request::new(v1::FindTraceRequest {
        caller,
        trace_id,
        is_miss_round,
        ..v1::FindTraceRequest::default()
    })
}

async fn find(querier: &Querier, region: &str) -> (Vec<StoredSpan>, v1::FindTraceSummary) {
    let frames = querier.find_trace(ask(region, false)).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    let mut spans = Vec::new();
    let mut summary = None;
    for frame in frames {
        assert!(summary.is_none(), "a frame behind the summary");
        summary.clone_from(&frame.summary);
        spans.extend(unpack_frame(frame, id(5)).unwrap());
    }
    (spans, summary.unwrap())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_missed_when_storage_writer_commits_between_the_reads() {
    for committed in 0..=4 {
        for moved in 0..=4 {
            let (querier, cell) = querier_with(|_| {});
            cell.committed.store(committed, Ordering::SeqCst);
            cell.commits_between_reads.store(moved, Ordering::SeqCst);
            let (spans, summary) = find(&querier, "us").await;
            assert_eq!(spans.len(), 4, "{committed} {moved}");
            assert_eq!(summary.span_count, 4);
            assert_eq!(Coverage::from(summary.coverage.unwrap()), cover(4));
            assert_eq!(summary.region, "eu");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_lost_about_when_a_trace_came_in_make_its_answer_damaged_and_no_others() {
    const DAY: u64 = 24 * 3_600_000_000_000;
    let (querier, cell) = querier_with(|_| {});
    let received = span(1).envelope.receive_time;
    let lost_at = |time: UnixNanos| {
        let runs = vec![TimeRange { start: time, end: time.plus(1) }];
        *cell.lost.lock().unwrap() = Lost { runs, ..Lost::default() };
    };
    lost_at(received.plus(DAY));
    assert!(find(&querier, "us").await.1.is_damaged);
    lost_at(received.plus(DAY + 1));
    assert!(!find(&querier, "us").await.1.is_damaged);
    cell.records.lock().unwrap().clear();
    assert!(find(&querier, "us").await.1.is_damaged, "all of an unknown trace may be lost");
    *cell.lost.lock().unwrap() = Lost { expired_until: Some(UnixNanos(55)), ..Lost::default() };
    let summary = find(&querier, "us").await.1;
    assert_eq!((summary.is_damaged, summary.expired_until_unix_nano), (false, 55));
    *cell.expired_until.lock().unwrap() = Some(UnixNanos(77));
    assert_eq!(find(&querier, "us").await.1.expired_until_unix_nano, 77);
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_up_to_when_retention_has_removed_spans() {
    let (querier, cell) = querier_with(|_| {});
    assert_eq!(find(&querier, "us").await.1.expired_until_unix_nano, 0);
    *cell.expired_until.lock().unwrap() = Some(UnixNanos(77));
    assert_eq!(find(&querier, "us").await.1.expired_until_unix_nano, 77);
}

async fn search(querier: &Querier) -> v1::SearchTracesResponse {
    search_in(querier, TimeRange::ALL.into()).await
}

async fn search_in(querier: &Querier, range: v1::TimeRange) -> v1::SearchTracesResponse {
    let search = v1::SearchTracesRequest {
        caller: caller("us"),
        range: Some(range),
        limit: 5,
        ..v1::SearchTracesRequest::default()
    };
    querier.search_traces(Request::new(search)).await.unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn a_search_says_up_to_which_append_time_everything_was_searched() {
    let (querier, cell) = querier_with(|_| {});
    // The stores have taken in four records of the log.
    for (log_end, until) in [(0, 900), (4, 900), (5, 400), (6_000, 400)] {
        cell.log_end.store(log_end, Ordering::SeqCst);
        let found = search(&querier).await;
        assert_eq!(found.searched_until_unix_nano, until, "{log_end}");
        assert_eq!(Coverage::from(found.coverage.unwrap()), cover(4));
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_whose_log_does_not_answer_says_no_time_and_answers() {
    let (querier, cell) = querier_with(|_| {});
    cell.is_log_closed.store(true, Ordering::SeqCst);
    let found = search(&querier).await;
    assert_eq!((found.outcome(), found.searched_until_unix_nano), (v1::CellOutcome::Answered, 0));
}

/// How far each list and count says that it reaches.
async fn reaches(querier: &Querier, region: &str) -> [Option<v1::Reach>; 5] {
    let (caller, range) = (caller(region), Some(TimeRange::ALL.into()));
    let services = v1::ListServicesRequest { caller: caller.clone(), range };
    let operations =
        v1::ListOperationsRequest { caller: caller.clone(), range, ..Default::default() };
    let edges = v1::ListEdgesRequest { caller: caller.clone(), range, ..Default::default() };
    let red = v1::QueryRedRequest { caller: caller.clone(), range, ..Default::default() };
    let traces = v1::FindEdgeTracesRequest { caller, range, limit: 5, ..Default::default() };
    [
        querier.list_services(Request::new(services)).await.unwrap().into_inner().reach,
        querier.list_operations(Request::new(operations)).await.unwrap().into_inner().reach,
        querier.list_edges(Request::new(edges)).await.unwrap().into_inner().reach,
        querier.query_red(Request::new(red)).await.unwrap().into_inner().reach,
        querier.find_edge_traces(Request::new(traces)).await.unwrap().into_inner().reach,
    ]
}

#[tokio::test(start_paused = true)]
async fn every_list_and_count_says_how_far_it_reaches_and_up_to_when() {
    let (querier, cell) = querier_with(|_| {});
    // Four records of the log are listed and counted.
    for (log_end, until) in [(4, 900), (5, 400), (6_000, 400)] {
        cell.log_end.store(log_end, Ordering::SeqCst);
        for reach in reaches(&querier, "us").await {
            let reach = reach.unwrap();
            assert_eq!(reach.until_unix_nano, until, "{log_end}");
            assert_eq!(Coverage::from(reach.coverage.unwrap()), cover(4));
        }
    }
    cell.is_log_closed.store(true, Ordering::SeqCst);
    for reach in reaches(&querier, "us").await {
        assert_eq!(reach.unwrap().until_unix_nano, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_says_so_beside_how_far_it_reaches() {
    let (querier, cell) = querier_with(|_| {});
    let cut = async || reaches(&querier, "us").await.map(|reach| reach.unwrap().is_cut);
    assert_eq!(cut().await, [false; 5]);
    cell.is_cut.store(true, Ordering::SeqCst);
    assert_eq!(cut().await, [true, true, false, false, true]);
    let reach = reaches(&querier, "us").await[0].clone().unwrap();
    assert_eq!(Coverage::from(reach.coverage.unwrap()), cover(4));
}

#[tokio::test(start_paused = true)]
async fn what_a_group_missed_is_said_by_the_answers_made_of_its_work_and_by_no_others() {
    const HOUR: u64 = 3_600_000_000_000;
    let (querier, cell) = querier_with(|_| {});
    cell.has_whole_index.store(true, Ordering::SeqCst);
    let run = |hour: u64| vec![TimeRange { start: UnixNanos(hour * HOUR), end: UnixNanos::MAX }];
    let missed_by = async || reaches(&querier, "us").await.map(|reach| reach.unwrap().missed_by);
    let found = search(&querier).await;
    assert_eq!((found.missed_by.as_str(), found.is_damaged), ("", false));
    assert_eq!(missed_by().await, [""; 5]);
    *cell.lost.lock().unwrap() = Lost { unindexed: run(100), ..Lost::default() };
    let found = search(&querier).await;
    // Who does not know the new field takes the answer for a damaged one, or one that is cut.
    assert_eq!((found.missed_by.as_str(), found.is_damaged), ("search-indexer", true));
    assert!(!found.lacks_store && found.coverage.is_some());
    assert_eq!(missed_by().await, ["search-indexer", "search-indexer", "", "", ""]);
    let cut = reaches(&querier, "us").await.map(|reach| reach.unwrap().is_cut);
    assert_eq!(cut, [true, true, false, false, false]);
    *cell.lost.lock().unwrap() = Lost { uncounted: run(100), ..Lost::default() };
    assert_eq!(search(&querier).await.missed_by, "");
    let counted = "metrics-aggregator";
    assert_eq!(missed_by().await, ["", "", counted, counted, counted]);
    // By id all of it is there.
    let (spans, summary) = find(&querier, "us").await;
    assert_eq!((spans.len(), summary.is_damaged, summary.expired_until_unix_nano), (4, false, 0));
    // What nobody has is in no list and no count either; a search says so in a word of its own.
    *cell.lost.lock().unwrap() = Lost { runs: run(100), unread: run(100), ..Lost::default() };
    assert_eq!(search(&querier).await.missed_by, "");
    let indexed = "search-indexer";
    assert_eq!(missed_by().await, [indexed, indexed, counted, counted, counted]);
}

#[tokio::test(start_paused = true)]
async fn lists_lack_what_storage_writer_set_aside_and_counts_do_not() {
    let (querier, cell) = querier_with(|_| {});
    let set_aside = vec![TimeRange { start: UnixNanos(400), end: UnixNanos(500) }];
    for (runs, buried) in [(set_aside.clone(), Vec::new()), (Vec::new(), set_aside)] {
        *cell.lost.lock().unwrap() = Lost { runs, ..Lost::default() };
        *cell.buried.lock().unwrap() = buried;
        let reaches = reaches(&querier, "us").await.map(Option::unwrap);
        let missed_by = reaches.each_ref().map(|reach| reach.missed_by.as_str());
        assert_eq!(missed_by, ["search-indexer", "search-indexer", "", "", ""]);
        assert_eq!(reaches.map(|reach| reach.is_cut), [true, true, false, false, false]);
    }
    // What lies in a letter is known to be of one tenant.
    let caller = Some(v1::Caller { tenant: "other".to_owned(), ..caller("us").unwrap() });
    let services = v1::ListServicesRequest { caller, range: Some(TimeRange::ALL.into()) };
    let listed = querier.list_services(Request::new(services)).await.unwrap().into_inner();
    let reach = listed.reach.unwrap();
    assert_eq!((reach.missed_by.as_str(), reach.is_cut), ("", false));
}

#[tokio::test(start_paused = true)]
async fn a_search_of_other_times_than_those_that_were_missed_is_whole() {
    const HOUR: u64 = 3_600_000_000_000;
    let (querier, cell) = querier_with(|_| {});
    cell.has_whole_index.store(true, Ordering::SeqCst);
    let unindexed = vec![TimeRange { start: UnixNanos(100 * HOUR), end: UnixNanos(101 * HOUR) }];
    *cell.lost.lock().unwrap() = Lost { unindexed, ..Lost::default() };
    for (first, last, is_short) in
        [(90, 110, true), (124, 126, true), (126, 130, false), (10, 75, false), (10, 77, true)]
    {
        let (start, end) = (first * HOUR, last * HOUR);
        let range = v1::TimeRange { start_unix_nano: start, end_unix_nano: end };
        let found = search_in(&querier, range).await;
        assert_eq!(!found.missed_by.is_empty(), is_short, "{first}..{last}");
        assert_eq!(found.is_damaged, is_short, "{first}..{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn traces_of_a_call_are_cut_where_it_may_be_counted_among_others() {
    let (querier, cell) = querier_with(|_| {});
    let cut = async |edge_caller: &str, edge_callee: &str| {
        let request = v1::FindEdgeTracesRequest {
            caller: caller("us"),
            range: Some(TimeRange::ALL.into()),
            edge_caller: edge_caller.to_owned(),
            edge_callee: edge_callee.to_owned(),
            limit: 5,
            ..Default::default()
        };
        let answer = querier.find_edge_traces(Request::new(request)).await.unwrap().into_inner();
        answer.reach.unwrap().is_cut
    };
    assert!(!cut("web", "cart").await);
    cell.counts_others.store(true, Ordering::SeqCst);
    assert!(cut("web", "cart").await && cut("web", "__other__").await);
}

#[tokio::test(start_paused = true)]
async fn counts_of_a_service_are_cut_where_it_may_be_counted_among_others() {
    let (querier, cell) = querier_with(|_| {});
    let cut = async |service: &str| {
        let (caller, range) = (caller("us"), Some(TimeRange::ALL.into()));
        let service = service.to_owned();
        let red = v1::QueryRedRequest { caller, range, service, ..Default::default() };
        querier.query_red(Request::new(red)).await.unwrap().into_inner().reach.unwrap().is_cut
    };
    assert!(!cut("web").await);
    cell.counts_others.store(true, Ordering::SeqCst);
    assert!(cut("web").await && cut("").await);
    assert!(!cut("__other__").await);
    cell.is_uncounted.store(true, Ordering::SeqCst);
    assert!(cut("web").await, "also where nobody knows how far the counts reach");
}

#[tokio::test(start_paused = true)]
async fn edges_are_cut_where_their_buckets_have_counts_among_others() {
    let (querier, cell) = querier_with(|_| {});
    let minute = 60_000_000_000;
    let cut = async |minutes: std::ops::Range<u64>| {
        let (start, end) = (minutes.start * minute, minutes.end * minute);
        let range = v1::TimeRange { start_unix_nano: start, end_unix_nano: end };
        let (caller, range) = (caller("us"), Some(range));
        let edges = v1::ListEdgesRequest { caller, range, ..Default::default() };
        querier.list_edges(Request::new(edges)).await.unwrap().into_inner().reach.unwrap().is_cut
    };
    assert!(!cut(0..1).await);
    // What is counted among others lies in minute 0, and so in the bucket of the first ten.
    cell.counts_others.store(true, Ordering::SeqCst);
    assert!(cut(0..1).await && cut(9..11).await);
    assert!(!cut(10..11).await);
}

#[tokio::test(start_paused = true)]
async fn counts_that_cannot_say_how_far_they_reach_are_given_without() {
    let (querier, cell) = querier_with(|_| {});
    cell.is_uncounted.store(true, Ordering::SeqCst);
    let said = reaches(&querier, "us").await.map(|reach| reach.is_some());
    assert_eq!(said, [true, true, false, false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_cell_does_not_say_how_far_it_reaches() {
    let (querier, _) = querier_with(|config| config.locality.spans = SpanMode::Closed);
    assert_eq!(reaches(&querier, "us").await, [const { None }; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_search_says_up_to_when_retention_has_removed_spans() {
    let (querier, cell) = querier_with(|_| {});
    assert_eq!(search(&querier).await.expired_until_unix_nano, 0);
    *cell.expired_until.lock().unwrap() = Some(UnixNanos(77));
    assert_eq!(search(&querier).await.expired_until_unix_nano, 77);
    // Of the times that are searched alone.
    let later = v1::TimeRange { start_unix_nano: 500, end_unix_nano: 600 };
    assert_eq!(search_in(&querier, later).await.expired_until_unix_nano, 0);
}

#[tokio::test(start_paused = true)]
async fn where_the_asker_knows_the_traces_times_retention_is_told_of_those_alone() {
    let (querier, cell) = querier_with(|_| {});
    *cell.expired_until.lock().unwrap() = Some(UnixNanos(77));
    let range = |start, end| v1::TimeRange { start_unix_nano: start, end_unix_nano: end };
    let asked = [range(400, 600), range(500, 600), range(0, 0), range(600, 500)];
    let told = [77, 0, 77, 77];
    for (placed, told) in asked.iter().zip(told) {
        let mut ask = ask("us", false);
        ask.get_mut().placed = Some(*placed);
        let frames = querier.find_trace(ask).await.unwrap().into_inner();
        let last = frames.map(Result::unwrap).collect::<Vec<_>>().await.pop().unwrap();
        assert_eq!(last.summary.unwrap().expired_until_unix_nano, told, "{placed:?}");
    }
    let several = |placed: &[v1::TimeRange]| {
        let (trace_ids, placed) = (vec![id_bytes(id(5)); 4], placed.to_vec());
        let caller = caller("us");
        Request::new(v1::FindTracesRequest { caller, trace_ids, placed, first_frame_millis: 0 })
    };
    let frames = querier.find_traces(several(&asked)).await.unwrap().into_inner();
    let frames = frames.map(Result::unwrap).collect::<Vec<_>>().await;
    let summaries = frames.iter().filter_map(|frame| frame.summary.as_ref());
    let found: Vec<u64> = summaries.map(|summary| summary.expired_until_unix_nano).collect();
    assert_eq!(found, told);
    let refused = querier.find_traces(several(&asked[..3])).await;
    assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_closed_cell_lets_one_word_out_and_reads_nothing_for_it() {
    let (querier, cell) = querier_with(|config| config.locality.spans = SpanMode::Closed);
    let (spans, summary) = find(&querier, "us").await;
    assert!(spans.is_empty());
    let word = v1::FindTraceSummary {
        outcome: v1::CellOutcome::Forbidden.into(),
        region: "eu".to_owned(),
        ..v1::FindTraceSummary::default()
    };
    assert_eq!(summary, word);
    let range = Some(TimeRange::ALL.into());
    let search = v1::SearchTracesRequest {
        caller: caller("us"),
        range,
        limit: 5,
        ..v1::SearchTracesRequest::default()
    };
    let search = querier.search_traces(Request::new(search)).await.unwrap().into_inner();
    assert_eq!(search.outcome(), v1::CellOutcome::Forbidden);
    assert_eq!((search.stats, search.coverage, search.is_damaged), (None, None, false));
    assert_eq!((search.expired_until_unix_nano, search.searched_until_unix_nano), (0, 0));
    let services = v1::ListServicesRequest { caller: caller("us"), range };
    let services = querier.list_services(Request::new(services)).await.unwrap().into_inner();
    assert_eq!(services.outcome(), v1::CellOutcome::Forbidden);
    assert!(services.services.is_empty());
    let operations =
        v1::ListOperationsRequest { caller: caller("us"), service: "web".into(), range };
    let operations = querier.list_operations(Request::new(operations)).await.unwrap().into_inner();
    assert_eq!(operations.outcome(), v1::CellOutcome::Forbidden);
    let edges = v1::ListEdgesRequest { caller: caller("us"), range, ..Default::default() };
    let edges = querier.list_edges(Request::new(edges)).await.unwrap().into_inner();
    assert_eq!(edges.outcome(), v1::CellOutcome::Forbidden);
    let red = v1::QueryRedRequest { caller: caller("us"), range, ..Default::default() };
    let red = querier.query_red(Request::new(red)).await.unwrap().into_inner();
    assert_eq!(red.outcome(), v1::CellOutcome::Forbidden);
    let traces = v1::FindEdgeTracesRequest {
        caller: caller("us"),
        range,
        limit: 5,
        ..v1::FindEdgeTracesRequest::default()
    };
    let traces = querier.find_edge_traces(Request::new(traces)).await.unwrap().into_inner();
    assert_eq!(traces.outcome(), v1::CellOutcome::Forbidden);
    assert!(traces.trace_ids.is_empty());
    assert_eq!(cell.reads.load(Ordering::SeqCst), 0);
    let (own, _) = find(&querier, "eu").await;
    assert_eq!(own.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn questions_for_unknown_traces_have_a_budget_of_their_own() {
    let (querier, cell) = querier_with(|config| config.miss_rounds_max = 1);
    cell.delay_millis.store(100, Ordering::SeqCst);
    let (first, second, known) = tokio::join!(
        querier.find_trace(ask("us", true)),
        querier.find_trace(ask("us", true)),
        querier.find_trace(ask("us", false)),
    );
    assert!(first.is_ok() && known.is_ok());
    assert_eq!(second.err().unwrap().code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_question_ends_at_the_callers_deadline() {
    let (querier, cell) = querier_with(|_| {});
    cell.delay_millis.store(400, Ordering::SeqCst);
    let mut request = ask("us", false);
    request.set_timeout(Duration::from_millis(250));
    let started = tokio::time::Instant::now();
    let refused = querier.find_trace(request).await;
    assert_eq!(refused.err().unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(started.elapsed(), Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn several_traces_come_in_the_order_asked_each_with_its_summary() {
    let (querier, _) = querier_with(|config| config.traces_per_request_max = 2);
    let ids = |numbers: &[u8]| numbers.iter().map(|number| id_bytes(id(*number))).collect();
    let request = |numbers: &[u8]| v1::FindTracesRequest {
        caller: caller("us"),
        trace_ids: ids(numbers),
        ..v1::FindTracesRequest::default()
    };
    let frames = querier.find_traces(Request::new(request(&[5, 5]))).await.unwrap().into_inner();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    assert_eq!(frames.iter().filter(|frame| frame.summary.is_some()).count(), 2);
    assert!(frames.last().unwrap().summary.is_some());
    for wrong in [&[][..], &[1, 2, 3]] {
        let refused = querier.find_traces(Request::new(request(wrong))).await;
        assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_are_checked_at_their_edges() {
    let (querier, _) = querier_with(|_| {});
    for (limit, is_taken) in
        [(0, false), (1, true), (2_000, true), (2_001, false), (u32::MAX, false)]
    {
        let request = v1::SearchTracesRequest {
            caller: caller("us"),
            range: Some(TimeRange::ALL.into()),
            limit,
            ..v1::SearchTracesRequest::default()
        };
        let answer = querier.search_traces(Request::new(request)).await;
        assert_eq!(answer.is_ok(), is_taken, "{limit}");
        if let Ok(answer) = answer {
            assert!(answer.into_inner().is_damaged);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_the_log_and_the_lag_of_each_group() {
    let (querier, _) = querier_with(|_| {});
    let request = v1::GetCellStatusRequest { caller: caller("us") };
    let status = querier.get_cell_status(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(status.region, "eu");
    assert_eq!(Coverage::from(status.log_end.unwrap()), cover(6));
    assert_eq!((status.groups[0].records, status.groups[0].dead_letters), (2, 4));
    assert_eq!(status.groups[0].failing_millis, 5);
    assert_eq!((status.spans_stored, status.now_unix_nano), (7, 99));
    let nobody = querier.get_cell_status(Request::new(v1::GetCellStatusRequest::default())).await;
    assert_eq!(nobody.err().unwrap().code(), Code::Unauthenticated);
}
