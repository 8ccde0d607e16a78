//! Opening: identity, checkpoint, segments and what readers have seen, put together into the state
//! that the log goes on from.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use trace_model::{Clock, UnixNanos};

use super::super::checkpoint::{Checkpoint, CheckpointFile};
use super::super::damage::Damage;
use super::super::disk::Disk;
use super::super::erase::REWRITE_SUFFIX;
use super::super::identity::{FileFault, load_or_create};
use super::super::lost::{KeptRun, LostRuns};
use super::super::missed::MissedRuns;
use super::super::segment::{Segment, number_of};
use super::super::shared::{Opened, PARTITION, State};
use super::super::times::Times;
use super::Recovery;
use crate::port::{LostCause, STORAGE_WRITER, Seen};

/// What an opening brings beside the state.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) damage: Vec<Damage>,
    pub(crate) has_torn_tail: bool,
    /// Nothing could be read of the oldest segment.
    pub(crate) has_lost_front: bool,
    /// Number of the next segment.
    pub(crate) next_number: u64,
    pub(crate) has_lost_checkpoint: bool,
    /// The log that this one was made in the place of, and what no store has of it.
    pub(crate) replaced: Option<KeptRun>,
}

/// Opens what the directory holds, or makes a new log in it. `seen` is what its readers have of it.
pub(crate) fn recover(
    disk: &dyn Disk,
    clock: &dyn Clock,
    seen: &Seen,
) -> Result<(Opened, Findings), FileFault> {
    let numbers = segment_numbers(disk)?;
    let above = seen.covered.incarnation.max(seen.stored.incarnation);
    let identity = load_or_create(disk, clock, !numbers.is_empty(), above)?;
    let (checkpoint_file, checkpoint) = CheckpointFile::open(disk)?;
    let is_new = checkpoint.is_none() && numbers.is_empty();
    let incarnation = identity.log.incarnation;
    let findings = Findings {
        damage: Vec::new(),
        has_torn_tail: false,
        has_lost_front: false,
        next_number: numbers.last().map_or(0, |last| last.saturating_add(1)),
        has_lost_checkpoint: checkpoint.is_none() && !numbers.is_empty(),
        replaced: if is_new { replaced_log(seen, incarnation) } else { None },
    };
    let mut checkpoint = checkpoint.unwrap_or_default();
    let witness = checkpoint.commits.values().copied().max().unwrap_or(0).max(checkpoint.end);
    let stored = seen.stored.next_in(incarnation, PARTITION);
    let tail_from = checkpoint.commits.get(STORAGE_WRITER.0).copied().unwrap_or(0).max(stored);
    if stored > 0 {
        checkpoint.commits.insert(STORAGE_WRITER.0.to_owned(), tail_from);
    }
    let seen_next = seen.covered.next_in(incarnation, PARTITION).max(stored).max(witness);
    let mut recovery = Recovery { disk, identity, witness, seen: seen_next, tail_from, findings };
    let segments = recovery.segments(&numbers)?;
    if segments.is_empty() {
        recovery.miss(witness, UnixNanos(0));
    }
    let kept_first = checkpoint.first;
    let vouched = seen.append_time.max(UnixNanos(checkpoint.time_ceiling));
    let mut state = state(segments, checkpoint, incarnation, (seen_next, vouched));
    if recovery.findings.has_lost_front && kept_first < state.first() {
        recovery.lose_front(&mut state, kept_first);
    }
    let opened = Opened { identity, checkpoint: checkpoint_file, state };
    Ok((opened, recovery.findings))
}

/// Numbers of the segments, in order. What an erasure left half done is removed: it was not the log's
/// yet.
fn segment_numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for name in disk.list()? {
        numbers.extend(number_of(&name));
        if name.ends_with(REWRITE_SUFFIX) {
            disk.remove(&name)?;
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What may be lost with a log that is gone: whatever it took after the last that was published of
/// it, until this one was made. How many records nobody knows.
fn replaced_log(seen: &Seen, born: u64) -> Option<KeptRun> {
    let gone = seen.covered.incarnation.max(seen.stored.incarnation);
    let is_known = gone > 0 && gone < born;
    let first = seen.stored.next_in(gone, PARTITION);
    let times = (seen.append_time, UnixNanos::from_millis(born).max(seen.append_time));
    is_known.then(|| KeptRun::new(gone, (first, u64::MAX), times, LostCause::Recreated))
}

fn state(
    segments: Vec<Arc<Segment>>,
    checkpoint: Checkpoint,
    incarnation: u64,
    (seen, vouched): (u64, UnixNanos),
) -> State {
    let last = segments.last().map(|segment| segment.extent().clone());
    let next = last.as_ref().map_or(0, |extent| extent.next_offset).max(seen);
    let last_time = segments.iter().map(|segment| segment.extent().last_time).max();
    State {
        segments: segments.into(),
        next,
        times: Times::from(last_time.unwrap_or_default().max(vouched)),
        tail_floor: checkpoint.commits.get(STORAGE_WRITER.0).copied().unwrap_or(0),
        lost: LostRuns::from_checkpoint(&checkpoint, incarnation),
        missed: MissedRuns::from_checkpoint(&checkpoint.missed),
        removed: checkpoint.removed,
        durable_commits: checkpoint.commits.clone(),
        durable_end: checkpoint.end,
        commits: checkpoint.commits,
        damaged: Vec::new(),
        dropped: checkpoint.dropped,
        is_dirty: true,
        groups: BTreeSet::new(),
    }
}
