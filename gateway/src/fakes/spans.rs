//! Spans for tests, as a cell holds them, and the words of a question.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use trace_model::merge::{Envelope, content_hash};
use trace_model::{Coverage, Region, ScopeContext, SpanId, SpanKey, StoredSpan, TenantId, TraceId};

use super::{INCARNATION, NOW};
use crate::config::{Freshness, Patience, QueryContext};

pub(crate) fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

pub(crate) fn id(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

/// A span as a cell of this region holds it.
pub(crate) fn span(trace_id: TraceId, number: u16, region: &Region) -> StoredSpan {
    let [high, low] = number.to_be_bytes();
    let span = Span {
        trace_id: trace_id.as_bytes().to_vec(),
        span_id: vec![1, 0, 0, 0, 0, 0, high, low],
        parent_span_id: if number == 0 { vec![] } else { vec![1, 0, 0, 0, 0, 0, 0, 0] },
        name: format!("operation {number}"),
        kind: 2,
        start_time_unix_nano: NOW.0 + u64::from(number) * 1_000,
        end_time_unix_nano: NOW.0 + u64::from(number) * 1_000 + 5_000,
        ..Span::default()
    };
    stored(&span, &resource("web"), region)
}

pub(crate) fn resource(service: &str) -> ResourceSpans {
    let value = Some(AnyValue { value: Some(Value::StringValue(service.to_owned())) });
    let name = KeyValue { key: "service.name".to_owned(), value, ..KeyValue::default() };
    ResourceSpans {
        resource: Some(Resource { attributes: vec![name], ..Resource::default() }),
        ..ResourceSpans::default()
    }
}

pub(crate) fn stored(span: &Span, resource: &ResourceSpans, region: &Region) -> StoredSpan {
    let resource = Bytes::from(resource.encode_to_vec());
    let service = proto::wire::service_name(&resource).unwrap().unwrap_or("").into();
    let bytes = Bytes::from(span.encode_to_vec());
    StoredSpan {
        key: SpanKey {
            span_id: SpanId::try_from(span.span_id.as_slice()).unwrap(),
            kind: u8::try_from(span.kind).unwrap(),
            content: content_hash(&resource, b"", &bytes),
        },
        span: bytes,
        context: Arc::new(ScopeContext { resource, scope: Bytes::new(), service }),
        envelope: Arc::new(Envelope {
            receive_time: NOW,
            region: region.clone(),
            collector: "c".into(),
        }),
    }
}

pub(super) fn searched(next: u64) -> Coverage {
    let mut coverage = Coverage::none(INCARNATION);
    coverage.extend(0, next);
    coverage
}

pub(crate) fn context(freshness: Freshness) -> QueryContext {
    let (first_frame, total) = (Duration::from_secs(2), Duration::from_secs(30));
    waiting(freshness, Patience { first_frame, total })
}

pub(crate) fn waiting(freshness: Freshness, patience: Patience) -> QueryContext {
    QueryContext::new(TenantId::default(), freshness, patience)
}
