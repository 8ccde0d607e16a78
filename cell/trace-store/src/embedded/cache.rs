//! The bounded cache of what searches and reads need of each segment: its contexts and the
//! directory of its index, and what lists need: the names of a tenant. All can always be read again.

use std::sync::Arc;

use super::contexts::ReadContext;
use super::directory::Directory;

/// Something kept of a segment.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    /// Its contexts.
    Contexts(Arc<Vec<ReadContext>>),
    /// The directory of its index.
    Directory(Arc<Directory>),
    /// The names of a tenant, as they are in the file.
    Names(Arc<Vec<u8>>),
}

/// Which part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PartOf {
    /// Its contexts.
    Contexts(u64),
    /// The directory of its index.
    Directory(u64),
    /// The names of the tenant at a place.
    Names(u64, u32),
}

/// The cache; weighed in bytes.
pub(crate) type SegmentCache = moka::sync::Cache<PartOf, Cached>;

/// A cache of about so many bytes.
pub(crate) fn segment_cache(bytes_max: u64) -> SegmentCache {
    moka::sync::Cache::builder()
        .max_capacity(bytes_max)
        .weigher(|_, cached: &Cached| u32::try_from(weight(cached)).unwrap_or(u32::MAX))
        .build()
}

fn weight(cached: &Cached) -> usize {
    match cached {
        // Decoded attributes take about four times their bytes.
        Cached::Contexts(contexts) => contexts
            .iter()
            .map(|read| 256 + 4 * (read.context.resource.len() + read.context.scope.len()))
            .sum(),
        Cached::Directory(directory) => directory.weight(),
        Cached::Names(names) => 64 + names.len(),
    }
}
