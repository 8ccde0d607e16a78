//! Replacing segments by a rewritten one: readers keep the old ones until they are done, the disk
//! shows either all old ones or the new one.

use std::sync::Arc;

use super::commit::{commit, next_id, publish_files, remove_files};
use super::rewrite::write_segments;
use super::segment::join_ranges;
use super::segment_read::Segment;
use super::segment_write::SegmentWriter;
use super::state::{ErasedSet, State, is_erased};
use crate::StoreError;

/// Rewrites the segments into one without the erased traces, and puts it in the place of the first.
/// The caller holds the maintenance lock. Gives the number of spans left out.
pub(crate) fn replace(
    state: &State,
    segments: &[Arc<Segment>],
    erased: &ErasedSet,
) -> Result<u64, StoreError> {
    let id = next_id(state)?;
    let mut writer = SegmentWriter::create(&state.segment_path(id), state.config.block_spans)?;
    let dropped = write_segments(&mut writer, segments, &state.cache, &|tenant, trace_id| {
        is_erased(erased, tenant, trace_id)
    })?;
    let ranges = segments.iter().flat_map(|segment| segment.footer.ranges.iter().copied());
    let appended = segments.iter().map(|segment| segment.footer.appended_max).max().unwrap_or(0);
    let written = match writer.spans() {
        0 => None,
        _ => {
            let written = writer.finish(join_ranges(ranges), appended)?;
            Some(publish_files(state, id, written)?)
        }
    };
    swap(state, segments, written.as_ref(), |_| {})?;
    Ok(dropped)
}

/// Takes segments out and perhaps one in, in the place of the first; then their files go.
pub(crate) fn swap(
    state: &State,
    old: &[Arc<Segment>],
    new: Option<&Arc<Segment>>,
    change: impl FnOnce(&mut super::manifest::Manifest),
) -> Result<(), StoreError> {
    let is_old = |id: u64| old.iter().any(|segment| segment.id == id);
    let new_id = new.map(|segment| segment.id);
    commit(
        state,
        new_id,
        |manifest| {
            let at = manifest.segments.iter().position(|id| is_old(*id));
            manifest.segments.retain(|id| !is_old(*id));
            if let Some(id) = new_id {
                let at = at.unwrap_or(usize::MAX).min(manifest.segments.len());
                manifest.segments.insert(at, id);
            }
            change(manifest);
        },
        |view| {
            let at = view.segments.iter().position(|segment| is_old(segment.id));
            let kept = view.segments.iter().filter(|segment| !is_old(segment.id));
            let mut segments: Vec<Arc<Segment>> = kept.cloned().collect();
            if let Some(new) = new {
                let at = at.unwrap_or(usize::MAX).min(segments.len());
                segments.insert(at, Arc::clone(new));
            }
            view.segments = Arc::new(segments);
        },
    )?;
    old.iter().for_each(|segment| remove_files(state, segment.id));
    Ok(())
}
