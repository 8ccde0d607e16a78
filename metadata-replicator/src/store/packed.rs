//! A file whose records were compressed: where a byte of its plain form lies, and how it is read.
//!
//! ```text
//! header: as of a plain file, version 2
//! block:  offset in the plain form u32 | plain bytes u32 | packed bytes u32
//!         | crc32c u32 of the three and of the packed bytes | packed bytes (zstd)
//! end:    a block with no bytes, at the end of the plain form
//! ```
//!
//! A file is packed when it is compacted. A block ends with a record, so that damage to it costs its
//! own records; offsets of records are those of the plain form, which whoever reads a file sees.

use std::io;
use std::sync::Arc;

use super::disk::{DiskFile, read_range};
use super::segment::{HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEAD_BYTES};

/// A block is closed when its plain form reaches this: a row that is read alone costs the block.
const BLOCK_BYTES: usize = 32 << 10;
/// The longest plain form: a block below its limit and the longest record.
const PLAIN_BYTES_MAX: usize = BLOCK_BYTES + RECORD_HEAD_BYTES + PAYLOAD_BYTES_MAX;
/// The longest packed form: zstd adds a byte per 256 to what it cannot shorten, and a frame.
const PACKED_BYTES_MAX: usize = PLAIN_BYTES_MAX + (PLAIN_BYTES_MAX >> 7) + 512;
const BLOCK_HEAD_BYTES: usize = 16;
/// zstd's own default: ids and times shorten little, names and small numbers do at any level.
const LEVEL: i32 = 3;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// Offset in the plain form.
    plain: u64,
    plain_bytes: usize,
    /// Offset of the packed bytes in the file.
    packed: u64,
    packed_bytes: usize,
}

/// An open file, and where its blocks lie.
#[derive(Debug)]
pub(super) struct Body {
    file: Arc<dyn DiskFile>,
    /// `None`: the file is plain.
    blocks: Option<Arc<Blocks>>,
}

impl Body {
    pub(super) const fn of(file: Arc<dyn DiskFile>, blocks: Option<Arc<Blocks>>) -> Self {
        Self { file, blocks }
    }

    /// Reads a range of the plain form; a file that ends before it gives what there is.
    pub(super) fn read_range(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let Some(blocks) = &self.blocks else {
            return Ok(read_range(self.file.as_ref(), offset, length)?.bytes);
        };
        let end = offset.saturating_add(length as u64);
        let mut output = Vec::new();
        let first = blocks.0.partition_point(|block| block.end() <= offset);
        for block in blocks.0.iter().skip(first).take_while(|block| block.plain < end) {
            // What lies between two blocks is damage: no record begins with a zero.
            let reached = offset.saturating_add(output.len() as u64);
            let gap = usize::try_from(block.plain.saturating_sub(reached)).unwrap_or(0);
            output.resize(output.len().saturating_add(gap), 0);
            let plain = self.block(block)?;
            let skip = usize::try_from(offset.saturating_sub(block.plain)).unwrap_or(usize::MAX);
            output.extend_from_slice(plain.get(skip..).unwrap_or_default());
        }
        output.truncate(length);
        Ok(output)
    }

    fn block(&self, block: &Block) -> io::Result<Vec<u8>> {
        let packed = read_range(self.file.as_ref(), block.packed, block.packed_bytes)?.bytes;
        let plain = zstd::bulk::decompress(&packed, block.plain_bytes).unwrap_or_default();
        Ok(fitted(plain, block.plain_bytes))
    }
}

impl Block {
    const fn end(&self) -> u64 {
        self.plain.saturating_add(self.plain_bytes as u64)
    }
}

/// Bytes that are not those of the block are none: the records' checksums would say so too.
fn fitted(plain: Vec<u8>, bytes: usize) -> Vec<u8> {
    if plain.len() == bytes { plain } else { vec![0; bytes] }
}

/// The blocks of a file, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks(Vec<Block>);

/// Packs records into the bytes of a file.
#[derive(Debug)]
pub(super) struct Packer {
    output: Vec<u8>,
    /// The plain form of the block that is open.
    open: Vec<u8>,
    /// Bytes of the plain form before it.
    closed: usize,
    blocks: Vec<Block>,
}

impl Packer {
    /// A file with this header.
    pub(super) fn new(header: Vec<u8>) -> Self {
        let closed = header.len();
        Self { output: header, open: Vec::new(), closed, blocks: Vec::new() }
    }

    /// The offset that the next record gets in the plain form.
    pub(super) const fn plain_bytes(&self) -> usize {
        self.closed.saturating_add(self.open.len())
    }

    /// Adds a record by `write`, which appends its bytes.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        write(&mut self.open);
        if self.open.len() >= BLOCK_BYTES { self.close() } else { Ok(()) }
    }

    /// The file's bytes, and where its blocks lie in them.
    pub(super) fn finish(mut self) -> io::Result<(Vec<u8>, Blocks)> {
        if !self.open.is_empty() {
            self.close()?;
        }
        self.put_block(&[])?;
        Ok((self.output, Blocks(self.blocks)))
    }

    fn close(&mut self) -> io::Result<()> {
        let packed = zstd::bulk::compress(&self.open, LEVEL)?;
        let block = Block {
            plain: self.closed as u64,
            plain_bytes: self.open.len(),
            packed: self.output.len().saturating_add(BLOCK_HEAD_BYTES) as u64,
            packed_bytes: packed.len(),
        };
        self.put_block(&packed)?;
        self.blocks.push(block);
        self.closed = self.plain_bytes();
        self.open.clear();
        Ok(())
    }

    fn put_block(&mut self, packed: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a packed file");
        let mut head = Vec::with_capacity(BLOCK_HEAD_BYTES);
        for word in [self.closed, self.open.len(), packed.len()] {
            head.extend_from_slice(&u32::try_from(word).map_err(too_long)?.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), packed);
        self.output.extend_from_slice(&head);
        self.output.extend_from_slice(&crc.to_le_bytes());
        self.output.extend_from_slice(packed);
        Ok(())
    }
}

/// The plain form of a packed file's bytes. Zeros stand where a block is damaged or missing, and
/// behind a file without its end, so that whoever scans it meets damage there.
pub(super) fn unpack(bytes: &[u8]) -> (Vec<u8>, Blocks) {
    let mut plain = bytes.get(..HEADER_BYTES).unwrap_or_default().to_vec();
    let mut blocks = Vec::new();
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let Some(block) = block_at(bytes, at).filter(|block| block.plain >= plain.len() as u64)
        else {
            at = at.saturating_add(1);
            continue;
        };
        plain.resize(usize::try_from(block.plain).unwrap_or(usize::MAX), 0);
        if block.plain_bytes == 0 {
            return (plain, Blocks(blocks));
        }
        at = at.saturating_add(BLOCK_HEAD_BYTES).saturating_add(block.packed_bytes);
        let packed = bytes.get(at.saturating_sub(block.packed_bytes)..at).unwrap_or_default();
        let opened = zstd::bulk::decompress(packed, block.plain_bytes).unwrap_or_default();
        plain.extend_from_slice(&fitted(opened, block.plain_bytes));
        blocks.push(block);
    }
    plain.push(0);
    (plain, Blocks(blocks))
}

/// The block at an offset of the file, if a whole and good one lies there.
fn block_at(bytes: &[u8], at: usize) -> Option<Block> {
    let (head, behind) = bytes.get(at..)?.split_first_chunk::<BLOCK_HEAD_BYTES>()?;
    let word = |place: usize| -> Option<usize> {
        let word = head.get(place..place.checked_add(4)?)?;
        word.try_into().ok().map(u32::from_le_bytes).and_then(|word| usize::try_from(word).ok())
    };
    let (plain, plain_bytes, packed_bytes) = (word(0)?, word(4)?, word(8)?);
    if plain_bytes > PLAIN_BYTES_MAX || packed_bytes > PACKED_BYTES_MAX {
        return None;
    }
    let packed = behind.get(..packed_bytes)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(head.get(..12)?), packed);
    let start = at.checked_add(BLOCK_HEAD_BYTES)?;
    (word(12)? == usize::try_from(crc).ok()?).then_some(Block {
        plain: plain as u64,
        plain_bytes,
        packed: start as u64,
        packed_bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::segment::{Scan, Scanned, put_record};
    use super::*;

    /// A file of records that shorten badly, its plain form and its bytes.
    fn file_of(records: u64, bytes: usize) -> (Vec<u8>, Vec<u8>, Blocks) {
        let header = vec![7; HEADER_BYTES];
        let mut plain = header.clone();
        let mut packer = Packer::new(header);
        for sequence in 0..records {
            let noise = |place: usize| (place as u64).wrapping_mul(sequence | 1).to_le_bytes()[0];
            let payload: Vec<u8> = (1..=bytes).map(noise).collect();
            assert_eq!(packer.plain_bytes(), plain.len());
            put_record(&mut plain, sequence, &payload);
            packer.put(|output| put_record(output, sequence, &payload)).unwrap();
        }
        let (bytes, blocks) = packer.finish().unwrap();
        (plain, bytes, blocks)
    }

    fn body_of(bytes: &[u8], blocks: Blocks) -> Body {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Body::of(Arc::new(file), Some(Arc::new(blocks)))
    }

    fn met(plain: &[u8]) -> (usize, usize) {
        let (mut good, mut bad) = (0, 0);
        for scanned in Scan::new(plain, HEADER_BYTES, 0) {
            match scanned {
                Scanned::Record(_) => good += 1,
                Scanned::Damaged { .. } | Scanned::Torn { .. } => bad += 1,
            }
        }
        (good, bad)
    }

    #[test]
    fn what_was_packed_comes_back_whole_and_in_any_range() {
        let (plain, bytes, blocks) = file_of(300, 700);
        assert!(bytes.len() < plain.len() && blocks.0.len() > 4, "{} bytes", bytes.len());
        assert_eq!(unpack(&bytes), (plain.clone(), Blocks(blocks.0.clone())));
        let body = body_of(&bytes, blocks);
        let places = [HEADER_BYTES, 50, BLOCK_BYTES, BLOCK_BYTES * 2 + 7, plain.len() - 9];
        for (start, length) in places.into_iter().zip([1, 40_000, 716, 90_000, 500]) {
            let start = start.max(HEADER_BYTES);
            let end = plain.len().min(start + length);
            assert_eq!(body.read_range(start as u64, length).unwrap(), plain[start..end]);
        }
        assert_eq!(body.read_range(plain.len() as u64, 10).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn a_file_without_records_is_whole() {
        let (plain, bytes, blocks) = file_of(0, 0);
        assert_eq!(unpack(&bytes), (plain, blocks));
    }

    #[test]
    fn a_flipped_bit_costs_the_records_of_its_block_and_is_met() {
        let (_, bytes, blocks) = file_of(160, 800);
        let per_block = BLOCK_BYTES.div_ceil(800 + RECORD_HEAD_BYTES);
        for place in (HEADER_BYTES..bytes.len()).step_by(97) {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            let (plain, found) = unpack(&bytes);
            let (good, bad) = met(&plain);
            assert!(bad == 1 && good >= 160 - per_block, "place {place}: {good} good, {bad} bad");
            let lost = blocks.0.len() - found.0.len();
            assert!(lost == 1 || place >= bytes.len() - BLOCK_HEAD_BYTES, "place {place}");
            let body = body_of(&bytes, found);
            let read = body.read_range(HEADER_BYTES as u64, plain.len()).unwrap();
            assert!(plain[HEADER_BYTES..].starts_with(&read), "place {place}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_not_whole() {
        let (_, bytes, _) = file_of(100, 800);
        for cut in (HEADER_BYTES..bytes.len()).rev().step_by(61) {
            assert_eq!(met(&unpack(&bytes[..cut]).0).1, 1, "cut at {cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_plain_form_and_no_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
        ) {
            let (plain, blocks) = unpack(&bytes);
            proptest::prop_assert!(blocks.0.is_empty() && plain.len() <= bytes.len() + 1);
        }
    }
}
