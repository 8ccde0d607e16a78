//! Questions that share a round to all regions.

use super::*;

#[tokio::test(start_paused = true)]
async fn those_who_ask_for_one_unknown_trace_share_a_round() {
    let (cells, index) = three();
    cells[2].behave(Manner::Late(Duration::from_millis(500)));
    let gateway = gateway(&cells, &index);
    let context = context(Freshness::Auto);
    let asked = (0..20).map(|_| gateway.find_trace(&context, id(99)));
    let answers = futures_util::future::try_join_all(asked).await.unwrap();
    assert!(answers.iter().all(|answer| answer.standing() == Standing::NotFound));
    // One round that began with the first, and one for all who came while it was under way.
    assert!(cells[2].ask_count() <= 2, "{}", cells[2].ask_count());
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_write_is_not_given_a_round_from_before_it() {
    let (cells, index) = three();
    cells[2].behave(Manner::Late(Duration::from_millis(500)));
    let gateway = gateway(&cells, &index);
    let context = context(Freshness::Auto);
    let early = gateway.find_trace(&context, id(99));
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cells[0].hold(id(99), 0..1);
        gateway.find_trace(&context, id(99)).await
    };
    let (early, late) = tokio::join!(early, late);
    assert_eq!(early.unwrap().standing(), Standing::NotFound);
    assert_eq!(late.unwrap().spans.len(), 1);
}
