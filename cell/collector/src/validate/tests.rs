use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use proto::wire::put_bytes_field;

use super::*;

fn span(id: u8) -> Span {
    Span { trace_id: vec![1; 16], span_id: vec![id; 8], ..Span::default() }
}

fn request(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource = Some(Resource::default());
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A message of length-delimited fields.
fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        put_bytes_field(&mut bytes, *number, value);
    }
    bytes
}

fn judged(body: &[u8]) -> Validated<'_> {
    validate(body, &SpanLimits::default()).unwrap()
}

#[test]
fn one_bad_span_is_rejected_and_its_siblings_are_kept() {
    for (bad, reason) in [
        (Span { trace_id: vec![1; 15], ..span(2) }, RejectReason::BadTraceId),
        (Span { trace_id: vec![0; 16], ..span(2) }, RejectReason::BadTraceId),
        (Span { trace_id: vec![], ..span(2) }, RejectReason::BadTraceId),
        (Span { span_id: vec![2; 9], ..span(2) }, RejectReason::BadSpanId),
        (Span { span_id: vec![0; 8], ..span(2) }, RejectReason::BadSpanId),
    ] {
        let body = request(vec![span(1), bad, span(3)]);
        let validated = judged(&body);
        assert_eq!(validated.spans.len(), 2);
        assert_eq!((validated.rejected.total(), validated.rejected.of(reason)), (1, 1));
    }
}

#[test]
fn an_unreadable_span_is_rejected_alone() {
    let good = span(1).encode_to_vec();
    let scope = message(&[(2, &good), (2, b"\x0a\xff"), (2, &good)]);
    let body = message(&[(1, &message(&[(2, &scope)]))]);
    let validated = judged(&body);
    assert_eq!(validated.spans.len(), 2);
    assert_eq!(validated.rejected.of(RejectReason::Unreadable), 1);
}

#[test]
fn frames_hold_every_other_field_byte_for_byte_in_any_order() {
    let resource = message(&[(1, b"\x0a\x01k")]);
    let one = message(&[(2, &span(1).encode_to_vec()), (3, b"scope-schema"), (99, b"later")]);
    let sent = message(&[(2, &one), (1, &resource), (3, b"schema"), (77, b"unknown")]);
    let body = message(&[(1, &sent)]);
    let validated = judged(&body);
    let frame = message(&[(1, &resource), (3, b"schema"), (77, b"unknown")]);
    assert_eq!(validated.resources, [frame]);
    assert_eq!(validated.scopes, [(0, message(&[(3, b"scope-schema"), (99, b"later")]))]);
}

#[test]
fn an_unreadable_resource_or_scope_takes_only_its_own_spans_along() {
    let scope = message(&[(2, &span(1).encode_to_vec())]);
    let bad_scope = message(&[(1, b"\x0a\xff"), (2, &span(2).encode_to_vec())]);
    let bad_resource = message(&[(1, b"\x0a\xff"), (2, &scope)]);
    let good_resource = message(&[(2, &bad_scope), (2, &scope)]);
    let body = message(&[(1, &bad_resource), (1, &good_resource)]);
    let validated = judged(&body);
    assert_eq!(validated.spans.len(), 1);
    assert_eq!(validated.rejected.of(RejectReason::BadContext), 2);
    assert_eq!((validated.resources.len(), validated.scopes.len()), (1, 1));
}

#[test]
fn spans_of_the_deprecated_library_field_are_taken() {
    let library = message(&[(1, b"\x0a\x03lib"), (2, &span(1).encode_to_vec())]);
    let body = message(&[(1, &message(&[(LIBRARY_SPANS, &library)]))]);
    let validated = judged(&body);
    assert_eq!(validated.spans.len(), 1);
    assert_eq!(validated.scopes, [(0, message(&[(1, b"\x0a\x03lib")]))]);
    assert_eq!(validated.resources, [Vec::<u8>::new()]);
}

#[test]
fn contexts_without_good_spans_take_no_place() {
    let scope = message(&[(2, &span(1).encode_to_vec())]);
    let body = message(&[(1, b""), (1, &message(&[(2, b""), (2, &scope)])), (1, b"")]);
    let validated = judged(&body);
    assert_eq!((validated.resources.len(), validated.scopes.len()), (1, 1));
}

#[test]
fn a_span_that_no_reader_takes_is_rejected_alone_its_resource_and_scope_counted() {
    let span = message(&[(2, &span(1).encode_to_vec())]);
    let resource = message(&[(1, &message(&[(77, &[0; 100])])), (2, &span)]);
    let body = message(&[(1, &resource), (1, &message(&[(2, &span)]))]);
    let judged = |span_bytes_max| {
        let limits = SpanLimits { span_bytes_max, ..SpanLimits::default() };
        let validated = validate(&body, &limits).unwrap();
        (validated.spans.len(), validated.rejected.of(RejectReason::SpanTooLarge))
    };
    assert_eq!([judged(200), judged(100), judged(20)], [(2, 0), (1, 1), (0, 2)]);
}

#[test]
fn an_empty_request_is_a_request() {
    assert_eq!(judged(b"").spans.len(), 0);
    assert_eq!(judged(b"").rejected.total(), 0);
}

#[test]
fn garbage_framing_is_refused_whole() {
    let broken_scope = message(&[(1, &message(&[(2, b"\x12\x7f")]))]);
    let span_as_varint = message(&[(1, &message(&[(2, b"\x10\x01")]))]);
    for body in [&b"\xff\xff\xff"[..], b"\x0a\x10abc", b"\x08\x01", &broken_scope, &span_as_varint]
    {
        let error = validate(body, &SpanLimits::default()).unwrap_err();
        assert!(matches!(error, ExportError::Malformed(_)), "{body:?}: {error}");
    }
}

#[test]
fn too_many_spans_resources_or_scopes_are_refused_by_counting() {
    let limits = SpanLimits { spans_max: 3, ..SpanLimits::default() };
    let spans = message(&[(1, &message(&[(2, &b"\x12\x00".repeat(4))]))]);
    let scopes = message(&[(1, &b"\x12\x00".repeat(4))]);
    let resources = b"\x0a\x00".repeat(4);
    for body in [spans, scopes, resources] {
        let error = count_spans(&body, &limits).unwrap_err();
        assert!(matches!(error, ExportError::TooManySpans { spans_max: 3 }), "{error}");
    }
    assert_eq!(count_spans(&request(vec![span(1), span(2), span(3)]), &limits).unwrap(), 3);
}
