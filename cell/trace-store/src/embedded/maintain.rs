//! Upkeep: erasures to finish, segments to expire, small segments to merge.
//!
//! Merging is by size: what slow traffic seals every few seconds is small and costs every read a
//! probe, so neighbours are merged until they have the size of a full segment. Full segments are
//! left alone until there are very many: rewriting them costs as much CPU as writing them did.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::commit::{commit, remove_files};
use super::erase::{self, finish_erasures};
use super::expired::ExpiredRun;
use super::index_build::ANY_BUCKET;
use super::replace::{replace, swap};
use super::segment_read::Segment;
use super::state::{State, lock};
use crate::StoreError;

/// Tombstones outlive the retention by a day, for clocks that differ.
const TOMBSTONE_MARGIN_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// One round.
pub(crate) fn maintain(state: &State) -> Result<(), StoreError> {
    let _no_uploads = erase::is_unfinished(state).then(|| lock(&state.moving));
    let _one_at_a_time = lock(&state.maintenance);
    let expired = expire(state);
    let erased = finish_erasures(state);
    // One kind of upkeep that fails does not hold up the others.
    merge(state).and(expired).and(erased)
}

/// Removes segments that are too old, then the oldest while there are too many bytes. Retention
/// counts from arrival: spans of any date are accepted.
fn expire(state: &State) -> Result<(), StoreError> {
    let now = state.clock.now();
    let retention = u64::try_from(state.config.retention.as_nanos()).unwrap_or(u64::MAX);
    let oldest = now.minus(retention).0;
    expire_damaged(state, oldest)?;
    let segments = state.segments();
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes()).sum();
    let mut expired = Vec::new();
    for segment in segments.iter() {
        let is_old = segment.footer.appended_max < oldest;
        if !is_old && bytes <= state.config.bytes_max {
            continue;
        }
        bytes = bytes.saturating_sub(segment.bytes());
        expired.push(Arc::clone(segment));
    }
    if !expired.is_empty() {
        let until = expired.iter().map(|segment| segment.footer.appended_max).max().unwrap_or(0);
        let runs: Vec<ExpiredRun> =
            expired.iter().flat_map(|segment| placed_in(state, segment)).collect();
        swap(state, &expired, None, |manifest| {
            manifest.note_expired(until, runs);
            let oldest = oldest.saturating_sub(TOMBSTONE_MARGIN_NANOS);
            manifest.erased.retain(|erased| !erased.is_done || erased.at >= oldest);
        })?;
        state.metrics.expired_segments.inc_by(expired.len() as u64);
    }
    Ok(())
}

/// When the spans of a segment were placed, as its index knows by the bucket; without an index the
/// times of its ends.
fn placed_in(state: &State, segment: &Segment) -> Vec<ExpiredRun> {
    let footer = &segment.footer;
    let until = footer.appended_max;
    let all = ExpiredRun::of_times(footer.placed_min, footer.placed_max, until);
    let directory = segment.index().and_then(|index| segment.directory(&index, &state.cache).ok());
    let Some(directory) = directory else { return vec![all] };
    let buckets: BTreeSet<u64> = directory.groups.iter().map(|group| group.bucket).collect();
    if buckets.contains(&ANY_BUCKET) {
        return vec![all];
    }
    buckets.into_iter().map(|bucket| ExpiredRun::of_bucket(bucket, until)).collect()
}

/// Removes segments that cannot be read, once their files are too old: until then every answer says
/// that something may be missing.
fn expire_damaged(state: &State, oldest: u64) -> Result<(), StoreError> {
    let damaged = state.view().damaged.clone();
    let written = |id: u64| {
        let local = std::fs::metadata(state.segment_path(id));
        let known = local.or_else(|_| std::fs::metadata(state.cold_path(id)));
        let modified = known.and_then(|meta| meta.modified());
        let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.and_then(|since| u64::try_from(since.as_nanos()).ok())
    };
    // A file that is gone has no age: it counts as old as its successor.
    let successor =
        |id: u64| state.segments().iter().map(|other| other.id).find(|other| *other > id);
    let is_old = |id: u64| {
        let time = written(id).or_else(|| successor(id).and_then(written));
        time.is_some_and(|time| time < oldest)
    };
    let expired: Vec<u64> = damaged.into_iter().filter(|id| is_old(*id)).collect();
    if expired.is_empty() {
        return Ok(());
    }
    commit(
        state,
        None,
        |manifest| {
            manifest.segments.retain(|id| !expired.contains(id));
            // What was in them cannot be read: all of it was appended before they were written.
            manifest.note_expired(oldest, vec![ExpiredRun::of_all_time(oldest)]);
        },
        |view| view.damaged.retain(|id| !expired.contains(id)),
    )?;
    expired.iter().for_each(|id| remove_files(state, *id));
    state.metrics.expired_segments.inc_by(expired.len() as u64);
    Ok(())
}

fn merge(state: &State) -> Result<(), StoreError> {
    while let Some(inputs) = next_merge(state) {
        let erased = Arc::clone(&state.view().erased);
        match replace(state, &inputs, &erased) {
            Ok(_) => {
                state.metrics.merged_segments.inc_by(inputs.len() as u64);
            }
            Err(error @ StoreError::Damaged(_)) => {
                // The damaged one stays as it is: its readers say so. No use in trying again now.
                inputs.iter().for_each(|segment| segment.set_aside_from_merging());
                tracing::error!(%error, "segments could not be merged");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The oldest run of neighbours that is worth merging: at least the fan-in of segments of one size
/// class, together not larger than a full segment.
fn next_merge(state: &State) -> Option<Vec<Arc<Segment>>> {
    let segments = state.segments();
    let fan_in = state.config.merge_fan_in.max(2);
    let full = state.config.segment_spans_max as u64;
    let hot = segments.iter().filter(|segment| !segment.is_cold()).count();
    let are_too_many = hot > state.config.segments_max;
    let spans_max = if are_too_many { full.saturating_mul(2 * fan_in as u64) } else { full };
    for (at, first) in segments.iter().enumerate() {
        let class = size_class(first.footer.spans, fan_in);
        let mut spans = 0;
        let run: Vec<Arc<Segment>> = segments
            .iter()
            .skip(at)
            .take_while(|segment| {
                spans += segment.footer.spans;
                spans <= spans_max
                    && size_class(segment.footer.spans, fan_in) <= class
                    && !segment.is_set_aside_from_merging()
                    && !segment.is_cold()
            })
            .cloned()
            .collect();
        let is_small = class < size_class(full, fan_in) || are_too_many;
        if run.len() >= fan_in && is_small {
            return Some(run.into_iter().take(fan_in.saturating_mul(2)).collect());
        }
    }
    None
}

/// Segments of one class differ by less than the fan-in in size: each span is rewritten once a
/// class.
fn size_class(spans: u64, fan_in: usize) -> u32 {
    spans.max(1).ilog(fan_in as u64)
}
