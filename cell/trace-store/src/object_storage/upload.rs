//! Writing an object: whole or not at all, and read back before anyone relies on it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt};

use super::ObjectStorage;
use crate::StoreError;

/// A file being uploaded.
struct Source<'a> {
    file: File,
    path: &'a FilePath,
    length: u64,
    part_bytes: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a FilePath, part_bytes: usize) -> Result<Self, StoreError> {
        let unread = |error| local(path, &error);
        let file = File::open(path).map_err(unread)?;
        let length = file.metadata().map_err(unread)?.len();
        Ok(Self { file, path, length, part_bytes: part_bytes.max(1) as u64 })
    }

    /// Ends of the parts.
    fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        let (step, length) = (self.part_bytes, self.length);
        let starts = std::iter::successors(Some(0), move |start: &u64| start.checked_add(step));
        let starts = starts.take_while(move |start| *start < length);
        starts.map(move |start| (start, start.saturating_add(step).min(length)))
    }

    fn read(&self, (start, end): (u64, u64)) -> Result<Bytes, StoreError> {
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, start);
        read.map_err(|error| local(self.path, &error))?;
        Ok(bytes.into())
    }
}

/// A file here that cannot be read holds up no other.
fn local(path: &FilePath, error: &std::io::Error) -> StoreError {
    StoreError::Damaged(format!("{}: {error}", path.display()))
}

/// Writes the file's content under the name and compares what stands there then. Gives its size.
pub(super) fn put(storage: &ObjectStorage, name: &str, file: &FilePath) -> Result<u64, StoreError> {
    let source = Source::open(file, storage.limits.part_bytes)?;
    let path = storage.path_of(name);
    if source.length <= source.part_bytes {
        let bytes = source.read((0, source.length))?;
        let put = storage.store.put(&path, bytes.into());
        storage.wait(storage.limits.upload_timeout, put)?;
    } else {
        put_parts(storage, &path, &source)?;
    }
    compare(storage, &path, &source)?;
    Ok(source.length)
}

/// Nothing stands under the name before the last part is there and the upload completed. One that
/// fails is given up, so that its parts do not stay; where that fails as well, they are for the
/// bucket's rule about unfinished uploads.
fn put_parts(storage: &ObjectStorage, path: &Path, source: &Source<'_>) -> Result<(), StoreError> {
    let time = storage.limits.upload_timeout;
    let mut upload = storage.wait(time, storage.store.put_multipart(path))?;
    let written = write_parts(storage, upload.as_mut(), source);
    if written.is_err()
        && let Err(error) = storage.wait(time, upload.abort())
    {
        tracing::warn!(%error, "an upload could not be given up: its parts may stay");
    }
    written
}

fn write_parts(
    storage: &ObjectStorage,
    upload: &mut dyn MultipartUpload,
    source: &Source<'_>,
) -> Result<(), StoreError> {
    let time = storage.limits.upload_timeout;
    for part in source.parts() {
        let bytes = source.read(part)?;
        storage.wait(time, upload.put_part(bytes.into()))?;
    }
    storage.wait(time, upload.complete())?;
    Ok(())
}

/// The object is as long as the file, and the same.
fn compare(storage: &ObjectStorage, path: &Path, source: &Source<'_>) -> Result<(), StoreError> {
    let time = storage.limits.upload_timeout;
    let differs = || StoreError::Unavailable(format!("objects: {path} is not what was written"));
    if storage.wait(time, storage.store.head(path))?.size != source.length {
        return Err(differs());
    }
    for part in source.parts() {
        let found = storage.wait(time, storage.store.get_range(path, part.0..part.1))?;
        if found != source.read(part)? {
            return Err(differs());
        }
    }
    Ok(())
}
