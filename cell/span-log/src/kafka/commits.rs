//! How far each group has come: known here at once, at the brokers within a second.
//!
//! It must never let a group's offset go back, here or at the brokers: what another process has
//! committed meanwhile counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::KafkaError;

use super::client::Voice;
use super::config::KafkaConfig;
use super::group_offsets::{GroupOffsets, Kept, Lineage, text_of};
use crate::port::{CommitError, GroupId, LogError};

/// One partition of a group.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    committed: Option<u64>,
    /// What the brokers are known to have of it.
    written: Option<u64>,
}

impl Place {
    /// Takes over what the brokers have.
    fn learn(&mut self, kept: Option<u64>) {
        self.committed = self.committed.max(kept);
        self.written = self.written.max(kept);
    }

    fn is_dirty(&self) -> bool {
        self.committed > self.written
    }
}

/// A group.
struct Group {
    id: GroupId,
    offsets: GroupOffsets,
    places: Mutex<Vec<Place>>,
}

impl Group {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the brokers have of these partitions.
    fn learn(&self, partitions: &[u32], lineages: &[Lineage]) -> Result<(), KafkaError> {
        let kept = self.offsets.read(partitions)?;
        let mut places = self.places();
        for (partition, kept) in partitions.iter().zip(kept) {
            let at = *partition as usize;
            if let (Some(place), Some(lineage)) = (places.get_mut(at), lineages.get(at)) {
                place.learn(kept.and_then(|kept| kept.of_log(*lineage)));
            }
        }
        Ok(())
    }

    fn dirty(&self) -> Vec<(u32, u64)> {
        let places = self.places();
        let numbered = (0_u32..).zip(places.iter());
        let dirty = numbered.filter(|(_, place)| place.is_dirty());
        dirty.filter_map(|(partition, place)| Some((partition, place.committed?))).collect()
    }

    /// Brings what was committed here to the brokers.
    fn flush(&self, lineages: &[Lineage]) -> Result<(), KafkaError> {
        let partitions: Vec<u32> = self.dirty().iter().map(|(partition, _)| *partition).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        self.learn(&partitions, lineages)?;
        let dirty = self.dirty();
        let text = text_of(lineages.first().map_or(0, |lineage| lineage.incarnation));
        let kept = |(partition, offset): &(u32, u64)| {
            (*partition, Kept { offset: *offset, text: text.clone() })
        };
        self.offsets.write(&dirty.iter().map(kept).collect::<Vec<_>>())?;
        let mut places = self.places();
        for (partition, offset) in dirty {
            if let Some(place) = places.get_mut(partition as usize) {
                place.written = place.written.max(Some(offset));
            }
        }
        Ok(())
    }
}

/// The groups of a log.
pub(crate) struct Commits {
    config: KafkaConfig,
    voice: Voice,
    lineages: Vec<Lineage>,
    partitions: Vec<u32>,
    groups: Mutex<BTreeMap<GroupId, Arc<Group>>>,
}

impl Commits {
    /// The groups of a log; one lineage for each partition.
    pub(crate) fn new(config: &KafkaConfig, voice: Voice, lineages: Vec<Lineage>) -> Self {
        let partitions = u32::try_from(lineages.len()).unwrap_or(u32::MAX);
        Self {
            config: config.clone(),
            voice,
            lineages,
            partitions: (0..partitions).collect(),
            groups: Mutex::default(),
        }
    }

    /// The group, asked for at the brokers where it is not known yet: that blocks.
    fn group(&self, id: GroupId) -> Result<Arc<Group>, LogError> {
        let failed = |error: &dyn ToString| {
            LogError::Unavailable(format!("the offsets of {id}: {}", error.to_string()))
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(&id) {
            return Ok(Arc::clone(group));
        }
        let name = self.config.group_name(id);
        let offsets = GroupOffsets::open(&self.config, &name, &self.voice);
        let offsets = offsets.map_err(|error| failed(&error))?;
        let places = Mutex::new(vec![Place::default(); self.partitions.len()]);
        let group = Arc::new(Group { id, offsets, places });
        group.learn(&self.partitions, &self.lineages).map_err(|error| failed(&error))?;
        groups.insert(id, Arc::clone(&group));
        Ok(group)
    }

    fn known(&self) -> Vec<Arc<Group>> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.values().cloned().collect()
    }

    /// Learns what the brokers have of a group. Blocks.
    pub(crate) fn load(&self, id: GroupId) -> Result<(), LogError> {
        self.group(id).map(drop)
    }

    /// What the group has committed; `None` where nothing.
    pub(crate) fn committed(&self, id: GroupId, partition: u32) -> Result<Option<u64>, LogError> {
        let group = self.group(id)?;
        let place = group.places().get(partition as usize).copied();
        place.map(|place| place.committed).ok_or(LogError::NoPartition(partition))
    }

    /// What the group has committed, where that is known without asking.
    pub(crate) fn known_offset(&self, id: GroupId, partition: u32) -> Option<u64> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = Arc::clone(groups.get(&id)?);
        drop(groups);
        let places = group.places();
        places.get(partition as usize)?.committed
    }

    /// Notes a commit, held at `end`.
    pub(crate) fn commit(
        &self,
        id: GroupId,
        partition: u32,
        next: u64,
        end: u64,
    ) -> Result<(), CommitError> {
        let group = self.group(id)?;
        let mut places = group.places();
        let place = places.get_mut(partition as usize);
        let place = place.ok_or(CommitError::Log(LogError::NoPartition(partition)))?;
        let committed = place.committed.unwrap_or(0);
        if next < committed {
            return Err(CommitError::Backwards { wanted: next, committed });
        }
        place.committed = Some(next.min(end).max(committed));
        Ok(())
    }

    /// Brings all commits to the brokers; the last failure. Blocks.
    pub(crate) fn flush(&self) -> Result<(), KafkaError> {
        let mut flushed = Ok(());
        for group in self.known() {
            if let Err(error) = group.flush(&self.lineages) {
                tracing::debug!(%error, group = %group.id, "commits are tried again");
                flushed = Err(error);
            }
            group.offsets.serve();
        }
        flushed
    }

    /// Learns what other processes have committed. Blocks.
    pub(crate) fn refresh(&self) {
        for group in self.known() {
            if let Err(error) = group.learn(&self.partitions, &self.lineages) {
                tracing::debug!(%error, group = %group.id, "commits are not known anew");
            }
        }
    }

    /// Lets the next flush write everything again, so that no offset of a quiet partition expires.
    pub(crate) fn renew(&self) {
        for group in self.known() {
            for place in group.places().iter_mut() {
                place.written = None;
            }
        }
    }

    /// Records that each known group has yet to commit, given the ends and the oldest offsets.
    pub(crate) fn lags(&self, ends: &[(u64, u64)]) -> Vec<(GroupId, u64)> {
        let lag_of = |group: Arc<Group>| {
            let places = group.places();
            let lags = places.iter().zip(ends).map(|(place, (first, next))| {
                next.saturating_sub(place.committed.unwrap_or(*first).max(*first))
            });
            (group.id, lags.sum())
        };
        self.known().into_iter().map(lag_of).collect()
    }
}
