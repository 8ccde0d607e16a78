use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::convert::query::id_bytes;
use proto::v1;
use trace_model::query::Field;
use trace_model::{Filter, RegionOutcome, Verdict};

use super::*;
use crate::config::Freshness;
use crate::fakes::{FakeCell, FakeIndex, Manner, NOW, context, gateway, id, level, region, silent};

fn found(trace: u8, seconds_ago: u64) -> v1::TraceMatch {
    v1::TraceMatch {
        trace_id: id_bytes(id(trace)),
        newest_match_unix_nano: NOW.minus(seconds_ago * 1_000_000_000).0,
        matched_spans: 1,
        services: vec!["web".to_owned()],
    }
}

fn cells(held: [&[(u8, u64)]; 3]) -> (Vec<Arc<FakeCell>>, Arc<FakeIndex>) {
    let cells = ["eu", "us", "ap"].map(FakeCell::new).to_vec();
    let index = FakeIndex::with_states(vec![level("eu"), level("us"), level("ap")]);
    for (cell, rows) in cells.iter().zip(held) {
        let matches = rows.iter().map(|(trace, ago)| found(*trace, *ago)).collect();
        *cell.matches.lock().unwrap() = matches;
        for (trace, _) in rows {
            cell.hold(id(*trace), 0..1);
            index.know(cell.contribution(id(*trace)));
        }
    }
    (cells, index)
}

fn request(limit: usize, cursor: Option<String>) -> SearchRequest {
    SearchRequest { filter: Filter::Exists(Field::Service), range: None, limit, cursor }
}

async fn pages(cells: &[Arc<FakeCell>], index: &Arc<FakeIndex>, limit: usize) -> Vec<Vec<TraceId>> {
    let gateway = gateway(cells, index);
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let asked = request(limit, cursor);
        let page = gateway.search(&context(Freshness::Auto), &asked).await.unwrap();
        pages.push(page.matches.iter().map(|found| found.trace_id).collect());
        cursor = page.next;
        if cursor.is_none() {
            return pages;
        }
        assert!(pages.len() < 50, "the pages do not end");
    }
}

#[tokio::test(start_paused = true)]
async fn matches_of_all_regions_come_newest_first_and_joined() {
    let (cells, index) = cells([&[(1, 10), (2, 40)], &[(3, 20), (1, 30)], &[(4, 5)]]);
    let page = gateway(&cells, &index)
        .search(&context(Freshness::Auto), &request(10, None))
        .await
        .unwrap();
    let order: Vec<_> = page.matches.iter().map(|found| found.trace_id).collect();
    assert_eq!(order, [id(4), id(1), id(3), id(2)]);
    let joined = &page.matches[1];
    assert_eq!((joined.matched_spans, joined.regions.len()), (2, 2));
    let line = "complete: 3 of 3 regions; as of 2026-09-21T14:13:19.999Z";
    assert_eq!(page.certificate.to_string(), line);
    assert_eq!(page.next, None);
    assert_eq!(page.range.end, NOW.plus(1));
    assert_eq!(page.range.start, NOW.minus(3_600_000_000_000));
}

#[tokio::test(start_paused = true)]
async fn pages_over_regions_give_every_trace_once_in_order() {
    let rows: Vec<(u8, u64)> = (1..=30).map(|trace| (trace, u64::from(trace) * 7)).collect();
    let older: Vec<(u8, u64)> = (1..=30).step_by(2).map(|trace| (trace, 400)).collect();
    let own: Vec<(u8, u64)> = (31..=40).map(|trace| (trace, u64::from(trace))).collect();
    let older: Vec<(u8, u64)> =
        older.iter().map(|(trace, ago)| (*trace, ago + u64::from(*trace))).collect();
    let (cells, index) = cells([&rows, &older, &own]);
    let all = pages(&cells, &index, 4).await.concat();
    let unique: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), unique.len()), (40, 40));
    let whole = pages(&cells, &index, 100).await.concat();
    assert_eq!(all, whole);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fails_is_named_in_a_search() {
    for (manner, outcome) in [
        (Manner::Unreachable, RegionOutcome::Unavailable),
        (Manner::Garbage, RegionOutcome::Invalid),
        (Manner::Endless, RegionOutcome::Invalid),
    ] {
        let (cells, index) = cells([&[(1, 10)], &[(3, 20), (2, 30), (4, 40)], &[]]);
        cells[1].behave(manner);
        let page = gateway(&cells, &index)
            .search(&context(Freshness::Auto), &request(2, None))
            .await
            .unwrap();
        assert_eq!(page.certificate.regions[&region("us")].outcome, outcome, "{manner:?}");
        assert_eq!(page.certificate.verdict(), Verdict::Partial);
        assert_eq!(page.matches.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_hangs_stalls_a_search_no_longer_than_the_deadline_and_is_named() {
    let (cells, index) = cells([&[(1, 10)], &[(3, 20)], &[(2, 30)]]);
    cells[1].behave(Manner::Hanging);
    let (gateway, context, asked) =
        (gateway(&cells, &index), context(Freshness::Auto), request(10, None));
    let deadline = context.patience().first_frame + std::time::Duration::from_millis(10);
    let searched = tokio::time::timeout(deadline, gateway.search(&context, &asked)).await;
    let page = searched.expect("the search outlasts its deadline").unwrap();
    let order: Vec<_> = page.matches.iter().map(|found| found.trace_id).collect();
    assert_eq!(order, [id(1), id(2)]);
    assert_eq!(page.certificate.regions[&region("us")].outcome, RegionOutcome::TimedOut);
    assert_eq!(page.certificate.verdict(), Verdict::Partial);
}

#[tokio::test(start_paused = true)]
async fn nothing_found_while_a_region_failed_is_no_empty_answer() {
    let (cells, index) = cells([&[], &[], &[]]);
    let asked = request(5, None);
    let page = gateway(&cells, &index).search(&context(Freshness::Auto), &asked).await.unwrap();
    assert!(page.matches.is_empty());
    cells[1].behave(Manner::Unreachable);
    let refused = gateway(&cells, &index).search(&context(Freshness::Auto), &asked).await;
    assert!(matches!(refused, Err(GatewayError::Unproven(_))));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_makes_a_search_partial_and_so_does_a_store_that_is_away() {
    let (cells, index) = cells([&[(1, 10)], &[], &[]]);
    let missed =
        "records were gone from its log before a consumer group had read them, or set aside by it";
    for (manner, word) in [
        (Manner::Damaged, "damaged"),
        (Manner::LackingStore, "its trace store is away"),
        (Manner::Missing, missed),
    ] {
        cells[2].behave(manner);
        let gateway = gateway(&cells, &index);
        let page = gateway.search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
        let line = page.certificate.to_string();
        let wanted = format!("partial: 2 of 3 regions; missing ap ({word}); as of");
        assert!(line.starts_with(&wanted), "{line}");
        let report = &page.certificate.regions[&region("ap")];
        assert_eq!(report.is_damaged, manner == Manner::Damaged);
        assert_eq!(report.is_missed, manner == Manner::Missing);
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_search_lies_behind_what_it_published_is_missing_and_says_by_how_much() {
    let (cells, index) = cells([&[(1, 10)], &[(2, 20)], &[]]);
    cells[1].behave(Manner::Behind);
    let gateway = gateway(&cells, &index);
    let page = gateway.search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
    // What it found is given all the same.
    assert_eq!(page.matches.len(), 2);
    assert_eq!(
        page.certificate.to_string(),
        "partial: 2 of 3 regions; missing us (behind its promise by 3 records, \
         as of 2026-09-21T14:11:50.000Z); as of 2026-09-21T14:13:19.999Z"
    );
    let report = &page.certificate.regions[&region("us")];
    assert_eq!((report.outcome, report.records_behind()), (RegionOutcome::Answered, Some(3)));
    assert_eq!(report.watermark, Some(NOW));
    let whole = &page.certificate.regions[&region("eu")];
    assert!(whole.promised.is_empty(), "kept promises are not listed");

    // Where nothing was published, or the index does not answer, nothing was promised.
    *index.states.lock().unwrap() = vec![level("eu"), silent("us"), level("ap")];
    let page = gateway.search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
    let line = "complete: 3 of 3 regions; as of 2026-09-21T14:11:50.000Z";
    assert_eq!(page.certificate.to_string(), line);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_not_the_published_one_keeps_no_promise() {
    let (cells, index) = cells([&[(1, 10)], &[(2, 20)], &[]]);
    let mut states = vec![level("eu"), level("us"), level("ap")];
    states[1].watermark.as_mut().unwrap().incarnation += 1;
    *index.states.lock().unwrap() = states;
    let page =
        gateway(&cells, &index).search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
    assert_eq!(page.certificate.verdict(), Verdict::Partial);
    assert_eq!(page.certificate.regions[&region("us")].records_behind(), None);
}

#[tokio::test(start_paused = true)]
async fn what_retention_removed_from_the_searched_range_is_named_and_withheld() {
    let (cells, index) = cells([&[(1, 10)], &[(2, 20)], &[]]);
    cells[1].behave(Manner::Expiring);
    let gateway = gateway(&cells, &index);
    let page = gateway.search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
    assert_eq!(page.certificate.regions[&region("us")].outcome, RegionOutcome::Expired);
    let line = page.certificate.to_string();
    assert!(line.starts_with("complete: 3 of 3 regions; withheld by us (expired)"), "{line}");
    // A range that begins behind what was removed lacks nothing.
    let range = Some(TimeRange { start: NOW.plus(1), end: NOW.plus(2) });
    let later = SearchRequest { range, ..request(5, None) };
    let page = gateway.search(&context(Freshness::Auto), &later).await.unwrap();
    assert_eq!(page.certificate.regions[&region("us")].outcome, RegionOutcome::Answered);
}

#[tokio::test(start_paused = true)]
async fn without_the_index_each_regions_own_word_counts() {
    let (cells, index) = cells([&[(1, 10)], &[(2, 20)], &[]]);
    *index.is_down.lock().unwrap() = true;
    let page =
        gateway(&cells, &index).search(&context(Freshness::Auto), &request(5, None)).await.unwrap();
    assert_eq!(page.certificate.regions.len(), 3);
    assert_eq!(page.certificate.as_of(), Some(NOW.minus(1_000_000)));
}

#[tokio::test(start_paused = true)]
async fn a_region_missing_from_the_configuration_is_reported_missing() {
    let (cells, index) = cells([&[(1, 10)], &[], &[]]);
    let page = gateway(&cells[..2], &index)
        .search(&context(Freshness::Auto), &request(5, None))
        .await
        .unwrap();
    let report = &page.certificate.regions[&region("ap")];
    assert_eq!(report.reason.as_deref(), Some("not configured in this gateway"));
}

#[tokio::test(start_paused = true)]
async fn whole_traces_are_fetched_in_one_question_a_region() {
    let (cells, index) = cells([&[(1, 10), (2, 40)], &[(3, 20), (1, 30)], &[(4, 5)]]);
    let (page, answers) = gateway(&cells, &index)
        .search_traces(&context(Freshness::Auto), &request(10, None))
        .await
        .unwrap();
    assert_eq!(answers.len(), page.matches.len());
    for (found, answer) in page.matches.iter().zip(&answers) {
        assert_eq!(answer.spans.trace_id(), found.trace_id);
        assert_eq!(answer.certificate.verdict(), Verdict::Complete);
        assert!(!answer.spans.is_empty());
    }
    for cell in &cells {
        assert_eq!((cell.ask_count(), cell.searches.load(Ordering::Relaxed)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn limits_and_cursors_are_checked() {
    let (cells, index) = cells([&[(1, 10)], &[], &[]]);
    let gateway = gateway(&cells, &index);
    for limit in [0, 1_501, usize::MAX] {
        let refused = gateway.search(&context(Freshness::Auto), &request(limit, None)).await;
        assert!(matches!(refused, Err(GatewayError::OutOfLimits { .. })), "{limit}");
    }
    let forged = request(5, Some("AAAA".to_owned()));
    let refused = gateway.search(&context(Freshness::Auto), &forged).await;
    assert!(matches!(refused, Err(GatewayError::Cursor)));
    assert_eq!(cells[0].searches.load(Ordering::Relaxed), 0);
}
