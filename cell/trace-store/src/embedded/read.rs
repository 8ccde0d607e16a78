//! Traces by id.

use trace_model::{TenantId, TraceId};

use super::state::{State, is_erased};
use crate::port::TraceRead;

/// The spans of a trace in all segments. What cannot be read is said, never left out in silence.
pub(crate) fn read_trace(state: &State, tenant: &TenantId, trace_id: TraceId) -> TraceRead {
    let (segments, covered, erased, mut is_damaged) = {
        let view = state.view();
        let is_damaged = !view.damaged.is_empty();
        (view.segments.clone(), view.covered.clone(), view.erased.clone(), is_damaged)
    };
    let mut spans = Vec::new();
    if is_erased(&erased, tenant, trace_id) {
        return TraceRead { spans, covered, is_damaged };
    }
    for segment in segments.iter() {
        if let Err(error) = segment.read_trace(tenant, trace_id, &state.cache, &mut spans) {
            state.note_damage(segment, &error);
            is_damaged = true;
        }
    }
    TraceRead { spans, covered, is_damaged }
}
