//! A batch without one of its traces.

use bytes::Bytes;
use proto::{InvalidBatch, SpanBatch, SpanBatchBuilder};
use trace_model::{TenantId, TraceId};

use super::DeadLetter;

/// What an erasure leaves of a letter.
#[derive(Debug)]
pub(super) struct Erased {
    /// Spans that are gone.
    pub(super) spans: u64,
    /// The batch without the trace; `None` where nothing is left.
    pub(super) left: Option<Bytes>,
}

/// The letter's batch without the trace; `None` where it does not hold it.
pub(super) fn without(
    letter: &DeadLetter,
    tenant: &TenantId,
    trace_id: TraceId,
) -> Result<Option<Erased>, InvalidBatch> {
    let batch = SpanBatch::decode(letter.encoded.clone())?;
    let held = batch.traces().iter().find(|trace| trace.trace_id == trace_id);
    let Some(erased) = held.filter(|_| batch.source().tenant == *tenant) else { return Ok(None) };
    let spans = u64::from(erased.span_count);
    if batch.traces().len() == 1 {
        return Ok(Some(Erased { spans, left: None }));
    }
    let mut builder = SpanBatchBuilder::new();
    for context in batch.contexts() {
        let resource = builder.add_resource(context.resource.to_vec());
        builder.add_scope(resource, context.scope.to_vec());
    }
    for trace in batch.traces().iter().filter(|trace| trace.trace_id != trace_id) {
        for span in batch.spans_of(trace) {
            builder.add_span(trace.trace_id, trace.threshold, span.scope, batch.bytes_of(span));
        }
    }
    let rebuilt = builder.finish(batch.source().clone())?;
    Ok(Some(Erased { spans, left: Some(rebuilt.encoded().clone()) }))
}
