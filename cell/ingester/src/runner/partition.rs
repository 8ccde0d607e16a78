//! One partition as a group reads it: its position, what was read and not handed over, and when the
//! next try is due.

use std::collections::VecDeque;

use proto::LoggedBatch;
use span_log::{DamagedRange, Hold, LogError};
use trace_model::UnixNanos;

use super::ahead::Reading;
use super::missed::Missing;
use crate::backoff::Backoff;

/// A group's place in one partition.
#[derive(Debug)]
pub(super) struct PartitionReader {
    pub(super) partition: u32,
    /// The generation in which the partition was given to this process.
    pub(super) since: u64,
    /// It is wanted elsewhere: nothing more is read.
    pub(super) is_leaving: bool,
    pub(super) backoff: Backoff,
    /// What is held has to wait for records of others: nothing is read behind it.
    pub(super) is_waiting: bool,
    /// Read, not handed over: at most one read, and one more that was made meanwhile.
    pub(super) held: VecDeque<LoggedBatch>,
    /// What the next read met, where it was made ahead.
    pub(super) fault: Option<LogError>,
    /// A run that others are told of before it is set aside.
    pub(super) missing: Option<Missing>,
    /// A run that was set aside and that the handler has not been told of.
    pub(super) set_aside: Option<DamagedRange>,
    /// How many batches are handed over at once: halved while poison is looked for.
    pub(super) chunk: usize,
    /// Next offset to hand over; `None` until the committed one was asked for.
    position: Option<u64>,
    committed: u64,
    /// Append time of the last batch handed over.
    last_append: UnixNanos,
}

impl PartitionReader {
    pub(super) const fn new(hold: Hold, backoff: Backoff) -> Self {
        Self {
            partition: hold.partition,
            since: hold.since,
            is_leaving: false,
            backoff,
            is_waiting: false,
            held: VecDeque::new(),
            fault: None,
            missing: None,
            set_aside: None,
            chunk: usize::MAX,
            position: None,
            committed: 0,
            last_append: UnixNanos(0),
        }
    }

    /// What commits name.
    pub(super) const fn hold(&self) -> Hold {
        Hold { partition: self.partition, since: self.since }
    }

    /// Drops what was read and not handed over: whoever reads the partition next reads it again.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        self.held.clear();
        self.fault = None;
        self.missing = None;
        self.set_aside = None;
    }

    /// Whether its next records may be read while others, or those before them, are handed over.
    pub(super) fn may_read_ahead(&self) -> bool {
        let is_calm = self.backoff.tries() == 0 && !self.is_waiting && self.chunk == usize::MAX;
        let is_open = !self.is_leaving && self.missing.is_none() && self.set_aside.is_none();
        is_calm && is_open && self.fault.is_none() && self.is_placed()
    }

    /// Whether it waits until others have heard of a run.
    pub(super) fn is_telling(&self) -> bool {
        self.missing.as_ref().is_some_and(Missing::is_under_way)
    }

    /// Next offset to read.
    pub(super) fn reads_at(&self) -> u64 {
        self.held.back().map_or_else(|| self.next(), |last| last.range.next)
    }

    /// Whether the committed offset was asked for.
    pub(super) const fn is_placed(&self) -> bool {
        self.position.is_some()
    }

    /// Starts at the committed offset.
    pub(super) const fn start_at(&mut self, committed: u64) {
        self.position = Some(committed);
        self.committed = committed;
    }

    /// Next offset to hand over.
    pub(super) fn next(&self) -> u64 {
        self.position.unwrap_or(0)
    }

    /// Whether everything below `end` was handed over.
    pub(super) fn is_at(&self, end: u64) -> bool {
        self.position == Some(end) && self.held.is_empty() && self.set_aside.is_none()
    }

    /// Keeps what was read, but for batches that lie wholly below what is known.
    pub(super) fn keep(&mut self, batches: Vec<LoggedBatch>) {
        let next = self.reads_at();
        self.held.extend(batches.into_iter().filter(|batch| batch.range.next > next));
    }

    /// Notes that the first `count` batches held were handed over.
    pub(super) fn handed(&mut self, count: usize) {
        let last = self.held.drain(..count.min(self.held.len())).next_back();
        if let Some(last) = last {
            self.move_to(last.range.next, last.append_time);
        }
        if self.held.is_empty() {
            self.chunk = usize::MAX;
        }
    }

    /// Keeps what was read ahead, and what that met.
    pub(super) fn keep_ahead(&mut self, reading: Reading) {
        self.keep(reading.batches);
        self.fault = reading.fault.or_else(|| self.fault.take());
    }

    /// Encoded bytes of what was read and not handed over.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.iter().map(|held| held.batch.encoded().len()).sum()
    }

    /// Lets go what was read but for the first batch, and what was met behind it: it is read again.
    pub(super) fn keep_first(&mut self) {
        self.held.truncate(1);
        self.fault = None;
    }

    /// Goes on at `next`; never back.
    pub(super) fn move_to(&mut self, next: u64, append_time: UnixNanos) {
        self.position = Some(self.next().max(next));
        self.last_append = self.last_append.max(append_time);
    }

    pub(super) const fn last_append(&self) -> UnixNanos {
        self.last_append
    }

    pub(super) const fn should_commit(&self, next: u64) -> bool {
        self.is_placed() && next > self.committed
    }

    pub(super) fn committed(&mut self, next: u64) {
        self.committed = self.committed.max(next);
    }

    pub(super) const fn committed_next(&self) -> u64 {
        self.committed
    }

    /// Milliseconds since the oldest record not handed over was appended: exact where it was read,
    /// else counted from the last one handed over.
    pub(super) fn age_ms(&self, now: UnixNanos, end: u64) -> u64 {
        if self.next() >= end {
            return 0;
        }
        let since = self.held.front().map_or(self.last_append, |batch| batch.append_time);
        if since == UnixNanos(0) { 0 } else { now.since(since) / 1_000_000 }
    }
}
