//! The store's state in memory, and how it changes: always under one short lock, never while a file
//! is read or written.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trace_model::{Clock, Coverage, TenantId, TraceId, UnixNanos};

use super::cache::SegmentCache;
use super::cold_segment::ColdTier;
use super::config::EmbeddedStoreConfig;
use super::expired::Expired;
use super::manifest::{Manifest, erased_hash};
use super::pending::{Pending, PendingBatch};
use super::segment_read::Segment;
use crate::StoreError;
use crate::disk::Disk;
use crate::metrics::StoreMetrics;

/// Hashes of the traces that are erased.
pub(crate) type ErasedSet = HashSet<u128>;

/// What readers see.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) pending: Pending,
    /// Being sealed right now.
    pub(crate) sealing: Option<Arc<Vec<PendingBatch>>>,
    /// Sealed, oldest first.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    /// Segments that could not be opened: they may hold any trace.
    pub(crate) damaged: Vec<u64>,
    /// How far the log was taken in.
    pub(crate) accepted: Coverage,
    /// How far the log is sealed.
    pub(crate) covered: Coverage,
    pub(crate) erased: Arc<ErasedSet>,
    /// Append time up to which retention has removed spans.
    pub(crate) expired_until: Option<UnixNanos>,
    /// When those were placed.
    pub(crate) expired: Expired,
}

/// The parts of a store that its tasks share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: EmbeddedStoreConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: StoreMetrics,
    pub(crate) cache: SegmentCache,
    view: Mutex<View>,
    /// What the manifest on disk says. Held over its writing; taken after `sealing`, before `view`.
    pub(crate) manifest: Mutex<Manifest>,
    /// Segments of changes that failed when the manifest had its new name already: the one on disk
    /// may name them, that in memory does not. Their files stay until the disk is known to agree.
    pub(crate) strays: Mutex<Vec<u64>>,
    pub(crate) disk: Arc<dyn Disk>,
    /// Held while batches are sealed: one at a time, in order.
    pub(crate) sealing: Mutex<()>,
    /// Held while sealed segments are replaced: merge, retention, erasure. Taken before `sealing`.
    pub(crate) maintenance: Mutex<()>,
    /// Held while a segment is uploaded and while objects are deleted. Taken before `maintenance`,
    /// which uploads do without.
    pub(crate) moving: Mutex<()>,
    /// Where cold segments go.
    pub(crate) cold: Option<ColdTier>,
    /// The prefix of objects is known to be this store's.
    pub(crate) is_claimed: AtomicBool,
    /// Uploads that this opening of the store has begun.
    pub(crate) uploads: AtomicU64,
    /// When objects that nobody names were last looked for, in nanoseconds since the epoch.
    pub(crate) orphans_looked_for: AtomicU64,
    /// The directory's lock, held as long as the store lives.
    pub(crate) _directory_lock: std::fs::File,
}

/// Takes a lock; a holder that panicked has left a state that is whole, since each change is one
/// assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `State` is made of.
#[derive(Debug)]
pub(crate) struct StateParts {
    pub(crate) config: EmbeddedStoreConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) damaged: Vec<u64>,
    pub(crate) directory_lock: std::fs::File,
    pub(crate) cold: Option<ColdTier>,
}

impl State {
    pub(crate) fn new(parts: StateParts) -> Self {
        let StateParts { config, clock, disk, manifest, segments, damaged, .. } = parts;
        let (directory_lock, cold) = (parts.directory_lock, parts.cold);
        let covered = manifest.coverage();
        let (expired_until, expired) = (manifest.expired_until(), manifest.expired().clone());
        let view = View {
            pending: Pending::default(),
            sealing: None,
            segments: Arc::new(segments),
            damaged,
            accepted: covered.clone(),
            covered,
            erased: Arc::new(erased_set(&manifest)),
            expired_until,
            expired,
        };
        let metrics = StoreMetrics {
            cold: cold.as_ref().map(|tier| tier.metrics.clone()).unwrap_or_default(),
            ..StoreMetrics::default()
        };
        Self {
            cache: super::cache::segment_cache(config.cache_bytes),
            config,
            clock,
            metrics,
            view: Mutex::new(view),
            manifest: Mutex::new(manifest),
            strays: Mutex::default(),
            disk,
            sealing: Mutex::new(()),
            maintenance: Mutex::new(()),
            moving: Mutex::new(()),
            cold,
            is_claimed: AtomicBool::new(false),
            uploads: AtomicU64::new(0),
            orphans_looked_for: AtomicU64::new(0),
            _directory_lock: directory_lock,
        }
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.view().segments)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.config.directory
    }

    pub(crate) fn segment_path(&self, id: u64) -> PathBuf {
        segment_path(self.directory(), id)
    }

    pub(crate) fn index_path(&self, id: u64) -> PathBuf {
        index_path(self.directory(), id)
    }

    pub(crate) fn cold_path(&self, id: u64) -> PathBuf {
        cold_path(self.directory(), id)
    }

    /// Shows the size of the store in the gauges.
    pub(crate) fn refresh_gauges(&self) {
        let view = self.view();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.pending_spans.set(gauge(view.pending.spans as u64));
        self.metrics.segments.set(gauge(view.segments.len() as u64));
        self.metrics.disk.set(gauge(view.segments.iter().map(|segment| segment.bytes()).sum()));
        let cold = view.segments.iter().filter_map(|segment| segment.object_bytes());
        let (objects, bytes) = cold.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        self.metrics.cold.objects.set(gauge(objects));
        self.metrics.cold.object_bytes.set(gauge(bytes));
    }

    /// Counts what could not be read. Damage is logged the first time that it is met in a segment;
    /// that objects are away, by what reads them. Says whether that is it.
    pub(crate) fn note_damage(&self, segment: &Segment, error: &StoreError) -> bool {
        if segment.is_cold() && error.is_retryable() {
            return true;
        }
        self.metrics.damaged_reads.inc();
        if segment.is_damage_news() {
            tracing::error!(%error, segment = segment.id, "a segment is damaged");
        }
        false
    }
}

/// Whether the trace is erased.
pub(crate) fn is_erased(erased: &ErasedSet, tenant: &TenantId, trace_id: TraceId) -> bool {
    !erased.is_empty() && erased.contains(&erased_hash(tenant, trace_id))
}

pub(crate) fn erased_set(manifest: &Manifest) -> ErasedSet {
    let hashes = manifest.erased.iter();
    hashes.filter_map(|erased| u128::from_str_radix(&erased.hash, 16).ok()).collect()
}

pub(crate) fn segment_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id:010}.seg"))
}

pub(crate) fn index_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id:010}.idx"))
}

pub(crate) fn cold_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id:010}.cold"))
}
