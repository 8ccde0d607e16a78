//! Search over sealed segments, newest first, as far as the answer can still change.
//!
//! A queue holds segments by the latest placement time in them. A segment that comes to the front
//! is asked, by the filters of its groups, whether it can hold a match at all; its blocks go into
//! the queue by the latest time of a service that is meant, unless their own filters rule them out. A
//! block that comes to the front is read and judged. The search ends when the front is older than the
//! last trace within the limit, or before the next block when nobody waits for it any more.
//!
//! A page begins at its cursor: nothing newer is searched, but for the traces found, which may
//! belong to an earlier page (`earlier_pages`).

use std::collections::{BTreeMap, BinaryHeap};
use std::convert::Infallible;
use std::sync::Arc;

use trace_model::query::SearchStats;
use trace_model::{Region, SearchQuery, TimeRange, UnixNanos};

use super::cold_segment::READ_AHEAD_BLOCKS;
use super::directory::{
    Directory, DirectoryBlock, DirectoryGroup, FilterRef, FilterRun, IndexFile, KeyFilter,
};
use super::evaluate::matching_rows;
use super::found::Found;
use super::index_build::{ANY_BUCKET, BUCKET_NANOS};
use super::judged::Judged;
use super::pending::PendingBatch;
use super::probe::{Probe, presence};
use super::scan::Scanner;
use super::segment_read::Segment;
use super::state::{ErasedSet, State, is_erased};
use crate::StoreError;
use crate::port::SearchAnswer;
use crate::questions::GoOn;

/// Searches everything that the store holds. Fails only where nobody waits for the answer any more.
pub(crate) fn search(
    state: &State,
    query: &SearchQuery,
    go_on: GoOn<'_>,
) -> Result<SearchAnswer, StoreError> {
    // All of one view: segments that retention took out are within its `expired_until`.
    let (waiting, segments, covered, erased, is_damaged, expired_until) = {
        let view = state.view();
        let waiting = view.sealing.iter().chain([&view.pending.batches]).cloned().collect();
        (
            waiting,
            Arc::clone(&view.segments),
            view.accepted.clone(),
            Arc::clone(&view.erased),
            !view.damaged.is_empty(),
            view.expired_until,
        )
    };
    let mut search = Search {
        state,
        query,
        range: behind_cursor(query),
        go_on,
        probe: Probe::of(&query.filter),
        scanner: Scanner::new(query, &erased),
        erased: &erased,
        waiting,
        segments,
        found: Found::new(query),
        stats: SearchStats::default(),
        is_damaged,
        is_away: false,
        ahead: BTreeMap::new(),
    };
    search.scan_waiting()?;
    search.run()?;
    Ok(SearchAnswer {
        matches: search.found.finish(),
        stats: search.stats,
        covered,
        is_damaged: search.is_damaged,
        is_away: search.is_away,
        expired_until,
    })
}

/// The part of the range in which this page's matches lie: none is newer than the cursor.
fn behind_cursor(query: &SearchQuery) -> TimeRange {
    let end = query.before.map_or(UnixNanos::MAX, |(time, _)| time.plus(1));
    TimeRange { start: query.range.start, end: query.range.end.min(end) }
}

/// A place in the queue: the latest time that it can hold, then the segment and perhaps the block.
type Candidate = (u64, usize, Option<usize>);

pub(super) struct Search<'a> {
    state: &'a State,
    pub(super) query: &'a SearchQuery,
    range: TimeRange,
    pub(super) go_on: GoOn<'a>,
    probe: Probe,
    pub(super) scanner: Scanner<'a>,
    erased: &'a ErasedSet,
    /// What is not sealed yet.
    pub(super) waiting: Vec<Arc<Vec<PendingBatch>>>,
    pub(super) segments: Arc<Vec<Arc<Segment>>>,
    pub(super) found: Found,
    stats: SearchStats,
    is_damaged: bool,
    /// Objects of cold segments were.
    is_away: bool,
    /// Of cold segments that were asked, the blocks that will be searched; the next one last.
    ahead: BTreeMap<usize, Vec<usize>>,
}

impl Search<'_> {
    fn scan_waiting(&mut self) -> Result<(), StoreError> {
        let waiting = self.waiting.clone();
        for pending in waiting.iter().flat_map(|batches| batches.iter()) {
            let found = &mut self.found;
            let note = &mut |trace_id, placed, service: &Arc<str>, region: &Region| {
                found.add(trace_id, placed, service, region);
            };
            let scanned = self.scanner.scan(pending, self.range, None, self.go_on, note)?;
            self.stats.spans_scanned += scanned;
            self.make_room()?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), StoreError> {
        let segments = Arc::clone(&self.segments);
        let mut queue: BinaryHeap<Candidate> = BinaryHeap::new();
        for (place, segment) in segments.iter().enumerate() {
            let in_range = self.blocks_in_range(segment, self.query.range).len() as u64;
            self.stats.blocks_total += in_range;
            self.state.metrics.search_range_blocks.inc_by(in_range);
            if !self.blocks_in_range(segment, self.range).is_empty() {
                queue.push((self.cap(segment.footer.placed_max), place, None));
            }
        }
        while let Some((latest, place, block)) = queue.pop() {
            (self.go_on)()?;
            if self.has_enough(UnixNanos(latest))? {
                break;
            }
            let Some(segment) = segments.get(place) else { continue };
            let searched = match block {
                None => self.expand(segment).map(|blocks| {
                    self.note_ahead(segment, place, &blocks);
                    let candidates = blocks.into_iter();
                    queue.extend(candidates.map(|(latest, block)| (latest, place, Some(block))));
                }),
                Some(block) => {
                    self.read_ahead(segment, place, block);
                    self.search_block(segment, block)
                }
            };
            if let Err(error) = searched {
                self.note_damage(segment, &error);
            }
            self.make_room()?;
        }
        self.settle()
    }

    /// Remembers which blocks of a cold segment will be searched, in their order.
    fn note_ahead(&mut self, segment: &Segment, place: usize, blocks: &[(u64, usize)]) {
        if segment.is_cold() {
            let mut blocks = blocks.to_vec();
            blocks.sort_unstable();
            self.ahead.insert(place, blocks.into_iter().map(|(_, block)| block).collect());
        }
    }

    /// Fetches a block of a cold segment with those that come after it, unless an earlier one has.
    fn read_ahead(&mut self, segment: &Segment, place: usize, block: usize) {
        let Some(ahead) = self.ahead.get_mut(&place) else { return };
        if ahead.last() == Some(&block) {
            let rest = ahead.len().saturating_sub(READ_AHEAD_BLOCKS);
            let next = ahead.split_off(rest);
            segment.read_ahead(next.into_iter().rev());
        }
    }

    /// Whether nothing up to this time can change the answer.
    fn has_enough(&mut self, latest: UnixNanos) -> Result<bool, StoreError> {
        let is_enough =
            |found: &Found| found.threshold().is_some_and(|threshold| threshold > latest);
        if !is_enough(&self.found) {
            return Ok(false);
        }
        // Some of what was found may be on an earlier page.
        self.settle()?;
        Ok(is_enough(&self.found))
    }

    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.found.is_crowded() { self.settle() } else { Ok(()) }
    }

    pub(super) fn note_damage(&mut self, segment: &Segment, error: &StoreError) {
        let is_away = self.state.note_damage(segment, error);
        self.is_away |= is_away;
        self.is_damaged |= !is_away;
    }

    /// No match in the range is later than its end.
    fn cap(&self, placed: u64) -> u64 {
        placed.min(self.range.end.0.saturating_sub(1))
    }

    fn blocks_in_range(&self, segment: &Segment, range: TimeRange) -> Vec<usize> {
        let Some(tenant) = segment.tenant_place(&self.query.tenant) else { return Vec::new() };
        let blocks = segment.blocks.iter().enumerate();
        blocks
            .filter(|(_, block)| {
                let (first, last) = (UnixNanos(block.placed_min), UnixNanos(block.placed_max));
                block.tenant == tenant && range.overlaps(first, last)
            })
            .map(|(place, _)| place)
            .collect()
    }

    /// The blocks of a segment that may hold a match, each with the latest time of one.
    fn expand(&mut self, segment: &Segment) -> Result<Vec<(u64, usize)>, StoreError> {
        let blocks = self.blocks_in_range(segment, self.range);
        let latest = |block: usize| segment.blocks.get(block).map_or(0, |block| block.placed_max);
        let Some((index, directory)) = self.index_of(segment) else {
            return Ok(blocks.into_iter().map(|block| (self.cap(latest(block)), block)).collect());
        };
        let tenant = segment.tenant_place(&self.query.tenant).unwrap_or(u32::MAX);
        let mut services = Vec::new();
        let mut is_any_service = false;
        for group in &directory.groups {
            if group.tenant != tenant || !overlaps_bucket(self.range, group) {
                continue;
            }
            self.stats.buckets_checked += 1;
            if self.may_match_group(&index, &directory, group)? {
                self.stats.buckets_opened += 1;
                match group.service {
                    Some(service) => services.push(service),
                    None => is_any_service = true,
                }
            }
        }
        let mut candidates = Vec::new();
        for block in blocks {
            let known = directory.blocks.get(block).map_or(&[][..], |block| &block.services);
            let meant = known.iter().filter(|(service, _)| services.contains(service));
            let newest = meant.map(|(_, latest)| *latest).max();
            let newest = if is_any_service { Some(latest(block)) } else { newest };
            candidates.extend(newest.map(|newest| (self.cap(newest), block)));
        }
        self.rule_out(&index, &directory, candidates)
    }

    /// Keeps the blocks whose own filter does not rule them out.
    fn rule_out(
        &mut self,
        index: &IndexFile,
        directory: &Directory,
        candidates: Vec<(u64, usize)>,
    ) -> Result<Vec<(u64, usize)>, StoreError> {
        let block_of = |(_, block): &(u64, usize)| directory.blocks.get(*block);
        let (first, last) = (candidates.first(), candidates.last());
        let ends = first.and_then(block_of).zip(last.and_then(block_of));
        let Some((first, last)) = ends.filter(|_| demands_entries(&self.probe)) else {
            return Ok(candidates);
        };
        let filters = index.filters(first.filter, last.filter)?;
        self.stats.bytes_read += filters.bytes();
        let mut kept = Vec::new();
        for candidate in candidates {
            let may_match = match block_of(&candidate) {
                Some(block) => self.may_match_block(&filters, directory, block),
                None => true,
            };
            kept.extend(may_match.then_some(candidate));
        }
        Ok(kept)
    }

    /// The segment's index. A damaged one is as good as none: slower, not shorter.
    fn index_of(&self, segment: &Segment) -> Option<(Arc<IndexFile>, Arc<Directory>)> {
        let index = segment.index()?;
        match segment.directory(&index, &self.state.cache) {
            Ok(directory) => Some((index, directory)),
            Err(error) => {
                tracing::warn!(%error, segment = segment.id, "an index is damaged: built anew");
                segment.drop_index();
                None
            }
        }
    }

    fn may_match_group(
        &mut self,
        index: &IndexFile,
        directory: &Directory,
        group: &DirectoryGroup,
    ) -> Result<bool, StoreError> {
        let stats = &mut self.stats;
        self.probe.holds(&mut |leaf| match leaf {
            Probe::Service(wanted) => {
                let service = group.service.map(|service| directory.service(service));
                Ok(service.is_none_or(|service| service.is_some_and(|name| **name == **wanted)))
            }
            Probe::Entries { key, entries } => match group.filter_of(*key) {
                KeyFilter::Own(filter) | KeyFilter::Shared(filter) => {
                    has_one(index, filter, entries, stats)
                }
                KeyFilter::Absent => Ok(false),
            },
            Probe::Present(key) => match group.filter_of(*key) {
                KeyFilter::Own(_) => Ok(true),
                KeyFilter::Shared(filter) => has_one(index, filter, &[presence(*key)], stats),
                KeyFilter::Absent => Ok(false),
            },
            Probe::Anything | Probe::All(_) | Probe::Any(_) => Ok(true),
        })
    }

    fn may_match_block(
        &self,
        filters: &FilterRun,
        directory: &Directory,
        block: &DirectoryBlock,
    ) -> bool {
        let has = |entry: u64| filters.contains(block.filter, entry);
        let holds = self.probe.holds(&mut |leaf| {
            Ok::<bool, Infallible>(match leaf {
                Probe::Service(wanted) => block.services.iter().any(|(service, _)| {
                    directory.service(*service).is_some_and(|name| **name == **wanted)
                }),
                Probe::Entries { entries, .. } => entries.iter().any(|entry| has(*entry)),
                Probe::Present(key) => has(presence(*key)),
                Probe::Anything | Probe::All(_) | Probe::Any(_) => true,
            })
        });
        holds.unwrap_or(true)
    }

    fn search_block(&mut self, segment: &Segment, place: usize) -> Result<(), StoreError> {
        let judged = self.judge(segment, place)?;
        let erased = self.erased;
        let is_there = |trace_id| !is_erased(erased, &self.query.tenant, trace_id);
        let matches = judged.matches(self.range, is_there);
        let matches = matches.map_err(|error| segment.damaged(&error))?;
        self.stats.blocks_without_match += u64::from(matches.is_empty());
        for found in matches {
            self.found.add(found.trace_id, found.placed, found.service, found.region);
        }
        Ok(())
    }

    /// Opens a block and judges its rows.
    pub(super) fn judge(&mut self, segment: &Segment, place: usize) -> Result<Judged, StoreError> {
        let mut block = segment.block(place)?;
        self.stats.blocks_opened += 1;
        self.state.metrics.searched_blocks.inc();
        self.stats.spans_scanned += block.rows() as u64;
        self.stats.bytes_read += segment.blocks.get(place).map_or(0, |block| block.length);
        let contexts = segment.contexts(&self.state.cache)?;
        let rows = matching_rows(&mut block, &contexts, &self.query.filter);
        let rows = rows.map_err(|error| segment.damaged(&error))?;
        Ok(Judged { block, contexts, rows })
    }
}

fn overlaps_bucket(range: TimeRange, group: &DirectoryGroup) -> bool {
    let first = group.bucket.saturating_mul(BUCKET_NANOS);
    let last = first.saturating_add(BUCKET_NANOS - 1);
    group.bucket == ANY_BUCKET || range.overlaps(UnixNanos(first), UnixNanos(last))
}

/// Whether a block's filter can say anything that its list of services has not said.
fn demands_entries(probe: &Probe) -> bool {
    match probe {
        Probe::Anything | Probe::Service(_) => false,
        Probe::Entries { .. } | Probe::Present(_) => true,
        Probe::All(parts) | Probe::Any(parts) => parts.iter().any(demands_entries),
    }
}

fn has_one(
    index: &IndexFile,
    filter: FilterRef,
    entries: &[u64],
    stats: &mut SearchStats,
) -> Result<bool, StoreError> {
    let filters = index.filters(filter, filter)?;
    stats.bytes_read += filters.bytes();
    Ok(entries.iter().any(|entry| filters.contains(filter, *entry)))
}

#[cfg(test)]
mod tests;
