//! The querier's metrics.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Which question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Query {
    FindTrace,
    FindTraces,
    SearchTraces,
    ListServices,
    ListOperations,
    ListEdges,
    FindEdgeTraces,
    Red,
    GetCellStatus,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Answered,
    Forbidden,
    Invalid,
    Refused,
    DeadlineExceeded,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueryLabels {
    pub(crate) query: Query,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    pub(crate) query: Query,
}

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct QuerierMetrics {
    pub(crate) queries: Family<QueryLabels, Counter>,
    pub(crate) duration: Family<DurationLabels, Histogram>,
    pub(crate) running: Gauge,
    pub(crate) outgoing_answers: Gauge,
    pub(crate) outgoing_bytes: Gauge,
    pub(crate) cut_answers: Counter,
    pub(crate) spans: Counter,
    pub(crate) answers_without_store: Counter,
}

impl QuerierMetrics {
    /// New metrics, registered.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queries: Family::default(),
            // 0.1 ms to 26 s.
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_1, 4.0, 10))
            }),
            running: Gauge::default(),
            outgoing_answers: Gauge::default(),
            outgoing_bytes: Gauge::default(),
            cut_answers: Counter::default(),
            spans: Counter::default(),
            answers_without_store: Counter::default(),
        };
        registry.register(
            "farspan_querier_queries",
            "Questions by kind and how they ended",
            metrics.queries.clone(),
        );
        registry.register(
            "farspan_querier_query_duration_seconds",
            "Time from a question to its first frame or answer",
            metrics.duration.clone(),
        );
        registry.register(
            "farspan_querier_running_queries",
            "Questions at work",
            metrics.running.clone(),
        );
        metrics.register_outgoing(registry);
        registry.register(
            "farspan_querier_spans",
            "Spans given back by trace id",
            metrics.spans.clone(),
        );
        registry.register(
            "farspan_querier_answers_without_store",
            "Traces answered by the live tail alone, since the trace store was away",
            metrics.answers_without_store.clone(),
        );
        metrics
    }

    fn register_outgoing(&self, registry: &mut Registry) {
        registry.register(
            "farspan_querier_outgoing_answers",
            "Answers by trace id whose reader has not taken all of it",
            self.outgoing_answers.clone(),
        );
        registry.register_with_unit(
            "farspan_querier_outgoing",
            "Memory of what these readers have not taken yet",
            Unit::Bytes,
            self.outgoing_bytes.clone(),
        );
        registry.register(
            "farspan_querier_cut_answers",
            "Answers cut, since their reader was too slow and others wanted the room",
            self.cut_answers.clone(),
        );
    }
}
