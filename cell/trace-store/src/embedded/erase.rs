//! Erasure of one trace. First the tombstone, durable: from there on no read gives the trace and no
//! late span of it comes in. Then every segment that may hold it is rewritten without it. A crash
//! between the two is made good by the next round of upkeep.
//!
//! The tombstone keeps a hash and not the id: after an erasure the id itself is in no file.

use std::collections::HashSet;
use std::sync::Arc;

use trace_model::{TenantId, TraceId};

use super::commit::{commit, seal};
use super::hash::trace_hash;
use super::manifest::{Erased, erased_hash};
use super::replace::replace;
use super::segment_read::Segment;
use super::state::{ErasedSet, State, lock};
use crate::StoreError;
use crate::port::ErasureReceipt;

/// Erases a trace.
pub(crate) fn erase(
    state: &State,
    tenant: &TenantId,
    trace_id: TraceId,
) -> Result<ErasureReceipt, StoreError> {
    let _one_at_a_time = lock(&state.maintenance);
    let hash = erased_hash(tenant, trace_id);
    bury(state, hash)?;
    // What waits is sealed without the trace; a seal that began before the tombstone has ended.
    seal(state)?;
    refuse_damaged(state)?;
    let only: ErasedSet = HashSet::from([hash]);
    let mut receipt = ErasureReceipt { files: 0, spans: 0 };
    for segment in state.segments().iter().filter(|segment| holds(segment, tenant, trace_id)) {
        receipt.spans += replace(state, std::slice::from_ref(segment), &only)?;
        receipt.files += 2;
    }
    close(state, hash)?;
    Ok(receipt)
}

/// Finishes erasures that were cut short: each segment is searched for them.
pub(crate) fn finish_erasures(state: &State) -> Result<(), StoreError> {
    let unfinished: Vec<u128> = {
        let manifest = lock(&state.manifest);
        let open = manifest.erased.iter().filter(|erased| !erased.is_done);
        open.filter_map(|erased| u128::from_str_radix(&erased.hash, 16).ok()).collect()
    };
    if unfinished.is_empty() {
        return Ok(());
    }
    seal(state)?;
    refuse_damaged(state)?;
    let erased: ErasedSet = unfinished.iter().copied().collect();
    for segment in state.segments().iter() {
        if holds_one(state, segment, &erased)? {
            replace(state, std::slice::from_ref(segment), &erased)?;
        }
    }
    unfinished.into_iter().try_for_each(|hash| close(state, hash))
}

/// Writes the tombstone.
fn bury(state: &State, hash: u128) -> Result<(), StoreError> {
    let hash = format!("{hash:032x}");
    let at = state.clock.now().0;
    commit(
        state,
        None,
        |manifest| match manifest.erased.iter_mut().find(|erased| erased.hash == hash) {
            Some(erased) => erased.is_done = false,
            None => manifest.erased.push(Erased { hash, at, is_done: false }),
        },
        |_| {},
    )
}

fn close(state: &State, hash: u128) -> Result<(), StoreError> {
    let hash = format!("{hash:032x}");
    commit(
        state,
        None,
        |manifest| {
            let found = manifest.erased.iter_mut().find(|erased| erased.hash == hash);
            found.into_iter().for_each(|erased| erased.is_done = true);
        },
        |_| {},
    )
}

/// A segment that cannot be read may hold the trace: then it is not erased.
fn refuse_damaged(state: &State) -> Result<(), StoreError> {
    match state.view().damaged.first() {
        Some(id) => Err(StoreError::Damaged(format!("segment {id} cannot be searched"))),
        None => Ok(()),
    }
}

fn holds(segment: &Segment, tenant: &TenantId, trace_id: TraceId) -> bool {
    let place = segment.tenant_place(tenant);
    let known = place.and_then(|place| segment.tenant(place).map(|(_, seed)| (place, *seed)));
    known.is_some_and(|(place, seed)| {
        segment.may_hold(trace_hash(seed, trace_id))
            && !segment.blocks_of(place, trace_id).is_empty()
    })
}

fn holds_one(
    state: &State,
    segment: &Arc<Segment>,
    erased: &ErasedSet,
) -> Result<bool, StoreError> {
    for (place, meta) in segment.blocks.iter().enumerate() {
        let Some((tenant, _)) = segment.tenant(meta.tenant) else { continue };
        let block = segment.block(place).inspect_err(|error| state.note_damage(segment, error))?;
        let mut runs = block.traces.iter();
        if runs.any(|run| erased.contains(&erased_hash(tenant, run.trace_id))) {
            return Ok(true);
        }
    }
    Ok(false)
}
