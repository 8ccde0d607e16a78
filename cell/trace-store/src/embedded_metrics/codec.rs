//! Keys, rows and deltas as bytes. Integers are LEB128 varints where not said otherwise, floats and
//! checksums little-endian, texts and sketches with their length before them.
//!
//! The files around these bytes carry checksums; what does not fit here all the same is an error.

use std::sync::Arc;

use proto::DurationSketch;
use proto::wire::{put_varint, read_varint};
use trace_model::{Coverage, SpanKind, StatusCode, TenantId, TraceId, UnixNanos};

use crate::port::{EdgeKey, EdgeRow, MetricsDelta, RedKey, RedRow};

/// Bytes that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its content does not fit")]
pub(super) struct Unfit;

type Read<T> = Result<T, Unfit>;

/// A series in the order of the files: a service's minutes lie together, roll-ups before operations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeriesKey {
    pub(super) is_operation: bool,
    pub(super) tenant: TenantId,
    pub(super) service: Arc<str>,
    pub(super) minute: UnixNanos,
    pub(super) operation: Arc<str>,
    pub(super) kind: SpanKind,
    pub(super) status: StatusCode,
}

impl From<RedKey> for SeriesKey {
    fn from(key: RedKey) -> Self {
        let RedKey { tenant, minute, service, operation, kind, status } = key;
        let is_operation = operation.is_some();
        let operation = operation.unwrap_or_else(|| "".into());
        Self { is_operation, tenant, service, minute, operation, kind, status }
    }
}

impl From<SeriesKey> for RedKey {
    fn from(key: SeriesKey) -> Self {
        let SeriesKey { is_operation, tenant, service, minute, operation, kind, status } = key;
        Self { tenant, minute, service, operation: is_operation.then_some(operation), kind, status }
    }
}

/// A key with its row as they lie in blocks and in memory.
pub(super) trait Record: Clone + Ord {
    /// What is counted under it.
    type Row: Default;

    /// Minute or bucket.
    fn time(&self) -> UnixNanos;
    fn put(&self, output: &mut Vec<u8>);
    fn read(reader: &mut Reader<'_>) -> Read<Self>;
    fn put_row(row: &Self::Row, output: &mut Vec<u8>);
    fn read_row(bytes: &[u8]) -> Read<Self::Row>;
    /// Adds a later row.
    fn merge(row: &mut Self::Row, later: &Self::Row);
    fn tenant(&self) -> &TenantId;
    /// Takes a trace out of a row; says whether it was there.
    fn forget(row: &mut Self::Row, trace_id: TraceId) -> bool;
}

impl Record for SeriesKey {
    type Row = RedRow;

    fn time(&self) -> UnixNanos {
        self.minute
    }

    fn put(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&[
            u8::from(self.is_operation),
            self.kind as u8,
            self.status as u8,
        ]);
        put_varint(output, self.minute.0);
        for text in [self.tenant.as_str(), &self.service, &self.operation] {
            put_text(output, text);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let [is_operation, kind, status] = reader.array()?;
        let minute = UnixNanos(reader.number()?);
        let tenant = TenantId::new(reader.text()?).map_err(|_| Unfit)?;
        Ok(Self {
            is_operation: is_operation != 0,
            tenant,
            service: reader.text()?.into(),
            minute,
            operation: reader.text()?.into(),
            kind: SpanKind::from_number(i32::from(kind)),
            status: StatusCode::from_number(i32::from(status)),
        })
    }

    fn put_row(row: &RedRow, output: &mut Vec<u8>) {
        put_varint(output, row.seen);
        output.extend_from_slice(&row.estimated.to_bits().to_le_bytes());
        output.push(u8::from(row.exemplar.is_some()));
        if let Some((nanos, trace_id)) = &row.exemplar {
            put_varint(output, *nanos);
            output.extend_from_slice(trace_id.as_bytes());
        }
        put_bytes(output, &row.durations.to_bytes());
    }

    fn read_row(bytes: &[u8]) -> Read<RedRow> {
        let mut reader = Reader { rest: bytes };
        let seen = reader.number()?;
        let estimated = reader.float()?;
        let exemplar = match reader.array()? {
            [0] => None,
            [_] => Some((reader.number()?, reader.trace_id()?)),
        };
        let durations = DurationSketch::from_bytes(reader.bytes()?).map_err(|_| Unfit)?;
        Ok(RedRow { seen, estimated, durations, exemplar })
    }

    fn merge(row: &mut RedRow, later: &RedRow) {
        row.merge(later);
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn forget(row: &mut RedRow, trace_id: TraceId) -> bool {
        row.forget(trace_id)
    }
}

impl Record for EdgeKey {
    type Row = EdgeRow;

    fn time(&self) -> UnixNanos {
        self.bucket
    }

    fn put(&self, output: &mut Vec<u8>) {
        output.push(u8::from(self.is_error));
        put_varint(output, self.bucket.0);
        for text in [self.tenant.as_str(), &self.caller, &self.callee] {
            put_text(output, text);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let [is_error] = reader.array()?;
        let bucket = UnixNanos(reader.number()?);
        let tenant = TenantId::new(reader.text()?).map_err(|_| Unfit)?;
        let (caller, callee) = (reader.text()?.into(), reader.text()?.into());
        Ok(Self { tenant, bucket, caller, callee, is_error: is_error != 0 })
    }

    fn put_row(row: &EdgeRow, output: &mut Vec<u8>) {
        put_varint(output, row.seen);
        output.extend_from_slice(&row.estimated.to_bits().to_le_bytes());
        put_count(output, row.traces.len());
        for trace_id in &row.traces {
            output.extend_from_slice(trace_id.as_bytes());
        }
        put_bytes(output, &row.durations.to_bytes());
    }

    fn read_row(bytes: &[u8]) -> Read<EdgeRow> {
        let mut reader = Reader { rest: bytes };
        let seen = reader.number()?;
        let estimated = reader.float()?;
        let count = reader.count()?;
        let mut traces = Vec::with_capacity(count.min(bytes.len() / 16));
        for _ in 0..count {
            traces.push(reader.trace_id()?);
        }
        let durations = DurationSketch::from_bytes(reader.bytes()?).map_err(|_| Unfit)?;
        Ok(EdgeRow { seen, estimated, durations, traces })
    }

    fn merge(row: &mut EdgeRow, later: &EdgeRow) {
        row.merge(later, super::TRACES_PER_EDGE_MAX);
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn forget(row: &mut EdgeRow, trace_id: TraceId) -> bool {
        row.forget(trace_id)
    }
}

/// Rows of a delta, each row encoded once for the log and the table in memory alike.
pub(super) type EncodedRows<K> = Vec<(K, Box<[u8]>)>;

/// A delta as the log keeps it.
#[derive(Debug)]
pub(super) struct DeltaFrame {
    pub(super) arrival: UnixNanos,
    pub(super) covered: Coverage,
    pub(super) checkpoint: CheckpointChange,
    pub(super) red: EncodedRows<SeriesKey>,
    pub(super) edges: EncodedRows<EdgeKey>,
}

/// What a delta does to the aggregator's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckpointChange {
    /// Appends to it.
    Extend(Vec<u8>),
    /// Replaces it by the content of a file and what is appended to that.
    Replace(u64, Vec<u8>),
}

impl DeltaFrame {
    pub(super) fn rows_of(delta: MetricsDelta) -> (EncodedRows<SeriesKey>, EncodedRows<EdgeKey>) {
        let red = delta.red.into_iter().map(|(key, row)| (SeriesKey::from(key), row));
        (encode_rows(red), encode_rows(delta.edges.into_iter()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_varint(&mut output, self.arrival.0);
        put_coverage(&mut output, &self.covered);
        match &self.checkpoint {
            CheckpointChange::Extend(bytes) => {
                output.push(0);
                put_bytes(&mut output, bytes);
            }
            CheckpointChange::Replace(file, bytes) => {
                output.push(1);
                put_varint(&mut output, *file);
                put_bytes(&mut output, bytes);
            }
        }
        put_rows(&mut output, &self.red);
        put_rows(&mut output, &self.edges);
        output
    }

    pub(super) fn decode(bytes: &[u8]) -> Read<Self> {
        let mut reader = Reader { rest: bytes };
        let arrival = UnixNanos(reader.number()?);
        let covered = reader.coverage()?;
        let checkpoint = match reader.array()? {
            [0] => CheckpointChange::Extend(reader.bytes()?.to_vec()),
            [_] => CheckpointChange::Replace(reader.number()?, reader.bytes()?.to_vec()),
        };
        let (red, edges) = (read_rows(&mut reader)?, read_rows(&mut reader)?);
        if !reader.rest.is_empty() {
            return Err(Unfit);
        }
        Ok(Self { arrival, covered, checkpoint, red, edges })
    }
}

fn encode_rows<K: Record>(rows: impl Iterator<Item = (K, K::Row)>) -> EncodedRows<K> {
    let encode = |row: &K::Row| {
        let mut bytes = Vec::with_capacity(160);
        K::put_row(row, &mut bytes);
        bytes.into_boxed_slice()
    };
    rows.map(|(key, row)| (key, encode(&row))).collect()
}

fn put_rows<K: Record>(output: &mut Vec<u8>, rows: &EncodedRows<K>) {
    put_count(output, rows.len());
    for (key, row) in rows {
        key.put(output);
        put_bytes(output, row);
    }
}

fn read_rows<K: Record>(reader: &mut Reader<'_>) -> Read<EncodedRows<K>> {
    let mut rows = Vec::new();
    for _ in 0..reader.count()? {
        let key = K::read(reader)?;
        rows.push((key, reader.bytes()?.into()));
    }
    Ok(rows)
}

pub(super) fn put_count(output: &mut Vec<u8>, count: usize) {
    put_varint(output, u64::try_from(count).unwrap_or(u64::MAX));
}

pub(super) fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    put_count(output, bytes.len());
    output.extend_from_slice(bytes);
}

fn put_text(output: &mut Vec<u8>, text: &str) {
    put_bytes(output, text.as_bytes());
}

fn put_coverage(output: &mut Vec<u8>, coverage: &Coverage) {
    put_varint(output, coverage.incarnation);
    put_count(output, coverage.next.len());
    for (partition, next) in &coverage.next {
        put_varint(output, u64::from(*partition));
        put_varint(output, *next);
    }
}

/// Reads what the functions here wrote.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Read<u64> {
        let (value, rest) = read_varint(self.rest).map_err(|_| Unfit)?;
        self.rest = rest;
        Ok(value)
    }

    /// A number of items of at least a byte each.
    pub(super) fn count(&mut self) -> Read<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| Unfit)?;
        if count > self.rest.len() { Err(Unfit) } else { Ok(count) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Unfit)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.count()?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Unfit)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unfit)
    }

    fn float(&mut self) -> Read<f64> {
        Ok(f64::from_bits(u64::from_le_bytes(self.array()?)))
    }

    fn trace_id(&mut self) -> Read<TraceId> {
        TraceId::from_bytes(self.array()?).map_err(|_| Unfit)
    }

    pub(super) fn erased_trace(&mut self) -> Read<(TenantId, TraceId)> {
        let tenant = TenantId::new(self.text()?).map_err(|_| Unfit)?;
        Ok((tenant, self.trace_id()?))
    }

    fn coverage(&mut self) -> Read<Coverage> {
        let mut coverage = Coverage::none(self.number()?);
        for _ in 0..self.count()? {
            let partition = u32::try_from(self.number()?).map_err(|_| Unfit)?;
            coverage.extend(partition, self.number()?);
        }
        Ok(coverage)
    }
}
