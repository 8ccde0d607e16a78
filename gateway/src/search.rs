//! Search over all regions: filters are pushed down, each region's matches come newest first, are
//! merged in that order and joined by trace.

mod region_matches;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use trace_model::location::RegionState;
use trace_model::query::SearchStats;
use trace_model::{Certificate, Filter, Region, SearchQuery, TimeRange, TraceId, TraceMatch};

use region_matches::RegionMatches;

use crate::ask_all::{DECODED_FACTOR, decoded_bytes, in_time};
use crate::assembled::TraceAnswer;
use crate::config::QueryContext;
use crate::cursor::SearchCursor;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::room::{Held, Share};

/// A search.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// Which spans; a trace is found by one of them.
    pub filter: Filter,
    /// Placement times; `None`: the last hour.
    pub range: Option<TimeRange>,
    /// Most traces.
    pub limit: usize,
    /// The cursor of the page before.
    pub cursor: Option<String>,
}

/// One page of a search.
#[derive(Clone, Debug)]
pub struct SearchPage {
    /// The traces, newest match first, each once.
    pub matches: Vec<TraceMatch>,
    /// The time range that was applied.
    pub range: TimeRange,
    /// Where the next page starts; `None` at the end.
    pub next: Option<String>,
    /// What it cost, all regions together.
    pub stats: SearchStats,
    /// What each region had to say.
    pub certificate: Certificate,
    /// The room that the matches take.
    pub held: Held,
}

impl Gateway {
    /// One page of a search.
    pub async fn search(
        &self,
        context: &QueryContext,
        request: &SearchRequest,
    ) -> Result<SearchPage, GatewayError> {
        let max = self.config.search_limit_max;
        if !(1..=max).contains(&request.limit) {
            return Err(GatewayError::OutOfLimits { what: "limit", min: 1, max: max as u64 });
        }
        let hash = SearchCursor::search_hash(&context.tenant, &request.filter);
        let cursor = request.cursor.as_ref().map(|text| SearchCursor::decode(text, hash));
        let cursor = cursor.transpose()?;
        let range = cursor.as_ref().map(|cursor| cursor.range).or(request.range);
        let query = SearchQuery {
            tenant: context.tenant.clone(),
            filter: request.filter.clone(),
            range: range.unwrap_or_else(|| self.last(self.config.search_lookback)),
            limit: request.limit,
            before: cursor.as_ref().map(|cursor| cursor.before),
        };
        // Before the cells are asked: what was promised must not be younger than their answers.
        let states = self.index_states(context).await;
        let mut share = self.admit(self.reader.clients.len())?;
        let admitted = share.bytes();
        let found = self.search_regions(context, &query, &states, &mut share).await;
        share.shrink(admitted);
        let certificate = self.search_certificate(&found, states);
        let page = self.page(context, &query, found, cursor.as_ref(), hash).await;
        if page.matches.is_empty() && certificate.has_failed_region() {
            return Err(GatewayError::Unproven(Box::new(certificate)));
        }
        Ok(SearchPage { certificate, held: Held::from(share), ..page })
    }

    /// A search, and all spans of the traces that it found, newest match first.
    pub async fn search_traces(
        &self,
        context: &QueryContext,
        request: &SearchRequest,
    ) -> Result<(SearchPage, Vec<TraceAnswer>), GatewayError> {
        let page = self.search(&context.keeping_back(), request).await?;
        let ids: Vec<TraceId> = page.matches.iter().map(|found| found.trace_id).collect();
        if ids.is_empty() {
            return Ok((page, Vec::new()));
        }
        let answers = self.find_found(context, &ids).await?;
        Ok((page, answers))
    }

    /// The time range from so long ago until now.
    pub(crate) fn last(&self, lookback: std::time::Duration) -> TimeRange {
        let end = self.clock.now();
        let nanos = u64::try_from(lookback.as_nanos()).unwrap_or(u64::MAX);
        TimeRange { start: end.minus(nanos), end: end.plus(1) }
    }

    async fn search_regions(
        &self,
        context: &QueryContext,
        query: &SearchQuery,
        states: &[RegionState],
        share: &mut Share,
    ) -> Vec<RegionMatches> {
        let caller = self.caller(context);
        // A region that hangs holds up every search: the deadline of a first answer, not of the
        // whole.
        let time = context.left().first_frame;
        let mut running = FuturesUnordered::new();
        for (region, client) in self.reader.clients.iter() {
            let caller = &caller;
            let state = states.iter().find(|state| state.region == *region);
            running.push(async move {
                let started = self.clock.monotonic();
                let answer = in_time(time, client.search(caller, query, time)).await;
                let bytes = answer.as_ref().map_or(0, |held| decoded_bytes(held, DECODED_FACTOR));
                let checked =
                    answer.and_then(|answer| RegionMatches::check(region, answer, query, state));
                let elapsed = self.clock.monotonic().saturating_sub(started).as_millis();
                (region, checked, bytes, u64::try_from(elapsed).unwrap_or(u64::MAX))
            });
        }
        let mut all = Vec::new();
        while let Some((region, checked, bytes, elapsed_millis)) = running.next().await {
            let kept =
                checked.and_then(|found| share.grow(bytes).map(|()| found).map_err(Into::into));
            let mut found = kept.unwrap_or_else(|error| RegionMatches::failed(region, &error));
            found.report.elapsed_millis = elapsed_millis;
            all.push(found);
        }
        all
    }

    /// The reports of all regions, those among them that the index knows and this gateway does not
    /// reach.
    fn search_certificate(&self, found: &[RegionMatches], states: Vec<RegionState>) -> Certificate {
        let mut certificate = Certificate::default();
        for region in found {
            certificate.add(region.report.clone());
        }
        self.add_unreachable(states, &mut certificate);
        certificate
    }

    async fn page(
        &self,
        context: &QueryContext,
        query: &SearchQuery,
        found: Vec<RegionMatches>,
        cursor: Option<&SearchCursor>,
        hash: u64,
    ) -> SearchPage {
        let mut stats = SearchStats::default();
        found.iter().for_each(|region| stats.add(&region.stats));
        let has_more = found.iter().any(|region| region.matches.len() >= query.limit);
        let all = found.into_iter().flat_map(|region| region.matches).collect();
        let (mut matches, was_cut) = merge_matches(all, query.limit);
        let last = matches.last().map(|found| (found.newest_match, found.trace_id));
        if let Some(cursor) = cursor {
            matches.retain(|found| !cursor.has_given(found.trace_id));
        }
        let next = match last.filter(|_| has_more || was_cut) {
            Some(last) => {
                let given = self.of_several_regions(context, &matches).await;
                let next = SearchCursor::new(hash, query.range, last);
                Some(next.remembering(cursor, given.into_iter()).encode())
            }
            None => None,
        };
        let certificate = Certificate::default();
        let held = Held::default();
        SearchPage { matches, range: query.range, next, stats, certificate, held }
    }

    /// Traces that may come again on a later page: those that more than one region holds, and all
    /// of them where the index does not say.
    async fn of_several_regions(
        &self,
        context: &QueryContext,
        matches: &[TraceMatch],
    ) -> Vec<TraceId> {
        let ids: Vec<TraceId> = matches.iter().map(|found| found.trace_id).collect();
        let looked_up = self.index.look_up(&context.tenant, &ids);
        let looked_up = tokio::time::timeout(context.index_time(), looked_up).await;
        let Ok(Ok(looked_up)) = looked_up else { return ids };
        let is_in_one = |place: usize, found: &TraceMatch| {
            looked_up.entries.get(place).is_some_and(|entry| {
                let held: BTreeSet<&Region> =
                    entry.contributions.keys().map(|writer| &writer.region).collect();
                held.len() == 1 && found.regions.iter().all(|region| held.contains(region))
            })
        };
        let matches = matches.iter().enumerate();
        let several = matches.filter(|(place, found)| !is_in_one(*place, found));
        several.map(|(_, found)| found.trace_id).collect()
    }
}

/// The newest `limit` traces, joined over regions, and whether some were cut off. A trace counts by
/// its newest match in any region.
fn merge_matches(all: Vec<TraceMatch>, limit: usize) -> (Vec<TraceMatch>, bool) {
    let mut by_trace: BTreeMap<TraceId, TraceMatch> = BTreeMap::new();
    for found in all {
        match by_trace.get_mut(&found.trace_id) {
            Some(held) => held.join(found),
            None => {
                by_trace.insert(found.trace_id, found);
            }
        }
    }
    let mut merged: Vec<TraceMatch> = by_trace.into_values().collect();
    merged.sort_by_key(TraceMatch::order_key);
    let was_cut = merged.len() > limit;
    merged.truncate(limit);
    (merged, was_cut)
}

#[cfg(test)]
mod tests;
