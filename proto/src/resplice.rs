//! Stored spans back into OTLP `TracesData`, by splicing the bytes that were sent: unknown fields
//! survive, nothing is decoded.

use std::collections::BTreeMap;

use trace_model::StoredSpan;

use crate::wire::{put_bytes_field, tags};

type SpansByScope<'a> = BTreeMap<&'a [u8], Vec<&'a [u8]>>;

/// The spans as OTLP `TracesData` (the same bytes as `ExportTraceServiceRequest`): one
/// `ResourceSpans` for each distinct resource frame, one `ScopeSpans` for each scope below it.
#[must_use]
pub fn traces_data(spans: &[&StoredSpan]) -> Vec<u8> {
    let mut resources: BTreeMap<&[u8], SpansByScope<'_>> = BTreeMap::new();
    for span in spans {
        let scopes = resources.entry(&span.context.resource).or_default();
        scopes.entry(&span.context.scope).or_default().push(&span.span);
    }
    let mut output = Vec::new();
    for (resource, scopes) in resources {
        let mut resource_spans = resource.to_vec();
        for (scope, spans) in scopes {
            let mut scope_spans = scope.to_vec();
            for span in spans {
                put_bytes_field(&mut scope_spans, tags::SCOPE_SPANS_SPANS, span);
            }
            put_bytes_field(&mut resource_spans, tags::RESOURCE_SPANS_SCOPE_SPANS, &scope_spans);
        }
        put_bytes_field(&mut output, tags::REQUEST_RESOURCE_SPANS, &resource_spans);
    }
    output
}
