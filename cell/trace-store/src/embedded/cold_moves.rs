//! Segments on their way to objects, and objects on their way out.
//!
//! A move: the object's name is noted, durably; the object is written and read back; what stays here
//! of the segment is written; the manifest says "cold"; the segment's file goes. Whatever is cut short
//! before the manifest leaves a name that was noted, and the next round deletes what may stand there.
//! Readers see the segment in one place or the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use trace_model::UnixNanos;

use super::cold_segment::{self, ColdTier};
use super::commit::commit;
use super::index_repair::rewrite;
use super::sealed_file::disk_error;
use super::segment_read::Segment;
use super::state::{State, lock};
use crate::StoreError;

/// A reader that took a segment before it was replaced may go on for so long.
const READERS_GRACE_NANOS: u64 = 60 * 1_000_000_000;
/// What no manifest names is let alone for so long: an upload that was given up may still arrive.
const ORPHAN_AGE_NANOS: u64 = 24 * 3_600 * 1_000_000_000;
/// How often objects are listed to find such.
const ORPHANS_EVERY_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// Which of the objects that nobody needs are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doomed {
    /// All: one may hold a trace that is erased.
    All,
    /// Those that no reader is at work on any more.
    Settled,
}

/// Objects that nobody needs go, lost indexes are built anew.
pub(crate) fn tidy(state: &State) -> Result<(), StoreError> {
    let Some(tier) = &state.cold else { return Ok(()) };
    let _one_at_a_time = lock(&state.moving);
    delete_doomed(state, Doomed::Settled)?;
    delete_orphans(state, tier)?;
    repair_indexes(state)
}

/// Makes sure that the prefix is this store's, once for each opening.
pub(crate) fn claim(state: &State, tier: &ColdTier) -> Result<(), StoreError> {
    if state.is_claimed.load(Ordering::Acquire) {
        return Ok(());
    }
    let (owner, has_objects) = {
        let manifest = lock(&state.manifest);
        let cold = manifest.cold();
        (cold.owner.clone(), !cold.objects.is_empty())
    };
    let owner = match owner {
        Some(owner) => owner,
        None => {
            let owner = format!("{:016x}", tier.incarnation);
            let note = owner.clone();
            commit(
                state,
                None,
                |manifest| manifest.change_cold(|cold| cold.owner = Some(note)),
                |_| {},
            )?;
            owner
        }
    };
    tier.objects.claim(&owner, has_objects)?;
    state.is_claimed.store(true, Ordering::Release);
    Ok(())
}

/// Moves the oldest segment whose time has come; says whether there was one.
pub(crate) fn move_next(state: &State) -> Result<bool, StoreError> {
    let Some(tier) = &state.cold else { return Ok(false) };
    let _one_at_a_time = lock(&state.moving);
    let Some(segment) = next_due(state, tier) else { return Ok(false) };
    match move_segment(state, tier, &segment) {
        Ok(()) => tier.metrics.moved_segments.inc(),
        Err(error @ StoreError::Damaged(_)) => {
            // Its readers say so. It holds up no other, and stays until retention takes it.
            tier.metrics.failed_moves.inc();
            segment.set_aside_from_merging();
            state.note_damage(&segment, &error);
            0
        }
        Err(error) => {
            tier.metrics.failed_moves.inc();
            return Err(error);
        }
    };
    Ok(true)
}

/// The oldest segment that is old enough, or any at all while the disk is nearly full.
fn next_due(state: &State, tier: &ColdTier) -> Option<Arc<Segment>> {
    let segments = state.segments();
    let bytes: u64 = segments.iter().map(|segment| segment.bytes()).sum();
    let is_crowded = bytes > state.config.bytes_max / 4 * 3;
    let after = u64::try_from(tier.after.as_nanos()).unwrap_or(u64::MAX);
    let due = state.clock.now().minus(after);
    let is_due = |segment: &&Arc<Segment>| {
        let is_old = segment.footer.appended_max <= due.0 || is_crowded;
        is_old
            && !segment.is_cold()
            && !segment.is_set_aside_from_merging()
            && segment.index().is_some()
    };
    segments.iter().find(is_due).cloned()
}

fn move_segment(state: &State, tier: &ColdTier, segment: &Arc<Segment>) -> Result<(), StoreError> {
    let object = name_of(state, tier, segment.id);
    let now = state.clock.now().0;
    let note = object.clone();
    commit(
        state,
        None,
        |manifest| manifest.change_cold(|cold| cold.doomed.extend([(note, now)])),
        |_| {},
    )?;
    let bytes = tier.objects.put(&object, segment.file().path())?;
    let _not_replaced_meanwhile = lock(&state.maintenance);
    if !is_there(state, segment) {
        // Merged, rewritten or expired: the object stays doomed.
        return Ok(());
    }
    let moved = open_moved(state, tier, segment, (object.clone(), bytes))?;
    commit(
        state,
        None,
        |manifest| {
            manifest.change_cold(|cold| {
                cold.doomed.remove(&object);
                cold.objects.insert(segment.id, object);
            });
        },
        |view| {
            let known = view.segments.iter().map(|known| {
                if known.id == segment.id { Arc::clone(&moved) } else { Arc::clone(known) }
            });
            view.segments = Arc::new(known.collect());
        },
    )?;
    tier.metrics.moved_bytes.inc_by(bytes);
    let path = state.segment_path(segment.id);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "a moved file could not be removed");
    }
    Ok(())
}

/// Whether the segment has not been replaced. The caller holds the lock of maintenance.
fn is_there(state: &State, segment: &Arc<Segment>) -> bool {
    state.segments().iter().any(|known| Arc::ptr_eq(known, segment))
}

/// Writes what stays of the segment and opens it.
fn open_moved(
    state: &State,
    tier: &ColdTier,
    segment: &Segment,
    (object, bytes): (String, u64),
) -> Result<Arc<Segment>, StoreError> {
    cold_segment::write(&state.cold_path(segment.id), segment, object, bytes)?;
    let synced = state.disk.sync_directory(state.directory());
    synced.map_err(|error| disk_error(state.directory(), &error))?;
    let moved = Segment::open_cold(segment.id, &state.cold_path(segment.id), tier)?;
    segment.share_index_with(&moved);
    Ok(Arc::new(moved))
}

/// A name that nobody has used: the owner's own, then the opening, the segment and the try.
fn name_of(state: &State, tier: &ColdTier, id: u64) -> String {
    let attempt = state.uploads.fetch_add(1, Ordering::Relaxed);
    let owner = lock(&state.manifest).cold().owner.clone().unwrap_or_default();
    format!("{owner}/{:016x}-{id:010}-{attempt:06}.seg", tier.incarnation)
}

/// Deletes objects that nobody needs; gives their number. The caller holds the lock of moves.
pub(crate) fn delete_doomed(state: &State, which: Doomed) -> Result<u64, StoreError> {
    let Some(tier) = &state.cold else { return Ok(0) };
    let settled = state.clock.now().minus(READERS_GRACE_NANOS).0;
    let doomed: Vec<String> = {
        let manifest = lock(&state.manifest);
        let is_meant = |since: u64| which == Doomed::All || since <= settled;
        let doomed = manifest.cold().doomed.iter();
        doomed.filter(|(_, since)| is_meant(**since)).map(|(name, _)| name.clone()).collect()
    };
    if doomed.is_empty() {
        return Ok(0);
    }
    claim(state, tier)?;
    // A manifest on disk that a failed change has left behind might name one of them.
    commit(state, None, |_| {}, |_| {})?;
    let mut deleted = Vec::new();
    let mut failure = None;
    for name in doomed {
        match tier.objects.delete(&name) {
            Ok(()) => deleted.push(name),
            Err(error) => {
                tier.metrics.failed_deletions.inc();
                failure = Some(error);
                break;
            }
        }
    }
    let count = deleted.len() as u64;
    tier.metrics.deleted_objects.inc_by(count);
    let forget = |name: &String| !deleted.contains(name);
    commit(
        state,
        None,
        |manifest| manifest.change_cold(|cold| cold.doomed.retain(|name, _| forget(name))),
        |_| {},
    )?;
    failure.map_or(Ok(count), Err)
}

/// Deletes what stands under names of ours that the manifest does not know: uploads that arrived after
/// they had been given up and deleted. By their age, since the manifest is ahead of the list.
fn delete_orphans(state: &State, tier: &ColdTier) -> Result<(), StoreError> {
    let now = state.clock.now();
    let last = state.orphans_looked_for.load(Ordering::Relaxed);
    if last != 0 && now.0.saturating_sub(last) < ORPHANS_EVERY_NANOS {
        return Ok(());
    }
    let owner = lock(&state.manifest).cold().owner.clone().unwrap_or_default();
    let found = tier.objects.list(&owner)?;
    let orphans: Vec<String> = {
        let manifest = lock(&state.manifest);
        let cold = manifest.cold();
        let oldest = UnixNanos(now.0.saturating_sub(ORPHAN_AGE_NANOS));
        let is_known = |name: &String| {
            cold.doomed.contains_key(name) || cold.objects.values().any(|known| known == name)
        };
        let unknown = found.into_iter().filter(|object| !is_known(&object.name));
        unknown.filter(|object| object.written < oldest).map(|object| object.name).collect()
    };
    for name in orphans {
        tier.objects.delete(&name)?;
        tier.metrics.deleted_orphans.inc();
        tracing::warn!(object = name, "an object that no segment names was deleted");
    }
    state.orphans_looked_for.store(now.0, Ordering::Relaxed);
    Ok(())
}

/// Rewrites cold segments whose index was lost; they move again with the new one.
fn repair_indexes(state: &State) -> Result<(), StoreError> {
    let is_bare = |segment: &&Arc<Segment>| segment.is_cold() && segment.index().is_none();
    for segment in state.segments().iter().filter(is_bare) {
        let _one_at_a_time = lock(&state.maintenance);
        if !is_there(state, segment) {
            continue;
        }
        let erased = Arc::clone(&state.view().erased);
        rewrite(state, segment, &erased)?;
    }
    Ok(())
}
