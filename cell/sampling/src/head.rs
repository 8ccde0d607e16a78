//! Head sampling: the decision before the span log, on what a single span shows.

use std::fmt;

use trace_model::sampling_threshold::{InvalidRate, Threshold};
use trace_model::{TenantId, TraceId};

/// What a head sampler may look at.
#[derive(Clone, Copy, Debug)]
pub struct HeadTrace<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The trace.
    pub trace_id: TraceId,
    /// OTLP `Span.flags` as sent; 0 where absent.
    pub flags: u32,
}

/// Why a span is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropCause {
    /// The trace's randomness lies below the threshold of the rate.
    Rate,
    /// The sender says that the trace was not sampled.
    UnsampledFlag,
}

impl DropCause {
    /// The label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::UnsampledFlag => "unsampled_flag",
        }
    }
}

/// The decision over one span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadDecision {
    /// Kept, having passed this threshold: its adjusted count goes into the envelope.
    Keep(Threshold),
    /// Not kept.
    Drop(DropCause),
}

/// The port of head sampling.
///
/// **Consistency.** The threshold of a [`HeadDecision::Keep`] depends on tenant and trace id only:
/// all spans of a trace that are kept carry the same one, in every collector of the region.
/// **Purity.** A decision has no side effects and does not block: it is taken for every span.
pub trait HeadSampler: Send + Sync + fmt::Debug {
    /// Decides over a span.
    fn decide(&self, trace: &HeadTrace<'_>) -> HeadDecision;
}

/// What a region's operator says about head sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadRules {
    /// Share of traces that is kept, 0 to 1.
    pub rate: f64,
    /// Whether spans whose W3C flag says *not sampled* are dropped. Off by default: several SDKs
    /// fill the bits of `Span.flags` that tell a remote parent and leave the trace flags at zero,
    /// and would lose everything.
    pub honour_flags: bool,
}

impl Default for HeadRules {
    fn default() -> Self {
        Self { rate: 1.0, honour_flags: false }
    }
}

/// One rate for all traces: a threshold on the id's low 56 bits (OpenTelemetry, *consistent
/// probability sampling*), so that what a lower rate keeps a higher rate keeps too.
#[derive(Clone, Copy, Debug)]
pub struct RateSampler {
    threshold: Threshold,
    honour_flags: bool,
}

impl RateSampler {
    /// A sampler of these rules; a rate outside 0 to 1 is refused.
    pub fn new(rules: HeadRules) -> Result<Self, InvalidRate> {
        let threshold = Threshold::from_rate(rules.rate)?;
        Ok(Self { threshold, honour_flags: rules.honour_flags })
    }
}

impl HeadSampler for RateSampler {
    fn decide(&self, trace: &HeadTrace<'_>) -> HeadDecision {
        if self.honour_flags && is_unsampled(trace.flags) {
            return HeadDecision::Drop(DropCause::UnsampledFlag);
        }
        if !self.threshold.keeps(trace.trace_id) {
            return HeadDecision::Drop(DropCause::Rate);
        }
        HeadDecision::Keep(self.threshold)
    }
}

/// W3C trace flag `sampled` (OTLP `SPAN_FLAGS_TRACE_FLAGS_MASK`, bit 0).
const SAMPLED: u32 = 0x001;
/// OTLP `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: the sender fills `flags` at all.
const HAS_IS_REMOTE: u32 = 0x100;

/// Whether the sender says that the span was not sampled. `flags` is optional in OTLP and 0 where
/// it is not filled, so a clear bit alone says nothing: it counts only beside `HAS_IS_REMOTE`.
/// Source: `opentelemetry/proto/trace/v1/trace.proto`, `SpanFlags`.
#[must_use]
pub const fn is_unsampled(flags: u32) -> bool {
    flags & HAS_IS_REMOTE != 0 && flags & SAMPLED == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decide(rate: f64, honour_flags: bool, id: [u8; 16], flags: u32) -> HeadDecision {
        let sampler = RateSampler::new(HeadRules { rate, honour_flags }).unwrap();
        let tenant = TenantId::default();
        let trace_id = TraceId::from_bytes(id).unwrap();
        sampler.decide(&HeadTrace { tenant: &tenant, trace_id, flags })
    }

    #[test]
    fn the_default_keeps_everything_and_stands_for_itself() {
        let rules = HeadRules::default();
        let found = decide(rules.rate, rules.honour_flags, [1; 16], HAS_IS_REMOTE);
        assert_eq!(found, HeadDecision::Keep(Threshold::KEEP_ALL));
    }

    #[test]
    fn an_unsampled_flag_counts_only_where_the_sender_fills_flags() {
        for (flags, is_dropped) in
            [(0, false), (1, false), (0x100, true), (0x101, false), (0x300, true), (0x301, false)]
        {
            let found = decide(1.0, true, [7; 16], flags);
            let expected = HeadDecision::Drop(DropCause::UnsampledFlag);
            assert_eq!(found == expected, is_dropped, "{flags:#x}");
            assert!(matches!(decide(1.0, false, [7; 16], flags), HeadDecision::Keep(_)));
        }
    }

    #[test]
    fn a_rate_outside_zero_to_one_is_refused() {
        for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(RateSampler::new(HeadRules { rate, honour_flags: false }).is_err(), "{rate}");
        }
    }

    proptest! {
        #[test]
        fn what_a_lower_rate_keeps_a_higher_rate_keeps(
            id in proptest::array::uniform16(1_u8..), low in 0.0_f64..1.0, high in 0.0_f64..1.0
        ) {
            let (low, high) = if low <= high { (low, high) } else { (high, low) };
            let kept_low = matches!(decide(low, false, id, 0), HeadDecision::Keep(_));
            let kept_high = matches!(decide(high, false, id, 0), HeadDecision::Keep(_));
            prop_assert!(!kept_low || kept_high);
        }

        #[test]
        fn all_spans_of_a_kept_trace_carry_one_threshold(
            id in proptest::array::uniform16(1_u8..), rate in 0.0_f64..1.0, flags in any::<u32>()
        ) {
            let first = decide(rate, false, id, 0);
            prop_assert_eq!(first, decide(rate, false, id, flags));
            if let HeadDecision::Keep(threshold) = first {
                prop_assert_eq!(threshold, Threshold::from_rate(rate).unwrap());
            }
        }
    }
}
