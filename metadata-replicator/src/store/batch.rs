//! Records that are appended together.

use super::part::MARK_BYTES;
use super::segment::put_record;

/// Records to append together, framed.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Where a read can enter, ascending: a sequence and the offset of its first record.
    pub(super) marks: Vec<(u64, usize)>,
    /// Newest append time in it, nanoseconds; 0 where it holds names alone.
    pub(crate) stamp: u64,
}

impl Batch {
    /// Adds a record; gives its offset within the batch.
    pub(crate) fn put(&mut self, sequence: u64, payload: &[u8]) -> usize {
        let offset = self.bytes.len();
        if offset == 0 {
            self.first = sequence;
        }
        let entered = self.marks.last().map_or(0, |(_, at)| *at);
        let is_new = offset == 0 || sequence != self.last;
        if is_new && (offset == 0 || offset.saturating_sub(entered) as u64 >= MARK_BYTES) {
            self.marks.push((sequence, offset));
        }
        self.last = sequence;
        put_record(&mut self.bytes, sequence, payload);
        offset
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
