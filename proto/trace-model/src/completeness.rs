//! The completeness certificate: what each region answered, and whether the whole is complete.
//!
//! An answer is complete or says what is missing; empty never stands for failed.

mod line;

use std::collections::BTreeMap;

use crate::location::WriterId;
use crate::names::Region;
use crate::position::{Coverage, LogPosition};
use crate::time::UnixNanos;

/// What a region had to say to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionOutcome {
    /// It answered.
    Answered,
    /// It was not asked: the index proves that it holds nothing, as of its watermark.
    Pruned,
    /// It did not answer in time.
    TimedOut,
    /// It could not be reached, or refused.
    Unavailable,
    /// It talked nonsense.
    Invalid,
    /// Its policy gives nothing to this caller.
    Forbidden,
    /// Its policy gives a part to this caller.
    Redacted,
    /// Its retention may have taken spans of it; those that it still has are given.
    Expired,
    /// Its part was erased.
    Erased,
    /// Its sampler dropped its part.
    SampledOut,
}

impl RegionOutcome {
    /// The word in APIs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Pruned => "pruned",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::Redacted => "redacted",
            Self::Expired => "expired",
            Self::Erased => "erased",
            Self::SampledOut => "sampled_out",
        }
    }

    /// Withheld by policy, retention, erasure or sampling: said, and no fault.
    #[must_use]
    pub const fn is_withheld(self) -> bool {
        match self {
            Self::Forbidden | Self::Redacted | Self::Expired | Self::Erased | Self::SampledOut => {
                true
            }
            Self::Answered | Self::Pruned | Self::TimedOut | Self::Unavailable | Self::Invalid => {
                false
            }
        }
    }

    /// Failed: the region may hold what the answer lacks.
    #[must_use]
    pub const fn is_failed(self) -> bool {
        match self {
            Self::TimedOut | Self::Unavailable | Self::Invalid => true,
            Self::Answered
            | Self::Pruned
            | Self::Forbidden
            | Self::Redacted
            | Self::Expired
            | Self::Erased
            | Self::SampledOut => false,
        }
    }

    /// How good the outcome is as evidence: within one question the best of a region counts.
    const fn rank(self) -> u8 {
        match self {
            Self::Answered => 9,
            Self::Redacted => 8,
            Self::Erased => 7,
            Self::Expired => 6,
            Self::SampledOut => 5,
            Self::Forbidden => 4,
            Self::Pruned => 3,
            Self::Invalid => 2,
            Self::TimedOut => 1,
            Self::Unavailable => 0,
        }
    }
}

/// What the index promised of a region: its writer's contribution, by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The writer.
    pub writer: WriterId,
    /// Log offset after the last record that the contribution covers.
    pub version: u64,
    /// Append time of the last record that it covers.
    pub last_append: UnixNanos,
    /// Earliest start among its spans: none was appended before. `None` where that is withheld.
    pub min_start: Option<UnixNanos>,
}

impl Promise {
    /// Whether a store that has removed what was appended until then may have removed spans of
    /// this. Where nobody knows when the first of them came, it may.
    #[must_use]
    pub fn may_have_expired(&self, until: UnixNanos) -> bool {
        self.last_append <= until || self.min_start.is_none_or(|start| start <= until)
    }
}

/// One region's part in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude one another")]
pub struct RegionReport {
    /// The region.
    pub region: Region,
    /// What it had to say.
    pub outcome: RegionOutcome,
    /// Why, where it did not answer; of an answer that is cut, what of.
    pub reason: Option<String>,
    /// Its watermark in the asking region's index.
    pub watermark: Option<UnixNanos>,
    /// Whether the watermark has a hole where it matters, so that absence cannot be proven.
    pub has_hole: bool,
    /// Whether the region publishes no index (`none`), so that absence cannot be proven. Named;
    /// turns no answer into a partial one.
    pub is_not_provable: bool,
    /// What the index promised.
    pub promised: Vec<Promise>,
    /// How far the region's stores and live tail reach.
    pub covered: Option<Coverage>,
    /// Everything that the region's log appended at or before this time was looked at, or lies below
    /// the watermark under which it was left out. `None`: not said.
    pub as_of: Option<UnixNanos>,
    /// Records that the region set aside as damaged or dead and that may belong to the trace.
    pub is_damaged: bool,
    /// Its trace store, or a part of it, did not answer: what was found is from the rest.
    pub lacks_store: bool,
    /// Names lie beyond a limit of the region: its list is cut, or what belongs to a name may stand
    /// under another one. `reason` says which.
    pub is_cut: bool,
    /// Records were gone from its log before the group had read them that fills what was asked: they
    /// may be missing, though its trace store may have them. `reason` names the group.
    pub is_missed: bool,
    /// Spans that it gave.
    pub spans: u64,
    /// Milliseconds until its last byte.
    pub elapsed_millis: u64,
}

impl RegionReport {
    /// A report that says nothing more than the outcome.
    #[must_use]
    pub const fn new(region: Region, outcome: RegionOutcome) -> Self {
        Self {
            region,
            outcome,
            reason: None,
            watermark: None,
            has_hole: false,
            is_not_provable: false,
            promised: Vec::new(),
            covered: None,
            as_of: None,
            is_damaged: false,
            lacks_store: false,
            is_cut: false,
            is_missed: false,
            spans: 0,
            elapsed_millis: 0,
        }
    }

    /// Whether the region delivered to every promised position. A promise of an incarnation that
    /// the region's log no longer has is kept by what its store covered of it.
    #[must_use]
    pub fn kept_promises(&self) -> bool {
        self.promised.iter().all(|promise| self.keeps(promise))
    }

    /// Whether the region delivered to this promised position.
    #[must_use]
    pub fn keeps(&self, promise: &Promise) -> bool {
        let Some(last) = promise.version.checked_sub(1) else { return true };
        let position = LogPosition { partition: promise.writer.partition, offset: last };
        let covers = |covered: &Coverage| covered.covers(promise.writer.incarnation, position);
        self.covered.as_ref().is_some_and(covers)
    }

    /// Leaves of what was promised what was not delivered: of a log with many partitions nobody wants
    /// to read but those that are behind.
    pub fn forget_kept(&mut self) {
        let promised = std::mem::take(&mut self.promised);
        self.promised = promised.into_iter().filter(|promise| !self.keeps(promise)).collect();
    }

    /// Records of the region's log between what it delivered and what was promised of the whole
    /// log. `None` where it knows nothing of the log of which something was promised.
    #[must_use]
    pub fn records_behind(&self) -> Option<u64> {
        let missing = self.promised.iter().filter(|promise| !self.keeps(promise)).map(|promise| {
            let (covered, writer) = (self.covered.as_ref()?, &promise.writer);
            let own = covered.next_in(writer.incarnation, writer.partition);
            let is_known = covered.incarnation == writer.incarnation
                || covered.earlier.contains_key(&writer.incarnation);
            is_known.then(|| promise.version.saturating_sub(own))
        });
        missing.sum()
    }

    /// Whether nothing of this region is missing but what it withholds.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let has_all = !(self.is_damaged || self.lacks_store || self.is_cut || self.is_missed);
        match self.outcome {
            RegionOutcome::Answered => has_all && self.kept_promises(),
            RegionOutcome::Pruned => !self.is_cut && (self.is_not_provable || !self.has_hole),
            RegionOutcome::TimedOut | RegionOutcome::Unavailable | RegionOutcome::Invalid => false,
            RegionOutcome::Forbidden
            | RegionOutcome::Redacted
            | RegionOutcome::Expired
            | RegionOutcome::Erased
            | RegionOutcome::SampledOut => true,
        }
    }

    /// Says that the region has removed by retention what was appended until then. Where that may
    /// touch what was promised, its part is `expired`, with the spans that it still had: its cover
    /// reaches over what is gone and proves nothing about it. What is short for another reason
    /// stays so: retention excuses nothing else.
    #[must_use]
    pub fn with_expiry(self, until: Option<UnixNanos>) -> Self {
        let Some(until) = until else { return self };
        let is_touched = self.promised.iter().any(|promise| promise.may_have_expired(until));
        self.expired_if(is_touched)
    }

    /// The same of a search over a time range: spans that were placed at or behind its start and
    /// appended until then may be gone.
    #[must_use]
    pub fn with_expiry_since(self, until: Option<UnixNanos>, start: UnixNanos) -> Self {
        self.expired_if(until.is_some_and(|until| start <= until))
    }

    fn expired_if(self, is_touched: bool) -> Self {
        if self.outcome != RegionOutcome::Answered || !self.is_whole() || !is_touched {
            return self;
        }
        Self { outcome: RegionOutcome::Expired, ..self }
    }

    /// Joins evidence of the same region on the same question: the better outcome counts (a hedge
    /// may win over a time-out).
    #[must_use]
    pub fn better(self, other: Self) -> Self {
        let rank = |report: &Self| (report.is_whole(), report.outcome.rank(), report.spans);
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// Joins evidence of the same region on different questions (pages, slices): the worse counts,
    /// and the earlier time up to which everything was looked at.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |report: &Self| (report.is_whole(), report.outcome.rank());
        let as_of = [self.as_of, other.as_of].into_iter().flatten().min();
        let worse = if rank(&other) < rank(&self) { other } else { self };
        Self { as_of, ..worse }
    }
}

/// Whether an answer is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every region answered to its promised position, was pruned, or withholds and says so.
    Complete,
    /// At least one region is missing or fell short.
    Partial,
}

/// What an answer says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// A report for every region that may hold a part.
    pub regions: BTreeMap<Region, RegionReport>,
}

impl Certificate {
    /// Takes in evidence on the same question.
    pub fn add(&mut self, report: RegionReport) {
        let merged = match self.regions.remove(&report.region) {
            Some(held) => held.better(report),
            None => report,
        };
        self.regions.insert(merged.region.clone(), merged);
    }

    /// Takes in the certificate of another question that belongs to the same answer.
    pub fn add_question(&mut self, other: Self) {
        for (region, report) in other.regions {
            let merged = match self.regions.remove(&region) {
                Some(held) => held.worse(report),
                None => report,
            };
            self.regions.insert(region, merged);
        }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.regions.values().all(RegionReport::is_whole) {
            return Verdict::Complete;
        }
        Verdict::Partial
    }

    /// The regions of which something is missing.
    pub fn missing(&self) -> impl Iterator<Item = &RegionReport> {
        self.regions.values().filter(|report| !report.is_whole())
    }

    /// The regions that withhold something by policy, retention, erasure or sampling.
    pub fn withheld(&self) -> impl Iterator<Item = &RegionReport> {
        self.regions.values().filter(|report| report.outcome.is_withheld())
    }

    /// The regions that were not asked though they publish no index: nobody says what they hold.
    pub fn not_provable(&self) -> impl Iterator<Item = &RegionReport> {
        let is_unknown = |report: &&RegionReport| {
            report.outcome == RegionOutcome::Pruned && report.is_not_provable
        };
        self.regions.values().filter(is_unknown)
    }

    /// Up to when nothing is missing that was appended: the earliest time that a whole region says.
    /// `None` where none of them says any.
    #[must_use]
    pub fn as_of(&self) -> Option<UnixNanos> {
        let whole = self.regions.values().filter(|report| report.is_whole());
        whole.filter_map(|report| report.as_of).min()
    }

    /// Whether a region said anything at all.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.regions.values().any(|report| !report.outcome.is_failed())
    }

    /// Whether a region that may hold a part did not answer: then nothing found is no proof.
    #[must_use]
    pub fn has_failed_region(&self) -> bool {
        self.regions.values().any(|report| report.outcome.is_failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        Region::new(name).unwrap()
    }

    fn answered(name: &str, promised: u64, covered: u64) -> RegionReport {
        let writer = WriterId { region: region(name), incarnation: 3, partition: 0 };
        let mut coverage = Coverage::none(3);
        coverage.extend(0, covered);
        RegionReport {
            promised: vec![Promise {
                writer,
                version: promised,
                last_append: UnixNanos(9),
                min_start: None,
            }],
            covered: Some(coverage),
            ..RegionReport::new(region(name), RegionOutcome::Answered)
        }
    }

    #[test]
    fn complete_means_every_region_delivered_to_its_promised_position() {
        let mut certificate = Certificate::default();
        certificate.add(answered("eu", 10, 10));
        certificate.add(RegionReport::new(region("us"), RegionOutcome::Pruned));
        assert_eq!(certificate.verdict(), Verdict::Complete);
        assert_eq!(certificate.to_string(), "complete: 2 of 2 regions");
        certificate.add(answered("ap", 10, 9));
        assert_eq!(certificate.verdict(), Verdict::Partial);
        assert_eq!(
            certificate.to_string(),
            "partial: 2 of 3 regions; missing ap (behind its promise)"
        );
    }

    const NOON: UnixNanos = UnixNanos(1_795_262_400_000_000_000);

    fn searched(name: &str, promised: u64, covered: u64, seconds_ago: u64) -> RegionReport {
        let as_of = Some(NOON.minus(seconds_ago * 1_000_000_000));
        RegionReport { as_of, ..answered(name, promised, covered) }
    }

    #[test]
    fn a_search_is_complete_as_of_its_earliest_region_and_says_how_far_one_is_behind() {
        let mut certificate = Certificate::default();
        certificate.add(searched("eu", 10, 12, 0));
        certificate.add(searched("us", 10, 10, 2));
        let line = "complete: 2 of 2 regions; as of 2026-11-21T11:59:58.000Z";
        assert_eq!(certificate.to_string(), line);
        certificate.add(searched("ap", 10, 3, 600));
        assert_eq!(
            certificate.to_string(),
            "partial: 2 of 3 regions; missing ap (behind its promise by 7 records, \
             as of 2026-11-21T11:50:00.000Z); as of 2026-11-21T11:59:58.000Z"
        );
    }

    #[test]
    fn how_far_behind_is_not_counted_in_another_log() {
        let mut report = searched("eu", 10, 12, 1);
        assert_eq!(report.records_behind(), Some(0));
        report.covered = Some(Coverage { incarnation: 4, ..report.covered.unwrap_or_default() });
        assert_eq!(report.records_behind(), None);
        assert_eq!(report.short_reason(), "behind its promise, as of 2026-11-21T11:59:59.000Z");
    }

    #[test]
    fn questions_of_one_answer_reach_as_far_as_the_earliest_of_them() {
        let by_id = RegionReport::new(region("eu"), RegionOutcome::Pruned);
        for joined in
            [searched("eu", 1, 1, 5).worse(by_id.clone()), by_id.worse(searched("eu", 1, 1, 5))]
        {
            assert_eq!(joined.outcome, RegionOutcome::Pruned);
            assert_eq!(joined.as_of, Some(NOON.minus(5_000_000_000)));
        }
        let earlier = searched("eu", 1, 1, 5).worse(searched("eu", 1, 1, 9));
        assert_eq!(earlier.as_of, Some(NOON.minus(9_000_000_000)));
    }

    #[test]
    fn a_search_that_begins_before_what_retention_removed_is_named() {
        for (until, start, outcome) in [
            (None, 5, RegionOutcome::Answered),
            (Some(4), 5, RegionOutcome::Answered),
            (Some(5), 5, RegionOutcome::Expired),
            (Some(9), 5, RegionOutcome::Expired),
        ] {
            let report = searched("eu", 1, 1, 0);
            let report = report.with_expiry_since(until.map(UnixNanos), UnixNanos(start));
            assert_eq!(report.outcome, outcome, "{until:?}");
        }
        let behind = searched("eu", 2, 1, 0).with_expiry_since(Some(UnixNanos(9)), UnixNanos(5));
        assert!(!behind.is_whole());
    }

    #[test]
    fn a_promise_of_an_older_incarnation_is_kept_by_what_was_covered_of_it_alone() {
        let mut report = answered("eu", 10, 10);
        let covered = report.covered.clone().unwrap_or_default();
        report.covered = Some(Coverage { incarnation: 4, ..covered.clone() });
        assert!(!report.is_whole(), "offsets of another incarnation");
        let mut renewed = Coverage::none(4);
        renewed.extend(0, 2);
        renewed.join(&covered);
        report.covered = Some(renewed);
        assert!(report.is_whole());
        for promise in &mut report.promised {
            promise.version = 11;
        }
        assert!(!report.is_whole(), "the old log was lost before the store had all of it");
    }

    #[test]
    fn what_is_withheld_is_named_and_no_fault() {
        let mut certificate = Certificate::default();
        certificate.add(answered("eu", 1, 1));
        certificate.add(RegionReport::new(region("us"), RegionOutcome::Forbidden));
        assert_eq!(certificate.to_string(), "complete: 2 of 2 regions; withheld by us (forbidden)");
    }

    fn promised_since(min_start: Option<u64>, last_append: u64) -> RegionReport {
        let mut report = answered("eu", 10, 10);
        for promise in &mut report.promised {
            promise.min_start = min_start.map(UnixNanos);
            promise.last_append = UnixNanos(last_append);
        }
        report
    }

    #[test]
    fn what_retention_may_have_taken_is_named_and_never_plainly_complete() {
        for (min_start, last_append, until, expected) in [
            (Some(50), 60, None, RegionOutcome::Answered),
            (Some(50), 60, Some(49), RegionOutcome::Answered),
            (Some(50), 60, Some(50), RegionOutcome::Expired),
            (Some(50), 60, Some(70), RegionOutcome::Expired),
            // A start ahead of its append, by a sender's clock.
            (Some(80), 60, Some(60), RegionOutcome::Expired),
            (None, 60, Some(1), RegionOutcome::Expired),
        ] {
            let report = promised_since(min_start, last_append);
            let report = report.with_expiry(until.map(UnixNanos));
            assert_eq!(report.outcome, expected, "{min_start:?} {last_append} {until:?}");
        }
        let mut certificate = Certificate::default();
        certificate.add(promised_since(Some(1), 2).with_expiry(Some(UnixNanos(3))));
        assert_eq!(certificate.to_string(), "complete: 1 of 1 regions; withheld by eu (expired)");
    }

    #[test]
    fn retention_excuses_neither_damage_nor_falling_behind() {
        let until = Some(UnixNanos(100));
        let behind = answered("eu", 10, 9).with_expiry(until);
        assert!(behind.outcome == RegionOutcome::Answered && !behind.is_whole());
        let damaged = RegionReport { is_damaged: true, ..answered("eu", 10, 10) };
        assert!(!damaged.with_expiry(until).is_whole());
        let lacking = RegionReport { lacks_store: true, ..answered("eu", 10, 10) };
        assert!(!lacking.with_expiry(until).is_whole());
        let late = RegionReport::new(region("eu"), RegionOutcome::TimedOut);
        assert_eq!(late.with_expiry(until).outcome, RegionOutcome::TimedOut);
        let nothing_promised = RegionReport::new(region("eu"), RegionOutcome::Answered);
        assert_eq!(nothing_promised.with_expiry(until).outcome, RegionOutcome::Answered);
    }

    #[test]
    fn a_region_whose_store_is_away_is_missing_also_where_its_tail_kept_every_promise() {
        let lacking = RegionReport { lacks_store: true, ..answered("eu", 10, 10) };
        assert!(lacking.kept_promises() && !lacking.is_whole());
        assert!(!RegionReport { promised: vec![], ..lacking.clone() }.is_whole());
        let mut certificate = Certificate::default();
        certificate.add(lacking.clone());
        let line = "partial: 0 of 1 regions; missing eu (its trace store is away)";
        assert_eq!(certificate.to_string(), line);
        assert!(answered("eu", 10, 10).better(lacking.clone()).is_whole());
        assert!(lacking.better(answered("eu", 10, 10)).is_whole());
    }

    #[test]
    fn an_answer_of_which_records_were_missed_is_not_whole_and_says_why() {
        let whole = answered("eu", 10, 10);
        let missed = RegionReport { is_missed: true, ..whole.clone() };
        assert!(whole.is_whole() && !missed.is_whole());
        let certificate = |report: &RegionReport| {
            let mut certificate = Certificate::default();
            certificate.add(report.clone());
            certificate.to_string()
        };
        let line = "partial: 0 of 1 regions; missing eu (records missed)";
        assert_eq!(certificate(&missed), line);
        let reason = Some("gone before anybody came".to_owned());
        let missed = RegionReport { reason, ..missed };
        assert!(certificate(&missed).ends_with("missing eu (gone before anybody came)"));
        // Retention excuses nothing else.
        assert!(!missed.clone().with_expiry_since(Some(UnixNanos(9)), UnixNanos(5)).is_whole());
        assert_eq!(whole.clone().worse(missed.clone()), missed);
        assert_eq!(missed.better(whole.clone()), whole);
    }

    #[test]
    fn an_answer_that_is_cut_is_not_whole_and_says_what_of() {
        for outcome in [RegionOutcome::Answered, RegionOutcome::Pruned] {
            let whole = RegionReport::new(region("eu"), outcome);
            let cut = RegionReport { is_cut: true, ..whole.clone() };
            assert!(whole.is_whole() && !cut.is_whole());
            let reason = Some("more names than it keeps".to_owned());
            for (report, words) in [
                (cut.clone(), "cut short"),
                (RegionReport { reason, ..cut }, "cut short: more names than it keeps"),
            ] {
                let mut certificate = Certificate::default();
                certificate.add(report);
                let line = format!("partial: 0 of 1 regions; missing eu ({words})");
                assert_eq!(certificate.to_string(), line);
            }
        }
        let behind = RegionReport { is_cut: true, ..answered("eu", 10, 9) };
        assert_eq!(behind.short_reason(), "behind its promise");
        let unindexed = RegionReport::new(region("eu"), RegionOutcome::Pruned);
        assert!(!RegionReport { is_cut: true, is_not_provable: true, ..unindexed }.is_whole());
    }

    #[test]
    fn a_hedge_wins_over_a_time_out_and_a_later_page_does_not_hide_a_failure() {
        let late = RegionReport::new(region("us"), RegionOutcome::TimedOut);
        let mut same = Certificate::default();
        same.add(late.clone());
        same.add(answered("us", 1, 1));
        assert_eq!(same.verdict(), Verdict::Complete);
        let mut page = Certificate::default();
        page.add(late);
        same.add_question(page);
        assert_eq!(same.verdict(), Verdict::Partial);
        assert!(same.has_failed_region());
    }

    #[test]
    fn a_region_without_an_index_that_is_not_asked_is_named_in_the_line() {
        let mut certificate = Certificate::default();
        certificate.add(answered("eu", 1, 1));
        let unindexed = RegionReport::new(region("us"), RegionOutcome::Pruned);
        certificate.add(RegionReport { is_not_provable: true, has_hole: true, ..unindexed });
        let line = "complete: 2 of 2 regions; not provable us (publishes no index)";
        assert_eq!(certificate.to_string(), line);
        // Where it was asked, it has spoken for itself.
        let mut asked = Certificate::default();
        asked.add(RegionReport { is_not_provable: true, ..answered("us", 1, 1) });
        assert_eq!(asked.to_string(), "complete: 1 of 1 regions");
    }

    #[test]
    fn a_hole_in_the_watermark_proves_no_absence() {
        let mut report = RegionReport::new(region("us"), RegionOutcome::Pruned);
        report.has_hole = true;
        assert!(!report.is_whole());
    }
}
