//! Sealing what waits, and the one way in which the set of segments changes: manifest on disk first,
//! then the view that readers see.
//!
//! A change that fails before the manifest is renamed leaves nothing. One that fails behind the
//! rename may be what the next start finds: its segment's files stay, and no further segment is made
//! until the manifest is written once more, as it is in memory.

use std::sync::Arc;

use super::directory;
use super::manifest::{self, Manifest};
use super::open::open_segment;
use super::pending::{Pending, PendingBatch, ranges_of};
use super::seal::write_batches;
use super::sealed_file::disk_error;
use super::segment::extend_coverage;
use super::segment_read::Segment;
use super::segment_write::SegmentWriter;
use super::segment_write::WrittenSegment;
use super::state::{State, View, erased_set, is_erased, lock};
use crate::StoreError;

/// Seals everything that waits. On failure it waits on.
pub(crate) fn seal(state: &State) -> Result<(), StoreError> {
    let _one_at_a_time = lock(&state.sealing);
    let taken = {
        let mut view = state.view();
        if view.pending.batches.is_empty() {
            return Ok(());
        }
        let taken = std::mem::take(&mut view.pending);
        view.sealing = Some(Arc::clone(&taken.batches));
        taken
    };
    let sealed = seal_batches(state, &taken);
    if let Err(error) = &sealed {
        tracing::warn!(%error, spans = taken.spans, "sealing failed and will be tried again");
        state.metrics.seal_failures.inc();
        let mut view = state.view();
        view.sealing = None;
        view.pending.put_back(&taken);
    }
    sealed
}

fn seal_batches(state: &State, taken: &Pending) -> Result<(), StoreError> {
    let batches: &[PendingBatch] = &taken.batches;
    let erased = Arc::clone(&state.view().erased);
    let id = next_id(state)?;
    let mut writer = SegmentWriter::create(&state.segment_path(id), state.config.block_spans)?;
    let dropped = write_batches(&mut writer, batches, &|tenant, trace_id| {
        is_erased(&erased, tenant, trace_id)
    })?;
    let ranges = ranges_of(batches);
    let spans = writer.spans();
    let segment = match spans {
        0 => None,
        _ => {
            let appended = batches.iter().map(|batch| batch.logged.append_time.0).max();
            let written = writer.finish(ranges.clone(), appended.unwrap_or(0))?;
            Some(publish_files(state, id, written)?)
        }
    };
    let change = |manifest: &mut Manifest| {
        manifest.segments.extend(segment.iter().map(|segment| segment.id));
        let mut coverage = manifest.coverage();
        extend_coverage(&mut coverage, &ranges);
        manifest.set_coverage(&coverage);
    };
    commit(state, segment.as_ref().map(|segment| segment.id), change, |view| {
        let mut segments = view.segments.as_ref().clone();
        segments.extend(segment.iter().map(Arc::clone));
        view.segments = Arc::new(segments);
        view.sealing = None;
        extend_coverage(&mut view.covered, &ranges);
    })?;
    state.metrics.erased_spans.inc_by(dropped);
    state.metrics.sealed_spans.inc_by(spans);
    state.metrics.sealed_segments.inc();
    Ok(())
}

/// An id for a new segment. One that is not used in the end is no loss. While it is not known which
/// segments the manifest on disk names there are no new ones: a disk that goes on failing gets no
/// more files.
pub(crate) fn next_id(state: &State) -> Result<u64, StoreError> {
    let is_uncertain = !lock(&state.strays).is_empty();
    if is_uncertain {
        commit(state, None, |_| {}, |_| {})?;
    }
    let mut manifest = lock(&state.manifest);
    let id = manifest.next_id;
    manifest.next_id += 1;
    Ok(id)
}

/// Writes the index of a segment just written and opens both. Where that fails the files go.
pub(crate) fn publish_files(
    state: &State,
    id: u64,
    written: WrittenSegment,
) -> Result<Arc<Segment>, StoreError> {
    let publish = || {
        directory::write(&state.index_path(id), written.index, written.footer.spans)?;
        sync_directory(state)?;
        open_segment(state.directory(), id, None)
    };
    let published = publish();
    if published.is_err() {
        remove_files(state, id);
    }
    published.map(Arc::new)
}

fn sync_directory(state: &State) -> Result<(), StoreError> {
    let synced = state.disk.sync_directory(state.directory());
    synced.map_err(|error| disk_error(state.directory(), &error))
}

/// Changes the manifest on disk, then the view. `new` is the segment that it names for the first
/// time: where it surely does not, since the change has failed, the files of that go.
pub(crate) fn commit(
    state: &State,
    new: Option<u64>,
    change: impl FnOnce(&mut Manifest),
    show: impl FnOnce(&mut View),
) -> Result<(), StoreError> {
    let mut manifest = lock(&state.manifest);
    let mut changed = manifest.clone();
    change(&mut changed);
    changed.doom_unnamed(state.clock.now());
    if let Err(error) = changed.write(state.directory()) {
        new.into_iter().for_each(|id| remove_files(state, id));
        return Err(error);
    }
    if let Err(error) = manifest::replace(state.directory(), state.disk.as_ref()) {
        lock(&state.strays).extend(new);
        return Err(error);
    }
    *manifest = changed;
    // The manifest on disk is this one now, and names none of them.
    for id in std::mem::take(&mut *lock(&state.strays)) {
        remove_files(state, id);
    }
    let mut view = state.view();
    show(&mut view);
    view.expired_until = manifest.expired_until();
    if view.expired != *manifest.expired() {
        view.expired = manifest.expired().clone();
    }
    if view.erased.len() != manifest.erased.len() {
        view.erased = Arc::new(erased_set(&manifest));
    }
    drop(view);
    drop(manifest);
    state.refresh_gauges();
    Ok(())
}

/// Removes a segment's files. A file that stays is removed when the store opens.
pub(crate) fn remove_files(state: &State, id: u64) {
    for path in [state.segment_path(id), state.index_path(id), state.cold_path(id)] {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a replaced file could not be removed");
        }
    }
}
