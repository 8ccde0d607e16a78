//! Traces that match, newest first: the scan's spans put together, page by page without gap or
//! repeat.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use trace_model::query::SearchStats;
use trace_model::{Coverage, SearchQuery, TimeRange, TraceId, TraceMatch, UnixNanos};

use super::hits::was_replaced;
use super::plan::Plan;
use super::scan::{Cost, Found, Scan};
use super::store::ElasticsearchStore;
use crate::port::{SearchAnswer, StoreError};

/// A trace of so many matching spans is left out of further pages: its place is certain.
const SPANS_OF_TRACE_MAX: u32 = 64;

/// The traces of an answer, as far as they are known.
#[derive(Debug, Default)]
struct Traces {
    found: HashMap<TraceId, TraceMatch>,
    /// In the order in which they were found: by time, and by id where only documents of ours were.
    order: Vec<(Reverse<UnixNanos>, TraceId)>,
}

impl Traces {
    fn add(&mut self, span: Found) -> u32 {
        let one = TraceMatch {
            trace_id: span.trace_id,
            newest_match: span.placed,
            matched_spans: 1,
            services: BTreeSet::from([span.service]),
            regions: span.region.into_iter().collect(),
        };
        if let Some(known) = self.found.get_mut(&span.trace_id) {
            known.join(one);
            return known.matched_spans;
        }
        self.order.push(one.order_key());
        self.found.insert(span.trace_id, one);
        1
    }

    /// Whether nothing that comes behind `last` can be among the first `limit`.
    fn is_settled(&self, limit: usize, last: (Reverse<UnixNanos>, TraceId), by_id: bool) -> bool {
        let Some(worst) = limit.checked_sub(1).and_then(|at| self.order.get(at)) else {
            return false;
        };
        if by_id { last > *worst } else { last.0 > worst.0 }
    }
}

impl ElasticsearchStore {
    /// Refreshes what this process wrote; gives how far the log is found from then on.
    pub(super) async fn searchable(&self) -> Result<Coverage, StoreError> {
        let own = self.state.progress().written;
        self.refresh_own().await?;
        let mut covered = self.progress_of_all().await?;
        covered.join(&own);
        Ok(covered)
    }

    /// Refreshes what this process wrote, then searches.
    pub(super) async fn find(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        query.filter.check_size().map_err(|error| StoreError::Unsupported(error.to_string()))?;
        let covered = self.searchable().await?;
        let mut cost = Cost::default();
        let mut found = self.find_traces(query, &mut cost).await;
        if found.as_ref().is_err_and(was_replaced) {
            // A day was on its way to another tier: its name leads to the copy by now. Whoever waits no
            // longer drops this.
            cost = Cost::default();
            found = self.find_traces(query, &mut cost).await;
        }
        let matches = found?;
        self.metrics.candidates.inc_by(cost.candidates);
        let stats = SearchStats {
            spans_scanned: cost.candidates,
            bytes_read: cost.bytes,
            ..SearchStats::default()
        };
        // Whoever moves and removes old days does it behind our back: what is older may be gone.
        let retention = u64::try_from(self.config.retention.as_nanos()).unwrap_or(u64::MAX);
        let expired_until = Some(self.clock.now().minus(retention));
        let is_damaged = cost.is_damaged;
        Ok(SearchAnswer { matches, stats, covered, is_damaged, is_away: false, expired_until })
    }

    async fn find_traces(
        &self,
        query: &SearchQuery,
        cost: &mut Cost,
    ) -> Result<Vec<TraceMatch>, StoreError> {
        if query.limit == 0 {
            return Ok(vec![]);
        }
        let plan = Plan::new(query, self.config.jaeger_tags_are_nested);
        let mut range = query.range;
        if let Some((time, _)) = query.before {
            range.end = range.end.min(time.plus(1));
        }
        let mut scan = Scan::new(self, &plan, range, None, query.limit.saturating_mul(8));
        let (mut traces, mut shown) = (Traces::default(), HashSet::new());
        while let Some(spans) = scan.next(cost).await? {
            let known = self.shown_before(&plan, query, &spans, (&traces, &shown), cost).await?;
            known.iter().for_each(|trace_id| scan.leave_out(*trace_id));
            shown.extend(known);
            let last = spans.last().map(|span| (Reverse(span.placed), span.trace_id));
            for span in spans {
                let trace_id = span.trace_id;
                if !shown.contains(&trace_id) && traces.add(span) >= SPANS_OF_TRACE_MAX {
                    scan.leave_out(trace_id);
                }
            }
            if last.is_some_and(|last| traces.is_settled(query.limit, last, !scan.has_jaegers)) {
                break;
            }
        }
        let mut matches: Vec<TraceMatch> = traces.found.into_values().collect();
        matches.sort_by_key(TraceMatch::order_key);
        matches.truncate(query.limit);
        Ok(matches)
    }

    /// Those traces of the spans that earlier pages have shown: their newest match lies before the
    /// cursor, not behind it.
    async fn shown_before(
        &self,
        plan: &Plan<'_>,
        query: &SearchQuery,
        spans: &[Found],
        (traces, shown): (&Traces, &HashSet<TraceId>),
        cost: &mut Cost,
    ) -> Result<HashSet<TraceId>, StoreError> {
        let Some((time, cursor)) = query.before else { return Ok(HashSet::new()) };
        let is_new = |id: &TraceId| !traces.found.contains_key(id) && !shown.contains(id);
        let new: BTreeSet<TraceId> =
            spans.iter().map(|span| span.trace_id).filter(is_new).collect();
        let mut known: HashSet<TraceId> = spans
            .iter()
            .filter(|span| span.placed == time && span.trace_id <= cursor)
            .map(|span| span.trace_id)
            .filter(is_new)
            .collect();
        let open: Vec<TraceId> = new.into_iter().filter(|id| !known.contains(id)).collect();
        let newer = TimeRange { start: time.plus(1).max(query.range.start), end: query.range.end };
        if open.is_empty() {
            return Ok(known);
        }
        let mut scan = Scan::new(self, plan, newer, Some(&open), open.len());
        while let Some(found) = scan.next(cost).await? {
            for span in found {
                scan.leave_out(span.trace_id);
                known.insert(span.trace_id);
            }
        }
        Ok(known)
    }
}
