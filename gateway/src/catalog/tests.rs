use proto::convert::index::index_name;
use trace_model::location::{Contribution, Detail, RegionState, ServiceCount, SummaryQuery};
use trace_model::{Certificate, RegionOutcome, TenantId, TimeRange};

use crate::config::Freshness;
use crate::fakes::{FakeCell, FakeIndex, Manner, NOW, context, gateway, holed, id, level, region};
use crate::gateway::Gateway;
use crate::port::{EdgeTraceAsk, RedAsk};
use crate::red::RedRequest;

fn all_summaries() -> SummaryQuery {
    SummaryQuery::newest(TenantId::default(), TimeRange::ALL, 20)
}

async fn summary_line(other: RegionState, query: &SummaryQuery) -> (RegionOutcome, String) {
    let index = FakeIndex::with_states(vec![level("eu"), other]);
    let gateway = gateway(&[FakeCell::new("eu")], &index);
    let answer = gateway.summaries(&context(Freshness::Auto), query).await.unwrap();
    let report = &answer.certificate.regions[&region("us")];
    (report.outcome, answer.certificate.to_string())
}

#[tokio::test]
async fn a_region_whose_index_gives_routes_alone_withholds_what_needs_detail() {
    let routing = RegionState { rows_without_detail: 1, ..level("us") };
    let needing = |change: fn(&mut SummaryQuery)| {
        let mut query = all_summaries();
        change(&mut query);
        query
    };
    for query in [
        needing(|query| query.service = Some("secret".into())),
        needing(|query| query.root_service = Some("secret".into())),
        needing(|query| query.root_operation = Some("op".into())),
        needing(|query| query.duration_nanos_min = 1),
        needing(|query| query.duration_nanos_max = Some(9)),
        needing(|query| query.only_errors = true),
    ] {
        let (outcome, line) = summary_line(routing.clone(), &query).await;
        assert_eq!(outcome, RegionOutcome::Redacted, "{query:?}");
        assert!(line.contains("withheld by us (redacted)"), "{line}");
        let (outcome, line) = summary_line(level("us"), &query).await;
        assert_eq!(outcome, RegionOutcome::Pruned);
        assert!(!line.contains("withheld"), "{line}");
    }
    let (outcome, _) = summary_line(routing, &all_summaries()).await;
    assert_eq!(outcome, RegionOutcome::Pruned, "a time alone is told by routes as well");
}

#[tokio::test]
async fn what_is_withheld_excuses_no_hole() {
    let query = SummaryQuery { only_errors: true, range: TimeRange::ALL, ..all_summaries() };
    let routing = RegionState { rows_without_detail: 1, ..holed("us") };
    let (outcome, line) = summary_line(routing, &query).await;
    assert_eq!(outcome, RegionOutcome::Pruned);
    assert!(line.starts_with("partial: 1 of 2 regions; missing us (not provable"), "{line}");
}

/// The certificate of every kind of list and count.
async fn certificates(gateway: &Gateway) -> Vec<Certificate> {
    let context = context(Freshness::Auto);
    let range = TimeRange { start: NOW, end: NOW.plus(1) };
    let ask = RedAsk { service: None, by_operation: false, range };
    let edge = EdgeTraceAsk {
        caller: "a".into(),
        callee: "b".into(),
        only_errors: false,
        range,
        limit: 5,
    };
    let red = RedRequest { ask, step_minutes: 1 };
    vec![
        gateway.services(&context).await.unwrap().certificate,
        gateway.operations(&context, "web").await.unwrap().certificate,
        gateway.dependencies(&context, range).await.unwrap().certificate,
        gateway.red(&context, &red).await.unwrap().certificate,
        gateway.edge_traces(&context, &edge).await.unwrap().certificate,
    ]
}

async fn lines(manner: Manner) -> Vec<String> {
    let cells = ["eu", "us"].map(FakeCell::new);
    *cells[0].edge_traces.lock().unwrap() = vec![id(5)];
    cells[1].behave(manner);
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    let certificates = certificates(&gateway(&cells, &index)).await;
    certificates.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_and_counts_are_complete_as_of_the_earliest_time_that_a_region_says() {
    for (manner, ago) in [(Manner::Honest, 1_000_000), (Manner::InStep, 5_000_000_000)] {
        for line in lines(manner).await {
            assert_eq!(line, format!("complete: 2 of 2 regions; as of {}", NOW.minus(ago)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_lists_and_counts_lag_or_do_not_say_is_behind() {
    let ago = NOW.minus(90_000_000_000);
    for line in lines(Manner::Behind).await {
        let us = format!("missing us (behind its promise by 3 records, as of {ago})");
        assert!(line.starts_with(&format!("partial: 1 of 2 regions; {us}")), "{line}");
    }
    for line in lines(Manner::Speechless).await {
        assert!(line.starts_with("partial: 1 of 2 regions; missing us (behind its"), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_index_the_regions_own_times_count() {
    let cells = ["eu", "us"].map(FakeCell::new);
    cells[1].behave(Manner::Behind);
    let index = FakeIndex::with_states(Vec::new());
    let gateway = gateway(&cells, &index);
    *index.is_down.lock().unwrap() = true;
    let line = gateway.services(&context(Freshness::Auto)).await.unwrap().certificate.to_string();
    let ago = NOW.minus(90_000_000_000);
    assert_eq!(line, format!("complete: 2 of 2 regions; as of {ago}"));
    cells[1].behave(Manner::Speechless);
    *cells[1].services.lock().unwrap() = vec!["web".to_owned()];
    let answer = gateway.services(&context(Freshness::Auto)).await.unwrap();
    assert_eq!(answer.found, ["web"]);
    let line = answer.certificate.to_string();
    assert!(line.starts_with("partial: 1 of 2 regions; missing us (unavailable)"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn offsets_that_reach_the_watermark_hold_all_until_its_time() {
    let cells = ["eu", "us"].map(FakeCell::new);
    cells.iter().for_each(|cell| cell.behave(Manner::Timeless));
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    let gateway = gateway(&cells, &index);
    let line = gateway.services(&context(Freshness::Auto)).await.unwrap().certificate.to_string();
    assert_eq!(line, format!("complete: 2 of 2 regions; as of {NOW}"));
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_list_is_cut_is_missing_with_its_names_given() {
    let [services, operations, edges, red, traces]: [String; 5] =
        lines(Manner::Cutting).await.try_into().unwrap();
    for line in [services, operations] {
        let us = "missing us (cut short: it has more names than it lists)";
        assert!(line.starts_with(&format!("partial: 1 of 2 regions; {us}; as of ")), "{line}");
    }
    let others = "names beyond those that it counts are under __other__";
    for line in [red, edges] {
        let us = format!("missing us (cut short: {others})");
        assert!(line.starts_with(&format!("partial: 1 of 2 regions; {us}; as of ")), "{line}");
    }
    let us = format!(
        "missing us (cut short: it keeps fewer traces of a call than there were, or {others})"
    );
    assert!(traces.starts_with(&format!("partial: 1 of 2 regions; {us}; as of ")), "{traces}");
    let cells = ["eu", "us"].map(FakeCell::new);
    cells[1].behave(Manner::Cutting);
    *cells[1].services.lock().unwrap() = vec!["web".to_owned()];
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    let answer = gateway(&cells, &index).services(&context(Freshness::Auto)).await.unwrap();
    assert_eq!(answer.found, ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_region_of_which_a_group_has_missed_records_is_missing_and_the_group_is_named() {
    let why = "records were gone from its log before metrics-aggregator had read them, or set aside by it";
    for line in lines(Manner::Missing).await {
        let wanted = format!("partial: 1 of 2 regions; missing us ({why}); as of ");
        assert!(line.starts_with(&wanted), "{line}");
    }
}

/// Has the index know a service of a trace.
fn know(index: &FakeIndex, region: &str, number: u8, service: &str) {
    let count = ServiceCount { service: service.into(), spans: 1, errors: 0 };
    let detail = Detail { services: vec![count], ..Detail::default() };
    let row = FakeCell::new(region).contribution(id(number));
    index.know(Contribution { detail: Some(detail), ..row });
}

/// An index in which `us` names a service of trace 5, and has one of trace 6 without a name.
fn index_of(services: [&str; 2]) -> std::sync::Arc<FakeIndex> {
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    for (number, service) in (5..).zip(services) {
        know(&index, "us", number, service);
    }
    index
}

fn by_service(name: &str, limit: usize) -> SummaryQuery {
    SummaryQuery { service: Some(name.into()), limit, ..all_summaries() }
}

#[tokio::test]
async fn each_region_with_services_without_a_name_is_cut_whatever_was_asked_for() {
    let index = FakeIndex::with_states(vec![level("eu"), level("us"), level("za")]);
    for (number, region) in (1..).zip(["eu", "eu", "eu", "us"]) {
        know(&index, region, number, "__other__");
    }
    let gateway = gateway(&[FakeCell::new("eu")], &index);
    let cut = async |limit| {
        let query = by_service("beyond", limit);
        let answer = gateway.summaries(&context(Freshness::Auto), &query).await.unwrap();
        ["eu", "us", "za"].map(|name| answer.certificate.regions[&region(name)].is_cut)
    };
    assert_eq!(cut(1).await, [true, true, false]);
    // Where not all were looked at, those of any region may be among the rest.
    for number in 5..=120 {
        know(&index, "us", number, "__other__");
    }
    assert_eq!(cut(1).await, [true; 3]);
    assert_eq!(cut(500).await, [true, true, false]);
}

#[tokio::test]
async fn a_service_is_asked_for_by_its_name_as_the_index_has_it() {
    let long = "é".repeat(3_000);
    let index = index_of(["web", index_name(&long)]);
    let gateway = gateway(&[FakeCell::new("eu")], &index);
    let answer = gateway.summaries(&context(Freshness::Auto), &by_service(&long, 5)).await.unwrap();
    assert_eq!(answer.traces.len(), 1);
}

#[tokio::test]
async fn summaries_by_a_service_are_cut_where_a_region_has_services_without_a_name() {
    let line = async |index: &std::sync::Arc<FakeIndex>, query: &SummaryQuery| {
        let gateway = gateway(&[FakeCell::new("eu")], index);
        let answer = gateway.summaries(&context(Freshness::Auto), query).await.unwrap();
        (answer.traces.len(), answer.certificate.to_string())
    };
    let service = |name: &str| SummaryQuery { service: Some(name.into()), ..all_summaries() };
    let with_others = index_of(["web", "__other__"]);
    let cut = "partial: 1 of 2 regions; missing us (cut short: services beyond those that it names \
               are under __other__)";
    for (name, found) in [("web", 1), ("beyond", 0)] {
        let (count, line) = line(&with_others, &service(name)).await;
        assert_eq!(count, found);
        assert!(line.starts_with(cut), "{line}");
    }
    let by_root = SummaryQuery { root_service: Some("beyond".into()), ..all_summaries() };
    assert!(line(&with_others, &by_root).await.1.starts_with(cut));
    for whole in [all_summaries(), service("__other__")] {
        let (_, line) = line(&with_others, &whole).await;
        assert!(line.starts_with("complete: 2 of 2 regions"), "{line}");
    }
    let (count, line) = line(&index_of(["web", "cart"]), &service("beyond")).await;
    assert_eq!(count, 0);
    assert!(line.starts_with("complete: 2 of 2 regions"), "{line}");
}
