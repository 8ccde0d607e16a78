//! What a run of batches becomes: traces with their spans, index groups, catalogue entries. Pure:
//! time and lists are given.

use hashbrown::HashMap;
use proto::LoggedBatch;
use proto::span_batch::{SpanBatch, SpanSlice, TraceSlice};
use trace_model::time::place;
use trace_model::{ScopeContext, SpanKey, TenantId, TraceId, UnixNanos};

use super::entries::{Entry, operation_hash};
use super::places::{MINUTE, bigint, ttl_seconds};
use super::rows::EnvelopeValue;

/// A batch, and what its spans share.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) batch: &'a SpanBatch,
    pub(super) envelope: [EnvelopeValue<'a>; 1],
    pub(super) received: UnixNanos,
    pub(super) ttl: i32,
    /// Of the rows, in microseconds: the receive time.
    pub(super) timestamp: i64,
}

impl<'a> Source<'a> {
    /// `None` where retention leaves nothing of the batch.
    fn of(batch: &'a SpanBatch, retention_nanos: u64, now: UnixNanos) -> Option<Self> {
        let source = batch.source();
        let received = source.receive_time;
        let ttl = ttl_seconds(received, retention_nanos, now)?;
        Some(Self {
            batch,
            envelope: [(bigint(received.0), source.region.as_str(), &source.collector)],
            received,
            ttl,
            timestamp: bigint(received.micros()),
        })
    }

    /// When a span of the batch is placed.
    pub(super) fn placed(&self, span: &SpanSlice) -> UnixNanos {
        place(span.start, span.end, self.received).time
    }
}

/// The batches that retention leaves something of, and how many spans it leaves nothing of.
pub(super) fn sources(
    batches: &[LoggedBatch],
    retention_nanos: u64,
    now: UnixNanos,
) -> (Vec<Source<'_>>, u64) {
    let mut expired = 0;
    let mut sources = Vec::with_capacity(batches.len());
    for logged in batches {
        match Source::of(&logged.batch, retention_nanos, now) {
            Some(source) => sources.push(source),
            None => expired += logged.batch.spans().len() as u64,
        }
    }
    (sources, expired)
}

/// A span to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) key: SpanKey,
    /// Its bytes as sent.
    pub(super) bytes: &'a [u8],
    pub(super) context: &'a ScopeContext,
    pub(super) context_hash: i64,
}

impl<'a> Item<'a> {
    fn of(source: &'a Source<'a>, span: &SpanSlice) -> Option<Self> {
        Some(Self {
            source,
            key: source.batch.key_of(span),
            bytes: source.batch.bytes_of(span),
            context: source.batch.context_of(span)?,
            context_hash: source.batch.context_hashes().get(span.scope as usize)?.cast_signed(),
        })
    }
}

/// The spans of a trace.
#[derive(Debug)]
pub(super) struct TraceItems<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) trace_id: TraceId,
    pub(super) items: Vec<Item<'a>>,
}

/// The spans of one service, one record and one minute.
#[derive(Debug)]
pub(super) struct IndexGroup<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) slice: &'a TraceSlice,
    pub(super) service: &'a str,
    /// Oldest first, with the names of their operations.
    pub(super) entries: Vec<(Entry, &'a str)>,
}

impl IndexGroup<'_> {
    /// The newest of its spans.
    pub(super) fn newest(&self) -> UnixNanos {
        self.entries.last().map_or(UnixNanos(0), |(entry, _)| entry.placed)
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) traces: Vec<TraceItems<'a>>,
    pub(super) groups: Vec<IndexGroup<'a>>,
    /// Spans of traces that are erased.
    pub(super) erased: u64,
}

impl<'a> Plan<'a> {
    /// A plan for all spans but those of erased traces.
    pub(super) fn of(
        sources: &'a [Source<'a>],
        is_erased: impl Fn(&TenantId, TraceId) -> bool,
    ) -> Self {
        let mut plan = Self::default();
        let mut places: HashMap<(&TenantId, TraceId), usize> = HashMap::new();
        let mut by_place = ByPlace::new();
        for source in sources {
            let tenant = &source.batch.source().tenant;
            for slice in source.batch.traces() {
                // Erased in the log itself: its id names nothing.
                if slice.is_erased() {
                    continue;
                }
                let spans = source.batch.spans_of(slice);
                if is_erased(tenant, slice.trace_id) {
                    plan.erased += spans.len() as u64;
                    continue;
                }
                let at = *places.entry((tenant, slice.trace_id)).or_insert_with(|| {
                    let trace_id = slice.trace_id;
                    plan.traces.push(TraceItems { tenant, trace_id, items: Vec::new() });
                    plan.traces.len() - 1
                });
                if let Some(trace) = plan.traces.get_mut(at) {
                    trace.items.extend(spans.iter().filter_map(|span| Item::of(source, span)));
                }
                group((source, slice), spans, &mut by_place, &mut plan.groups);
            }
        }
        plan
    }
}

/// The groups of a record by service and minute, by their places among all.
type ByPlace<'a> = HashMap<(&'a str, u64), usize>;

/// Groups the spans of a record by service and minute. The map is lent, to be filled anew.
fn group<'a>(
    (source, slice): (&'a Source<'a>, &'a TraceSlice),
    spans: &'a [SpanSlice],
    by_place: &mut ByPlace<'a>,
    groups: &mut Vec<IndexGroup<'a>>,
) {
    let first = groups.len();
    by_place.clear();
    for span in spans {
        let service = source.batch.service_of(span);
        let placed = source.placed(span);
        let name = source.batch.name_of(span);
        let at = *by_place.entry((service, placed.0 / MINUTE)).or_insert_with(|| {
            groups.push(IndexGroup { source, slice, service, entries: Vec::new() });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(at) {
            let entry = Entry { placed, operation: operation_hash(name), kind: span.kind };
            group.entries.push((entry, name));
        }
    }
    for group in groups.iter_mut().skip(first) {
        group.entries.sort_unstable();
    }
}

#[cfg(test)]
pub(super) mod samples {
    //! Batches for tests of what is planned from them.

    use std::sync::Arc;

    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1 as otlp;
    use prost::Message;
    use proto::{BatchSource, LoggedBatch, SpanBatchBuilder};
    use trace_model::sampling_threshold::Threshold;
    use trace_model::{LogRange, Region, TenantId, TraceId, UnixNanos};

    /// A moment to count from.
    pub(in crate::cassandra) const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);

    fn resource(service: &str) -> Vec<u8> {
        let value = Some(AnyValue { value: Some(Value::StringValue(service.to_owned())) });
        let pair = KeyValue { key: "service.name".to_owned(), value, ..KeyValue::default() };
        let resource = Some(Resource { attributes: vec![pair], ..Resource::default() });
        otlp::ResourceSpans { resource, ..otlp::ResourceSpans::default() }.encode_to_vec()
    }

    /// One trace: a span of each service and operation, all at one time.
    pub(in crate::cassandra) fn logged<S: AsRef<str>>(
        names: &[(&str, S)],
        receive_time: UnixNanos,
    ) -> LoggedBatch {
        let trace_id = TraceId::from_bytes([7; 16]).unwrap();
        let encode = |(at, (_, name)): (usize, &(&str, S))| {
            let span = otlp::Span {
                trace_id: trace_id.as_bytes().to_vec(),
                span_id: (at as u64 + 1).to_be_bytes().to_vec(),
                name: name.as_ref().to_owned(),
                start_time_unix_nano: NOW.0,
                end_time_unix_nano: NOW.0,
                ..otlp::Span::default()
            };
            span.encode_to_vec()
        };
        let spans: Vec<Vec<u8>> = names.iter().enumerate().map(encode).collect();
        let mut builder = SpanBatchBuilder::new();
        for ((service, _), span) in names.iter().zip(&spans) {
            let resource = builder.add_resource(resource(service));
            let scope = builder.add_scope(resource, Vec::new());
            builder.add_span(trace_id, Threshold::KEEP_ALL, scope, span);
        }
        let source = BatchSource {
            tenant: TenantId::default(),
            region: Region::new("eu").unwrap(),
            collector: "c".into(),
            receive_time,
            digest: 1,
        };
        LoggedBatch {
            incarnation: 1,
            range: LogRange { partition: 0, first: 0, next: 1 },
            append_time: NOW,
            batch: Arc::new(builder.finish(source).unwrap()),
        }
    }
}
