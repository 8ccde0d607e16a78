//! The metrics of what gateways share.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Where a value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum CachePlace {
    /// Within the process.
    Local,
    /// With all gateways of the region.
    #[cfg(feature = "redis")]
    Shared,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum ReadFate {
    Hit,
    Miss,
    #[cfg(feature = "redis")]
    Away,
}

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum FillFate {
    Stored,
    Discarded,
    #[cfg(feature = "redis")]
    Away,
}

/// What went wrong with the engine behind.
#[cfg(feature = "redis")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum StateFault {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    TimedOut,
    /// It answered with an error.
    Refused,
    /// What it gave back is no value of ours.
    Damaged,
}

/// Who decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum LimitKeeper {
    /// The counters of all gateways.
    Shared,
    /// This gateway alone, with its share: the counters were away.
    Own,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    place: CachePlace,
    outcome: ReadFate,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FillLabels {
    place: CachePlace,
    outcome: FillFate,
}

#[cfg(feature = "redis")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    kind: StateFault,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum LimitVerdict {
    Admitted,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    keeper: LimitKeeper,
    verdict: LimitVerdict,
}

/// What is counted of the shared state. A default one is registered nowhere.
#[derive(Clone, Debug, Default)]
pub struct SharedStateMetrics {
    reads: Family<ReadLabels, Counter>,
    fills: Family<FillLabels, Counter>,
    invalidations: Counter,
    flushes: Counter,
    #[cfg(feature = "redis")]
    faults: Family<FaultLabels, Counter>,
    connected: Gauge,
    limited: Family<LimitLabels, Counter>,
}

impl SharedStateMetrics {
    /// New metrics, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "farspan_gateway_cache_reads",
            "Reads of cached values, by where they were looked for and what was found",
            metrics.reads.clone(),
        );
        registry.register(
            "farspan_gateway_cache_fills",
            "Values to be kept, and whether they were: discarded is what changed meanwhile",
            metrics.fills.clone(),
        );
        registry.register(
            "farspan_gateway_cache_invalidations",
            "Keys dropped within the process because they changed",
            metrics.invalidations.clone(),
        );
        registry.register(
            "farspan_gateway_cache_flushes",
            "Times that everything within the process was dropped because changes may be missed",
            metrics.flushes.clone(),
        );
        #[cfg(feature = "redis")]
        registry.register(
            "farspan_gateway_shared_state_faults",
            "Calls to the shared state that failed; the question went on without it",
            metrics.faults.clone(),
        );
        registry.register(
            "farspan_gateway_shared_state_connected",
            "1 while the shared state answers; 0: nothing is cached, limits are this gateway's own",
            metrics.connected.clone(),
        );
        registry.register(
            "farspan_gateway_shared_limit_decisions",
            "Requests decided by the limit over all gateways, and by whose counters",
            metrics.limited.clone(),
        );
        metrics
    }

    pub(crate) fn count_read(&self, place: CachePlace, outcome: ReadFate) {
        self.reads.get_or_create(&ReadLabels { place, outcome }).inc();
    }

    pub(crate) fn count_fill(&self, place: CachePlace, outcome: FillFate) {
        self.fills.get_or_create(&FillLabels { place, outcome }).inc();
    }

    pub(crate) fn count_invalidation(&self) {
        self.invalidations.inc();
    }

    pub(crate) fn count_flush(&self) {
        self.flushes.inc();
    }

    #[cfg(feature = "redis")]
    pub(crate) fn count_fault(&self, kind: StateFault) {
        self.faults.get_or_create(&FaultLabels { kind }).inc();
    }

    #[cfg(feature = "redis")]
    pub(crate) fn set_connected(&self, is_connected: bool) {
        self.connected.set(i64::from(is_connected));
    }

    pub(crate) fn count_limited(&self, keeper: LimitKeeper, is_admitted: bool) {
        let verdict = if is_admitted { LimitVerdict::Admitted } else { LimitVerdict::Refused };
        self.limited.get_or_create(&LimitLabels { keeper, verdict }).inc();
    }
}
