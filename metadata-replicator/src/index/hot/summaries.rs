//! Traces from the index alone, newest first, in steps: between two of them writers get in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use rustc_hash::FxBuildHasher;
use trace_model::location::SummaryQuery;
use trace_model::{TraceEntry, TraceId, UnixNanos};

use super::HotIndex;
use super::order::Descent;
use super::orders::{Bucket, Key, Wanted, bits_of, bucket_of, entries_from, trace_of};

/// What decoding a trace costs, in rows looked at.
const DECODE_COST: usize = 16;

/// What a question for summaries found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summaries {
    /// The traces, newest start first, by id where two are as new.
    pub entries: Vec<(TraceId, TraceEntry)>,
    /// Rows looked at.
    pub rows_scanned: u64,
    /// Steps in which that was done: the index was free for writers before each.
    pub steps: u64,
}

/// A trace that was found. The greatest is the first that gives way.
#[derive(Debug)]
struct Found {
    rank: (Reverse<UnixNanos>, TraceId),
    entry: TraceEntry,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// A question on its way through the index, newest start first. It holds at most as many traces as
/// are asked for.
///
/// The index may change between two steps: each trace is shown as it was when it was met, at most
/// once; one whose start moves meanwhile may be met at neither place.
#[derive(Debug)]
pub struct SummarySearch {
    query: SummaryQuery,
    tenant: u32,
    wanted: Wanted,
    /// Goes on in this bucket below this entry.
    bucket: u64,
    below: u64,
    best: BinaryHeap<Found>,
    kept: HashSet<TraceId, FxBuildHasher>,
    is_done: bool,
    rows_scanned: u64,
    steps: u64,
}

impl HotIndex {
    /// Begins to look for traces that answer the query. A trace of which only routes are known
    /// answers only a query that asks for nothing but a time.
    #[must_use]
    pub fn search(&self, query: SummaryQuery) -> SummarySearch {
        let tenant = self.names.id_of(query.tenant.as_str());
        let number =
            |name: &Option<std::sync::Arc<str>>| name.as_ref().map(|name| self.names.id_of(name));
        let (service, root_service) = (number(&query.service), number(&query.root_service));
        let is_unknown = tenant.is_none() || service == Some(None) || root_service == Some(None);
        let last = query.range.end.minus(1);
        SummarySearch {
            tenant: tenant.unwrap_or_default(),
            wanted: Wanted {
                service: service.flatten(),
                root_service: root_service.flatten(),
                root_operation: number(&query.root_operation),
                only_errors: query.only_errors,
                lengths: lengths_of(&query),
            },
            bucket: bucket_of(last),
            below: entries_from(last).saturating_add(1 << 32),
            best: BinaryHeap::new(),
            kept: HashSet::default(),
            is_done: is_unknown || query.range.start >= query.range.end || query.limit == 0,
            rows_scanned: 0,
            steps: 0,
            query,
        }
    }

    /// Traces that answer the query, all at once: for those who own the index alone.
    #[must_use]
    pub fn summaries(&self, query: &SummaryQuery) -> Summaries {
        let mut search = self.search(query.clone());
        while !search.step(self, usize::MAX) {}
        search.finish()
    }
}

fn lengths_of(query: &SummaryQuery) -> std::ops::RangeInclusive<u8> {
    if !query.needs_detail() {
        return 0..=Key::ROUTES;
    }
    let longest = query.duration_nanos_max.map_or(64, bits_of);
    bits_of(query.duration_nanos_min).min(longest)..=longest
}

impl SummarySearch {
    /// Looks at about so many rows more, at least at one. Says whether that was all.
    pub fn step(&mut self, index: &HotIndex, rows_max: usize) -> bool {
        if self.is_done {
            return true;
        }
        // A number is given again: nothing of the tenant is left then.
        if index.names.id_of(self.query.tenant.as_str()) != Some(self.tenant) {
            self.is_done = true;
            return true;
        }
        self.steps = self.steps.saturating_add(1);
        let mut left = rows_max.max(1);
        let first = bucket_of(self.query.range.start);
        for (number, bucket) in index.orders.newest_first(self.tenant, first, self.bucket) {
            if left == 0 {
                return false;
            }
            if number < self.bucket {
                (self.bucket, self.below) = (number, u64::MAX);
            }
            if self.is_settled() {
                break;
            }
            if !self.step_in(index, bucket, &mut left) {
                return false;
            }
            let Some(older) = number.checked_sub(1) else { break };
            (self.bucket, self.below) = (older, u64::MAX);
        }
        self.is_done = true;
        true
    }

    /// Goes on in a bucket. Says whether its end was reached, or as much of it as can matter.
    fn step_in(&mut self, index: &HotIndex, bucket: &Bucket, left: &mut usize) -> bool {
        let first = self.first_entry();
        let mut keys = 0;
        let entries = Descent::below(bucket.shortest(&self.wanted, &mut keys), self.below);
        *left = left.saturating_sub(keys);
        let mut is_begun = false;
        for entry in entries {
            if entry < first || self.is_behind_the_last(entry) {
                return true;
            }
            if std::mem::replace(&mut is_begun, true) && *left == 0 {
                return false;
            }
            let cost = self.look_at(index, trace_of(entry));
            *left = left.saturating_sub(cost);
            self.below = entry;
        }
        true
    }

    /// The least entry of the bucket that lies in the query's range.
    fn first_entry(&self) -> u64 {
        let start = self.query.range.start;
        if bucket_of(start) < self.bucket { 0 } else { entries_from(start) }
    }

    fn is_full(&self) -> bool {
        self.best.len() >= self.query.limit
    }

    /// Whether as many as asked for lie in newer buckets than the one that comes.
    fn is_settled(&self) -> bool {
        let last = self.best.peek().filter(|_| self.is_full());
        last.is_some_and(|last| bucket_of(last.rank.0.0) > self.bucket)
    }

    /// Whether a trace with this entry starts before every trace that was found, as many as asked
    /// for.
    fn is_behind_the_last(&self, entry: u64) -> bool {
        let Some(last) = self.best.peek().filter(|_| self.is_full()) else { return false };
        let Reverse(start) = last.rank.0;
        bucket_of(start) > self.bucket || entry < entries_from(start)
    }

    /// Looks at a trace; gives what it cost.
    fn look_at(&mut self, index: &HotIndex, first: u32) -> usize {
        let (joined, rows) = index.rows.joined(first);
        self.rows_scanned = self.rows_scanned.saturating_add(rows as u64);
        let may_answer = joined.is_some_and(|joined| {
            let root = joined.root.as_ref();
            let operation_is = |wanted: Option<u32>| {
                // Operations without a number are compared when they are decoded.
                root.is_some_and(|root| root.operation.is_none() || root.operation == wanted)
            };
            let wanted = &self.wanted;
            self.query.range.contains(joined.start)
                && (!self.query.needs_detail() || joined.end.is_some())
                && (!self.query.only_errors || joined.has_errors)
                && joined.length() >= self.query.duration_nanos_min
                && self.query.duration_nanos_max.is_none_or(|max| joined.length() <= max)
                && wanted.root_service.is_none_or(|id| root.is_some_and(|root| root.service == id))
                && wanted.root_operation.is_none_or(operation_is)
                && wanted.service.is_none_or(|service| index.rows.has_service(first, service))
        });
        if !may_answer {
            return rows.max(1);
        }
        self.offer(index, first);
        rows.saturating_add(DECODE_COST)
    }

    fn offer(&mut self, index: &HotIndex, first: u32) {
        let entry = index.entry(first);
        let Some(trace_id) = entry.contributions.values().next().map(|row| row.trace_id) else {
            return;
        };
        let Some(start) = answers(&self.query, &entry) else { return };
        let rank = (Reverse(start), trace_id);
        let is_late = self.is_full() && self.best.peek().is_some_and(|last| last.rank <= rank);
        if is_late || !self.kept.insert(trace_id) {
            return;
        }
        if self.is_full()
            && let Some(last) = self.best.pop()
        {
            self.kept.remove(&last.rank.1);
        }
        self.best.push(Found { rank, entry });
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Summaries {
        let found = self.best.into_sorted_vec().into_iter();
        Summaries {
            entries: found.map(|found| (found.rank.1, found.entry)).collect(),
            rows_scanned: self.rows_scanned,
            steps: self.steps,
        }
    }
}

/// The time by which the trace is shown, where it answers the query.
pub(super) fn answers(query: &SummaryQuery, entry: &TraceEntry) -> Option<UnixNanos> {
    let summary = entry.summary();
    if summary.regions.is_empty() || !query.accepts(&summary) {
        return None;
    }
    let arrival = || entry.contributions.values().map(|row| row.last_append).min();
    let start = summary.min_start.or_else(arrival)?;
    query.range.contains(start).then_some(start)
}
