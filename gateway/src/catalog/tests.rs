use trace_model::location::{RegionState, SummaryQuery};
use trace_model::{RegionOutcome, TenantId, TimeRange};

use crate::config::Freshness;
use crate::fakes::{FakeCell, FakeIndex, context, gateway, holed, level, region};

fn all_summaries() -> SummaryQuery {
    SummaryQuery {
        tenant: TenantId::default(),
        range: TimeRange::ALL,
        service: None,
        root_service: None,
        root_operation: None,
        duration_nanos_min: 0,
        duration_nanos_max: None,
        only_errors: false,
        limit: 20,
    }
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
