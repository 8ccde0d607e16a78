//! Cells and an index for tests: they answer as told, also wrongly.
#![expect(clippy::wildcard_enum_match_arm, reason = "each place names the manners that it changes")]

mod frames;
mod index;
mod manner;
mod spans;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::{CellEndpoint, GatewayConfig};
use crate::gateway::Gateway;
use crate::pages::Place;
use crate::port::{
    Caller, CellClient, CellError, EdgeTraceAsk, FrameStream, MetadataIndex, RedAsk, TraceAsk,
};
use async_trait::async_trait;
pub(crate) use index::{FakeIndex, behind, contribution, holed, level, silent};
pub(crate) use manner::Manner;
use prometheus_client::registry::Registry;
use proto::convert::query::id_bytes;
use proto::v1;
use service_kit::ManualClock;
use spans::searched;
pub(crate) use spans::{context, id, region, resource, span, stored, waiting};
use trace_model::{
    Contribution, Coverage, Region, SearchQuery, StoredSpan, TimeRange, TraceId, UnixNanos,
};

pub(crate) const INCARNATION: u64 = 7;
pub(crate) const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

/// Records that each cell has published, as its watermark says.
pub(crate) const PUBLISHED: u64 = 40;

/// A cell.
#[derive(Debug)]
pub(crate) struct FakeCell {
    pub(crate) region: Region,
    pub(crate) manner: Mutex<Manner>,
    pub(crate) spans: Mutex<BTreeMap<TraceId, Vec<StoredSpan>>>,
    pub(crate) asks: Mutex<Vec<TraceAsk>>,
    pub(crate) searches: AtomicUsize,
    pub(crate) searched: Mutex<Vec<SearchQuery>>,
    pub(crate) matches: Mutex<Vec<v1::TraceMatch>>,
    pub(crate) services: Mutex<Vec<String>>,
    pub(crate) edges: Mutex<Vec<v1::Edge>>,
    pub(crate) red: Mutex<Vec<v1::RedPoint>>,
    pub(crate) edge_traces: Mutex<Vec<TraceId>>,
    /// Rows of a page of rates or edges.
    pub(crate) page_rows: AtomicUsize,
    /// Pages that it has given.
    pub(crate) pages: AtomicUsize,
}

impl FakeCell {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            region: region(name),
            manner: Mutex::new(Manner::Honest),
            spans: Mutex::default(),
            asks: Mutex::default(),
            searches: AtomicUsize::new(0),
            searched: Mutex::default(),
            matches: Mutex::default(),
            services: Mutex::default(),
            edges: Mutex::default(),
            red: Mutex::default(),
            edge_traces: Mutex::default(),
            page_rows: AtomicUsize::new(usize::MAX),
            pages: AtomicUsize::new(0),
        })
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub(crate) fn hold(&self, trace_id: TraceId, numbers: std::ops::Range<u16>) {
        let spans = numbers.map(|number| span(trace_id, number, &self.region));
        self.spans.lock().unwrap().entry(trace_id).or_default().extend(spans);
    }

    pub(crate) fn ask_count(&self) -> usize {
        self.asks.lock().unwrap().len()
    }

    /// The contribution that its publisher has sent: one record for each span.
    pub(crate) fn contribution(&self, trace_id: TraceId) -> Contribution {
        let spans = self.spans.lock().unwrap().get(&trace_id).map_or(0, Vec::len);
        contribution(&self.region, trace_id, spans as u64)
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }

    /// How far its stores have the log, and until when.
    fn reached(&self) -> (Coverage, UnixNanos) {
        match self.manner() {
            Manner::Behind => (searched(PUBLISHED - 3), NOW.minus(90_000_000_000)),
            Manner::InStep => (searched(PUBLISHED - 3), NOW.minus(5_000_000_000)),
            Manner::Timeless => (searched(PUBLISHED), UnixNanos(0)),
            _ => (searched(PUBLISHED + 2), NOW.minus(1_000_000)),
        }
    }

    fn reach(&self) -> Option<v1::Reach> {
        if self.manner() == Manner::Speechless {
            return None;
        }
        let (covered, until) = self.reached();
        let coverage = Some((&covered).into());
        Some(v1::Reach {
            coverage,
            until_unix_nano: until.0,
            is_cut: matches!(self.manner(), Manner::Cutting | Manner::Missing),
            missed_by: self.missed_by("metrics-aggregator"),
        })
    }

    /// Of pages the first alone is told that something is missing.
    fn reach_of_page(&self, is_first: bool) -> Option<v1::Reach> {
        let reach = self.reach()?;
        let missed_by = if is_first { reach.missed_by } else { String::new() };
        Some(v1::Reach { is_cut: reach.is_cut && is_first, missed_by, ..reach })
    }

    /// The rows behind this one, as many as a page of this cell has.
    fn page<R: Clone, P: Place>(
        &self,
        rows: &Mutex<Vec<R>>,
        after: Option<&P>,
        place: impl Fn(&R) -> P,
    ) -> (Vec<R>, Option<P>) {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let rows = rows.lock().unwrap();
        if after.is_some() && self.manner() == Manner::Forgetful {
            return (rows.clone(), None);
        }
        let is_behind = |row: &&R| after.is_none_or(|after| place(row).is_behind(after));
        let behind: Vec<&R> = rows.iter().filter(is_behind).collect();
        let size = self.page_rows.load(Ordering::SeqCst).max(1);
        let page: Vec<R> = behind.iter().take(size).copied().cloned().collect();
        let next = (behind.len() > size).then(|| place(page.last().unwrap()));
        let stuck = after.filter(|_| self.manner() == Manner::Stuck).cloned();
        (page, stuck.or(next))
    }

    fn missed_by(&self, group: &str) -> String {
        if self.manner() == Manner::Missing { group.to_owned() } else { String::new() }
    }

    fn fail(&self) -> Result<(), CellError> {
        match self.manner() {
            Manner::Unreachable => Err(CellError::Unavailable("gone".to_owned())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl CellClient for FakeCell {
    fn region(&self) -> &Region {
        &self.region
    }

    async fn find_traces(&self, ask: TraceAsk) -> Result<FrameStream, CellError> {
        let trace_ids = ask.trace_ids.clone();
        self.asks.lock().unwrap().push(ask);
        match self.manner() {
            Manner::Hanging => std::future::pending().await,
            Manner::Late(by) => tokio::time::sleep(by).await,
            Manner::Unreachable => {
                return Err(CellError::Unavailable("it could not be reached".to_owned()));
            }
            _ => {}
        }
        Ok(self.stream(&trace_ids))
    }

    async fn search(
        &self,
        _: &Caller,
        query: &SearchQuery,
        _: Duration,
    ) -> Result<v1::SearchTracesResponse, CellError> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.searched.lock().unwrap().push(query.clone());
        match self.manner() {
            Manner::Hanging => std::future::pending().await,
            Manner::Unreachable => {
                return Err(CellError::Unavailable("it could not be reached".to_owned()));
            }
            _ => {}
        }
        let key = |found: &v1::TraceMatch| {
            let id = TraceId::try_from(found.trace_id.as_ref()).unwrap();
            (std::cmp::Reverse(UnixNanos(found.newest_match_unix_nano)), id)
        };
        let mut matches = self.matches.lock().unwrap().clone();
        let before = query.before.map(|(time, id)| (std::cmp::Reverse(time), id));
        matches.retain(|found| before.is_none_or(|before| key(found) > before));
        matches.retain(|found| query.range.contains(UnixNanos(found.newest_match_unix_nano)));
        matches.sort_by_key(key);
        let limit = if self.manner() == Manner::Endless { usize::MAX } else { query.limit };
        matches.truncate(limit);
        if self.manner() == Manner::Garbage {
            matches.reverse();
        }
        let (coverage, searched_until) = self.reached();
        Ok(v1::SearchTracesResponse {
            outcome: v1::CellOutcome::Answered.into(),
            matches,
            region: self.region.as_str().to_owned(),
            is_damaged: matches!(
                self.manner(),
                Manner::Damaged | Manner::LackingStore | Manner::Missing
            ),
            lacks_store: self.manner() == Manner::LackingStore,
            missed_by: self.missed_by("<b>of a later release</b>"),
            coverage: Some((&coverage).into()),
            expired_until_unix_nano: if self.manner() == Manner::Expiring { NOW.0 } else { 0 },
            searched_until_unix_nano: searched_until.0,
            ..v1::SearchTracesResponse::default()
        })
    }

    async fn services(
        &self,
        _: &Caller,
        _: TimeRange,
        _: Duration,
    ) -> Result<v1::ListServicesResponse, CellError> {
        match self.manner() {
            Manner::Hanging => std::future::pending().await,
            Manner::Unreachable => Err(CellError::Unavailable("gone".to_owned())),
            _ => Ok(v1::ListServicesResponse {
                outcome: v1::CellOutcome::Answered.into(),
                services: self.services.lock().unwrap().clone(),
                region: self.region.as_str().to_owned(),
                reach: self.reach(),
            }),
        }
    }

    async fn operations(
        &self,
        _: &Caller,
        service: &str,
        _: TimeRange,
        _: Duration,
    ) -> Result<v1::ListOperationsResponse, CellError> {
        self.fail()?;
        let operations = vec![
            v1::Operation { name: format!("GET {service}"), kind: 2 },
            v1::Operation { name: format!("GET {service}"), kind: 3 },
        ];
        Ok(v1::ListOperationsResponse {
            outcome: v1::CellOutcome::Answered.into(),
            operations,
            region: self.region.as_str().to_owned(),
            reach: self.reach(),
        })
    }

    async fn edges(
        &self,
        _: &Caller,
        _: TimeRange,
        after: Option<v1::EdgePlace>,
        _: Duration,
    ) -> Result<v1::ListEdgesResponse, CellError> {
        self.fail()?;
        let (edges, next) = self.page(&self.edges, after.as_ref(), |edge| edge.into());
        Ok(v1::ListEdgesResponse {
            outcome: v1::CellOutcome::Answered.into(),
            edges,
            region: self.region.as_str().to_owned(),
            reach: self.reach_of_page(after.is_none()),
            next,
        })
    }

    async fn red(
        &self,
        _: &Caller,
        _: &RedAsk,
        after: Option<v1::RedPlace>,
        _: Duration,
    ) -> Result<v1::QueryRedResponse, CellError> {
        self.fail()?;
        if let Manner::Late(late) = self.manner() {
            tokio::time::sleep(late).await;
        }
        let (points, next) = self.page(&self.red, after.as_ref(), |point| point.into());
        Ok(v1::QueryRedResponse {
            outcome: v1::CellOutcome::Answered.into(),
            points,
            region: self.region.as_str().to_owned(),
            reach: self.reach_of_page(after.is_none()),
            next,
        })
    }

    async fn edge_traces(
        &self,
        _: &Caller,
        _: &EdgeTraceAsk,
        _: Duration,
    ) -> Result<v1::FindEdgeTracesResponse, CellError> {
        self.fail()?;
        let trace_ids = self.edge_traces.lock().unwrap().iter().copied().map(id_bytes).collect();
        Ok(v1::FindEdgeTracesResponse {
            outcome: v1::CellOutcome::Answered.into(),
            trace_ids,
            region: self.region.as_str().to_owned(),
            reach: self.reach(),
        })
    }

    async fn status(
        &self,
        _: &Caller,
        _: Duration,
    ) -> Result<v1::GetCellStatusResponse, CellError> {
        match self.manner() {
            Manner::Hanging => std::future::pending().await,
            Manner::Unreachable => Err(CellError::Unavailable("gone".to_owned())),
            _ => Ok(v1::GetCellStatusResponse {
                region: self.region.as_str().to_owned(),
                groups: vec![v1::GroupLag {
                    group: "storage-writer".to_owned(),
                    records: 3,
                    age_millis: 40,
                    dead_letters: 0,
                    failing_millis: 0,
                }],
                ..v1::GetCellStatusResponse::default()
            }),
        }
    }
}

/// A gateway of the first cell's region, with a clock that stands still.
pub(crate) fn gateway(cells: &[Arc<FakeCell>], index: &Arc<FakeIndex>) -> Arc<Gateway> {
    gateway_with(cells, index, |_| {})
}

pub(crate) fn gateway_with(
    cells: &[Arc<FakeCell>],
    index: &Arc<FakeIndex>,
    adjust: impl FnOnce(&mut GatewayConfig),
) -> Arc<Gateway> {
    gateway_and_clock(cells, index, adjust).0
}

/// The same, with its clock.
pub(crate) fn gateway_and_clock(
    cells: &[Arc<FakeCell>],
    index: &Arc<FakeIndex>,
    adjust: impl FnOnce(&mut GatewayConfig),
) -> (Arc<Gateway>, Arc<ManualClock>) {
    let endpoints = cells.iter().map(|cell| CellEndpoint {
        region: cell.region.clone(),
        endpoint: "http://127.0.0.1:1".to_owned(),
    });
    let mut config = GatewayConfig::new(cells[0].region.clone(), endpoints.collect());
    adjust(&mut config);
    let clients: Vec<Arc<dyn CellClient>> =
        cells.iter().map(|cell| Arc::clone(cell) as Arc<dyn CellClient>).collect();
    let clock = Arc::new(ManualClock::at(NOW));
    let index = Arc::clone(index) as Arc<dyn MetadataIndex>;
    let given = Arc::clone(&clock);
    let gateway = Gateway::new(config, index, clients, given, &mut Registry::default());
    (Arc::new(gateway), clock)
}
