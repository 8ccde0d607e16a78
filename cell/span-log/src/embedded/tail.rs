//! The live tail: spans of a trace in records that storage-writer has not committed.
//!
//! The end is taken first. Whatever was durable then is in the index, since a block enters the
//! index before the end moves behind it; and the index forgets nothing before storage-writer's
//! commit of it is a grace old. So a reader that asks stores and tail in any order within that
//! grace misses nothing.

use std::sync::Arc;

use proto::LoggedBatch;
use trace_model::{Coverage, StoredSpan, TenantId, TraceId};

use super::block::{BlockHeader, PAGE, PAGE_BYTES, Parsed, SECTIONS_MAX};
use super::damage::Damage;
use super::disk::read_up_to;
use super::reader::LoadError;
use super::segment::Segment;
use super::shared::{PARTITION, Shared};
use super::tail_index::SectionRef;
use crate::port::TailAnswer;

/// Where to look for a trace.
#[derive(Debug)]
pub(crate) struct TailPlan {
    end: u64,
    /// Below this something may be missing.
    floor: u64,
    sections: Vec<(Arc<Segment>, SectionRef)>,
}

/// Batches of the sections of a plan, as far as they could be read.
#[derive(Debug, Default)]
pub(crate) struct TailBatches {
    batches: Vec<LoggedBatch>,
    is_damaged: bool,
}

impl Shared {
    /// What to read for a trace; microseconds, no file is touched.
    pub(crate) fn plan_tail(&self, tenant: &TenantId, trace_id: TraceId) -> TailPlan {
        let (end, floor, segments) = {
            let state = self.state();
            let floor = state.tail_floor;
            let from = state.segments.partition_point(|one| one.extent().next_offset <= floor);
            let segments: Vec<_> = state.segments.iter().skip(from).cloned().collect();
            (state.next, floor, segments)
        };
        let hash = self.hasher.of_tenant(tenant).trace(trace_id);
        let mut sections = Vec::new();
        for segment in segments {
            let found = segment.tail().as_ref().map(|tail| tail.sections_of(hash));
            let found = found.unwrap_or_default().into_iter();
            let live = found.filter(|section| section.next_offset() > floor);
            sections.extend(live.map(|section| (Arc::clone(&segment), section)));
        }
        // What left the index meanwhile is below the floor as it is now.
        let floor = self.state().tail_floor;
        TailPlan { end, floor, sections }
    }

    /// The plan's batches, if the cache has all of them.
    pub(crate) fn cached_tail(&self, plan: &TailPlan) -> Option<TailBatches> {
        let cache = self.cache();
        let mut batches = Vec::new();
        for (_, section) in &plan.sections {
            batches.extend(cache.all_of(section.first_offset, section.next_offset())?);
        }
        Some(TailBatches { batches, is_damaged: false })
    }

    /// The plan's batches, from cache and disk.
    pub(crate) fn load_tail(&self, plan: &TailPlan) -> TailBatches {
        let mut loaded = TailBatches::default();
        for (segment, section) in &plan.sections {
            let cached = self.cache().all_of(section.first_offset, section.next_offset());
            match cached.map_or_else(|| self.load_section(segment, section), Ok) {
                Ok(batches) => loaded.batches.extend(batches),
                Err(LoadError::Damaged(_)) => loaded.is_damaged = true,
                Err(LoadError::Io(error)) => {
                    tracing::warn!(%error, "a block of the live tail could not be read");
                    loaded.is_damaged = true;
                }
            }
        }
        loaded
    }

    fn load_section(
        &self,
        segment: &Segment,
        section: &SectionRef,
    ) -> Result<Vec<LoggedBatch>, LoadError> {
        let position = u64::from(section.block_page).saturating_mul(PAGE);
        let number = section.section as usize;
        let place = read_header(segment, position)?
            .map(|block| (block.places(position).get(number).copied(), block));
        match place {
            Some((Some(place), block)) if place.first_offset == section.first_offset => {
                self.load(segment.file.as_ref(), &block, &place)
            }
            _ => {
                let offsets = (section.first_offset, section.next_offset());
                let times = {
                    let extent = segment.extent();
                    (extent.first_time.unwrap_or_default(), extent.last_time)
                };
                let reason = "the header of their block is damaged";
                let damage = Damage::new(offsets, times, reason);
                Err(LoadError::Damaged(self.note_damage(&damage)))
            }
        }
    }

    /// The answer: the trace's spans in these batches.
    pub(crate) fn answer_tail(
        &self,
        plan: &TailPlan,
        loaded: &TailBatches,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> TailAnswer {
        let mut covered = Coverage::none(self.identity.log.incarnation);
        covered.extend(PARTITION, plan.end);
        let mut spans = Vec::new();
        for logged in &loaded.batches {
            put_spans(&mut spans, logged, tenant, trace_id);
        }
        let mut begins = Coverage::none(self.identity.log.incarnation);
        begins.extend(PARTITION, plan.floor);
        TailAnswer {
            spans,
            covered,
            is_damaged: loaded.is_damaged,
            is_behind: false,
            silent: Vec::new(),
            begins: Some(begins),
        }
    }
}

/// Adds the spans that the batch holds of the tenant's trace.
pub(crate) fn put_spans(
    spans: &mut Vec<StoredSpan>,
    logged: &LoggedBatch,
    tenant: &TenantId,
    trace_id: TraceId,
) {
    let batch = &logged.batch;
    if batch.source().tenant != *tenant {
        return;
    }
    let mut envelope = None;
    for trace in batch.traces().iter().filter(|trace| trace.trace_id == trace_id) {
        let envelope = envelope.get_or_insert_with(|| Arc::new(batch.envelope()));
        let stored = batch.spans_of(trace).iter();
        spans.extend(stored.filter_map(|span| batch.stored_span(span, envelope)));
    }
}

fn read_header(segment: &Segment, position: u64) -> std::io::Result<Option<BlockHeader>> {
    let mut bytes = vec![0; PAGE_BYTES];
    loop {
        let read = read_up_to(segment.file.as_ref(), &mut bytes, position)?;
        let have = bytes.get(..read).unwrap_or(&[]);
        match BlockHeader::parse(have, segment.binding, position) {
            Parsed::Header(header) => return Ok(Some(header)),
            Parsed::Needs(more) if more > bytes.len() && more <= SECTIONS_MAX * 64 => {
                bytes.resize(more, 0);
            }
            Parsed::Needs(_) | Parsed::Nothing => return Ok(None),
        }
    }
}
