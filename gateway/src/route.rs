//! Which regions are asked for a trace, and what is said of those that are not.
//!
//! Pure: from what the index knows to a plan. A region is left out only under a proof (its
//! watermark) or a word of its own (erased, sampled out); a region that may hold a part and cannot
//! be asked is in the plan as missing, never forgotten.

use std::collections::{BTreeMap, BTreeSet};

use trace_model::completeness::Promise;
use trace_model::location::{Keep, RegionState};
use trace_model::{
    Contribution, Region, RegionOutcome, RegionReport, Sought, TimeRange, TraceEntry, UnixNanos,
};

use crate::config::Freshness;

/// Where the gateway stands: its region, and the cells that it can reach.
#[derive(Clone, Debug)]
pub struct Footing {
    /// Its own region.
    pub own: Region,
    /// The regions of the cells that it can reach.
    pub reachable: BTreeSet<Region>,
    /// Regions whose policy publishes no index.
    pub unindexed: BTreeSet<Region>,
}

/// A region that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its report so far: what the index promised, under which watermark. The outcome is filled in
    /// when it has answered.
    pub report: RegionReport,
    /// Between which times all spans were placed that the index promises; `None`: not known.
    pub placed: Option<TimeRange>,
    /// It is asked because the index does not know the trace.
    pub is_miss_round: bool,
}

/// Who is asked for a trace, and what is known of everyone else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Regions to ask.
    pub asked: BTreeMap<Region, Asked>,
    /// Regions that are not asked, with the reason.
    pub settled: Vec<RegionReport>,
    /// The index does not know the trace (or did not answer).
    pub is_miss: bool,
}

impl Plan {
    /// Whether other regions are asked on a guess: such rounds have a budget.
    #[must_use]
    pub fn has_miss_round(&self) -> bool {
        self.asked.values().any(|asked| asked.is_miss_round)
    }
}

/// Routes one trace. `index` is `None` when the index did not answer: then it knows nothing, and
/// every reachable region may hold the trace.
#[must_use]
pub fn route(
    footing: &Footing,
    index: Option<(&TraceEntry, &[RegionState])>,
    freshness: Freshness,
) -> Plan {
    let empty = TraceEntry::default();
    let (entry, states) = index.unwrap_or((&empty, &[]));
    let is_miss = entry.contributions.is_empty();
    let mut regions: BTreeSet<&Region> = footing.reachable.iter().collect();
    regions.insert(&footing.own);
    regions.extend(states.iter().map(|state| &state.region));
    regions.extend(entry.contributions.keys().map(|writer| &writer.region));
    let mut plan = Plan { is_miss, ..Plan::default() };
    for region in regions {
        let known = Known::of(region, entry, states);
        let report = known.report(footing);
        match known.decide(footing, is_miss, freshness) {
            Decision::Ask { is_miss_round } if footing.reachable.contains(region) => {
                plan.asked.insert(region.clone(), known.asked(report, is_miss_round));
            }
            Decision::Ask { .. } => plan.settled.push(RegionReport {
                outcome: RegionOutcome::Unavailable,
                reason: Some("not configured in this gateway".to_owned()),
                ..report
            }),
            Decision::LeaveOut(outcome) => {
                plan.settled.push(left_out(report, outcome));
            }
        }
    }
    plan
}

/// A region that is left out is so as of its watermark, where that is what speaks for it.
fn left_out(report: RegionReport, outcome: RegionOutcome) -> RegionReport {
    let is_by_watermark = outcome == RegionOutcome::Pruned && !report.is_not_provable;
    let as_of = report.watermark.filter(|_| is_by_watermark);
    RegionReport { outcome, as_of, ..report }
}

enum Decision {
    Ask { is_miss_round: bool },
    LeaveOut(RegionOutcome),
}

/// What the index knows about one region's part.
struct Known<'a> {
    region: &'a Region,
    state: Option<&'a RegionState>,
    /// When a record of the trace was last appended, in any region.
    newest: UnixNanos,
    held: Vec<&'a Contribution>,
    /// When the trace began, by what all regions say; `None` where one of them withholds it.
    since: Option<UnixNanos>,
    is_erased: bool,
    is_sampled_out: bool,
}

impl<'a> Known<'a> {
    fn of(region: &'a Region, entry: &'a TraceEntry, states: &'a [RegionState]) -> Self {
        let own: Vec<&Contribution> = entry
            .contributions
            .values()
            .filter(|contribution| contribution.writer.region == *region)
            .collect();
        let is_out = |contribution: &Contribution| {
            !contribution.is_erased && contribution.keep == Keep::SampledOut
        };
        let newest = entry.contributions.values().map(|held| held.last_append).max();
        Self {
            region,
            since: began(entry),
            newest: newest.unwrap_or_default(),
            state: states.iter().find(|state| state.region == *region),
            is_erased: own.iter().any(|contribution| contribution.is_erased),
            is_sampled_out: own.iter().any(|contribution| is_out(contribution)),
            held: own
                .into_iter()
                .filter(|held| !held.is_erased && held.keep != Keep::SampledOut)
                .collect(),
        }
    }

    fn decide(&self, footing: &Footing, is_miss: bool, freshness: Freshness) -> Decision {
        let is_own = *self.region == footing.own;
        if is_own || !self.held.is_empty() || freshness == Freshness::Now {
            let is_miss_round = is_miss && !is_own;
            return Decision::Ask { is_miss_round };
        }
        if self.is_erased {
            return Decision::LeaveOut(RegionOutcome::Erased);
        }
        if self.is_sampled_out {
            return Decision::LeaveOut(RegionOutcome::SampledOut);
        }
        let may_hold_unseen = match freshness {
            Freshness::Index | Freshness::Now => false,
            Freshness::Auto if is_miss => true,
            Freshness::Auto => !footing.unindexed.contains(self.region) && !self.rules_out(),
        };
        if may_hold_unseen {
            return Decision::Ask { is_miss_round: is_miss };
        }
        Decision::LeaveOut(RegionOutcome::Pruned)
    }

    /// Whether nothing of the trace can be in this region, as far as its index has come.
    fn rules_out(&self) -> bool {
        self.proves_absence() && self.has_seen_the_trace()
    }

    /// Whether the region's watermark lies at or behind the trace's newest record. Below it the
    /// region may hold a part that its index has not told yet: it is asked, not pruned.
    fn has_seen_the_trace(&self) -> bool {
        let watermark = self.state.and_then(|state| state.watermark.as_ref());
        watermark.is_some_and(|watermark| watermark.as_of >= self.newest)
    }

    fn proves_absence(&self) -> bool {
        let sought = Sought { began: self.since, newest: None };
        self.state.is_some_and(|state| state.judge_absence(&sought).is_proven())
    }

    fn asked(&self, report: RegionReport, is_miss_round: bool) -> Asked {
        Asked { report, placed: self.placed(), is_miss_round }
    }

    /// Between which times all spans were placed that the index promises of the region. Not known
    /// where a row withholds its times, or counts a part of its spans alone.
    fn placed(&self) -> Option<TimeRange> {
        let times = self.held.iter().map(|held| {
            let detail = held.detail.as_ref().filter(|detail| !detail.is_lower_bound)?;
            Some((detail.min_start, detail.max_end))
        });
        let times: Vec<(UnixNanos, UnixNanos)> = times.collect::<Option<_>>()?;
        let start = times.iter().map(|(start, _)| *start).min()?;
        let end = times.iter().map(|(_, end)| *end).max()?;
        Some(TimeRange { start, end: end.plus(1) })
    }

    /// A report with all that the index says; its outcome is a placeholder until it is decided.
    fn report(&self, footing: &Footing) -> RegionReport {
        let watermark = self.state.and_then(|state| state.watermark.as_ref());
        let promise = |held: &&Contribution| Promise {
            writer: held.writer.clone(),
            version: held.version,
            last_append: held.last_append,
            min_start: held.detail.as_ref().map(|detail| detail.min_start),
        };
        RegionReport {
            watermark: watermark.map(|watermark| watermark.as_of),
            has_hole: !self.proves_absence(),
            is_not_provable: footing.unindexed.contains(self.region),
            promised: self.held.iter().map(promise).collect(),
            ..RegionReport::new(self.region.clone(), RegionOutcome::Pruned)
        }
    }
}

/// The earliest start that the index knows of the trace; `None` where a region withholds its own.
fn began(entry: &TraceEntry) -> Option<UnixNanos> {
    let start = |held: &Contribution| held.detail.as_ref().map(|detail| detail.min_start);
    let starts: Option<Vec<UnixNanos>> = entry.contributions.values().map(start).collect();
    starts?.into_iter().min()
}
