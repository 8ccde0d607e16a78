//! Removing one trace: counts stay, exemplars and edges' traces lose it, in memory and in files.
//!
//! Order: the trace is noted durably first, so that later deltas cannot bring it back; then sealed
//! files are rewritten one by one; at last the rows in memory are sealed without it, which ends the
//! log that had it. A crash in between is mended by erasing again.
//!
//! The aggregator's checkpoint is opaque here: a trace that is still open there leaves it with the
//! next whole checkpoint after it has closed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use trace_model::{TenantId, TraceId};

use super::codec::{DeltaFrame, EncodedRows, Reader, Record, put_bytes};
use super::file::{self, FileKind, HEADER_BYTES, Place, damaged, disk};
use super::sealed::{self, BlockEntry, SealedFile};
use super::state::Writer;
use super::table::Table;
use super::{EmbeddedMetricsStore, Shared, if_there};
use crate::port::{Eraser, ErasureReceipt, StoreError};

/// Traces that were erased. Few: each is an act of a person.
#[derive(Debug, Default)]
pub(super) struct Erased {
    traces: Vec<(TenantId, TraceId)>,
}

fn path_in(directory: &Path) -> PathBuf {
    FileKind::Erased.path(directory, 1)
}

impl Erased {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = path_in(directory);
        let Some(bytes) = if_there(fs::read(&path)).map_err(disk)? else {
            return Ok(Self::default());
        };
        FileKind::Erased.check(&path, &bytes)?;
        let body = bytes.get(HEADER_BYTES..).and_then(|body| body.split_first_chunk::<4>());
        let Some((crc, list)) = body else { return Err(damaged(&path, "it is cut short")) };
        if crc32c::crc32c(list).to_le_bytes() != *crc {
            return Err(damaged(&path, "its checksum does not fit"));
        }
        let mut erased = Self::default();
        let mut reader = Reader { rest: list };
        while !reader.rest.is_empty() {
            let trace = reader.erased_trace().map_err(|error| damaged(&path, error))?;
            erased.traces.push(trace);
        }
        Ok(erased)
    }

    fn note(&mut self, place: &Place, trace: (TenantId, TraceId)) -> Result<(), StoreError> {
        if self.traces.contains(&trace) {
            return Ok(());
        }
        let mut list = Vec::new();
        for (tenant, trace_id) in self.traces.iter().chain([&trace]) {
            put_bytes(&mut list, tenant.as_str().as_bytes());
            list.extend_from_slice(trace_id.as_bytes());
        }
        let mut bytes = FileKind::Erased.header();
        bytes.extend_from_slice(&crc32c::crc32c(&list).to_le_bytes());
        bytes.extend_from_slice(&list);
        file::write_whole(place, &path_in(&place.directory), &bytes).map_err(disk)?;
        self.traces.push(trace);
        Ok(())
    }

    /// Takes erased traces out of a delta.
    pub(super) fn scrub(&self, frame: &mut DeltaFrame) {
        for (tenant, trace_id) in &self.traces {
            scrub_rows(&mut frame.red, tenant, *trace_id);
            scrub_rows(&mut frame.edges, tenant, *trace_id);
        }
    }
}

fn scrub_rows<K: Record>(rows: &mut EncodedRows<K>, tenant: &TenantId, trace_id: TraceId) {
    for (key, bytes) in rows {
        if key.tenant() == tenant
            && may_hold(bytes, trace_id)
            && let Ok(mut row) = K::read_row(bytes)
            && K::forget(&mut row, trace_id)
        {
            let mut scrubbed = Vec::new();
            K::put_row(&row, &mut scrubbed);
            *bytes = scrubbed.into();
        }
    }
}

/// Whether the id stands somewhere in the bytes of a row.
pub(super) fn may_hold(row: &[u8], trace_id: TraceId) -> bool {
    row.windows(16).any(|bytes| bytes == trace_id.as_bytes())
}

impl Shared {
    fn erase(&self, tenant: &TenantId, trace_id: TraceId) -> Result<ErasureReceipt, StoreError> {
        let mut writer = self.writer();
        writer.erased.note(&self.place, (tenant.clone(), trace_id))?;
        let mut files = 0_u64;
        let sealed = self.view().sealed.clone();
        for file in sealed {
            if let Some(rewritten) = rewrite(&self.place, &file, tenant, trace_id)? {
                self.view_mut().replace_sealed(&Arc::new(rewritten));
                files = files.saturating_add(1);
            }
        }
        if self.forget_in_memory(&mut writer, tenant, trace_id)? {
            files = files.saturating_add(1);
        }
        Ok(ErasureReceipt { files, spans: 0 })
    }

    /// Takes the trace out of the rows in memory and ends the log that had it.
    fn forget_in_memory(
        &self,
        writer: &mut Writer,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<bool, StoreError> {
        let is_held = {
            let mut view = self.view_mut();
            let series = view.series.forget(tenant, trace_id).map_err(in_memory)?;
            let edges = view.edges.forget(tenant, trace_id).map_err(in_memory)?;
            view.is_scrubbed |= series || edges || writer.log.may_hold(trace_id)?;
            view.is_scrubbed
        };
        if is_held {
            self.seal(writer)?;
            self.view_mut().is_scrubbed = false;
        }
        Ok(is_held)
    }
}

fn in_memory(error: super::codec::Unfit) -> StoreError {
    StoreError::Damaged(format!("a row in memory: {error}"))
}

/// Writes a sealed file again without the trace, if it has it.
fn rewrite(
    place: &Place,
    file: &SealedFile,
    tenant: &TenantId,
    trace_id: TraceId,
) -> Result<Option<SealedFile>, StoreError> {
    let mut series = load(file, &file.series)?;
    let mut edges = load(file, &file.edges)?;
    let in_series = series.forget(tenant, trace_id).map_err(in_memory)?;
    let in_edges = edges.forget(tenant, trace_id).map_err(in_memory)?;
    if !in_series && !in_edges {
        return Ok(None);
    }
    sealed::write(place, &file.path, &series, &edges, file.last_arrival)?;
    SealedFile::open(&place.directory, file.sequence).map(Some)
}

fn load<K: Record>(file: &SealedFile, blocks: &[BlockEntry<K>]) -> Result<Table<K>, StoreError> {
    let mut table = Table::new();
    for block in blocks {
        file.visit(block, |key: K, row| table.add(vec![(key, row.into())]))?;
    }
    Ok(table)
}

#[async_trait]
impl Eraser for EmbeddedMetricsStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let tenant = tenant.clone();
        self.blocking(move |shared| shared.erase(&tenant, trace_id)).await
    }
}
