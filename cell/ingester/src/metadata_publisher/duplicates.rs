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
    /// Append time of the newest batch noted.
    newest: UnixNanos,
    current: Seen,
    previous: Seen,
}

impl Repeats {
    pub(super) fn within(window: Duration) -> Self {
        Self {
            half_nanos: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            half_started: UnixNanos(0),
            newest: UnixNanos(0),
            current: Seen::default(),
            previous: Seen::default(),
        }
    }

    /// Whether the batch was seen within the window; notes it. Up to twice the window is
    /// remembered, so that never less than the window is. Whatever is not read yet was appended at
    /// `floor` or later; what is noted may be newer, and a half begins behind all that was.
    pub(super) fn is_repeat(&mut self, batch: &LoggedBatch, floor: UnixNanos) -> bool {
        let age = floor.since(self.half_started);
        if age >= self.half_nanos || self.current.len() >= HALF_MAX {
            self.previous = std::mem::take(&mut self.current);
            if floor.since(self.newest) >= self.half_nanos {
                self.previous.clear();
            }
            self.half_started = self.newest.max(floor);
        }
        self.newest = self.newest.max(batch.append_time);
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
