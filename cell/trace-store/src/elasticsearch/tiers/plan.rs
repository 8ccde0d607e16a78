//! The next step of a day, decided from what the cluster has and from nothing else: a runner that was
//! killed anywhere is followed by one that goes on. No I/O.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use trace_model::UnixNanos;

use super::super::names::Names;
use super::days::{DayFacts, DayKey, IndexFacts};
use super::policy::{Tier, TierPolicy};

/// What a cluster can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) is_opensearch: bool,
    /// Nodes that hold data.
    pub(super) data_nodes: usize,
    /// Values of the allocation attribute that such nodes carry.
    pub(super) values: BTreeSet<String>,
    /// It searches snapshots.
    pub(super) has_mounts: bool,
    /// It does not know the repository that the policy names.
    pub(super) lacks_repository: bool,
}

/// A step. Each may be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give an index the alias by which a Jaeger reads.
    Alias { index: String },
    /// Let it take no more writes.
    Block { index: String },
    /// Bring a copy of each shard to one node.
    Gather { index: String },
    /// Copy a day to an index of fewer shards, or of as many.
    Copy { from: String, to: String, shards: u32 },
    /// Put the late documents into the copy, merge and close it.
    Fill { copy: String },
    /// Let the day's name lead to the copy, and remove what it stands for.
    Switch { copy: String, tier: Tier },
    /// Merge the segments.
    Merge { index: String },
    /// Write a snapshot.
    Snapshot { index: String, snapshot: String },
    /// Make an index that searches a snapshot.
    Mount { snapshot: String },
    /// Note the tier.
    Mark { index: String, tier: Tier },
    /// Send the shards to the nodes of the tier.
    Allocate { index: String, tier: Tier },
    /// Remove copies that nothing leads to.
    Discard { indices: Vec<String> },
    /// Remove snapshots that stand for nothing any more.
    Forget { snapshots: Vec<String> },
    /// Remove all of the day: its retention has passed.
    Remove { indices: Vec<String> },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { index } => write!(formatter, "read alias for {index}"),
            Self::Block { index } => write!(formatter, "make {index} read-only"),
            Self::Gather { index } => write!(formatter, "gather {index} on one node"),
            Self::Copy { to, shards, .. } => {
                write!(formatter, "copy into {to} ({shards} shards)")
            }
            Self::Fill { copy } => write!(formatter, "add late documents to {copy}, merge it"),
            Self::Switch { copy, tier } => write!(formatter, "switch to {copy} ({})", tier.word()),
            Self::Merge { index } => write!(formatter, "force-merge {index}"),
            Self::Snapshot { snapshot, .. } => write!(formatter, "snapshot {snapshot}"),
            Self::Mount { snapshot } => write!(formatter, "mount {snapshot}"),
            Self::Mark { tier, .. } => write!(formatter, "note the tier {}", tier.word()),
            Self::Allocate { index, tier } => {
                write!(formatter, "move {index} to {} nodes", tier.word())
            }
            Self::Discard { indices } => write!(formatter, "discard {}", indices.join(", ")),
            Self::Forget { snapshots } => {
                write!(formatter, "remove snapshots {}", snapshots.join(", "))
            }
            Self::Remove { indices } => write!(formatter, "remove {}", indices.join(", ")),
        }
    }
}

/// What decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) names: &'a Names,
    pub(super) policy: &'a TierPolicy,
    pub(super) retention: Duration,
    pub(super) cluster: &'a Cluster,
    pub(super) now: UnixNanos,
}

impl Rules<'_> {
    /// The tier in which a day should be.
    pub(super) fn due(&self, key: &DayKey) -> Tier {
        self.policy.due(key.age(self.now), self.retention)
    }

    /// The next step of a day; `None`: it is where it should be.
    pub(super) fn next(&self, key: &DayKey, facts: &DayFacts) -> Option<Step> {
        let due = self.due(key);
        if due == Tier::Gone {
            return remove(facts);
        }
        let due = if self.cluster.lacks_repository { due.min(Tier::Cold) } else { due };
        let read = key.read_alias(self.names);
        let lacks = |index: &&IndexFacts| !index.is_closed() && !index.aliases.contains(&read);
        if let Some(index) = facts.current.iter().chain(&facts.late).find(lacks) {
            return Some(Step::Alias { index: index.name.clone() });
        }
        let current = facts.current.as_ref().filter(|index| !index.is_closed())?;
        if due == Tier::Hot {
            return None;
        }
        if !current.is_mount() && !current.is_blocked() {
            return Some(Step::Block { index: current.name.clone() });
        }
        if facts.tier(self.names) >= due {
            return self.settle(key, facts, current);
        }
        self.advance(key, facts, current, due)
    }

    /// A day that has arrived: what is left of its way goes, and its shards where they belong.
    fn settle(&self, key: &DayKey, facts: &DayFacts, current: &IndexFacts) -> Option<Step> {
        if !facts.unfinished.is_empty() {
            return Some(discard(&facts.unfinished));
        }
        let tier = facts.tier(self.names);
        let kept = key.mount_name(self.names, current.role.number());
        let stale = |name: &&String| tier != Tier::Frozen || **name != kept;
        let names = facts.snapshots.iter().map(|snapshot| &snapshot.name);
        let snapshots: Vec<String> = names.filter(stale).cloned().collect();
        if !snapshots.is_empty() {
            return Some(Step::Forget { snapshots });
        }
        let is_there = current.required(&self.policy.allocation_attribute) == Some(tier.word());
        let has_nodes = self.cluster.values.contains(tier.word());
        let index = current.name.clone();
        (!current.is_mount() && has_nodes && !is_there).then_some(Step::Allocate { index, tier })
    }

    fn advance(
        &self,
        key: &DayKey,
        facts: &DayFacts,
        current: &IndexFacts,
        due: Tier,
    ) -> Option<Step> {
        let index = || current.name.clone();
        let shards = divisor(current.shards(), self.policy.shrink_to);
        // What is searched in a snapshot is as it is: what came late stays beside it.
        if !current.is_mount() && (facts.late.is_some() || shards < current.shards()) {
            return self.replace(key, facts, (current, shards), due);
        }
        let copies = facts.unfinished.iter().filter(|index| !index.is_mount()).cloned();
        let copies: Vec<IndexFacts> = copies.collect();
        if !copies.is_empty() {
            return Some(discard(&copies));
        }
        let wanted = u64::from(self.policy.force_merge_segments) * u64::from(current.shards());
        if current.segments.is_some_and(|found| found > wanted) {
            return Some(Step::Merge { index: index() });
        }
        if due < Tier::Frozen {
            return Some(Step::Mark { index: index(), tier: due });
        }
        self.freeze(key, facts, current)
    }

    /// Puts a copy in the place of the day and its late documents.
    fn replace(
        &self,
        key: &DayKey,
        facts: &DayFacts,
        (current, shards): (&IndexFacts, u32),
        due: Tier,
    ) -> Option<Step> {
        if let Some(late) = facts.late.as_ref().filter(|late| !late.is_blocked()) {
            return Some(Step::Block { index: late.name.clone() });
        }
        let to = key.copy_name(self.names, current.role.number() + 1);
        match facts.unfinished.as_slice() {
            [] if self.must_gather(current, shards) => {
                Some(Step::Gather { index: current.name.clone() })
            }
            [] => Some(Step::Copy { from: current.name.clone(), to, shards }),
            [copy] if copy.name == to && copy.is_blocked() => {
                Some(Step::Switch { copy: to, tier: due.min(Tier::Cold) })
            }
            [copy] if copy.name == to => Some(Step::Fill { copy: to }),
            other => Some(discard(other)),
        }
    }

    fn must_gather(&self, current: &IndexFacts, shards: u32) -> bool {
        let is_shrinking = shards < current.shards();
        is_shrinking && self.cluster.data_nodes > 1 && current.required("_name").is_none()
    }

    fn freeze(&self, key: &DayKey, facts: &DayFacts, current: &IndexFacts) -> Option<Step> {
        let name = key.mount_name(self.names, current.role.number());
        let index = current.name.clone();
        let found = facts.snapshots.iter().find(|snapshot| snapshot.name == name);
        let state = found.map_or("", |snapshot| snapshot.state.as_str());
        match state {
            // One that is being written is waited for.
            "" | "IN_PROGRESS" | "STARTED" => Some(Step::Snapshot { index, snapshot: name }),
            "SUCCESS" if !self.cluster.has_mounts => Some(Step::Mark { index, tier: Tier::Frozen }),
            "SUCCESS" => match facts.unfinished.as_slice() {
                [] => Some(Step::Mount { snapshot: name }),
                [mount] if mount.name == name => {
                    Some(Step::Switch { copy: name, tier: Tier::Frozen })
                }
                other => Some(discard(other)),
            },
            _ if !facts.unfinished.is_empty() => Some(discard(&facts.unfinished)),
            _ => Some(Step::Forget { snapshots: vec![name] }),
        }
    }
}

fn remove(facts: &DayFacts) -> Option<Step> {
    let indices: Vec<String> = facts.indices().map(|index| index.name.clone()).collect();
    if !indices.is_empty() {
        return Some(Step::Remove { indices });
    }
    let snapshots: Vec<String> =
        facts.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    (!snapshots.is_empty()).then_some(Step::Forget { snapshots })
}

fn discard(indices: &[IndexFacts]) -> Step {
    Step::Discard { indices: indices.iter().map(|index| index.name.clone()).collect() }
}

/// The largest number of shards, at most `wanted`, that so many can be shrunk to.
fn divisor(shards: u32, wanted: u32) -> u32 {
    (1..=wanted.min(shards)).rev().find(|number| shards.is_multiple_of(*number)).unwrap_or(shards)
}

#[cfg(test)]
mod tests;
