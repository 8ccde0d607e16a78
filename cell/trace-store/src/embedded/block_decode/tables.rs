//! The tables at the head of a block, each count and place checked before it is used.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use trace_model::merge::Envelope;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TraceId, UnixNanos};
use zstd::bulk::Decompressor;

use super::{BlockColumn, IDS_CHUNK, TraceRun, Window};
use crate::embedded::block_encode::Source;
use crate::embedded::cursor::{Corrupt, Cursor};
use crate::embedded::numbers;
use crate::embedded::template::{Code, Tag};
use crate::embedded::tokens::Token;

/// Largest chunk that is decompressed: far above what a block can hold, far below memory.
const CHUNK_BYTES_MAX: usize = 1 << 30;

pub(super) fn read_directory(bytes: &[u8]) -> Result<Vec<(Range<usize>, usize)>, Corrupt> {
    let mut cursor = Cursor::new(bytes);
    let count = cursor.count(2)?;
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push((cursor.length()?, cursor.length()?));
    }
    let mut at = bytes.len() - cursor.remaining();
    let mut chunks = Vec::with_capacity(count);
    for (stored, raw) in lengths {
        let end = at.checked_add(stored).filter(|end| *end <= bytes.len());
        let end = end.ok_or(Corrupt("a chunk beyond its block"))?;
        chunks.push((at..end, raw));
        at = end;
    }
    Ok(chunks)
}

pub(super) fn load(
    bytes: &[u8],
    chunks: &[(Range<usize>, usize)],
    chunk: usize,
) -> Result<Vec<u8>, Corrupt> {
    let (range, raw) = chunks.get(chunk).cloned().ok_or(Corrupt("a chunk that is not there"))?;
    let stored = bytes.get(range).ok_or(Corrupt("a chunk that is not there"))?;
    match raw {
        0 => Ok(stored.to_vec()),
        raw if raw > CHUNK_BYTES_MAX => Err(Corrupt("a chunk too large")),
        raw => decompress(stored, raw),
    }
}

thread_local! {
    /// A decompressor's context is large; making one costs more than most chunks do.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn decompress(stored: &[u8], raw: usize) -> Result<Vec<u8>, Corrupt> {
    let corrupt = |_| Corrupt("a chunk that is not zstd");
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new().map_err(corrupt)?),
        };
        decompressor.decompress(stored, raw).map_err(corrupt)
    })
}

pub(super) fn read_columns(cursor: &mut Cursor<'_>) -> Result<Vec<BlockColumn>, Corrupt> {
    let count = cursor.count(3)?;
    let mut columns = Vec::with_capacity(count);
    let mut chunk = IDS_CHUNK + 1;
    let mut next = |is_there: bool| {
        let place = is_there.then_some(chunk);
        chunk += usize::from(is_there);
        place
    };
    for _ in 0..count {
        let code = Code::from_byte(cursor.byte()?).ok_or(Corrupt("a part that is not known"))?;
        let tag = Tag { code, argument: cursor.byte()? };
        let token = Token { tag, key: cursor.sized()?.into() };
        columns.push(BlockColumn {
            token,
            text_chunk: next(code.has_text()),
            number_chunk: next(code.has_number()),
            texts: None,
            numbers: None,
            window: Window::default(),
        });
    }
    Ok(columns)
}

pub(super) fn read_templates(
    cursor: &mut Cursor<'_>,
    columns: usize,
) -> Result<Vec<Vec<usize>>, Corrupt> {
    let count = cursor.count(1)?;
    let mut templates = Vec::with_capacity(count);
    for _ in 0..count {
        let length = cursor.count(1)?;
        let mut template = Vec::with_capacity(length);
        for _ in 0..length {
            template.push(cursor.length()?);
        }
        if template.iter().any(|column| *column >= columns) {
            return Err(Corrupt("a template of unknown columns"));
        }
        templates.push(template);
    }
    Ok(templates)
}

pub(super) fn places(numbers: &[u64], below: usize) -> Result<Vec<usize>, Corrupt> {
    let place = |number: &u64| usize::try_from(*number).ok().filter(|place| *place < below);
    let places: Option<Vec<usize>> = numbers.iter().map(place).collect();
    places.ok_or(Corrupt("a place beyond its table"))
}

pub(super) fn read_sources(cursor: &mut Cursor<'_>) -> Result<Vec<Source>, Corrupt> {
    let times = numbers::decode(cursor)?;
    let thresholds = numbers::decode(cursor)?;
    let names_of = numbers::decode(cursor)?;
    let count = cursor.count(2)?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let region = Region::new(cursor.text()?).map_err(|_| Corrupt("not a region"))?;
        names.push((region, Arc::<str>::from(cursor.text()?)));
    }
    let places = places(&names_of, names.len())?;
    let mut sources = Vec::with_capacity(times.len());
    for ((time, threshold), place) in times.iter().zip(&thresholds).zip(places) {
        let (region, collector) = names.get(place).ok_or(Corrupt("a name beyond its table"))?;
        let envelope = Envelope {
            receive_time: UnixNanos(*time),
            region: region.clone(),
            collector: Arc::clone(collector),
        };
        let threshold = Threshold::from_bits(*threshold);
        sources.push(Source { envelope: Arc::new(envelope), threshold });
    }
    Ok(sources)
}

pub(super) fn read_traces(
    rows: &[u64],
    ids: &[u8],
    count: usize,
) -> Result<Vec<TraceRun>, Corrupt> {
    let mut first = 0_usize;
    let mut traces = Vec::with_capacity(rows.len());
    for (rows, id) in rows.iter().zip(ids.chunks_exact(16)) {
        let trace_id = TraceId::try_from(id).map_err(|_| Corrupt("an id of zeros"))?;
        let rows = usize::try_from(*rows).map_err(|_| Corrupt("a trace too long"))?;
        traces.push(TraceRun { trace_id, first, rows });
        first = first.saturating_add(rows);
    }
    if first != count || traces.len() != rows.len() || ids.len() < rows.len() * 16 + count * 8 {
        return Err(Corrupt("traces that do not fill their block"));
    }
    Ok(traces)
}

pub(super) fn add_trace_starts(
    traces: &[TraceRun],
    trace_starts: &[u64],
    starts: &mut [u64],
) -> Result<(), Corrupt> {
    if traces.len() != trace_starts.len() {
        return Err(Corrupt("columns of unlike lengths"));
    }
    for (run, trace_start) in traces.iter().zip(trace_starts) {
        let rows = starts.get_mut(run.first..run.first + run.rows);
        for start in rows.ok_or(Corrupt("a trace beyond its block"))? {
            *start = start.wrapping_add(*trace_start);
        }
    }
    Ok(())
}
