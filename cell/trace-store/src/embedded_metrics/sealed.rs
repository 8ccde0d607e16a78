//! A sealed file: rows in order, in compressed blocks, with an index of the blocks in memory.
//!
//! ```text
//! header | blocks (zstd) | index | trailer: last arrival u64, index length u32, index crc32c u32 (LE)
//! index: series blocks, then edge blocks (each: count, then per block: first key, last key,
//!        earliest and latest time, offset, length, length unpacked, crc32c)
//! block: rows, each: key | length | row
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::wire::put_varint;
use trace_model::{TimeRange, UnixNanos};

use super::codec::{Reader, Record, SeriesKey, Unfit, put_bytes, put_count};
use super::file::{self, FileKind, HEADER_BYTES, Place, damaged, disk};
use super::table::Table;
use crate::port::{EdgeKey, StoreError};

/// A block is closed when its rows take so many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// Largest block that is read back: a row is far below this.
const BLOCK_BYTES_MAX: usize = 16 << 20;
const TRAILER_BYTES: usize = 16;
const ZSTD_LEVEL: i32 = 3;

/// Where a block is and what may be in it.
#[derive(Clone, Debug)]
pub(super) struct BlockEntry<K> {
    pub(super) first: K,
    pub(super) last: K,
    times: (UnixNanos, UnixNanos),
    offset: u64,
    length: u32,
    unpacked: u32,
    crc: u32,
}

impl<K> BlockEntry<K> {
    pub(super) fn overlaps(&self, range: TimeRange) -> bool {
        range.overlaps(self.times.0, self.times.1)
    }
}

/// An open sealed file.
#[derive(Debug)]
pub(super) struct SealedFile {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// When the last of its rows arrived.
    pub(super) last_arrival: UnixNanos,
    pub(super) series: Vec<BlockEntry<SeriesKey>>,
    pub(super) edges: Vec<BlockEntry<EdgeKey>>,
    file: File,
}

/// Writes the rows of both tables; the file is durable when this returns.
pub(super) fn write(
    place: &Place,
    path: &Path,
    series: &Table<SeriesKey>,
    edges: &Table<EdgeKey>,
    last_arrival: UnixNanos,
) -> Result<(), StoreError> {
    let mut output = FileKind::Sealed.header();
    let series_blocks = put_blocks(&mut output, series)?;
    let edge_blocks = put_blocks(&mut output, edges)?;
    let mut index = Vec::new();
    put_index(&mut index, &series_blocks);
    put_index(&mut index, &edge_blocks);
    output.extend_from_slice(&index);
    output.extend_from_slice(&last_arrival.0.to_le_bytes());
    output.extend_from_slice(&u32::try_from(index.len()).unwrap_or(u32::MAX).to_le_bytes());
    output.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    file::write_whole(place, path, &output).map_err(disk)
}

fn put_blocks<K: Record>(
    output: &mut Vec<u8>,
    table: &Table<K>,
) -> Result<Vec<BlockEntry<K>>, StoreError> {
    let unfit = |error: Unfit| StoreError::Damaged(format!("a row in memory: {error}"));
    let mut blocks = Vec::new();
    let mut open: Option<OpenBlock<K>> = None;
    for (key, pieces) in table.iter() {
        let block = open.get_or_insert_with(|| OpenBlock::new(key));
        block.put(key, &pieces.read::<K>().map_err(unfit)?);
        if block.rows.len() >= BLOCK_BYTES {
            blocks.extend(open.take().map(|block| block.close(output)).transpose()?);
        }
    }
    blocks.extend(open.take().map(|block| block.close(output)).transpose()?);
    Ok(blocks)
}

struct OpenBlock<K> {
    first: K,
    last: K,
    times: (UnixNanos, UnixNanos),
    rows: Vec<u8>,
    row: Vec<u8>,
}

impl<K: Record> OpenBlock<K> {
    fn new(key: &K) -> Self {
        let times = (key.time(), key.time());
        let (first, last) = (key.clone(), key.clone());
        Self { first, last, times, rows: Vec::with_capacity(BLOCK_BYTES), row: Vec::new() }
    }

    fn put(&mut self, key: &K, row: &K::Row) {
        self.last = key.clone();
        self.times = (self.times.0.min(key.time()), self.times.1.max(key.time()));
        key.put(&mut self.rows);
        self.row.clear();
        K::put_row(row, &mut self.row);
        put_bytes(&mut self.rows, &self.row);
    }

    fn close(self, output: &mut Vec<u8>) -> Result<BlockEntry<K>, StoreError> {
        let packed = zstd::bulk::compress(&self.rows, ZSTD_LEVEL).map_err(disk)?;
        let offset = u64::try_from(output.len()).unwrap_or(u64::MAX);
        output.extend_from_slice(&packed);
        Ok(BlockEntry {
            first: self.first,
            last: self.last,
            times: self.times,
            offset,
            length: u32::try_from(packed.len()).unwrap_or(u32::MAX),
            unpacked: u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
            crc: crc32c::crc32c(&packed),
        })
    }
}

fn put_index<K: Record>(output: &mut Vec<u8>, blocks: &[BlockEntry<K>]) {
    put_count(output, blocks.len());
    for block in blocks {
        block.first.put(output);
        block.last.put(output);
        for number in [block.times.0.0, block.times.1.0, block.offset] {
            put_varint(output, number);
        }
        for number in [block.length, block.unpacked, block.crc] {
            put_varint(output, u64::from(number));
        }
    }
}

fn read_index<K: Record>(reader: &mut Reader<'_>) -> Result<Vec<BlockEntry<K>>, Unfit> {
    let mut blocks = Vec::new();
    for _ in 0..reader.count()? {
        let (first, last) = (K::read(reader)?, K::read(reader)?);
        let times = (UnixNanos(reader.number()?), UnixNanos(reader.number()?));
        let offset = reader.number()?;
        let mut short = || u32::try_from(reader.number()?).map_err(|_| Unfit);
        let (length, unpacked, crc) = (short()?, short()?, short()?);
        blocks.push(BlockEntry { first, last, times, offset, length, unpacked, crc });
    }
    Ok(blocks)
}

impl SealedFile {
    /// Opens a file and reads its index.
    pub(super) fn open(directory: &Path, sequence: u64) -> Result<Self, StoreError> {
        let path = FileKind::Sealed.path(directory, sequence);
        let file = File::open(&path).map_err(disk)?;
        let bytes = file.metadata().map_err(disk)?.len();
        let short = || damaged(&path, "it is cut short");
        let header = read_at(&file, &path, 0, HEADER_BYTES)?;
        FileKind::Sealed.check(&path, &header)?;
        let trailer_at = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(short)?;
        let trailer = read_at(&file, &path, trailer_at, TRAILER_BYTES)?;
        let mut trailer = Reader { rest: &trailer };
        let last_arrival = UnixNanos(u64::from_le_bytes(trailer.array().map_err(|_| short())?));
        let length = u32::from_le_bytes(trailer.array().map_err(|_| short())?);
        let crc = u32::from_le_bytes(trailer.array().map_err(|_| short())?);
        let index_at = trailer_at.checked_sub(u64::from(length)).ok_or_else(short)?;
        let index = read_at(&file, &path, index_at, length as usize)?;
        if crc32c::crc32c(&index) != crc {
            return Err(damaged(&path, "the checksum of its index does not fit"));
        }
        let mut reader = Reader { rest: &index };
        let unfit = |error: Unfit| damaged(&path, error);
        let series = read_index(&mut reader).map_err(unfit)?;
        let edges = read_index(&mut reader).map_err(unfit)?;
        Ok(Self { sequence, path, bytes, last_arrival, series, edges, file })
    }

    /// Gives each row of a block to `visit`, its bytes unread.
    pub(super) fn visit<K: Record>(
        &self,
        block: &BlockEntry<K>,
        mut visit: impl FnMut(K, &[u8]) -> Result<(), Unfit>,
    ) -> Result<(), StoreError> {
        let packed = read_at(&self.file, &self.path, block.offset, block.length as usize)?;
        if crc32c::crc32c(&packed) != block.crc {
            return Err(damaged(&self.path, "the checksum of a block does not fit"));
        }
        let unpacked = (block.unpacked as usize).min(BLOCK_BYTES_MAX);
        let rows = zstd::bulk::decompress(&packed, unpacked)
            .map_err(|error| damaged(&self.path, error))?;
        let mut reader = Reader { rest: &rows };
        let unfit = |error: Unfit| damaged(&self.path, error);
        while !reader.rest.is_empty() {
            let key = K::read(&mut reader).map_err(unfit)?;
            visit(key, reader.bytes().map_err(unfit)?).map_err(unfit)?;
        }
        Ok(())
    }
}

fn read_at(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
    let size = file.metadata().map_err(disk)?.len();
    let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    if end > size {
        return Err(damaged(path, "it is cut short"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(disk)?;
    Ok(bytes)
}
