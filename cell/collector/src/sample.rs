//! The third stage: head sampling, before the log.

use proto::BatchSource;
use sampling::{DropCause, HeadDecision, HeadSampler, HeadTrace};
use trace_model::sampling_threshold::Threshold;

use crate::enrich::Enriched;
use crate::receipt::Receipt;
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
    /// What became of all spans of the request, once these are durable.
    pub receipt: Receipt,
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
        receipt: Receipt { rejected: validated.rejected, ..Receipt::default() },
    };
    let receipt = &mut sampled.receipt;
    for span in validated.spans {
        receipt.accepted += 1;
        let trace_id = span.trace_id;
        let head = HeadTrace { tenant: &sampled.source.tenant, trace_id, flags: span.header.flags };
        match sampler.decide(&head) {
            HeadDecision::Keep(threshold) => sampled.spans.push((span, threshold)),
            HeadDecision::Drop(DropCause::Rate) => receipt.below_rate += 1,
            HeadDecision::Drop(DropCause::UnsampledFlag) => receipt.unsampled += 1,
        }
    }
    sampled
}
