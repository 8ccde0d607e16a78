//! What a directory holds, found out at opening: a torn tail is cut, damage is set aside and
//! reported, the live tail's index is built again. Nothing that was acknowledged is stepped over in
//! silence.
//!
//! A block that is cut short or does not fit its checksum at the very end of the last segment is a
//! torn write that nobody was told of, unless the checkpoint saw the log end behind it: then it is
//! damage. With good blocks behind it, it is damage too.

mod opening;

use std::io;
use std::sync::Arc;

use trace_model::UnixNanos;

use super::block::{Binding, BlockHeader, PAGE, PAGE_BYTES, is_intact, unpack};
use super::checkpoint::DroppedRun;
use super::damage::Damage;
use super::disk::{Disk, DiskFile, read_up_to};
use super::error::OpenError;
use super::identity::{FileFault, Identity};
use super::reader::{NO_BLOCK, stored_bytes};
use super::segment::{self, Segment, SegmentHeader, Step, Walk, file_name};
use super::shared::{State, note_dropped};
use super::tail_index::{SectionRef, TraceHasher};

pub(crate) use opening::{Findings, recover};

/// A segment file, before its blocks are looked at.
#[derive(Debug)]
struct Found {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    length: u64,
}

/// The recovery of one directory.
struct Recovery<'a> {
    disk: &'a dyn Disk,
    identity: Identity,
    /// Everything below was durable when the last checkpoint was written.
    witness: u64,
    /// Everything below was read by somebody: above the witness where the log is an older copy.
    seen: u64,
    /// Records from here on are in the live tail.
    tail_from: u64,
    findings: Findings,
}

impl Recovery<'_> {
    fn segments(&mut self, numbers: &[u64]) -> Result<Vec<Arc<Segment>>, FileFault> {
        let mut found = Vec::with_capacity(numbers.len());
        for number in numbers {
            let one = self.find(*number)?;
            self.findings.has_lost_front |= one.is_none() && found.is_empty();
            found.extend(one);
        }
        let mut segments = Vec::with_capacity(found.len());
        let mut follows = found.iter().skip(1).map(|found| found.header.first_offset);
        for one in &found {
            let segment = match follows.next() {
                Some(limit) => Some(self.inner_segment(one, limit)?),
                None => self.last_segment(one)?,
            };
            segments.extend(segment.map(Arc::new));
        }
        Ok(segments)
    }

    /// Opens a segment file and finds its first offset: from its head, or from its first block. A
    /// file with neither never held an acknowledged record, or all of it is damaged: it is put
    /// aside, and what follows shows the hole.
    fn find(&self, number: u64) -> Result<Option<Found>, FileFault> {
        let name = file_name(number);
        let file = self.disk.open(&name)?;
        let length = file.length()?;
        let incarnation = self.identity.log.incarnation;
        let header = match SegmentHeader::read(file.as_ref())? {
            Some(Ok(header)) if (header.incarnation, header.number) == (incarnation, number) => {
                header
            }
            Some(Ok(_)) => {
                let reason = "it belongs to another log";
                return Err(FileFault::Open(OpenError::Damaged { file: name, reason }));
            }
            Some(Err(found)) => {
                let known = segment::VERSION;
                return Err(FileFault::Open(OpenError::Newer { file: name, found, known }));
            }
            None => match self.first_block_offset(file.as_ref(), number, length)? {
                Some(first_offset) => SegmentHeader { incarnation, number, first_offset },
                None => {
                    self.put_aside(&name, file.as_ref())?;
                    return Ok(None);
                }
            },
        };
        Ok(Some(Found { header, file, length }))
    }

    /// A file whose first page was never written is what a crash left of a segment in the making.
    fn put_aside(&self, name: &str, file: &dyn DiskFile) -> io::Result<()> {
        if !has_bytes(file, 0, PAGE)? {
            return self.disk.remove(name);
        }
        tracing::error!(name, "a segment of the span log cannot be read and is put aside");
        self.disk.rename(name, &format!("{name}.unreadable"))
    }

    fn first_block_offset(
        &self,
        file: &dyn DiskFile,
        number: u64,
        length: u64,
    ) -> io::Result<Option<u64>> {
        let binding = Binding { salt: self.identity.salt, segment: number };
        let mut walk = Walk::of_file(file, binding, length, 0, None);
        loop {
            match walk.step()? {
                Step::Block(_, block) => return Ok(Some(block.segment_first)),
                Step::Damaged { .. } => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// A segment that another one follows: all of its records were acknowledged.
    fn inner_segment(&mut self, found: &Found, limit: u64) -> io::Result<Segment> {
        let segment = self.new_segment(found);
        let is_in_tail = limit > self.tail_from;
        let mut walk = self.walk(found, &segment, Some(limit));
        loop {
            match walk.step()? {
                Step::Block(position, block) => {
                    add(&segment, position, &block);
                    if is_in_tail {
                        self.check(&segment, position, &block)?;
                    }
                }
                Step::Damaged { first, next, times } => self.hole((first, next), times),
                Step::End => break,
            }
        }
        drop_superseded(found, &segment, limit);
        segment.extent().next_offset = limit;
        if !is_in_tail {
            *segment.tail() = None;
        }
        Ok(segment)
    }

    /// The segment that was written last: its end may be torn. `None` where it holds nothing.
    fn last_segment(&mut self, found: &Found) -> io::Result<Option<Segment>> {
        let segment = self.new_segment(found);
        let mut walk = self.walk(found, &segment, None);
        let mut steps = Vec::new();
        loop {
            match walk.step()? {
                Step::End => break,
                step @ (Step::Block(..) | Step::Damaged { .. }) => steps.push(step),
            }
        }
        let mut end = (walk.position(), walk.expected());
        while let Some(Step::Block(position, block)) = steps.last()
            && block.next_offset() > self.seen
            && !is_whole(&segment, *position, block)?
        {
            end = (*position, block.first_offset);
            self.findings.has_torn_tail = true;
            steps.pop();
        }
        for step in steps {
            match step {
                Step::Block(position, block) => {
                    add(&segment, position, &block);
                    self.check(&segment, position, &block)?;
                }
                Step::Damaged { first, next, times } => self.hole((first, next), times),
                Step::End => {}
            }
        }
        self.cut(found, &segment, end)
    }

    /// Cuts the last segment behind its last good block and makes what is left durable: it may
    /// have been written, but not synced, before the process was killed.
    fn cut(
        &mut self,
        found: &Found,
        segment: &Segment,
        end: (u64, u64),
    ) -> io::Result<Option<Segment>> {
        let (position, next) = end;
        self.findings.has_torn_tail |= has_bytes(found.file.as_ref(), position, found.length)?;
        let last_time = segment.extent().last_time;
        if self.seen > self.witness {
            self.miss(next, last_time);
        } else if next < self.witness {
            self.hole((next, self.witness), (last_time, UnixNanos::MAX));
        }
        let next = next.max(self.seen);
        if next == found.header.first_offset {
            self.disk.remove(&file_name(found.header.number))?;
            return Ok(None);
        }
        found.file.truncate(position)?;
        found.file.sync()?;
        let mut cut = self.new_segment(found);
        let mut extent = segment.extent().clone();
        extent.end = position;
        extent.next_offset = next;
        extent.disk_bytes = position;
        cut.take(extent, segment.tail().take());
        Ok(Some(cut))
    }

    /// What was read of the log and is not in it any more. Its offsets are not given again.
    fn miss(&mut self, next: u64, last_time: UnixNanos) {
        if next < self.seen {
            let damage = Damage::behind_the_end((next, self.seen), last_time);
            self.findings.damage.push(damage);
        }
    }

    /// The oldest records are gone with their file: a hole before the first that is kept.
    fn lose_front(&mut self, state: &mut State, first: u64) {
        let next = state.first();
        let first_time = state.segments.front().and_then(|segment| segment.extent().first_time);
        let last_time = first_time.unwrap_or(state.times.vouched());
        note_dropped(
            &mut state.dropped,
            DroppedRun { first, next, first_time: 0, last_time: last_time.0 },
        );
        let reason = "their file cannot be read";
        let times = (UnixNanos(0), last_time);
        self.findings.damage.push(Damage::new((first, next), times, reason));
    }

    fn new_segment(&self, found: &Found) -> Segment {
        let file = Arc::clone(&found.file);
        Segment::new(found.header, self.identity.salt, file, found.length)
    }

    fn walk<'f>(&self, found: &'f Found, segment: &Segment, limit: Option<u64>) -> Walk<'f> {
        let first = found.header.first_offset;
        Walk::of_file(found.file.as_ref(), segment.binding, found.length, first, limit)
    }

    fn hole(&mut self, offsets: (u64, u64), times: (UnixNanos, UnixNanos)) {
        self.findings.damage.push(Damage::new(offsets, times, NO_BLOCK));
    }

    /// Checks a block's sections, and puts those of the live tail into its index.
    fn check(&mut self, segment: &Segment, position: u64, block: &BlockHeader) -> io::Result<()> {
        let hasher = TraceHasher::new(self.identity.salt);
        for (number, place) in (0_u32..).zip(block.places(position)) {
            let stored = stored_bytes(segment.file.as_ref(), &place)?;
            let is_in_tail = place.next_offset() > self.tail_from;
            if !is_in_tail && is_intact(&place.entry, &stored) {
                continue;
            }
            match unpack(&place.entry, &stored) {
                Ok(batches) => {
                    let section = SectionRef {
                        first_offset: place.first_offset,
                        records: place.entry.records,
                        block_page: u32::try_from(position / PAGE).unwrap_or(u32::MAX),
                        section: number,
                    };
                    if let Some(tail) = segment.tail().as_mut() {
                        tail.add(section, hasher, &batches);
                    }
                }
                Err(reason) => {
                    let offsets = (place.first_offset, place.next_offset());
                    let times = (block.append_time, block.append_time);
                    self.findings.damage.push(Damage::new(offsets, times, reason));
                }
            }
        }
        Ok(())
    }
}

/// Cuts what an abandoned segment holds behind its end: it was never acknowledged, and its offsets
/// were given again. Where that fails, the next segment's first offset still bounds it.
fn drop_superseded(found: &Found, segment: &Segment, limit: u64) {
    let mut extent = segment.extent();
    let is_complete = extent.next_offset == limit;
    if is_complete && extent.end < found.length && found.file.truncate(extent.end).is_ok() {
        extent.disk_bytes = extent.end;
    }
}

fn add(segment: &Segment, position: u64, block: &BlockHeader) {
    let end = position.saturating_add(u64::from(block.block_bytes));
    let offsets = (block.first_offset, block.next_offset());
    segment.extent().add((position, end), offsets, block.append_time);
}

fn is_whole(segment: &Segment, position: u64, block: &BlockHeader) -> io::Result<bool> {
    for place in block.places(position) {
        if !is_intact(&place.entry, &stored_bytes(segment.file.as_ref(), &place)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether anything was written behind the end.
fn has_bytes(file: &dyn DiskFile, end: u64, length: u64) -> io::Result<bool> {
    let mut page = [0; PAGE_BYTES];
    if end >= length {
        return Ok(false);
    }
    let read = read_up_to(file, &mut page, end)?;
    Ok(page.get(..read).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)))
}
