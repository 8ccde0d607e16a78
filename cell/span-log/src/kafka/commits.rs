//! How far each group has come: known here at once, at the brokers within a second.
//!
//! It must never let a group's offset go back, here or at the brokers: what another process has
//! committed meanwhile counts. Of a group that this process is a member of it commits the partitions
//! that it holds, as that member: the brokers refuse a member that was given up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rdkafka::error::KafkaError;

use super::board::Board;
use super::client::Voice;
use super::config::KafkaConfig;
use super::error::KafkaOpenError;
use super::group_offsets::{GroupOffsets, Kept, Lineage, text_of};
use super::losses::Losses;
use super::member::Member;
use crate::assignment::Hold;
use crate::port::{CommitError, GroupId, LogError, STORAGE_WRITER};

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
pub(crate) struct Group {
    pub(crate) id: GroupId,
    offsets: GroupOffsets,
    places: Mutex<Vec<Place>>,
    /// Held while commits are written, and while partitions are given up: a commit that is on its way
    /// is of a partition that is held.
    writing: Mutex<()>,
    /// This process in the group, where it has joined.
    member: OnceLock<Arc<Member>>,
    losses: Arc<Losses>,
}

impl Group {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the brokers have of these partitions.
    pub(crate) fn learn(&self, partitions: &[u32], lineages: &[Lineage]) -> Result<(), KafkaError> {
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

    /// Commits are written as this member from now on.
    pub(crate) fn joins_as(&self, member: Arc<Member>) {
        drop(self.member.set(member));
    }

    /// Partitions go to others: what was committed of them is written, unless they are lost already;
    /// what could not be is forgotten, so that it is never written under another generation.
    pub(crate) fn give_up(
        &self,
        board: &Board,
        partitions: &[u32],
        is_lost: bool,
        lineages: &[Lineage],
    ) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_lost && let Err(error) = self.write_dirty(lineages) {
            tracing::warn!(
                group = %self.id, %error,
                "the last commits of given partitions were not written: their records are read again"
            );
        }
        board.remove(partitions);
        let mut places = self.places();
        for partition in partitions {
            if let Some(place) = places.get_mut(*partition as usize) {
                place.committed = place.written;
            }
        }
    }

    /// Brings what was committed here to the brokers.
    pub(crate) fn flush(&self, lineages: &[Lineage]) -> Result<(), KafkaError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_dirty(lineages)
    }

    fn write_dirty(&self, lineages: &[Lineage]) -> Result<(), KafkaError> {
        let partitions: Vec<u32> = self.dirty().iter().map(|(partition, _)| *partition).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        self.learn(&partitions, lineages)?;
        let dirty = self.dirty();
        if self.id == STORAGE_WRITER {
            // Nobody reads again what is lost before these commits: the brokers must have it first.
            self.losses.tell_pending()?;
        }
        let text = text_of(lineages.first().map_or(0, |lineage| lineage.incarnation));
        let kept = |(partition, offset): &(u32, u64)| {
            (*partition, Kept { offset: *offset, text: text.clone() })
        };
        let offsets: Vec<(u32, Kept)> = dirty.iter().map(kept).collect();
        match self.member.get() {
            Some(member) => self.offsets.write_as(member, &offsets)?,
            None => self.offsets.write(&offsets)?,
        }
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
    lineages: Arc<Vec<Lineage>>,
    losses: Arc<Losses>,
    partitions: Vec<u32>,
    groups: Mutex<BTreeMap<GroupId, Arc<Group>>>,
    boards: Mutex<BTreeMap<GroupId, Arc<Board>>>,
}

impl Commits {
    /// The groups of a log; one lineage for each partition.
    pub(crate) fn new(
        config: &KafkaConfig,
        voice: Voice,
        lineages: Vec<Lineage>,
        losses: Arc<Losses>,
    ) -> Self {
        let partitions = u32::try_from(lineages.len()).unwrap_or(u32::MAX);
        Self {
            config: config.clone(),
            voice,
            lineages: Arc::new(lineages),
            losses,
            partitions: (0..partitions).collect(),
            groups: Mutex::default(),
            boards: Mutex::default(),
        }
    }

    pub(crate) const fn voice(&self) -> &Voice {
        &self.voice
    }

    pub(crate) const fn lineages(&self) -> &Arc<Vec<Lineage>> {
        &self.lineages
    }

    fn boards(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Board>>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process reads a partition for a group: nobody else commits it then.
    pub(crate) fn holds(&self, id: GroupId, partition: u32) -> bool {
        self.board(id).is_some_and(|board| board.hold_on(partition).is_ok())
    }

    /// What this process reads of a group, where it has joined it.
    pub(crate) fn board(&self, id: GroupId) -> Option<Arc<Board>> {
        self.boards().get(&id).cloned()
    }

    /// The board of a group that is to be joined, and whether it is new.
    pub(crate) fn board_to_join(&self, id: GroupId) -> (Arc<Board>, bool) {
        let mut boards = self.boards();
        if let Some(board) = boards.get(&id) {
            return (Arc::clone(board), false);
        }
        let board = Arc::new(Board::new());
        boards.insert(id, Arc::clone(&board));
        (board, true)
    }

    /// The group, asked for at the brokers where it is not known yet: that blocks.
    pub(crate) fn group(&self, id: GroupId) -> Result<Arc<Group>, LogError> {
        let failed = |error: &dyn ToString| {
            LogError::Unavailable(format!("the offsets of {id}: {}", error.to_string()))
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(&id) {
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(self.unlearnt(id).map_err(|error| failed(&error))?);
        group.learn(&self.partitions, &self.lineages).map_err(|error| failed(&error))?;
        groups.insert(id, Arc::clone(&group));
        Ok(group)
    }

    /// The group, of which nothing is known yet.
    fn unlearnt(&self, id: GroupId) -> Result<Group, KafkaOpenError> {
        let name = self.config.group_name(id);
        let offsets = GroupOffsets::open(&self.config, &name, &self.voice)?;
        let places = Mutex::new(vec![Place::default(); self.partitions.len()]);
        let (writing, member) = (Mutex::default(), OnceLock::new());
        let losses = Arc::clone(&self.losses);
        Ok(Group { id, offsets, places, writing, member, losses })
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

    /// Notes a commit, held at `end`. Where this process is a member of the group, the partition must
    /// be held: as `hold` says, if it is given.
    pub(crate) fn commit(
        &self,
        id: GroupId,
        (partition, hold): (u32, Option<Hold>),
        next: u64,
        end: u64,
    ) -> Result<(), CommitError> {
        let group = self.group(id)?;
        let board = self.board(id);
        let mut places = group.places();
        // Looked at under the lock that giving partitions up takes after it has removed them.
        match (&board, hold) {
            (Some(board), Some(hold)) if !board.has(hold) => return Err(CommitError::Fenced(hold)),
            (Some(board), None) => drop(board.hold_on(partition).map_err(CommitError::Fenced)?),
            (None, Some(hold)) => return Err(CommitError::Fenced(hold)),
            (Some(_), Some(_)) | (None, None) => {}
        }
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

#[cfg(test)]
impl Commits {
    /// A group of which the brokers have this offset in each partition, without asking them.
    pub(crate) fn assume(&self, id: GroupId, offset: u64) {
        let group = self.unlearnt(id).unwrap();
        group.places().iter_mut().for_each(|place| place.learn(Some(offset)));
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        drop(groups.insert(id, Arc::new(group)));
    }
}
