//! One file of records: its format, and how a file that was cut or damaged is read.
//!
//! ```text
//! header: magic "FSPNMETA" | version u32 | flags u32 | epoch millis u64 | epoch random u64
//!         | first sequence u64 | crc32c u32 of all before
//! record: payload length u32 | crc32c u32 of sequence and payload | sequence u64 | payload
//! ```
//!
//! Integers are little-endian. Sequences never fall within a file and may have gaps. A file of
//! version 2 holds the records compressed (`packed`).

use trace_model::location::{Cursor, Epoch};

/// First bytes of every file.
const MAGIC: &[u8; 8] = b"FSPNMETA";
/// The newest version: of a file whose records are packed.
pub(crate) const VERSION: u32 = 2;
/// The version of a plain file.
const VERSION_PLAIN: u32 = 1;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 44;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 16;
/// Longest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The flag of a file from which superseded records were taken out.
const FLAG_COMPACTED: u32 = 1;

/// Where a record lies: valid until its segment is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    /// Number of the segment in this process.
    pub(crate) segment: u32,
    /// Offset of the record in its file.
    pub(crate) offset: u32,
}

/// What a file's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Epoch and first sequence.
    pub(crate) first: Cursor,
    /// Whether superseded records were taken out.
    pub(crate) is_compacted: bool,
    /// Whether the records are compressed.
    pub(crate) is_packed: bool,
}

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Too short, other magic or wrong checksum.
    Damaged,
    /// Written by a newer release.
    Newer(u32),
}

impl Header {
    pub(crate) fn encode(self) -> Vec<u8> {
        let flags = if self.is_compacted { FLAG_COMPACTED } else { 0 };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        let version = if self.is_packed { VERSION } else { VERSION_PLAIN };
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.first.epoch.millis.to_le_bytes());
        bytes.extend_from_slice(&self.first.epoch.random.to_le_bytes());
        bytes.extend_from_slice(&self.first.sequence.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let head = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        let (body, crc) = head.split_at(HEADER_BYTES - 4);
        if !body.starts_with(MAGIC) || u32_at(crc, 0) != Some(crc32c::crc32c(body)) {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(body, 8).ok_or(BadHeader::Damaged)?;
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        let word = |at| u64_at(body, at).ok_or(BadHeader::Damaged);
        let epoch = Epoch { millis: word(16)?, random: word(24)? };
        let flags = u32_at(body, 12).unwrap_or(0);
        Ok(Self {
            first: Cursor { epoch, sequence: word(32)? },
            is_compacted: flags & FLAG_COMPACTED != 0,
            is_packed: version == VERSION,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// Appends a record to a buffer. The payload is at most [`PAYLOAD_BYTES_MAX`] long.
pub(crate) fn put_record(output: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), payload);
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(&crc.to_le_bytes());
    output.extend_from_slice(&sequence.to_le_bytes());
    output.extend_from_slice(payload);
}

/// A record as it lies in a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) sequence: u64,
    pub(crate) offset: usize,
    pub(crate) payload: &'a [u8],
}

impl RawRecord<'_> {
    pub(crate) const fn end(&self) -> usize {
        self.offset.saturating_add(RECORD_HEAD_BYTES).saturating_add(self.payload.len())
    }
}

/// The record at an offset, if a whole and good one lies there.
pub(crate) fn record_at(bytes: &[u8], offset: usize) -> Option<RawRecord<'_>> {
    let length = u32_at(bytes, offset)? as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let body = offset.checked_add(8)?;
    let checked = bytes.get(body..body.checked_add(8)?.checked_add(length)?)?;
    if u32_at(bytes, offset.checked_add(4)?)? != crc32c::crc32c(checked) {
        return None;
    }
    let (sequence, payload) = checked.split_first_chunk::<8>()?;
    Some(RawRecord { sequence: u64::from_le_bytes(*sequence), offset, payload })
}

/// What a scan meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scanned<'a> {
    /// A good record.
    Record(RawRecord<'a>),
    /// Bytes that are no records, with a good record behind them.
    Damaged { offset: usize, end: usize },
    /// Bytes that are no records up to the end of the file.
    Torn { offset: usize },
}

/// Reads the records of a file's bytes from an offset on.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    sequence: u64,
}

impl<'a> Scan<'a> {
    pub(crate) const fn new(bytes: &'a [u8], at: usize, sequence: u64) -> Self {
        Self { bytes, at, sequence }
    }

    fn good_at(&self, offset: usize) -> Option<RawRecord<'a>> {
        record_at(self.bytes, offset).filter(|record| record.sequence >= self.sequence)
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Scanned<'a>;

    fn next(&mut self) -> Option<Scanned<'a>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if let Some(record) = self.good_at(self.at) {
            self.at = record.end();
            self.sequence = record.sequence;
            return Some(Scanned::Record(record));
        }
        let offset = self.at;
        let behind = offset.saturating_add(1)..self.bytes.len();
        let Some(end) = behind.into_iter().find(|place| self.good_at(*place).is_some()) else {
            self.at = self.bytes.len();
            return Some(Scanned::Torn { offset });
        };
        self.at = end;
        Some(Scanned::Damaged { offset, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(rows: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in rows {
            put_record(&mut bytes, *sequence, payload);
        }
        bytes
    }

    fn sequences(bytes: &[u8]) -> (Vec<u64>, usize, usize) {
        let (mut found, mut damaged, mut torn) = (Vec::new(), 0, 0);
        for scanned in Scan::new(bytes, 0, 0) {
            match scanned {
                Scanned::Record(record) => found.push(record.sequence),
                Scanned::Damaged { .. } => damaged += 1,
                Scanned::Torn { .. } => torn += 1,
            }
        }
        (found, damaged, torn)
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_costs_its_record_alone() {
        let good = file_of(&[(1, b"one"), (2, b"two"), (5, b"five")]);
        assert_eq!(sequences(&good), (vec![1, 2, 5], 0, 0));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (found, damaged, torn) = sequences(&bytes);
            assert_eq!(found.len(), 2, "bit {bit}");
            assert_eq!(damaged + torn, 1, "bit {bit}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_gives_the_records_before_the_cut() {
        let good = file_of(&[(1, b"one"), (2, b"two")]);
        let first = RECORD_HEAD_BYTES + 3;
        for cut in 0..good.len() {
            let (found, damaged, torn) = sequences(&good[..cut]);
            assert_eq!(found.len(), usize::from(cut >= first), "cut {cut}");
            assert_eq!((damaged, torn), (0, usize::from(cut != 0 && cut != first)), "cut {cut}");
        }
    }

    #[test]
    fn a_header_comes_back_and_a_newer_one_is_refused() {
        let epoch = Epoch { millis: 5, random: 9 };
        let first = Cursor { epoch, sequence: 7 };
        let packed = Header { first, is_compacted: true, is_packed: true };
        assert_eq!(Header::decode(&packed.encode()), Ok(packed));
        let header = Header { is_packed: false, ..packed };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[3] ^= 1;
        assert_eq!(Header::decode(&bytes), Err(BadHeader::Damaged));
        let mut newer = header.encode();
        newer[8] = 3;
        let crc = crc32c::crc32c(&newer[..HEADER_BYTES - 4]).to_le_bytes();
        newer[HEADER_BYTES - 4..].copy_from_slice(&crc);
        assert_eq!(Header::decode(&newer), Err(BadHeader::Newer(3)));
    }
}
