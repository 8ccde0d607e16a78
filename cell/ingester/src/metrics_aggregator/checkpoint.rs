//! The aggregator's state as bytes: what it must remember to count on after a crash as if there had
//! been none.
//!
//! A checkpoint is a run of sections, each `tag u8 | length u32 LE | body`: first the whole state,
//! then the calls across borders of every later flush. The store checks integrity; a body that does
//! not fit is an error, never a guess. Integers are LEB128 varints, hashes and ids fixed.

use std::sync::Arc;

use proto::wire::{WireError, put_varint, read_varint};
use trace_model::{TenantId, TraceId, UnixNanos};

use super::edges::Callee;
use super::open_trace::{OpenTrace, Waiting};
use super::operations::{OperationLimits, Windows};
use super::services::{ServiceId, ServiceName, Services};
use super::shard::{Shard, TraceKey};

/// A whole state of this version.
pub(super) const WHOLE_V1: u8 = 1;
/// Calls across borders since the section before.
pub(super) const CALLS_V1: u8 = 2;

/// Why bytes are not a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidCheckpoint {
    #[error("a section of kind {0}, which this release does not know")]
    Unknown(u8),
    #[error("a body that does not fit")]
    Body,
}

impl From<WireError> for InvalidCheckpoint {
    fn from(_: WireError) -> Self {
        Self::Body
    }
}

type Read<T> = Result<T, InvalidCheckpoint>;

/// Writes a section.
pub(super) fn put_section(output: &mut Vec<u8>, tag: u8, body: &[u8]) {
    output.push(tag);
    output.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    output.extend_from_slice(body);
}

/// The sections of a checkpoint, in order.
pub(super) fn sections(mut bytes: &[u8]) -> Read<Vec<(u8, &[u8])>> {
    let mut sections = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let [tag, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or(InvalidCheckpoint::Body)?;
        sections.push((tag, body));
        bytes = rest;
    }
    if bytes.is_empty() { Ok(sections) } else { Err(InvalidCheckpoint::Body) }
}

/// Writes numbers and texts.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn number(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
    }

    pub(super) fn count(&mut self, value: usize) {
        self.number(u64::try_from(value).unwrap_or(u64::MAX));
    }

    pub(super) fn fixed(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// Reads what [`Writer`] wrote.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Read<u64> {
        let (value, rest) = read_varint(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    fn short(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| InvalidCheckpoint::Body)
    }

    /// A number of items, each at least a byte: never more than there are bytes.
    pub(super) fn count(&mut self) -> Read<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| InvalidCheckpoint::Body)?;
        if count > self.rest.len() { Err(InvalidCheckpoint::Body) } else { Ok(count) }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(InvalidCheckpoint::Body)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn fixed(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn byte(&mut self) -> Read<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn text(&mut self) -> Read<&'a str> {
        let length = self.count()?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(InvalidCheckpoint::Body)?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| InvalidCheckpoint::Body)
    }
}

pub(super) fn put_services(writer: &mut Writer, services: &Services) {
    writer.count(services.slots().len());
    for slot in services.slots() {
        let Some(name) = slot else {
            writer.text("");
            continue;
        };
        writer.text(name.tenant.as_str());
        writer.text(&name.service);
        writer.number(name.last_used.0);
    }
}

pub(super) fn read_services(reader: &mut Reader<'_>, services: &mut Services) -> Read<()> {
    let count = reader.count()?;
    let mut slots = Vec::with_capacity(count);
    for _ in 0..count {
        let tenant = reader.text()?;
        if tenant.is_empty() {
            slots.push(None);
            continue;
        }
        let tenant = TenantId::new(tenant).map_err(|_| InvalidCheckpoint::Body)?;
        let service: Arc<str> = reader.text()?.into();
        let last_used = UnixNanos(reader.number()?);
        slots.push(Some(ServiceName { tenant, service, last_used }));
    }
    services.restore(slots);
    Ok(())
}

pub(super) fn put_operations(writer: &mut Writer, operations: &OperationLimits) {
    writer.count(operations.hours().len());
    for (hour, windows) in operations.hours() {
        writer.number(u64::from(*hour));
        writer.count(windows.len());
        for ((service, minute), operations) in windows {
            writer.number(u64::from(service.0));
            writer.number(u64::from(*minute));
            writer.count(operations.len());
            for operation in operations {
                writer.fixed(*operation);
            }
        }
    }
}

pub(super) fn read_operations(
    reader: &mut Reader<'_>,
    operations: &mut OperationLimits,
) -> Read<()> {
    for _ in 0..reader.count()? {
        let hour = reader.short()?;
        let mut windows = Windows::default();
        for _ in 0..reader.count()? {
            let window = windows.entry((ServiceId(reader.short()?), reader.short()?)).or_default();
            for _ in 0..reader.count()? {
                window.insert(reader.fixed()?);
            }
        }
        operations.restore(hour, windows);
    }
    Ok(())
}

pub(super) fn put_shard(writer: &mut Writer, shard: &Shard) {
    writer.number(shard.next);
    writer.number(shard.now.0);
    writer.count(shard.digests.entries().len());
    for entry in shard.digests.entries() {
        writer.fixed(entry.request);
        writer.number(entry.append_time.0);
        writer.count(entry.traces.len());
        for trace in &entry.traces {
            writer.bytes.extend_from_slice(&trace.to_le_bytes());
        }
    }
    writer.count(shard.open().len());
    for (key, trace) in shard.open() {
        writer.text(key.tenant.as_str());
        writer.bytes.extend_from_slice(key.trace_id.as_bytes());
        put_trace(writer, trace);
    }
}

pub(super) fn read_shard(reader: &mut Reader<'_>) -> Read<Shard> {
    let mut shard = Shard::default();
    shard.next = reader.number()?;
    shard.now = UnixNanos(reader.number()?);
    for _ in 0..reader.count()? {
        let (request, append_time) = (reader.fixed()?, UnixNanos(reader.number()?));
        let count = reader.count()?;
        let mut traces = Vec::with_capacity(count);
        for _ in 0..count {
            traces.push(u32::from_le_bytes(reader.array()?));
        }
        shard.digests.note(request, append_time, traces);
    }
    for _ in 0..reader.count()? {
        let tenant = TenantId::new(reader.text()?).map_err(|_| InvalidCheckpoint::Body)?;
        let trace_id = TraceId::from_bytes(reader.array()?).map_err(|_| InvalidCheckpoint::Body)?;
        let trace = read_trace(reader)?;
        shard.restore(TraceKey { tenant, trace_id }, trace);
    }
    Ok(shard)
}

fn put_trace(writer: &mut Writer, trace: &OpenTrace) {
    writer.number(trace.first_seen.0);
    writer.number(trace.last_seen.0);
    writer.count(trace.spans().len());
    for span in trace.spans() {
        writer.fixed(span.span_id);
        writer.fixed(span.content);
        writer.number(u64::from(span.service.0));
        writer.bytes.push(span.kind);
    }
    let waiting = trace.waiting();
    writer.count(waiting.len());
    for Waiting { parent, is_half, callee } in &waiting {
        writer.fixed(*parent);
        writer.bytes.push(u8::from(*is_half) | u8::from(callee.is_error) << 1);
        writer.number(u64::from(callee.service.0));
        writer.number(u64::from(callee.bucket));
        writer.number(callee.duration_nanos);
        writer.fixed(callee.weight.to_bits());
    }
}

fn read_trace(reader: &mut Reader<'_>) -> Read<OpenTrace> {
    let mut trace = OpenTrace::new(UnixNanos(reader.number()?));
    trace.last_seen = UnixNanos(reader.number()?);
    for _ in 0..reader.count()? {
        let (span_id, content) = (reader.fixed()?, reader.fixed()?);
        let service = ServiceId(reader.short()?);
        trace.remember(span_id, content, service, reader.byte()?);
    }
    for _ in 0..reader.count()? {
        let (parent, flags) = (reader.fixed()?, reader.byte()?);
        let callee = Callee {
            service: ServiceId(reader.short()?),
            is_error: flags & 2 != 0,
            bucket: reader.short()?,
            duration_nanos: reader.number()?,
            weight: f64::from_bits(reader.fixed()?),
        };
        trace.wait(Waiting { parent, is_half: flags & 1 != 0, callee });
    }
    Ok(trace)
}
