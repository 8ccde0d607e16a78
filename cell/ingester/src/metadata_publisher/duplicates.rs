//! Requests whose bytes came a second time: counted once within a window of the log's time.

use std::hash::BuildHasherDefault;
use std::time::Duration;

use hashbrown::HashSet;
use proto::LoggedBatch;
use rustc_hash::FxHasher;
use trace_model::UnixNanos;
use xxhash_rust::xxh3::Xxh3;

/// Most batches remembered in each half of the window (about 18 bytes each).
const HALF_MAX: usize = 1 << 20;

type Seen = HashSet<u64, BuildHasherDefault<FxHasher>>;

/// Fingerprints of (request digest, traces of the batch), in two halves that take turns. All
/// records of a batch have one digest, so that a batch is looked up as one.
#[derive(Debug)]
pub(super) struct Repeats {
    half_nanos: u64,
    half_started: UnixNanos,
    current: Seen,
    previous: Seen,
}

impl Repeats {
    pub(super) fn within(window: Duration) -> Self {
        Self {
            half_nanos: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            half_started: UnixNanos(0),
            current: Seen::default(),
            previous: Seen::default(),
        }
    }

    /// Whether the batch was seen within the window; notes it. Up to twice the window is
    /// remembered, so that never less than the window is.
    pub(super) fn is_repeat(&mut self, batch: &LoggedBatch) -> bool {
        let age = batch.append_time.since(self.half_started);
        if age >= self.half_nanos || self.current.len() >= HALF_MAX {
            self.previous = std::mem::take(&mut self.current);
            if age >= self.half_nanos.saturating_mul(2) {
                self.previous.clear();
            }
            self.half_started = batch.append_time;
        }
        let fingerprint = fingerprint(batch);
        !self.current.insert(fingerprint) || self.previous.contains(&fingerprint)
    }
}

fn fingerprint(batch: &LoggedBatch) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&batch.batch.source().digest.to_le_bytes());
    hasher.update(batch.batch.source().tenant.as_str().as_bytes());
    for trace in batch.batch.traces() {
        hasher.update(trace.trace_id.as_bytes());
        hasher.update(&trace.span_count.to_le_bytes());
    }
    hasher.digest()
}
