//! Questions beside traces and searches: services, operations, dependencies, summaries, and how the
//! regions are. Each asks every reachable region at once and names those that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::convert::index::{OTHER_SERVICE, index_name};
use proto::v1;
use trace_model::location::{Contribution, RegionState, SummaryQuery};
use trace_model::{
    Certificate, Region, RegionOutcome, RegionReport, Sought, SpanKind, TraceEntry, TraceId,
};

use crate::ask_all::{DECODED_FACTOR, Gathered, Part, check, check_name, decoded_bytes, in_time};
use crate::config::QueryContext;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::port::{CellError, IndexError, SummaryPage};
use crate::region_read::SharedClient;
use crate::room::Held;

/// What a list that is cut lacks.
const MORE_NAMES: &str = "it has more names than it lists";
/// Traces with services without a name that are looked at, at least, for the regions that have some.
const DOUBTFUL_MIN: usize = 100;

/// A list out of all regions.
#[derive(Clone, Debug)]
pub struct CatalogAnswer<T> {
    /// What was found, each once, in order.
    pub found: Vec<T>,
    /// What each region had to say.
    pub certificate: Certificate,
    /// The room that it takes.
    pub held: Held,
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

impl<T> CatalogAnswer<T> {
    pub(crate) fn new(found: Vec<T>, gathered: Gathered<impl Sized>) -> Result<Self, GatewayError> {
        gathered.found_or_unproven(found.is_empty())?;
        Ok(Self { found, certificate: gathered.certificate, held: gathered.held })
    }

    /// Nothing found, and why.
    pub(crate) fn nothing(certificate: Certificate) -> Self {
        Self { found: Vec::new(), certificate, held: Held::default() }
    }
}

impl Gateway {
    /// Services of which spans are kept, over all regions.
    pub async fn services(
        &self,
        context: &QueryContext,
    ) -> Result<CatalogAnswer<String>, GatewayError> {
        let range = self.last(self.config.catalog_lookback);
        let caller = self.caller(context);
        let ask = |client: SharedClient, time: Duration| {
            let caller = caller.clone();
            async move {
                let answer = client.services(&caller, range, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                let bytes = decoded_bytes(&answer, DECODED_FACTOR);
                Ok(Part::new(outcome, answer.services, answer.reach, bytes))
            }
        };
        let mut gathered = self.ask_all(context, ask).await?;
        gathered.say_of_cut(MORE_NAMES);
        let found: BTreeSet<String> = gathered.take_items().collect();
        CatalogAnswer::new(found.into_iter().collect(), gathered)
    }

    /// Operations of a service, with their kinds, over all regions.
    pub async fn operations(
        &self,
        context: &QueryContext,
        service: &str,
    ) -> Result<CatalogAnswer<(String, SpanKind)>, GatewayError> {
        let range = self.last(self.config.catalog_lookback);
        let caller = self.caller(context);
        let service: Arc<str> = service.into();
        let ask = |client: SharedClient, time: Duration| {
            let (caller, service) = (caller.clone(), Arc::clone(&service));
            async move {
                let answer = client.operations(&caller, &service, range, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                let bytes = decoded_bytes(&answer, DECODED_FACTOR);
                Ok(Part::new(outcome, answer.operations, answer.reach, bytes))
            }
        };
        let mut gathered = self.ask_all(context, ask).await?;
        gathered.say_of_cut(MORE_NAMES);
        let kind = |number: u32| SpanKind::from_number(i32::try_from(number).unwrap_or(0));
        let operations = gathered.take_items();
        let found: BTreeSet<(String, SpanKind)> =
            operations.map(|operation| (operation.name, kind(operation.kind))).collect();
        CatalogAnswer::new(found.into_iter().collect(), gathered)
    }

    /// Traces by their summaries: the index alone, no other region is asked.
    ///
    /// A region's index names a bounded number of services; those beyond share a name. Where traces
    /// with that name would answer but for it, a question for a service is answered in part.
    pub async fn summaries(
        &self,
        context: &QueryContext,
        query: &SummaryQuery,
    ) -> Result<SummaryAnswer, GatewayError> {
        let max = self.config.search_limit_max;
        if !(1..=max).contains(&query.limit) {
            return Err(GatewayError::OutOfLimits { what: "limit", min: 1, max: max as u64 });
        }
        let query = &as_published(query);
        let doubtful = doubtful(query, max);
        let asked = async {
            let others = async {
                match &doubtful {
                    Some(query) => self.regions_of_others(query).await,
                    None => Ok(RegionsOfOthers::None),
                }
            };
            tokio::try_join!(self.index.list_summaries(query), others)
        };
        let late = || IndexError::Unavailable("it did not answer in time".to_owned());
        let page = tokio::time::timeout(context.left().first_frame, asked).await;
        let (page, others) = page.unwrap_or_else(|_| Err(late()))?;
        let mut certificate = Certificate::default();
        for state in &page.regions {
            let report = self.index_report(state, query);
            certificate.add(cut_if(report, others.may_have(&state.region)));
        }
        let SummaryPage { traces, rows_scanned, .. } = page;
        Ok(SummaryAnswer { traces, rows_scanned, certificate })
    }

    async fn regions_of_others(
        &self,
        doubtful: &SummaryQuery,
    ) -> Result<RegionsOfOthers, IndexError> {
        let page = self.index.list_summaries(doubtful).await?;
        Ok(RegionsOfOthers::of(&page.traces, doubtful.limit))
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
        let (caller, time) = (self.caller(context), context.left().first_frame);
        let mut running = FuturesUnordered::new();
        for (region, client) in self.reader.clients.iter() {
            let caller = &caller;
            running.push(async move {
                let started = self.clock.monotonic();
                let status = in_time(time, client.status(caller, time)).await;
                let named =
                    status.and_then(|status| check_name(region, &status.region).map(|()| status));
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

    /// What an answer from the index alone says of a region: as of its watermark, about traces that
    /// began in the query's range or later. A region whose index gives routes alone withholds what
    /// the query asks for, unless that is a time and nothing else.
    fn index_report(&self, state: &RegionState, query: &SummaryQuery) -> RegionReport {
        let is_not_provable = self.footing.unindexed.contains(&state.region);
        let watermark = state.watermark.as_ref().map(|watermark| watermark.as_of);
        let sought = Sought { began: Some(query.range.start), newest: None };
        let report = RegionReport {
            watermark,
            as_of: watermark.filter(|_| !is_not_provable),
            has_hole: !state.judge_absence(&sought).is_proven(),
            is_not_provable,
            ..RegionReport::new(state.region.clone(), RegionOutcome::Pruned)
        };
        let is_redacted = state.rows_without_detail > 0 && query.needs_detail();
        if !is_redacted || !report.is_whole() {
            return report;
        }
        let reason =
            "its index gives the routes of traces alone: a search asks its cell".to_owned();
        RegionReport { outcome: RegionOutcome::Redacted, reason: Some(reason), ..report }
    }
}

/// The question with its names as the index has them.
fn as_published(query: &SummaryQuery) -> SummaryQuery {
    let named = |name: &Option<Arc<str>>| name.as_deref().map(|name| index_name(name).into());
    SummaryQuery {
        service: named(&query.service),
        root_service: named(&query.root_service),
        root_operation: named(&query.root_operation),
        ..query.clone()
    }
}

/// Asks for the traces that may answer a question for a service though their rows do not name it, if
/// there may be any: for so many that few traces of one region do not hide those of another.
fn doubtful(query: &SummaryQuery, max: usize) -> Option<SummaryQuery> {
    let is_named = |name: &Arc<str>| **name != *OTHER_SERVICE;
    let mut asked = query.service.iter().chain(&query.root_service);
    let service = Some(OTHER_SERVICE.into());
    let limit = query.limit.max(DOUBTFUL_MIN).min(max);
    asked.any(is_named).then(|| SummaryQuery {
        service,
        root_service: None,
        limit,
        ..query.clone()
    })
}

/// Which regions have rows in question with services without a name.
enum RegionsOfOthers {
    None,
    /// These alone.
    Known(BTreeSet<Region>),
    /// More than were looked at, so that it may be any.
    Any,
}

impl RegionsOfOthers {
    fn of(traces: &[(TraceId, TraceEntry)], limit: usize) -> Self {
        if traces.len() >= limit {
            return Self::Any;
        }
        let rows = traces.iter().flat_map(|(_, entry)| entry.contributions.values());
        let has_others = |row: &&Contribution| {
            let mut services = row.detail.iter().flat_map(|detail| &detail.services);
            services.any(|count| *count.service == *OTHER_SERVICE)
        };
        Self::Known(rows.filter(has_others).map(|row| row.writer.region.clone()).collect())
    }

    fn may_have(&self, region: &Region) -> bool {
        match self {
            Self::None => false,
            Self::Known(regions) => regions.contains(region),
            Self::Any => true,
        }
    }
}

fn cut_if(report: RegionReport, is_cut: bool) -> RegionReport {
    if !is_cut || !report.is_whole() || report.outcome != RegionOutcome::Pruned {
        return report;
    }
    let reason = format!("services beyond those that it names are under {OTHER_SERVICE}");
    RegionReport { is_cut, reason: Some(reason), ..report }
}

#[cfg(test)]
mod tests;
