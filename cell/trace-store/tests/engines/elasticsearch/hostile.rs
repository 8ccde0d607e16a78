//! Names, keys and values that mean harm.

use opentelemetry_proto::tonic::common::v1::{ArrayValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use serde_json::Value;
use trace_model::query::{Field, Place};
use trace_model::{Filter, SearchQuery, TenantId, TimeRange};
use trace_store::{Eraser, SearchIndexer, ServiceCatalog, TraceSearch};

use super::documents::{Bench, TODAY};
use super::engine::json;
use crate::fixture::{NOW, Request, attribute, span, text, trace_id};
use crate::harness::{equals, query, tag};

fn nasty() -> Vec<String> {
    vec![
        r#"","_id":"x"}}"#.to_owned(),
        "}\n{\"delete\":{\"_index\":\"*\"}}\n".to_owned(),
        "\u{0}\u{1}\u{1b}\u{7f}\u{85}\u{2028}".to_owned(),
        "' OR 1=1 --".to_owned(),
        "a.b__c.*".to_owned(),
        "_id".to_owned(),
        "../../etc/passwd".to_owned(),
        "😀é\u{301}".to_owned(),
        "x".repeat(256),
        "😀".repeat(128),
        "x".repeat(257),
        "y".repeat(1 << 20),
        String::new(),
    ]
}

#[tokio::test]
async fn hostile_names_keys_and_values_are_stored_found_and_listed() {
    let mut bench = Bench::new().await;
    let tenant = TenantId::default();
    for (at, nasty) in (1_u64..).zip(nasty()) {
        let mut one = span(at, 0, &nasty);
        one.attributes =
            vec![attribute(&nasty, text(&nasty)), attribute("n", Any::IntValue(at as i64))];
        one.trace_state.clone_from(&nasty);
        one.status =
            Some(opentelemetry_proto::tonic::trace::v1::Status { code: 2, message: nasty.clone() });
        one.flags = u32::MAX;
        one.events =
            vec![Event { name: nasty.clone(), time_unix_nano: u64::MAX, ..Event::default() }];
        bench.index(&Request::of(if nasty.is_empty() { "web" } else { &nasty }, &[one])).await;
        let mut filters =
            vec![tag(&nasty, &nasty), equals(Field::Operation, &nasty), tag("n", &at.to_string())];
        if !nasty.is_empty() {
            filters.extend([
                equals(Field::Service, &nasty),
                equals(Field::StatusMessage, &nasty),
                equals(
                    Field::Attribute { place: Place::Resource, key: "service.name".into() },
                    &nasty,
                ),
            ]);
        }
        for filter in filters {
            assert_eq!(bench.find(filter).await, [trace_id(at)], "{nasty:.40}");
        }
    }
    let count = nasty().len();
    assert_eq!(bench.count(TODAY), count as u64);
    let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
    let mut expected: Vec<std::sync::Arc<str>> =
        nasty().iter().filter(|name| !name.is_empty()).map(|name| name.as_str().into()).collect();
    expected.push("web".into());
    expected.sort();
    assert!(*services == *expected, "{} services", services.len());
    for nasty in nasty().into_iter().filter(|name| !name.is_empty()) {
        let operations = bench.store.operations(&tenant, &nasty, TimeRange::ALL).await.unwrap();
        assert_eq!(operations.len(), 1, "{nasty:.40}");
        assert!(*operations[0].name == *nasty);
    }
    // An entry with a name that is no term goes with its trace as well.
    let long = (1_u64..).zip(nasty()).find(|(_, name)| name.len() == 1 << 20).unwrap();
    bench.store.erase(&tenant, trace_id(long.0)).await.unwrap();
    let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
    assert_eq!(services.len(), expected.len() - 1);
    assert!(bench.store.operations(&tenant, &long.1, TimeRange::ALL).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_hundred_thousand_keys_leave_the_mapping_as_it_was() {
    let mut bench = Bench::new().await;
    bench.index(&Request::of("web", &[span(1_000, 0, "a")])).await;
    let mapping = |bench: &Bench| {
        json(&bench.url, "GET", &format!("/{}/_mapping", bench.name(TODAY)), &Value::Null)
    };
    let before = mapping(&bench);
    for part in 0..10_u64 {
        let spans: Vec<Span> = (0..10)
            .map(|at| {
                let trace = part * 10 + at;
                let mut one = span(trace, 0, "a");
                let key = |number| format!("key.{trace}.{number}__x");
                one.attributes =
                    (0..1_000).map(|number| attribute(&key(number), text("v"))).collect();
                one
            })
            .collect();
        bench.index(&Request::of("web", &spans)).await;
    }
    assert_eq!(mapping(&bench), before);
    assert_eq!(bench.find(tag("key.77.999__x", "v")).await, [trace_id(77)]);
    assert!(bench.find(tag("key.77.1000__x", "v")).await.is_empty());
}

#[tokio::test]
async fn a_span_with_more_than_the_engine_takes_is_stored_and_found_by_all_of_it() {
    let mut bench = Bench::new().await;
    let many = |prefix: &str, count: usize| -> Vec<_> {
        (0..count).map(|at| attribute(&format!("{prefix}{at}"), text("v"))).collect()
    };
    let mut huge = span(1, 0, "huge");
    huge.attributes = many("s", 12_000);
    huge.events = (0..12_000)
        .map(|at| Event {
            name: "e".into(),
            attributes: many(&format!("e{at}."), 1),
            ..Event::default()
        })
        .collect();
    huge.links = (0..5_000)
        .map(|at| Link {
            trace_id: vec![1; 16],
            span_id: vec![1; 8],
            attributes: many(&format!("l{at}."), 1),
            ..Link::default()
        })
        .collect();
    let deep = (0..20).fold(Any::ArrayValue(ArrayValue::default()), |inner, _| {
        let value = opentelemetry_proto::tonic::common::v1::AnyValue { value: Some(inner) };
        Any::ArrayValue(ArrayValue { values: vec![value] })
    });
    huge.attributes.push(attribute("deep", deep));
    bench.index(&Request::of("web", &[huge, span(2, 0, "small")])).await;
    for key in ["s0", "s11999", "e0.0", "e11999.0", "l0.0", "l4999.0"] {
        assert_eq!(bench.find(tag(key, "v")).await, [trace_id(1)], "{key}");
        assert!(bench.find(tag(key, "w")).await.is_empty(), "{key}");
    }
    let deep = Field::Attribute { place: Place::Span, key: "deep".to_owned() };
    assert_eq!(bench.find(Filter::Exists(deep)).await, [trace_id(1)]);
}

#[tokio::test]
async fn tenants_with_hostile_names_never_meet() {
    let mut bench = Bench::new().await;
    let names = [
        "default",
        "Default",
        "a*",
        "a",
        "A",
        "-a",
        "_a",
        "!'()",
        "x-jaeger-span-2",
        "x",
        "..a",
        "x-jaeger-span-2026-09-21",
    ];
    for (at, name) in names.iter().enumerate() {
        let request = Request { tenant: name, ..Request::of(name, &[span(at as u64, 0, "a")]) };
        bench.index(&request).await;
    }
    let long = Box::leak(("*".repeat(150)).into_boxed_str());
    bench.index(&Request { tenant: long, ..Request::of("long", &[span(99, 0, "a")]) }).await;
    let of =
        |name: &str| SearchQuery { tenant: TenantId::new(name).unwrap(), ..query(Filter::All) };
    for (at, name) in names.iter().enumerate() {
        let matches = bench.store.search(&of(name)).await.unwrap().matches;
        assert_eq!(matches.len(), 1, "{name}");
        assert_eq!(matches[0].trace_id, trace_id(at as u64), "{name}");
        let tenant = TenantId::new(name).unwrap();
        let services = bench.store.services(&tenant, TimeRange::ALL).await.unwrap();
        assert_eq!(services, [(*name).into()], "{name}");
    }
    assert_eq!(bench.store.search(&of(long)).await.unwrap().matches.len(), 1);
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
}
