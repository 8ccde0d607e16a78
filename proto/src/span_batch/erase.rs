//! A batch without one of its traces: the other records keep their places.

use std::collections::BTreeMap;

use trace_model::TraceId;

use super::{InvalidBatch, SpanBatch, SpanBatchBuilder};

/// Ids of places whose trace was erased begin with this.
const ERASED_ID: [u8; 8] = [0xff; 8];

impl SpanBatch {
    /// The batch without the spans of a trace, its id, and the resources and scopes that no other
    /// trace uses; `None` where it does not hold the trace. A record without spans stays in its
    /// place ([`super::TraceSlice::is_erased`]), so that no other record moves.
    pub fn without_trace(&self, trace_id: TraceId) -> Result<Option<Self>, InvalidBatch> {
        if !self.traces.iter().any(|trace| trace.trace_id == trace_id && !trace.is_erased()) {
            return Ok(None);
        }
        let mut builder = SpanBatchBuilder::with_capacity(self.spans.len());
        let scopes = self.add_contexts_but_of(trace_id, &mut builder);
        for (place, trace) in (0_u64..).zip(&self.traces) {
            if trace.trace_id == trace_id || trace.is_erased() {
                builder.add_erased(self.free_id(place, trace_id), trace.threshold);
                continue;
            }
            for span in self.spans_of(trace) {
                let scope = scopes.get(&span.scope).copied().unwrap_or(u32::MAX);
                builder.add_span(trace.trace_id, trace.threshold, scope, self.bytes_of(span));
            }
        }
        builder.finish(self.source.clone()).map(Some)
    }

    /// Adds the contexts that other traces use; gives their new places.
    fn add_contexts_but_of(
        &self,
        trace_id: TraceId,
        builder: &mut SpanBatchBuilder<'_>,
    ) -> BTreeMap<u32, u32> {
        let kept = self.traces.iter().filter(|trace| trace.trace_id != trace_id);
        let used = kept.flat_map(|trace| self.spans_of(trace)).map(|span| span.scope);
        let mut scopes: BTreeMap<u32, u32> = used.map(|scope| (scope, 0)).collect();
        // Scopes of one resource share its bytes: one place tells that.
        let mut resources: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for (old, new) in &mut scopes {
            let Some(context) = self.contexts.get(*old as usize) else { continue };
            let bytes = &context.resource;
            let place = (bytes.as_ptr() as usize, bytes.len());
            let resource = resources.entry(place);
            let resource = *resource.or_insert_with(|| builder.add_resource(bytes.to_vec()));
            *new = builder.add_scope(resource, context.scope.to_vec());
        }
        scopes
    }

    /// An id for an erased place that no trace of the batch has: each trace is in it once.
    fn free_id(&self, place: u64, erased: TraceId) -> TraceId {
        let id = |tail: u64| {
            let mut bytes = [0xff; 16];
            let (head, rest) = bytes.split_at_mut(8);
            head.copy_from_slice(&ERASED_ID);
            rest.copy_from_slice(&tail.to_be_bytes());
            TraceId::from_bytes(bytes).unwrap_or(erased)
        };
        let count = self.traces.len() as u64;
        // Each place has candidates of its own, one more than there are traces: one is free.
        let mut candidates =
            (0..=count).map(|turn| id(turn.wrapping_mul(count).wrapping_add(place)));
        let is_free = |id: &TraceId| {
            !self.traces.iter().any(|trace| trace.trace_id == *id && !trace.is_erased())
        };
        candidates.find(is_free).unwrap_or(erased)
    }
}
