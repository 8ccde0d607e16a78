//! A certificate in one line.

use std::borrow::Cow;
use std::fmt;

use super::{Certificate, RegionOutcome, RegionReport, Verdict};

/// The line that people read: `complete: 3 of 3 regions`, or
/// `partial: 2 of 3 regions; missing ap-southeast-1 (timed_out)`; with
/// `; as of 2026-11-21T12:00:00.250Z` behind it where a region says up to when it looked, or is left
/// out under a watermark.
impl fmt::Display for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.regions.len();
        let whole = self.regions.values().filter(|report| report.is_whole()).count();
        match self.verdict() {
            Verdict::Complete => write!(formatter, "complete: {whole} of {all} regions")?,
            Verdict::Partial => write!(formatter, "partial: {whole} of {all} regions")?,
        }
        for (word, reports) in [
            ("missing", self.missing().collect::<Vec<_>>()),
            ("withheld by", self.withheld().collect()),
            ("not provable", self.not_provable().collect()),
        ] {
            for (index, report) in reports.into_iter().enumerate() {
                let lead = if index == 0 { format!("; {word} ") } else { ", ".to_owned() };
                write!(formatter, "{lead}{} ({})", report.region, report.short_reason())?;
            }
        }
        match self.as_of() {
            Some(as_of) => write!(formatter, "; as of {as_of}"),
            None => Ok(()),
        }
    }
}

impl RegionReport {
    pub(super) fn short_reason(&self) -> Cow<'static, str> {
        let is_answered = self.outcome == RegionOutcome::Answered;
        if is_answered && (self.lacks_store || self.is_damaged) {
            return match &self.reason {
                _ if self.lacks_store => "its trace store is away".into(),
                Some(reason) => reason.clone().into(),
                None => "damaged".into(),
            };
        }
        if is_answered && !self.kept_promises() {
            return self.how_far_behind();
        }
        if is_answered && self.is_missed {
            return match &self.reason {
                Some(reason) => reason.clone().into(),
                None => "records missed".into(),
            };
        }
        if self.is_cut && (is_answered || self.outcome == RegionOutcome::Pruned) {
            return match &self.reason {
                Some(reason) => format!("cut short: {reason}").into(),
                None => "cut short".into(),
            };
        }
        if self.outcome == RegionOutcome::Pruned && self.is_not_provable {
            return "publishes no index".into();
        }
        if self.outcome == RegionOutcome::Pruned && self.has_hole {
            return "not provable: a hole in its watermark".into();
        }
        self.outcome.word().into()
    }

    /// Records can be counted where the promise was about the whole log and not about one trace.
    fn how_far_behind(&self) -> Cow<'static, str> {
        match (self.as_of, self.records_behind()) {
            (Some(as_of), Some(records)) => {
                format!("behind its promise by {records} records, as of {as_of}").into()
            }
            (Some(as_of), None) => format!("behind its promise, as of {as_of}").into(),
            (None, _) => "behind its promise".into(),
        }
    }
}
