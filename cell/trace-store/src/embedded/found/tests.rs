//! What is let go is never missed, whatever the limit, the cursor and the order.

use proptest::collection::vec;
use proptest::prelude::*;
use trace_model::query::Filter;
use trace_model::{TenantId, TimeRange};

use super::*;

fn query(limit: usize, before: Option<(u64, u32)>) -> SearchQuery {
    SearchQuery {
        tenant: TenantId::default(),
        filter: Filter::All,
        range: TimeRange::ALL,
        limit,
        before: before.map(|(time, trace)| (UnixNanos(time), id(trace))),
    }
}

fn id(number: u32) -> TraceId {
    TraceId::from_bytes((u128::from(number) + 1).to_be_bytes()).unwrap()
}

fn add(found: &mut Found, trace: u32, time: u64) {
    found.add(id(trace), UnixNanos(time), &"web".into(), &Region::new("eu").unwrap());
}

/// Settles against all matches there are, as a search does with its store.
fn settle(found: &mut Found, matches: &[(u32, u64)]) {
    for times in 1.. {
        let doubtful = found.doubtful(times);
        if doubtful.is_empty() {
            break;
        }
        let of_trace = |(trace, time): &&(u32, u64)| found.is_earlier(id(*trace), UnixNanos(*time));
        let earlier: BTreeSet<TraceId> = matches
            .iter()
            .filter(of_trace)
            .map(|(trace, _)| id(*trace))
            .filter(|trace| doubtful.contains(trace))
            .collect();
        found.settle(&doubtful, &earlier);
    }
    found.let_go();
}

fn keys(matches: &[TraceMatch]) -> Vec<OrderKey> {
    matches.iter().map(TraceMatch::order_key).collect()
}

/// The answer by definition.
fn expected(
    matches: &[(u32, u64)],
    limit: usize,
    before: Option<(u64, u32)>,
) -> Vec<(Reverse<UnixNanos>, TraceId)> {
    let mut newest: HashMap<u32, u64> = HashMap::new();
    for (trace, time) in matches {
        let known = newest.entry(*trace).or_default();
        *known = (*known).max(*time);
    }
    let cursor = before.map(|(time, trace)| (Reverse(UnixNanos(time)), id(trace)));
    let mut keys: Vec<_> = newest
        .into_iter()
        .map(|(trace, time)| (Reverse(UnixNanos(time)), id(trace)))
        .filter(|key| cursor.is_none_or(|cursor| *key > cursor))
        .collect();
    keys.sort_unstable();
    keys.truncate(limit);
    keys
}

#[test]
fn tens_of_thousands_of_traces_found_are_a_few_held() {
    for before in [None, Some((u64::MAX, 0))] {
        let mut found = Found::new(&query(20, before));
        let mut most = 0;
        for trace in 0..50_000_u32 {
            add(&mut found, trace, 1_000_000 - u64::from(trace));
            if found.is_crowded() {
                settle(&mut found, &[]);
            }
            most = most.max(found.traces.len());
        }
        assert!(most <= 2 * (20 + KEPT_BESIDE), "{most}");
        settle(&mut found, &[]);
        let answer = found.finish();
        assert_eq!(answer.len(), 20);
        assert_eq!(answer[0].newest_match, UnixNanos(1_000_000));
    }
}

#[test]
fn traces_of_earlier_pages_are_remembered_up_to_a_bound_and_found_out_again_beyond() {
    let mut found = Found::new(&query(2, Some((1_000, 0))));
    let traces = u32::try_from(EARLIER_MAX).unwrap() + 100;
    let matches: Vec<(u32, u64)> = (0..traces).map(|trace| (trace, 2_000)).collect();
    for round in 0..2 {
        for trace in 0..traces {
            add(&mut found, trace, 500 - round);
        }
        assert_eq!(found.traces.len(), if round == 0 { traces as usize } else { 100 });
        settle(&mut found, &matches);
        assert_eq!((found.traces.len(), found.earlier.len()), (0, EARLIER_MAX));
    }
}

#[test]
fn a_match_lists_a_bounded_number_of_services() {
    let mut found = Found::new(&query(1, None));
    for service in 0..10_000 {
        let service: Arc<str> = format!("service-{service}").into();
        found.add(id(1), UnixNanos(1), &service, &Region::new("eu").unwrap());
    }
    let answer = found.finish();
    assert_eq!((answer[0].services.len(), answer[0].matched_spans), (SERVICES_MAX, 10_000));
}

#[test]
fn nothing_is_let_go_that_one_on_an_earlier_page_makes_room_for() {
    // Of three thousand traces behind the cursor all but the oldest ten are on an earlier page.
    let before = Some((10_000, 0));
    let mut matches: Vec<(u32, u64)> = (0..3_000).map(|at| (at, 9_000 - u64::from(at))).collect();
    let mut found = Found::new(&query(5, before));
    for (trace, time) in &matches {
        add(&mut found, *trace, *time);
    }
    assert!(found.is_crowded());
    matches.extend((0..2_990).map(|trace| (trace, 20_000)));
    settle(&mut found, &matches);
    assert_eq!(keys(&found.finish()), expected(&matches, 5, before));
}

proptest! {
    #[test]
    fn the_answer_is_that_of_all_matches_in_any_order(
        matches in vec((0_u32..60, 0_u64..40), 0..120),
        limit in 1_usize..6,
        cursor in proptest::option::of((0_u64..45, 0_u32..60)),
        settle_at in vec(any::<bool>(), 120),
    ) {
        let mut found = Found::new(&query(limit, cursor));
        for ((trace, time), is_settled) in matches.iter().zip(&settle_at) {
            add(&mut found, *trace, *time);
            if *is_settled {
                settle(&mut found, &matches);
                // As with thousands, where more are kept beside.
                if let Some(last) = found.key_at(limit) {
                    found.traces.retain(|_, found| found.seen.order_key() < last);
                }
            }
        }
        settle(&mut found, &matches);
        prop_assert_eq!(keys(&found.finish()), expected(&matches, limit, cursor));
    }
}
