//! No question outlasts its deadline, however many of its steps hang.

use std::sync::Arc;
use std::time::Duration;

use proto::convert::query::id_bytes;
use proto::v1;
use tokio::time::Instant;
use trace_model::{Filter, RegionOutcome, TimeRange, Verdict};

use crate::config::{Freshness, Patience, QueryContext};
use crate::fakes::{
    FakeCell, FakeIndex, Manner, NOW, context, gateway, id, level, region, waiting,
};
use crate::gateway::Gateway;
use crate::port::{EdgeTraceAsk, RedAsk};
use crate::red::RedRequest;
use crate::search::SearchRequest;

/// Two cells with two spans each of trace 5; more traces match than a page shows.
fn two() -> (Vec<Arc<FakeCell>>, Arc<FakeIndex>, Arc<Gateway>) {
    let cells = ["eu", "us"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us")]);
    for (place, cell) in (0_u16..).zip(&cells) {
        cell.hold(id(5), place * 2..place * 2 + 2);
        index.know(cell.contribution(id(5)));
        let found = |trace: u8| v1::TraceMatch {
            trace_id: id_bytes(id(trace)),
            newest_match_unix_nano: NOW.minus(u64::from(trace)).0,
            matched_spans: 1,
            services: vec!["web".to_owned()],
        };
        *cell.matches.lock().unwrap() = vec![found(5), found(6)];
    }
    let gateway = gateway(&cells, &index);
    (cells, index, gateway)
}

fn search() -> SearchRequest {
    SearchRequest { filter: Filter::All, range: None, limit: 1, cursor: None }
}

fn edge_traces() -> EdgeTraceAsk {
    EdgeTraceAsk {
        caller: "a".into(),
        callee: "b".into(),
        only_errors: false,
        range: TimeRange::ALL,
        limit: 5,
    }
}

/// Every kind of question, one after the other; gives the longest.
async fn longest_question(gateway: &Gateway, ask: impl Fn() -> QueryContext) -> Duration {
    let red = RedAsk { service: None, by_operation: false, range: TimeRange::ALL };
    let red = RedRequest {
        ask: RedAsk { range: TimeRange { start: NOW, end: NOW.plus(1) }, ..red },
        step_minutes: 1,
    };
    let mut longest = Duration::ZERO;
    for kind in 0..9 {
        let (asked, started) = (ask(), Instant::now());
        match kind {
            0 => drop(gateway.find_trace(&asked, id(5)).await),
            1 => drop(gateway.find_trace(&asked, id(9)).await),
            2 => drop(gateway.search(&asked, &search()).await),
            3 => drop(gateway.search_traces(&asked, &search()).await),
            4 => drop(gateway.services(&asked).await),
            5 => drop(gateway.dependencies(&asked, TimeRange::ALL).await),
            6 => drop(gateway.red(&asked, &red).await),
            7 => drop(gateway.edge_traces(&asked, &edge_traces()).await),
            _ => drop(gateway.regions(&asked).await),
        }
        longest = longest.max(started.elapsed());
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn no_question_outlasts_its_deadline_though_an_index_and_a_cell_hang() {
    let slack = Duration::from_millis(10);
    for is_index_hanging in [false, true] {
        for manner in [Manner::Honest, Manner::Hanging] {
            let (cells, index, gateway) = two();
            *index.is_hanging.lock().unwrap() = is_index_hanging;
            cells[1].behave(manner);
            let longest = longest_question(&gateway, || context(Freshness::Auto)).await;
            let what = format!("{is_index_hanging} {manner:?} {longest:?}");
            assert!(longest <= Duration::from_secs(2) + slack, "{what}");
            let second = Patience::exactly(Duration::from_secs(1));
            let longest = longest_question(&gateway, || waiting(Freshness::Auto, second)).await;
            assert!(longest <= Duration::from_secs(1) + slack, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_hangs_leaves_the_regions_time_to_answer() {
    let (cells, index, gateway) = two();
    *index.is_hanging.lock().unwrap() = true;
    cells[1].behave(Manner::Late(Duration::from_millis(1_400)));
    let answer = gateway.find_trace(&context(Freshness::Auto), id(5)).await.unwrap();
    assert_eq!(answer.spans.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_traces_of_a_search_are_fetched_though_a_region_hangs() {
    let (cells, _index, gateway) = two();
    cells[1].behave(Manner::Hanging);
    let started = Instant::now();
    let found = gateway.search_traces(&context(Freshness::Auto), &search()).await;
    let (page, answers) = found.unwrap();
    assert_eq!(page.certificate.regions[&region("us")].outcome, RegionOutcome::TimedOut);
    assert_eq!(answers[0].spans.len(), 2);
    assert!(started.elapsed() <= Duration::from_millis(2_010), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_round_that_waits_for_a_hanging_one_ends_by_its_own_deadline() {
    let (cells, _index, gateway) = two();
    cells[1].behave(Manner::Hanging);
    let first = async {
        let asked = context(Freshness::Auto);
        gateway.find_trace(&asked, id(9)).await
    };
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (asked, started) = (context(Freshness::Auto), Instant::now());
        let answer = gateway.find_trace(&asked, id(9)).await.unwrap();
        (answer, started.elapsed())
    };
    let (_, (answer, elapsed)) = tokio::join!(first, second);
    assert_eq!(answer.certificate.regions[&region("us")].outcome, RegionOutcome::TimedOut);
    assert!(elapsed <= Duration::from_millis(2_010), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_stream_does_not_end_is_given_without_waiting_for_it() {
    let (cells, _index, gateway) = two();
    cells[1].behave(Manner::HangingAfterTheSummary);
    let started = Instant::now();
    let answer = gateway.find_trace(&context(Freshness::Auto), id(5)).await.unwrap();
    assert_eq!(answer.certificate.verdict(), Verdict::Complete);
    assert_eq!(answer.spans.len(), 4);
    assert!(started.elapsed() <= Duration::from_millis(150), "{:?}", started.elapsed());
}
