use opentelemetry_proto::tonic::common::v1 as common;

use super::*;
use crate::fakes::{id, region, resource, stored};

fn any(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: any(value), ..KeyValue::default() }
}

fn render(span: &Span) -> serde_json::Value {
    let mut spans = TraceSpans::new(id(0xab));
    spans.insert(stored(span, &resource("web"), &region("eu")));
    serde_json::to_value(OtlpJson::read(&spans)).unwrap()
}

fn span() -> Span {
    let map = common::KeyValueList { values: vec![attribute("k", Value::BoolValue(false))] };
    let list = common::ArrayValue { values: any(Value::IntValue(4)).into_iter().collect() };
    Span {
        trace_id: vec![0xab; 16],
        span_id: vec![0x0c; 8],
        name: "GET".to_owned(),
        kind: 3,
        start_time_unix_nano: u64::MAX,
        end_time_unix_nano: 0,
        flags: 257,
        attributes: vec![
            attribute("int", Value::IntValue(i64::MIN)),
            attribute("bytes", Value::BytesValue(vec![0xff, 0xfe])),
            attribute("nan", Value::DoubleValue(f64::NAN)),
            attribute("inf", Value::DoubleValue(f64::NEG_INFINITY)),
            attribute("map", Value::KvlistValue(map)),
            attribute("list", Value::ArrayValue(list)),
            KeyValue { key: "none".to_owned(), ..KeyValue::default() },
        ],
        dropped_attributes_count: 2,
        links: vec![Link { trace_id: vec![1; 3], ..Link::default() }],
        status: Some(Status { code: 2, message: String::new() }),
        ..Span::default()
    }
}

#[test]
fn ids_are_hex_numbers_of_64_bits_strings_and_enumerations_numbers() {
    let json = render(&span());
    let span = &json[0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["traceId"], "abababababababababababababababab");
    assert_eq!(span["spanId"], "0c0c0c0c0c0c0c0c");
    assert_eq!(span["parentSpanId"], serde_json::Value::Null);
    assert_eq!(span["startTimeUnixNano"], "18446744073709551615");
    assert_eq!(span["endTimeUnixNano"], "0");
    assert_eq!(span["kind"], 3);
    assert_eq!(span["flags"], 257);
    assert_eq!(span["droppedAttributesCount"], 2);
    assert_eq!(span["status"], serde_json::json!({"code": 2}));
    assert_eq!(span["links"][0]["traceId"], "010101");
}

#[test]
fn every_kind_of_value_has_its_form() {
    let json = render(&span());
    let attributes = &json[0]["scopeSpans"][0]["spans"][0]["attributes"];
    for (place, expected) in [
        serde_json::json!({"intValue": "-9223372036854775808"}),
        serde_json::json!({"bytesValue": "//4="}),
        serde_json::json!({"doubleValue": "NaN"}),
        serde_json::json!({"doubleValue": "-Infinity"}),
        serde_json::json!({"kvlistValue":
            {"values": [{"key": "k", "value": {"boolValue": false}}]}}),
        serde_json::json!({"arrayValue": {"values": [{"intValue": "4"}]}}),
        serde_json::Value::Null,
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(attributes[place]["value"], expected, "{place}");
    }
}

#[test]
fn each_resource_says_which_region_holds_it() {
    let mut spans = TraceSpans::new(id(0xab));
    for name in ["us", "eu"] {
        let span = Span { name: name.to_owned(), ..span() };
        spans.insert(stored(&span, &resource("web"), &region(name)));
    }
    let json = serde_json::to_value(OtlpJson::read(&spans)).unwrap();
    let regions: Vec<_> = (0..2).map(|place| json[place]["farspanRegion"].clone()).collect();
    assert_eq!(regions, ["eu", "us"]);
    assert_eq!(json[0]["resource"]["attributes"][0]["value"]["stringValue"], "web");
}

#[test]
fn a_span_that_cannot_be_read_is_left_out_and_counted() {
    let mut spans = TraceSpans::new(id(0xab));
    let mut bad = stored(&span(), &resource("web"), &region("eu"));
    bad.span = bytes::Bytes::from_static(b"\x4a\xff");
    bad.key.content = 7;
    spans.insert(bad);
    spans.insert(stored(&span(), &resource("web"), &region("eu")));
    let read = OtlpJson::read(&spans);
    assert_eq!(read.unreadable, 1);
    let json = serde_json::to_value(&read).unwrap();
    assert_eq!(json[0]["scopeSpans"][0]["spans"].as_array().unwrap().len(), 1);
}
