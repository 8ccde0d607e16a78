//! Records that were acknowledged and that no store has: which answers they may be missing from.
//!
//! Nobody knows what was in them but when they were appended. Spans of one trace come in close to
//! one another, and a search looks at a time: what was lost far from both is no part of the answer.

use std::sync::Arc;

use async_trait::async_trait;
use proto::convert::query::{METRICS_AGGREGATOR, SEARCH_INDEXER};
use proto::v1;
use trace_model::{SearchQuery, TenantId, TimeRange, UnixNanos};
use trace_store::port::{SearchAnswer, StoreError, TraceSearch};

use crate::port::LiveTail;
use crate::querier::Querier;

/// Spans that belong together come in within so long of each other: a day, as for the holes of a
/// watermark. What comes later than that is not looked for here.
const APART_NANOS_MAX: u64 = 24 * 3_600 * 1_000_000_000;

/// Whether records lost in one of these runs may have belonged to what was seen at that time; to
/// what nobody has seen, all may.
fn may_touch(lost: &[TimeRange], seen: Option<(UnixNanos, UnixNanos)>) -> bool {
    let Some((first, last)) = seen else { return !lost.is_empty() };
    let (first, last) = (first.minus(APART_NANOS_MAX), last.plus(APART_NANOS_MAX));
    lost.iter().any(|run| run.overlaps(first, last))
}

/// Whether spans of the trace may have been lost, by when those that are left were received: the first
/// and the last of them.
pub(crate) fn may_miss_spans(lost: &[TimeRange], received: Option<(UnixNanos, UnixNanos)>) -> bool {
    may_touch(lost, received)
}

/// The group where one of these runs may belong into an answer about these times, else empty.
fn named_if(group: &str, missed: &[TimeRange], range: TimeRange) -> String {
    let is_short = may_touch(missed, Some((range.start, range.end)));
    if is_short { group.to_owned() } else { String::new() }
}

impl Querier {
    /// search-indexer where it has missed records which may belong into a search of these times, else
    /// empty. Asked when the answer is there: what its reach says that it covers was noted before, as far
    /// as it was missed. What is lost to all a search says as [`HonestSearch`] does.
    pub(crate) fn missed_by_search(&self, range: TimeRange) -> String {
        named_if(SEARCH_INDEXER, &self.ports.tail.lost().unindexed, range)
    }

    /// Says of a list what it may lack: what the search index has missed, and, since the trace store may
    /// be the one that lists, what storage-writer has. Asked when it is known how far the list will reach,
    /// and before it: a letter that is taken after all is in the store before it goes.
    pub(crate) fn with_unlisted(
        &self,
        reach: Option<v1::Reach>,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Option<v1::Reach> {
        let lost = self.ports.tail.lost();
        let buried = self.ports.tail.buried(tenant);
        let missed = [lost.unindexed, lost.runs, buried].concat();
        with_missed(reach, named_if(SEARCH_INDEXER, &missed, range))
    }

    /// Says of counts what they have missed, also with all others.
    pub(crate) fn with_uncounted(
        &self,
        reach: Option<v1::Reach>,
        range: TimeRange,
    ) -> Option<v1::Reach> {
        let lost = self.ports.tail.lost();
        let missed = [lost.uncounted, lost.unread].concat();
        with_missed(reach, named_if(METRICS_AGGREGATOR, &missed, range))
    }
}

/// Lists and counts have no other word for what is lost to all. An asker who does not know this one
/// takes the answer for one that is cut.
fn with_missed(reach: Option<v1::Reach>, missed_by: String) -> Option<v1::Reach> {
    if missed_by.is_empty() {
        return reach;
    }
    Some(v1::Reach { is_cut: true, missed_by, ..reach.unwrap_or_default() })
}

/// A search that says what it may have missed.
#[derive(Debug)]
pub(crate) struct HonestSearch {
    pub(crate) search: Arc<dyn TraceSearch>,
    pub(crate) tail: Arc<dyn LiveTail>,
}

#[async_trait]
impl TraceSearch for HonestSearch {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        // Asked first: a letter that is taken after all is in the store before it goes.
        let mut lost = self.tail.lost().runs;
        lost.extend(self.tail.buried(&query.tenant));
        let answer = self.search.search(query).await?;
        let is_damaged = may_touch(&lost, Some((query.range.start, query.range.end)));
        Ok(SearchAnswer { is_damaged: answer.is_damaged || is_damaged, ..answer })
    }
}

#[cfg(test)]
mod tests {
    use trace_model::{Filter, TraceId};

    use super::*;
    use crate::port::{Lost, PortError, TailRead};

    const HOUR: u64 = 3_600_000_000_000;

    fn run(first: u64, last: u64) -> TimeRange {
        TimeRange { start: UnixNanos(first * HOUR), end: UnixNanos(last * HOUR + 1) }
    }

    fn touches(lost: &[TimeRange], first: u64, last: u64) -> bool {
        may_touch(lost, Some((UnixNanos(first * HOUR), UnixNanos(last * HOUR))))
    }

    #[test]
    fn what_was_lost_within_a_day_may_belong_and_what_was_lost_before_or_after_does_not() {
        let lost = [run(100, 101), run(300, 300)];
        for (first, last, expected) in [
            (100, 100, true),
            (125, 126, true),
            (126, 126, false),
            (76, 76, true),
            (75, 75, false),
            (126, 275, false),
            (126, 276, true),
            (10, 900, true),
        ] {
            assert_eq!(touches(&lost, first, last), expected, "{first}..{last}");
        }
        assert!(!touches(&[], 100, 100));
    }

    #[test]
    fn anything_may_have_been_lost_of_what_nobody_has_seen() {
        assert!(may_touch(&[run(1, 1)], None));
        assert!(!may_touch(&[], None));
    }

    /// Finds nothing, and has lost what it is told.
    #[derive(Debug)]
    struct Quiet {
        lost: Vec<TimeRange>,
        buried: Vec<TimeRange>,
        is_damaged: bool,
    }

    #[async_trait]
    impl TraceSearch for Quiet {
        async fn search(&self, _: &SearchQuery) -> Result<SearchAnswer, StoreError> {
            Ok(SearchAnswer {
                matches: Vec::new(),
                stats: trace_model::query::SearchStats::default(),
                covered: trace_model::Coverage::default(),
                is_damaged: self.is_damaged,
                is_away: false,
                expired_until: None,
            })
        }
    }

    #[async_trait]
    impl LiveTail for Quiet {
        async fn read_tail(&self, _: &TenantId, _: TraceId) -> Result<TailRead, PortError> {
            Ok(TailRead::default())
        }

        fn lost(&self) -> Lost {
            Lost { runs: self.lost.clone(), ..Lost::default() }
        }

        fn buried(&self, tenant: &TenantId) -> Vec<TimeRange> {
            if tenant.as_str() == "default" { self.buried.clone() } else { Vec::new() }
        }
    }

    #[tokio::test]
    async fn a_search_over_a_time_of_which_records_are_lost_or_set_aside_says_so() {
        for (lost, buried, store, tenant, expected) in [
            (vec![], vec![], false, "default", false),
            (vec![], vec![], true, "default", true),
            (vec![run(100, 100)], vec![], false, "other", true),
            (vec![run(500, 500)], vec![], false, "default", false),
            (vec![], vec![run(100, 100)], false, "default", true),
            (vec![], vec![run(100, 100)], false, "other", false),
        ] {
            let cell = Arc::new(Quiet { lost, buried, is_damaged: store });
            let search = HonestSearch { search: Arc::clone(&cell) as _, tail: cell };
            let query = SearchQuery {
                tenant: TenantId::new(tenant).unwrap(),
                filter: Filter::All,
                range: run(90, 110),
                limit: 5,
                before: None,
            };
            assert_eq!(search.search(&query).await.unwrap().is_damaged, expected, "{tenant}");
        }
    }
}
