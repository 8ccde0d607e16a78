//! Traces from the index alone, newest first.

use std::collections::HashSet;

use rustc_hash::FxBuildHasher;
use trace_model::location::SummaryQuery;
use trace_model::{TraceEntry, TraceId, UnixNanos};

use super::postings::bucket_of;
use super::{HotIndex, Place, trace_hash};

/// What a question for summaries found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summaries {
    /// The traces, newest start first.
    pub entries: Vec<(TraceId, TraceEntry)>,
    /// Rows looked at.
    pub rows_scanned: u64,
}

impl HotIndex {
    /// Traces that answer the query, newest start first. A trace of which only routes are known
    /// answers only a query that asks for nothing but a time.
    #[must_use]
    pub fn summaries(&self, query: &SummaryQuery) -> Summaries {
        let mut found = Summaries::default();
        let Some(tenant) = self.names.id_of(query.tenant.as_str()) else { return found };
        let mut services = Vec::new();
        for name in [&query.service, &query.root_service].into_iter().flatten() {
            let Some(id) = self.names.id_of(name) else { return found };
            services.push(Some(id));
        }
        let last = query.range.end.minus(1);
        if query.range.start >= query.range.end {
            return found;
        }
        let range = (bucket_of(query.range.start), bucket_of(last));
        for (number, bucket) in self.postings.newest_first(tenant, range.0, range.1) {
            if found.entries.len() >= query.limit {
                break;
            }
            let candidates = bucket.candidates(&services, query.only_errors);
            let place = Place { tenant, bucket: number };
            let mut matches = self.matches(candidates, place, query, &mut found.rows_scanned);
            matches.sort_unstable_by(|left, right| (right.0, left.1).cmp(&(left.0, right.1)));
            let room = query.limit.saturating_sub(found.entries.len());
            found.entries.extend(matches.into_iter().take(room).map(|(_, id, entry)| (id, entry)));
        }
        found
    }

    fn matches(
        &self,
        candidates: &[u32],
        place: Place,
        query: &SummaryQuery,
        rows_scanned: &mut u64,
    ) -> Vec<(UnixNanos, TraceId, TraceEntry)> {
        let mut seen: HashSet<[u8; 16], FxBuildHasher> = HashSet::default();
        let mut matches = Vec::new();
        for id in candidates {
            let Some(row) = self.view(*id) else { continue };
            if row.tenant != place.tenant || !seen.insert(row.trace_id) {
                continue;
            }
            let Ok(trace_id) = TraceId::from_bytes(row.trace_id) else { continue };
            let ids = self.rows_of(trace_hash(row.tenant, &row.trace_id), row.tenant, trace_id);
            *rows_scanned = rows_scanned.saturating_add(ids.len() as u64);
            if self.place(&ids) != Some(place) {
                continue;
            }
            let mut entry = TraceEntry::default();
            for contribution in ids.iter().filter_map(|id| self.contribution(*id)) {
                entry.join(contribution);
            }
            if let Some(start) = answers(query, &entry) {
                matches.push((start, trace_id, entry));
            }
        }
        matches
    }
}

/// The time by which the trace is shown, where it answers the query.
pub(super) fn answers(query: &SummaryQuery, entry: &TraceEntry) -> Option<UnixNanos> {
    let summary = entry.summary();
    if summary.regions.is_empty() || !query.accepts(&summary) {
        return None;
    }
    let arrival = || entry.contributions.values().map(|row| row.last_append).min();
    let start = summary.min_start.or_else(arrival)?;
    query.range.contains(start).then_some(start)
}
