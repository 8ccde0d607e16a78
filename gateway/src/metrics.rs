//! The gateway's metrics.

mod shared_state;

use std::collections::BTreeMap;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use trace_model::{Region, RegionOutcome, Verdict};

use crate::assembled::{Standing, TraceAnswer};
use crate::region_read::RegionAnswer;
use crate::room::AnswerRoom;

pub use shared_state::SharedStateMetrics;
#[cfg(feature = "redis")]
pub(crate) use shared_state::StateFault;
pub(crate) use shared_state::{CachePlace, FillFate, LimitKeeper, ReadFate};

/// How a round for an unknown trace was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RoundKind {
    Own,
    Shared,
    Refused,
}

/// What an answer by trace id amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum AnswerKind {
    Complete,
    Partial,
    NotFound,
    Unproven,
}

/// Why an HTTP request was refused before it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RefusedBy {
    Address,
    /// The address, over all gateways of the region.
    SharedAddress,
    Load,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RoundLabels {
    kind: RoundKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AnswerLabels {
    kind: AnswerKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabels {
    by: RefusedBy,
}

/// Regions are as many as the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RegionLabels {
    region: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RegionTimeLabels {
    region: String,
}

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct GatewayMetrics {
    answers: Family<AnswerLabels, Counter>,
    rounds: Family<RoundLabels, Counter>,
    regions: Family<RegionLabels, Counter>,
    region_time: Family<RegionTimeLabels, Histogram>,
    refused: Family<RefusedLabels, Counter>,
    pub(crate) index_failures: Counter,
    pub(crate) running: Gauge,
    pub(crate) connections: Gauge,
}

impl GatewayMetrics {
    /// New metrics, registered.
    pub(crate) fn register(registry: &mut Registry, room: &AnswerRoom) -> Self {
        let metrics = Self {
            answers: Family::default(),
            rounds: Family::default(),
            regions: Family::default(),
            // 1 ms to 32 s.
            region_time: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
            refused: Family::default(),
            index_failures: Counter::default(),
            running: Gauge::default(),
            connections: Gauge::default(),
        };
        metrics.register_all(registry);
        register_room(registry, room);
        metrics
    }

    fn register_all(&self, registry: &mut Registry) {
        registry.register(
            "farspan_gateway_traces",
            "Answers by trace id and how complete they are",
            self.answers.clone(),
        );
        registry.register(
            "farspan_gateway_miss_rounds",
            "Rounds to every region for traces that the index does not know",
            self.rounds.clone(),
        );
        registry.register(
            "farspan_gateway_region_answers",
            "What each region made of questions by trace id",
            self.regions.clone(),
        );
        registry.register(
            "farspan_gateway_region_answer_duration_seconds",
            "Time until a region's last byte",
            self.region_time.clone(),
        );
        registry.register(
            "farspan_gateway_refused_requests",
            "HTTP requests refused by a limit",
            self.refused.clone(),
        );
        registry.register(
            "farspan_gateway_index_failures",
            "Questions asked without the index because it did not answer",
            self.index_failures.clone(),
        );
        registry.register(
            "farspan_gateway_running_requests",
            "HTTP requests being answered",
            self.running.clone(),
        );
        registry.register(
            "farspan_gateway_open_connections",
            "HTTP connections",
            self.connections.clone(),
        );
    }

    pub(crate) fn count_answer(&self, answer: &TraceAnswer) {
        let kind = match (answer.standing(), answer.certificate.verdict()) {
            (Standing::Found, Verdict::Complete) => AnswerKind::Complete,
            (Standing::Found, Verdict::Partial) => AnswerKind::Partial,
            (Standing::NotFound, _) => AnswerKind::NotFound,
            (Standing::Unproven, _) => AnswerKind::Unproven,
        };
        self.answers.get_or_create(&AnswerLabels { kind }).inc();
    }

    pub(crate) fn count_round(&self, kind: RoundKind) {
        self.rounds.get_or_create(&RoundLabels { kind }).inc();
    }

    pub(crate) fn count_refused(&self, by: RefusedBy) {
        self.refused.get_or_create(&RefusedLabels { by }).inc();
    }

    pub(crate) fn count_regions(&self, answers: &BTreeMap<Region, RegionAnswer>) {
        for (region, answer) in answers {
            let failed = answer.failure.as_ref().map(crate::port::CellError::outcome);
            let outcome = failed.unwrap_or(RegionOutcome::Answered).word();
            let region = region.as_str().to_owned();
            self.region_time
                .get_or_create(&RegionTimeLabels { region: region.clone() })
                .observe(answer.elapsed.as_secs_f64());
            self.regions.get_or_create(&RegionLabels { region, outcome }).inc();
        }
    }
}

fn register_room(registry: &mut Registry, room: &AnswerRoom) {
    let (used, refused) = room.figures();
    registry.register("farspan_gateway_answer_bytes", "Bytes held for answers", used);
    let max = Gauge::<i64>::default();
    max.set(i64::try_from(room.bytes_max()).unwrap_or(i64::MAX));
    registry.register(
        "farspan_gateway_answer_max_bytes",
        "Bytes that may be held for answers",
        max,
    );
    registry.register(
        "farspan_gateway_answers_without_room",
        "Questions refused and regions cut off because the memory for answers was used up",
        refused,
    );
}
