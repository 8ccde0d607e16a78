//! Where segments go when they are no longer hot.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use trace_model::UnixNanos;

use super::StoreError;

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFound {
    /// Its name.
    pub name: String,
    /// When it was written, by the clock of whoever keeps it.
    pub written: UnixNanos,
}

/// Objects under one prefix, which belongs to one store.
///
/// Calls block: they are made by threads that may. Each has an end of its own, and fails with
/// [`StoreError::Unavailable`] where the objects are away or do not answer in time.
/// **Content.** An object never changes. A name is used once; what stands under it was written whole,
/// or it does not stand there.
/// **Not found** is [`StoreError::Damaged`] for a read, and success for a deletion.
pub trait ColdObjects: Send + Sync + fmt::Debug {
    /// Makes the prefix this owner's. Fails with [`StoreError::Refused`] where it is another's, and
    /// where it is nobody's though `has_objects` says that this owner has objects there.
    fn claim(&self, owner: &str, has_objects: bool) -> Result<(), StoreError>;

    /// Writes an object and reads it back: what it has in the end is what the file has. Gives its size
    /// in bytes. After a failure there may be an object of that name.
    fn put(&self, name: &str, file: &Path) -> Result<u64, StoreError>;

    /// Reads ranges of an object, those that are near one another with one request. Each is as long as
    /// asked for.
    fn read(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError>;

    /// Deletes an object.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// All objects whose names begin with this and a slash.
    fn list(&self, under: &str) -> Result<Vec<ObjectFound>, StoreError>;
}
