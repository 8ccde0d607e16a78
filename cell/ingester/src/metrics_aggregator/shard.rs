//! What the aggregator remembers of one partition. Time is the log's: a replay forgets exactly what
//! the first run forgot; where traces are spread, no more than a record to come may ask for.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use trace_model::{TenantId, TraceId, UnixNanos};

use super::config::{AggregatorConfig, nanos};
use super::digests::DigestWindow;
use super::open_trace::OpenTrace;
use crate::metrics::AggregatorMetrics;

/// A trace of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TraceKey {
    pub(super) tenant: TenantId,
    pub(super) trace_id: TraceId,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Next offset to take.
    pub(super) next: u64,
    /// The log's time: append time of the last batch.
    pub(super) now: UnixNanos,
    pub(super) digests: DigestWindow,
    open: FxHashMap<TraceKey, OpenTrace>,
    /// Traces by the second in which they were last known to be alive.
    by_second: BTreeMap<u64, Vec<TraceKey>>,
    bytes: usize,
}

const SECOND: u64 = 1_000_000_000;

const fn second_of(time: UnixNanos) -> u64 {
    time.0 / SECOND
}

impl Shard {
    /// Where the partition is read on, and a time before which nothing from there on was appended.
    pub(super) const fn place(&self) -> (u64, UnixNanos) {
        (self.next, self.now)
    }

    /// Moves the log's time on.
    pub(super) fn advance(&mut self, now: UnixNanos) {
        self.now = self.now.max(now);
    }

    /// Forgets what is too old at this time of the log, or too much. Gives up to when that was appended which
    /// was not too old.
    pub(super) fn forget(
        &mut self,
        now: UnixNanos,
        config: &AggregatorConfig,
        share: usize,
        metrics: &AggregatorMetrics,
    ) -> Option<UnixNanos> {
        let oldest = now.minus(nanos(config.digest_window));
        let mut early = self.digests.forget(oldest, config.digest_bytes_max / share.max(1));
        let quiet = second_of(now.minus(nanos(config.quiet_window)));
        while self.by_second.first_key_value().is_some_and(|(second, _)| *second < quiet) {
            self.close_oldest_second(metrics);
        }
        let bytes_max = config.open_bytes_max / share.max(1);
        while self.bytes > bytes_max && !self.open.is_empty() {
            let until =
                self.by_second.first_key_value().map(|(second, _)| UnixNanos(second * SECOND));
            let closed = self.close_oldest_second(metrics);
            metrics.evicted_traces.inc_by(u64::try_from(closed).unwrap_or(0));
            early = early.max(until.filter(|_| closed > 0));
        }
        early
    }

    /// Takes a trace out to work on a record of this time, new where it was not open or has become too
    /// old. The record may be of another partition, and older than what is here.
    pub(super) fn take(
        &mut self,
        key: &TraceKey,
        now: UnixNanos,
        config: &AggregatorConfig,
    ) -> OpenTrace {
        let Some(mut trace) = self.open.remove(key) else {
            self.by_second.entry(second_of(now)).or_default().push(key.clone());
            return OpenTrace::new(now);
        };
        self.bytes = self.bytes.saturating_sub(trace.bytes());
        if now.since(trace.first_seen) > nanos(config.trace_age_max) {
            // Its old entry in `by_second` serves the new one.
            trace = OpenTrace::new(now);
        }
        trace.last_seen = trace.last_seen.max(now);
        trace
    }

    /// Puts a trace back.
    pub(super) fn put(&mut self, key: TraceKey, trace: OpenTrace) {
        self.bytes = self.bytes.saturating_add(trace.bytes());
        self.open.insert(key, trace);
    }

    pub(super) fn open(&self) -> &FxHashMap<TraceKey, OpenTrace> {
        &self.open
    }

    /// Puts a trace of a checkpoint back.
    pub(super) fn restore(&mut self, key: TraceKey, trace: OpenTrace) {
        self.by_second.entry(second_of(trace.last_seen)).or_default().push(key.clone());
        self.put(key, trace);
    }

    /// Closes the traces of the oldest second; those that were alive since move to theirs. Whole
    /// seconds at a time, so that the order within one does not matter.
    fn close_oldest_second(&mut self, metrics: &AggregatorMetrics) -> usize {
        let Some((second, keys)) = self.by_second.pop_first() else { return 0 };
        let mut closed = 0_usize;
        for key in keys {
            let Some(trace) = self.open.get(&key) else { continue };
            let alive = second_of(trace.last_seen);
            if alive > second {
                self.by_second.entry(alive).or_default().push(key);
                continue;
            }
            let unjoined = u64::try_from(trace.unjoined()).unwrap_or(0);
            metrics.unjoined_spans.inc_by(unjoined);
            self.bytes = self.bytes.saturating_sub(trace.bytes());
            self.open.remove(&key);
            closed = closed.saturating_add(1);
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics_aggregator::services::ServiceId;

    fn key(byte: u8) -> TraceKey {
        TraceKey { tenant: TenantId::default(), trace_id: TraceId::from_bytes([byte; 16]).unwrap() }
    }

    fn seconds(seconds: u64) -> UnixNanos {
        UnixNanos(seconds * 1_000_000_000)
    }

    fn see(shard: &mut Shard, byte: u8, at: u64, config: &AggregatorConfig) -> usize {
        shard.advance(seconds(at));
        shard.forget(seconds(at), config, 1, &AggregatorMetrics::default());
        let mut trace = shard.take(&key(byte), seconds(at), config);
        trace.remember(at, at, ServiceId(1), 1);
        let spans = trace.spans().len();
        shard.put(key(byte), trace);
        spans
    }

    #[test]
    fn a_trace_stays_open_until_it_has_been_quiet_for_the_window() {
        let config = AggregatorConfig::default();
        let mut shard = Shard::default();
        assert_eq!(see(&mut shard, 1, 100, &config), 1);
        assert_eq!(see(&mut shard, 1, 120, &config), 2);
        assert_eq!(see(&mut shard, 1, 150, &config), 3);
        assert_eq!(see(&mut shard, 2, 182, &config), 1);
        assert_eq!((shard.open.len(), shard.by_second.len()), (1, 1));
        assert_eq!(see(&mut shard, 1, 183, &config), 1);
    }

    #[test]
    fn a_trace_that_never_rests_starts_anew_when_it_is_too_old() {
        let config =
            AggregatorConfig { trace_age_max: Duration::from_secs(60), ..Default::default() };
        let mut shard = Shard::default();
        let spans: Vec<_> =
            (0..8).map(|place| see(&mut shard, 1, 100 + place * 20, &config)).collect();
        assert_eq!(spans, [1, 2, 3, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn open_traces_are_bounded_and_the_quietest_go_first() {
        let config = AggregatorConfig { open_bytes_max: 1_000, ..Default::default() };
        let mut shard = Shard::default();
        for byte in 1..=20 {
            see(&mut shard, byte, 100 + u64::from(byte), &config);
            assert!(shard.bytes <= 1_000 + 300);
        }
        assert!(shard.open.contains_key(&key(20)) && !shard.open.contains_key(&key(1)));
    }
}
