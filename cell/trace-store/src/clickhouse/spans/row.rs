//! A span as a row of `otel_traces`, in the words of the OpenTelemetry Collector's exporter.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use proto::wire::{WireError, tags};
use proto::{LoggedBatch, SpanSlice};
use trace_model::{ScopeContext, TraceId};

use super::columns::{Seen, put_attributes, put_events, put_links, stamp};
use crate::clickhouse::block::seconds;
use crate::clickhouse::row_binary::Rows;

/// Where a span could not be read further than its header, this attribute says so.
const UNREADABLE: &str = "farspan.unreadable";

/// So many contexts are remembered …
const CONTEXTS_MAX: usize = 1_024;
/// … of so many bytes, read and rendered: one context may be as large as a record.
const CONTEXTS_BYTES_MAX: usize = 16 << 20;

/// `ServiceName` to `ScopeVersion` of contexts, encoded once: a record of the log is one trace, and its
/// contexts are those of many others.
#[derive(Debug, Default)]
pub(super) struct ContextRows {
    known: HashMap<u64, (Arc<ScopeContext>, Arc<Rows>)>,
    bytes: usize,
}

impl ContextRows {
    /// The columns of a context whose hash this is.
    fn of(&mut self, hash: u64, context: &Arc<ScopeContext>) -> Arc<Rows> {
        // A hash can be met on purpose: the bytes decide.
        if let Some((known, rows)) = self.known.get(&hash)
            && known == context
        {
            return Arc::clone(rows);
        }
        let rows = Arc::new(put_context(context));
        let bytes = context.resource.len().saturating_add(context.scope.len());
        let bytes = bytes.saturating_add(rows.len());
        self.bytes = self.bytes.saturating_add(bytes);
        if self.known.len() >= CONTEXTS_MAX || self.bytes > CONTEXTS_BYTES_MAX {
            self.known.clear();
            self.bytes = bytes;
        }
        // What is remembered must not keep its whole batch in memory.
        let own = ScopeContext {
            resource: Bytes::copy_from_slice(&context.resource),
            scope: Bytes::copy_from_slice(&context.scope),
            service: Arc::clone(&context.service),
        };
        self.known.insert(hash, (Arc::new(own), Arc::clone(&rows)));
        rows
    }
}

/// What the spans of a batch have in common, encoded once.
#[derive(Debug)]
pub(super) struct BatchRows<'a> {
    logged: &'a LoggedBatch,
    /// `ServiceName` to `ScopeVersion` of each context.
    contexts: Vec<Arc<Rows>>,
    no_context: Rows,
    /// `Tenant`, `Region`, `AppendTime`.
    source: Rows,
}

impl<'a> BatchRows<'a> {
    pub(super) fn of(logged: &'a LoggedBatch, known: &mut ContextRows) -> Self {
        let hashes = logged.batch.context_hashes().iter();
        let contexts = hashes.zip(logged.batch.contexts());
        let contexts = contexts.map(|(hash, context)| known.of(*hash, context)).collect();
        let mut source = Rows::default();
        source.text(logged.batch.source().tenant.as_str());
        source.text(logged.batch.source().region.as_str());
        source.u32(seconds(logged.append_time));
        let mut no_context = Rows::default();
        for _empty in ["ServiceName", "ResourceAttributes", "ScopeName", "ScopeVersion"] {
            no_context.count(0);
        }
        Self { logged, contexts, no_context, source }
    }

    /// Writes a span's row up to `IsOutlying`; the block's number follows.
    pub(super) fn put(
        &self,
        rows: &mut Rows,
        trace_id: TraceId,
        slice: &SpanSlice,
        is_outlying: bool,
    ) {
        let batch = &*self.logged.batch;
        let before = rows.len();
        if self.put_span(rows, trace_id, slice, batch.bytes_of(slice)).is_err() {
            rows.truncate(before);
            let made = header_alone(batch.name_of(slice), slice);
            // What was made here can be read.
            let _infallible = self.put_span(rows, trace_id, slice, &made);
        }
        rows.append(&self.source);
        rows.boolean(is_outlying);
    }

    /// Writes the columns of a span's header and of its bytes.
    fn put_span(
        &self,
        rows: &mut Rows,
        trace_id: TraceId,
        slice: &SpanSlice,
        span: &[u8],
    ) -> Result<(), WireError> {
        let seen = Seen::of(span)?;
        rows.i64(stamp(slice.start.0));
        rows.hex(trace_id.as_bytes());
        rows.hex(slice.span_id.as_bytes());
        let parent = slice.parent_span_id.as_ref();
        rows.hex(parent.map_or(&[][..], |parent| parent.as_bytes()));
        rows.text(seen.trace_state);
        rows.text(seen.name);
        rows.text(kind(slice.kind));
        match self.contexts.get(slice.scope as usize) {
            Some(context) => rows.append(context),
            None => rows.append(&self.no_context),
        }
        put_attributes(rows, span, tags::SPAN_ATTRIBUTES)?;
        rows.u64(slice.end.since(slice.start));
        rows.text(status(slice.status));
        rows.text(seen.status_message);
        put_events(rows, span, seen.events)?;
        put_links(rows, span, seen.links)
    }
}

fn header_alone(name: &str, slice: &SpanSlice) -> Vec<u8> {
    tracing::debug!(span_id = %slice.span_id, "a span is written without its attributes");
    let value = Some(AnyValue { value: Some(Value::BoolValue(true)) });
    let attributes = vec![KeyValue { key: UNREADABLE.to_owned(), value, ..KeyValue::default() }];
    otlp::Span { name: name.to_owned(), attributes, ..otlp::Span::default() }.encode_to_vec()
}

const fn kind(number: u8) -> &'static str {
    match number {
        1 => "Internal",
        2 => "Server",
        3 => "Client",
        4 => "Producer",
        5 => "Consumer",
        _ => "Unspecified",
    }
}

const fn status(number: u8) -> &'static str {
    match number {
        1 => "Ok",
        2 => "Error",
        _ => "Unset",
    }
}

fn put_context(context: &ScopeContext) -> Rows {
    let resource = otlp::ResourceSpans::decode(context.resource.as_ref()).unwrap_or_default();
    let scope = otlp::ScopeSpans::decode(context.scope.as_ref()).unwrap_or_default();
    let scope = scope.scope.unwrap_or_default();
    let mut rows = Rows::default();
    rows.text(&context.service);
    put_resource_attributes(&mut rows, &resource.resource.unwrap_or_default());
    rows.text(&scope.name);
    rows.text(&scope.version);
    rows
}

/// Once a context: written as those of spans are.
fn put_resource_attributes(rows: &mut Rows, resource: &Resource) {
    let before = rows.len();
    let resource = resource.encode_to_vec();
    if put_attributes(rows, &resource, tags::RESOURCE_ATTRIBUTES).is_err() {
        rows.truncate(before);
        rows.count(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_remembered_within_a_bound_of_bytes() {
        let mut known = ContextRows::default();
        for number in 0..64_u8 {
            let context = Arc::new(ScopeContext {
                resource: Bytes::from(vec![number; 900_000]),
                scope: Bytes::new(),
                service: "large".into(),
            });
            let rows = known.of(u64::from(number), &context);
            assert!(Arc::ptr_eq(&rows, &known.of(u64::from(number), &context)), "it is known");
        }
        let bytes = |(context, rows): &(Arc<ScopeContext>, Arc<Rows>)| {
            context.resource.len() + context.scope.len() + rows.len()
        };
        let held: usize = known.known.values().map(bytes).sum();
        assert!(held <= CONTEXTS_BYTES_MAX, "{held} bytes are held");
    }
}
