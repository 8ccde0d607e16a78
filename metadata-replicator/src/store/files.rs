//! The files of a directory: names, lock, creation, and how one is read when it is opened.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use proto::v1::origin_record::Record;
use trace_model::UnixNanos;
use trace_model::location::Cursor;

use super::disk::{Access, Disk, DiskFile, Range, is_rotten, read_range};
use super::packed::unpack;
use super::part::Segment;
use super::records::record_of;
use super::segment::{BadHeader, HEADER_BYTES, Header, Location, Scan, Scanned, VERSION};
use super::segments::Met;
use crate::error::ReplicatorError;

pub(super) fn short(offset: usize) -> Result<u32, ReplicatorError> {
    u32::try_from(offset).map_err(|_| ReplicatorError::Record)
}

/// Sorts by cursor as text.
pub(super) fn file_name(first: Cursor) -> String {
    let Cursor { epoch, sequence } = first;
    format!("{:020}-{:020}-{sequence:020}.log", epoch.millis, epoch.random)
}

/// Makes the directory where there is none, and takes it for this process while the file is held.
pub(super) fn take(directory: &Path) -> Result<File, ReplicatorError> {
    std::fs::create_dir_all(directory).map_err(ReplicatorError::disk("create", directory))?;
    let path = directory.join("LOCK");
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(ReplicatorError::disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(ReplicatorError::InUse(directory.to_path_buf()))
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(ReplicatorError::disk("lock", &path)(error))
        }
    }
}

/// By how much clocks and the time of a file may differ.
const CLOCKS_APART_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// The clock's word for the latest append that may be missing, as far as the files bear it out: one that
/// runs years ahead for a moment would say of all that comes until then that it may have been let go.
pub(super) fn plausible(latest: UnixNanos, directory: &Path) -> UnixNanos {
    let changed = segment_paths(directory).ok().into_iter().flatten().filter_map(|path| {
        let changed = std::fs::metadata(path).ok()?.modified().ok()?;
        let since = changed.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    });
    let last = changed.max().map(|last| UnixNanos(last).plus(CLOCKS_APART_NANOS));
    last.map_or(latest, |last| latest.min(last))
}

/// The segment files in order; what an unfinished rewrite left is removed.
pub(super) fn segment_paths(directory: &Path) -> Result<Vec<PathBuf>, ReplicatorError> {
    let failed = || ReplicatorError::disk("list", directory);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => paths.push(path),
            Some("tmp") => {
                std::fs::remove_file(&path).map_err(ReplicatorError::disk("remove", &path))?;
            }
            Some(_) | None => {}
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

pub(super) fn write_file(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
) -> Result<Arc<dyn DiskFile>, ReplicatorError> {
    let file = disk.open(path, Access::Create).map_err(ReplicatorError::disk("create", path))?;
    file.write_all_at(bytes, 0)
        .and_then(|()| file.sync())
        .map_err(ReplicatorError::disk("write", path))?;
    Ok(file)
}

/// Puts a file in another one's place. Durable when this returns.
pub(super) fn replace_file(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
) -> Result<(), ReplicatorError> {
    let temporary = path.with_extension("tmp");
    drop(write_file(disk, &temporary, bytes)?);
    std::fs::rename(&temporary, path).map_err(ReplicatorError::disk("rename", path))?;
    path.parent().map_or(Ok(()), sync_directory)
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), ReplicatorError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(ReplicatorError::disk("sync", directory))
}

/// Reads a file; `None` where it holds no header that can be read.
pub(super) fn load(
    disk: &dyn Disk,
    path: PathBuf,
    number: u32,
    (is_last, is_listed): (bool, bool),
    meet: &mut dyn FnMut(Met<'_>) -> Result<u64, ReplicatorError>,
) -> Result<Option<(Cursor, Segment)>, ReplicatorError> {
    let failed = |action| ReplicatorError::disk(action, &path);
    let (file, read) = match open_whole(disk, &path) {
        Ok(opened) => opened,
        Err(error) if is_rotten(&error) => {
            tracing::error!(path = %path.display(), %error, "a file of a log cannot be opened");
            meet(Met::Damaged { path: &path, bytes: 0 })?;
            return Ok(None);
        }
        Err(error) => return Err(failed("open")(error)),
    };
    let Range { bytes, is_rotten } = read;
    let header = match Header::decode(&bytes) {
        Ok(header) => header,
        Err(BadHeader::Newer(version)) => {
            return Err(ReplicatorError::NewerVersion { path, version, newest: VERSION });
        }
        // One that is listed was whole once.
        Err(BadHeader::Damaged)
            if is_last && !is_listed && !is_rotten && bytes.len() <= HEADER_BYTES =>
        {
            std::fs::remove_file(&path).map_err(failed("remove"))?;
            return Ok(None);
        }
        Err(BadHeader::Damaged) => {
            meet(Met::Damaged { path: &path, bytes: bytes.len() })?;
            return Ok(None);
        }
    };
    let on_disk = bytes.len() as u64;
    let (bytes, blocks) = if header.is_packed {
        let (plain, blocks) = unpack(&bytes);
        (plain, Some(Arc::new(blocks)))
    } else {
        (bytes, None)
    };
    let mut segment = Segment::empty(number, path, header.first);
    segment.blocks = blocks;
    segment.packed_bytes = header.is_packed.then_some(on_disk);
    segment.is_compacted = header.is_compacted;
    segment.is_sealed = true;
    // A packed file was written whole: it has no tail that a kill may have torn. And what cannot be
    // read is no torn tail either.
    let is_open = is_last && !header.is_packed;
    load_records(&mut segment, header.first, &bytes, is_open && !is_rotten, meet)?;
    if is_open {
        let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
        let whole = bytes.get(..length).filter(|_| !is_rotten);
        settle(disk, file.as_ref(), &segment.path, (segment.length, whole))?;
    }
    Ok(Some((header.first, segment)))
}

fn open_whole(disk: &dyn Disk, path: &Path) -> std::io::Result<(Arc<dyn DiskFile>, Range)> {
    let file = disk.open(path, Access::Change)?;
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    let read = read_range(file.as_ref(), 0, length)?;
    Ok((file, read))
}

/// Cuts a file to what was read of it, and waits until that is on disk: the process that wrote it may
/// have been killed before, and whoever goes on from here takes all of it for durable. Where the file
/// does not take that any more another one is put in its place, unless not all of it could be read:
/// then what the disk may yet give is worth more.
fn settle(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    path: &Path,
    (length, whole): (u64, Option<&[u8]>),
) -> Result<(), ReplicatorError> {
    let is_longer = file.length().is_ok_and(|held| held > length);
    let cut = if is_longer { file.set_length(length) } else { Ok(()) };
    let Err(error) = cut.and_then(|()| file.sync()) else { return Ok(()) };
    let Some(bytes) = whole else {
        tracing::error!(path = %path.display(), %error, "a file can neither be synced nor read in full");
        return Ok(());
    };
    tracing::warn!(path = %path.display(), %error, "a file was not synced; it is written anew");
    replace_file(disk, path, bytes)
}

/// Whether a record is the first name of its epoch.
fn is_first_name(payload: &[u8]) -> bool {
    matches!(record_of(payload), Ok(Record::ServiceName(name)) if name.id == 0)
}

/// Shows the records; of one with a torn tail the length ends before it.
fn load_records(
    segment: &mut Segment,
    first: Cursor,
    bytes: &[u8],
    may_be_torn: bool,
    meet: &mut dyn FnMut(Met<'_>) -> Result<u64, ReplicatorError>,
) -> Result<(), ReplicatorError> {
    segment.length = bytes.len() as u64;
    let mut last = None;
    for scanned in Scan::new(bytes, HEADER_BYTES, first.sequence) {
        match scanned {
            Scanned::Record(record) => {
                let cursor = Cursor { epoch: first.epoch, sequence: record.sequence };
                let location = Location { segment: segment.number, offset: short(record.offset)? };
                let stamp = meet(Met::Record { cursor, location, payload: record.payload })?;
                segment.stamp = segment.stamp.max(stamp);
                // The first name of an epoch: all others before this file's stand behind it.
                segment.begins_with_names |= last.is_none() && is_first_name(record.payload);
                if last.replace(record.sequence) != Some(record.sequence) {
                    segment.mark(record.sequence, record.offset as u64);
                }
                // Names stand at the sequence of what follows them, and that may not be here.
                if stamp > 0 {
                    segment.next_sequence = record.sequence.saturating_add(1);
                }
            }
            Scanned::Torn { offset } if may_be_torn => {
                let cut = bytes.len().saturating_sub(offset);
                tracing::warn!(path = %segment.path.display(), bytes = cut, "a torn tail was cut");
                segment.length = offset as u64;
            }
            Scanned::Torn { offset } => {
                let bytes = bytes.len().saturating_sub(offset);
                meet(Met::Damaged { path: &segment.path, bytes })?;
            }
            Scanned::Damaged { offset, end } => {
                let bytes = end.saturating_sub(offset);
                meet(Met::Damaged { path: &segment.path, bytes })?;
            }
        }
    }
    Ok(())
}
