//! A sealed segment, open for reading. Any number of readers share it; its bytes never change.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use trace_model::merge::content_hash_in;
use trace_model::{SpanKey, StoredSpan, TenantId, TraceId};

use super::block_decode::{Block, RebuiltRow};
use super::bloom;
use super::cache::{Cached, PartOf, SegmentCache};
use super::cold_segment::{COLD_FORMAT, ColdFooter, ColdTier, FarBlocks, READ_AHEAD_BLOCKS};
use super::contexts::{self, ReadContext};
use super::directory::{Directory, IndexFile};
use super::hash::{tenant_seed, trace_hash};
use super::sealed_file::{SealedFile, damaged};
use super::segment::{BlockMeta, SEGMENT_FORMAT, SegmentFooter, decode_blocks};
use crate::StoreError;

/// A segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    file: SealedFile,
    pub(crate) footer: SegmentFooter,
    pub(crate) blocks: Vec<BlockMeta>,
    filter: Vec<u8>,
    tenants: Vec<(TenantId, u64)>,
    index: ArcSwapOption<IndexFile>,
    is_damage_known: AtomicBool,
    is_set_aside: AtomicBool,
    /// Where the blocks are, unless in the file.
    far: Option<FarBlocks>,
}

/// What lists say of a tenant in a segment ([`super::catalog_read`] reads it).
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) bytes: Arc<Vec<u8>>,
    /// It has more services than are kept.
    pub(crate) is_cut: bool,
}

impl Segment {
    pub(crate) fn open(id: u64, path: &Path) -> Result<Self, StoreError> {
        let (file, footer) = SealedFile::open::<SegmentFooter>(path, SEGMENT_FORMAT)?;
        Self::read(id, path, (file, footer), None)
    }

    /// Opens what is kept here of a segment whose blocks lie in an object.
    pub(crate) fn open_cold(id: u64, path: &Path, tier: &ColdTier) -> Result<Self, StoreError> {
        let (file, footer) = SealedFile::open::<ColdFooter>(path, COLD_FORMAT)?;
        let far = FarBlocks::new(id, tier, &footer);
        Self::read(id, path, (file, footer.segment), Some(far))
    }

    fn read(
        id: u64,
        path: &Path,
        (file, footer): (SealedFile, SegmentFooter),
        far: Option<FarBlocks>,
    ) -> Result<Self, StoreError> {
        let blocks = decode_blocks(&file.section(&footer.blocks)?);
        let blocks = blocks.map_err(|error| damaged(path, &error))?;
        let filter = file.section(&footer.filter)?;
        let mut tenants = Vec::with_capacity(footer.tenants.len());
        for tenant in &footer.tenants {
            let name = TenantId::new(tenant).map_err(|error| damaged(path, &error))?;
            tenants.push((name, tenant_seed(tenant)));
        }
        Ok(Self {
            id,
            file,
            footer,
            blocks,
            filter,
            tenants,
            index: ArcSwapOption::empty(),
            is_damage_known: AtomicBool::new(false),
            is_set_aside: AtomicBool::new(false),
            far,
        })
    }

    /// Whether its blocks lie in an object.
    pub(crate) const fn is_cold(&self) -> bool {
        self.far.is_some()
    }

    /// Bytes of its object.
    pub(crate) fn object_bytes(&self) -> Option<u64> {
        self.far.as_ref().map(FarBlocks::object_bytes)
    }

    /// The file as it lies on disk.
    pub(crate) const fn file(&self) -> &SealedFile {
        &self.file
    }

    /// Gives the index to the same segment in another place.
    pub(crate) fn share_index_with(&self, other: &Self) {
        other.index.store(self.index());
    }

    /// Fetches these blocks of a cold segment with few requests, in the order in which they will be
    /// asked for; as many as are read at once.
    pub(crate) fn read_ahead(&self, places: impl IntoIterator<Item = usize>) {
        if let Some(far) = &self.far {
            let metas = places.into_iter().filter_map(|place| self.blocks.get(place).copied());
            far.read_ahead(&metas.take(READ_AHEAD_BLOCKS).collect::<Vec<_>>());
        }
    }

    /// As [`Self::read_ahead`] for whoever reads all blocks in their order.
    pub(crate) fn read_ahead_from(&self, place: usize) {
        if place.is_multiple_of(READ_AHEAD_BLOCKS) {
            self.read_ahead(place..place.saturating_add(READ_AHEAD_BLOCKS));
        }
    }

    /// Publishes the segment's index.
    pub(crate) fn set_index(&self, index: IndexFile) {
        self.index.store(Some(Arc::new(index)));
    }

    /// Takes a damaged index away: searches scan, the indexer builds it anew.
    pub(crate) fn drop_index(&self) {
        self.index.store(None);
    }

    pub(crate) fn index(&self) -> Option<Arc<IndexFile>> {
        self.index.load_full()
    }

    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.length() + self.index().map_or(0, |index| index.bytes())
    }

    /// Says once that the segment is damaged.
    pub(crate) fn is_damage_news(&self) -> bool {
        !self.is_damage_known.swap(true, Ordering::Relaxed)
    }

    /// Keeps the segment out of merges, until the store opens again.
    pub(crate) fn set_aside_from_merging(&self) {
        self.is_set_aside.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set_aside_from_merging(&self) -> bool {
        self.is_set_aside.load(Ordering::Relaxed)
    }

    pub(crate) fn tenant_place(&self, tenant: &TenantId) -> Option<u32> {
        let place = self.tenants.iter().position(|(known, _)| known == tenant)?;
        u32::try_from(place).ok()
    }

    pub(crate) fn tenant(&self, place: u32) -> Option<&(TenantId, u64)> {
        self.tenants.get(place as usize)
    }

    /// Whether the segment may hold the trace.
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        bloom::contains(&self.filter, hash, bloom::TRACES)
    }

    /// Places of the blocks that may hold the trace.
    pub(crate) fn blocks_of(&self, tenant: u32, trace_id: TraceId) -> std::ops::Range<usize> {
        let key = (tenant, trace_id);
        let first = self.blocks.partition_point(|block| (block.tenant, block.last) < key);
        let rest = self.blocks.get(first..).unwrap_or(&[]);
        let count = rest.partition_point(|block| (block.tenant, block.first) <= key);
        first..first + count
    }

    /// Reads a block.
    pub(crate) fn block(&self, place: usize) -> Result<Block, StoreError> {
        let missing = || damaged(self.file.path(), &"a block that is not there");
        let meta = self.blocks.get(place).ok_or_else(missing)?;
        let bytes = match &self.far {
            None => self.file.read_checked(meta.offset, meta.length, meta.crc)?,
            Some(far) => far.block(meta)?,
        };
        let block = Block::open(bytes).map_err(|error| self.damaged(&error))?;
        if block.rows() != meta.rows as usize {
            return Err(self.damaged(&"a block of another number of rows"));
        }
        Ok(block)
    }

    pub(crate) fn damaged(&self, what: &dyn std::fmt::Display) -> StoreError {
        damaged(self.file.path(), what)
    }

    /// The segment's contexts.
    pub(crate) fn contexts(
        &self,
        cache: &SegmentCache,
    ) -> Result<Arc<Vec<ReadContext>>, StoreError> {
        if let Some(Cached::Contexts(contexts)) = cache.get(&PartOf::Contexts(self.id)) {
            return Ok(contexts);
        }
        let bytes = self.file.section(&self.footer.contexts)?;
        let contexts = contexts::decode(bytes).map_err(|error| self.damaged(&error))?;
        let contexts = Arc::new(contexts);
        cache.insert(PartOf::Contexts(self.id), Cached::Contexts(Arc::clone(&contexts)));
        Ok(contexts)
    }

    /// The directory of the segment's index.
    pub(crate) fn directory(
        &self,
        index: &IndexFile,
        cache: &SegmentCache,
    ) -> Result<Arc<Directory>, StoreError> {
        if let Some(Cached::Directory(directory)) = cache.get(&PartOf::Directory(self.id)) {
            return Ok(directory);
        }
        let directory = Arc::new(index.directory()?);
        if directory.blocks.len() != self.blocks.len() {
            return Err(self.damaged(&"an index of another segment"));
        }
        cache.insert(PartOf::Directory(self.id), Cached::Directory(Arc::clone(&directory)));
        Ok(directory)
    }

    /// The names of the tenant at a place, unless the index is of a version that has none.
    pub(crate) fn names(
        &self,
        index: &IndexFile,
        tenant: u32,
        cache: &SegmentCache,
    ) -> Result<Option<Names>, StoreError> {
        let Some(sections) = &index.footer.names else { return Ok(None) };
        let section = sections.get(tenant as usize);
        let section = section.ok_or_else(|| self.damaged(&"an index without a tenant"))?;
        let (part, is_cut) = (PartOf::Names(self.id, tenant), section.is_cut);
        if let Some(Cached::Names(bytes)) = cache.get(&part) {
            return Ok(Some(Names { bytes, is_cut }));
        }
        let bytes = Arc::new(index.names(section)?);
        cache.insert(part, Cached::Names(Arc::clone(&bytes)));
        Ok(Some(Names { bytes, is_cut }))
    }

    /// The spans of a trace in this segment.
    pub(crate) fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        cache: &SegmentCache,
        output: &mut Vec<StoredSpan>,
    ) -> Result<(), StoreError> {
        let Some(place) = self.tenant_place(tenant) else { return Ok(()) };
        let seed = self.tenant(place).map_or(0, |(_, seed)| *seed);
        if !self.may_hold(trace_hash(seed, trace_id)) {
            return Ok(());
        }
        let places = self.blocks_of(place, trace_id);
        for at in places.clone() {
            if places.len() > 1 && (at - places.start).is_multiple_of(READ_AHEAD_BLOCKS) {
                self.read_ahead(at..places.end);
            }
            let mut block = self.block(at)?;
            let runs = block.traces.iter().filter(|run| run.trace_id == trace_id);
            let Some(run) = runs.copied().next() else { continue };
            let rows = block.rebuild_alone(&run);
            let rows = rows.map_err(|error| self.damaged(&error))?;
            let contexts = self.contexts(cache)?;
            for row in rows {
                output.push(self.stored_span(row, &block, &contexts)?);
            }
        }
        Ok(())
    }

    fn stored_span(
        &self,
        row: RebuiltRow,
        block: &Block,
        contexts: &[ReadContext],
    ) -> Result<StoredSpan, StoreError> {
        let context = contexts.get(row.context as usize);
        let context = context.ok_or_else(|| self.damaged(&"a context that is not there"))?;
        let source = block.source_table.get(row.source);
        let source = source.ok_or_else(|| self.damaged(&"a source that is not there"))?;
        let content = content_hash_in(context.hash, &row.bytes);
        Ok(StoredSpan {
            key: SpanKey { span_id: row.facts.span_id, kind: row.kind, content },
            span: row.bytes,
            context: Arc::clone(&context.context),
            envelope: Arc::clone(&source.envelope),
        })
    }
}
