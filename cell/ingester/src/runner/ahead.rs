//! Reads on while what was read is handed over: the next read is there when the store is done.
//!
//! **Never**: lose what a read gave, batches or a fault; read ahead of what is being narrowed down.

use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use proto::LoggedBatch;
use span_log::{Hold, LogError, SpanLog};

use super::ConsumerRunner;
use super::desk::Step;
use super::partition::PartitionReader;

/// What is read of a partition, piece by piece: a log may give less at once than it is asked for.
#[derive(Debug)]
pub(super) struct Reading {
    hold: Hold,
    next: u64,
    bytes: usize,
    bytes_max: usize,
    pub(super) batches: Vec<LoggedBatch>,
    /// Why it ends before its bytes are full.
    pub(super) fault: Option<LogError>,
    has_ended: bool,
}

impl Reading {
    pub(super) const fn new(hold: Hold, next: u64, bytes_max: usize) -> Self {
        let batches = Vec::new();
        Self { hold, next, bytes: 0, bytes_max, batches, fault: None, has_ended: false }
    }

    /// Where it reads.
    pub(super) const fn hold(&self) -> Hold {
        self.hold
    }

    /// Begins behind what the partition's own reader has read since.
    pub(super) fn go_behind(&mut self, reader: &PartitionReader) {
        if self.hold == reader.hold() {
            self.next = reader.reads_at();
            self.has_ended = reader.fault.is_some();
        }
    }

    /// Reads on from a place, until enough is there or nothing comes. It may be left off at any
    /// moment: what it has then is kept.
    pub(super) async fn fill(&mut self, log: &dyn SpanLog) {
        while !self.is_over() {
            let read = log.read(self.hold.partition, self.next, self.left()).await;
            self.take(read);
        }
    }

    /// Waits for the first piece alone, and takes what is there at once behind it.
    pub(super) async fn fill_at_once(&mut self, log: &dyn SpanLog) {
        let read = log.read(self.hold.partition, self.next, self.left()).await;
        self.take(read);
        while !self.is_over() {
            let more = log.read(self.hold.partition, self.next, self.left()).now_or_never();
            let Some(more) = more else { return };
            self.take(more);
            // A piece is decoded in milliseconds: others may run in between.
            tokio::task::yield_now().await;
        }
    }

    const fn left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    const fn is_over(&self) -> bool {
        self.has_ended || self.bytes >= self.bytes_max
    }

    fn take(&mut self, read: Result<Vec<LoggedBatch>, LogError>) {
        match read {
            Ok(batches) => {
                self.has_ended = batches.last().is_none_or(|last| last.range.next <= self.next);
                self.next = batches.last().map_or(self.next, |last| last.range.next.max(self.next));
                self.bytes += batches.iter().map(|held| held.batch.encoded().len()).sum::<usize>();
                self.batches.extend(batches);
            }
            Err(error) => {
                self.has_ended = true;
                self.fault = Some(error);
            }
        }
    }
}

/// Does the work, and reads while it waits; ends with the work.
pub(super) async fn alongside<T>(
    work: impl Future<Output = T>,
    reading: Option<&mut Reading>,
    log: &dyn SpanLog,
) -> T {
    let Some(reading) = reading else { return work.await };
    match select(Box::pin(work), Box::pin(reading.fill(log))).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    }
}

/// What is read while the partition at this place is handed over: the records of the next one in turn
/// that has more; where none has, its own behind those that are handed over.
pub(super) fn reading_beside(
    readers: &[PartitionReader],
    place: usize,
    bytes_max: usize,
    has_more: impl Fn(&PartitionReader) -> bool,
) -> Option<Reading> {
    let may_read = |reader: &&PartitionReader| reader.may_read_ahead() && has_more(reader);
    let others = readers.iter().cycle().skip(place.saturating_add(1));
    let mut others = others.take(readers.len().saturating_sub(1));
    let reader = others.find(|reader| reader.held.is_empty() && may_read(reader));
    let reader = reader.or_else(|| readers.get(place).filter(may_read))?;
    Some(Reading::new(reader.hold(), reader.reads_at(), bytes_max))
}

impl ConsumerRunner {
    /// One step of the partition at this place; the next one is read meanwhile.
    pub(super) async fn step(&mut self, place: usize) -> Step {
        let bytes_max = self.desk.parts.config.read_bytes_max;
        let log = &self.desk.parts.log;
        let has_more = |reader: &PartitionReader| {
            log.end(reader.partition).is_ok_and(|end| end.next > reader.reads_at())
        };
        let mut ahead = reading_beside(&self.readers, place, bytes_max, has_more);
        let Some(reader) = self.readers.get_mut(place) else { return Step::Waits };
        if reader.is_leaving {
            return Step::Waits;
        }
        let step = self.desk.step(reader, ahead.as_mut()).await;
        if let Some(ahead) = ahead {
            let mut readers = self.readers.iter_mut();
            if let Some(reader) = readers.find(|reader| reader.hold() == ahead.hold()) {
                reader.keep_ahead(ahead);
            }
        }
        self.bound_what_fails(place);
        step
    }

    /// Partitions whose records are not taken hold two reads at most together, and one batch each
    /// beside: a store that is away must not fill the memory with what waits for it.
    fn bound_what_fails(&mut self, place: usize) {
        let bytes_max = self.desk.parts.config.read_bytes_max.saturating_mul(2);
        let is_failing =
            |reader: &&PartitionReader| reader.backoff.tries() > 0 || reader.is_waiting;
        if !self.readers.get(place).as_ref().is_some_and(is_failing) {
            return;
        }
        let failing = self.readers.iter().filter(is_failing);
        if failing.map(PartitionReader::held_bytes).sum::<usize>() > bytes_max
            && let Some(reader) = self.readers.get_mut(place)
        {
            reader.keep_first();
        }
    }
}
