//! A segment: one file of blocks, the table that finds an offset or a time in it, and the walk over
//! its blocks that never steps over damage in silence.
//!
//! ```text
//! segment-<number, 10 digits>.log, little-endian:
//!   at 0: magic "FSPLOGSG" | crc32c of what follows u32 | version u32
//!         incarnation u64 | number u64 | first offset u64
//!   from 4096: blocks
//! ```
//!
//! The first offset of a segment bounds the one before it: what an abandoned segment holds at or
//! behind that offset was never acknowledged and does not count.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trace_model::UnixNanos;

use super::block::{Binding, BlockHeader, PAGE, PAGE_BYTES, Parsed};
use super::disk::{DiskFile, read_up_to};
use super::tail_index::TailIndex;

const MAGIC: [u8; 8] = *b"FSPLOGSG";
pub(crate) const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
/// A mark is set every so many bytes: an offset is found within one read of about this size.
const MARK_BYTES: u64 = 64 << 10;
/// Bytes read at once while walking.
const WINDOW_BYTES: usize = 64 << 10;
/// Bytes read at once while looking for the next block behind damage.
const SCAN_BYTES: usize = 1 << 20;

/// The name of a segment's file.
pub(crate) fn file_name(number: u64) -> String {
    format!("segment-{number:010}.log")
}

/// The number of a segment, by its file's name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    digits.parse().ok()
}

/// What a segment's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
    pub(crate) first_offset: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = VERSION.to_le_bytes().to_vec();
        for field in [self.incarnation, self.number, self.first_offset] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        head.extend_from_slice(&body);
        head
    }

    /// A good head, the version of a newer release's, or `None` where it cannot be read: the blocks
    /// behind it carry all that is needed.
    pub(crate) fn read(file: &dyn DiskFile) -> io::Result<Option<Result<Self, u32>>> {
        let mut head = [0; HEADER_BYTES];
        read_up_to(file, &mut head, 0)?;
        Ok(decode_header(&head))
    }
}

fn decode_header(head: &[u8; HEADER_BYTES]) -> Option<Result<SegmentHeader, u32>> {
    let (checksum, body) = head.strip_prefix(&MAGIC)?.split_first_chunk()?;
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return None;
    }
    let (version, rest) = body.split_first_chunk()?;
    let version = u32::from_le_bytes(*version);
    if version > VERSION {
        return Some(Err(version));
    }
    let (incarnation, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (first_offset, _) = rest.split_first_chunk()?;
    Some(Ok(SegmentHeader {
        incarnation: u64::from_le_bytes(*incarnation),
        number: u64::from_le_bytes(*number),
        first_offset: u64::from_le_bytes(*first_offset),
    }))
}

/// A block start that is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) offset: u64,
    pub(crate) time: UnixNanos,
    pub(crate) position: u64,
}

/// How far a segment goes.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Position behind the last durable block.
    pub(crate) end: u64,
    /// Offset behind the last record; beyond the last block where its end is damaged.
    pub(crate) next_offset: u64,
    /// Append time of the first block.
    pub(crate) first_time: Option<UnixNanos>,
    /// Append time of the last block.
    pub(crate) last_time: UnixNanos,
    /// Bytes that the file takes on disk.
    pub(crate) disk_bytes: u64,
    marks: Vec<Mark>,
}

impl Extent {
    fn new(first_offset: u64, disk_bytes: u64) -> Self {
        Self {
            end: PAGE,
            next_offset: first_offset,
            first_time: None,
            last_time: UnixNanos(0),
            disk_bytes,
            marks: Vec::new(),
        }
    }

    /// Notes a block that is durable.
    pub(crate) fn add(&mut self, positions: (u64, u64), offsets: (u64, u64), time: UnixNanos) {
        let (position, end) = positions;
        let (offset, next_offset) = offsets;
        let last_mark = self.marks.last().map_or(0, |mark| mark.position);
        if self.marks.is_empty() || position.saturating_sub(last_mark) >= MARK_BYTES {
            self.marks.push(Mark { offset, time, position });
        }
        self.end = end;
        self.next_offset = next_offset;
        self.first_time.get_or_insert(time);
        self.last_time = time;
    }

    /// The last mark at or below the offset.
    pub(crate) fn mark_of_offset(&self, offset: u64) -> Option<Mark> {
        let place = self.marks.partition_point(|mark| mark.offset <= offset);
        self.marks.get(place.checked_sub(1)?).copied()
    }

    /// The last mark before the time.
    pub(crate) fn mark_before(&self, time: UnixNanos) -> Option<Mark> {
        let place = self.marks.partition_point(|mark| mark.time < time);
        self.marks.get(place.checked_sub(1)?).copied()
    }
}

/// A segment that is open.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) first_offset: u64,
    pub(crate) binding: Binding,
    pub(crate) file: Arc<dyn DiskFile>,
    extent: Mutex<Extent>,
    tail: Mutex<Option<TailIndex>>,
}

impl Segment {
    pub(crate) fn new(
        header: SegmentHeader,
        salt: u64,
        file: Arc<dyn DiskFile>,
        disk_bytes: u64,
    ) -> Self {
        let SegmentHeader { number, first_offset, .. } = header;
        Self {
            number,
            first_offset,
            binding: Binding { salt, segment: number },
            file,
            extent: Mutex::new(Extent::new(first_offset, disk_bytes)),
            tail: Mutex::new(Some(TailIndex::default())),
        }
    }

    pub(crate) fn extent(&self) -> MutexGuard<'_, Extent> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the live tail; `None` once storage-writer is past this segment.
    pub(crate) fn tail(&self) -> MutexGuard<'_, Option<TailIndex>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what another handle of the same file has found.
    pub(crate) fn take(&mut self, extent: Extent, tail: Option<TailIndex>) {
        self.extent = Mutex::new(extent);
        self.tail = Mutex::new(tail);
    }

    /// Walks the durable blocks from a mark on.
    pub(crate) fn walk(&self, from: Mark) -> Walk<'_> {
        let (limit, next_offset) = {
            let extent = self.extent();
            (extent.end, extent.next_offset)
        };
        Walk {
            window: Window::new(self.file.as_ref(), limit),
            binding: self.binding,
            position: from.position,
            expected: from.offset,
            end_offset: Some(next_offset),
            last_time: from.time,
        }
    }

    /// The mark of the segment's first block.
    pub(crate) fn start(&self) -> Mark {
        Mark { offset: self.first_offset, time: UnixNanos(0), position: PAGE }
    }
}

/// Reads a file forward through a buffer.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) const fn new(file: &'a dyn DiskFile, limit: u64) -> Self {
        Self { file, limit, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `position` on, `length` where the file has them; a read brings `chunk`.
    pub(crate) fn get(&mut self, position: u64, length: usize, chunk: usize) -> io::Result<&[u8]> {
        let buffered = self.start.saturating_add(self.bytes.len() as u64);
        let wanted = position.saturating_add(length as u64).min(self.limit);
        if position < self.start || wanted > buffered {
            let room = self.limit.saturating_sub(position);
            let size = usize::try_from(room).unwrap_or(usize::MAX).min(length.max(chunk));
            self.bytes.resize(size, 0);
            self.start = position;
            let read = read_up_to(self.file, &mut self.bytes, position)?;
            self.bytes.truncate(read);
        }
        let from = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let to = from.saturating_add(length).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or(&[]))
    }
}

/// What a walk met.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A block whose header is good.
    Block(u64, BlockHeader),
    /// Records that cannot be found, between these append times.
    Damaged { first: u64, next: u64, times: (UnixNanos, UnixNanos) },
    /// Nothing more.
    End,
}

/// A walk over the headers of a segment's blocks.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    window: Window<'a>,
    binding: Binding,
    position: u64,
    expected: u64,
    /// Where the segment's records end, if known.
    end_offset: Option<u64>,
    last_time: UnixNanos,
}

impl<'a> Walk<'a> {
    /// A walk over a file of which nothing is known yet but, perhaps, where its records end.
    pub(crate) const fn of_file(
        file: &'a dyn DiskFile,
        binding: Binding,
        length: u64,
        expected: u64,
        end_offset: Option<u64>,
    ) -> Self {
        let window = Window::new(file, length);
        Self { window, binding, position: PAGE, expected, end_offset, last_time: UnixNanos(0) }
    }

    /// Where the walk stands.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// The offset that the walk expects next.
    pub(crate) const fn expected(&self) -> u64 {
        self.expected
    }

    /// The next block, or what is in its place.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        if self.is_at_end() {
            return Ok(self.missing_end());
        }
        if let Some(block) = self.header_at(self.position)?
            && self.fits(&block)
        {
            return Ok(self.meet(self.position, block));
        }
        match self.find_behind()? {
            Some((position, block)) => Ok(self.meet(position, block)),
            None => Ok(self.missing_end()),
        }
    }

    fn is_at_end(&self) -> bool {
        let is_complete = self.end_offset.is_some_and(|end| self.expected >= end);
        is_complete || self.position >= self.window.limit
    }

    /// Whether a block belongs here or later. What lies at or behind the next segment's first
    /// offset was never acknowledged.
    fn fits(&self, block: &BlockHeader) -> bool {
        let is_within = self.end_offset.is_none_or(|end| block.next_offset() <= end);
        let end = self.position.saturating_add(u64::from(block.block_bytes));
        block.first_offset >= self.expected
            && is_within
            && u64::from(block.block_bytes) >= PAGE
            && end <= self.window.limit
    }

    /// Takes a block, or the hole before it.
    fn meet(&mut self, position: u64, block: BlockHeader) -> Step {
        let first = self.expected;
        self.position = position;
        if block.first_offset > first {
            self.expected = block.first_offset;
            let times = (self.last_time, block.append_time);
            return Step::Damaged { first, next: block.first_offset, times };
        }
        self.expected = block.next_offset();
        self.position = position.saturating_add(u64::from(block.block_bytes));
        self.last_time = block.append_time;
        Step::Block(position, block)
    }

    /// The end, or the records that should have come before it.
    fn missing_end(&mut self) -> Step {
        let first = self.expected;
        match self.end_offset {
            Some(end) if first < end => {
                self.expected = end;
                Step::Damaged { first, next: end, times: (self.last_time, UnixNanos::MAX) }
            }
            _ => Step::End,
        }
    }

    fn header_at(&mut self, position: u64) -> io::Result<Option<BlockHeader>> {
        let mut needed = PAGE_BYTES;
        loop {
            let bytes = self.window.get(position, needed, WINDOW_BYTES)?;
            let have = bytes.len();
            match BlockHeader::parse(bytes, self.binding, position) {
                Parsed::Header(header) => return Ok(Some(header)),
                Parsed::Needs(more) if have >= needed && more > needed => needed = more,
                Parsed::Needs(_) | Parsed::Nothing => return Ok(None),
            }
        }
    }

    /// The next block that fits, page by page.
    fn find_behind(&mut self) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut position = self.position.saturating_add(PAGE);
        while position < self.window.limit {
            // Brings a large piece at once; the header is then read from it.
            self.window.get(position, PAGE_BYTES, SCAN_BYTES)?;
            if let Some(block) = self.header_at(position)?
                && self.fits(&block)
            {
                return Ok(Some((position, block)));
            }
            position = position.saturating_add(PAGE);
        }
        Ok(None)
    }
}
