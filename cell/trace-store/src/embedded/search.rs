//! Search over sealed segments, newest first, as far as the answer can still change.
//!
//! A queue holds segments by the latest placement time in them. A segment that comes to the front
//! is asked, by the filters of its groups, whether it can hold a match at all; its blocks go into
//! the queue by the latest time of a service that is meant, unless their own filters rule them out. A
//! block that comes to the front is read and judged. The search ends when the front is older than the
//! last trace within the limit.

use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::sync::Arc;

use trace_model::query::SearchStats;
use trace_model::{SearchQuery, TimeRange, UnixNanos};

use super::block_decode::Block;
use super::contexts::ReadContext;
use super::directory::{
    Directory, DirectoryBlock, DirectoryGroup, FilterRef, FilterRun, IndexFile, KeyFilter,
};
use super::evaluate::matching_rows;
use super::found::Found;
use super::index_build::{ANY_BUCKET, BUCKET_NANOS};
use super::probe::{Probe, presence};
use super::scan::scan;
use super::segment_read::Segment;
use super::state::{ErasedSet, State, is_erased};
use crate::StoreError;
use crate::port::SearchAnswer;

/// Searches everything that the store holds.
pub(crate) fn search(state: &State, query: &SearchQuery) -> SearchAnswer {
    let (pending, sealing, segments, covered, erased, is_damaged) = {
        let view = state.view();
        (
            Arc::clone(&view.pending.batches),
            view.sealing.clone(),
            Arc::clone(&view.segments),
            view.accepted.clone(),
            Arc::clone(&view.erased),
            !view.damaged.is_empty(),
        )
    };
    let mut search = Search {
        state,
        query,
        probe: Probe::of(&query.filter),
        erased: &erased,
        found: Found::new(query),
        stats: SearchStats::default(),
        is_damaged,
    };
    for batches in sealing.iter().chain([&pending]) {
        let scanned = scan(batches, query, &erased, &mut search.found);
        search.stats.spans_scanned += scanned;
    }
    search.run(&segments);
    state.metrics.searched_blocks.inc_by(search.stats.blocks_opened);
    state.metrics.search_range_blocks.inc_by(search.stats.blocks_total);
    SearchAnswer {
        matches: search.found.finish(),
        stats: search.stats,
        covered,
        is_damaged: search.is_damaged,
    }
}

/// A place in the queue: the latest time that it can hold, then the segment and perhaps the block.
type Candidate = (u64, usize, Option<usize>);

struct Search<'a> {
    state: &'a State,
    query: &'a SearchQuery,
    probe: Probe,
    erased: &'a ErasedSet,
    found: Found,
    stats: SearchStats,
    is_damaged: bool,
}

impl Search<'_> {
    fn run(&mut self, segments: &[Arc<Segment>]) {
        let mut queue: BinaryHeap<Candidate> = BinaryHeap::new();
        for (place, segment) in segments.iter().enumerate() {
            let in_range = self.blocks_in_range(segment);
            self.stats.blocks_total += in_range.len() as u64;
            if !in_range.is_empty() {
                queue.push((self.cap(segment.footer.placed_max), place, None));
            }
        }
        while let Some((latest, place, block)) = queue.pop() {
            if self.found.threshold().is_some_and(|time| time > UnixNanos(latest)) {
                break;
            }
            let Some(segment) = segments.get(place) else { continue };
            let searched = match block {
                None => self.expand(segment).map(|blocks| {
                    let candidates = blocks.into_iter();
                    queue.extend(candidates.map(|(latest, block)| (latest, place, Some(block))));
                }),
                Some(block) => self.search_block(segment, block),
            };
            if let Err(error) = searched {
                self.state.note_damage(segment, &error);
                self.is_damaged = true;
            }
        }
    }

    /// No match in the range is later than its end.
    fn cap(&self, placed: u64) -> u64 {
        placed.min(self.query.range.end.0.saturating_sub(1))
    }

    fn blocks_in_range(&self, segment: &Segment) -> Vec<usize> {
        let Some(tenant) = segment.tenant_place(&self.query.tenant) else { return Vec::new() };
        let blocks = segment.blocks.iter().enumerate();
        blocks
            .filter(|(_, block)| {
                let (first, last) = (UnixNanos(block.placed_min), UnixNanos(block.placed_max));
                block.tenant == tenant && self.query.range.overlaps(first, last)
            })
            .map(|(place, _)| place)
            .collect()
    }

    /// The blocks of a segment that may hold a match, each with the latest time of one.
    fn expand(&mut self, segment: &Segment) -> Result<Vec<(u64, usize)>, StoreError> {
        let blocks = self.blocks_in_range(segment);
        let latest = |block: usize| segment.blocks.get(block).map_or(0, |block| block.placed_max);
        let Some((index, directory)) = self.index_of(segment) else {
            return Ok(blocks.into_iter().map(|block| (self.cap(latest(block)), block)).collect());
        };
        let tenant = segment.tenant_place(&self.query.tenant).unwrap_or(u32::MAX);
        let mut services = Vec::new();
        let mut is_any_service = false;
        for group in &directory.groups {
            if group.tenant != tenant || !overlaps_bucket(self.query.range, group) {
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
        let mut block = segment.block(place)?;
        self.stats.blocks_opened += 1;
        self.stats.spans_scanned += block.rows() as u64;
        self.stats.bytes_read += segment.blocks.get(place).map_or(0, |block| block.length);
        let contexts = segment.contexts(&self.state.cache)?;
        let rows = matching_rows(&mut block, &contexts, &self.query.filter);
        let rows = rows.map_err(|error| segment.damaged(&error))?;
        let matched = self.note_matches(&block, &contexts, &rows);
        let matched = matched.map_err(|error| segment.damaged(&error))?;
        self.stats.blocks_without_match += u64::from(!matched);
        Ok(())
    }

    fn note_matches(
        &mut self,
        block: &Block,
        contexts: &[ReadContext],
        rows: &[bool],
    ) -> Result<bool, super::cursor::Corrupt> {
        let mut matched = false;
        for run in &block.traces {
            let verdicts = rows.get(run.first..run.first + run.rows).unwrap_or(&[]);
            if !verdicts.contains(&true) || is_erased(self.erased, &self.query.tenant, run.trace_id)
            {
                continue;
            }
            for (row, _) in (run.first..).zip(verdicts).filter(|(_, verdict)| **verdict) {
                let placed = UnixNanos(block.placed(row)?);
                let context = block.contexts.get(row).and_then(|at| contexts.get(*at as usize));
                if let Some(context) = context
                    && self.query.range.contains(placed)
                {
                    let region = &block.source_of(row)?.envelope.region;
                    self.found.add(run.trace_id, placed, &context.context.service, region);
                    matched = true;
                }
            }
        }
        Ok(matched)
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
