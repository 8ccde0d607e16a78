use super::super::document::{ContextJson, SpanDocument};
use super::*;
use proto::decode::ReadContext;
use trace_model::{Region, SpanKey, TenantId};

fn attribute(key: &str, value: AnyValue) -> Attribute {
    Attribute { key: key.to_owned(), value }
}

fn span(attributes: Vec<Attribute>, resource: Resource) -> Span {
    let scope =
        Scope { attributes: attributes.clone(), name: "lib".to_owned(), ..Scope::default() };
    let trace_id = TraceId::from_bytes([7; 16]).unwrap();
    let span_id = SpanId::from_bytes([1; 8]).unwrap();
    let link = Link {
        trace_id,
        span_id,
        trace_state: String::new(),
        attributes: attributes.clone(),
        dropped_attributes_count: 0,
        flags: 0,
    };
    Span {
        trace_id,
        span_id,
        parent_span_id: Some(SpanId::from_bytes([2; 8]).unwrap()),
        trace_state: "a=b".to_owned(),
        flags: u32::MAX,
        name: "na\\\"me\u{0}".to_owned(),
        kind: SpanKind::Client,
        start: UnixNanos(1_790_000_400_000_000_123),
        end: UnixNanos(u64::MAX),
        attributes: attributes.clone(),
        dropped_attributes_count: 0,
        events: vec![Event { name: "e".to_owned(), attributes, ..Event::default() }],
        dropped_events_count: 0,
        links: vec![link],
        dropped_links_count: 0,
        status: StatusCode::Error,
        status_message: "no".to_owned(),
        resource: Arc::new(resource),
        scope: Arc::new(scope),
    }
}

fn document(span: &Span) -> Value {
    let context = ReadContext { resource: span.resource.clone(), scope: span.scope.clone() };
    let mut out = Vec::new();
    let document = SpanDocument {
        tenant: &TenantId::default(),
        region: &Region::new("eu").unwrap(),
        received: span.start,
        placed: span.start,
        key: SpanKey { span_id: span.span_id, kind: 3, content: 9 },
        span,
        context: &ContextJson::of(&context),
    };
    document.write(&mut out);
    serde_json::from_slice(&out).unwrap()
}

fn seen(attributes: &[Attribute]) -> Vec<(String, Option<String>)> {
    let text = |value: &AnyValue| value.as_search_text().map(std::borrow::Cow::into_owned);
    attributes.iter().map(|found| (found.key.clone(), text(&found.value))).collect()
}

fn assert_reads_back(sent: &Span) {
    let source: Source = serde_json::from_value(document(sent)).unwrap();
    let read = source.into_span(sent.trace_id).unwrap();
    assert_eq!((&read.name, read.kind, read.status), (&sent.name, sent.kind, sent.status));
    assert_eq!((read.start, read.end), (sent.start, sent.end));
    assert_eq!(read.status_message, sent.status_message);
    assert_eq!(read.resource.service, sent.resource.service);
    assert_eq!(seen(&read.attributes), seen(&sent.attributes));
    assert_eq!(seen(&read.scope.attributes), seen(&sent.scope.attributes));
    let sorted = |attributes: &[Attribute]| {
        let mut seen = seen(attributes);
        seen.sort();
        seen
    };
    assert_eq!(sorted(&read.resource.attributes), sorted(&sent.resource.attributes));
    let of_events = |span: &Span| {
        span.events.iter().flat_map(|event| seen(&event.attributes)).collect::<Vec<_>>()
    };
    let of_links =
        |span: &Span| span.links.iter().flat_map(|link| seen(&link.attributes)).collect::<Vec<_>>();
    assert_eq!((of_events(&read), of_links(&read)), (of_events(sent), of_links(sent)));
}

fn hostile() -> Vec<Attribute> {
    let doubles = [0.1, -0.0, f64::NAN, f64::INFINITY, 5e-324, f64::MAX, 1e21];
    let mut attributes: Vec<Attribute> =
        doubles.iter().map(|value| attribute("a.b__c", AnyValue::Double(*value))).collect();
    attributes.extend([
        attribute("", AnyValue::Str("\"\\\u{1}".to_owned())),
        attribute(&"k".repeat(300), AnyValue::Int(i64::MIN)),
        attribute("event", AnyValue::Bool(false)),
        attribute("list", AnyValue::Array(vec![AnyValue::Str("x".to_owned()), AnyValue::Empty])),
        attribute("bytes", AnyValue::Bytes(vec![0, 255])),
        attribute("none", AnyValue::Empty),
        attribute("span.kind", AnyValue::Str("server".to_owned())),
    ]);
    attributes
}

fn named(service: &str, attributes: Vec<Attribute>) -> Resource {
    Resource { service: service.into(), attributes, ..Resource::default() }
}

#[test]
fn every_value_reads_back_as_the_filter_sees_it() {
    let name = |value: &str| attribute("service.name", AnyValue::Str(value.to_owned()));
    for resource in [
        named("web", vec![name("web"), attribute("host", AnyValue::Int(1))]),
        named("unknown_service", vec![]),
        named("unknown_service", vec![name("")]),
        named("b", vec![name("a"), name("b")]),
        named("unknown_service", vec![attribute("service.name", AnyValue::Int(3))]),
    ] {
        assert_reads_back(&span(hostile(), resource));
    }
}

#[test]
fn what_is_too_much_for_the_engine_reads_back_and_is_marked() {
    let many = |count: i64| -> Vec<Attribute> {
        (0..count).map(|at| attribute(&format!("k{at}"), AnyValue::Int(at))).collect()
    };
    let mut of_resource = many(4_000);
    of_resource.push(attribute("service.name", AnyValue::Str("web".to_owned())));
    let large = span(many(5_000), named("web", of_resource));
    assert_reads_back(&large);
    let value = document(&large);
    assert_eq!(value.pointer("/farspan/irregular"), Some(&Value::Bool(true)));
    let nested: usize =
        ["/tags", "/scopeTags", "/process/tags", "/logs/0/fields", "/references/0/tags"]
            .iter()
            .map(|path| value.pointer(path).and_then(Value::as_array).map_or(0, Vec::len))
            .sum();
    assert!((5_000..9_900).contains(&nested), "{nested}");
    let small = document(&span(
        vec![],
        named("web", vec![attribute("service.name", AnyValue::Str("web".to_owned()))]),
    ));
    assert_eq!(small.pointer("/farspan/irregular"), None);
    assert_eq!(small.pointer("/farspan/unnamed"), None);
}

#[test]
fn jaegers_own_document_becomes_the_span_that_jaeger_shows() {
    let source: Source = serde_json::from_value(serde_json::json!({
        "traceID": "07", "spanID": "01", "operationName": "pay", "references": null,
        "startTime": 1_790_000_400_000_000_u64, "duration": 5, "logs": null, "@timestamp": "x",
        "tags": [
            { "key": "span.kind", "type": "string", "value": "client" },
            { "key": "error", "type": "bool", "value": true },
            { "key": "n", "type": "int64", "value": 3 },
        ],
        "tag": { "http@code": 500 },
        "process": { "serviceName": "shop", "tags": null },
    }))
    .unwrap();
    let span = source.into_span(TraceId::from_bytes([7; 16]).unwrap()).unwrap();
    assert_eq!((span.kind, span.status), (SpanKind::Client, StatusCode::Error));
    let text = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
    assert_eq!(seen(&span.attributes), [text("n", "3"), text("http.code", "500")]);
    assert_eq!(seen(&span.resource.attributes), [text("service.name", "shop")]);
    assert_eq!(span.duration_nanos(), 5_000);
}
