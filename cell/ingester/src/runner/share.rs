//! Which partitions a runner reads: taken over from the log, handed back, lost; and the end of it.

use span_log::Hold;

use super::ConsumerRunner;
use super::partition::PartitionReader;
use crate::backoff::Backoff;

impl ConsumerRunner {
    /// Takes over what is assigned now: new partitions begin at their commits, what is known of those
    /// that are gone is dropped.
    pub(super) fn follow(&mut self) {
        let assignment = self.assignment.borrow_and_update().clone();
        self.readers.retain(|reader| assignment.has(reader.hold()));
        for (hold, share) in assignment.holds() {
            let reader = self.readers.iter_mut().find(|reader| reader.hold() == hold);
            match (reader, share.is_leaving) {
                (Some(reader), true) => reader.leave(),
                (None, true) => self.desk.parts.log.release(self.group, hold),
                (None, false) => self.readers.push(self.reader(hold)),
                (Some(_), false) => {}
            }
        }
    }

    fn reader(&self, hold: Hold) -> PartitionReader {
        let config = &self.desk.parts.config;
        let seed = self.seed.wrapping_add(u64::from(hold.partition).wrapping_add(1));
        PartitionReader::new(hold, Backoff::new(config.backoff_min, config.backoff_max, seed))
    }

    /// Whether the log has something to tell that was not taken over.
    pub(super) fn is_reassigned(&self) -> bool {
        self.assignment.has_changed().unwrap_or(false)
    }

    /// Whether the one who reads a group alone is to be another.
    pub(super) fn is_taken(&self) -> bool {
        let assignment = self.assignment.borrow();
        let partitions = self.desk.parts.log.identity().partitions;
        let is_kept = |reader: &PartitionReader| {
            let share = assignment.partitions.get(&reader.partition);
            share.is_some_and(|share| share.since == reader.since && !share.is_leaving)
        };
        !assignment.is_whole(partitions) || !self.readers.iter().all(is_kept)
    }

    /// Makes durable what was handed over of leaving partitions, commits and releases them. What
    /// fails is tried again, until the log takes them away.
    pub(super) async fn hand_back(&mut self) {
        if !self.readers.iter().any(|reader| reader.is_leaving) || !self.may_read() {
            return;
        }
        let ticked = self.desk.tick(None, true).await;
        if self.settle_tick(ticked).await {
            self.release_leaving();
        }
    }

    fn release_leaving(&mut self) {
        for reader in self.readers.iter().filter(|reader| reader.is_leaving) {
            self.desk.parts.log.release(self.group, reader.hold());
        }
        self.readers.retain(|reader| !reader.is_leaving);
    }

    /// Ends the turn of a group that is read alone: everything is made durable, committed and
    /// released, unless the log has given it to another already. What a handler has that is refused
    /// for good is read again by the next one.
    pub(super) async fn yield_turn(&mut self) {
        let is_ours = |runner: &Self| {
            let assignment = runner.assignment.borrow();
            runner.readers.iter().all(|reader| assignment.has(reader.hold()))
        };
        self.readers.iter_mut().for_each(PartitionReader::leave);
        while is_ours(self) {
            let ticked = self.desk.tick(None, true).await;
            if self.settle_tick(ticked).await || self.is_fenced {
                self.release_leaving();
                return;
            }
            tokio::time::sleep(self.tick_backoff.remaining(self.desk.monotonic())).await;
        }
        tracing::warn!(group = %self.group, "the group was taken before it was made durable here");
    }

    /// Makes everything durable, however often it has to be tried: the caller has the deadline. What a
    /// handler has that is refused for good is read again.
    pub(super) async fn close(&mut self) {
        loop {
            let log_end = self.vouched_end();
            let ticked = self.desk.tick(log_end, true).await;
            if self.settle_tick(ticked).await || self.is_fenced {
                return;
            }
            tokio::time::sleep(self.tick_backoff.remaining(self.desk.monotonic())).await;
        }
    }
}
