//! Writes a segment: traces in order of (tenant, trace id), cut into blocks, then the tables that
//! find them.

use std::path::Path;
use std::sync::Arc;

use trace_model::{ScopeContext, TenantId, TraceId};

use super::block_encode::{BlockEncoder, Row};
use super::bloom;
use super::contexts::ContextTable;
use super::hash::{tenant_seed, trace_hash};
use super::index_build::IndexBuilder;
use super::sealed_file::{SealedWriter, disk_error};
use super::segment::{BlockMeta, CoveredRange, SEGMENT_FORMAT, SegmentFooter, encode_blocks};
use crate::StoreError;

/// A block of few but large spans ends here.
const BLOCK_RAW_BYTES_MAX: usize = 4 << 20;

/// A segment being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: SealedWriter,
    encoder: BlockEncoder,
    index: IndexBuilder,
    contexts: ContextTable,
    block_spans: usize,
    block_raw_bytes: usize,
    open_block: Option<BlockMeta>,
    blocks: Vec<BlockMeta>,
    trace_hashes: Vec<u64>,
    tenants: Vec<(TenantId, u64)>,
    buffer: Vec<u8>,
    spans: u64,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct WrittenSegment {
    pub(crate) footer: SegmentFooter,
    pub(crate) index: IndexBuilder,
}

impl SegmentWriter {
    pub(crate) fn create(path: &Path, block_spans: usize) -> Result<Self, StoreError> {
        Ok(Self {
            file: SealedWriter::create(path, SEGMENT_FORMAT)?,
            encoder: BlockEncoder::new().map_err(|error| disk_error(path, &error))?,
            index: IndexBuilder::new(),
            contexts: ContextTable::default(),
            block_spans: block_spans.max(1),
            block_raw_bytes: 0,
            open_block: None,
            blocks: Vec::new(),
            trace_hashes: Vec::new(),
            tenants: Vec::new(),
            buffer: Vec::new(),
            spans: 0,
        })
    }

    /// Spans written so far.
    pub(crate) const fn spans(&self) -> u64 {
        self.spans
    }

    /// The place of a context in this segment.
    pub(crate) fn intern(&mut self, context: &Arc<ScopeContext>) -> u32 {
        self.contexts.intern(context, &mut self.index)
    }

    /// Adds all spans of a trace, in the order of their starts. Traces come in order of (tenant,
    /// trace id), each once.
    pub(crate) fn push_trace(
        &mut self,
        tenant: &TenantId,
        trace_id: TraceId,
        rows: &[Row<'_>],
    ) -> Result<(), StoreError> {
        let (tenant, seed) = self.tenant(tenant);
        self.trace_hashes.push(trace_hash(seed, trace_id));
        let is_other_tenant = self.open_block.is_some_and(|block| block.tenant != tenant);
        if is_other_tenant || !self.has_room(rows) {
            self.finish_block()?;
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(self.fitting(rest));
            self.push_rows(tenant, trace_id, part);
            rest = others;
            if !rest.is_empty() {
                self.finish_block()?;
            }
        }
        Ok(())
    }

    /// Whether the open block takes these rows as well.
    fn has_room(&self, rows: &[Row<'_>]) -> bool {
        let bytes: usize = rows.iter().map(|row| row.bytes.len()).sum();
        self.encoder.rows() + rows.len() <= self.block_spans
            && self.block_raw_bytes.saturating_add(bytes) <= BLOCK_RAW_BYTES_MAX
    }

    /// How many of the rows an empty block takes: at least one.
    fn fitting(&self, rows: &[Row<'_>]) -> usize {
        let mut bytes = 0_usize;
        let within = rows.iter().take(self.block_spans).take_while(|row| {
            bytes = bytes.saturating_add(row.bytes.len());
            bytes <= BLOCK_RAW_BYTES_MAX
        });
        within.count().max(1)
    }

    fn tenant(&mut self, tenant: &TenantId) -> (u32, u64) {
        let is_last = self.tenants.last().is_some_and(|(last, _)| last == tenant);
        if !is_last {
            self.tenants.push((tenant.clone(), tenant_seed(tenant.as_str())));
        }
        let place = u32::try_from(self.tenants.len().saturating_sub(1)).unwrap_or(u32::MAX);
        (place, self.tenants.last().map_or(0, |(_, seed)| *seed))
    }

    fn push_rows(&mut self, tenant: u32, trace_id: TraceId, rows: &[Row<'_>]) {
        self.encoder.push_trace(tenant, trace_id, rows, &mut self.index);
        self.spans += rows.len() as u64;
        let block = self.open_block.get_or_insert(BlockMeta {
            tenant,
            offset: 0,
            length: 0,
            crc: 0,
            rows: 0,
            first: trace_id,
            last: trace_id,
            placed_min: u64::MAX,
            placed_max: 0,
        });
        block.last = trace_id;
        for row in rows {
            block.placed_min = block.placed_min.min(row.placed);
            block.placed_max = block.placed_max.max(row.placed);
            self.block_raw_bytes += row.bytes.len();
        }
    }

    fn finish_block(&mut self) -> Result<(), StoreError> {
        let Some(mut block) = self.open_block.take() else { return Ok(()) };
        block.rows = u32::try_from(self.encoder.rows()).unwrap_or(u32::MAX);
        self.buffer.clear();
        self.encoder
            .finish(&mut self.buffer)
            .map_err(|error| StoreError::Unavailable(format!("a block: {error}")))?;
        self.index.finish_block();
        block.offset = self.file.offset();
        block.length = self.buffer.len() as u64;
        block.crc = crc32c::crc32c(&self.buffer);
        self.file.write(&self.buffer)?;
        self.blocks.push(block);
        self.block_raw_bytes = 0;
        Ok(())
    }

    /// Writes the tables, makes the file durable and names it.
    pub(crate) fn finish(
        mut self,
        ranges: Vec<CoveredRange>,
        appended_max: u64,
    ) -> Result<WrittenSegment, StoreError> {
        self.finish_block()?;
        let contexts = self.file.section(&self.contexts.encode(), true)?;
        let blocks = self.file.section(&encode_blocks(&self.blocks), true)?;
        let filter = bloom::build(&self.trace_hashes, bloom::TRACES);
        let filter = self.file.section(&filter, false)?;
        let footer = SegmentFooter {
            spans: self.spans,
            traces: self.trace_hashes.len() as u64,
            tenants: self.tenants.iter().map(|(name, _)| name.as_str().to_owned()).collect(),
            placed_min: self.blocks.iter().map(|block| block.placed_min).min().unwrap_or(0),
            placed_max: self.blocks.iter().map(|block| block.placed_max).max().unwrap_or(0),
            appended_max,
            ranges,
            contexts,
            blocks,
            filter,
        };
        self.file.finish(&footer)?;
        Ok(WrittenSegment { footer, index: self.index })
    }
}
