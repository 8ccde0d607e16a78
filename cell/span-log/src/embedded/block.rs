//! The block: one group commit, as it lies in a segment. Pure: bytes in, bytes out.
//!
//! ```text
//! header (64 bytes, little-endian)
//!   magic "FLBK" | crc32c of place, header and table u32 | block bytes u32 | sections u32
//!   first offset u64 | append time u64 | records u32 | batches u32
//!   first offset of the segment u64 | 16 zeros
//! table: for each section
//!   stored bytes u32 | raw bytes u32 | records u32 | batches u32 | crc32c of the section u32
//! sections, then zeros up to a multiple of 4 KiB
//! ```
//!
//! A section holds whole batches: the length of each (u32), then their encoded forms one after the
//! other, as an LZ4 block (plain where LZ4 gains nothing: the sizes say so). It can be read, checked
//! and unpacked alone, so that a reader of one trace unpacks little.
//!
//! Blocks start at multiples of 4 KiB: no page with an acknowledged block is ever written again.
//! The header's checksum starts from the log's salt, the segment and the position: bytes of another
//! place, or bytes that a sender shaped like a block, are not one.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use proto::SpanBatch;
use trace_model::UnixNanos;

/// Blocks start and end at multiples of this.
pub(crate) const PAGE_BYTES: usize = 4_096;
/// The same, for positions.
pub(crate) const PAGE: u64 = PAGE_BYTES as u64;
/// Sections of a block at most: bounds what a header may ask a reader to fetch.
pub(crate) const SECTIONS_MAX: usize = 1_024;
/// Small batches are gathered into a section of about this many raw bytes.
pub(crate) const SECTION_BYTES: usize = 256 << 10;

const MAGIC: [u8; 4] = *b"FLBK";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 20;

/// What ties a block to its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// The log's secret: a sender cannot shape bytes that look like a block.
    pub(crate) salt: u64,
    /// The segment's number.
    pub(crate) segment: u64,
}

impl Binding {
    fn checksum_at(self, position: u64, covered: &[u8]) -> u32 {
        let seed = crc32c::crc32c(&self.salt.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &self.segment.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &position.to_le_bytes());
        crc32c::crc32c_append(seed, covered)
    }
}

/// What a block's table says of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionEntry {
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) records: u32,
    pub(crate) batches: u32,
    pub(crate) checksum: u32,
}

/// A block's header and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// First offset of the block's segment: any block that survives says where its segment began.
    pub(crate) segment_first: u64,
    pub(crate) block_bytes: u32,
    pub(crate) first_offset: u64,
    pub(crate) append_time: UnixNanos,
    pub(crate) records: u32,
    pub(crate) sections: Vec<SectionEntry>,
}

/// What a block is stamped with when it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) segment_first: u64,
    pub(crate) first_offset: u64,
    pub(crate) append_time: UnixNanos,
}

/// What bytes turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A good header.
    Header(BlockHeader),
    /// A header that may be good; so many bytes are needed to tell.
    Needs(usize),
    /// No header.
    Nothing,
}

/// A section, ready to be put into a block.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) entry: SectionEntry,
    pub(crate) stored: Vec<u8>,
}

/// Where a section lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectionPlace {
    pub(crate) entry: SectionEntry,
    /// Offset of its first record.
    pub(crate) first_offset: u64,
    /// Position in the segment file.
    pub(crate) position: u64,
}

impl SectionPlace {
    /// Offset after its last record.
    pub(crate) const fn next_offset(&self) -> u64 {
        self.first_offset.saturating_add(self.entry.records as u64)
    }
}

impl BlockHeader {
    /// Offset after the block's last record.
    pub(crate) const fn next_offset(&self) -> u64 {
        self.first_offset.saturating_add(self.records as u64)
    }

    /// Its sections, with the places they take when the block starts at `position`.
    pub(crate) fn places(&self, position: u64) -> Vec<SectionPlace> {
        let mut offset = self.first_offset;
        let mut at = position.saturating_add(header_bytes(self.sections.len()) as u64);
        let mut places = Vec::with_capacity(self.sections.len());
        for entry in &self.sections {
            places.push(SectionPlace { entry: *entry, first_offset: offset, position: at });
            offset = offset.saturating_add(u64::from(entry.records));
            at = at.saturating_add(u64::from(entry.stored_bytes));
        }
        places
    }

    /// Reads a header that starts `bytes` and is bound to `position`.
    pub(crate) fn parse(bytes: &[u8], binding: Binding, position: u64) -> Parsed {
        let Some(count) = section_count(bytes) else { return Parsed::Nothing };
        let needed = header_bytes(count);
        let Some(covered) = bytes.get(8..needed) else { return Parsed::Needs(needed) };
        if u32_at(bytes, 4) != binding.checksum_at(position, covered) {
            return Parsed::Nothing;
        }
        let table = bytes.get(HEADER_BYTES..needed).unwrap_or(&[]);
        let header = Self {
            segment_first: u64_at(bytes, 40),
            block_bytes: u32_at(bytes, 8),
            first_offset: u64_at(bytes, 16),
            append_time: UnixNanos(u64_at(bytes, 24)),
            records: u32_at(bytes, 32),
            sections: table.chunks_exact(ENTRY_BYTES).map(read_entry).collect(),
        };
        Parsed::Header(header)
    }
}

const fn header_bytes(sections: usize) -> usize {
    HEADER_BYTES + sections * ENTRY_BYTES
}

/// The number of sections that a plausible header names.
fn section_count(bytes: &[u8]) -> Option<usize> {
    let fixed = bytes.get(..HEADER_BYTES)?;
    let count = u32_at(fixed, 12) as usize;
    (fixed.starts_with(&MAGIC) && (1..=SECTIONS_MAX).contains(&count)).then_some(count)
}

fn read_entry(bytes: &[u8]) -> SectionEntry {
    SectionEntry {
        stored_bytes: u32_at(bytes, 0),
        raw_bytes: u32_at(bytes, 4),
        records: u32_at(bytes, 8),
        batches: u32_at(bytes, 12),
        checksum: u32_at(bytes, 16),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Lengths beyond 32 bits do not get here: batches are limited far below.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Section {
    /// Packs batches, in their order.
    pub(crate) fn pack(batches: &[Arc<SpanBatch>]) -> Self {
        match batches {
            [single] => pack(batches, single.encoded()),
            several => {
                let raw_bytes = several.iter().map(|batch| batch.encoded().len()).sum();
                let mut raw = Vec::with_capacity(raw_bytes);
                for batch in several {
                    raw.extend_from_slice(batch.encoded());
                }
                pack(several, &raw)
            }
        }
    }
}

/// What packing needs again and again: kept for each thread, so that a section costs one
/// allocation of its true size.
struct Packer {
    table: lz4_flex::block::CompressTable,
    output: Vec<u8>,
}

/// A larger output buffer is given back after use.
const OUTPUT_BYTES_KEPT: usize = 2 << 20;

thread_local! {
    static PACKER: RefCell<Packer> = RefCell::new(Packer {
        table: lz4_flex::block::CompressTable::large(),
        output: Vec::new(),
    });
}

impl Packer {
    /// The LZ4 block of the bytes, or `None` where it would not be smaller.
    fn compress(&mut self, raw: &[u8]) -> Option<&[u8]> {
        let size = lz4_flex::block::get_maximum_output_size(raw.len());
        if self.output.len() < size {
            self.output.resize(size, 0);
        }
        let Self { table, output } = self;
        let written = lz4_flex::block::compress_into_with_table(raw, output, table).ok()?;
        self.output.get(..written).filter(|packed| packed.len() < raw.len())
    }

    fn give_back(&mut self) {
        if self.output.len() > OUTPUT_BYTES_KEPT {
            self.output = Vec::new();
        }
    }
}

fn pack(batches: &[Arc<SpanBatch>], raw: &[u8]) -> Section {
    let mut stored = Vec::new();
    PACKER.with_borrow_mut(|packer| {
        let packed = packer.compress(raw).unwrap_or(raw);
        stored.reserve_exact(batches.len() * 4 + packed.len());
        for batch in batches {
            stored.extend_from_slice(&short(batch.encoded().len()).to_le_bytes());
        }
        stored.extend_from_slice(packed);
        packer.give_back();
    });
    let records = batches.iter().map(|batch| batch.traces().len()).sum();
    let entry = SectionEntry {
        stored_bytes: short(stored.len()),
        raw_bytes: short(raw.len()),
        records: short(records),
        batches: short(batches.len()),
        checksum: crc32c::crc32c(&stored),
    };
    Section { entry, stored }
}

/// Bytes of a block of these sections, padding included.
#[expect(single_use_lifetimes, reason = "an anonymous lifetime in `impl Trait` is unstable")]
pub(crate) fn block_bytes<'a>(sections: impl Iterator<Item = &'a Section>) -> u64 {
    let (count, data) = sections
        .fold((0, 0_u64), |(count, data), section| (count + 1, data + section.stored.len() as u64));
    (header_bytes(count) as u64).saturating_add(data).next_multiple_of(PAGE)
}

/// Writes a block that starts at `position` into `output`, which is emptied first.
#[expect(single_use_lifetimes, reason = "an anonymous lifetime in `impl Trait` is unstable")]
pub(crate) fn put_block<'a>(
    output: &mut Vec<u8>,
    sections: impl Iterator<Item = &'a Section> + Clone,
    binding: Binding,
    position: u64,
    stamp: Stamp,
) {
    let size = block_bytes(sections.clone());
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    let entries = || sections.clone().map(|section| section.entry);
    output.clear();
    output.reserve(length);
    output.extend_from_slice(&MAGIC);
    output.extend_from_slice(&[0; 4]);
    output.extend_from_slice(&short(length).to_le_bytes());
    output.extend_from_slice(&short(entries().count()).to_le_bytes());
    output.extend_from_slice(&stamp.first_offset.to_le_bytes());
    output.extend_from_slice(&stamp.append_time.0.to_le_bytes());
    let records: u32 = entries().map(|entry| entry.records).sum();
    let batches: u32 = entries().map(|entry| entry.batches).sum();
    output.extend_from_slice(&records.to_le_bytes());
    output.extend_from_slice(&batches.to_le_bytes());
    output.extend_from_slice(&stamp.segment_first.to_le_bytes());
    output.resize(HEADER_BYTES, 0);
    for SectionEntry { stored_bytes, raw_bytes, records, batches, checksum } in entries() {
        for field in [stored_bytes, raw_bytes, records, batches, checksum] {
            output.extend_from_slice(&field.to_le_bytes());
        }
    }
    let checksum = binding.checksum_at(position, output.get(8..).unwrap_or(&[]));
    if let Some(slot) = output.get_mut(4..8) {
        slot.copy_from_slice(&checksum.to_le_bytes());
    }
    for section in sections {
        output.extend_from_slice(&section.stored);
    }
    output.resize(length, 0);
}

/// Whether a section's stored bytes are those that were written.
pub(crate) fn is_intact(entry: &SectionEntry, stored: &[u8]) -> bool {
    stored.len() == entry.stored_bytes as usize && crc32c::crc32c(stored) == entry.checksum
}

/// Checks and unpacks a section; gives its batches, which share one buffer. The error is the
/// reason for the damage report.
pub(crate) fn unpack(entry: &SectionEntry, stored: &[u8]) -> Result<Vec<SpanBatch>, &'static str> {
    if !is_intact(entry, stored) {
        return Err("the checksum of a section does not fit");
    }
    let prefix = (entry.batches as usize).saturating_mul(4);
    let (lengths, packed) = stored.split_at_checked(prefix).ok_or("a section is cut short")?;
    let mut rest = unpack_bytes(packed, entry.raw_bytes as usize)?;
    let mut batches = Vec::with_capacity(entry.batches as usize);
    let mut records = 0_usize;
    for length in lengths.chunks_exact(4).map(|chunk| u32_at(chunk, 0) as usize) {
        if length > rest.len() {
            return Err("a batch is longer than its section");
        }
        let batch = SpanBatch::decode(rest.split_to(length));
        let batch = batch.map_err(|_| "a batch cannot be read")?;
        records = records.saturating_add(batch.traces().len());
        batches.push(batch);
    }
    if records != entry.records as usize {
        return Err("a section holds another number of records than its table says");
    }
    Ok(batches)
}

fn unpack_bytes(packed: &[u8], raw_bytes: usize) -> Result<Bytes, &'static str> {
    if packed.len() == raw_bytes {
        return Ok(Bytes::copy_from_slice(packed));
    }
    let raw = lz4_flex::block::decompress(packed, raw_bytes);
    let raw = raw.map_err(|_| "a section cannot be unpacked")?;
    if raw.len() != raw_bytes {
        return Err("a section unpacks to another size");
    }
    Ok(Bytes::from(raw))
}

#[cfg(test)]
mod tests;
