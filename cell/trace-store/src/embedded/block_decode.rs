//! A block's bytes back into rows. Chunks are decompressed only when a question needs them: a trace
//! by id needs the columns of its own templates, a search those of its filter.

use std::ops::Range;

use bytes::Bytes;
use proto::wire::SpanHeader;
use trace_model::time::place;
use trace_model::{SpanId, TraceId, UnixNanos};

use super::block_encode::Source;
use super::cursor::{Corrupt, Cursor};
use super::numbers::{self, Planes, unzigzag};
use super::template::{Code, Part, RowFacts, Tag, put_part};
use super::texts::{TextWindow, Texts};
use super::tokens::Token;

mod tables;

use tables::{
    add_trace_starts, load, places, read_columns, read_directory, read_sources, read_templates,
    read_traces,
};

/// The rows of one trace within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceRun {
    pub(crate) trace_id: TraceId,
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

/// A token's column: the places of its chunks, and its values once they are loaded.
#[derive(Debug)]
pub(crate) struct BlockColumn {
    pub(crate) token: Token,
    text_chunk: Option<usize>,
    number_chunk: Option<usize>,
    texts: Option<Texts>,
    numbers: Option<Vec<u64>>,
    /// Of a column that is not loaded: the values of one trace.
    window: Window,
}

/// Some values of a column, side by side.
#[derive(Debug, Default)]
struct Window {
    /// The position of the first in the column.
    first: usize,
    texts: TextWindow,
    numbers: Vec<u64>,
    /// How many numbers before them are 0.
    zeros_before: usize,
}

impl BlockColumn {
    /// The text at a position, of the column or of its window.
    fn text_at(&self, position: usize) -> Result<&[u8], Corrupt> {
        match &self.texts {
            Some(texts) => texts.get(position),
            None => self.window.texts.get(self.in_window(position)?),
        }
    }

    /// The number at a position, of the column or of its window.
    fn number_at(&self, position: usize) -> Result<u64, Corrupt> {
        let number = match &self.numbers {
            Some(numbers) => numbers.get(position),
            None => self.window.numbers.get(self.in_window(position)?),
        };
        number.copied().ok_or(Corrupt("a column too short"))
    }

    /// How many numbers before a position are 0.
    fn zeros_before(&self, position: usize) -> Result<usize, Corrupt> {
        let (before, numbers, end) = match &self.numbers {
            Some(numbers) => (0, numbers, position),
            None => (self.window.zeros_before, &self.window.numbers, self.in_window(position)?),
        };
        Ok(before + numbers.iter().take(end).filter(|number| **number == 0).count())
    }

    fn in_window(&self, position: usize) -> Result<usize, Corrupt> {
        position.checked_sub(self.window.first).ok_or(Corrupt("a value before its window"))
    }

    pub(crate) fn texts(&self) -> Result<&Texts, Corrupt> {
        self.texts.as_ref().ok_or(Corrupt("a column that is not there"))
    }

    pub(crate) fn numbers(&self) -> Result<&[u64], Corrupt> {
        self.numbers.as_deref().ok_or(Corrupt("a column that is not there"))
    }
}

/// A span put together again.
#[derive(Clone, Debug)]
pub(crate) struct RebuiltRow {
    pub(crate) facts: RowFacts,
    pub(crate) kind: u8,
    pub(crate) status: u8,
    pub(crate) bytes: Bytes,
    /// Place of its context in the segment.
    pub(crate) context: u32,
    /// Place of its source in the block.
    pub(crate) source: usize,
}

/// A block opened.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    chunks: Vec<(Range<usize>, usize)>,
    /// Some span may be unreadable: questions read all of them in full.
    pub(crate) is_unreadable: bool,
    pub(crate) columns: Vec<BlockColumn>,
    /// The columns of each template, in order.
    pub(crate) templates: Vec<Vec<usize>>,
    pub(crate) row_templates: Vec<usize>,
    pub(crate) traces: Vec<TraceRun>,
    pub(crate) starts: Vec<u64>,
    pub(crate) ends: Vec<u64>,
    pub(crate) contexts: Vec<u32>,
    pub(crate) sources: Vec<usize>,
    pub(crate) source_table: Vec<Source>,
}

/// Index of the chunk of ids.
const IDS_CHUNK: usize = 1;

impl Block {
    /// Reads directory and core.
    pub(crate) fn open(bytes: Vec<u8>) -> Result<Self, Corrupt> {
        let chunks = read_directory(&bytes)?;
        let core = load(&bytes, &chunks, 0)?;
        let mut cursor = Cursor::new(&core);
        let is_unreadable = cursor.byte()? != 0;
        let columns = read_columns(&mut cursor)?;
        let templates = read_templates(&mut cursor, columns.len())?;
        let trace_rows = numbers::decode(&mut cursor)?;
        let trace_starts = numbers::decode(&mut cursor)?;
        let row_templates = places(&numbers::decode(&mut cursor)?, templates.len())?;
        let mut starts = numbers::decode(&mut cursor)?;
        let mut ends = numbers::decode(&mut cursor)?;
        let contexts = numbers::decode(&mut cursor)?;
        let sources = numbers::decode(&mut cursor)?;
        let source_table = read_sources(&mut cursor)?;
        let sources = places(&sources, source_table.len())?;
        let count = row_templates.len();
        if [starts.len(), ends.len(), contexts.len(), sources.len()] != [count; 4] {
            return Err(Corrupt("columns of unlike lengths"));
        }
        let ids = chunks.get(IDS_CHUNK).and_then(|(range, _)| bytes.get(range.clone()));
        let traces = read_traces(&trace_rows, ids.unwrap_or(&[]), count)?;
        add_trace_starts(&traces, &trace_starts, &mut starts)?;
        for (end, start) in ends.iter_mut().zip(&starts) {
            *end = start.wrapping_add(unzigzag(*end).cast_unsigned());
        }
        let contexts = contexts.into_iter().map(u32::try_from).collect::<Result<_, _>>();
        let contexts = contexts.map_err(|_| Corrupt("a context that cannot be"))?;
        Ok(Self {
            bytes,
            chunks,
            is_unreadable,
            columns,
            templates,
            row_templates,
            traces,
            starts,
            ends,
            contexts,
            sources,
            source_table,
        })
    }

    pub(crate) const fn rows(&self) -> usize {
        self.row_templates.len()
    }

    /// Where a row comes from.
    pub(crate) fn source_of(&self, row: usize) -> Result<&Source, Corrupt> {
        let place = self.sources.get(row).ok_or(Corrupt("a row that is not there"))?;
        self.source_table.get(*place).ok_or(Corrupt("a source that is not there"))
    }

    /// Placement time of a row.
    pub(crate) fn placed(&self, row: usize) -> Result<u64, Corrupt> {
        let missing = Corrupt("a row that is not there");
        let start = UnixNanos(*self.starts.get(row).ok_or(missing)?);
        let end = UnixNanos(*self.ends.get(row).ok_or(missing)?);
        Ok(place(start, end, self.source_of(row)?.envelope.receive_time).time.0)
    }

    /// Loads a column, where it is not loaded yet.
    pub(crate) fn load_column(&mut self, column: usize) -> Result<(), Corrupt> {
        let slot = self.columns.get_mut(column).ok_or(Corrupt("a column that is not there"))?;
        if let (Some(chunk), None) = (slot.text_chunk, &slot.texts) {
            slot.texts = Some(Texts::decode(load(&self.bytes, &self.chunks, chunk)?)?);
        }
        if let (Some(chunk), None) = (slot.number_chunk, &slot.numbers) {
            let bytes = load(&self.bytes, &self.chunks, chunk)?;
            slot.numbers = Some(numbers::decode(&mut Cursor::new(&bytes))?);
        }
        Ok(())
    }

    /// Reads some values of a column that is not loaded, at the cost of little more than these.
    fn load_window(&mut self, column: usize, window: Range<usize>) -> Result<(), Corrupt> {
        let slot = self.columns.get_mut(column).ok_or(Corrupt("a column that is not there"))?;
        slot.window = Window { first: window.start, ..Window::default() };
        if let (Some(chunk), None) = (slot.text_chunk, &slot.texts) {
            let bytes = load(&self.bytes, &self.chunks, chunk)?;
            slot.window.texts = TextWindow::decode(bytes, window.clone())?;
        }
        if let (Some(chunk), None) = (slot.number_chunk, &slot.numbers) {
            let bytes = load(&self.bytes, &self.chunks, chunk)?;
            let planes = Planes::read(&mut Cursor::new(&bytes))?;
            slot.window.zeros_before = planes.zeros_before(window.start);
            slot.window.numbers = planes.window(window)?;
        }
        Ok(())
    }

    /// A column.
    pub(crate) fn column(&self, column: usize) -> Result<&BlockColumn, Corrupt> {
        self.columns.get(column).ok_or(Corrupt("a column that is not there"))
    }

    /// How often each column occurs in the rows before this one: where the row's values start.
    pub(crate) fn positions_at(&self, row: usize) -> Result<Vec<usize>, Corrupt> {
        let mut counts = vec![0_usize; self.templates.len()];
        for template in self.row_templates.iter().take(row) {
            *counts.get_mut(*template).ok_or(Corrupt("a template that is not there"))? += 1;
        }
        let mut positions = vec![0_usize; self.columns.len()];
        for (template, count) in self.templates.iter().zip(counts) {
            for column in template {
                *positions.get_mut(*column).ok_or(Corrupt("a column that is not there"))? += count;
            }
        }
        Ok(positions)
    }

    /// Puts all rows of one trace together again, and of its columns reads no more than that: for a
    /// block of which nothing else is wanted.
    pub(crate) fn rebuild_alone(&mut self, run: &TraceRun) -> Result<Vec<RebuiltRow>, Corrupt> {
        let rows = run.first..run.first.saturating_add(run.rows);
        let positions = self.positions_at(rows.start)?;
        let mut ends = positions.clone();
        let templates = self.row_templates.get(rows.clone());
        for template in templates.ok_or(Corrupt("a row that is not there"))? {
            for column in self.templates.get(*template).into_iter().flatten() {
                *ends.get_mut(*column).ok_or(Corrupt("a column that is not there"))? += 1;
            }
        }
        for (column, (first, end)) in positions.iter().zip(ends).enumerate() {
            if *first < end {
                self.load_window(column, *first..end)?;
            }
        }
        self.put_together(run, rows, positions)
    }

    /// Puts rows of one trace together again.
    pub(crate) fn rebuild(
        &mut self,
        run: &TraceRun,
        rows: Range<usize>,
    ) -> Result<Vec<RebuiltRow>, Corrupt> {
        for row in rows.clone() {
            let template = self.row_templates.get(row).ok_or(Corrupt("a row that is not there"))?;
            let template = self.templates.get(*template).cloned().unwrap_or_default();
            for column in template {
                self.load_column(column)?;
            }
        }
        let positions = self.positions_at(rows.start)?;
        self.put_together(run, rows, positions)
    }

    /// The values of the rows are loaded, and start at these positions of the columns.
    fn put_together(
        &self,
        run: &TraceRun,
        rows: Range<usize>,
        mut positions: Vec<usize>,
    ) -> Result<Vec<RebuiltRow>, Corrupt> {
        let mut output = Vec::with_capacity(rows.len() * 512);
        let mut rebuilt = Vec::with_capacity(rows.len());
        for row in rows {
            let start = output.len();
            let rebuilt_row = self.rebuild_row(run, row, &mut positions, &mut output)?;
            rebuilt.push((rebuilt_row, start..output.len()));
        }
        let output = Bytes::from(output);
        let rows = rebuilt.into_iter();
        Ok(rows.map(|(row, range)| RebuiltRow { bytes: output.slice(range), ..row }).collect())
    }

    fn rebuild_row(
        &self,
        run: &TraceRun,
        row: usize,
        positions: &mut [usize],
        output: &mut Vec<u8>,
    ) -> Result<RebuiltRow, Corrupt> {
        let missing = Corrupt("a row that is not there");
        let template = *self.row_templates.get(row).ok_or(missing)?;
        let columns = self.templates.get(template).ok_or(missing)?;
        let facts = RowFacts {
            trace_id: run.trace_id,
            span_id: self.span_id(row)?,
            start: *self.starts.get(row).ok_or(missing)?,
            end: *self.ends.get(row).ok_or(missing)?,
        };
        let mut rebuilt = RebuiltRow {
            facts,
            kind: 0,
            status: 0,
            bytes: Bytes::new(),
            context: *self.contexts.get(row).ok_or(missing)?,
            source: *self.sources.get(row).ok_or(missing)?,
        };
        for column in columns {
            let position = positions.get_mut(*column).ok_or(missing)?;
            let column = self.columns.get(*column).ok_or(missing)?;
            let tag = column.token.tag;
            let has_text = tag.code.has_text();
            let text = if has_text { column.text_at(*position)? } else { &[] };
            let number = if tag.code.has_number() { column.number_at(*position)? } else { 0 };
            let part = Part { tag, key: &column.token.key, text, number };
            if tag.code == Code::Parent {
                let parent = match number {
                    0 => self.escaped_parent(column.zeros_before(*position)?)?,
                    _ => self.parent_at(run, row, number - 1)?,
                };
                put_part(output, &Part { text: &parent, ..part }, &facts);
            } else {
                put_part(output, &part, &facts);
            }
            note_header(&mut rebuilt, tag, text);
            *position += 1;
        }
        Ok(rebuilt)
    }

    fn ids(&self) -> &[u8] {
        let range = self.chunks.get(IDS_CHUNK).map(|(range, _)| range.clone());
        range.and_then(|range| self.bytes.get(range)).unwrap_or(&[])
    }

    pub(crate) fn span_id(&self, row: usize) -> Result<SpanId, Corrupt> {
        id_at(self.ids(), self.traces.len() * 16 + row * 8)
    }

    /// The parent of a span whose parent is not in the block: they stand behind the ids of the rows.
    fn escaped_parent(&self, place: usize) -> Result<[u8; 8], Corrupt> {
        let offset = self.traces.len() * 16 + self.rows() * 8 + place * 8;
        let id = self.ids().get(offset..).and_then(|rest| rest.first_chunk::<8>());
        id.copied().ok_or(Corrupt("a parent that is not there"))
    }

    /// The parent that stands so many rows before or behind, within the trace.
    fn parent_at(&self, run: &TraceRun, row: usize, distance: u64) -> Result<[u8; 8], Corrupt> {
        let distance = isize::try_from(unzigzag(distance));
        let distance = distance.map_err(|_| Corrupt("a parent too far away"))?;
        let parent = row.checked_add_signed(distance.wrapping_neg());
        let parent = parent.filter(|parent| (run.first..run.first + run.rows).contains(parent));
        Ok(*self.span_id(parent.ok_or(Corrupt("a parent outside its trace"))?)?.as_bytes())
    }
}

fn note_header(row: &mut RebuiltRow, tag: Tag, text: &[u8]) {
    if tag.code == Code::Kind && tag.argument <= 5 {
        row.kind = tag.argument;
    } else if tag.code == Code::StatusAlone {
        row.status = tag.argument.saturating_sub(1);
    } else if tag.code == Code::Status {
        let mut span = Vec::with_capacity(text.len() + 4);
        proto::wire::put_bytes_field(&mut span, proto::wire::tags::SPAN_STATUS, text);
        row.status = SpanHeader::read(&span).map_or(0, |header| header.status);
    } else if tag.code == Code::Whole
        && let Ok(header) = SpanHeader::read(text)
    {
        (row.kind, row.status) = (header.kind, header.status);
    }
}

fn id_at(ids: &[u8], offset: usize) -> Result<SpanId, Corrupt> {
    let bytes = ids.get(offset..).and_then(|rest| rest.first_chunk::<8>());
    let bytes = bytes.ok_or(Corrupt("an id that is not there"))?;
    SpanId::from_bytes(*bytes).map_err(|_| Corrupt("an id of zeros"))
}

#[cfg(test)]
mod tests;
