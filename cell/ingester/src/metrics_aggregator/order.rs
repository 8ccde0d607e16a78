//! Where traces are spread over partitions: what is read when, and what is looked for in the others.

use proto::LoggedBatch;

use super::MetricsAggregator;
use super::shard::{Shard, TraceKey};
use crate::handler::HandleError;

/// All partitions forget this often in the log's time.
const FORGET_EVERY_NANOS: u64 = 1_000_000_000;

impl MetricsAggregator {
    /// Takes a batch, or the part of it that may be taken now.
    pub(super) fn take_in_order(&mut self, logged: &LoggedBatch) -> Result<(), HandleError> {
        let partition = logged.range.partition;
        let counted = self.flusher.counted_next(partition);
        let is_new = logged.incarnation != self.incarnation || logged.range.next > counted;
        if let Some(behind) = self.read_again_first(partition).filter(|_| is_new) {
            self.take(logged, counted);
            let reason = format!(
                "partition {behind} was counted further than it was read again: it comes first"
            );
            // While that one is silent counting stands, which is worth a person's look.
            let is_away = self.pace.as_ref().is_some_and(|pace| pace.is_away(behind));
            return Err(match is_away {
                true => HandleError::Retry(reason),
                false => HandleError::Wait(reason),
            });
        }
        if let Some(behind) = self.left_behind(logged).filter(|_| is_new) {
            // What was counted of it waits for nobody: others wait for that.
            self.take(logged, counted);
            return Err(HandleError::Wait(format!(
                "partition {behind} has records that were appended long before: it comes first"
            )));
        }
        self.take(logged, u64::MAX);
        Ok(())
    }

    /// Another partition that comes before this batch.
    fn left_behind(&mut self, logged: &LoggedBatch) -> Option<u32> {
        let pace = self.pace.as_mut()?;
        let partition = logged.range.partition;
        if self.shards.get(&partition).is_some_and(|shard| shard.next >= logged.range.next) {
            return None;
        }
        pace.comes(partition, logged.append_time);
        pace.left_behind(partition, logged.append_time)
    }

    /// Looks how far apart the partitions are, and lets all of them forget what no record comes for.
    pub(super) async fn look_around(&mut self) -> Result<(), HandleError> {
        let Some(pace) = &mut self.pace else { return Ok(()) };
        let shards = &self.shards;
        pace.look(|partition| shards.get(&partition).map_or_else(Default::default, Shard::place));
        // Told before anything of the silent one comes, and so before it is counted.
        let short = self.forgotten_early.and_then(|until| pace.forgotten(self.incarnation, until));
        if let Some(short) = short {
            let told = pace.tell(short).await;
            told.map_err(|error| HandleError::Retry(error.to_string()))?;
        }
        self.forgotten_early = None;
        let floor = pace.floor();
        if floor.since(self.forgotten_until) < FORGET_EVERY_NANOS {
            return Ok(());
        }
        self.forgotten_until = floor;
        let share = self.partitions.max(1) as usize;
        for shard in self.shards.values_mut() {
            let early = shard.forget(floor, &self.config, share, &self.metrics);
            self.forgotten_early = self.forgotten_early.max(early);
        }
        Ok(())
    }

    /// Another partition that was counted further than it was read since the start.
    fn read_again_first(&self, partition: u32) -> Option<u32> {
        self.pace.as_ref()?;
        let next = |other: u32| self.shards.get(&other).map_or(0, |shard| shard.next);
        let is_behind = |other: &u32| next(*other) < self.flusher.counted_next(*other);
        (0..self.partitions).filter(|other| *other != partition).find(is_behind)
    }

    /// Other partitions in which something of this request was seen.
    pub(super) fn others_with(&self, request: u64) -> Vec<u32> {
        if self.pace.is_none() {
            return Vec::new();
        }
        let others = self.shards.iter().filter(|(_, other)| !other.digests.is_new(request));
        others.map(|(partition, _)| *partition).collect()
    }

    pub(super) fn has_seen(&self, partition: u32, request: u64, trace: u32) -> bool {
        let shard = self.shards.get(&partition);
        shard.is_some_and(|shard| shard.digests.has_seen(request, trace))
    }

    /// The other partition in which a trace is open that is not open in its own.
    pub(super) fn home_of(&self, key: &TraceKey, own: &Shard) -> Option<u32> {
        if self.pace.is_none() || own.open().contains_key(key) {
            return None;
        }
        let mut others = self.shards.iter();
        others.find(|(_, other)| other.open().contains_key(key)).map(|(partition, _)| *partition)
    }
}
