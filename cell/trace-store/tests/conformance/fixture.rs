//! Spans and batches for tests, built as a collector builds them.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::{BatchSource, LoggedBatch, SpanBatch, SpanBatchBuilder};
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region, TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::Xxh3;

/// A moment to count from.
pub(crate) const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);
/// The log's incarnation.
pub(crate) const INCARNATION: u64 = 7;

/// A trace id out of a number.
pub(crate) fn trace_id(number: u64) -> TraceId {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TraceId::from_bytes(bytes).unwrap()
}

/// A text value.
pub(crate) fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

/// An attribute.
pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// A span of a trace, to be changed as a test needs.
pub(crate) fn span(trace: u64, id: u64, name: &str) -> otlp::Span {
    otlp::Span {
        trace_id: trace_id(trace).as_bytes().to_vec(),
        span_id: (id + 1).to_be_bytes().to_vec(),
        name: name.to_owned(),
        kind: 2,
        start_time_unix_nano: NOW.0 + id * 1_000_000,
        end_time_unix_nano: NOW.0 + id * 1_000_000 + 250_000,
        ..otlp::Span::default()
    }
}

/// A resource frame with a service and more attributes.
pub(crate) fn resource(service: &str, more: &[KeyValue]) -> Vec<u8> {
    let mut attributes = vec![attribute("service.name", text(service))];
    attributes.extend_from_slice(more);
    let resource = Resource { attributes, ..Resource::default() };
    otlp::ResourceSpans { resource: Some(resource), ..otlp::ResourceSpans::default() }
        .encode_to_vec()
}

/// A scope frame.
pub(crate) fn scope(name: &str, attributes: &[KeyValue]) -> Vec<u8> {
    let scope = InstrumentationScope {
        name: name.to_owned(),
        attributes: attributes.to_vec(),
        ..InstrumentationScope::default()
    };
    otlp::ScopeSpans { scope: Some(scope), ..otlp::ScopeSpans::default() }.encode_to_vec()
}

/// Resource frame, scope frame, spans.
pub(crate) type Group = (Vec<u8>, Vec<u8>, Vec<Vec<u8>>);

/// What becomes a batch.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) tenant: &'static str,
    pub(crate) region: &'static str,
    pub(crate) receive_time: UnixNanos,
    pub(crate) groups: Vec<Group>,
}

impl Request {
    /// Spans of one service, of the default tenant.
    pub(crate) fn of(service: &str, spans: &[otlp::Span]) -> Self {
        let spans = spans.iter().map(Message::encode_to_vec).collect();
        Self {
            tenant: "default",
            region: "eu-west-1",
            receive_time: NOW,
            groups: vec![(resource(service, &[]), scope("lib", &[]), spans)],
        }
    }

    pub(crate) fn batch(&self) -> SpanBatch {
        let mut builder = SpanBatchBuilder::new();
        for (resource, scope, spans) in &self.groups {
            let resource = builder.add_resource(resource.clone());
            let scope = builder.add_scope(resource, scope.clone());
            for span in spans {
                let header = proto::wire::SpanHeader::read(span).unwrap();
                let trace_id = TraceId::try_from(header.trace_id).unwrap();
                builder.add_span(trace_id, Threshold::KEEP_ALL, scope, span);
            }
        }
        let source = BatchSource {
            tenant: TenantId::new(self.tenant).unwrap(),
            region: Region::new(self.region).unwrap(),
            collector: "collector-1".into(),
            receive_time: self.receive_time,
            digest: self.digest(),
        };
        builder.finish(source).unwrap()
    }

    /// Of what was sent, as a collector makes it.
    fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for (resource, scope, spans) in &self.groups {
            [resource, scope].into_iter().chain(spans).for_each(|bytes| hasher.update(bytes));
        }
        hasher.digest()
    }
}

/// A log of one partition, as a consumer reads it.
pub(crate) struct Log {
    pub(crate) next: u64,
    pub(crate) append_time: UnixNanos,
}

impl Log {
    pub(crate) const fn new() -> Self {
        Self { next: 0, append_time: NOW }
    }

    /// Appends a request.
    pub(crate) fn append(&mut self, request: &Request) -> LoggedBatch {
        self.append_batch(request.batch())
    }

    pub(crate) fn append_batch(&mut self, batch: SpanBatch) -> LoggedBatch {
        let first = self.next;
        self.next += batch.traces().len() as u64;
        LoggedBatch {
            incarnation: INCARNATION,
            range: LogRange { partition: 0, first, next: self.next },
            append_time: self.append_time,
            batch: Arc::new(batch),
        }
    }
}
