use proptest::prelude::*;
use serde_json::json;

use super::*;

fn translated(spans: &serde_json::Value) -> Vec<ResourceSpans> {
    let body = translate(spans.to_string().as_bytes(), 100).unwrap();
    ExportTraceServiceRequest::decode(body).unwrap().resource_spans
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
fn a_span_that_is_none_becomes_an_empty_one_which_validation_rejects() {
    let good = minimal();
    for bad in [
        json!(5),
        json!(null),
        json!({}),
        with("id", json!("")),
        with("id", json!("0")),
        with("traceId", json!("xyz")),
        with("parentId", json!("zz")),
        with("timestamp", json!("soon")),
        with("tags", json!([1])),
    ] {
        let body = translate(json!([good, bad, good]).to_string().as_bytes(), 100).unwrap();
        let limits = crate::config::SpanLimits::default();
        let validated = crate::validate::validate(&body, &limits).unwrap();
        assert_eq!((validated.spans.len(), validated.rejected.total()), (2, 1), "{bad}");
    }
}

#[test]
fn what_is_no_list_is_refused_and_so_are_too_many() {
    for json in ["", "{}", "[", "[{}", "[]x", "5"] {
        let error = translate(json.as_bytes(), 10).unwrap_err();
        assert!(matches!(error, ExportError::MalformedJson(_)), "{json}");
    }
    let many = format!("[{}]", ["{}"; 11].join(","));
    let error = translate(many.as_bytes(), 10).unwrap_err();
    assert!(matches!(error, ExportError::TooManySpans { spans_max: 10 }));
}

proptest! {
    #[test]
    fn any_text_is_a_list_of_spans_or_an_error(text in any::<String>()) {
        drop(translate(text.as_bytes(), 10));
    }

    #[test]
    fn ids_and_tags_of_any_text_never_fail_the_list(id in any::<String>(), tag in any::<String>()) {
        let mut sent = with("tags", json!({ "error": tag, "otel.status_code": "ERROR" }));
        sent["id"] = json!(id);
        prop_assert!(translate(json!([sent]).to_string().as_bytes(), 10).is_ok());
    }
}
