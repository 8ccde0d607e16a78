//! Traces by id.

use trace_model::{TenantId, TraceId};

use super::state::{State, is_erased};
use crate::StoreError;
use crate::port::TraceRead;
use crate::questions::GoOn;

/// The spans of a trace in all segments. What cannot be read is said, never left out in silence.
/// Fails only where nobody waits for them any more.
pub(crate) fn read_trace(
    state: &State,
    tenant: &TenantId,
    trace_id: TraceId,
    go_on: GoOn<'_>,
) -> Result<TraceRead, StoreError> {
    // All of one view: segments that retention took out are within its `expired_until`.
    let (segments, erased, mut read) = {
        let view = state.view();
        let read = TraceRead {
            spans: Vec::new(),
            covered: view.covered.clone(),
            is_damaged: !view.damaged.is_empty(),
            is_away: false,
            expired_until: view.expired_until,
        };
        (view.segments.clone(), view.erased.clone(), read)
    };
    if is_erased(&erased, tenant, trace_id) {
        return Ok(read);
    }
    for segment in segments.iter() {
        go_on()?;
        if let Err(error) = segment.read_trace(tenant, trace_id, &state.cache, &mut read.spans) {
            let is_away = state.note_damage(segment, &error);
            read.is_away |= is_away;
            read.is_damaged |= !is_away;
        }
    }
    Ok(read)
}
