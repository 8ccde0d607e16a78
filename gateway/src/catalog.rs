//! Questions beside traces and searches: services, operations, dependencies, summaries, and how the
//! regions are. Each asks every reachable region at once and names those that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::DurationSketch;
use proto::convert::query::region_outcome;
use proto::v1;
use trace_model::location::{RegionState, SummaryQuery};
use trace_model::{
    Certificate, Region, RegionOutcome, RegionReport, SpanKind, TimeRange, TraceEntry, TraceId,
    UnixNanos,
};

use crate::config::QueryContext;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::port::{CellError, IndexError, SummaryPage};
use crate::region_read::SharedClient;

/// A list out of all regions.
#[derive(Clone, Debug)]
pub struct CatalogAnswer<T> {
    /// What was found, each once, in order.
    pub found: Vec<T>,
    /// What each region had to say.
    pub certificate: Certificate,
}

/// Calls from one service to another.
#[derive(Clone, Debug, Default)]
pub struct DependencyLink {
    /// The calling service.
    pub caller: String,
    /// The service called.
    pub callee: String,
    /// Calls seen.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Calls estimated from head sampling.
    pub calls_estimated: f64,
    /// Durations, merged over regions.
    pub durations: DurationSketch,
}

/// Traces from the index alone.
#[derive(Clone, Debug)]
pub struct SummaryAnswer {
    /// The traces, newest first.
    pub traces: Vec<(TraceId, TraceEntry)>,
    /// Rows looked at.
    pub rows_scanned: u64,
    /// Under which watermarks.
    pub certificate: Certificate,
}

/// How a region is, seen from this gateway.
#[derive(Clone, Debug)]
pub struct RegionHealth {
    /// The region.
    pub region: Region,
    /// Whether this gateway is configured to reach its cell.
    pub is_configured: bool,
    /// What the index replica has of it; `None` where it knows nothing or did not answer.
    pub index: Option<RegionState>,
    /// What its cell says of itself, or why it said nothing.
    pub cell: Result<v1::GetCellStatusResponse, CellError>,
    /// Milliseconds until the cell's answer.
    pub elapsed_millis: u64,
}

/// A checked part of a list, from one region.
struct Part<T> {
    outcome: RegionOutcome,
    items: Vec<T>,
}

impl Gateway {
    /// Services with spans in the last week, over all regions.
    pub async fn services(
        &self,
        context: &QueryContext,
    ) -> Result<CatalogAnswer<String>, GatewayError> {
        let range = self.last(self.config.catalog_lookback);
        let (caller, time) = (self.caller(context), context.patience.first_frame);
        let ask = |client: SharedClient| {
            let caller = caller.clone();
            async move {
                let answer = client.services(&caller, range, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                Ok(Part { outcome, items: answer.services })
            }
        };
        let (parts, certificate) = self.ask_all(context, ask).await;
        let found: BTreeSet<String> = parts.into_iter().flatten().collect();
        answer_or_unproven(found.into_iter().collect(), certificate)
    }

    /// Operations of a service, with their kinds, over all regions.
    pub async fn operations(
        &self,
        context: &QueryContext,
        service: &str,
    ) -> Result<CatalogAnswer<(String, SpanKind)>, GatewayError> {
        let range = self.last(self.config.catalog_lookback);
        let (caller, time) = (self.caller(context), context.patience.first_frame);
        let service: Arc<str> = service.into();
        let ask = |client: SharedClient| {
            let (caller, service) = (caller.clone(), Arc::clone(&service));
            async move {
                let answer = client.operations(&caller, &service, range, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                Ok(Part { outcome, items: answer.operations })
            }
        };
        let (parts, certificate) = self.ask_all(context, ask).await;
        let kind = |number: u32| SpanKind::from_number(i32::try_from(number).unwrap_or(0));
        let found: BTreeSet<(String, SpanKind)> = parts
            .into_iter()
            .flatten()
            .map(|operation| (operation.name, kind(operation.kind)))
            .collect();
        answer_or_unproven(found.into_iter().collect(), certificate)
    }

    /// Which services call which, over all regions.
    pub async fn dependencies(
        &self,
        context: &QueryContext,
        range: TimeRange,
    ) -> Result<CatalogAnswer<DependencyLink>, GatewayError> {
        let (caller, time) = (self.caller(context), context.patience.first_frame);
        let ask = |client: SharedClient| {
            let caller = caller.clone();
            async move {
                let answer = client.edges(&caller, range, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                let links: Result<Vec<_>, _> = answer.edges.into_iter().map(read_edge).collect();
                Ok(Part { outcome, items: links? })
            }
        };
        let (parts, certificate) = self.ask_all(context, ask).await;
        answer_or_unproven(join_links(parts.into_iter().flatten()), certificate)
    }

    /// Traces by their summaries: the index alone, no other region is asked.
    pub async fn summaries(
        &self,
        context: &QueryContext,
        query: &SummaryQuery,
    ) -> Result<SummaryAnswer, GatewayError> {
        let max = self.config.search_limit_max;
        if !(1..=max).contains(&query.limit) {
            return Err(GatewayError::OutOfLimits { what: "limit", min: 1, max: max as u64 });
        }
        let asked = self.index.list_summaries(query);
        let late = || IndexError::Unavailable("it did not answer in time".to_owned());
        let page = tokio::time::timeout(context.patience.first_frame, asked).await;
        let page = page.unwrap_or_else(|_| Err(late()))?;
        let mut certificate = Certificate::default();
        for state in &page.regions {
            certificate.add(self.index_report(state, query.range.start));
        }
        let SummaryPage { traces, rows_scanned, .. } = page;
        Ok(SummaryAnswer { traces, rows_scanned, certificate })
    }

    /// How every region is that the index or the configuration names.
    pub async fn regions(&self, context: &QueryContext) -> Vec<RegionHealth> {
        let states = self.index_states(context).await;
        let mut statuses = self.cell_statuses(context).await;
        let mut regions: BTreeSet<Region> = self.footing.reachable.clone();
        regions.extend(states.iter().map(|state| state.region.clone()));
        let not_configured =
            || (Err(CellError::Unavailable("not configured in this gateway".to_owned())), 0);
        regions
            .into_iter()
            .map(|region| {
                let (cell, elapsed_millis) =
                    statuses.remove(&region).unwrap_or_else(not_configured);
                RegionHealth {
                    is_configured: self.footing.reachable.contains(&region),
                    index: states.iter().find(|state| state.region == region).cloned(),
                    region,
                    cell,
                    elapsed_millis,
                }
            })
            .collect()
    }

    async fn cell_statuses(
        &self,
        context: &QueryContext,
    ) -> BTreeMap<Region, (Result<v1::GetCellStatusResponse, CellError>, u64)> {
        let (caller, time) = (self.caller(context), context.patience.first_frame);
        let mut running = FuturesUnordered::new();
        for (region, client) in self.reader.clients.iter() {
            let caller = &caller;
            running.push(async move {
                let started = self.clock.monotonic();
                let status = in_time(time, client.status(caller, time)).await;
                let named = status.and_then(|status| check_name(region, status));
                let elapsed = self.clock.monotonic().saturating_sub(started).as_millis();
                (region.clone(), (named, u64::try_from(elapsed).unwrap_or(u64::MAX)))
            });
        }
        let mut statuses = BTreeMap::new();
        while let Some((region, status)) = running.next().await {
            statuses.insert(region, status);
        }
        statuses
    }

    /// Asks every reachable region the same; parts of those that answered, and all reports.
    async fn ask_all<T, F>(
        &self,
        context: &QueryContext,
        ask: impl Fn(SharedClient) -> F,
    ) -> (Vec<Vec<T>>, Certificate)
    where
        F: Future<Output = Result<Part<T>, CellError>>,
    {
        let time = context.patience.first_frame;
        let mut running = FuturesUnordered::new();
        for (region, client) in self.reader.clients.iter() {
            let asked = ask(Arc::clone(client));
            running.push(async move { (region, in_time(time, asked).await) });
        }
        let (mut parts, mut certificate) = (Vec::new(), Certificate::default());
        while let Some((region, answer)) = running.next().await {
            match answer {
                Ok(part) => {
                    certificate.add(RegionReport::new(region.clone(), part.outcome));
                    parts.push(part.items);
                }
                Err(error) => certificate.add(RegionReport {
                    reason: Some(error.to_string()),
                    ..RegionReport::new(region.clone(), error.outcome())
                }),
            }
        }
        self.add_unreachable(self.index_states(context).await, &mut certificate);
        (parts, certificate)
    }

    /// What the index has of every region. Nothing where it does not answer: then it names and
    /// promises nothing, and the cells' own words count.
    pub(crate) async fn index_states(&self, context: &QueryContext) -> Vec<RegionState> {
        let asked = self.index.regions();
        let answer = tokio::time::timeout(context.patience.first_frame, asked).await;
        let late = || IndexError::Unavailable("it did not answer in time".to_owned());
        match answer.unwrap_or_else(|_| Err(late())) {
            Ok(known) => known.regions,
            Err(error) => {
                tracing::warn!(%error, "the cells' own words count without the index");
                self.metrics.index_failures.inc();
                Vec::new()
            }
        }
    }

    /// Names the regions that the index knows and this gateway is not configured to reach.
    pub(crate) fn add_unreachable(&self, states: Vec<RegionState>, certificate: &mut Certificate) {
        for state in states {
            if !self.footing.reachable.contains(&state.region) {
                certificate.add(RegionReport {
                    reason: Some("not configured in this gateway".to_owned()),
                    ..RegionReport::new(state.region, RegionOutcome::Unavailable)
                });
            }
        }
    }

    /// What an answer from the index alone says of a region: as of its watermark, about traces that
    /// began at `since` or later.
    fn index_report(&self, state: &RegionState, since: UnixNanos) -> RegionReport {
        let as_of = state.watermark.as_ref().map(|watermark| watermark.as_of);
        RegionReport {
            watermark: as_of,
            as_of,
            has_hole: !state.proves_absence(Some(since)),
            is_not_provable: self.footing.unindexed.contains(&state.region),
            ..RegionReport::new(state.region.clone(), RegionOutcome::Pruned)
        }
    }
}

async fn in_time<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, CellError>>,
) -> Result<T, CellError> {
    let late = || CellError::TimedOut("no answer in time".to_owned());
    tokio::time::timeout(time, asked).await.unwrap_or_else(|_| Err(late()))
}

fn check_name(
    region: &Region,
    status: v1::GetCellStatusResponse,
) -> Result<v1::GetCellStatusResponse, CellError> {
    if status.region == region.as_str() { Ok(status) } else { Err(wrong_name()) }
}

fn wrong_name() -> CellError {
    CellError::Invalid("it answered under another region's name".to_owned())
}

fn check(
    region: &Region,
    name: &str,
    outcome: v1::CellOutcome,
) -> Result<RegionOutcome, CellError> {
    if name != region.as_str() {
        return Err(wrong_name());
    }
    region_outcome(outcome).map_err(|error| CellError::Invalid(error.to_string()))
}

/// An empty list is never a stand-in for regions that failed.
fn answer_or_unproven<T>(
    found: Vec<T>,
    certificate: Certificate,
) -> Result<CatalogAnswer<T>, GatewayError> {
    if found.is_empty() && certificate.has_failed_region() {
        return Err(GatewayError::Unproven(Box::new(certificate)));
    }
    Ok(CatalogAnswer { found, certificate })
}

fn read_edge(edge: v1::Edge) -> Result<DependencyLink, CellError> {
    let sketch = edge.durations.map(|sketch| DurationSketch::from_bytes(&sketch.ddsketch));
    let durations = sketch.transpose().map_err(|error| CellError::Invalid(error.to_string()))?;
    Ok(DependencyLink {
        caller: edge.caller,
        callee: edge.callee,
        calls: edge.calls,
        errors: edge.errors,
        calls_estimated: edge.calls_estimated,
        durations: durations.unwrap_or_default(),
    })
}

fn join_links(links: impl Iterator<Item = DependencyLink>) -> Vec<DependencyLink> {
    let mut joined: BTreeMap<(String, String), DependencyLink> = BTreeMap::new();
    for link in links {
        let key = (link.caller.clone(), link.callee.clone());
        let slot = joined.entry(key).or_insert_with(|| DependencyLink {
            caller: link.caller.clone(),
            callee: link.callee.clone(),
            ..DependencyLink::default()
        });
        slot.calls = slot.calls.saturating_add(link.calls);
        slot.errors = slot.errors.saturating_add(link.errors);
        slot.calls_estimated += link.calls_estimated;
        slot.durations.merge(&link.durations);
    }
    joined.into_values().collect()
}
