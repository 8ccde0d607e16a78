//! The fourth stage: the spans of a request regrouped by trace, without re-encoding one.

use proto::{InvalidBatch, SpanBatch, SpanBatchBuilder};

use crate::sample::Sampled;

/// Cuts the batch out of the request; `None` where nothing is left to log.
pub fn batch(sampled: Sampled<'_>) -> Result<Option<SpanBatch>, InvalidBatch> {
    if sampled.spans.is_empty() {
        return Ok(None);
    }
    let mut builder = SpanBatchBuilder::with_capacity(sampled.spans.len());
    for resource in sampled.resources {
        builder.add_resource(resource);
    }
    for (resource, scope) in sampled.scopes {
        builder.add_scope(resource, scope);
    }
    for (span, threshold) in sampled.spans {
        builder.add_read_span(span.trace_id, threshold, span.scope, span.bytes, span.header);
    }
    builder.finish(sampled.source).map(Some)
}
