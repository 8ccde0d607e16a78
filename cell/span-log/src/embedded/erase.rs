//! Takes one trace out of sealed segments: each that holds it is written anew under its own number,
//! with the same offsets, and renamed over the old one. A crash leaves the old file or the new one.
//!
//! Never: a record of another trace moved, or a segment replaced whose bytes could not all be read.

use std::io;
use std::sync::{Arc, PoisonError};

use proto::SpanBatch;
use trace_model::{TenantId, TraceId};

use super::block::{BlockHeader, PAGE, Section, Stamp, block_bytes, put_block, unpack};
use super::damage::Damage;
use super::disk::{DiskFile, write_all_at};
use super::reader::{NO_BLOCK, stored_bytes};
use super::segment::{Segment, SegmentHeader, Step, file_name};
use super::shared::{Shared, log_error};
use super::tail_index::{SectionRef, TailIndex};
use crate::port::{ErasedRecords, LogError};

/// Files that are being written end so; a crash may leave one.
pub(crate) const REWRITE_SUFFIX: &str = ".rewrite";
/// Segments that could not be read at all end so.
const UNREADABLE_SUFFIX: &str = ".unreadable";

/// Which trace.
#[derive(Clone, Debug)]
pub(crate) struct Erasing {
    pub(crate) tenant: TenantId,
    pub(crate) trace_id: TraceId,
}

impl Erasing {
    /// Spans that the batch holds of the trace.
    fn spans_in(&self, batch: &SpanBatch) -> u64 {
        if batch.source().tenant != self.tenant {
            return 0;
        }
        let slices = batch.traces().iter().filter(|slice| slice.trace_id == self.trace_id);
        slices.map(|slice| u64::from(slice.span_count)).sum()
    }

    /// The batch without the trace.
    fn without(&self, batch: SpanBatch) -> Result<SpanBatch, &'static str> {
        if self.spans_in(&batch) == 0 {
            return Ok(batch);
        }
        let left = batch.without_trace(self.trace_id).map_err(|_| "a batch cannot be rebuilt")?;
        Ok(left.unwrap_or(batch))
    }
}

/// A section and the batches in it.
type OpenSection = (Section, Vec<Arc<SpanBatch>>);

/// A segment that is being written anew.
struct Rewrite {
    segment: Segment,
    tail: Option<TailIndex>,
    end: u64,
    buffer: Vec<u8>,
}

impl Shared {
    /// Erases the trace from all segments below this number, which are sealed.
    pub(crate) fn erase(
        &self,
        erasing: &Erasing,
        sealed_below: u64,
    ) -> Result<ErasedRecords, LogError> {
        let segments: Vec<Arc<Segment>> = self.state().segments.iter().cloned().collect();
        let mut erased = ErasedRecords::default();
        let mut failed = None;
        for segment in segments.iter().filter(|segment| segment.number < sealed_below) {
            match self.erase_from(segment, erasing) {
                Ok(0) => {}
                Ok(spans) => {
                    erased.files = erased.files.saturating_add(1);
                    erased.spans = erased.spans.saturating_add(spans);
                }
                // What can be erased is, whatever else cannot.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let names = self.disk.list().map_err(|error| log_error(&error))?;
        let unreadable = names.into_iter().find(|name| name.ends_with(UNREADABLE_SUFFIX));
        match (failed, unreadable) {
            (Some(error), _) => Err(error),
            (None, Some(name)) => {
                Err(LogError::Disk(format!("{name} may hold the trace and cannot be searched")))
            }
            (None, None) => Ok(erased),
        }
    }

    /// Gives how many spans are gone.
    fn erase_from(&self, segment: &Arc<Segment>, erasing: &Erasing) -> Result<u64, LogError> {
        let spans = self.spans_in_segment(segment, erasing)?;
        if spans == 0 {
            return self.cut_behind_the_end(segment).map_err(|error| log_error(&error)).and(Ok(0));
        }
        let name = format!("{}{REWRITE_SUFFIX}", file_name(segment.number));
        let written = self.write_without(segment, erasing, &name);
        let replaced = written.and_then(|rewrite| self.replace(segment, rewrite, &name));
        if replaced.is_err() {
            // What is left of it holds nothing that counts; an opening removes it too.
            self.disk.remove(&name).ok();
        }
        replaced.map(|()| spans)
    }

    /// What an abandoned segment holds behind its last block was never acknowledged.
    fn cut_behind_the_end(&self, segment: &Segment) -> io::Result<()> {
        let end = segment.extent().end;
        if segment.file.length()? > end {
            segment.file.truncate(end)?;
            segment.file.sync()?;
            segment.extent().disk_bytes = end;
        }
        Ok(())
    }

    /// Spans that the segment holds of the trace. Bytes that cannot be read are an error.
    fn spans_in_segment(&self, segment: &Segment, erasing: &Erasing) -> Result<u64, LogError> {
        let mut spans = 0_u64;
        self.visit(segment, |_, block, position| {
            for place in block.places(position) {
                let stored = stored_bytes(segment.file.as_ref(), &place)?;
                let batches = self.unpacked(block, &place, &stored)?;
                let held = batches.iter().map(|batch| erasing.spans_in(batch));
                spans = spans.saturating_add(held.sum());
            }
            Ok(())
        })?;
        Ok(spans)
    }

    /// Walks all blocks of a sealed segment. Between them there must be nothing: what cannot be read
    /// may be anything.
    fn visit(
        &self,
        segment: &Segment,
        mut see: impl FnMut(&Self, &BlockHeader, u64) -> Result<(), EraseError>,
    ) -> Result<(), LogError> {
        let mut walk = segment.walk(segment.start());
        let mut end = PAGE;
        loop {
            match walk.step().map_err(|error| log_error(&error))? {
                Step::Block(position, block) => {
                    see(self, &block, position)?;
                    end = walk.position();
                }
                // Records that are gone with all of their bytes: nothing is hidden there.
                Step::Damaged { .. } if walk.position() == end => {}
                Step::Damaged { first, next, times } => {
                    let damage = Damage::new((first, next), times, NO_BLOCK);
                    return Err(LogError::Damaged(self.note_damage(&damage)));
                }
                Step::End => return Ok(()),
            }
        }
    }

    fn unpacked(
        &self,
        block: &BlockHeader,
        place: &super::block::SectionPlace,
        stored: &[u8],
    ) -> Result<Vec<SpanBatch>, EraseError> {
        unpack(&place.entry, stored).map_err(|reason| {
            let offsets = (place.first_offset, place.next_offset());
            let times = (block.append_time, block.append_time);
            EraseError(LogError::Damaged(self.note_damage(&Damage::new(offsets, times, reason))))
        })
    }

    /// Writes the segment anew, durably, under another name.
    fn write_without(
        &self,
        segment: &Segment,
        erasing: &Erasing,
        name: &str,
    ) -> Result<Rewrite, LogError> {
        let file = self.disk.create(name).map_err(|error| log_error(&error))?;
        let header = SegmentHeader {
            incarnation: self.identity.log.incarnation,
            number: segment.number,
            first_offset: segment.first_offset,
        };
        let mut page = header.encode();
        page.resize(usize::try_from(PAGE).unwrap_or(page.len()), 0);
        write_all_at(file.as_ref(), &page, 0).map_err(|error| log_error(&error))?;
        let has_tail = segment.tail().is_some();
        let mut rewrite = Rewrite {
            segment: Segment::new(header, self.identity.salt, Arc::clone(&file), PAGE),
            tail: has_tail.then(TailIndex::default),
            end: PAGE,
            buffer: Vec::new(),
        };
        self.visit(segment, |_, block, position| {
            let sections = self.sections_without(segment.file.as_ref(), (block, position), erasing);
            self.put_sections(&mut rewrite, block, &sections?)
        })?;
        file.sync().map_err(|error| log_error(&error))?;
        Ok(rewrite)
    }

    /// A block's sections with their batches; packed anew where the trace was in them.
    fn sections_without(
        &self,
        file: &dyn DiskFile,
        (block, position): (&BlockHeader, u64),
        erasing: &Erasing,
    ) -> Result<Vec<OpenSection>, EraseError> {
        let mut sections = Vec::with_capacity(block.sections.len());
        for place in block.places(position) {
            let stored = stored_bytes(file, &place)?;
            let batches = self.unpacked(block, &place, &stored)?;
            let is_touched = batches.iter().any(|batch| erasing.spans_in(batch) > 0);
            let without = |batch| erasing.without(batch).map(Arc::new);
            let batches: Result<Vec<_>, _> = batches.into_iter().map(without).collect();
            let batches = batches.map_err(|reason| LogError::Disk(reason.to_owned()))?;
            let section = if is_touched {
                Section::pack(&batches)
            } else {
                Section { entry: place.entry, stored }
            };
            sections.push((section, batches));
        }
        Ok(sections)
    }

    fn put_sections(
        &self,
        rewrite: &mut Rewrite,
        block: &BlockHeader,
        sections: &[OpenSection],
    ) -> Result<(), EraseError> {
        let Rewrite { segment, tail, end, buffer } = rewrite;
        let stamp = Stamp {
            segment_first: segment.first_offset,
            first_offset: block.first_offset,
            append_time: block.append_time,
        };
        let packed = || sections.iter().map(|(section, _)| section);
        put_block(buffer, packed(), segment.binding, *end, stamp);
        write_all_at(segment.file.as_ref(), buffer, *end)?;
        let mut offset = block.first_offset;
        for (place, (section, batches)) in (0_u32..).zip(sections) {
            let reference = SectionRef {
                first_offset: offset,
                records: section.entry.records,
                block_page: u32::try_from(*end / PAGE).unwrap_or(u32::MAX),
                section: place,
            };
            if let Some(tail) = tail {
                tail.add(reference, self.hasher, batches.iter().map(Arc::as_ref));
            }
            offset = offset.saturating_add(u64::from(section.entry.records));
        }
        let behind = end.saturating_add(block_bytes(packed()));
        segment.extent().add((*end, behind), (block.first_offset, offset), block.append_time);
        *end = behind;
        Ok(())
    }

    /// Puts the new file in the place of the old one, unless retention was quicker.
    fn replace(&self, old: &Segment, mut rewrite: Rewrite, name: &str) -> Result<(), LogError> {
        let mut extent = rewrite.segment.extent().clone();
        extent.disk_bytes = rewrite.end;
        // Records may be missing at its end, with their bytes.
        extent.next_offset = old.extent().next_offset;
        if let Some(tail) = &mut rewrite.tail {
            tail.shrink();
        }
        rewrite.segment.take(extent, rewrite.tail);
        let _guard = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |one: &Arc<Segment>| one.number == old.number;
        let Some(place) = self.state().segments.iter().position(is_old) else {
            return self.disk.remove(name).map_err(|error| log_error(&error));
        };
        let renamed = self.disk.rename(name, &file_name(old.number));
        renamed.map_err(|error| log_error(&error))?;
        if let Some(slot) = self.state().segments.get_mut(place) {
            *slot = Arc::new(rewrite.segment);
        }
        self.cache().forget_all();
        // Without it a crash may bring the old file back: then the trace is not erased yet.
        self.disk.sync_directory().map_err(|error| log_error(&error))
    }
}

/// A failure within the walk.
struct EraseError(LogError);

impl From<LogError> for EraseError {
    fn from(error: LogError) -> Self {
        Self(error)
    }
}

impl From<io::Error> for EraseError {
    fn from(error: io::Error) -> Self {
        Self(log_error(&error))
    }
}

impl From<EraseError> for LogError {
    fn from(EraseError(error): EraseError) -> Self {
        error
    }
}
