//! The writer thread: takes everything that waits, writes it as one block, syncs, then acknowledges
//! all of it. The only place that appends.
//!
//! After a failed write or sync nothing is known about the pages written since the last good sync,
//! and a later sync would prove nothing (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020). The segment is abandoned at its last good end, its group refused,
//! and the next group probes the disk with a new segment.

use std::io;
use std::sync::Arc;

use proto::{LoggedBatch, SpanBatch};
use trace_model::{LogRange, UnixNanos};

use super::block::{PAGE, SECTION_BYTES, Section, Stamp, block_bytes, put_block};
use super::disk::write_all_at;
use super::queue::{Append, Work};
use super::retention::make_room;
use super::segment::{Segment, SegmentHeader, file_name};
use super::shared::{PARTITION, Progress, Shared, log_error};
use super::tail_index::SectionRef;
use crate::port::{Appended, LogError};

/// A buffer larger than this is given back after its group.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// The writer.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_number: u64,
    buffer: Vec<u8>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    position: u64,
    capacity: u64,
}

/// A section with the batches in it.
#[derive(Debug)]
struct Packed {
    section: Section,
    batches: Vec<Arc<SpanBatch>>,
}

/// A block that is durable.
#[derive(Debug)]
struct Written {
    segment: Arc<Segment>,
    position: u64,
    first_offset: u64,
    append_time: UnixNanos,
}

/// Refuses what waits when the writer is gone, for whatever reason: no sender waits for ever.
struct RefuseTheRest(Arc<Shared>);

impl Drop for RefuseTheRest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.note_dead("span-log-writer");
        }
        self.0.queue.abort();
    }
}

impl Writer {
    pub(crate) const fn new(shared: Arc<Shared>, next_number: u64) -> Self {
        Self { shared, active: None, next_number, buffer: Vec::new() }
    }

    /// Works until the queue is closed and empty, then seals the active segment.
    pub(crate) fn run(mut self) {
        let _guard = RefuseTheRest(Arc::clone(&self.shared));
        while let Some(work) = self.shared.queue.take() {
            match work {
                Work::Commit(group) => self.commit(group),
                Work::Roll(waiters) => {
                    self.seal();
                    for waiter in waiters {
                        waiter.send(self.next_number).ok();
                    }
                }
            }
        }
        self.seal();
    }

    /// Writes a group and answers its senders.
    fn commit(&mut self, group: Vec<Append>) {
        let bytes: usize = group.iter().map(|append| append.batch.encoded().len()).sum();
        let (packed, replies) = pack(group);
        match self.write(&packed) {
            Ok(written) => {
                let appended = self.publish(&written, &packed);
                self.count(bytes, &appended);
                for (reply, appended) in replies.into_iter().zip(appended) {
                    reply.send(Ok(appended)).ok();
                }
            }
            Err(error) => {
                tracing::warn!(%error, batches = replies.len(), "a group commit was refused");
                for reply in replies {
                    reply.send(Err(error.clone())).ok();
                }
            }
        }
        let waiting = self.shared.queue.release(bytes);
        self.shared.metrics.queue_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
    }

    /// Writes one block and makes it durable, or leaves nothing that counts.
    fn write(&mut self, packed: &[Packed]) -> Result<Written, LogError> {
        let size = block_bytes(packed.iter().map(|packed| &packed.section));
        self.ensure_room(size)?;
        let Some(active) = &self.active else { return Err(LogError::Full) };
        let (segment, position) = (Arc::clone(&active.segment), active.position);
        let (first_offset, append_time) = {
            let now = self.shared.clock.now();
            let mut state = self.shared.state();
            (state.next, state.times.begin(now))
        };
        let sections = packed.iter().map(|packed| &packed.section);
        let stamp = Stamp { segment_first: segment.first_offset, first_offset, append_time };
        put_block(&mut self.buffer, sections, segment.binding, position, stamp);
        match self.write_durably(&segment, position) {
            Ok(()) => Ok(Written { segment, position, first_offset, append_time }),
            Err(error) => {
                self.shared.state().times.abandoned();
                self.abandon(&error);
                Err(log_error(&error))
            }
        }
    }

    fn write_durably(&self, segment: &Segment, position: u64) -> io::Result<()> {
        write_all_at(segment.file.as_ref(), &self.buffer, position)?;
        let before = self.shared.clock.monotonic();
        segment.file.sync()?;
        let took = self.shared.clock.monotonic().saturating_sub(before);
        self.shared.metrics.sync_seconds.observe(took.as_secs_f64());
        Ok(())
    }

    /// Shows a durable block to readers: first where it lies, then that it is there.
    fn publish(&mut self, written: &Written, packed: &[Packed]) -> Vec<Appended> {
        let Written { segment, position, first_offset, append_time } = written;
        let mut offset = *first_offset;
        let mut logged = Vec::new();
        for (place, packed) in (0_u32..).zip(packed) {
            let section = SectionRef {
                first_offset: offset,
                records: packed.section.entry.records,
                block_page: u32::try_from(position / PAGE).unwrap_or(u32::MAX),
                section: place,
            };
            let batches = packed.batches.iter().map(Arc::as_ref);
            if let Some(tail) = segment.tail().as_mut() {
                tail.add(section, self.shared.hasher, batches);
            }
            for batch in &packed.batches {
                let next = offset.saturating_add(batch.traces().len() as u64);
                logged.push(self.logged(batch, (offset, next), *append_time));
                offset = next;
            }
        }
        let size = self.buffer.len() as u64;
        let end = position.saturating_add(size);
        segment.extent().add((*position, end), (*first_offset, offset), *append_time);
        if let Some(active) = &mut self.active {
            active.position = end;
        }
        self.shared.metrics.written_bytes.inc_by(size);
        self.announce(logged, offset, *append_time)
    }

    fn logged(
        &self,
        batch: &Arc<SpanBatch>,
        offsets: (u64, u64),
        append_time: UnixNanos,
    ) -> LoggedBatch {
        let (first, next) = offsets;
        LoggedBatch {
            incarnation: self.shared.identity.log.incarnation,
            range: LogRange { partition: PARTITION, first, next },
            append_time,
            batch: Arc::clone(batch),
        }
    }

    /// Moves the end, feeds the cache and wakes who waits.
    fn announce(&self, logged: Vec<LoggedBatch>, next: u64, time: UnixNanos) -> Vec<Appended> {
        {
            let mut state = self.shared.state();
            state.next = next;
            state.times.published(time);
        }
        let answers = logged
            .iter()
            .map(|logged| Appended { ranges: vec![logged.range], append_time: time })
            .collect();
        let mut cache = self.shared.cache();
        for logged in logged {
            cache.insert(logged);
        }
        drop(cache);
        self.shared.ends.send_replace(Progress { next, is_closed: false });
        answers
    }

    fn count(&self, bytes: usize, appended: &[Appended]) {
        let metrics = &self.shared.metrics;
        let records = appended.iter().flat_map(|appended| &appended.ranges);
        let records: u64 = records.map(|range| range.next.saturating_sub(range.first)).sum();
        metrics.appended_bytes.inc_by(bytes as u64);
        metrics.appended_batches.inc_by(appended.len() as u64);
        metrics.appended_records.inc_by(records);
        let batches = u32::try_from(appended.len()).unwrap_or(u32::MAX);
        metrics.group_batches.observe(f64::from(batches));
    }

    /// Makes sure that the active segment has room for a block.
    fn ensure_room(&mut self, size: u64) -> Result<(), LogError> {
        let has_room = |active: &Active| active.position.saturating_add(size) <= active.capacity;
        if self.active.as_ref().is_some_and(has_room) {
            return Ok(());
        }
        self.seal();
        let capacity = self.shared.config.segment_bytes.max(PAGE.saturating_add(size));
        make_room(&self.shared, capacity)?;
        let created = self.create_segment(capacity);
        self.active = Some(created.map_err(|error| log_error(&error))?);
        Ok(())
    }

    fn create_segment(&mut self, capacity: u64) -> io::Result<Active> {
        let shared = &self.shared;
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        let first_offset = shared.state().next;
        let incarnation = shared.identity.log.incarnation;
        let header = SegmentHeader { incarnation, number, first_offset };
        let name = file_name(number);
        let created = shared.disk.create(&name).and_then(|file| {
            file.allocate(capacity)?;
            write_all_at(file.as_ref(), &header.encode(), 0)?;
            file.sync()?;
            shared.disk.sync_directory()?;
            Ok(file)
        });
        match created {
            Ok(file) => {
                let segment = Segment::new(header, shared.identity.salt, file, capacity);
                let segment = Arc::new(segment);
                shared.state().segments.push_back(Arc::clone(&segment));
                Ok(Active { segment, position: PAGE, capacity })
            }
            Err(error) => {
                // What is left of it holds no block: an opening removes it.
                shared.disk.remove(&name).ok();
                Err(error)
            }
        }
    }

    /// Ends the active segment at its last block and gives back the room behind it.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        if let Some(tail) = active.segment.tail().as_mut() {
            tail.shrink();
        }
        if let Err(error) = end_segment(&active) {
            let segment = active.segment.number;
            tracing::warn!(%error, segment, "a sealed segment keeps its unused room");
        }
    }

    /// Leaves the active segment after a failed write or sync. Cutting it drops the pages that
    /// cannot be trusted; where that fails too, the next segment's first offset bounds it.
    fn abandon(&mut self, error: &io::Error) {
        let Some(active) = self.active.take() else { return };
        let segment = active.segment.number;
        tracing::error!(%error, segment, "the span log's disk failed; the segment is abandoned");
        self.shared.metrics.abandoned_segments.inc();
        if let Err(error) = end_segment(&active) {
            tracing::warn!(%error, segment, "the abandoned segment could not be cut");
        }
    }
}

fn end_segment(active: &Active) -> io::Result<()> {
    active.segment.file.truncate(active.position)?;
    active.segment.extent().disk_bytes = active.position;
    active.segment.file.sync()
}

type Reply = tokio::sync::oneshot::Sender<Result<Appended, LogError>>;

/// Sections in the order of the batches: one for each batch that its sender packed, and one for
/// each run of small ones.
fn pack(group: Vec<Append>) -> (Vec<Packed>, Vec<Reply>) {
    let mut packed = Vec::new();
    let mut replies = Vec::with_capacity(group.len());
    let mut small: Vec<Arc<SpanBatch>> = Vec::new();
    let mut small_bytes = 0_usize;
    for Append { batch, section, reply } in group {
        replies.push(reply);
        let bytes = batch.encoded().len();
        if section.is_some() || small_bytes.saturating_add(bytes) > SECTION_BYTES {
            pack_small(&mut packed, &mut small);
            small_bytes = 0;
        }
        match section {
            Some(section) => packed.push(Packed { section, batches: vec![batch] }),
            None => {
                small_bytes = small_bytes.saturating_add(bytes);
                small.push(batch);
            }
        }
    }
    pack_small(&mut packed, &mut small);
    (packed, replies)
}

fn pack_small(packed: &mut Vec<Packed>, small: &mut Vec<Arc<SpanBatch>>) {
    if !small.is_empty() {
        let batches = std::mem::take(small);
        packed.push(Packed { section: Section::pack(&batches), batches });
    }
}
