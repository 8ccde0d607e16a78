//! An answer by trace id: its spans, what they make, and how complete they are.

use trace_model::assemble::{Trace, assemble};
use trace_model::{Certificate, RegionReport, TraceSpans};

use crate::region_read::SPAN_OVERHEAD_BYTES;
use crate::room::Held;

/// All that was found of a trace, and the certificate.
#[derive(Clone, Debug)]
pub struct TraceAnswer {
    /// The spans of all regions that answered, each once.
    pub spans: TraceSpans,
    /// What each region had to say.
    pub certificate: Certificate,
    /// The room that the spans take.
    pub held: Held,
}

/// What an answer by trace id amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Spans were found. The certificate says whether they are all.
    Found,
    /// Nothing was found, and every region that may hold the trace answered, is proven not to hold
    /// it, or withholds it and says so.
    NotFound,
    /// Nothing was found, and something failed or fell short: the trace may exist.
    Unproven,
}

impl TraceAnswer {
    /// What the answer amounts to.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if !self.spans.is_empty() {
            return Standing::Found;
        }
        if self.certificate.regions.values().all(RegionReport::is_whole) {
            return Standing::NotFound;
        }
        Standing::Unproven
    }

    /// About how many bytes of memory the spans take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.spans.iter().map(|span| span.span.len() as u64);
        bytes.fold(0, |sum, bytes| sum.saturating_add(bytes).saturating_add(SPAN_OVERHEAD_BYTES))
    }

    /// The spans as a tree, and how many of them could not be read (their bytes are kept).
    #[must_use]
    pub fn assemble(&self) -> (Trace, usize) {
        let (spans, unreadable) = proto::decode::read_spans(self.spans.iter());
        (assemble(spans), unreadable)
    }
}

#[cfg(test)]
mod tests {
    use trace_model::{Region, RegionOutcome, TraceId};

    use super::*;

    fn answer(outcomes: &[(RegionOutcome, bool)]) -> TraceAnswer {
        let mut certificate = Certificate::default();
        for (number, (outcome, has_hole)) in outcomes.iter().enumerate() {
            let region = Region::new(&format!("r{number}")).unwrap();
            certificate
                .add(RegionReport { has_hole: *has_hole, ..RegionReport::new(region, *outcome) });
        }
        let spans = TraceSpans::new(TraceId::from_bytes([1; 16]).unwrap());
        TraceAnswer { spans, certificate, held: Held::default() }
    }

    #[test]
    fn nothing_found_is_not_found_only_where_no_region_is_missing() {
        use RegionOutcome as Outcome;
        let answered = (Outcome::Answered, false);
        for (other, standing) in [
            ((Outcome::Answered, false), Standing::NotFound),
            ((Outcome::Pruned, false), Standing::NotFound),
            ((Outcome::Pruned, true), Standing::Unproven),
            ((Outcome::TimedOut, false), Standing::Unproven),
            ((Outcome::Unavailable, false), Standing::Unproven),
            ((Outcome::Invalid, false), Standing::Unproven),
            ((Outcome::Forbidden, false), Standing::NotFound),
            ((Outcome::Erased, false), Standing::NotFound),
            ((Outcome::Expired, false), Standing::NotFound),
            ((Outcome::SampledOut, false), Standing::NotFound),
        ] {
            assert_eq!(answer(&[answered, other]).standing(), standing, "{other:?}");
        }
    }
}
