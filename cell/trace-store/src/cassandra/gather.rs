//! Gathers what index rows say into the newest traces. Pure.

use hashbrown::HashMap;
use trace_model::{Region, SearchQuery, TraceId, TraceMatch, UnixNanos};

use super::entries::Entry;
use super::question::Question;

/// Traces that were met, newest rows first.
#[derive(Debug)]
pub(super) struct Gather<'q> {
    query: &'q SearchQuery,
    question: &'q Question,
    /// `None`: read and found not to match.
    found: HashMap<TraceId, Option<TraceMatch>>,
}

impl<'q> Gather<'q> {
    pub(super) fn new(query: &'q SearchQuery, question: &'q Question) -> Self {
        Self { query, question, found: HashMap::new() }
    }

    /// Whether an entry is meant.
    fn holds(&self, entry: &Entry) -> bool {
        let is_operation = |wanted: &(String, u64)| wanted.1 == entry.operation;
        self.query.range.contains(entry.placed)
            && self.question.operation.as_ref().is_none_or(is_operation)
    }

    /// The newest entry of a row that is meant, and how many are.
    pub(super) fn matching(&self, entries: &[Entry]) -> Option<(UnixNanos, u32)> {
        let held = || entries.iter().filter(|entry| self.holds(entry));
        let newest = held().map(|entry| entry.placed).max()?;
        Some((newest, u32::try_from(held().count()).unwrap_or(u32::MAX)))
    }

    /// Whether the trace was read already.
    pub(super) fn knows(&self, trace_id: TraceId) -> bool {
        self.found.contains_key(&trace_id)
    }

    /// Takes in what a row says.
    pub(super) fn see(
        &mut self,
        trace_id: TraceId,
        (newest_match, matched_spans): (UnixNanos, u32),
        region: Region,
    ) {
        let one = TraceMatch {
            trace_id,
            newest_match,
            matched_spans,
            services: [self.question.service.as_str().into()].into(),
            regions: [region].into(),
        };
        self.put(trace_id, Some(one));
    }

    /// Takes in what reading a trace gave.
    pub(super) fn put(&mut self, trace_id: TraceId, one: Option<TraceMatch>) {
        let known = self.found.entry(trace_id).or_default();
        match (known, one) {
            (Some(known), Some(one)) => known.join(one),
            (known, Some(one)) => *known = Some(one),
            (_, None) => {}
        }
    }

    fn is_behind_cursor(&self, one: &TraceMatch) -> bool {
        let cursor = self.query.before.map(|(time, id)| (std::cmp::Reverse(time), id));
        cursor.is_none_or(|cursor| one.order_key() > cursor)
    }

    /// Whether the page is full with traces newer than everything that was not looked at.
    pub(super) fn is_full(&self, frontier: UnixNanos) -> bool {
        let is_final =
            |one: &&TraceMatch| one.newest_match > frontier && self.is_behind_cursor(one);
        let count = self.found.values().flatten().filter(is_final).count();
        count >= self.query.limit
    }

    /// The page.
    pub(super) fn into_matches(mut self) -> Vec<TraceMatch> {
        let found = std::mem::take(&mut self.found);
        let mut matches: Vec<TraceMatch> = found.into_values().flatten().collect();
        matches.retain(|one| self.is_behind_cursor(one));
        matches.sort_by_key(TraceMatch::order_key);
        matches.truncate(self.query.limit);
        matches
    }
}
