//! What the log lets go: whole segments from its front, never past what a required group has
//! durably committed, unless the log is told to drop the oldest rather than refuse.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use trace_model::UnixNanos;

use super::checkpoint::DroppedRun;
use super::config::WhenFull;
use super::segment::{Segment, file_name};
use super::shared::Shared;
use crate::port::LogError;

/// Removes segments whose last record is older than the retention and that no required group needs.
/// The newest segment stays: it says where the log goes on.
pub(crate) fn expire(shared: &Shared) {
    let oldest_kept = shared.clock.now().minus(nanos(shared.config.retention));
    let _guard = shared.retention.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(segment) = removable(shared) {
        let last_time = segment.extent().last_time;
        if last_time >= oldest_kept || !remove(shared, &segment) {
            return;
        }
    }
}

/// Whether the segment that is written to holds records that ought to expire soon.
pub(crate) fn wants_roll(shared: &Shared) -> bool {
    let age = nanos(shared.config.retention / 4);
    let now = shared.clock.now();
    let newest = shared.state().segments.back().cloned();
    let Some(newest) = newest else { return false };
    let extent = newest.extent();
    let is_open = extent.disk_bytes > extent.end;
    is_open && extent.first_time.is_some_and(|first| now.since(first) > age)
}

/// Makes room for a new segment of so many bytes, within the log's limit and the disk's.
pub(crate) fn make_room(shared: &Shared, bytes: u64) -> Result<(), LogError> {
    let _guard = shared.retention.lock().unwrap_or_else(PoisonError::into_inner);
    while shared.state().disk_bytes().saturating_add(bytes) > shared.config.retention_bytes {
        match removable(shared) {
            Some(segment) if remove(shared, &segment) => {}
            _ if has_new_commits(shared) && shared.write_checkpoint(false).is_ok() => {}
            _ => drop_or_refuse(shared)?,
        }
    }
    let wanted = bytes.saturating_add(shared.config.disk_reserve_bytes);
    let free = shared.disk.free_bytes();
    if free.map_err(|error| LogError::Disk(error.to_string()))? < wanted {
        return Err(LogError::Full);
    }
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The oldest segment, if it is not the newest too and no required group needs it.
fn removable(shared: &Shared) -> Option<Arc<Segment>> {
    let state = shared.state();
    let floor = state.required_floor(&shared.config.required_groups);
    let oldest = state.segments.front().filter(|_| state.segments.len() > 1)?;
    (oldest.extent().next_offset <= floor).then(|| Arc::clone(oldest))
}

/// Whether groups have committed since the last checkpoint: made durable, it may free a segment.
fn has_new_commits(shared: &Shared) -> bool {
    let state = shared.state();
    state.commits != state.durable_commits
}

/// Drops the oldest segment although it is needed, or refuses, as configured.
fn drop_or_refuse(shared: &Shared) -> Result<(), LogError> {
    if shared.config.when_full == WhenFull::Refuse {
        return Err(LogError::Full);
    }
    let oldest = {
        let state = shared.state();
        state.segments.front().filter(|_| state.segments.len() > 1).cloned()
    };
    let Some(oldest) = oldest else { return Err(LogError::Full) };
    let run = run_of(&oldest);
    if !remove(shared, &oldest) {
        return Err(LogError::Full);
    }
    shared.note_dropped(run);
    let records = run.next.saturating_sub(run.first);
    shared.metrics.dropped_records.inc_by(records);
    tracing::error!(
        first = run.first,
        next = run.next,
        "the span log is full: its oldest records are dropped unread"
    );
    Ok(())
}

fn run_of(segment: &Segment) -> DroppedRun {
    let extent = segment.extent();
    DroppedRun {
        first: segment.first_offset,
        next: extent.next_offset,
        first_time: extent.first_time.unwrap_or(UnixNanos(0)).0,
        last_time: extent.last_time.0,
    }
}

/// Removes the oldest segment; readers that hold it open keep reading it.
fn remove(shared: &Shared, oldest: &Arc<Segment>) -> bool {
    match shared.disk.remove(&file_name(oldest.number)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, segment = oldest.number, "a segment could not be removed");
            return false;
        }
    }
    let mut state = shared.state();
    if state.segments.front().is_some_and(|front| front.number == oldest.number) {
        state.segments.pop_front();
        state.removed.note(&run_of(oldest));
    }
    true
}
