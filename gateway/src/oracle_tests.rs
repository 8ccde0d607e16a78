//! Against an oracle that knows where every span is: whatever fails, an answer is whole or says
//! what is missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use trace_model::{RegionOutcome, Verdict};

use crate::assembled::Standing;
use crate::config::Freshness;
use crate::fakes::{
    FakeCell, FakeIndex, Manner, context, gateway_with, holed, id, level, region, silent,
};

/// What is true of one region.
#[derive(Clone, Debug)]
struct Truth {
    spans: u16,
    is_published: bool,
    proof: u8,
    is_configured: bool,
    manner: Manner,
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        6 => Just(Manner::Honest),
        1 => Just(Manner::Behind),
        1 => Just(Manner::Damaged),
        1 => Just(Manner::LackingStore),
        1 => Just(Manner::Forbidding),
        1 => Just(Manner::Late(Duration::from_millis(1_500))),
        1 => Just(Manner::Late(Duration::from_millis(2_500))),
        1 => Just(Manner::Hanging),
        1 => Just(Manner::HangingAfterAFrame),
        1 => Just(Manner::Unreachable),
        1 => Just(Manner::ResetAfterAFrame),
        1 => Just(Manner::EndingWithoutSummary),
        1 => Just(Manner::OtherTrace),
        1 => Just(Manner::OtherTracesSpan),
        1 => Just(Manner::Garbage),
        1 => Just(Manner::OtherRegionsName),
        1 => Just(Manner::OtherRegionsSpans),
        1 => Just(Manner::Miscounting),
        1 => Just(Manner::Endless),
        1 => Just(Manner::GoingOnAfterTheSummary),
    ]
}

fn truth() -> impl Strategy<Value = Truth> {
    (0_u16..4, any::<bool>(), 0_u8..3, prop::bool::weighted(0.9), manner()).prop_map(
        |(spans, is_published, proof, is_configured, manner)| {
            let is_published = is_published && spans > 0;
            // A watermark vouches for what was published: spans that were not, lie behind it, and
            // an answer "as of the watermark" owes nothing of them.
            let proof = if spans > 0 && !is_published { proof.max(1) } else { proof };
            // Only a promise can show that a cell has fallen behind.
            let is_unseen = manner == Manner::Behind && !is_published;
            let manner = if is_unseen { Manner::Honest } else { manner };
            Truth { spans, is_published, proof, is_configured, manner }
        },
    )
}

fn freshness() -> impl Strategy<Value = Freshness> {
    prop_oneof![Just(Freshness::Auto), Just(Freshness::Index), Just(Freshness::Now)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn an_answer_that_lacks_a_span_is_never_called_complete(
        mut truths in proptest::collection::vec(truth(), 1..6), freshness in freshness()
    ) {
        truths[0].is_configured = true;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(truths, freshness))?;
    }
}

async fn check(truths: Vec<Truth>, freshness: Freshness) -> Result<(), TestCaseError> {
    let trace_id = id(5);
    let names = ["r0", "r1", "r2", "r3", "r4"];
    let states = truths.iter().zip(names).map(|(truth, name)| match truth.proof {
        0 => level(name),
        1 => holed(name),
        _ => silent(name),
    });
    let index = FakeIndex::with_states(states.collect());
    let mut cells: Vec<Arc<FakeCell>> = Vec::new();
    let mut owed: BTreeSet<(usize, u16)> = BTreeSet::new();
    for (place, (truth, name)) in truths.iter().zip(names).enumerate() {
        let cell = FakeCell::new(name);
        let first = u16::try_from(place).unwrap() * 10;
        cell.hold(trace_id, first..first + truth.spans);
        cell.behave(truth.manner);
        if truth.is_published {
            index.know(cell.contribution(trace_id));
        }
        if truth.manner != Manner::Forbidding {
            owed.extend((first..first + truth.spans).map(|number| (place, number)));
        }
        if truth.is_configured {
            cells.push(cell);
        }
    }
    let gateway = gateway_with(&cells, &index, |config| config.region_spans_max = 500);
    let answer = gateway.find_trace(&context(freshness), trace_id).await.unwrap();
    let held = |number: &u16| {
        let wanted = [1, 0, 0, 0, 0, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]];
        answer.spans.iter().any(|span| *span.key.span_id.as_bytes() == wanted)
    };
    let missing: Vec<_> = owed.iter().filter(|(_, number)| !held(number)).collect();
    if !missing.is_empty() {
        prop_assert_eq!(answer.certificate.verdict(), Verdict::Partial, "{:?}", missing);
        prop_assert_ne!(answer.standing(), Standing::NotFound);
    }
    // Whoever lacks a span is among those named, and whoever is named has a reason to be.
    for (place, _) in missing {
        let report = &answer.certificate.regions[&region(names[*place])];
        prop_assert!(!report.is_whole(), "{:?}", report);
    }
    for (truth, name) in truths.iter().zip(names) {
        let Some(report) = answer.certificate.regions.get(&region(name)) else { continue };
        let is_honest = matches!(truth.manner, Manner::Honest);
        if is_honest && truth.is_configured && report.outcome != RegionOutcome::Pruned {
            prop_assert!(report.is_whole(), "{:?}", report);
        }
    }
    Ok(())
}
