//! What stays here of a segment whose blocks lie in an object: its tables (contexts, list of blocks,
//! filter over its traces) in a file of its own, its index as it was. So a "no" needs no request, and
//! a "yes" one for each block.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use serde::{Deserialize, Serialize};

use super::sealed_file::{Format, SealedWriter, damaged};
use super::segment::{BlockMeta, SegmentFooter};
use super::segment_read::Segment;
use crate::StoreError;
use crate::metrics::ColdMetrics;
use crate::port::ColdObjects;

/// The format of what stays.
pub(crate) const COLD_FORMAT: Format = Format { magic: *b"FARSPCLD", version: 1 };
/// Blocks that are fetched together by whoever will read them one after another.
pub(crate) const READ_AHEAD_BLOCKS: usize = 8;

/// The footer of what stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColdFooter {
    /// The name of the object: the segment's file as it was.
    pub(crate) object: String,
    pub(crate) object_bytes: u64,
    /// The segment's own footer, with the places of the tables in this file.
    pub(crate) segment: SegmentFooter,
}

/// Where cold segments go, and when.
#[derive(Clone, Debug)]
pub struct ColdTier {
    pub(crate) objects: Arc<dyn ColdObjects>,
    pub(crate) after: Duration,
    pub(crate) incarnation: u64,
    pub(crate) blocks: BlockCache,
    pub(crate) metrics: ColdMetrics,
}

/// Blocks that were read, the least recently used go first; weighed in bytes.
type BlockCache = moka::sync::Cache<(u64, u64), Bytes>;

impl ColdTier {
    /// A tier. Segments go there when the last of them arrived `after` ago. `incarnation` is random,
    /// and another for each opening of a store: it makes names that nobody has used.
    #[must_use]
    pub fn new(
        objects: Arc<dyn ColdObjects>,
        after: Duration,
        cache_bytes: u64,
        incarnation: u64,
    ) -> Self {
        let blocks = moka::sync::Cache::builder()
            .max_capacity(cache_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, block: &Bytes| u32::try_from(block.len() + 64).unwrap_or(u32::MAX))
            .build();
        Self { objects, after, incarnation, blocks, metrics: ColdMetrics::default() }
    }
}

/// Writes what stays of a segment that has become an object.
pub(crate) fn write(
    path: &Path,
    segment: &Segment,
    object: String,
    object_bytes: u64,
) -> Result<(), StoreError> {
    let (file, footer) = (segment.file(), &segment.footer);
    let mut writer = SealedWriter::create(path, COLD_FORMAT)?;
    let mut copy = |section, compress| writer.section(&file.section(section)?, compress);
    let (contexts, blocks) = (copy(&footer.contexts, true)?, copy(&footer.blocks, true)?);
    let filter = copy(&footer.filter, false)?;
    let segment = SegmentFooter { contexts, blocks, filter, ..footer.clone() };
    writer.finish(&ColdFooter { object, object_bytes, segment })?;
    Ok(())
}

/// The blocks of a cold segment.
#[derive(Debug)]
pub(crate) struct FarBlocks {
    id: u64,
    tier: ColdTier,
    object: String,
    object_bytes: u64,
}

impl FarBlocks {
    pub(crate) fn new(id: u64, tier: &ColdTier, footer: &ColdFooter) -> Self {
        let (object, object_bytes) = (footer.object.clone(), footer.object_bytes);
        Self { id, tier: tier.clone(), object, object_bytes }
    }

    pub(crate) const fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// Reads a block. One whose checksum differs was spoilt on its way perhaps: it is asked for once
    /// more before it counts as damaged.
    pub(crate) fn block(&self, meta: &BlockMeta) -> Result<Vec<u8>, StoreError> {
        if let Some(block) = self.tier.blocks.get(&(self.id, meta.offset)) {
            self.tier.metrics.cache_hits.inc();
            return Ok(block.to_vec());
        }
        for _ in 0..2 {
            let read = self.fetch(&[*meta])?;
            if let Some(block) = read.into_iter().flatten().next() {
                return Ok(block.to_vec());
            }
        }
        let what = format!("a checksum differs at {}", meta.offset);
        Err(damaged(Path::new(&self.object), &what))
    }

    /// Fetches blocks together. What fails is met again, and told, by whoever reads the block.
    pub(crate) fn read_ahead(&self, metas: &[BlockMeta]) {
        let is_lacking =
            |meta: &&BlockMeta| !self.tier.blocks.contains_key(&(self.id, meta.offset));
        let mut metas: Vec<BlockMeta> = metas.iter().filter(is_lacking).copied().collect();
        let bytes: u64 = metas.iter().map(|meta| meta.length).sum();
        let has_room = self.tier.blocks.policy().max_capacity().is_none_or(|room| room / 2 > bytes);
        if metas.len() > 1 && has_room {
            metas.sort_unstable_by_key(|meta| meta.offset);
            drop(self.fetch(&metas));
        }
    }

    /// Reads blocks, each with its checksum checked; `None` where that differs.
    fn fetch(&self, metas: &[BlockMeta]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let metrics = &self.tier.metrics;
        let ends = metas.iter().map(|meta| meta.offset..meta.offset.saturating_add(meta.length));
        metrics.reads.inc();
        let read = self.tier.objects.read(&self.object, &ends.collect::<Vec<_>>());
        let read = read.inspect_err(|_| {
            metrics.failed_reads.inc();
        })?;
        let blocks = metas.iter().zip(read).map(|(meta, bytes)| {
            metrics.read_bytes.inc_by(bytes.len() as u64);
            let is_whole = crc32c::crc32c(&bytes) == meta.crc;
            if is_whole {
                // Out of the buffer of the whole request, which would live as long as its last part.
                let block = Bytes::copy_from_slice(&bytes);
                self.tier.blocks.insert((self.id, meta.offset), block);
            }
            is_whole.then_some(bytes)
        });
        Ok(blocks.collect())
    }
}
