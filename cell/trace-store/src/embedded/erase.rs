//! Erasure of one trace. First the tombstone, durable: from there on no read gives the trace and no
//! late span of it comes in. Then every segment that may hold it is rewritten without it. A crash
//! between the two is made good by the next round of upkeep.
//!
//! The tombstone keeps a hash and not the id: after an erasure the id itself is in no file.
//!
//! A cold segment is rewritten as a local one, which moves again later under a new name. The erasure
//! has ended only when no object is left that no segment needs: one of those may hold the trace.

use std::collections::HashSet;
use std::sync::Arc;

use trace_model::{TenantId, TraceId};

use super::cold_moves::{self, Doomed};
use super::commit::{commit, seal};
use super::hash::{tenant_seed, trace_hash};
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
    // An upload that is under way may hold the trace: it ends first.
    let _no_uploads = lock(&state.moving);
    let _one_at_a_time = lock(&state.maintenance);
    let hash = erased_hash(tenant, trace_id);
    let probe = trace_hash(tenant_seed(tenant.as_str()), trace_id);
    bury(state, hash, state.cold.as_ref().map(|_| probe))?;
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
    receipt.files += cold_moves::delete_doomed(state, Doomed::All)?;
    Ok(receipt)
}

/// Finishes erasures that were cut short: each segment is searched for them.
pub(crate) fn finish_erasures(state: &State) -> Result<(), StoreError> {
    let unfinished = unfinished(state);
    if unfinished.is_empty() {
        return Ok(());
    }
    seal(state)?;
    refuse_damaged(state)?;
    let erased: ErasedSet = unfinished.iter().map(|(hash, _)| *hash).collect();
    let may_be_in = |segment: &Segment| {
        unfinished.iter().any(|(_, probe)| probe.is_none_or(|probe| segment.may_hold(probe)))
    };
    for segment in state.segments().iter().filter(|segment| may_be_in(segment)) {
        if holds_one(state, segment, &erased)? {
            replace(state, std::slice::from_ref(segment), &erased)?;
        }
    }
    unfinished.into_iter().try_for_each(|(hash, _)| close(state, hash))
}

/// Whether an erasure was cut short.
pub(crate) fn is_unfinished(state: &State) -> bool {
    lock(&state.manifest).erased.iter().any(|erased| !erased.is_done)
}

/// The hashes of erasures that were cut short, and by what filters know them.
fn unfinished(state: &State) -> Vec<(u128, Option<u64>)> {
    let manifest = lock(&state.manifest);
    let open = manifest.erased.iter().filter(|erased| !erased.is_done);
    let hash = |erased: &Erased| u128::from_str_radix(&erased.hash, 16).ok();
    open.filter_map(|erased| Some((hash(erased)?, erased.probe))).collect()
}

/// Writes the tombstone.
fn bury(state: &State, hash: u128, probe: Option<u64>) -> Result<(), StoreError> {
    let hash = format!("{hash:032x}");
    let at = state.clock.now().0;
    commit(
        state,
        None,
        |manifest| {
            match manifest.erased.iter_mut().find(|erased| erased.hash == hash) {
                Some(erased) => (erased.is_done, erased.probe) = (false, probe),
                None => manifest.erased.push(Erased { hash, at, is_done: false, probe }),
            }
            if probe.is_some() {
                // The version that knows of probes.
                manifest.change_cold(|_| {});
            }
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
        segment.read_ahead_from(place);
        let block = segment.block(place).inspect_err(|error| {
            state.note_damage(segment, error);
        })?;
        let mut runs = block.traces.iter();
        if runs.any(|run| erased.contains(&erased_hash(tenant, run.trace_id))) {
            return Ok(true);
        }
    }
    Ok(false)
}
