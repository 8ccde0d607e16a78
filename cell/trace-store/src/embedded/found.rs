//! The traces that a search has found so far, and when it has found enough.
//!
//! **Bounded.** Only what can still come into the answer is kept: the newest within the limit, and
//! some beside them. A trace that is let go and found again by a newer span comes back with that
//! span alone: its place in the answer is right, its counts are what was seen of it since.
//!
//! **Pages.** A trace belongs to the page of its newest match. Here come only matches behind the
//! cursor, so each trace found may have a newer one before it, and is *doubtful* until somebody has
//! looked (`earlier_pages`). Nothing is let go while one of the newest is doubtful: those behind
//! would be needed in its place.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use trace_model::query::TraceMatch;
use trace_model::{Region, SearchQuery, TraceId, UnixNanos};

/// Traces that are kept beside those within the limit, so that little is forgotten of one that
/// rises.
const KEPT_BESIDE: usize = 1_024;
/// Services that a match lists.
const SERVICES_MAX: usize = 256;
/// Traces of earlier pages that are remembered: a further one is looked up as often as it comes.
const EARLIER_MAX: usize = 16 << 10;

/// The order of answers.
type OrderKey = (Reverse<UnixNanos>, TraceId);

/// Traces found.
#[derive(Debug)]
pub(crate) struct Found {
    traces: HashMap<TraceId, FoundTrace>,
    /// Some of those that are on an earlier page.
    earlier: HashSet<TraceId>,
    limit: usize,
    before: Option<OrderKey>,
}

#[derive(Debug)]
struct FoundTrace {
    seen: TraceMatch,
    /// On an earlier page, for all that is known.
    is_doubtful: bool,
}

impl Found {
    pub(crate) fn new(query: &SearchQuery) -> Self {
        let before = query.before.map(|(time, trace_id)| (Reverse(time), trace_id));
        Self { traces: HashMap::new(), earlier: HashSet::new(), limit: query.limit, before }
    }

    /// Whether a match lies on an earlier page.
    pub(crate) fn is_earlier(&self, trace_id: TraceId, placed: UnixNanos) -> bool {
        self.before.is_some_and(|cursor| (Reverse(placed), trace_id) <= cursor)
    }

    /// Notes a span that matches. One on an earlier page is not noted: whoever looks for such a
    /// trace finds it again.
    pub(crate) fn add(
        &mut self,
        trace_id: TraceId,
        placed: UnixNanos,
        service: &Arc<str>,
        region: &Region,
    ) {
        if self.is_earlier(trace_id, placed) || self.earlier.contains(&trace_id) {
            return;
        }
        let is_doubtful = self.before.is_some();
        let known = self.traces.entry(trace_id).or_insert_with(|| FoundTrace {
            seen: TraceMatch {
                trace_id,
                newest_match: placed,
                matched_spans: 0,
                services: BTreeSet::new(),
                regions: BTreeSet::new(),
            },
            is_doubtful,
        });
        let seen = &mut known.seen;
        seen.newest_match = seen.newest_match.max(placed);
        seen.matched_spans = seen.matched_spans.saturating_add(1);
        if seen.services.len() < SERVICES_MAX && !seen.services.contains(service) {
            seen.services.insert(Arc::clone(service));
        }
        if !seen.regions.contains(region) {
            seen.regions.insert(region.clone());
        }
    }

    /// The time that a match has to reach to change the answer: that of the last trace within the
    /// limit; `None` while there is room.
    pub(crate) fn threshold(&self) -> Option<UnixNanos> {
        if self.limit == 0 {
            return Some(UnixNanos::MAX);
        }
        let mut times: Vec<UnixNanos> =
            self.traces.values().map(|found| found.seen.newest_match).collect();
        let excess = times.len().checked_sub(self.limit)?;
        let (_, last, _) = times.select_nth_unstable(excess);
        Some(*last)
    }

    /// Whether so much is held that some of it is to be let go.
    pub(crate) fn is_crowded(&self) -> bool {
        self.traces.len() >= self.kept_max().saturating_mul(2)
    }

    const fn kept_max(&self) -> usize {
        self.limit.saturating_add(KEPT_BESIDE)
    }

    /// Of the newest traces, so many times the limit, those that may be on an earlier page; none
    /// where those within the limit are beyond doubt.
    pub(crate) fn doubtful(&self, times: usize) -> BTreeSet<TraceId> {
        let of_newest = |count: usize| {
            let last = self.key_at(count);
            let newest = self.traces.values().filter(move |found| {
                found.is_doubtful && last.is_none_or(|last| found.seen.order_key() < last)
            });
            newest.map(|found| found.seen.trace_id)
        };
        if self.before.is_none() || of_newest(self.limit).next().is_none() {
            return BTreeSet::new();
        }
        of_newest(self.limit.saturating_mul(times)).collect()
    }

    /// Takes away those that are on an earlier page; the others are beyond doubt.
    pub(crate) fn settle(&mut self, doubtful: &BTreeSet<TraceId>, earlier: &BTreeSet<TraceId>) {
        for trace_id in doubtful {
            if earlier.contains(trace_id) {
                self.traces.remove(trace_id);
                if self.earlier.len() < EARLIER_MAX {
                    self.earlier.insert(*trace_id);
                }
            } else if let Some(found) = self.traces.get_mut(trace_id) {
                found.is_doubtful = false;
            }
        }
    }

    /// Lets go what cannot come into the answer any more. None of the newest may be doubtful.
    pub(crate) fn let_go(&mut self) {
        if let Some(last) = self.key_at(self.kept_max()) {
            self.traces.retain(|_, found| found.seen.order_key() < last);
        }
    }

    /// The order key of the trace at this place, newest first; `None` where there are not so many.
    fn key_at(&self, place: usize) -> Option<OrderKey> {
        let mut keys: Vec<OrderKey> =
            self.traces.values().map(|found| found.seen.order_key()).collect();
        if place >= keys.len() {
            return None;
        }
        let (_, key, _) = keys.select_nth_unstable(place);
        Some(*key)
    }

    /// The answer: newest first.
    pub(crate) fn finish(self) -> Vec<TraceMatch> {
        let mut answer: Vec<TraceMatch> =
            self.traces.into_values().map(|found| found.seen).collect();
        answer.sort_unstable_by_key(TraceMatch::order_key);
        answer.truncate(self.limit);
        answer
    }
}

#[cfg(test)]
mod tests;
