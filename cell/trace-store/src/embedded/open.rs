//! Opening a store: lock the directory, read the manifest, remove leftovers, open the segments.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trace_model::Clock;

use super::cold_segment::ColdTier;
use super::config::EmbeddedStoreConfig;
use super::directory::IndexFile;
use super::manifest::Manifest;
use super::sealed_file::{TEMPORARY_SUFFIX, disk_error};
use super::segment_read::Segment;
use super::state::{State, StateParts, cold_path, index_path, segment_path};
use crate::StoreError;
use crate::disk::Disk;

/// Opens the store's state.
pub(crate) fn open(
    config: EmbeddedStoreConfig,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    cold: Option<ColdTier>,
) -> Result<State, StoreError> {
    let directory = config.directory.clone();
    std::fs::create_dir_all(&directory).map_err(|error| disk_error(&directory, &error))?;
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_directory(parent).map_err(|error| disk_error(parent, &error))?;
    }
    let directory_lock = lock_directory(&directory)?;
    allow_open_files();
    let manifest = Manifest::load(&directory)?;
    refuse_without_tier(&manifest, cold.as_ref())?;
    remove_leftovers(&directory, &manifest)?;
    let mut segments = Vec::with_capacity(manifest.segments.len());
    let mut damaged = Vec::new();
    for id in &manifest.segments {
        let tier = cold.as_ref().filter(|_| manifest.cold().objects.contains_key(id));
        match open_segment(&directory, *id, tier) {
            Ok(segment) => segments.push(Arc::new(segment)),
            Err(StoreError::Damaged(reason)) => {
                tracing::error!(reason, segment = id, "a segment cannot be read and is set aside");
                damaged.push(*id);
            }
            Err(error) => return Err(error),
        }
    }
    let parts =
        StateParts { config, clock, disk, manifest, segments, damaged, directory_lock, cold };
    let state = State::new(parts);
    state.refresh_gauges();
    Ok(state)
}

/// Spans in objects are not left out in silence because a configuration does not name them any more.
fn refuse_without_tier(manifest: &Manifest, cold: Option<&ColdTier>) -> Result<(), StoreError> {
    let count = manifest.cold().objects.len();
    if count == 0 || cold.is_some() {
        return Ok(());
    }
    Err(StoreError::Unsupported(format!(
        "{count} of the store's segments lie in objects, and no cold storage is configured (`cold`)"
    )))
}

/// Opens a segment, and its index where that is whole; a cold one with the tier that has its object.
pub(crate) fn open_segment(
    directory: &Path,
    id: u64,
    cold: Option<&ColdTier>,
) -> Result<Segment, StoreError> {
    let segment = match cold {
        None => Segment::open(id, &segment_path(directory, id))?,
        Some(tier) => Segment::open_cold(id, &cold_path(directory, id), tier)?,
    };
    match IndexFile::open(&index_path(directory, id)) {
        Ok(index) if index.footer.spans == segment.footer.spans => segment.set_index(index),
        Ok(_) => tracing::warn!(segment = id, "an index does not fit its segment: built anew"),
        Err(StoreError::Damaged(reason)) => {
            tracing::warn!(reason, segment = id, "an index cannot be read: built anew");
        }
        Err(error) => return Err(error),
    }
    Ok(segment)
}

/// Lets the process open as many files as it may: each segment keeps two open, and the usual limit
/// is one for interactive programs.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

fn lock_directory(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(|error| disk_error(&path, &error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let directory = directory.display();
        StoreError::Unavailable(format!("{directory} is in use by another process"))
    })?;
    Ok(file)
}

/// Removes what a crash left: unfinished files, and sealed ones that no manifest names.
fn remove_leftovers(directory: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let known: HashSet<u64> = manifest.segments.iter().copied().collect();
    let is_cold = |id: &u64| manifest.cold().objects.contains_key(id);
    let entries = std::fs::read_dir(directory).map_err(|error| disk_error(directory, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| disk_error(directory, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (stem, kind) = name.split_once('.').unwrap_or((name, ""));
        let is_needed = |id: u64| match kind {
            "seg" => known.contains(&id) && !is_cold(&id),
            "cold" => known.contains(&id) && is_cold(&id),
            "idx" => known.contains(&id),
            _ => true,
        };
        let is_unknown = stem.parse().is_ok_and(|id: u64| !is_needed(id));
        let is_temporary = name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|name| {
            name == "manifest" || [".seg", ".idx", ".cold"].iter().any(|kind| name.ends_with(kind))
        });
        if is_unknown || is_temporary {
            std::fs::remove_file(&path).map_err(|error| disk_error(&path, &error))?;
        }
    }
    Ok(())
}
