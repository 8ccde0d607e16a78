//! Reads any place of any partition: from what was read last, else from the lane that stands there,
//! else from one that is moved there.
//!
//! The port names no group, and needs none: a reader that goes on where it stopped finds the stream
//! that stopped there. Readers at one place share what is fetched and decoded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::LoggedBatch;
use trace_model::Clock;

use super::blocks::{Blocks, Item};
use super::client::Voice;
use super::config::KafkaConfig;
use super::lane::{Lane, Place, Stream};
use crate::port::{DamagedRange, LogError};

/// A partition that nobody has read for so long is fetched no more.
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// Tries for a place that other readers move away from.
const TRIES_MAX: usize = 8;

/// The lanes of a log.
pub(crate) struct Lanes {
    config: KafkaConfig,
    voice: Voice,
    place: Arc<Place>,
    clock: Arc<dyn Clock>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    blocks: Mutex<Blocks>,
}

impl Lanes {
    pub(crate) fn new(
        config: &KafkaConfig,
        voice: Voice,
        place: Arc<Place>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let blocks = Blocks::new(place.ends.count(), config.cache_bytes_max);
        Self {
            config: config.clone(),
            voice,
            place,
            clock,
            lanes: Mutex::default(),
            blocks: Mutex::new(blocks),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Items from an offset on: none only where the partition ends there.
    pub(crate) async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Item>, LogError> {
        for _ in 0..TRIES_MAX {
            let end = self.place.ends.get(partition)?;
            if from >= end.next {
                return Ok(Vec::new());
            }
            if from < end.first {
                return Err(LogError::Expired { wanted: from, first: end.first });
            }
            let kept = self.blocks().run_from(partition, from, bytes_max);
            if !kept.is_empty() {
                return Ok(kept);
            }
            let (lane, stream) = self.stream_at(partition, from)?;
            stream.touch(self.now_ms());
            // Who waited for a reader at the same place finds what that one has read.
            let items = lane.read(&stream, from, bytes_max, || {
                !self.blocks().run_from(partition, from, 1).is_empty()
            });
            let items = items.await?;
            if items.is_empty() {
                continue;
            }
            let mut blocks = self.blocks();
            for item in &items {
                blocks.insert(item.clone());
            }
            return Ok(items);
        }
        Err(LogError::Overloaded)
    }

    /// The stream that stands at a place, else one that stands nowhere, else that of a new lane,
    /// else the one that was not used for the longest.
    fn stream_at(&self, partition: u32, from: u64) -> Result<(Arc<Lane>, Arc<Stream>), LogError> {
        let failed = |error: &dyn ToString| LogError::Unavailable(error.to_string());
        let mut lanes = self.lanes();
        let mut found: Vec<(Arc<Lane>, Arc<Stream>)> = Vec::with_capacity(lanes.len());
        for lane in lanes.iter() {
            let stream = lane.stream(partition);
            found.push((Arc::clone(lane), stream.ok_or_else(|| failed(&"no partition queue"))?));
        }
        let rank = |(_, stream): &(Arc<Lane>, Arc<Stream>)| {
            let is_elsewhere = stream.position() != from;
            (is_elsewhere, is_elsewhere && stream.is_assigned(), stream.used_at())
        };
        let best = found.into_iter().min_by_key(rank);
        let is_full = lanes.len() >= self.config.lanes_max;
        match best {
            Some(best) if is_full || !best.1.is_assigned() || best.1.position() == from => Ok(best),
            _ => {
                let lane = Lane::open(&self.config, &self.voice, Arc::clone(&self.place));
                let lane = Arc::new(lane.map_err(|error| failed(&error))?);
                let stream = lane.stream(partition);
                lanes.push(Arc::clone(&lane));
                Ok((lane, stream.ok_or_else(|| failed(&"no partition queue"))?))
            }
        }
    }

    /// Lets clients speak, and ends lanes and streams that nobody uses.
    pub(crate) fn keep_house(&self) {
        let idle_ms = u64::try_from(IDLE_AFTER.as_millis()).unwrap_or(u64::MAX);
        let since = self.now_ms().saturating_sub(idle_ms);
        let held: Vec<Arc<Lane>> = self.lanes().clone();
        let unused: Vec<Arc<Lane>> =
            held.into_iter().filter(|lane| !lane.keep_house(since)).collect();
        let mut lanes = self.lanes();
        for lane in &unused {
            // One stays: making a consumer costs a connection. Nobody else may be about to read
            // from one that goes: there are two handles, ours and the list's.
            if lanes.len() > 1 && Arc::strong_count(lane) <= 2 {
                lanes.retain(|one| !Arc::ptr_eq(one, lane));
            }
        }
        drop(lanes);
        // Ending a consumer takes a while: not under the lock.
        drop(unused);
    }
}

/// Items as the port gives them: batches up to the first damage, which is an error of its own.
pub(crate) fn batches_of(items: Vec<Item>, from: u64) -> Result<Vec<LoggedBatch>, LogError> {
    let mut batches = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Item::Batch(logged) => batches.push(logged),
            Item::Damaged(damaged, _) if batches.is_empty() => {
                return Err(LogError::Damaged(begun_at(*damaged, from)));
            }
            Item::Damaged(..) => break,
        }
    }
    Ok(batches)
}

/// A damaged range as a reader inside it meets it.
fn begun_at(mut damaged: DamagedRange, from: u64) -> DamagedRange {
    damaged.range.first = damaged.range.first.max(from);
    damaged
}
