//! The walk against the same columns of a span that prost has decoded.

use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_value() -> impl Strategy<Value = Option<AnyValue>> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Value::StringValue),
        "[a-z]{120,140}".prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_map(Value::DoubleValue),
        vec(any::<u8>(), 0..12).prop_map(Value::BytesValue),
        any::<i32>().prop_map(Value::StringValueStrindex),
    ];
    let value = |value| AnyValue { value: Some(value) };
    let nested = leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            vec(inner.clone().prop_map(value), 0..3)
                .prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec((".{0,6}", inner.prop_map(value)), 0..3).prop_map(|pairs| {
                let pair = |(key, value)| pair(key, Some(value));
                let values = pairs.into_iter().map(pair).collect();
                Value::KvlistValue(KeyValueList { values })
            }),
        ]
    });
    let some = nested.prop_map(|value| Some(AnyValue { value: Some(value) }));
    prop_oneof![8 => some, 1 => Just(Some(AnyValue { value: None })), 1 => Just(None)]
}

fn pair(key: String, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key, value, ..KeyValue::default() }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let one = (".{0,12}", any_value()).prop_map(|(key, value)| pair(key, value));
    vec(one, 0..4)
}

prop_compose! {
    fn event()(time_unix_nano in any::<u64>(), name in ".{0,8}", attributes in attributes()) -> otlp::span::Event {
        otlp::span::Event { time_unix_nano, name, attributes, dropped_attributes_count: 3 }
    }
}

prop_compose! {
    fn link()(
        trace_id in vec(any::<u8>(), 0..17),
        span_id in vec(any::<u8>(), 0..9),
        trace_state in ".{0,8}",
        attributes in attributes(),
    ) -> otlp::span::Link {
        otlp::span::Link { trace_id, span_id, trace_state, attributes, ..otlp::span::Link::default() }
    }
}

prop_compose! {
    fn span()(
        name in ".{0,8}",
        trace_state in ".{0,8}",
        attributes in attributes(),
        events in vec(event(), 0..3),
        links in vec(link(), 0..3),
        status in proptest::option::of((".{0,8}", 0..3_i32)),
    ) -> otlp::Span {
        let status = status.map(|(message, code)| otlp::Status { message, code });
        otlp::Span { name, trace_state, attributes, events, links, status, ..otlp::Span::default() }
    }
}

fn expected_attributes(rows: &mut Rows, attributes: &[KeyValue]) {
    rows.count(attributes.len());
    for attribute in attributes {
        rows.text(&attribute.key);
        match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            None | Some(Value::StringValueStrindex(_)) => rows.text(""),
            Some(Value::StringValue(text)) => rows.text(text),
            Some(Value::BoolValue(value)) => rows.text(&value.to_string()),
            Some(Value::IntValue(number)) => rows.text(&number.to_string()),
            Some(Value::DoubleValue(number)) => rows.text(&number.to_string()),
            Some(Value::BytesValue(bytes)) => rows.text(&STANDARD.encode(bytes)),
            Some(value) => rows.text(&json(Some(value)).to_string()),
        }
    }
}

fn expected(span: &otlp::Span) -> Rows {
    let mut rows = Rows::default();
    rows.text(&span.trace_state);
    rows.text(&span.name);
    rows.text(span.status.as_ref().map_or("", |status| &status.message));
    expected_attributes(&mut rows, &span.attributes);
    let (events, links) = (&span.events, &span.links);
    rows.count(events.len());
    events.iter().for_each(|event| rows.i64(stamp(event.time_unix_nano)));
    rows.count(events.len());
    events.iter().for_each(|event| rows.text(&event.name));
    rows.count(events.len());
    events.iter().for_each(|event| expected_attributes(&mut rows, &event.attributes));
    rows.count(links.len());
    links.iter().for_each(|link| rows.hex(&link.trace_id));
    rows.count(links.len());
    links.iter().for_each(|link| rows.hex(&link.span_id));
    rows.count(links.len());
    links.iter().for_each(|link| rows.text(&link.trace_state));
    rows.count(links.len());
    links.iter().for_each(|link| expected_attributes(&mut rows, &link.attributes));
    rows
}

fn walked(span: &[u8]) -> Result<Rows, WireError> {
    let mut rows = Rows::default();
    let seen = Seen::of(span)?;
    rows.text(seen.trace_state);
    rows.text(seen.name);
    rows.text(seen.status_message);
    put_attributes(&mut rows, span, tags::SPAN_ATTRIBUTES)?;
    put_events(&mut rows, span, seen.events)?;
    put_links(&mut rows, span, seen.links)?;
    Ok(rows)
}

proptest! {
    #[test]
    fn what_is_walked_is_what_is_decoded(span in span(), other in span()) {
        let bytes = span.encode_to_vec();
        prop_assert_eq!(walked(&bytes).unwrap().finish(), expected(&span).finish());
        // Two messages one behind the other are one: lists grow, of a scalar the last counts.
        let bytes = [bytes, other.encode_to_vec()].concat();
        let merged = otlp::Span::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(walked(&bytes).unwrap().finish(), expected(&merged).finish());
    }

    #[test]
    fn what_cannot_be_read_is_an_error(span in span(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = span.encode_to_vec();
        prop_assume!(!bytes.is_empty());
        let place = place.index(bytes.len());
        *bytes.get_mut(place).unwrap() = byte;
        // It may be more tolerant than prost of what stands in no column, and is never less.
        if otlp::Span::decode(bytes.as_slice()).is_ok() {
            prop_assert!(walked(&bytes).is_ok());
        }
    }
}
