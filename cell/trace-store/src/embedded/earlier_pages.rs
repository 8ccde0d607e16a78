//! Which of the traces that a search has found are on an earlier page: those with a match that is
//! newer than the cursor.
//!
//! They are looked up by their ids, a few at a time: the filters of the segments say where a trace
//! may be, and only those blocks are opened. So a page costs what lies behind its cursor, and not
//! all the pages before it; and nothing has to be remembered of those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trace_model::{Region, TimeRange, TraceId, UnixNanos};

use super::hash::trace_hash;
use super::search::Search;
use super::segment_read::Segment;
use crate::StoreError;

impl Search<'_> {
    /// Makes sure that the newest traces found, up to the limit, belong to this page, and lets go
    /// what then cannot come into the answer.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        // Twice as many each time: where most are on earlier pages, few rounds open a block again.
        let mut times = 1_usize;
        loop {
            let doubtful = self.found.doubtful(times);
            if doubtful.is_empty() {
                break;
            }
            let earlier = self.on_earlier_pages(&doubtful)?;
            self.found.settle(&doubtful, &earlier);
            times = times.saturating_mul(2);
        }
        self.found.let_go();
        Ok(())
    }

    fn on_earlier_pages(
        &mut self,
        traces: &BTreeSet<TraceId>,
    ) -> Result<BTreeSet<TraceId>, StoreError> {
        let mut earlier = BTreeSet::new();
        let Some((time, _)) = self.query.before else { return Ok(earlier) };
        let start = self.query.range.start.max(time);
        let range = TimeRange { start, end: self.query.range.end };
        for pending in self.waiting.iter().flat_map(|batches| batches.iter()) {
            let note = &mut |trace_id, placed, _: &Arc<str>, _: &Region| {
                earlier.extend(self.found.is_earlier(trace_id, placed).then_some(trace_id));
            };
            self.scanner.scan(pending, range, Some(traces), self.go_on, note)?;
        }
        let segments = Arc::clone(&self.segments);
        for segment in segments.iter() {
            let blocks = self.blocks_with(segment, range, traces);
            for (place, traces) in blocks {
                (self.go_on)()?;
                match self.matches_of(segment, place, range, &traces) {
                    Ok(found) => earlier.extend(found),
                    Err(error) => self.note_damage(segment, &error),
                }
            }
        }
        Ok(earlier)
    }

    /// The blocks of a segment in which a match of one of the traces may lie in the range.
    fn blocks_with(
        &self,
        segment: &Segment,
        range: TimeRange,
        traces: &BTreeSet<TraceId>,
    ) -> BTreeMap<usize, BTreeSet<TraceId>> {
        let mut blocks: BTreeMap<usize, BTreeSet<TraceId>> = BTreeMap::new();
        let placed = (UnixNanos(segment.footer.placed_min), UnixNanos(segment.footer.placed_max));
        let tenant = segment.tenant_place(&self.query.tenant);
        let Some(tenant) = tenant.filter(|_| range.overlaps(placed.0, placed.1)) else {
            return blocks;
        };
        let seed = segment.tenant(tenant).map_or(0, |(_, seed)| *seed);
        for trace_id in traces {
            if !segment.may_hold(trace_hash(seed, *trace_id)) {
                continue;
            }
            for place in segment.blocks_of(tenant, *trace_id) {
                let is_in_range = segment.blocks.get(place).is_some_and(|block| {
                    range.overlaps(UnixNanos(block.placed_min), UnixNanos(block.placed_max))
                });
                if is_in_range {
                    blocks.entry(place).or_default().insert(*trace_id);
                }
            }
        }
        blocks
    }

    /// Those of the traces that have a match on an earlier page in this block.
    fn matches_of(
        &mut self,
        segment: &Segment,
        place: usize,
        range: TimeRange,
        traces: &BTreeSet<TraceId>,
    ) -> Result<BTreeSet<TraceId>, StoreError> {
        let judged = self.judge(segment, place)?;
        let mut earlier = BTreeSet::new();
        let matches = judged.matches(range, |trace_id| traces.contains(&trace_id));
        for found in matches.map_err(|error| segment.damaged(&error))? {
            if self.found.is_earlier(found.trace_id, found.placed) {
                earlier.insert(found.trace_id);
            }
        }
        Ok(earlier)
    }
}
