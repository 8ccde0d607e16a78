//! Names, keys and values that mean harm: spans come back as they were sent, searches find them by their
//! names, lists are whole or say that they are not.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message;
use trace_model::query::Field;
use trace_model::{Filter, LogPosition, SearchQuery, TenantId, TimeRange};
use trace_store::{ServiceCatalog, SpanWriter, StoreError, TraceSearch};

use super::{Bench, read};
use crate::fixture::{INCARNATION, Request, attribute, resource, scope, span, text, trace_id};
use crate::harness::{equals, query, tag};
use crate::hostile_texts::{HUGE, NO_UTF_8, texts};

/// Of a trace of its own, with the text wherever a text may stand, as far as a row of the cluster has room.
fn hostile(trace: u64, hostile: &str) -> Request {
    let mut span = span(trace, 0, hostile);
    span.attributes = vec![attribute(hostile, text(hostile))];
    if hostile.len() >= HUGE {
        return Request::of(hostile, &[span]);
    }
    let attributes = span.attributes.clone();
    span.trace_state = hostile.to_owned();
    span.status = Some(Status { code: 2, message: hostile.to_owned() });
    let name = hostile.to_owned();
    span.events = vec![Event { name, attributes: attributes.clone(), ..Event::default() }];
    let groups = (resource(hostile, &attributes), scope(hostile, &attributes));
    Request {
        groups: vec![(groups.0, groups.1, vec![span.encode_to_vec()])],
        ..Request::of("", &[])
    }
}

fn by_name(service: &str, operation: &str) -> SearchQuery {
    let both = [equals(Field::Service, service), equals(Field::Operation, operation)];
    query(Filter::And(both.to_vec()))
}

#[tokio::test]
async fn hostile_texts_in_one_write_come_back_as_they_were_sent_and_are_found_by_their_names() {
    let mut bench = Bench::new("hostile-texts").await;
    let texts = texts();
    let mut requests: Vec<_> =
        (0_u64..).zip(&texts).map(|(trace, text)| hostile(trace, text)).collect();
    requests.push(Request::of("web", &[span(1_000, 0, "GET /")]));
    let batches: Vec<_> = requests.iter().map(|request| bench.log.append(request)).collect();
    bench.store.write(&batches).await.unwrap();
    bench.flush().await;
    // As another process finds it, which remembers no name.
    let store = bench.another().await;
    for ((trace, text), request) in (0_u64..).zip(&texts).zip(&requests) {
        let spans = read(&store, trace_id(trace)).await;
        let group = &request.groups[0];
        let is_same = spans.len() == 1
            && spans[0].span.to_vec() == group.2[0]
            && spans[0].context.resource.to_vec() == group.0
            && spans[0].context.scope.to_vec() == group.1
            && *spans[0].context.service == **text;
        assert!(is_same, "{text:.40}");
        let found = store.search(&by_name(text, text)).await.unwrap();
        let found: Vec<_> = found.matches.iter().map(|one| one.trace_id).collect();
        assert_eq!(found, [trace_id(trace)], "{text:.40}");
    }
    let found = store.search(&by_name("web", "GET /")).await.unwrap().matches;
    assert_eq!(found.len(), 1);
    assert_eq!(read(&store, trace_id(1_000)).await.len(), 1);
    let tables = format!(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{}'",
        bench.keyspace
    );
    assert_eq!(bench.rows::<(String,)>(&tables).await.len(), 10);
}

#[tokio::test]
async fn a_list_names_every_hostile_name_or_says_that_it_lacks_some() {
    let mut bench = Bench::new("hostile-lists").await;
    let texts = texts();
    // Of one tenant the short ones alone: its lists are whole.
    let (short, long): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.len() < 1_024);
    for (tenant, names) in [("short", short), ("long", long)] {
        let batches: Vec<_> = (0_u64..)
            .zip(&names)
            .flat_map(|(trace, name)| {
                let one = Request { tenant, ..hostile(trace, name) };
                let named = Request::of("operations", &[span(1_000 + trace, 0, name)]);
                [one, Request { tenant, ..named }].map(|request| bench.log.append(&request))
            })
            .collect();
        bench.store.write(&batches).await.unwrap();
        let of = TenantId::new(tenant).unwrap();
        let services = bench.store.services(&of, TimeRange::ALL).await.unwrap();
        let operations = bench.store.operations(&of, "operations", TimeRange::ALL).await.unwrap();
        let mut wanted: BTreeSet<&str> = names.iter().map(|name| name.as_str()).collect();
        let listed: BTreeSet<&str> = operations.iter().map(|one| &*one.name).collect();
        assert!(operations.is_cut || listed == wanted, "{tenant}: {} operations", listed.len());
        wanted.insert("operations");
        let listed: BTreeSet<&str> = services.iter().map(|name| &**name).collect();
        assert!(services.is_cut || listed == wanted, "{tenant}: {} services", listed.len());
        assert!(tenant == "long" || !(services.is_cut || operations.is_cut));
        // What is shown whole is there in any case.
        let short = |name: &&&str| name.len() <= 4_096;
        assert!(wanted.iter().filter(short).all(|name| listed.contains(name)), "{tenant}");
    }
}

#[tokio::test]
async fn spans_of_a_hundred_thousand_keys_come_back_and_are_found_by_them() {
    let mut bench = Bench::new("hostile-keys").await;
    let mut requests = Vec::new();
    for trace in 0..100_u64 {
        let key = |number: u64| format!("key.{trace}.{number}'\\");
        let attributes = (0..1_000).map(|number| attribute(&key(number), text("v"))).collect();
        requests.push(Request::of("web", &[Span { attributes, ..span(trace, 0, "many") }]));
    }
    let batches: Vec<_> = requests.iter().map(|request| bench.log.append(request)).collect();
    bench.store.write(&batches).await.unwrap();
    for (trace, request) in (0_u64..).zip(&requests) {
        assert_eq!(bench.read(trace_id(trace)).await[0].span.to_vec(), request.groups[0].2[0]);
    }
    for (key, expected) in [(r"key.77.999'\", &[trace_id(77)][..]), (r"key.77.1000'\", &[])] {
        let both = vec![equals(Field::Service, "web"), tag(key, "v")];
        let found = bench.store.search(&query(Filter::And(both))).await.unwrap().matches;
        let found: Vec<_> = found.iter().map(|one| one.trace_id).collect();
        assert_eq!(found, expected, "{key}");
    }
}

#[tokio::test]
async fn a_record_that_no_cluster_takes_is_refused_and_those_beside_it_are_taken() {
    let mut bench = Bench::new("hostile-record").await;
    let large = |trace: u64, bytes: usize| {
        let body = vec![attribute("body", text(&"y".repeat(bytes)))];
        Request::of("web", &[Span { attributes: body, ..span(trace, 0, "large") }])
    };
    let mut no_utf_8 = Request::of("web", &[span(4, 0, "odd")]);
    no_utf_8.groups[0].2[0].extend(NO_UTF_8);
    let requests = [
        Request::of("web", &[span(1, 0, "before")]),
        large(2, 10 << 20),
        large(3, HUGE),
        no_utf_8.clone(),
        Request::of("web", &[span(5, 0, "behind")]),
    ];
    let batches: Vec<_> = requests.iter().map(|request| bench.log.append(request)).collect();
    let refused = bench.store.write(&batches).await;
    let Err(StoreError::Refused(words)) = refused else { panic!("{refused:?}") };
    assert!(words.len() < 2_000, "{} bytes", words.len());
    // As its group does: one by one, the refused one set aside.
    for (at, batch) in batches.iter().enumerate() {
        let written = bench.store.write(std::slice::from_ref(batch)).await;
        assert_eq!(written.is_ok(), at != 1, "{at}: {written:?}");
        let durable = LogPosition { partition: 0, offset: 1 };
        bench.flush().await;
        assert!(at > 1 || !bench.store.durable().covers(INCARNATION, durable), "{at}");
    }
    for (trace, spans) in [(1, 1), (2, 0), (3, 1), (4, 1), (5, 1)] {
        assert_eq!(bench.read(trace_id(trace)).await.len(), spans, "{trace}");
    }
    assert_eq!(bench.read(trace_id(4)).await[0].span.to_vec(), no_utf_8.groups[0].2[0]);
    let found = bench.store.search(&by_name("web", "odd")).await.unwrap().matches;
    assert_eq!(found.len(), 1);
}
