//! From what regions were asked and what they said to the completeness certificate. Pure.

use std::collections::BTreeMap;

use trace_model::{Certificate, Region, RegionOutcome, RegionReport, TraceId};

use crate::region_read::{RegionAnswer, RegionSummary};
use crate::route::Plan;

/// What a region says whose live tail answered without its store.
const LACKS_STORE: &str = "its trace store did not answer: these are the spans of its live tail";

/// The certificate of one trace's answer.
#[must_use]
pub fn certify(
    plan: &Plan,
    answers: &BTreeMap<Region, RegionAnswer>,
    trace_id: TraceId,
) -> Certificate {
    let mut certificate = Certificate::default();
    for report in &plan.settled {
        certificate.add(report.clone());
    }
    for (region, asked) in &plan.asked {
        certificate.add(report_of(asked.report.clone(), answers.get(region), trace_id));
    }
    certificate
}

/// A region's report, from its answer. No answer at all is a failure too.
fn report_of(
    report: RegionReport,
    answer: Option<&RegionAnswer>,
    trace_id: TraceId,
) -> RegionReport {
    let Some(answer) = answer else {
        let reason = Some("it was not asked".to_owned());
        return RegionReport { outcome: RegionOutcome::Unavailable, reason, ..report };
    };
    let elapsed_millis = u64::try_from(answer.elapsed.as_millis()).unwrap_or(u64::MAX);
    let trace = answer.traces.get(&trace_id);
    let spans = trace.map_or(0, |trace| trace.spans.len() as u64);
    let report = RegionReport { elapsed_millis, spans, ..report };
    let failure = answer.failure.as_ref();
    match (trace.and_then(|trace| trace.summary.as_ref()), failure) {
        (Some(summary), _) => RegionReport {
            outcome: summary.outcome,
            covered: summary.covered.clone(),
            is_damaged: summary.is_damaged,
            lacks_store: summary.lacks_store,
            reason: what_is_away(summary).or(report.reason),
            ..report
        }
        .with_expiry(summary.expired_until),
        (None, Some(failure)) => {
            RegionReport { outcome: failure.outcome(), reason: Some(failure.to_string()), ..report }
        }
        (None, None) => RegionReport {
            outcome: RegionOutcome::Invalid,
            reason: Some("it said nothing about the trace".to_owned()),
            ..report
        },
    }
}

/// The part of a region that did not answer, in words.
fn what_is_away(summary: &RegionSummary) -> Option<String> {
    if summary.lacks_store {
        return Some(LACKS_STORE.to_owned());
    }
    match summary.away_collectors.as_slice() {
        [] => None,
        [one] => Some(format!("collector {one} does not answer")),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            Some(format!("collectors {} do not answer", several.join(", ")))
        }
    }
}
