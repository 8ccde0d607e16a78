//! Whole traces, compared span by span: everything that a decoder reads of a span and of what is
//! around it.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData};

/// A span with its resource and scope, each without the other spans.
pub(crate) type WholeSpan = (ResourceSpans, ScopeSpans, Span);

/// Every span by its id. Attributes of a resource are a set: a sender may give them in any order.
pub(crate) fn spans_by_id(data: &TracesData) -> BTreeMap<Vec<u8>, WholeSpan> {
    let mut spans = BTreeMap::new();
    for resource in &data.resource_spans {
        let mut around = ResourceSpans { scope_spans: Vec::new(), ..resource.clone() };
        if let Some(resource) = &mut around.resource {
            resource.attributes.sort_by(|one, other| one.key.cmp(&other.key));
        }
        for scope in &resource.scope_spans {
            let in_scope = ScopeSpans { spans: Vec::new(), ..scope.clone() };
            for span in &scope.spans {
                let whole = (around.clone(), in_scope.clone(), span.clone());
                let before = spans.insert(span.span_id.clone(), whole);
                assert!(before.is_none(), "a span id twice: {span:?}");
            }
        }
    }
    spans
}

/// Says which span differs, if one does.
pub(crate) fn compare(expected: &TracesData, found: &TracesData) -> Result<(), String> {
    let (expected, found) = (spans_by_id(expected), spans_by_id(found));
    if expected.len() != found.len() {
        return Err(format!("{} spans of {}", found.len(), expected.len()));
    }
    for (id, span) in &expected {
        if found.get(id) != Some(span) {
            return Err(format!("expected {span:#?}\nfound {:#?}", found.get(id)));
        }
    }
    Ok(())
}
