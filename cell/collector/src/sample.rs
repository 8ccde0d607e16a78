//! The third stage: head sampling, before the log.

use proto::BatchSource;
use sampling::{DropCause, HeadDecision, HeadSampler, HeadTrace};
use trace_model::sampling_threshold::Threshold;

use crate::enrich::Enriched;
use crate::receipt::Rejections;
use crate::validate::ValidSpan;

/// The spans that head sampling kept.
#[derive(Debug)]
pub struct Sampled<'a> {
    /// Frames of resources, as validated.
    pub resources: Vec<Vec<u8>>,
    /// Frames of scopes, as validated.
    pub scopes: Vec<(u32, Vec<u8>)>,
    /// The spans kept, each with the threshold that its trace passed.
    pub spans: Vec<(ValidSpan<'a>, Threshold)>,
    /// Their envelope.
    pub source: BatchSource,
    /// Spans that validation rejected.
    pub rejected: Rejections,
    /// Spans left out by the rate.
    pub below_rate: u32,
    /// Spans left out since their sender says that the trace is not sampled.
    pub unsampled: u32,
}

impl Sampled<'_> {
    /// All spans left out.
    #[must_use]
    pub const fn left_out(&self) -> u32 {
        self.below_rate.saturating_add(self.unsampled)
    }
}

/// Asks the sampler about every span.
#[must_use]
pub fn sample<'a>(enriched: Enriched<'a>, sampler: &dyn HeadSampler) -> Sampled<'a> {
    let Enriched { validated, source, .. } = enriched;
    let mut sampled = Sampled {
        resources: validated.resources,
        scopes: validated.scopes,
        spans: Vec::with_capacity(validated.spans.len()),
        source,
        rejected: validated.rejected,
        below_rate: 0,
        unsampled: 0,
    };
    for span in validated.spans {
        let trace_id = span.trace_id;
        let head = HeadTrace { tenant: &sampled.source.tenant, trace_id, flags: span.flags };
        match sampler.decide(&head) {
            HeadDecision::Keep(threshold) => sampled.spans.push((span, threshold)),
            HeadDecision::Drop(DropCause::Rate) => sampled.below_rate += 1,
            HeadDecision::Drop(DropCause::UnsampledFlag) => sampled.unsampled += 1,
        }
    }
    sampled
}
