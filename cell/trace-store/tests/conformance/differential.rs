//! A store against the oracle: random spans, canonical and not, sealed and waiting, under random
//! filters. Every answer is the same.

use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use trace_model::query::{CompareOp, Field, Literal, Pattern, Place};
use trace_model::{Filter, TenantId, TimeRange};

use crate::fixture::{NOW, Request, attribute, resource, scope, span, text, trace_id};
use crate::harness::{Adapter, Harness, MEMORY, query};

const KEYS: [&str; 5] = ["a", "b", "http.code", "service.name", "rare"];
const TEXTS: [&str; 8] = ["5", "x", "true", "0", "-0", "0.5", "error", ""];
const DOUBLES: [f64; 6] = [5.0, 0.5, 0.0, -0.0, f64::NAN, 9_007_199_254_740_993.0];
const INTEGERS: [i64; 6] = [5, 0, -7, 1, 2, 9_007_199_254_740_993];

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => proptest::sample::select(&TEXTS[..]).prop_map(text),
        3 => proptest::sample::select(&INTEGERS[..]).prop_map(Value::IntValue),
        2 => proptest::sample::select(&DOUBLES[..]).prop_map(Value::DoubleValue),
        1 => any::<bool>().prop_map(Value::BoolValue),
        1 => Just(Value::BytesValue(vec![1, 2])),
        1 => Just(Value::ArrayValue(ArrayValue::default())),
    ]
}

fn attributes(most: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    let one = (proptest::sample::select(&KEYS[..]), proptest::option::weighted(0.9, any_value()));
    let one = one.prop_map(|(key, value)| match value {
        Some(value) => attribute(key, value),
        None => KeyValue { key: key.to_owned(), ..KeyValue::default() },
    });
    vec(one, 0..most)
}

fn status() -> impl Strategy<Value = Option<otlp::Status>> {
    let message = prop_oneof![3 => Just(String::new()), 1 => Just("error".to_owned())];
    proptest::option::of(
        (0..4_i32, message).prop_map(|(code, message)| otlp::Status { code, message }),
    )
}

fn rare_parts() -> impl Strategy<Value = (Vec<KeyValue>, Vec<KeyValue>, Vec<u8>)> {
    let link = prop_oneof![3 => Just(vec![]), 1 => attributes(3)];
    // Behind the span's own fields: an unknown field, a second name, a kind of a needless byte, a
    // field of the wrong type, half a field.
    let tail = prop_oneof![
        12 => Just(vec![]),
        1 => Just(vec![0xfa, 0x07, 1, 9]),
        1 => Just(vec![0x2a, 1, b'z']),
        1 => Just(vec![0x30, 0x83, 0x00]),
        1 => Just(vec![0x28, 1]),
        1 => Just(vec![0x2a, 9]),
        1 => Just(vec![0x4a, 4, 0x0a, 2, 0xff, 0xfe]),
    ];
    (prop_oneof![2 => Just(vec![]), 1 => attributes(3)], link, tail)
}

fn any_span() -> impl Strategy<Value = Vec<u8>> {
    let head = (0_u64..12, 0_u64..40, proptest::sample::select(&["", "a", "b", "GET /"][..]));
    let times = (0_u64..5, 0_i32..7);
    (head, times, attributes(5), status(), rare_parts()).prop_map(
        |((trace, id, name), (length, kind), attributes, status, (event, link, tail))| {
            let mut span = span(trace, id, name);
            span.kind = kind;
            span.end_time_unix_nano = span.start_time_unix_nano + length * 100;
            if length == 4 {
                span.start_time_unix_nano = 0;
            }
            span.attributes = attributes;
            span.status = status;
            if !event.is_empty() {
                let time_unix_nano = span.start_time_unix_nano + 5;
                span.events.push(otlp::span::Event {
                    time_unix_nano,
                    name: "e".to_owned(),
                    attributes: event,
                    ..otlp::span::Event::default()
                });
            }
            if !link.is_empty() {
                span.links.push(otlp::span::Link {
                    trace_id: trace_id(trace).as_bytes().to_vec(),
                    span_id: vec![1; 8],
                    attributes: link,
                    ..otlp::span::Link::default()
                });
            }
            let mut bytes = span.encode_to_vec();
            bytes.extend(tail);
            bytes
        },
    )
}

/// What the collector lets through: the header can be read.
fn is_admitted(span: &[u8]) -> bool {
    proto::wire::SpanHeader::read(span).is_ok()
}

pub(crate) fn any_request() -> impl Strategy<Value = Request> {
    let group = (
        proptest::sample::select(&["web", "cart", "error"][..]),
        attributes(3),
        attributes(2),
        vec(any_span(), 1..14),
    );
    vec(group, 1..4).prop_map(|groups| {
        let groups = groups.into_iter().map(|(service, of_resource, of_scope, mut spans)| {
            spans.retain(|span| is_admitted(span));
            (resource(service, &of_resource), scope("lib", &of_scope), spans)
        });
        Request { groups: groups.collect(), ..Request::of("web", &[]) }
    })
}

fn any_field() -> impl Strategy<Value = Field> {
    let place = proptest::sample::select(
        &[Place::Any, Place::Span, Place::Resource, Place::Scope, Place::Event, Place::Link][..],
    );
    let attribute = (place, proptest::sample::select(&KEYS[..]))
        .prop_map(|(place, key)| Field::Attribute { place, key: key.to_owned() });
    prop_oneof![
        5 => attribute,
        1 => Just(Field::Service),
        1 => Just(Field::Operation),
        1 => Just(Field::Kind),
        1 => Just(Field::Status),
        1 => Just(Field::StatusMessage),
        1 => Just(Field::Duration),
    ]
}

fn any_literal() -> impl Strategy<Value = Literal> {
    let words = ["web", "cart", "GET /", "server", "2", "100"];
    let texts: Vec<&str> = TEXTS.iter().chain(&words).copied().collect();
    prop_oneof![
        3 => proptest::sample::select(texts.clone()).prop_map(|text| Literal::Text(text.to_owned())),
        2 => proptest::sample::select(texts).prop_map(|text| Literal::Str(text.to_owned())),
        2 => proptest::sample::select(&INTEGERS[..]).prop_map(Literal::Int),
        1 => proptest::sample::select(&DOUBLES[..]).prop_map(Literal::Double),
        1 => any::<bool>().prop_map(Literal::Bool),
    ]
}

pub(crate) fn any_filter() -> impl Strategy<Value = Filter> {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let op = proptest::sample::select(&[Eq, Eq, Eq, Ne, Lt, Le, Gt, Ge][..]);
    let pattern = proptest::sample::select(&["^5$", "e", "^$", "[0-9]"][..]);
    let leaf = prop_oneof![
        1 => Just(Filter::All),
        8 => (any_field(), op, any_literal())
            .prop_map(|(field, op, literal)| Filter::Compare { field, op, literal }),
        2 => (any_field(), pattern).prop_map(|(field, pattern)| Filter::Matches {
            field,
            pattern: Pattern::new(pattern).unwrap(),
        }),
        2 => any_field().prop_map(Filter::Exists),
    ];
    leaf.prop_recursive(3, 12, 3, |part| {
        prop_oneof![
            vec(part.clone(), 0..3).prop_map(Filter::And),
            vec(part.clone(), 0..3).prop_map(Filter::Or),
            part.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

async fn check_search(
    oracle: &Harness,
    store: &Harness,
    query: trace_model::SearchQuery,
) -> Result<(), TestCaseError> {
    let filter = query.filter.clone();
    let expected = oracle.store.search(&query).await.unwrap();
    let found = store.store.search(&query).await.unwrap();
    let seen = |matches: &[trace_model::TraceMatch]| {
        let one = |found: &trace_model::TraceMatch| {
            let services = found.services.clone();
            (found.trace_id, found.newest_match, services, found.regions.clone())
        };
        matches.iter().map(one).collect::<Vec<_>>()
    };
    prop_assert_eq!(seen(&found.matches), seen(&expected.matches), "{:?}", filter);
    prop_assert!(!found.is_damaged);
    let keys = |matches: &[trace_model::TraceMatch]| {
        matches.iter().map(trace_model::TraceMatch::order_key).collect::<Vec<_>>()
    };
    let mut page = trace_model::SearchQuery { limit: 2, ..query };
    for expected in expected.matches.chunks(page.limit) {
        let found = store.store.search(&page).await.unwrap().matches;
        prop_assert_eq!(keys(&found), keys(expected), "{:?} {:?}", filter, page.before);
        page.before = found.last().map(|last| (last.newest_match, last.trace_id));
    }
    let behind = store.store.search(&page).await.unwrap().matches;
    prop_assert!(page.before.is_none() || behind.is_empty(), "{:?} {:?}", filter, page.before);
    Ok(())
}

/// Fills the store and the oracle, and asks both.
pub(crate) async fn check(
    adapter: Adapter,
    requests: &[(Request, bool)],
    filters: &[Filter],
) -> Result<(), TestCaseError> {
    let mut oracle = Harness::new(MEMORY).await;
    let mut store = Harness::new(adapter).await;
    for (request, is_sealed) in requests {
        oracle.write(request).await;
        store.write(request).await;
        if *is_sealed {
            store.seal().await;
        }
    }
    for trace in 0..12 {
        let (expected, found) =
            (oracle.read(trace_id(trace)).await, store.read(trace_id(trace)).await);
        prop_assert!(found.iter().all(|span| expected.contains(span)));
    }
    for filter in filters {
        for range in
            [TimeRange::ALL, TimeRange { start: NOW.plus(9_000_000), end: NOW.plus(30_000_000) }]
        {
            let query = trace_model::SearchQuery { range, ..query(filter.clone()) };
            check_search(&oracle, &store, query).await?;
        }
    }
    store.seal().await;
    let store = store.reopen().await;
    for trace in 0..12 {
        prop_assert_eq!(store.read(trace_id(trace)).await, oracle.read(trace_id(trace)).await);
    }
    let tenant = TenantId::default();
    let services = store.store.services(&tenant, TimeRange::ALL).await.unwrap();
    let expected = oracle.store.services(&tenant, TimeRange::ALL).await.unwrap();
    prop_assert!(expected.iter().all(|service| services.contains(service)));
    Ok(())
}
