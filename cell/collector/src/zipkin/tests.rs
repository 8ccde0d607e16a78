use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn limits(spans_max: usize) -> SpanLimits {
    SpanLimits { spans_max, ..SpanLimits::default() }
}

fn translated(spans: &serde_json::Value) -> Vec<ResourceSpans> {
    let translated = translate(spans.to_string().as_bytes(), &limits(100)).unwrap();
    ExportTraceServiceRequest::decode(translated.body).unwrap().resource_spans
}

fn one(span: &serde_json::Value) -> Span {
    let mut resources = translated(&json!([span]));
    resources.remove(0).scope_spans.remove(0).spans.remove(0)
}

fn minimal() -> serde_json::Value {
    json!({ "traceId": "5af7183fb1d4cf5f", "id": "6b221d5bc9e6496c" })
}

fn with(name: &str, value: serde_json::Value) -> serde_json::Value {
    let mut span = minimal();
    span[name] = value;
    span
}

fn text_of(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.as_ref()?.value.as_ref()?;
    if let any_value::Value::StringValue(text) = value {
        return Some(text.clone());
    }
    Some(format!("{value:?}"))
}

#[test]
fn ids_are_padded_and_times_are_nanoseconds() {
    let mut sent = minimal();
    sent["timestamp"] = json!(1_502_787_600_000_000_u64);
    sent["duration"] = json!(12);
    sent["parentId"] = json!("1");
    let span = one(&sent);
    assert_eq!(span.trace_id[..8], [0; 8]);
    assert_eq!((span.trace_id[8], span.span_id[0]), (0x5a, 0x6b));
    assert_eq!(span.parent_span_id, [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(span.start_time_unix_nano, 1_502_787_600_000_000_000);
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 12_000);
}

#[test]
fn kinds_are_carried_over() {
    for (sent, kind) in [
        ("CLIENT", SpanKind::Client),
        ("SERVER", SpanKind::Server),
        ("PRODUCER", SpanKind::Producer),
        ("CONSUMER", SpanKind::Consumer),
        ("OTHER", SpanKind::Unspecified),
    ] {
        assert_eq!(one(&with("kind", json!(sent))).kind, kind as i32, "{sent}");
    }
    let internal = one(&with("tags", json!({ "span.kind": "internal" })));
    assert_eq!(internal.kind, SpanKind::Internal as i32);
}

#[test]
fn an_error_tag_of_any_value_is_an_error() {
    for (tag, code, message) in [("true", 2, ""), ("timeout", 2, "timeout"), ("", 2, "")] {
        let status = one(&with("tags", json!({ "error": tag }))).status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (code, message), "{tag}");
    }
    assert_eq!(one(&with("tags", json!({ "error": "false" }))).status, None);
    let told = json!({ "otel.status_code": "ERROR", "otel.status_description": "why" });
    let status = one(&with("tags", told)).status.unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "why"));
    let ok = one(&with("tags", json!({ "otel.status_code": "OK" }))).status.unwrap();
    assert_eq!(ok.code, 1);
}

#[test]
fn tags_annotations_endpoints_and_marks_are_kept() {
    let mut sent = minimal();
    sent["tags"] = json!({ "http.path": "/api" });
    sent["annotations"] = json!([{ "timestamp": 5, "value": "ws" }]);
    sent["remoteEndpoint"] = json!({ "serviceName": "db", "ipv4": "10.0.0.1", "port": 5432 });
    sent["localEndpoint"] = json!({ "serviceName": "shop", "ipv6": "::1", "port": 80 });
    sent["shared"] = json!(true);
    let span = one(&sent);
    for (key, value) in [
        ("http.path", "/api"),
        ("peer.service", "db"),
        ("net.peer.ip", "10.0.0.1"),
        ("net.peer.port", "IntValue(5432)"),
        ("net.host.ip", "::1"),
        ("zipkin.shared", "BoolValue(true)"),
    ] {
        assert_eq!(text_of(&span, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!((span.events[0].time_unix_nano, span.events[0].name.as_str()), (5_000, "ws"));
}

#[test]
fn spans_are_grouped_by_their_service() {
    let of = |service: &str| with("localEndpoint", json!({ "serviceName": service }));
    let resources = translated(&json!([of("a"), of("b"), of("a"), minimal()]));
    let counts: Vec<_> = resources.iter().map(|found| found.scope_spans[0].spans.len()).collect();
    assert_eq!(counts, [1, 2, 1]);
    let attributes = |place: usize| &resources[place].resource.as_ref().unwrap().attributes;
    assert!(attributes(0).is_empty());
    assert_eq!(attributes(1)[0].key, "service.name");
}

#[test]
fn a_span_that_cannot_be_translated_is_rejected_alone_for_what_is_wrong_with_it() {
    let unreadable = RejectReason::Unreadable;
    let tags: BTreeMap<_, _> = (0..1_025).map(|place| (place.to_string(), "x")).collect();
    let annotations = vec![json!({ "timestamp": 1, "value": "" }); 65_537];
    for (bad, reason) in [
        (json!(5), unreadable),
        (json!(null), unreadable),
        (json!({}), unreadable),
        (with("id", json!("")), RejectReason::BadSpanId),
        (with("id", json!("0")), RejectReason::BadSpanId),
        (with("traceId", json!("xyz")), RejectReason::BadTraceId),
        (with("traceId", json!("0")), RejectReason::BadTraceId),
        (with("parentId", json!("zz")), unreadable),
        (with("timestamp", json!("soon")), unreadable),
        (with("tags", json!([1])), unreadable),
        (with("annotations", json!([{ "timestamp": "soon", "value": "" }])), unreadable),
        (with("tags", json!(tags)), RejectReason::TooManyAttributes),
        (with("annotations", json!(annotations)), RejectReason::TooManyParts),
    ] {
        let sent = json!([minimal(), bad, minimal()]).to_string();
        let translated = translate(sent.as_bytes(), &limits(100)).unwrap();
        assert_eq!((translated.rejected.total(), translated.rejected.of(reason)), (1, 1), "{bad}");
        let validated = crate::validate::validate(&translated.body, &limits(100)).unwrap();
        assert_eq!((validated.spans.len(), validated.rejected.total()), (2, 0), "{bad}");
    }
}

#[test]
fn what_is_made_of_a_request_is_bounded_by_its_length_whatever_it_holds() {
    let short = json!({ "traceId": "1", "id": "1" });
    let of_a_service = |place: usize| {
        let mut span = short.clone();
        span["localEndpoint"] = json!({ "serviceName": place.to_string() });
        span
    };
    let mut noted = minimal();
    noted["annotations"] = json!(vec![json!({ "timestamp": 1, "value": "" }); 60_000]);
    noted["tags"] = json!({ "": "" });
    let mut marked = short.clone();
    (marked["debug"], marked["shared"]) = (json!(true), json!(true));
    let services: Vec<_> = (0..1_000).map(of_a_service).collect();
    for sent in
        [json!(vec![short; 1_000]), json!(services), json!([noted]), json!(vec![marked; 99])]
    {
        let sent = sent.to_string();
        let translated = translate(sent.as_bytes(), &limits(10_000)).unwrap();
        assert_eq!(translated.rejected.total(), 0);
        let (made, room) = (translated.body.len(), GROWTH_MAX * sent.len());
        assert!(made <= room, "{made} of {room} bytes of {} JSON", sent.len());
    }
}

#[test]
fn what_is_no_list_is_refused_and_so_are_too_many() {
    for json in ["", "{}", "[", "[{}", "[]x", "5"] {
        let error = translate(json.as_bytes(), &limits(10)).unwrap_err();
        assert!(error.to_string().starts_with("the body is not a JSON list of Zipkin"), "{json}");
    }
    let many = format!("[{}]", ["{}"; 11].join(","));
    let error = translate(many.as_bytes(), &limits(10)).unwrap_err();
    assert!(matches!(error, ExportError::TooManySpans { spans_max: 10 }));
}

proptest! {
    #[test]
    fn any_text_is_a_list_of_spans_or_an_error(text in any::<String>()) {
        drop(translate(text.as_bytes(), &limits(10)));
    }

    #[test]
    fn ids_and_tags_of_any_text_never_fail_the_list(id in any::<String>(), tag in any::<String>()) {
        let mut sent = with("tags", json!({ "error": tag, "otel.status_code": "ERROR" }));
        sent["id"] = json!(id);
        prop_assert!(translate(json!([sent]).to_string().as_bytes(), &limits(10)).is_ok());
    }
}
