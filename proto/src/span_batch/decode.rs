//! Reads the encoded form of a batch. The bytes come from a disk or a peer: every length and count is
//! checked against what is there before anything is made of it.

use bytes::Bytes;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};

use super::{
    BatchSource, ContextRange, InvalidBatch, SpanBatch, SpanSlice, TraceSlice, VERSION, span_slice,
};
use crate::wire::{SpanHeader, WireError, read_varint};

impl SpanBatch {
    /// Reads the encoded form. Nothing is allocated by a count that the input cannot back.
    pub fn decode(encoded: Bytes) -> Result<Self, InvalidBatch> {
        let mut reader = Reader { all: &encoded, at: 0 };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(InvalidBatch::Version(version));
        }
        let source = read_source(&mut reader)?;
        let contexts = read_contexts(&mut reader)?;
        let traces = read_traces(&mut reader)?;
        let total: usize = traces.iter().map(|trace| trace.span_count as usize).sum();
        let mut spans = Vec::with_capacity(total.min(reader.remaining()));
        for _ in 0..total {
            spans.push(read_span(&mut reader, contexts.len())?);
        }
        if reader.remaining() > 0 {
            return Err(WireError::BadTag.into());
        }
        Ok(Self::from_parts(source, encoded, (&contexts, None), traces, spans))
    }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    const fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.all.get(self.at).ok_or(WireError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let rest = self.all.get(self.at..).ok_or(WireError::Truncated)?;
        let (value, after) = read_varint(rest)?;
        self.at += rest.len() - after.len();
        Ok(value)
    }

    fn varint_u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?).map_err(|_| WireError::Truncated)
    }

    /// The range of the next `length` bytes.
    fn range(&mut self, length: usize) -> Result<(usize, usize), WireError> {
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        if end > self.all.len() {
            return Err(WireError::Truncated);
        }
        let start = self.at;
        self.at = end;
        Ok((start, end))
    }

    fn sized_range(&mut self) -> Result<(usize, usize), WireError> {
        let length = self.varint_u32()?;
        self.range(length as usize)
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        let (start, end) = self.sized_range()?;
        let bytes = self.all.get(start..end).ok_or(WireError::Truncated)?;
        std::str::from_utf8(bytes).map_err(|_| WireError::NotUtf8)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (start, end) = self.range(N)?;
        let bytes = self.all.get(start..end).ok_or(WireError::Truncated)?;
        <[u8; N]>::try_from(bytes).map_err(|_| WireError::Truncated)
    }

    /// A count of items that take at least `bytes_min` each.
    fn count(&mut self, bytes_min: usize) -> Result<usize, WireError> {
        let count = self.varint_u32()? as usize;
        if count.saturating_mul(bytes_min) > self.remaining() {
            return Err(WireError::Truncated);
        }
        Ok(count)
    }
}

fn read_source(reader: &mut Reader<'_>) -> Result<BatchSource, InvalidBatch> {
    Ok(BatchSource {
        tenant: TenantId::new(reader.text()?)?,
        region: Region::new(reader.text()?)?,
        collector: reader.text()?.into(),
        receive_time: UnixNanos(u64::from_le_bytes(reader.array()?)),
        digest: u64::from_le_bytes(reader.array()?),
    })
}

fn read_contexts(reader: &mut Reader<'_>) -> Result<Vec<ContextRange>, InvalidBatch> {
    let count = reader.count(1)?;
    let mut resources = Vec::with_capacity(count);
    for _ in 0..count {
        resources.push(reader.sized_range()?);
    }
    let count = reader.count(2)?;
    let mut contexts = Vec::with_capacity(count);
    for _ in 0..count {
        let resource = reader.varint_u32()? as usize;
        let (start, end) = *resources.get(resource).ok_or(WireError::Truncated)?;
        let (scope_start, scope_end) = reader.sized_range()?;
        contexts.push((start, end, scope_start, scope_end));
    }
    Ok(contexts)
}

fn read_traces(reader: &mut Reader<'_>) -> Result<Vec<TraceSlice>, InvalidBatch> {
    let count = reader.count(18)?;
    let mut traces = Vec::with_capacity(count);
    let mut first_span = 0_u32;
    for _ in 0..count {
        let trace_id = TraceId::from_bytes(reader.array()?)?;
        let threshold = Threshold::from_bits(reader.varint()?);
        let span_count = reader.varint_u32()?;
        traces.push(TraceSlice { trace_id, threshold, first_span, span_count });
        first_span = first_span.checked_add(span_count).ok_or(WireError::Truncated)?;
    }
    if first_span as usize > reader.remaining() {
        return Err(WireError::Truncated.into());
    }
    Ok(traces)
}

fn read_span(reader: &mut Reader<'_>, contexts: usize) -> Result<SpanSlice, InvalidBatch> {
    let scope = reader.varint_u32()?;
    if scope as usize >= contexts {
        return Err(WireError::Truncated.into());
    }
    let (start, end) = reader.sized_range()?;
    let bytes = reader.all.get(start..end).ok_or(WireError::Truncated)?;
    span_slice(scope, start, bytes, &SpanHeader::read(bytes)?)
}
