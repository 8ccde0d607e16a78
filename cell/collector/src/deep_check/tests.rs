use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, Status, span::Event};
use proptest::prelude::*;
use prost::Message;
use proto::wire::{put_bytes_field, put_varint};

use super::*;

fn span() -> Span {
    Span { trace_id: vec![1; 16], span_id: vec![2; 8], name: "get".into(), ..Span::default() }
}

fn attribute(value: Any) -> KeyValue {
    KeyValue {
        key: "k".into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn check(span: &Span) -> Result<(), RejectReason> {
    check_bytes(&span.encode_to_vec())
}

fn check_bytes(span: &[u8]) -> Result<(), RejectReason> {
    check_span(span, &SpanLimits::default()).map(drop)
}

/// A value of so many levels, of lists or of maps.
fn nested(depth: usize, is_map: bool) -> Any {
    let mut value = Any::IntValue(1);
    for _ in 1..depth {
        value = if is_map {
            Any::KvlistValue(KeyValueList { values: vec![attribute(value)] })
        } else {
            Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] })
        };
    }
    value
}

#[test]
fn depth_32_passes_and_every_decoder_reads_it_also_within_a_resource() {
    for is_map in [true, false] {
        let deep = Span { attributes: vec![attribute(nested(32, is_map))], ..span() };
        assert_eq!(check(&deep), Ok(()));
        assert_eq!(Span::decode(deep.encode_to_vec().as_slice()).unwrap(), deep);
        let mut resource = Vec::new();
        let mut frame = Vec::new();
        put_bytes_field(&mut resource, 1, &attribute(nested(32, is_map)).encode_to_vec());
        put_bytes_field(&mut frame, 1, &resource);
        assert_eq!(check_resource_frame(&frame, &SpanLimits::default()), Ok(()));
        ResourceSpans::decode(frame.as_slice()).unwrap();
    }
}

#[test]
fn depth_33_is_too_deep() {
    for is_map in [true, false] {
        let deep = Span { attributes: vec![attribute(nested(33, is_map))], ..span() };
        assert_eq!(check(&deep), Err(RejectReason::TooDeep));
    }
}

#[test]
fn a_value_of_a_mebibyte_passes_and_one_byte_more_does_not() {
    let mut large =
        Span { attributes: vec![attribute(Any::StringValue("x".repeat(1 << 20)))], ..span() };
    assert_eq!(check(&large), Ok(()));
    large.attributes = vec![attribute(Any::StringValue("x".repeat((1 << 20) + 1)))];
    assert_eq!(check(&large), Err(RejectReason::ValueTooLong));
    large.attributes = vec![attribute(Any::BytesValue(vec![0; (1 << 20) + 8]))];
    assert_eq!(check(&large), Err(RejectReason::ValueTooLong));
    let named = Span { name: "x".repeat((1 << 20) + 1), ..span() };
    assert_eq!(check(&named), Err(RejectReason::ValueTooLong));
}

#[test]
fn attributes_are_counted_in_every_list() {
    let many = |count| vec![attribute(Any::BoolValue(true)); count];
    assert_eq!(check(&Span { attributes: many(1_024), ..span() }), Ok(()));
    let over = Err(RejectReason::TooManyAttributes);
    assert_eq!(check(&Span { attributes: many(1_025), ..span() }), over);
    let event = Event { attributes: many(1_025), ..Event::default() };
    assert_eq!(check(&Span { events: vec![event], ..span() }), over);
}

#[test]
fn small_bytes_that_make_many_parts_are_refused() {
    let events = vec![Event::default(); 65_537];
    assert_eq!(check(&Span { events, ..span() }), Err(RejectReason::TooManyParts));
    let values = vec![AnyValue { value: None }; 65_537];
    let list = attribute(Any::ArrayValue(ArrayValue { values }));
    assert_eq!(check(&Span { attributes: vec![list], ..span() }), Err(RejectReason::TooManyParts));
}

#[test]
fn a_field_of_the_wrong_type_is_unreadable_wherever_it_is() {
    for (number, bytes) in [
        (9_u32, &b"\x0a\x01k\x12\x02\x08\x01"[..]), // string_value as a varint
        (11, b"\x08\x01"),                          // event.time as a varint
        (13, b"\x08\x01"),                          // link.trace_id as a varint
        (15, b"\x1a\x01x"),                         // status.code as bytes
        (9, b"\x0a\x05k"),                          // a key that ends beyond its attribute
    ] {
        let mut sent = span().encode_to_vec();
        put_bytes_field(&mut sent, number, bytes);
        assert_eq!(check_bytes(&sent), Err(RejectReason::Unreadable), "{number} {bytes:?}");
    }
}

#[test]
fn texts_must_be_utf8_and_ids_and_bytes_need_not() {
    let mut sent = span().encode_to_vec();
    put_bytes_field(&mut sent, 5, b"\xff\xfe");
    assert_eq!(check_bytes(&sent), Err(RejectReason::NotUtf8));
    let binary = Span { attributes: vec![attribute(Any::BytesValue(vec![0xff]))], ..span() };
    assert_eq!(check(&binary), Ok(()));
}

#[test]
fn unknown_fields_pass() {
    let mut sent = span().encode_to_vec();
    put_bytes_field(&mut sent, 999, b"later");
    put_varint(&mut sent, 1_000 << 3);
    put_varint(&mut sent, 7);
    assert_eq!(check_bytes(&sent), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_passes_is_what_a_decoder_reads(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in 0_usize..3,
    ) {
        let attributes = vec![attribute(nested(3, true)), attribute(nested(3, false))];
        let events = vec![Event { name: "e".into(), attributes: attributes.clone(), ..Event::default() }];
        let status = Some(Status { code: 2, message: "bad".into() });
        let mut sent =
            Span { attributes, events, status, kind: 3, flags: 257, ..span() }.encode_to_vec();
        for (place, value) in flips {
            let place = place.index(sent.len());
            sent[place] = value;
        }
        sent.truncate(sent.len() - cut);
        if let Ok(header) = check_span(&sent, &SpanLimits::default()) {
            prop_assert!(Span::decode(sent.as_slice()).is_ok());
            prop_assert_eq!(SpanHeader::read(&sent), Ok(header));
        }
    }

    #[test]
    fn any_bytes_that_pass_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if check_bytes(&bytes).is_ok() {
            prop_assert!(Span::decode(bytes.as_slice()).is_ok());
        }
    }
}
