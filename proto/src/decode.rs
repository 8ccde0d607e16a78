//! Stored spans into the words of `trace-model`, field by field, for assembly, filters and display.
//! Not on the ingest path.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use trace_model::span::{Event, Link, Resource, Scope, Span, SpanKind, StatusCode};
use trace_model::{AnyValue, Attribute, ScopeContext, SpanId, StoredSpan, TraceId, UnixNanos};

/// Why a stored span cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnreadableSpan {
    /// Not a protobuf message of its type.
    #[error("a stored span that is not OTLP")]
    Message(#[from] prost::DecodeError),
    /// An id is not one.
    #[error("a stored span with an invalid id")]
    Id(#[from] trace_model::ids::InvalidId),
}

/// A resource and a scope, read once for all of their spans.
#[derive(Clone, Debug)]
pub struct ReadContext {
    /// The resource.
    pub resource: Arc<Resource>,
    /// The scope.
    pub scope: Arc<Scope>,
}

/// Reads a resource frame and a scope frame.
pub fn read_context(context: &ScopeContext) -> Result<ReadContext, UnreadableSpan> {
    let resource_spans = otlp::ResourceSpans::decode(context.resource.as_ref())?;
    let scope_spans = otlp::ScopeSpans::decode(context.scope.as_ref())?;
    let resource = resource_spans.resource.unwrap_or_default();
    let scope = scope_spans.scope.unwrap_or_default();
    Ok(ReadContext {
        resource: Arc::new(Resource {
            service: Arc::clone(&context.service),
            attributes: attributes(resource.attributes),
            dropped_attributes_count: resource.dropped_attributes_count,
            schema_url: resource_spans.schema_url,
        }),
        scope: Arc::new(Scope {
            name: scope.name,
            version: scope.version,
            attributes: attributes(scope.attributes),
            dropped_attributes_count: scope.dropped_attributes_count,
            schema_url: scope_spans.schema_url,
        }),
    })
}

/// Reads a span whose context was read.
pub fn read_span(span: &[u8], context: &ReadContext) -> Result<Span, UnreadableSpan> {
    let span = otlp::Span::decode(span)?;
    let status = span.status.unwrap_or_default();
    Ok(Span {
        trace_id: TraceId::try_from(span.trace_id.as_slice())?,
        span_id: SpanId::try_from(span.span_id.as_slice())?,
        parent_span_id: SpanId::try_from(span.parent_span_id.as_slice()).ok(),
        trace_state: span.trace_state,
        flags: span.flags,
        name: span.name,
        kind: SpanKind::from_number(span.kind),
        start: UnixNanos(span.start_time_unix_nano),
        end: UnixNanos(span.end_time_unix_nano),
        attributes: attributes(span.attributes),
        dropped_attributes_count: span.dropped_attributes_count,
        events: span.events.into_iter().map(event).collect(),
        dropped_events_count: span.dropped_events_count,
        links: span.links.into_iter().filter_map(link).collect(),
        dropped_links_count: span.dropped_links_count,
        status: StatusCode::from_number(status.code),
        status_message: status.message,
        resource: Arc::clone(&context.resource),
        scope: Arc::clone(&context.scope),
    })
}

/// Reads stored spans; contexts that follow one another are read once. Spans that cannot be read
/// are left out and counted.
#[must_use]
pub fn read_spans(
    spans: impl IntoIterator<Item: std::borrow::Borrow<StoredSpan>>,
) -> (Vec<(Span, trace_model::Region)>, usize) {
    let mut read = Vec::new();
    let mut unreadable = 0;
    let mut contexts: std::collections::HashMap<*const ScopeContext, ReadContext> =
        std::collections::HashMap::new();
    for stored in spans {
        let stored = std::borrow::Borrow::borrow(&stored);
        let key = Arc::as_ptr(&stored.context);
        let context = match contexts.get(&key) {
            Some(context) => context.clone(),
            None => match read_context(&stored.context) {
                Ok(context) => contexts.entry(key).or_insert(context).clone(),
                Err(_) => {
                    unreadable += 1;
                    continue;
                }
            },
        };
        match read_span(&stored.span, &context) {
            Ok(span) => read.push((span, stored.envelope.region.clone())),
            Err(_) => unreadable += 1,
        }
    }
    (read, unreadable)
}

/// Attributes of OTLP. Keys and values of the profiling string table do not occur in traces.
#[must_use]
pub fn attributes(list: Vec<common::KeyValue>) -> Vec<Attribute> {
    list.into_iter()
        .map(|pair| Attribute {
            key: pair.key,
            value: any_value(pair.value.and_then(|any| any.value)),
        })
        .collect()
}

/// A value of OTLP.
#[must_use]
pub fn any_value(value: Option<common::any_value::Value>) -> AnyValue {
    use common::any_value::Value;
    match value {
        Some(Value::StringValue(text)) => AnyValue::Str(text),
        Some(Value::BoolValue(value)) => AnyValue::Bool(value),
        Some(Value::IntValue(value)) => AnyValue::Int(value),
        Some(Value::DoubleValue(value)) => AnyValue::Double(value),
        Some(Value::BytesValue(bytes)) => AnyValue::Bytes(bytes),
        Some(Value::ArrayValue(list)) => {
            AnyValue::Array(list.values.into_iter().map(|any| any_value(any.value)).collect())
        }
        Some(Value::KvlistValue(list)) => AnyValue::KvList(attributes(list.values)),
        _ => AnyValue::Empty,
    }
}

fn event(event: otlp::span::Event) -> Event {
    Event {
        time: UnixNanos(event.time_unix_nano),
        name: event.name,
        attributes: attributes(event.attributes),
        dropped_attributes_count: event.dropped_attributes_count,
    }
}

/// A link; one whose ids are invalid points nowhere and is not shown (its bytes are kept).
fn link(link: otlp::span::Link) -> Option<Link> {
    Some(Link {
        trace_id: TraceId::try_from(link.trace_id.as_slice()).ok()?,
        span_id: SpanId::try_from(link.span_id.as_slice()).ok()?,
        trace_state: link.trace_state,
        attributes: attributes(link.attributes),
        dropped_attributes_count: link.dropped_attributes_count,
        flags: link.flags,
    })
}
