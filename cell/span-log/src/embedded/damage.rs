//! Damage, met while the log is opened or read: noted once, told to every reader that meets it. What
//! no store has of it is remembered as lost.

use trace_model::{LogRange, UnixNanos};

use super::checkpoint::DroppedRun;
use super::lost::KeptRun;
use super::recovery::Findings;
use super::shared::{PARTITION, Shared, State};
use crate::port::{DamagedRange, LostCause, STORAGE_WRITER};

/// Damage reports kept: beyond, damage is still met and counted, but not listed.
const DAMAGED_MAX: usize = 1_024;

/// Records that cannot be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    pub(crate) offsets: (u64, u64),
    pub(crate) times: (UnixNanos, UnixNanos),
    pub(crate) reason: &'static str,
    pub(crate) cause: LostCause,
}

impl Damage {
    /// Bytes that are not those that were written.
    pub(crate) const fn new(
        offsets: (u64, u64),
        times: (UnixNanos, UnixNanos),
        reason: &'static str,
    ) -> Self {
        Self { offsets, times, reason, cause: LostCause::Damaged }
    }

    /// Records between the log's end and what had been read of it.
    pub(crate) const fn behind_the_end(offsets: (u64, u64), last_time: UnixNanos) -> Self {
        let reason = "the log ended before what had been read of it";
        let times = (last_time, UnixNanos::MAX);
        Self { offsets, times, reason, cause: LostCause::WentBack }
    }
}

impl State {
    /// Remembers what no store has of a run: storage-writer commits only what the store holds, or
    /// what it was told of as damaged, which was remembered then.
    pub(crate) fn note_lost(
        &mut self,
        incarnation: u64,
        (first, next): (u64, u64),
        times: (UnixNanos, UnixNanos),
        cause: LostCause,
    ) {
        let stored = self.commits.get(STORAGE_WRITER.0).copied().unwrap_or(0);
        self.lost.note(KeptRun::new(incarnation, (first.max(stored), next), times, cause));
        self.is_dirty = true;
    }
}

impl Shared {
    /// Notes damage once; gives the report as it was noted first.
    pub(crate) fn note_damage(&self, damage: &Damage) -> DamagedRange {
        let Damage { offsets: (first, next), times, reason, cause } = *damage;
        let mut state = self.state();
        let range = LogRange { partition: PARTITION, first, next };
        if let Some(known) = state.damaged.iter().find(|known| known.range == range) {
            return known.clone();
        }
        let append_times = (times.0, bounded_time(&state, next, times.1));
        let damaged =
            DamagedRange { range, append_times, reason: reason.to_owned(), stranger: None };
        if state.damaged.len() < DAMAGED_MAX {
            state.damaged.push(damaged.clone());
        }
        state.note_lost(self.identity.log.incarnation, (first, next), append_times, cause);
        drop(state);
        self.metrics.damaged_records.inc_by(next.saturating_sub(first));
        tracing::error!(first, next, reason, "records of the span log are damaged and set aside");
        damaged
    }

    /// Notes what may be lost with the log in whose place this one was made.
    pub(crate) fn note_replaced(&self, run: KeptRun) {
        self.state().lost.note(run);
        tracing::error!("the span log was made anew: what its stores had not taken is lost");
    }

    /// Notes a run that is dropped unread.
    pub(crate) fn note_dropped(&self, run: DroppedRun) {
        let mut state = self.state();
        let times = (UnixNanos(run.first_time), UnixNanos(run.last_time));
        let incarnation = self.identity.log.incarnation;
        state.note_lost(incarnation, (run.first, run.next), times, LostCause::Dropped);
        super::shared::note_dropped(&mut state.dropped, run);
    }
}

/// Tells what an opening has found.
pub(crate) fn report(shared: &Shared, findings: &Findings) {
    for damage in &findings.damage {
        shared.note_damage(damage);
    }
    if let Some(replaced) = findings.replaced {
        shared.note_replaced(replaced);
    }
    if findings.has_torn_tail {
        shared.metrics.torn_tails.inc();
        tracing::warn!("a torn write at the end of the span log was cut");
    }
    if findings.has_lost_checkpoint {
        tracing::error!("the span log's checkpoint cannot be read: groups begin at the oldest");
    }
}

/// The end of a hole in time where the walk did not know it: the append time of what follows, or
/// the time that the log has given last.
fn bounded_time(state: &State, next: u64, time: UnixNanos) -> UnixNanos {
    if time != UnixNanos::MAX {
        return time;
    }
    let follows = state.segment_of(next).filter(|segment| segment.first_offset == next);
    let first_time = follows.and_then(|segment| segment.extent().first_time);
    first_time.unwrap_or_else(|| state.times.vouched())
}
