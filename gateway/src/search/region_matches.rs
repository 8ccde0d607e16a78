//! One region's matches: believed only where they can be right, and certified by position.
//!
//! A search over a live system is complete as of a time. What was promised is the region's
//! published log: its watermark in the index of this gateway says up to which offsets every record
//! has been published. A region whose stores have not taken in as much answers, and is behind: what
//! the index knows, its search may not find.

use std::collections::BTreeSet;

use proto::convert::query::{missed_reason, optional_time, region_outcome, trace_match};
use proto::v1;
use trace_model::location::RegionState;
use trace_model::query::SearchStats;
use trace_model::{Region, RegionOutcome, RegionReport, SearchQuery, TraceMatch};

use crate::ask_all::promises;
use crate::port::CellError;

/// Why a region that answered is not whole.
const LACKS_STORE: &str =
    "a part of its trace store did not answer: these are the matches of the rest";

/// What one region found.
pub(super) struct RegionMatches {
    pub(super) report: RegionReport,
    pub(super) matches: Vec<TraceMatch>,
    pub(super) stats: SearchStats,
}

impl RegionMatches {
    /// What a region found, if it can be right: its own name, no more than asked for, matches
    /// inside of the range and behind the cursor, newest first, each trace once. `state` is what
    /// the index had of the region before it was asked.
    pub(super) fn check(
        region: &Region,
        answer: v1::SearchTracesResponse,
        query: &SearchQuery,
        state: Option<&RegionState>,
    ) -> Result<Self, CellError> {
        if answer.region != region.as_str() {
            return Err(invalid("it answered under another region's name"));
        }
        let outcome =
            region_outcome(answer.outcome()).map_err(|error| invalid(&error.to_string()))?;
        if answer.matches.len() > query.limit {
            return Err(invalid("more matches than were asked for"));
        }
        if outcome == RegionOutcome::Forbidden && !answer.matches.is_empty() {
            return Err(invalid("it forbids what it sent"));
        }
        let mut matches = Vec::with_capacity(answer.matches.len());
        for found in answer.matches {
            matches.push(trace_match(found, region).map_err(|error| invalid(&error.to_string()))?);
        }
        check_order(&matches, query)?;
        let watermark = state.and_then(|state| state.watermark.as_ref());
        let missed = missed_reason(&answer.missed_by);
        let is_missed = missed.is_some();
        let mut report = RegionReport {
            watermark: watermark.map(|watermark| watermark.as_of),
            promised: watermark.map(promises).unwrap_or_default(),
            covered: answer.coverage.map(Into::into),
            as_of: optional_time(answer.searched_until_unix_nano),
            // A cell sets this one beside each of the others.
            is_damaged: answer.is_damaged && !answer.lacks_store && !is_missed,
            lacks_store: answer.lacks_store,
            is_missed,
            reason: if answer.lacks_store { Some(LACKS_STORE.to_owned()) } else { missed },
            spans: matches.iter().map(|found| u64::from(found.matched_spans)).sum(),
            ..RegionReport::new(region.clone(), outcome)
        };
        report.forget_kept();
        let expired_until = optional_time(answer.expired_until_unix_nano);
        let report = report.with_expiry_since(expired_until, query.range.start);
        let stats = answer.stats.map(Into::into).unwrap_or_default();
        Ok(Self { report, matches, stats })
    }

    /// A region that found nothing because it failed.
    pub(super) fn failed(region: &Region, error: &CellError) -> Self {
        let report = RegionReport {
            reason: Some(error.to_string()),
            ..RegionReport::new(region.clone(), error.outcome())
        };
        Self { report, matches: Vec::new(), stats: SearchStats::default() }
    }
}

fn check_order(matches: &[TraceMatch], query: &SearchQuery) -> Result<(), CellError> {
    let is_ordered = matches.is_sorted_by(|one, two| one.order_key() < two.order_key());
    let is_inside = matches.iter().all(|found| query.range.contains(found.newest_match));
    let after = query.before.map(|(time, trace_id)| (std::cmp::Reverse(time), trace_id));
    let is_behind = after.is_none_or(|after| matches.iter().all(|found| found.order_key() > after));
    let mut seen = BTreeSet::new();
    let is_unique = matches.iter().all(|found| seen.insert(found.trace_id));
    if is_ordered && is_inside && is_behind && is_unique {
        return Ok(());
    }
    Err(invalid("matches outside of the question or out of order"))
}

fn invalid(reason: &str) -> CellError {
    CellError::Invalid(reason.to_owned())
}
