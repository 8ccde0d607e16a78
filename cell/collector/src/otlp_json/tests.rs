use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::*;
use crate::config::SpanLimits;
use crate::receipt::RejectReason;
use crate::validate::validate;

fn transcode_to_32(json: &[u8]) -> Result<Bytes, ExportError> {
    transcode(json, 32).map(|(body, _)| body)
}

fn decoded(json: &str) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(transcode_to_32(json.as_bytes()).unwrap()).unwrap()
}

fn request(span: &serde_json::Value) -> String {
    json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [span] }] }] }).to_string()
}

fn span(span: &serde_json::Value) -> Span {
    let mut request = decoded(&request(span));
    request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0)
}

/// The specification's example, with every kind of value.
const EXAMPLE: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":
{"stringValue":"my.service"}}],"droppedAttributesCount":1},"scopeSpans":[{"scope":{"name":"my.library",
"version":"1.0.0","attributes":[{"key":"a","value":{"boolValue":true}}]},"spans":[{
"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"EEE19B7EC3C1B173",
"traceState":"a=b","flags":257,"name":"I'm a server span","startTimeUnixNano":"1544712660000000000",
"endTimeUnixNano":1544712661000000000,"kind":2,"attributes":[
{"key":"s","value":{"stringValue":"some value"}},{"key":"i","value":{"intValue":"-9223372036854775808"}},
{"key":"d","value":{"doubleValue":1.5}},{"key":"b","value":{"bytesValue":"AP8="}},
{"key":"l","value":{"arrayValue":{"values":[{"intValue":1},{"stringValue":""}]}}},
{"key":"m","value":{"kvlistValue":{"values":[{"key":"x","value":{"boolValue":false}}]}}}],
"events":[{"timeUnixNano":"1","name":"e","droppedAttributesCount":2}],
"links":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","flags":1}],
"status":{"code":2,"message":"bad"}}]}],"schemaUrl":"u"}]}"#;

#[test]
fn the_specifications_example_is_read_field_by_field() {
    let request = decoded(EXAMPLE);
    let resource_spans = &request.resource_spans[0];
    assert_eq!(resource_spans.schema_url, "u");
    assert_eq!(resource_spans.resource.as_ref().unwrap().dropped_attributes_count, 1);
    let scope_spans = &resource_spans.scope_spans[0];
    assert_eq!(scope_spans.scope.as_ref().unwrap().name, "my.library");
    let span = &scope_spans.spans[0];
    assert_eq!(span.trace_id[..3], [0x5b, 0x8e, 0xff]);
    assert_eq!(span.parent_span_id[7], 0x73);
    assert_eq!((span.kind, span.flags, span.trace_state.as_str()), (2, 257, "a=b"));
    assert_eq!(span.start_time_unix_nano, 1_544_712_660_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_544_712_661_000_000_000);
    let value = |place: usize| span.attributes[place].value.clone().unwrap().value.unwrap();
    assert_eq!(value(1), Any::IntValue(i64::MIN));
    assert_eq!(value(2), Any::DoubleValue(1.5));
    assert_eq!(value(3), Any::BytesValue(vec![0, 255]));
    let Any::ArrayValue(list) = value(4) else { panic!("a list") };
    assert_eq!(list.values[1].value, Some(Any::StringValue(String::new())));
    let Any::KvlistValue(map) = value(5) else { panic!("a map") };
    assert_eq!(map.values[0].value.as_ref().unwrap().value, Some(Any::BoolValue(false)));
    assert_eq!(span.events[0].dropped_attributes_count, 2);
    assert_eq!((span.links[0].flags, span.links[0].span_id.len()), (1, 8));
    assert_eq!(span.status.as_ref().unwrap().message, "bad");
    let body = transcode_to_32(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(validate(&body, &SpanLimits::default()).unwrap().spans.len(), 1);
}

#[test]
fn ids_are_hex_in_either_case() {
    for id in ["0102030405060708090A0B0C0D0E0F10", "0102030405060708090a0b0c0d0e0f10"] {
        assert_eq!(span(&json!({ "traceId": id })).trace_id, (1..=16).collect::<Vec<u8>>());
    }
}

#[test]
fn numbers_of_64_bits_are_strings_or_numbers_and_may_have_an_exponent() {
    for time in [json!("1700000000000000000"), json!(1_700_000_000_000_000_000_u64), json!(1.7e18)]
    {
        let read = span(&json!({ "startTimeUnixNano": time }));
        assert_eq!(read.start_time_unix_nano, 1_700_000_000_000_000_000, "{time}");
    }
    let largest = span(&json!({ "endTimeUnixNano": "18446744073709551615" }));
    assert_eq!(largest.end_time_unix_nano, u64::MAX);
}

#[test]
fn doubles_have_their_special_names() {
    for (sent, expected) in [
        (json!("Infinity"), f64::INFINITY),
        (json!("-Infinity"), f64::NEG_INFINITY),
        (json!("2.5"), 2.5),
        (json!(3), 3.0),
    ] {
        let read =
            span(&json!({ "attributes": [{ "key": "k", "value": { "doubleValue": sent } }] }));
        let value = read.attributes[0].value.clone().unwrap().value;
        assert_eq!(value, Some(Any::DoubleValue(expected)), "{sent}");
    }
}

#[test]
fn enumerations_are_numbers_or_names() {
    for (sent, expected) in [(json!(3), 3), (json!("SPAN_KIND_CLIENT"), 3), (json!(-1), -1)] {
        assert_eq!(span(&json!({ "kind": sent })).kind, expected, "{sent}");
    }
}

#[test]
fn names_of_the_proto_files_unknown_names_and_null_are_taken() {
    let read = span(&json!({
        "trace_id": "01", "start_time_unix_nano": "7", "name": null,
        "later": { "deep": [1, { "x": null }] }, "localChildSpanCount": 3
    }));
    assert_eq!((read.trace_id, read.start_time_unix_nano, read.name), (vec![1], 7, String::new()));
}

#[test]
fn bytes_are_base64_of_either_alphabet_with_or_without_padding() {
    for text in ["+/8=", "-_8=", "+/8", "-_8"] {
        let read =
            span(&json!({ "attributes": [{ "key": "k", "value": { "bytesValue": text } }] }));
        let value = read.attributes[0].value.clone().unwrap().value;
        assert_eq!(value, Some(Any::BytesValue(vec![0xfb, 0xff])), "{text}");
    }
}

#[test]
fn a_value_that_does_not_fit_rejects_its_span_alone() {
    let good = json!({ "traceId": "01".repeat(16), "spanId": "02".repeat(8), "name": "good" });
    let with = |name: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        bad[name] = value;
        bad
    };
    let unreadable = RejectReason::Unreadable;
    for (bad, reason) in [
        (with("traceId", json!("zz".repeat(16))), unreadable),
        (with("traceId", json!("01")), RejectReason::BadTraceId),
        (with("spanId", json!("0".repeat(16))), RejectReason::BadSpanId),
        (with("parentSpanId", json!("xyz")), unreadable),
        (with("startTimeUnixNano", json!("soon")), unreadable),
        (with("startTimeUnixNano", json!(-1)), unreadable),
        (with("startTimeUnixNano", json!(1.5)), unreadable),
        (with("kind", json!("SPAN_KIND_NEW")), unreadable),
        (with("name", json!(5)), unreadable),
        (with("name", json!(["a"])), unreadable),
        (with("flags", json!(4_294_967_296_u64)), unreadable),
        (with("attributes", json!({ "key": "not a list" })), unreadable),
        (with("status", json!("bad")), unreadable),
        (with("attributes", json!([{ "key": "k", "value": { "bytesValue": "?" } }])), unreadable),
        (json!(null), RejectReason::BadTraceId),
    ] {
        let sent = json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [good, bad, good] }] }] });
        let body = transcode_to_32(sent.to_string().as_bytes()).unwrap();
        let validated = validate(&body, &SpanLimits::default()).unwrap();
        assert_eq!((validated.spans.len(), validated.rejected.of(reason)), (2, 1), "{bad}");
    }
}

#[test]
fn the_first_value_that_does_not_fit_is_named_with_what_its_field_takes() {
    let attribute = |value| json!({ "attributes": [{ "key": "k", "value": value }] });
    for (sent, field, takes) in [
        (json!({ "traceId": "AQEBAQEBAQEBAQEBAQEBAQ==" }), "traceId", "hex digits"),
        (json!({ "startTimeUnixNano": -1 }), "startTimeUnixNano", "an integer of 64 bits, not"),
        (attribute(json!({ "intValue": "9223372036854775808" })), "intValue", "an integer of 64"),
        (attribute(json!("v")), "value", "an object"),
        (json!({ "attributes": {} }), "attributes", "a list"),
        (json!({ "attributes": [5] }), "attributes", "an object"),
        (json!({ "name": ["a"], "kind": "NEW" }), "kind", "one of its numbers or names"),
    ] {
        let (_, misfit) = transcode(request(&sent).as_bytes(), 32).unwrap();
        let misfit = misfit.unwrap();
        assert!(misfit.field == field && misfit.takes.starts_with(takes), "{sent}: {misfit:?}");
    }
    assert_eq!(transcode(EXAMPLE.as_bytes(), 32).unwrap().1, None);
}

#[test]
fn what_is_not_json_of_a_request_is_refused_whole() {
    let deep = r#"{"resourceSpans":[{"resource":"#.repeat(50);
    for json in [
        "",
        "{",
        "[]",
        "null",
        "{} {}",
        "{\"resourceSpans\":[}",
        "\u{feff}{}",
        "{\"resourceSpans\":[{\"schemaUrl\":\"\\ud800\"}]}",
        &deep,
    ] {
        assert!(transcode_to_32(json.as_bytes()).is_err(), "{json}");
    }
    assert!(transcode_to_32(b"{\"resourceSpans\":[{\"schemaUrl\":\"\xff\"}]}").is_err());
    for json in [r#"{"resourceSpans":5}"#, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[1]}]}]}"#]
    {
        let body = transcode_to_32(json.as_bytes()).unwrap();
        assert!(validate(&body, &SpanLimits::default()).is_err(), "{json}");
    }
}

#[test]
fn unknown_fields_of_any_depth_are_ignored_without_recursion() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(transcode_to_32(deep.as_bytes()).unwrap().len(), 0);
}

/// A request of a span with an attribute of so many levels, and of a good one.
fn deep_and_good(depth: usize, is_map: bool) -> String {
    let (open, close) = if is_map {
        (r#"{"kvlistValue":{"values":[{"key":"k","value":"#, "}]}}")
    } else {
        (r#"{"arrayValue":{"values":["#, "]}}")
    };
    let value = format!("{}{{\"intValue\":1}}{}", open.repeat(depth - 1), close.repeat(depth - 1));
    let span = |id: &str, rest: &str| {
        format!("{{\"traceId\":\"{}\",\"spanId\":\"{}\"{rest}}}", "01".repeat(16), id.repeat(8))
    };
    let deep = span("02", &format!(",\"attributes\":[{{\"key\":\"k\",\"value\":{value}}}]"));
    let spans = format!("{},{}", deep, span("03", ""));
    format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{spans}]}}]}}]}}")
}

#[test]
fn depth_is_counted_as_in_protobuf_and_a_value_that_is_too_deep_rejects_its_span_alone() {
    let too_deep = |depth: usize, is_map: bool| {
        let body = transcode_to_32(deep_and_good(depth, is_map).as_bytes()).unwrap();
        let validated = validate(&body, &SpanLimits::default()).unwrap();
        let rejected = validated.rejected;
        let counts = (validated.spans.len(), rejected.total());
        assert!([(2, 0), (1, 1)].contains(&counts), "{depth}: {counts:?}");
        rejected.of(RejectReason::TooDeep)
    };
    for is_map in [true, false] {
        for depth in [1, 30, 31, 32] {
            assert_eq!(too_deep(depth, is_map), 0, "{depth}");
        }
        for depth in [33, 34, 40, 128, 200_000] {
            assert_eq!(too_deep(depth, is_map), 1, "{depth}");
        }
    }
}

#[test]
fn a_value_that_may_just_be_so_deep_comes_through_whole() {
    for is_map in [true, false] {
        let body = transcode_to_32(deep_and_good(32, is_map).as_bytes()).unwrap();
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let span = &request.resource_spans[0].scope_spans[0].spans[0];
        let mut value = span.attributes[0].value.clone().unwrap().value.unwrap();
        let mut depth = 1;
        while value != Any::IntValue(1) {
            let inner = if let Any::ArrayValue(mut list) = value {
                list.values.remove(0)
            } else {
                let Any::KvlistValue(mut map) = value else { panic!("{value:?}") };
                map.values.remove(0).value.unwrap()
            };
            (value, depth) = (inner.value.unwrap(), depth + 1);
        }
        assert_eq!(depth, 32);
    }
}

#[test]
fn an_empty_object_is_an_empty_request() {
    assert_eq!(transcode_to_32(b"{}").unwrap().len(), 0);
}

#[test]
fn the_output_is_not_longer_than_twice_the_input() {
    for json in [
        format!("{{\"resourceSpans\":[{}]}}", vec!["{}"; 10_000].join(",")),
        format!("{{\"resourceSpans\":[{}]}}", vec!["0"; 10_000].join(",")),
        EXAMPLE.into(),
    ] {
        assert!(transcode_to_32(json.as_bytes()).unwrap().len() <= json.len() * 2);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_request_or_an_error(text in any::<String>()) {
        drop(transcode_to_32(text.as_bytes()));
    }

    #[test]
    fn damaged_json_never_yields_a_span_that_a_decoder_cannot_read(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0x20_u8..0x7f), 1..5),
    ) {
        let mut json = EXAMPLE.as_bytes().to_vec();
        for (place, value) in flips {
            let place = place.index(json.len());
            json[place] = value;
        }
        let Ok(body) = transcode_to_32(&json) else { return Ok(()) };
        let Ok(validated) = validate(&body, &SpanLimits::default()) else { return Ok(()) };
        for span in &validated.spans {
            prop_assert!(Span::decode(span.bytes).is_ok());
        }
    }
}
