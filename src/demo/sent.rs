//! What the shop has sent, remembered to be read back: bounded, the newest of each kind.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use trace_model::TraceId;

/// Traces remembered of each number of regions.
const REMEMBERED_MAX: usize = 4_096;

/// A trace that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentTrace {
    /// Its id.
    pub(crate) id: TraceId,
    /// Its spans in all regions.
    pub(crate) spans: usize,
    /// Regions that hold a part.
    pub(crate) regions: usize,
    /// Monotonic milliseconds when its last span was handed to the SDK.
    pub(crate) at_millis: u64,
}

/// What the shop has sent.
#[derive(Debug, Default)]
pub(crate) struct SentTraces {
    inner: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    traces: VecDeque<SentTrace>,
    total_traces: u64,
    total_spans: u64,
}

impl SentTraces {
    /// Remembers a trace.
    pub(crate) fn add(&self, trace: SentTrace) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total_traces += 1;
        inner.total_spans += u64::try_from(trace.spans).unwrap_or(0);
        if inner.traces.len() == REMEMBERED_MAX {
            inner.traces.pop_front();
        }
        inner.traces.push_back(trace);
    }

    /// Traces and spans sent in all.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.total_traces, inner.total_spans)
    }

    /// The newest trace over as many regions that was sent before the moment.
    pub(crate) fn newest_over(&self, regions: usize, before_millis: u64) -> Option<TraceId> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |trace: &&SentTrace| trace.regions >= regions && trace.at_millis < before_millis;
        inner.traces.iter().rev().find(fits).map(|trace| trace.id)
    }

    /// At most `count` traces, evenly over what is remembered, and the largest one.
    pub(crate) fn sample(&self, count: usize) -> Vec<SentTrace> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let step = inner.traces.len().div_ceil(count.max(1)).max(1);
        let mut sample: Vec<SentTrace> = inner.traces.iter().step_by(step).copied().collect();
        let largest = inner.traces.iter().max_by_key(|trace| trace.spans).copied();
        if let Some(largest) = largest
            && !sample.contains(&largest)
        {
            sample.push(largest);
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(number: u128, spans: usize, regions: usize) -> SentTrace {
        let id = TraceId::from_bytes(number.to_be_bytes()).unwrap();
        SentTrace { id, spans, regions, at_millis: u64::try_from(number).unwrap() }
    }

    #[test]
    fn memory_is_bounded_and_totals_are_not() {
        let sent = SentTraces::default();
        for number in 1..=10_000 {
            sent.add(trace(number, 2, 1));
        }
        assert_eq!(sent.totals(), (10_000, 20_000));
        assert_eq!(sent.sample(usize::MAX).len(), REMEMBERED_MAX);
        assert!(sent.sample(100).len() <= 101);
    }

    #[test]
    fn the_largest_trace_is_always_in_the_sample() {
        let sent = SentTraces::default();
        for number in 1..=1_000 {
            sent.add(trace(number, if number == 777 { 1_500 } else { 5 }, 1));
        }
        assert!(sent.sample(10).iter().any(|trace| trace.spans == 1_500));
    }

    #[test]
    fn the_newest_trace_over_all_regions_is_not_one_that_is_under_way() {
        let sent = SentTraces::default();
        for (number, regions) in [(1, 3), (2, 3), (3, 2), (4, 3)] {
            sent.add(trace(number, 5, regions));
        }
        assert_eq!(sent.newest_over(3, 4), Some(trace(2, 5, 3).id));
        assert_eq!(sent.newest_over(3, 1), None);
    }
}
