//! What the ingester counts of itself. Labels are groups and fixed words, never ids or texts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use span_log::GroupId;

use crate::border::skew::{SkewCollector, SkewSamples};

/// The group that a figure is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabel {
    group: &'static str,
}

impl From<GroupId> for GroupLabel {
    fn from(group: GroupId) -> Self {
        Self { group: group.0 }
    }
}

/// Figures of the runners, by group.
#[derive(Clone, Debug, Default)]
pub struct IngesterMetrics {
    /// Records not taken yet.
    pub lag_records: Family<GroupLabel, Gauge>,
    /// Age of the oldest record not taken yet.
    pub lag_seconds: Family<GroupLabel, Gauge<f64, AtomicU64>>,
    /// For how long it has failed without a success.
    pub failing_seconds: Family<GroupLabel, Gauge<f64, AtomicU64>>,
    /// Spans taken.
    pub spans: Family<GroupLabel, Counter>,
    /// Tries that failed in a way that may pass.
    pub retries: Family<GroupLabel, Counter>,
    /// Batches put into the dead letter.
    pub dead_letters: Family<GroupLabel, Counter>,
    /// Records set aside as damaged by the log.
    pub damaged_records: Family<GroupLabel, Counter>,
    /// Records that the log no longer kept.
    pub expired_records: Family<GroupLabel, Counter>,
    /// Records that the group will never read and its store lacks: damaged or no longer kept. What the
    /// log has noted as lost to all is not among them.
    pub missed_records: Family<GroupLabel, Counter>,
    /// Commits that the log refused or failed.
    pub commit_failures: Family<GroupLabel, Counter>,
    /// 1 while the group's runner is at work.
    pub running: Family<GroupLabel, Gauge>,
    /// 1 while another process reads the group and this one is ready to take over.
    pub standing_by: Family<GroupLabel, Gauge>,
    /// Panics, after each of which the group was made anew.
    pub panics: Family<GroupLabel, Counter>,
}

impl IngesterMetrics {
    /// Another process reads the group, or will: there is no lag of this one's.
    pub(crate) fn stand_by(&self, group: GroupId, failing: Duration) {
        let label = GroupLabel::from(group);
        self.failing_seconds.get_or_create(&label).set(failing.as_secs_f64());
        self.running.get_or_create(&label).set(0);
        self.standing_by.get_or_create(&label).set(1);
        self.lag_records.get_or_create(&label).set(0);
        self.lag_seconds.get_or_create(&label).set(0.0);
    }

    /// The group does not run here, and could not be started for so long.
    pub(crate) fn fail(&self, group: GroupId, failing: Duration) {
        let label = GroupLabel::from(group);
        self.running.get_or_create(&label).set(0);
        self.standing_by.get_or_create(&label).set(0);
        self.failing_seconds.get_or_create(&label).set(failing.as_secs_f64());
    }

    /// Adds all figures to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let mut put = |name: &str, help: &str, metric: &Family<GroupLabel, Counter>| {
            registry.register(format!("farspan_ingester_{name}"), help, metric.clone());
        };
        put("spans", "Spans taken by a consumer group", &self.spans);
        put("retries", "Tries of a consumer group that failed and are repeated", &self.retries);
        put("dead_letters", "Batches put into the dead letter", &self.dead_letters);
        put("damaged_records", "Records set aside as damaged", &self.damaged_records);
        put("expired_records", "Records that the log no longer kept", &self.expired_records);
        put(
            "missed_records",
            "Records that a consumer group will never read: the log lost them or let them go",
            &self.missed_records,
        );
        put("panics", "Panics of a consumer group, which was started again", &self.panics);
        put("commit_failures", "Commits of offsets that failed", &self.commit_failures);
        registry.register(
            "farspan_ingester_lag_records",
            "Records that a consumer group has not taken yet",
            self.lag_records.clone(),
        );
        registry.register(
            "farspan_ingester_lag_seconds",
            "Age of the oldest record that a consumer group has not taken yet",
            self.lag_seconds.clone(),
        );
        registry.register(
            "farspan_ingester_failing_seconds",
            "Time for which a consumer group has failed without a success; 0 while it does not",
            self.failing_seconds.clone(),
        );
        registry.register(
            "farspan_ingester_running_groups",
            "1 while the runner of a consumer group is at work",
            self.running.clone(),
        );
        registry.register(
            "farspan_ingester_standing_by_groups",
            "1 while another process reads a consumer group and this one is ready to take over",
            self.standing_by.clone(),
        );
    }
}

/// Figures of the metrics-aggregator.
#[derive(Clone, Debug, Default)]
pub struct AggregatorMetrics {
    /// Spans that were not counted again because their request or they themselves were seen.
    pub duplicate_spans: Counter,
    /// Spans counted under `__other__` because their service has too many operations a minute.
    pub overflow_operation_spans: Counter,
    /// Spans counted under `__other__` because there are too many services.
    pub overflow_service_spans: Counter,
    /// Spans whose parent never came while their trace was open: no edge is counted.
    pub unjoined_spans: Counter,
    /// Spans that were not remembered because their trace is too large.
    pub forgotten_spans: Counter,
    /// Traces closed early for want of memory.
    pub evicted_traces: Counter,
    /// Traces open.
    pub open_traces: Gauge,
    /// Edges counted across a region's border.
    pub cross_border_edges: Counter,
    /// Deltas applied.
    pub flushes: Counter,
    /// Bytes of the last whole checkpoint.
    pub checkpoint_bytes: Gauge,
}

impl AggregatorMetrics {
    /// Adds all figures to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let mut put = |name: &str, help: &str, metric: &Counter| {
            registry.register(format!("farspan_aggregator_{name}"), help, metric.clone());
        };
        put("duplicate_spans", "Spans not counted a second time", &self.duplicate_spans);
        put(
            "overflow_operation_spans",
            "Spans counted as __other__: too many operations",
            &self.overflow_operation_spans,
        );
        put(
            "overflow_service_spans",
            "Spans counted as __other__: too many services",
            &self.overflow_service_spans,
        );
        put("unjoined_spans", "Spans whose parent did not come in time", &self.unjoined_spans);
        put("forgotten_spans", "Spans of traces too large to keep", &self.forgotten_spans);
        put("evicted_traces", "Traces closed early for want of memory", &self.evicted_traces);
        put("cross_border_edges", "Calls counted across regions", &self.cross_border_edges);
        put("flushes", "Deltas applied to the metrics store", &self.flushes);
        registry.register(
            "farspan_aggregator_open_traces",
            "Traces that may still get spans",
            self.open_traces.clone(),
        );
        registry.register(
            "farspan_aggregator_checkpoint_bytes",
            "Size of the last whole checkpoint",
            self.checkpoint_bytes.clone(),
        );
    }
}

/// Figures of joining calls across borders, over all origins.
#[derive(Clone, Debug, Default)]
pub struct BorderMetrics {
    /// Calls whose edge was counted here.
    pub joined: Counter,
    /// Calls that had been counted before.
    pub repeated: Counter,
    /// Calls within one service: no edge.
    pub same_service: Counter,
    /// Calls whose parent did not come here in time. Most have it in a third region.
    pub dropped: Counter,
    /// Entry spans that came too late to be told from counted ones.
    pub late: Counter,
    /// Looks for a parent that failed and are made again.
    pub failed_looks: Counter,
    /// Traces read to find a parent.
    pub reads: Counter,
    /// Calls under way: waiting for a parent or being counted.
    pub pending: Gauge,
    /// How the clocks of the regions differ, by the calls that were counted.
    pub skew: SkewSamples,
}

impl BorderMetrics {
    /// Adds all figures to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let mut put = |name: &str, help: &str, metric: &Counter| {
            registry.register(format!("farspan_border_{name}"), help, metric.clone());
        };
        put("joined_calls", "Calls across regions counted here", &self.joined);
        put("repeated_calls", "Calls across regions that were counted before", &self.repeated);
        put("same_service_calls", "Calls across regions within a service", &self.same_service);
        put("dropped_calls", "Calls whose parent did not come here in time", &self.dropped);
        put("late_calls", "Calls that came too late to be counted", &self.late);
        put("failed_looks", "Looks for a parent that failed", &self.failed_looks);
        put("read_traces", "Traces read to find a parent", &self.reads);
        registry.register(
            "farspan_border_pending_calls",
            "Calls across regions under way",
            self.pending.clone(),
        );
        registry.register_collector(Box::new(SkewCollector(self.skew.clone())));
    }
}
