//! What was written and is not sealed yet: the log's batches, shared with whoever else holds them.

use std::sync::Arc;
use std::time::Duration;

use proto::{LoggedBatch, TraceSlice};
use trace_model::{Coverage, LogPosition};

use super::segment::{CoveredRange, join_ranges};

/// A batch of which some records may be known already.
#[derive(Clone, Debug)]
pub(crate) struct PendingBatch {
    pub(crate) logged: LoggedBatch,
    /// Traces of it that came before.
    skipped: usize,
    /// Whether it comes beside the order of the log: it covers nothing.
    is_again: bool,
}

impl PendingBatch {
    /// The traces that are new.
    pub(crate) fn traces(&self) -> &[TraceSlice] {
        self.logged.batch.traces().get(self.skipped..).unwrap_or(&[])
    }
}

/// Batches that wait to be sealed.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) batches: Arc<Vec<PendingBatch>>,
    pub(crate) spans: usize,
    pub(crate) bytes: usize,
    /// Monotonic time of the oldest.
    pub(crate) since: Option<Duration>,
}

impl Pending {
    /// Takes a batch in, but for the records that `accepted` covers, and extends that.
    pub(crate) fn admit(&mut self, logged: &LoggedBatch, accepted: &mut Coverage, now: Duration) {
        let range = logged.range;
        let skipped = logged
            .batch
            .traces()
            .iter()
            .zip(range.first..)
            .take_while(|(_, offset)| {
                let position = LogPosition { partition: range.partition, offset: *offset };
                accepted.covers(logged.incarnation, position)
            })
            .count();
        let mut cover = Coverage::none(logged.incarnation);
        cover.extend(range.partition, range.next);
        accepted.join(&cover);
        if skipped > 0 && skipped == logged.batch.traces().len() {
            return;
        }
        self.put(PendingBatch { logged: logged.clone(), skipped, is_again: false }, now);
    }

    /// Takes a batch in whatever is covered, and covers nothing by it.
    pub(crate) fn admit_again(&mut self, logged: &LoggedBatch, now: Duration) {
        self.put(PendingBatch { logged: logged.clone(), skipped: 0, is_again: true }, now);
    }

    fn put(&mut self, batch: PendingBatch, now: Duration) {
        self.spans += batch.logged.batch.spans().len();
        self.bytes += batch.logged.batch.encoded().len();
        self.since.get_or_insert(now);
        Arc::make_mut(&mut self.batches).push(batch);
    }

    /// Puts batches that could not be sealed back to the front.
    pub(crate) fn put_back(&mut self, failed: &Self) {
        let mut batches = failed.batches.as_ref().clone();
        batches.extend(self.batches.iter().cloned());
        self.batches = Arc::new(batches);
        self.spans += failed.spans;
        self.bytes += failed.bytes;
        self.since = failed.since.or(self.since);
    }
}

/// The runs of the log that the batches are.
pub(crate) fn ranges_of(batches: &[PendingBatch]) -> Vec<CoveredRange> {
    let in_order = batches.iter().filter(|batch| !batch.is_again);
    join_ranges(
        in_order.map(|batch| CoveredRange::new(batch.logged.incarnation, batch.logged.range)),
    )
}
