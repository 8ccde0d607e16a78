//! A row in memory: packed, names as numbers of [`Names`].
//!
//! ```text
//! trace id [16] | last append u64 | tenant, writer, version (varints) | flags u8
//! with detail: start before last append (zigzag) | length | spans | errors
//!   services: count, then each: service, spans, errors
//!   root: span id [8] | service | operation | start after min start (zigzag) | duration*2+error
//!   entries: count, then each: span id [8] | parent [8] | service | start (zigzag) | duration*2+error
//! ```
//!
//! An operation is its number + 1, or 0, length and text. Differences wrap: 64 bits come back as
//! they went in.

use std::sync::Arc;

use proto::wire::{put_varint, read_varint};
use trace_model::location::{Detail, EntrySpan, Keep, RootSpan, ServiceCount};
use trace_model::{Contribution, SpanId, TenantId, TraceId, UnixNanos};

use super::names::Names;

const KEEP_MASK: u8 = 0b11;
const ERASED: u8 = 1 << 2;
const DETAIL: u8 = 1 << 3;
const LOWER_BOUND: u8 = 1 << 4;
const ROOT: u8 = 1 << 5;

/// Bytes that a row takes with its allocation (16-byte classes and an 8-byte header).
pub(super) const fn allocated(row: &[u8]) -> usize {
    row.len().saturating_add(8 + 15) / 16 * 16
}

pub(super) fn encode(
    contribution: &Contribution,
    tenant: u32,
    writer: u32,
    names: &mut Names,
) -> Box<[u8]> {
    let mut row = Vec::with_capacity(128);
    row.extend_from_slice(contribution.trace_id.as_bytes());
    row.extend_from_slice(&contribution.last_append.0.to_le_bytes());
    put_varint(&mut row, u64::from(tenant));
    put_varint(&mut row, u64::from(writer));
    put_varint(&mut row, contribution.version);
    row.push(flags(contribution));
    if let Some(detail) = &contribution.detail {
        put_detail(&mut row, detail, contribution.last_append, names);
    }
    row.into_boxed_slice()
}

fn flags(contribution: &Contribution) -> u8 {
    let mut flags = contribution.keep as u8;
    let detail = contribution.detail.as_ref();
    for (flag, is_set) in [
        (ERASED, contribution.is_erased),
        (DETAIL, detail.is_some()),
        (LOWER_BOUND, detail.is_some_and(|detail| detail.is_lower_bound)),
        (ROOT, detail.is_some_and(|detail| detail.root.is_some())),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    flags
}

fn put_detail(row: &mut Vec<u8>, detail: &Detail, last_append: UnixNanos, names: &mut Names) {
    put_difference(row, last_append, detail.min_start);
    put_varint(row, detail.max_end.0.wrapping_sub(detail.min_start.0));
    put_varint(row, u64::from(detail.span_count));
    put_varint(row, u64::from(detail.error_count));
    put_varint(row, detail.services.len() as u64);
    for count in &detail.services {
        put_varint(row, u64::from(names.intern(&count.service)));
        put_varint(row, u64::from(count.spans));
        put_varint(row, u64::from(count.errors));
    }
    if let Some(root) = &detail.root {
        row.extend_from_slice(root.span_id.as_bytes());
        put_varint(row, u64::from(names.intern(&root.service)));
        put_operation(row, &root.operation, names);
        put_difference(row, detail.min_start, root.start);
        put_duration(row, root.duration_nanos, root.is_error);
    }
    put_varint(row, detail.entries.len() as u64);
    for entry in &detail.entries {
        row.extend_from_slice(entry.span_id.as_bytes());
        row.extend_from_slice(entry.parent_span_id.as_bytes());
        put_varint(row, u64::from(names.intern(&entry.service)));
        put_difference(row, detail.min_start, entry.start);
        put_duration(row, entry.duration_nanos, entry.is_error);
    }
}

fn put_operation(row: &mut Vec<u8>, operation: &str, names: &mut Names) {
    if let Some(id) = names.intern_bounded(operation) {
        put_varint(row, u64::from(id).saturating_add(1));
        return;
    }
    put_varint(row, 0);
    put_varint(row, operation.len() as u64);
    row.extend_from_slice(operation.as_bytes());
}

/// Zigzag of the distance (as in protobuf's sint64).
fn put_difference(row: &mut Vec<u8>, from: UnixNanos, to: UnixNanos) {
    let distance = to.0.wrapping_sub(from.0).cast_signed();
    put_varint(row, ((distance << 1) ^ (distance >> 63)).cast_unsigned());
}

/// The error bit goes above a duration of 63 bits; a longer one (292 years) has a byte more.
fn put_duration(row: &mut Vec<u8>, nanos: u64, is_error: bool) {
    let is_long = nanos >> 62 != 0;
    let low = if is_long { 0 } else { nanos };
    put_varint(row, low << 2 | u64::from(is_long) << 1 | u64::from(is_error));
    if is_long {
        put_varint(row, nanos);
    }
}

/// The head of a row, read; the rest is read when asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowView<'a> {
    pub(super) trace_id: [u8; 16],
    pub(super) last_append: UnixNanos,
    pub(super) tenant: u32,
    pub(super) writer: u32,
    pub(super) version: u64,
    flags: u8,
    rest: &'a [u8],
}

impl<'a> RowView<'a> {
    pub(super) fn read(row: &'a [u8]) -> Option<Self> {
        let (trace_id, rest) = row.split_first_chunk::<16>()?;
        let (last_append, rest) = rest.split_first_chunk::<8>()?;
        let mut reader = Reader { rest };
        let tenant = reader.short()?;
        let writer = reader.short()?;
        let version = reader.varint()?;
        let (flags, rest) = reader.rest.split_first()?;
        Some(Self {
            trace_id: *trace_id,
            last_append: UnixNanos(u64::from_le_bytes(*last_append)),
            tenant,
            writer,
            version,
            flags: *flags,
            rest,
        })
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    const fn reader(&self) -> Reader<'a> {
        Reader { rest: self.rest }
    }

    /// Whether the writer erased its part.
    pub(super) const fn is_erased(&self) -> bool {
        self.has(ERASED)
    }

    /// Whether spans are held that the row says nothing of but the route.
    pub(super) const fn is_bare(&self) -> bool {
        let is_sampled_out = self.flags & KEEP_MASK == Keep::SampledOut as u8;
        !self.has(DETAIL) && !self.is_erased() && !is_sampled_out
    }

    /// Start, length, spans, errors, and the reader behind them.
    fn head(&self) -> Option<(UnixNanos, u64, u32, u32, Reader<'a>)> {
        if !self.has(DETAIL) {
            return None;
        }
        let mut reader = self.reader();
        let start = reader.difference(self.last_append)?;
        let length = reader.varint()?;
        let (spans, errors) = (reader.short()?, reader.short()?);
        Some((start, length, spans, errors, reader))
    }

    /// What it says of its trace's times and errors; `None` where it says no more than the route.
    pub(super) fn times(&self) -> Option<RowTimes> {
        let (start, length, _, errors, _) = self.head()?;
        let end = UnixNanos(start.0.wrapping_add(length));
        Some(RowTimes { start, end, has_errors: errors > 0 })
    }

    /// Numbers of its services.
    pub(super) fn services(&self) -> impl Iterator<Item = u32> {
        let reader = self.head().map(|(_, _, _, _, reader)| reader);
        let mut reader = reader.unwrap_or(Reader { rest: &[] });
        let mut left = reader.varint().unwrap_or(0);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let service = reader.short()?;
            reader.varint()?;
            reader.varint()?;
            Some(service)
        })
    }

    /// Visits the number of every text that it uses; `None` where it cannot be read to its end.
    pub(super) fn each_text(&self, visit: &mut dyn FnMut(u32)) -> Option<()> {
        visit(self.tenant);
        let Some((.., mut reader)) = self.head() else { return Some(()) };
        for _ in 0..reader.varint()? {
            visit(reader.short()?);
            reader.varint()?;
            reader.varint()?;
        }
        if self.has(ROOT) {
            reader.span_id()?;
            visit(reader.short()?);
            reader.operation_number()?.into_iter().for_each(&mut *visit);
            reader.varint()?;
            reader.duration()?;
        }
        for _ in 0..reader.varint()? {
            reader.span_id()?;
            reader.span_id()?;
            visit(reader.short()?);
            reader.varint()?;
            reader.duration()?;
        }
        Some(())
    }

    /// Its root, in numbers.
    pub(super) fn root(&self) -> Option<RowRoot> {
        let (min_start, _, _, _, mut reader) = self.head()?;
        if !self.has(ROOT) {
            return None;
        }
        for _ in 0..reader.varint()?.saturating_mul(3) {
            reader.varint()?;
        }
        let span_id = reader.span_id()?;
        let service = reader.short()?;
        let operation = reader.operation_number()?;
        Some(RowRoot { start: reader.difference(min_start)?, span_id, service, operation })
    }

    pub(super) fn contribution(&self, names: &Names) -> Option<Contribution> {
        Some(Contribution {
            version: self.version,
            tenant: TenantId::new(names.text(self.tenant)?).ok()?,
            trace_id: TraceId::from_bytes(self.trace_id).ok()?,
            writer: names.writer(self.writer)?.clone(),
            last_append: self.last_append,
            keep: match self.flags & KEEP_MASK {
                0 => Keep::Pending,
                1 => Keep::SampledOut,
                _ => Keep::Keep,
            },
            is_erased: self.has(ERASED),
            detail: if self.has(DETAIL) { Some(self.detail(names)?) } else { None },
        })
    }

    fn detail(&self, names: &Names) -> Option<Detail> {
        let (min_start, length, span_count, error_count, mut reader) = self.head()?;
        let count = reader.short()?;
        let mut services = Vec::with_capacity(reader.bounded(count, 3));
        for _ in 0..count {
            let service = Arc::clone(names.text(reader.short()?)?);
            let (spans, errors) = (reader.short()?, reader.short()?);
            services.push(ServiceCount { service, spans, errors });
        }
        let root = if self.has(ROOT) { Some(reader.root(min_start, names)?) } else { None };
        let count = reader.short()?;
        let mut entries = Vec::with_capacity(reader.bounded(count, 19));
        for _ in 0..count {
            entries.push(reader.entry(min_start, names)?);
        }
        let is_lower_bound = self.has(LOWER_BOUND);
        let max_end = UnixNanos(min_start.0.wrapping_add(length));
        Some(Detail {
            min_start,
            max_end,
            span_count,
            error_count,
            is_lower_bound,
            services,
            root,
            entries,
        })
    }
}

/// What a row says of its trace's times and errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowTimes {
    pub(super) start: UnixNanos,
    pub(super) end: UnixNanos,
    pub(super) has_errors: bool,
}

/// A root in numbers, ordered as roots are chosen: the earliest, by id where two are as early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowRoot {
    pub(super) start: UnixNanos,
    pub(super) span_id: SpanId,
    pub(super) service: u32,
    /// `None` where its operation has no number.
    pub(super) operation: Option<u32>,
}

/// Reads what this module wrote; `None` where it did not.
#[derive(Clone, Copy, Debug)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let (value, rest) = read_varint(self.rest).ok()?;
        self.rest = rest;
        Some(value)
    }

    fn short(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    fn difference(&mut self, from: UnixNanos) -> Option<UnixNanos> {
        let zigzag = self.varint()?;
        let distance = (zigzag >> 1) ^ 0_u64.wrapping_sub(zigzag & 1);
        Some(UnixNanos(from.0.wrapping_add(distance)))
    }

    fn duration(&mut self) -> Option<(u64, bool)> {
        let word = self.varint()?;
        let is_error = word & 1 != 0;
        let nanos = if word & 2 == 0 { word >> 2 } else { self.varint()? };
        Some((nanos, is_error))
    }

    fn span_id(&mut self) -> Option<SpanId> {
        let (id, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        SpanId::from_bytes(*id).ok()
    }

    fn name(&mut self, names: &Names) -> Option<Arc<str>> {
        names.text(self.short()?).cloned()
    }

    fn operation(&mut self, names: &Names) -> Option<Arc<str>> {
        if let Some(id) = self.varint()?.checked_sub(1) {
            return names.text(u32::try_from(id).ok()?).cloned();
        }
        let length = usize::try_from(self.varint()?).ok()?;
        let (text, rest): (&'a [u8], &'a [u8]) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(Arc::from)
    }

    /// The number of an operation, where it has one.
    fn operation_number(&mut self) -> Option<Option<u32>> {
        if let Some(id) = self.varint()?.checked_sub(1) {
            return u32::try_from(id).ok().map(Some);
        }
        let length = usize::try_from(self.varint()?).ok()?;
        self.rest = self.rest.get(length..)?;
        Some(None)
    }

    fn root(&mut self, min_start: UnixNanos, names: &Names) -> Option<RootSpan> {
        let span_id = self.span_id()?;
        let service = self.name(names)?;
        let operation = self.operation(names)?;
        let start = self.difference(min_start)?;
        let (duration_nanos, is_error) = self.duration()?;
        Some(RootSpan { service, operation, start, span_id, duration_nanos, is_error })
    }

    fn entry(&mut self, min_start: UnixNanos, names: &Names) -> Option<EntrySpan> {
        let span_id = self.span_id()?;
        let parent_span_id = self.span_id()?;
        let service = self.name(names)?;
        let start = self.difference(min_start)?;
        let (duration_nanos, is_error) = self.duration()?;
        Some(EntrySpan { span_id, parent_span_id, service, start, duration_nanos, is_error })
    }

    /// A count that the rest can back, each item taking so many bytes at least.
    fn bounded(&self, count: u32, bytes_min: usize) -> usize {
        (count as usize).min(self.rest.len() / bytes_min)
    }
}
