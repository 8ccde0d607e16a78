//! Questions when the room for answers runs out: refused retryably, or cut off and named.

use std::sync::Arc;
use std::time::Duration;

use proto::convert::query::FRAME_BYTES_TARGET;
use trace_model::{RegionOutcome, TraceId, Verdict};

use crate::assembled::Standing;
use crate::config::Freshness;
use crate::error::GatewayError;
use crate::fakes::{FakeCell, FakeIndex, Manner, context, gateway_with, id, level, region};
use crate::gateway::Gateway;
use crate::region_read::SPAN_OVERHEAD_BYTES;
use crate::room::AnswerRoom;
use crate::search::SearchRequest;

const FRAME: u64 = FRAME_BYTES_TARGET as u64;

/// Three cells with so many spans of trace 5 each, and room for so much beside the beginnings of
/// their answers.
fn site(spans: u16, bytes: u64) -> (Vec<Arc<FakeCell>>, Arc<Gateway>, AnswerRoom) {
    let cells = ["eu", "us", "ap"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us"), level("ap")]);
    for (place, cell) in (0_u16..).zip(&cells) {
        cell.hold(id(5), place * spans..(place + 1) * spans);
        index.know(cell.contribution(id(5)));
    }
    let room = AnswerRoom::new(3 * FRAME + bytes);
    let own = room.clone();
    let gateway = gateway_with(&cells, &index, move |config| config.answer_room = own);
    (cells, gateway, room)
}

async fn find(gateway: &Gateway, trace_id: TraceId) -> Result<Standing, GatewayError> {
    let answer = gateway.find_trace(&context(Freshness::Auto), trace_id).await?;
    Ok(answer.standing())
}

#[tokio::test(start_paused = true)]
async fn without_room_a_question_is_refused_retryably_and_nobody_is_asked() {
    let (cells, gateway, room) = site(2, 100_000);
    let taken = room.take(200_000).unwrap();
    let context = context(Freshness::Auto);
    let request =
        SearchRequest { filter: trace_model::Filter::All, range: None, limit: 5, cursor: None };
    for refused in [
        find(&gateway, id(5)).await.map(|_| ()),
        find(&gateway, id(99)).await.map(|_| ()),
        gateway.search(&context, &request).await.map(|_| ()),
        gateway.services(&context).await.map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, GatewayError::NoRoom(_)), "{error}");
        assert!(error.is_retryable());
    }
    let asked = |cell: &Arc<FakeCell>| cell.ask_count() + cell.searched.lock().unwrap().len();
    assert_eq!(cells.iter().map(asked).sum::<usize>(), 0);
    drop(taken);
    assert_eq!(find(&gateway, id(5)).await.unwrap(), Standing::Found);
}

#[tokio::test(start_paused = true)]
async fn a_region_without_room_for_its_answer_is_cut_off_and_named() {
    let (_, gateway, room) = site(2, 3 * (2 * SPAN_OVERHEAD_BYTES + 1_000));
    let most = room.bytes_max() - 3 * FRAME - (2 * SPAN_OVERHEAD_BYTES + 500);
    let taken = room.take(most).unwrap();
    let answer = gateway.find_trace(&context(Freshness::Auto), id(5)).await.unwrap();
    assert_eq!(answer.certificate.verdict(), Verdict::Partial);
    let cut: Vec<_> = answer.certificate.missing().collect();
    assert_eq!(cut.len(), 2, "{}", answer.certificate);
    for report in cut {
        assert_eq!(report.outcome, RegionOutcome::Unavailable);
        assert!(report.reason.as_ref().unwrap().starts_with("cut off"), "{report:?}");
    }
    // What one region found room for is given.
    assert_eq!(answer.spans.len(), 2);
    drop((answer, taken));
    assert_eq!(room.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn room_is_given_back_with_the_last_of_an_answer_however_it_ended() {
    for manner in [
        Manner::Honest,
        Manner::Garbage,
        Manner::Endless,
        Manner::HangingAfterAFrame,
        Manner::ResetAfterAFrame,
        Manner::OtherRegionsSpans,
    ] {
        let (cells, gateway, room) = site(20, 1 << 20);
        cells[1].behave(manner);
        let answer = gateway.find_trace(&context(Freshness::Auto), id(5)).await.unwrap();
        let own = 20 * SPAN_OVERHEAD_BYTES;
        assert!(room.used() >= own, "{manner:?} {}", room.used());
        let is_invalid =
            answer.certificate.regions[&region("us")].outcome == RegionOutcome::Invalid;
        assert!(!is_invalid || room.used() < 3 * own, "{manner:?} {}", room.used());
        drop(answer);
        assert_eq!(room.used(), 0, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_given_up_gives_its_room_back() {
    let (cells, gateway, room) = site(2, 1 << 20);
    cells[1].behave(Manner::HangingAfterAFrame);
    for trace_id in [id(5), id(99)] {
        let asked = find(&gateway, trace_id);
        let given_up = tokio::time::timeout(Duration::from_millis(500), asked).await;
        assert!(given_up.is_err());
        assert_eq!(room.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn pages_and_lists_take_room_as_long_as_they_are_held() {
    let (cells, gateway, room) = site(2, 1 << 20);
    for cell in &cells {
        *cell.services.lock().unwrap() = (0..100).map(|number| format!("s-{number}")).collect();
    }
    let services = gateway.services(&context(Freshness::Auto)).await.unwrap();
    assert!(room.used() > 1_000 && room.used() < FRAME, "{}", room.used());
    drop(services);
    assert_eq!(room.used(), 0);
}
