//! The traces that a search has found so far, and when it has found enough.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use trace_model::query::TraceMatch;
use trace_model::{Region, SearchQuery, TraceId, UnixNanos};

/// Traces found.
#[derive(Debug)]
pub(crate) struct Found {
    matches: HashMap<TraceId, TraceMatch>,
    limit: usize,
    before: Option<(UnixNanos, TraceId)>,
}

impl Found {
    pub(crate) fn new(query: &SearchQuery) -> Self {
        Self { matches: HashMap::new(), limit: query.limit, before: query.before }
    }

    /// Notes a span that matches.
    pub(crate) fn add(
        &mut self,
        trace_id: TraceId,
        placed: UnixNanos,
        service: &Arc<str>,
        region: &Region,
    ) {
        let known = self.matches.entry(trace_id).or_insert_with(|| TraceMatch {
            trace_id,
            newest_match: placed,
            matched_spans: 0,
            services: BTreeSet::new(),
            regions: BTreeSet::new(),
        });
        known.newest_match = known.newest_match.max(placed);
        known.matched_spans = known.matched_spans.saturating_add(1);
        if !known.services.contains(service) {
            known.services.insert(Arc::clone(service));
        }
        if !known.regions.contains(region) {
            known.regions.insert(region.clone());
        }
    }

    /// Whether a trace lies behind the cursor. Traces before it are kept as well: a page must know
    /// them, lest an older span of theirs bring them back.
    fn is_wanted(&self, found: &TraceMatch) -> bool {
        self.before
            .is_none_or(|(time, trace_id)| found.order_key() > (std::cmp::Reverse(time), trace_id))
    }

    /// The time that a match has to reach to change the answer: that of the last trace within the
    /// limit; `None` while there is room.
    pub(crate) fn threshold(&self) -> Option<UnixNanos> {
        if self.limit == 0 {
            return Some(UnixNanos::MAX);
        }
        let wanted = self.matches.values().filter(|found| self.is_wanted(found));
        let mut times: Vec<UnixNanos> = wanted.map(|found| found.newest_match).collect();
        let excess = times.len().checked_sub(self.limit)?;
        let (_, last, _) = times.select_nth_unstable(excess);
        Some(*last)
    }

    /// The answer: newest first.
    pub(crate) fn finish(self) -> Vec<TraceMatch> {
        let mut wanted: Vec<TraceMatch> =
            self.matches.values().filter(|found| self.is_wanted(found)).cloned().collect();
        wanted.sort_unstable_by_key(TraceMatch::order_key);
        wanted.truncate(self.limit);
        wanted
    }
}
