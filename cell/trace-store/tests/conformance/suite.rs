//! What every adapter promises, once.

use trace_model::query::Field;
use trace_model::{Filter, LogPosition, SearchQuery, StoredSpan, TenantId, TimeRange};

use crate::fixture::{INCARNATION, NOW, Request, attribute, resource, scope, span, text, trace_id};
use crate::harness::{Adapter, Harness, NAMES_LISTED, equals, files_with, query, tag};

fn bytes_of(spans: &[StoredSpan]) -> Vec<Vec<u8>> {
    let mut bytes: Vec<Vec<u8>> = spans.iter().map(|stored| stored.span.to_vec()).collect();
    bytes.sort();
    bytes
}

pub(crate) async fn a_trace_comes_back_as_it_was_sent(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let mut rich = span(1, 1, "GET /cart");
    rich.parent_span_id = 1_u64.to_be_bytes().to_vec();
    rich.attributes = vec![attribute("user", text("anna")), attribute("user", text("berta"))];
    rich.trace_state = "ot=th:8".to_owned();
    rich.flags = 0x101;
    let request = Request::of("web", &[span(1, 0, "root"), rich, span(2, 0, "other")]);
    harness.write_sealed(&request).await;
    let harness = harness.reopen().await;
    let spans = harness.read(trace_id(1)).await;
    let mut sent = request.groups[0].2[..2].to_vec();
    sent.sort();
    assert_eq!(bytes_of(&spans), sent);
    assert_eq!(&*spans[0].context.service, "web");
    assert_eq!(spans[0].context.resource.to_vec(), request.groups[0].0);
    assert_eq!(spans[0].envelope.region.as_str(), "eu-west-1");
    assert_eq!(spans[0].envelope.receive_time, NOW);
    let batch = request.batch();
    let keys: Vec<_> = batch.spans().iter().map(|span| batch.key_of(span)).collect();
    assert!(spans.iter().all(|span| keys.contains(&span.key)));
}

pub(crate) async fn what_is_not_held_is_an_empty_list(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    assert!(harness.read(trace_id(9)).await.is_empty());
    harness.write_sealed(&Request::of("web", &[span(1, 0, "root")])).await;
    assert!(harness.read(trace_id(9)).await.is_empty());
    assert!(harness.find(tag("no", "such")).await.is_empty());
}

pub(crate) async fn tenants_with_one_trace_id_never_meet(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    for (tenant, name) in [("team-a", "of a"), ("team-b", "of b"), ("default", "of default")] {
        let request = Request { tenant, ..Request::of("web", &[span(1, 0, name)]) };
        harness.write(&request).await;
    }
    harness.seal().await;
    let team_a = TenantId::new("team-a").unwrap();
    let spans = harness.read_of(&team_a, trace_id(1)).await;
    assert_eq!(spans.len(), 1);
    let (read, _) = proto::decode::read_spans(&spans);
    assert_eq!(read[0].0.name, "of a");
    let mut search = query(equals(Field::Operation, "of b"));
    assert!(harness.store.search(&search).await.unwrap().matches.is_empty());
    search.tenant = TenantId::new("team-b").unwrap();
    assert_eq!(harness.store.search(&search).await.unwrap().matches.len(), 1);
    harness.store.erase(&team_a, trace_id(1)).await.unwrap();
    assert_eq!(harness.read(trace_id(1)).await.len(), 1);
    assert!(harness.read_of(&team_a, trace_id(1)).await.is_empty());
}

pub(crate) async fn a_span_exported_twice_is_one_and_differing_twins_are_two(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let mut twin = span(1, 0, "root");
    twin.kind = 3;
    let first = Request::of("web", &[span(1, 0, "root"), span(1, 0, "root"), twin]);
    harness.write(&first).await;
    let later = Request { receive_time: NOW.plus(9), ..Request::of("web", &[span(1, 0, "root")]) };
    harness.write_sealed(&later).await;
    harness.write_sealed(&later).await;
    let spans = harness.read(trace_id(1)).await;
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| span.envelope.receive_time == NOW));
}

pub(crate) async fn a_replayed_batch_is_not_visible_twice(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let batch = harness.log.append(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")]));
    for _ in 0..2 {
        harness.store.write(std::slice::from_ref(&batch)).await.unwrap();
    }
    harness.seal().await;
    let harness = harness.reopen().await;
    harness.store.write(&[batch]).await.unwrap();
    harness.seal().await;
    assert_eq!(harness.store.figures().spans, 2);
    let answer = harness.search(Filter::All).await;
    assert!(answer.matches.iter().all(|found| found.matched_spans == 1));
}

pub(crate) async fn durable_says_how_far_and_holds_after_reopening(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    harness.write(&Request::of("web", &[span(1, 0, "a"), span(2, 0, "b")])).await;
    harness.seal().await;
    let harness = harness.reopen().await;
    let listed = harness.store.listed().await.unwrap();
    for covered in [harness.store.durable(), harness.store.indexed(), listed] {
        assert!(covered.covers(INCARNATION, LogPosition { partition: 0, offset: 1 }));
        assert!(!covered.covers(INCARNATION, LogPosition { partition: 0, offset: 2 }));
    }
    let read = harness.store.read_trace(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!(read.covered, harness.store.durable());
}

pub(crate) async fn the_cover_goes_on_over_records_that_were_stepped_over(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    harness.write(&Request::of("web", &[span(1, 0, "a")])).await;
    // A run of three at the end of the log, where nothing comes behind it.
    let mut stepped_over =
        harness.log.append(&Request { groups: Vec::new(), ..Request::of("", &[]) });
    assert!(stepped_over.batch.traces().is_empty());
    stepped_over.range.next += 3;
    harness.store.write(std::slice::from_ref(&stepped_over)).await.unwrap();
    harness.store.index(&[stepped_over]).await.unwrap();
    harness.seal().await;
    let harness = harness.reopen().await;
    let searched = harness.search(Filter::All).await;
    assert_eq!((searched.matches.len(), searched.is_damaged), (1, false));
    let listed = harness.store.listed().await.unwrap();
    for covered in [harness.store.durable(), harness.store.indexed(), listed, searched.covered] {
        assert_eq!(covered.next_in(INCARNATION, 0), 4);
    }
    assert_eq!(harness.read(trace_id(1)).await.len(), 1);
}

pub(crate) async fn a_long_trace_is_whole(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let spans: Vec<_> = (0..150)
        .map(|id| {
            let mut span = span(1, id, "step");
            if id > 0 {
                span.parent_span_id = id.to_be_bytes().to_vec();
            }
            span
        })
        .collect();
    let request = Request::of("web", &spans);
    harness.write_sealed(&request).await;
    let read = harness.read(trace_id(1)).await;
    let mut sent = request.groups[0].2.clone();
    sent.sort();
    assert_eq!(bytes_of(&read), sent);
}

pub(crate) async fn a_trace_of_large_spans_is_whole(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let large = |id: u64| {
        let mut span = span(1, id, "large");
        let value: String =
            (0..600_000).map(|at| char::from(b'a' + ((at * at + id) % 26) as u8)).collect();
        span.attributes =
            vec![attribute("body", text(&value)), attribute("id", text(&id.to_string()))];
        span
    };
    let spans: Vec<_> = (0..20).map(large).collect();
    let request = Request::of("web", &spans);
    harness.write_sealed(&request).await;
    let read = harness.read(trace_id(1)).await;
    let mut sent = request.groups[0].2.clone();
    sent.sort();
    assert!(bytes_of(&read) == sent);
    assert_eq!(harness.find(tag("id", "19")).await, [trace_id(1)]);
}

pub(crate) async fn what_is_written_is_found_before_and_after_it_is_sealed(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let mut tagged = span(1, 0, "pay");
    tagged.attributes = vec![attribute("order", text("o-17"))];
    harness.write(&Request::of("shop", &[tagged, span(2, 0, "other")])).await;
    assert_eq!(harness.find(tag("order", "o-17")).await, [trace_id(1)]);
    harness.seal().await;
    assert_eq!(harness.find(tag("order", "o-17")).await, [trace_id(1)]);
    let harness = harness.reopen().await;
    assert_eq!(harness.find(tag("order", "o-17")).await, [trace_id(1)]);
}

pub(crate) async fn results_are_newest_first_and_pages_follow_without_gap_or_repeat(
    adapter: Adapter,
) {
    let mut harness = Harness::new(adapter).await;
    for request in 0..6_u64 {
        let spans: Vec<_> = (0..20)
            .flat_map(|trace| {
                let trace = request * 10 + trace;
                [span(trace, trace % 7, "a"), span(trace, request * 3 + trace % 5, "b")]
            })
            .collect();
        harness.write_sealed(&Request::of("web", &spans)).await;
    }
    let mut pages = Vec::new();
    let mut search = SearchQuery { limit: 7, ..query(Filter::All) };
    loop {
        let matches = harness.store.search(&search).await.unwrap().matches;
        let Some(last) = matches.last() else { break };
        search.before = Some((last.newest_match, last.trace_id));
        pages.extend(matches);
    }
    let all = harness.search(Filter::All).await.matches;
    assert_eq!(all.len(), 70);
    assert!(all.windows(2).all(|pair| pair[0].order_key() < pair[1].order_key()));
    let keys = |matches: &[trace_model::TraceMatch]| {
        matches.iter().map(trace_model::TraceMatch::order_key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&pages), keys(&all));
}

pub(crate) async fn a_time_range_holds_for_the_spans_that_match(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let mut undated = span(3, 0, "undated");
    undated.start_time_unix_nano = 0;
    let spans = [span(1, 0, "a"), span(1, 9, "b"), span(2, 5, "a"), undated];
    harness.write_sealed(&Request::of("web", &spans)).await;
    let range = |from: u64, to: u64| TimeRange { start: NOW.plus(from), end: NOW.plus(to) };
    let find = async |filter: Filter, range: TimeRange| {
        let query = SearchQuery { range, ..query(filter) };
        let matches = harness.store.search(&query).await.unwrap().matches;
        matches.iter().map(|found| found.trace_id).collect::<Vec<_>>()
    };
    let operation = |name: &str| equals(Field::Operation, name);
    assert_eq!(find(Filter::All, range(1_000_000, 6_000_000)).await, [trace_id(2)]);
    assert_eq!(find(operation("b"), range(0, 9_000_000)).await, []);
    assert_eq!(find(operation("b"), range(0, 9_000_001)).await, [trace_id(1)]);
    assert_eq!(find(operation("undated"), range(0, 1)).await, [trace_id(3)]);
}

pub(crate) async fn the_catalogue_lists_what_the_buckets_hold(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let mut old = span(1, 0, "old");
    old.start_time_unix_nano -= 3_600_000_000_000;
    old.end_time_unix_nano -= 3_600_000_000_000;
    let mut client = span(2, 0, "call");
    client.kind = 3;
    harness.write_sealed(&Request::of("web", &[client, span(2, 1, "call")])).await;
    harness.write(&Request::of("cart", &[old])).await;
    let recent = TimeRange { start: NOW, end: NOW.plus(1) };
    for _ in 0..2 {
        let tenant = TenantId::default();
        let services = harness.store.services(&tenant, TimeRange::ALL).await.unwrap();
        assert_eq!(services, ["cart".into(), "web".into()]);
        let services = harness.store.services(&tenant, recent).await.unwrap();
        assert_eq!(services, ["web".into()]);
        let operations = harness.store.operations(&tenant, "web", recent).await.unwrap();
        let kinds: Vec<_> = operations.iter().map(|found| (&*found.name, found.kind)).collect();
        use trace_model::SpanKind::{Client, Server};
        assert_eq!(kinds, [("call", Server), ("call", Client)]);
        assert!(harness.store.operations(&tenant, "none", recent).await.unwrap().is_empty());
        let other = TenantId::new("other").unwrap();
        assert!(harness.store.services(&other, TimeRange::ALL).await.unwrap().is_empty());
        harness.seal().await;
    }
}

pub(crate) async fn a_list_that_is_cut_says_so_and_to_its_tenant_alone(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let count = NAMES_LISTED as u64 + 5;
    let numbered = |letter: char, number: u64| format!("{letter}{number:03}");
    // Backwards, so that the first in order come last.
    let groups = (0..count).rev().map(|number| {
        let one = prost::Message::encode_to_vec(&span(number, 0, "GET"));
        (resource(&numbered('s', number), &[]), scope("lib", &[]), vec![one])
    });
    let groups = groups.collect();
    harness.write(&Request { tenant: "services", groups, ..Request::of("", &[]) }).await;
    let many: Vec<_> = (0..count).map(|number| span(number, 0, &numbered('o', number))).collect();
    let many = Request { tenant: "operations", ..Request::of("web", &many) };
    harness.write(&many).await;
    harness.write(&Request::of("mine", &[span(1, 0, "GET")])).await;
    let [services_of, operations_of] =
        ["services", "operations"].map(|name| TenantId::new(name).unwrap());
    let first = |letter| -> Vec<String> {
        (0..NAMES_LISTED as u64).map(|number| numbered(letter, number)).collect()
    };
    for _ in 0..2 {
        let store = &harness.store;
        let services = store.services(&services_of, TimeRange::ALL).await.unwrap();
        assert!(services.is_cut);
        assert_eq!(services.iter().map(|name| name.to_string()).collect::<Vec<_>>(), first('s'));
        let operations = store.operations(&operations_of, "web", TimeRange::ALL).await.unwrap();
        assert!(operations.is_cut);
        let names: Vec<_> = operations.iter().map(|found| found.name.to_string()).collect();
        assert_eq!(names, first('o'));
        // The service that is not in the list has its own.
        let last = numbered('s', count - 1);
        let beyond = store.operations(&services_of, &last, TimeRange::ALL).await.unwrap();
        assert_eq!((beyond.len(), beyond.is_cut), (1, false));
        let whole = store.services(&operations_of, TimeRange::ALL).await.unwrap();
        assert_eq!(whole, ["web".into()]);
        let mine = store.services(&TenantId::default(), TimeRange::ALL).await.unwrap();
        assert_eq!(mine, ["mine".into()]);
        harness.seal().await;
    }
}

pub(crate) async fn an_erased_trace_is_gone_for_good(adapter: Adapter) {
    let mut harness = Harness::new(adapter).await;
    let canary = "canary-4711-of-a-subject";
    let mut subject = span(1, 0, canary);
    subject.attributes = vec![attribute("mail", text(canary))];
    let request = Request::of("web", &[subject.clone(), span(2, 0, "other")]);
    harness.write_sealed(&request).await;
    harness.write(&Request::of(canary, &[subject.clone()])).await;
    let tenant = TenantId::default();
    let receipt = harness.store.erase(&tenant, trace_id(1)).await.unwrap();
    assert!(receipt.spans >= 1);
    harness.write_sealed(&Request::of("web", &[subject])).await;
    let harness = harness.reopen().await;
    for _ in 0..2 {
        assert!(harness.read(trace_id(1)).await.is_empty());
        assert!(harness.find(tag("mail", canary)).await.is_empty());
        assert_eq!(harness.find(Filter::All).await, [trace_id(2)]);
        assert_eq!(harness.read(trace_id(2)).await.len(), 1);
        let services = harness.store.services(&tenant, TimeRange::ALL).await.unwrap();
        assert_eq!(services, ["web".into()]);
        for needle in [canary.as_bytes(), trace_id(1).as_bytes()] {
            assert_eq!(files_with(harness.directory.path(), needle), Vec::<String>::new());
        }
        harness.store.erase(&tenant, trace_id(1)).await.unwrap();
    }
}

/// Runs every fact of the suite on an adapter.
macro_rules! conformance {
    ($adapter:ident: $($fact:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $fact() {
                crate::suite::$fact($adapter).await;
            }
        )*
    };
}

macro_rules! every_fact {
    ($adapter:ident) => {
        $crate::suite::conformance!(
            $adapter: a_trace_comes_back_as_it_was_sent,
            what_is_not_held_is_an_empty_list,
            tenants_with_one_trace_id_never_meet,
            a_span_exported_twice_is_one_and_differing_twins_are_two,
            a_replayed_batch_is_not_visible_twice,
            durable_says_how_far_and_holds_after_reopening,
            the_cover_goes_on_over_records_that_were_stepped_over,
            a_long_trace_is_whole,
            a_trace_of_large_spans_is_whole,
            what_is_written_is_found_before_and_after_it_is_sealed,
            results_are_newest_first_and_pages_follow_without_gap_or_repeat,
            a_time_range_holds_for_the_spans_that_match,
            the_catalogue_lists_what_the_buckets_hold,
            a_list_that_is_cut_says_so_and_to_its_tenant_alone,
            an_erased_trace_is_gone_for_good,
        );
    };
}

pub(crate) use {conformance, every_fact};
