//! Opening a store: lock the directory, read the manifest, remove leftovers, open the segments.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trace_model::Clock;

use super::config::EmbeddedStoreConfig;
use super::directory::IndexFile;
use super::manifest::Manifest;
use super::sealed_file::{TEMPORARY_SUFFIX, disk_error};
use super::segment_read::Segment;
use super::state::{State, StateParts, index_path, segment_path};
use crate::StoreError;
use crate::disk::Disk;

/// Opens the store's state.
pub(crate) fn open(
    config: EmbeddedStoreConfig,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
) -> Result<State, StoreError> {
    let directory = config.directory.clone();
    std::fs::create_dir_all(&directory).map_err(|error| disk_error(&directory, &error))?;
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_directory(parent).map_err(|error| disk_error(parent, &error))?;
    }
    let directory_lock = lock_directory(&directory)?;
    allow_open_files();
    let manifest = Manifest::load(&directory)?;
    remove_leftovers(&directory, &manifest)?;
    let mut segments = Vec::with_capacity(manifest.segments.len());
    let mut damaged = Vec::new();
    for id in &manifest.segments {
        match open_segment(&directory, *id) {
            Ok(segment) => segments.push(Arc::new(segment)),
            Err(StoreError::Damaged(reason)) => {
                tracing::error!(reason, segment = id, "a segment cannot be read and is set aside");
                damaged.push(*id);
            }
            Err(error) => return Err(error),
        }
    }
    let parts = StateParts { config, clock, disk, manifest, segments, damaged, directory_lock };
    Ok(State::new(parts))
}

/// Opens a segment, and its index where that is whole.
pub(crate) fn open_segment(directory: &Path, id: u64) -> Result<Segment, StoreError> {
    let segment = Segment::open(id, &segment_path(directory, id))?;
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
    let entries = std::fs::read_dir(directory).map_err(|error| disk_error(directory, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| disk_error(directory, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = name.strip_suffix(".seg").or_else(|| name.strip_suffix(".idx"));
        let is_unknown =
            id.and_then(|id| id.parse().ok()).is_some_and(|id: u64| !known.contains(&id));
        let is_temporary = name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|name| {
            name == "manifest" || name.ends_with(".seg") || name.ends_with(".idx")
        });
        if is_unknown || is_temporary {
            std::fs::remove_file(&path).map_err(|error| disk_error(&path, &error))?;
        }
    }
    Ok(())
}
