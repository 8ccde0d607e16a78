//! Questions by trace id against cells that fail in every way.

mod rounds;

use std::sync::Arc;
use std::time::Duration;

use trace_model::location::Detail;
use trace_model::{Contribution, RegionOutcome, TimeRange, UnixNanos, Verdict};

use crate::assembled::{Standing, TraceAnswer};
use crate::config::Freshness;
use crate::error::GatewayError;
use crate::fakes::{
    FakeCell, FakeIndex, Manner, NOW, behind, context, contribution, gateway, gateway_with, holed,
    id, level, region, silent,
};

const TRACE: u8 = 5;

/// Three cells with spans 0..2, 2..4, 4..6 of one trace, all published and level.
fn three() -> (Vec<Arc<FakeCell>>, Arc<FakeIndex>) {
    let cells = ["eu", "us", "ap"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us"), level("ap")]);
    for (place, cell) in (0_u16..).zip(&cells) {
        cell.hold(id(TRACE), place * 2..place * 2 + 2);
        index.know(cell.contribution(id(TRACE)));
    }
    (cells, index)
}

fn detail_since(min_start: UnixNanos) -> Detail {
    Detail {
        min_start,
        max_end: min_start,
        span_count: 2,
        error_count: 0,
        is_lower_bound: false,
        services: Vec::new(),
        root: None,
        entries: Vec::new(),
    }
}

fn outcome(answer: &TraceAnswer, name: &str) -> RegionOutcome {
    answer.certificate.regions[&region(name)].outcome
}

async fn find(
    cells: &[Arc<FakeCell>],
    index: &Arc<FakeIndex>,
    freshness: Freshness,
) -> Arc<TraceAnswer> {
    gateway(cells, index).find_trace(&context(freshness), id(TRACE)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_trace_of_three_regions_comes_back_whole() {
    let (cells, index) = three();
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.spans.len(), 6);
    assert_eq!(answer.certificate.to_string(), "complete: 3 of 3 regions");
    assert_eq!(answer.assemble().0.nodes.len(), 6);
    for cell in &cells {
        let asks = cell.asks.lock().unwrap();
        assert_eq!(asks.len(), 1);
        assert!(!asks[0].is_miss_round);
        assert_eq!(asks[0].caller.region, region("eu"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fails_is_named_and_the_others_are_given() {
    use RegionOutcome as Outcome;
    for (manner, expected, kept) in [
        (Manner::Hanging, Outcome::TimedOut, 0),
        (Manner::Late(Duration::from_millis(2_001)), Outcome::TimedOut, 0),
        (Manner::HangingAfterAFrame, Outcome::TimedOut, 1),
        (Manner::Unreachable, Outcome::Unavailable, 0),
        (Manner::ResetAfterAFrame, Outcome::Unavailable, 1),
        (Manner::EndingWithoutSummary, Outcome::Invalid, 0),
        (Manner::OtherTrace, Outcome::Invalid, 0),
        (Manner::OtherTracesSpan, Outcome::Invalid, 0),
        (Manner::Garbage, Outcome::Invalid, 0),
        (Manner::OtherRegionsName, Outcome::Invalid, 0),
        (Manner::OtherRegionsSpans, Outcome::Invalid, 0),
        (Manner::Miscounting, Outcome::Invalid, 0),
        (Manner::Endless, Outcome::Invalid, 0),
        (Manner::EndlessEmptyFrames, Outcome::Invalid, 0),
        (Manner::GoingOnAfterTheSummary, Outcome::Invalid, 0),
        (Manner::Behind, Outcome::Answered, 1),
        (Manner::Damaged, Outcome::Answered, 2),
    ] {
        let (cells, index) = three();
        cells[1].behave(manner);
        let started = tokio::time::Instant::now();
        let answer = gateway_with(&cells, &index, |config| config.region_spans_max = 5_000)
            .find_trace(&context(Freshness::Auto), id(TRACE))
            .await
            .unwrap();
        assert_eq!(outcome(&answer, "us"), expected, "{manner:?}");
        assert_eq!(answer.certificate.verdict(), Verdict::Partial, "{manner:?}");
        let missing: Vec<_> =
            answer.certificate.missing().map(|report| report.region.as_str()).collect();
        assert_eq!(missing, ["us"], "{manner:?}");
        let others = answer.spans.iter().filter(|span| span.envelope.region != region("us"));
        assert_eq!(others.count(), 4, "{manner:?}");
        assert_eq!(answer.spans.len(), 4 + kept, "{manner:?}");
        assert!(started.elapsed() <= Duration::from_secs(7), "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_store_is_away_is_named_and_what_its_tail_has_is_given() {
    let (cells, index) = three();
    cells[1].behave(Manner::LackingStore);
    let answer = find(&cells, &index, Freshness::Auto).await;
    let text = answer.certificate.to_string();
    assert_eq!(text, "partial: 2 of 3 regions; missing us (its trace store is away)");
    let report = &answer.certificate.regions[&region("us")];
    assert!(report.lacks_store && !report.is_damaged && report.spans == 2);
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_retention_may_have_taken_a_part_is_named_and_its_rest_is_given() {
    let (cells, index) = three();
    cells[1].behave(Manner::Expiring);
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(outcome(&answer, "us"), RegionOutcome::Expired);
    assert_eq!(answer.spans.len(), 5);
    let text = answer.certificate.to_string();
    assert_eq!(text, "complete: 3 of 3 regions; withheld by us (expired)");
}

#[tokio::test(start_paused = true)]
async fn a_late_region_within_the_deadline_is_waited_for() {
    let (cells, index) = three();
    cells[2].behave(Manner::Late(Duration::from_millis(1_990)));
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.certificate.verdict(), Verdict::Complete);
    assert_eq!(answer.spans.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_endless_answer_stops_at_the_limit_of_bytes_too() {
    let (cells, index) = three();
    cells[1].behave(Manner::Endless);
    let answer = gateway_with(&cells, &index, |config| config.region_bytes_max = 10_000)
        .find_trace(&context(Freshness::Auto), id(TRACE))
        .await
        .unwrap();
    let report = &answer.certificate.regions[&region("us")];
    assert_eq!(report.outcome, RegionOutcome::Invalid);
    assert_eq!(report.reason.as_deref(), Some("more than 10000 bytes"));
}

#[tokio::test(start_paused = true)]
async fn a_closed_region_is_named_as_forbidden_and_is_no_fault() {
    let (cells, index) = three();
    cells[2].behave(Manner::Forbidding);
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.spans.len(), 4);
    assert_eq!(
        answer.certificate.to_string(),
        "complete: 3 of 3 regions; withheld by ap (forbidden)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_region_that_the_index_names_and_the_configuration_does_not_is_reported() {
    let (cells, index) = three();
    let answer = find(&cells[..2], &index, Freshness::Auto).await;
    let report = &answer.certificate.regions[&region("ap")];
    assert_eq!(report.outcome, RegionOutcome::Unavailable);
    assert_eq!(report.reason.as_deref(), Some("not configured in this gateway"));
    assert_eq!(answer.certificate.verdict(), Verdict::Partial);
    assert_eq!(answer.spans.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_hit_asks_its_own_cell_and_the_regions_of_the_index_alone() {
    let (cells, index) = three();
    index.entries.lock().unwrap().clear();
    cells[2].spans.lock().unwrap().clear();
    index.know(cells[1].contribution(id(TRACE)));
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(cells.iter().map(|cell| cell.ask_count()).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(outcome(&answer, "ap"), RegionOutcome::Pruned);
    assert_eq!(answer.certificate.verdict(), Verdict::Complete);
}

#[tokio::test(start_paused = true)]
async fn a_miss_asks_every_region_and_finds_a_fresh_trace_in_one_round() {
    let (cells, index) = three();
    index.entries.lock().unwrap().clear();
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.spans.len(), 6);
    assert_eq!(answer.certificate.verdict(), Verdict::Complete);
    let is_miss = |cell: &FakeCell| cell.asks.lock().unwrap()[0].is_miss_round;
    assert_eq!(cells.iter().map(|cell| is_miss(cell)).collect::<Vec<_>>(), [false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_not_found_while_a_region_did_not_answer() {
    for (manner, standing) in [
        (Manner::Honest, Standing::NotFound),
        (Manner::Forbidding, Standing::NotFound),
        (Manner::Hanging, Standing::Unproven),
        (Manner::Unreachable, Standing::Unproven),
        (Manner::Garbage, Standing::Unproven),
        (Manner::Damaged, Standing::Unproven),
        (Manner::LackingStore, Standing::Unproven),
    ] {
        let (cells, index) = three();
        index.entries.lock().unwrap().clear();
        cells.iter().for_each(|cell| cell.spans.lock().unwrap().clear());
        cells[2].behave(manner);
        let answer = find(&cells, &index, Freshness::Auto).await;
        assert_eq!(answer.standing(), standing, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_index_has_forgotten_proves_nothing_about_traces_of_that_time_alone() {
    const DAY_NANOS: u64 = 24 * 3_600 * 1_000_000_000;
    for (age_nanos, asked, outcome_of_us) in [
        (2 * DAY_NANOS, 0, RegionOutcome::Pruned),
        (DAY_NANOS / 2, 1, RegionOutcome::Answered),
        (0, 1, RegionOutcome::Answered),
    ] {
        let cells = ["eu", "us"].map(FakeCell::new).to_vec();
        let mut state = level("us");
        let forgotten = TimeRange { start: UnixNanos(0), end: NOW.minus(age_nanos) };
        state.watermark.as_mut().unwrap().holes.push(forgotten);
        let index = FakeIndex::with_states(vec![level("eu"), state]);
        cells[0].hold(id(TRACE), 0..2);
        index.know(Contribution {
            detail: Some(detail_since(NOW)),
            ..cells[0].contribution(id(TRACE))
        });
        let answer = find(&cells, &index, Freshness::Auto).await;
        assert_eq!((cells[1].ask_count(), outcome(&answer, "us")), (asked, outcome_of_us));
        // A region that was left out is so as of its watermark.
        let as_of = if asked == 0 { format!("; as of {NOW}") } else { String::new() };
        assert_eq!(answer.certificate.to_string(), format!("complete: 2 of 2 regions{as_of}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_index_alone_proves_absence_without_asking_other_regions() {
    for (state, standing) in [
        (level("us"), Standing::NotFound),
        (holed("us"), Standing::Unproven),
        (silent("us"), Standing::Unproven),
    ] {
        let cells = ["eu", "us"].map(FakeCell::new).to_vec();
        let index = FakeIndex::with_states(vec![level("eu"), state.clone()]);
        let answer = find(&cells, &index, Freshness::Index).await;
        assert_eq!(answer.standing(), standing, "{state:?}");
        assert_eq!((cells[0].ask_count(), cells[1].ask_count()), (1, 0));
        let line = answer.certificate.to_string();
        let is_as_of = line.ends_with(&format!("; as of {NOW}"));
        assert_eq!(is_as_of, standing == Standing::NotFound, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_publishes_nothing_is_not_provable_and_turns_no_404_into_a_503() {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), silent("us")]);
    let gateway = gateway_with(&cells, &index, |config| {
        config.unindexed.insert(region("us"));
    });
    let answer = gateway.find_trace(&context(Freshness::Index), id(TRACE)).await.unwrap();
    assert_eq!(answer.standing(), Standing::NotFound);
    assert!(answer.certificate.regions[&region("us")].is_not_provable);
    let line = "complete: 2 of 2 regions; not provable us (publishes no index)";
    assert_eq!(answer.certificate.to_string(), line);
    let asked = gateway.find_trace(&context(Freshness::Auto), id(TRACE)).await.unwrap();
    assert_eq!(outcome(&asked, "us"), RegionOutcome::Answered);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_the_index_cannot_prune_is_asked_on_a_hit() {
    for state in [holed("us"), silent("us")] {
        let cells = ["eu", "us"].map(FakeCell::new).to_vec();
        let index = FakeIndex::with_states(vec![level("eu"), state]);
        cells[0].hold(id(TRACE), 0..2);
        cells[1].hold(id(TRACE), 2..4);
        index.know(cells[0].contribution(id(TRACE)));
        let answer = find(&cells, &index, Freshness::Auto).await;
        assert_eq!(answer.spans.len(), 4);
        assert_eq!(answer.certificate.verdict(), Verdict::Complete);
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_watermark_is_older_than_the_trace_is_asked_not_pruned() {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), behind("us")]);
    cells[0].hold(id(TRACE), 0..2);
    cells[1].hold(id(TRACE), 2..4);
    index.know(cells[0].contribution(id(TRACE)));
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.spans.len(), 4);
    assert_eq!(outcome(&answer, "us"), RegionOutcome::Answered);
}

#[tokio::test(start_paused = true)]
async fn fresh_asks_everyone() {
    let (cells, index) = three();
    index.entries.lock().unwrap().clear();
    index.know(cells[0].contribution(id(TRACE)));
    let answer = find(&cells, &index, Freshness::Now).await;
    assert_eq!(answer.spans.len(), 6);
    assert!(cells.iter().all(|cell| cell.ask_count() == 1));
}

#[tokio::test(start_paused = true)]
async fn without_the_index_every_region_is_asked_and_a_proof_is_refused() {
    let (cells, index) = three();
    *index.is_down.lock().unwrap() = true;
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(answer.spans.len(), 6);
    let refused = gateway(&cells, &index).find_trace(&context(Freshness::Index), id(TRACE)).await;
    assert!(matches!(refused, Err(GatewayError::Index(_))));
}

#[tokio::test(start_paused = true)]
async fn erased_and_sampled_out_parts_are_named_and_not_asked_for() {
    use trace_model::location::Keep;
    let (cells, index) = three();
    index.entries.lock().unwrap().clear();
    index.know(cells[0].contribution(id(TRACE)));
    let mut erased = contribution(&region("us"), id(TRACE), 9);
    erased.is_erased = true;
    index.know(erased);
    let mut dropped = contribution(&region("ap"), id(TRACE), 9);
    dropped.keep = Keep::SampledOut;
    index.know(dropped);
    let answer = find(&cells, &index, Freshness::Auto).await;
    assert_eq!(outcome(&answer, "us"), RegionOutcome::Erased);
    assert_eq!(outcome(&answer, "ap"), RegionOutcome::SampledOut);
    assert_eq!((cells[1].ask_count(), cells[2].ask_count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn random_ids_are_refused_when_their_budget_is_spent() {
    let (cells, index) = three();
    let gateway = gateway_with(&cells, &index, |config| config.miss_rounds_burst = 3.0);
    for number in 100..103 {
        assert!(gateway.find_trace(&context(Freshness::Auto), id(number)).await.is_ok());
    }
    for freshness in [Freshness::Auto, Freshness::Now] {
        let refused = gateway.find_trace(&context(freshness), id(103)).await;
        assert!(matches!(refused, Err(GatewayError::MissBudget)), "{freshness:?}");
    }
    assert!(gateway.find_trace(&context(Freshness::Index), id(104)).await.is_ok());
    let known = gateway.find_trace(&context(Freshness::Auto), id(TRACE)).await.unwrap();
    assert_eq!(known.spans.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_region_is_told_when_the_spans_were_placed_that_it_promised_and_nothing_it_did_not() {
    let (cells, index) = three();
    let placed = |start, end, is_lower_bound| {
        let (min_start, max_end) = (UnixNanos(start), UnixNanos(end));
        Some(Detail { min_start, max_end, is_lower_bound, ..Detail::default() })
    };
    for (cell, detail) in cells.iter().zip([placed(5, 9, false), placed(5, 9, true), None]) {
        let mut row = cell.contribution(id(TRACE));
        (row.version, row.detail) = (row.version + 1, detail);
        index.know(row);
    }
    gateway(&cells, &index).find_trace(&context(Freshness::Auto), id(TRACE)).await.unwrap();
    let range = TimeRange { start: UnixNanos(5), end: UnixNanos(10) };
    let told = cells.iter().map(|cell| cell.asks.lock().unwrap()[0].placed.clone());
    assert_eq!(told.collect::<Vec<_>>(), [vec![Some(range)], vec![None], vec![None]]);
}
