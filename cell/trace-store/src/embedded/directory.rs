//! The index file of a segment: a directory of filters, and the filters.
//!
//! For each group (tenant, service, 10-minute bucket) each of at most 256 keys has a filter over its
//! (key, value) entries, and all further keys share one; each block has one over everything in it.
//! A filter of at most 16 entries is the sorted list of them; a larger one is a Bloom filter of 10
//! bits an entry. Both lie in the section of filters and are read where a probe needs them.
//!
//! The names of each tenant's services and operations lie in a section of their own, so that a list
//! reads no other tenant's and a search none.

use std::path::Path;
use std::sync::Arc;

use proto::wire::put_varint;
use serde::{Deserialize, Serialize};

use super::bloom;
use super::catalog_build::TenantNames;
use super::cursor::{Corrupt, Cursor, put_sized};
use super::index_build::{Group, IndexBuilder, IndexedBlock};
use super::sealed_file::{Format, SealedFile, SealedWriter, Section, damaged};
use crate::StoreError;

/// The format of index files. Version 1 has no section of names: the groups have the operations, and
/// those of many services none.
pub(crate) const INDEX_FORMAT: Format = Format { magic: *b"FARSPIDX", version: 2 };
/// Operations of a group that version 1 listed.
const OPERATIONS_MAX_V1: usize = 16_384;
/// Entries up to which a filter is an exact list.
const EXACT_ENTRIES_MAX: usize = 16;

/// The footer of an index file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexFooter {
    /// Spans of the segment that it belongs to.
    pub(crate) spans: u64,
    pub(crate) directory: Section,
    pub(crate) filters: Section,
    /// The names of each tenant, by its place; `None` in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) names: Option<Vec<NamesSection>>,
}

/// Where the names of a tenant are.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamesSection {
    section: Section,
    /// The tenant has more services than are kept.
    pub(crate) is_cut: bool,
}

/// A filter in the section of filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterRef {
    offset: u64,
    entries: usize,
}

impl FilterRef {
    fn byte_length(self) -> u64 {
        let length = if self.entries > EXACT_ENTRIES_MAX {
            bloom::byte_length(self.entries, bloom::VALUES)
        } else {
            self.entries * 8
        };
        length as u64
    }
}

/// A group of the directory.
#[derive(Debug)]
pub(crate) struct DirectoryGroup {
    pub(crate) tenant: u32,
    /// `None`: any service may be in it.
    pub(crate) service: Option<u32>,
    pub(crate) bucket: u64,
    /// By key hash.
    keys: Vec<(u64, FilterRef)>,
    shared: FilterRef,
    /// Of version 1 alone.
    pub(crate) operations: Vec<(Arc<str>, u8)>,
}

/// A block of the directory.
#[derive(Debug)]
pub(crate) struct DirectoryBlock {
    pub(crate) filter: FilterRef,
    /// Services in it, with the latest placement time of each.
    pub(crate) services: Vec<(u32, u64)>,
}

/// A directory, read.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) services: Vec<Arc<str>>,
    pub(crate) groups: Vec<DirectoryGroup>,
    pub(crate) blocks: Vec<DirectoryBlock>,
}

impl Directory {
    /// Bytes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        let groups = self.groups.iter().map(|group| {
            let names: usize = group.operations.iter().map(|(name, _)| 48 + name.len()).sum();
            96 + group.keys.len() * 24 + names
        });
        let blocks = self.blocks.iter().map(|block| 48 + block.services.len() * 16);
        64 + groups.sum::<usize>() + blocks.sum::<usize>() + self.services.len() * 48
    }

    pub(crate) fn service(&self, place: u32) -> Option<&Arc<str>> {
        self.services.get(place as usize)
    }
}

impl DirectoryGroup {
    /// Whether version 1 may have left names out: those of any service, or further operations.
    pub(crate) const fn may_lack_names(&self) -> bool {
        self.service.is_none() || self.operations.len() >= OPERATIONS_MAX_V1
    }

    /// The filter that knows the key's entries, if any value of the key can be here.
    pub(crate) fn filter_of(&self, key: u64) -> KeyFilter {
        match self.keys.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => {
                KeyFilter::Own(self.keys.get(at).map_or_else(FilterRef::default, |own| own.1))
            }
            Err(_) if self.shared.entries == 0 => KeyFilter::Absent,
            Err(_) => KeyFilter::Shared(self.shared),
        }
    }
}

/// Where a key's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFilter {
    /// In a filter of the key's own: the key occurs.
    Own(FilterRef),
    /// In the filter that rarer keys share.
    Shared(FilterRef),
    /// The key does not occur.
    Absent,
}

/// Writes the index of a segment; gives the file's bytes.
pub(crate) fn write(path: &Path, mut index: IndexBuilder, spans: u64) -> Result<u64, StoreError> {
    let names = index.take_catalog();
    let mut filters = Vec::new();
    let mut directory = Vec::new();
    put_varint(&mut directory, index.services.len() as u64);
    for service in &index.services {
        put_sized(&mut directory, service.as_bytes());
    }
    put_varint(&mut directory, index.groups.len() as u64);
    for group in index.groups {
        put_group(group, &mut directory, &mut filters);
    }
    put_varint(&mut directory, index.blocks.len() as u64);
    for block in index.blocks {
        put_block(&block, &mut directory, &mut filters);
    }
    let mut file = SealedWriter::create(path, INDEX_FORMAT)?;
    let directory = file.section(&directory, true)?;
    let filters = file.section(&filters, false)?;
    let names = Some(write_names(&mut file, &names)?);
    file.finish(&IndexFooter { spans, directory, filters, names })
}

/// Writes the names of each tenant; the list has a place for each tenant of the segment.
fn write_names(
    file: &mut SealedWriter,
    names: &[TenantNames],
) -> Result<Vec<NamesSection>, StoreError> {
    let mut sections: Vec<NamesSection> = Vec::with_capacity(names.len());
    for tenant in names {
        let section = file.section(&tenant.bytes, true)?;
        let place = tenant.tenant as usize;
        if sections.len() <= place {
            let none = NamesSection { section: Section::default(), is_cut: false };
            sections.resize(place + 1, none);
        }
        if let Some(slot) = sections.get_mut(place) {
            *slot = NamesSection { section, is_cut: tenant.is_cut };
        }
    }
    Ok(sections)
}

fn put_group(group: Group, directory: &mut Vec<u8>, filters: &mut Vec<u8>) {
    put_varint(directory, u64::from(group.key.tenant));
    put_varint(directory, group.key.service.map_or(0, |service| u64::from(service) + 1));
    put_varint(directory, group.key.bucket);
    let mut own: Vec<(u64, Vec<u64>)> = group.own.into_iter().collect();
    own.sort_unstable_by_key(|(key, _)| *key);
    put_varint(directory, own.len() as u64);
    for (key, entries) in own {
        directory.extend_from_slice(&key.to_le_bytes());
        EncodedFilter::of(entries).put(directory, filters);
    }
    EncodedFilter::of(group.shared).put(directory, filters);
    // No operations: version 1 had them here.
    put_varint(directory, 0);
}

fn put_block(block: &IndexedBlock, directory: &mut Vec<u8>, filters: &mut Vec<u8>) {
    block.filter.put(directory, filters);
    put_varint(directory, block.services.len() as u64);
    for (service, latest) in &block.services {
        put_varint(directory, u64::from(*service));
        put_varint(directory, *latest);
    }
}

/// A filter ready to be written.
#[derive(Debug)]
pub(crate) struct EncodedFilter {
    entries: usize,
    bytes: Vec<u8>,
}

impl EncodedFilter {
    /// The filter of these entries, each counted once.
    pub(crate) fn of(mut entries: Vec<u64>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let bytes = if entries.len() > EXACT_ENTRIES_MAX {
            bloom::build(&entries, bloom::VALUES)
        } else {
            entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
        };
        Self { entries: entries.len(), bytes }
    }

    fn put(&self, directory: &mut Vec<u8>, filters: &mut Vec<u8>) {
        put_varint(directory, filters.len() as u64);
        put_varint(directory, self.entries as u64);
        filters.extend_from_slice(&self.bytes);
    }
}

/// An index file, open.
#[derive(Debug)]
pub(crate) struct IndexFile {
    file: SealedFile,
    pub(crate) footer: IndexFooter,
}

impl IndexFile {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, footer) = SealedFile::open(path, INDEX_FORMAT)?;
        Ok(Self { file, footer })
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.file.length()
    }

    /// Reads the directory, and checks the filters once: a flipped bit in one would hide spans.
    pub(crate) fn directory(&self) -> Result<Directory, StoreError> {
        self.file.section(&self.footer.filters)?;
        let bytes = self.file.section(&self.footer.directory)?;
        read_directory(&bytes).map_err(|error| damaged(self.file.path(), &error))
    }

    /// Reads the names of a tenant, if it has any.
    pub(crate) fn names(&self, section: &NamesSection) -> Result<Vec<u8>, StoreError> {
        self.file.section(&section.section)
    }

    pub(crate) fn damaged(&self, error: &Corrupt) -> StoreError {
        damaged(self.file.path(), error)
    }

    /// Reads filters that lie side by side, at once. The first and the last bound the run.
    pub(crate) fn filters(
        &self,
        first: FilterRef,
        last: FilterRef,
    ) -> Result<FilterRun, StoreError> {
        let length = (last.offset + last.byte_length()).saturating_sub(first.offset);
        let offset = self.footer.filters.offset.saturating_add(first.offset);
        Ok(FilterRun { bytes: self.file.read(offset, length)?, offset: first.offset })
    }
}

/// Filters read together.
#[derive(Debug)]
pub(crate) struct FilterRun {
    bytes: Vec<u8>,
    offset: u64,
}

impl FilterRun {
    /// Whether the entry may be in a filter of the run. A filter outside it may hold anything.
    pub(crate) fn contains(&self, filter: FilterRef, entry: u64) -> bool {
        let start = usize::try_from(filter.offset.saturating_sub(self.offset));
        let length = usize::try_from(filter.byte_length());
        let (Ok(start), Ok(length)) = (start, length) else { return true };
        let Some(bytes) = self.bytes.get(start..start.saturating_add(length)) else { return true };
        if filter.entries <= EXACT_ENTRIES_MAX {
            let entry = entry.to_le_bytes();
            return bytes.chunks_exact(8).any(|known| known == entry);
        }
        bloom::contains(bytes, entry, bloom::VALUES)
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

pub(crate) fn read_directory(bytes: &[u8]) -> Result<Directory, Corrupt> {
    let mut cursor = Cursor::new(bytes);
    let count = cursor.count(1)?;
    let mut services = Vec::with_capacity(count);
    for _ in 0..count {
        services.push(Arc::<str>::from(cursor.text()?));
    }
    let count = cursor.count(6)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        groups.push(read_group(&mut cursor)?);
    }
    let count = cursor.count(3)?;
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let filter = read_filter(&mut cursor)?;
        let service_count = cursor.count(2)?;
        let mut services = Vec::with_capacity(service_count);
        for _ in 0..service_count {
            services.push((cursor.varint_u32()?, cursor.varint()?));
        }
        blocks.push(DirectoryBlock { filter, services });
    }
    Ok(Directory { services, groups, blocks })
}

fn read_group(cursor: &mut Cursor<'_>) -> Result<DirectoryGroup, Corrupt> {
    let tenant = cursor.varint_u32()?;
    let service = cursor.varint_u32()?.checked_sub(1);
    let bucket = cursor.varint()?;
    let count = cursor.count(10)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let key = u64::from_le_bytes(cursor.array()?);
        keys.push((key, read_filter(cursor)?));
    }
    let shared = read_filter(cursor)?;
    let count = cursor.count(2)?;
    let mut operations = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = cursor.byte()?;
        operations.push((Arc::<str>::from(cursor.text()?), kind));
    }
    Ok(DirectoryGroup { tenant, service, bucket, keys, shared, operations })
}

fn read_filter(cursor: &mut Cursor<'_>) -> Result<FilterRef, Corrupt> {
    Ok(FilterRef { offset: cursor.varint()?, entries: cursor.length()? })
}
