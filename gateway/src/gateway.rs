//! The gateway, and the way of a question for a trace:
//! identify → route → fan out → merge → assemble → certify.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prometheus_client::registry::Registry;
use proto::convert::query::FRAME_BYTES_TARGET;
use trace_model::{Clock, Region, TraceId, TraceSpans};

use crate::assembled::TraceAnswer;
use crate::certify::certify;
use crate::config::{Freshness, GatewayConfig, Patience, QueryContext};
use crate::error::GatewayError;
use crate::examples::Examples;
use crate::fan_out::{RegionAsk, fan_out};
use crate::metrics::{GatewayMetrics, RoundKind};
use crate::miss_rounds::{MissRounds, Seat, TokenBucket};
use crate::port::{Caller, CellClient, IndexError, LookUp, MetadataIndex};
use crate::region_read::{ReadLimits, RegionAnswer, SharedClient};
use crate::room::{Held, Share};
use crate::route::{Footing, Plan, route};
use crate::shared_state::SharedState;

/// The gateway of one region. Stateless but for its budgets; share it by `Arc`.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) footing: Footing,
    pub(crate) index: Arc<dyn MetadataIndex>,
    pub(crate) reader: RegionReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) shared: SharedState,
    /// What the page shows.
    pub(crate) examples: Examples,
    miss_rounds: MissRounds,
    miss_budget: TokenBucket,
}

/// What asks cells; cloned into rounds that outlive a single question.
#[derive(Clone, Debug)]
pub(crate) struct RegionReader {
    pub(crate) clients: Arc<BTreeMap<Region, SharedClient>>,
    clock: Arc<dyn Clock>,
    limits: ReadLimits,
    metrics: GatewayMetrics,
}

impl Gateway {
    /// A gateway over these ports; its metrics go into the registry. Of two clients for one region
    /// the last counts.
    pub fn new(
        config: GatewayConfig,
        index: Arc<dyn MetadataIndex>,
        cells: Vec<Arc<dyn CellClient>>,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Self {
        let metrics = GatewayMetrics::register(registry, &config.answer_room);
        let clients: BTreeMap<Region, SharedClient> =
            cells.into_iter().map(|cell| (cell.region().clone(), cell)).collect();
        let footing = Footing {
            own: config.region.clone(),
            reachable: clients.keys().cloned().collect(),
            unindexed: config.unindexed.clone(),
        };
        let limits = ReadLimits {
            patience: config.patience,
            pace_bytes_per_second: config.pace_bytes_per_second,
            spans_max: config.region_spans_max,
            bytes_max: config.region_bytes_max,
            room: config.answer_room.clone(),
        };
        let (rate, burst) = (config.miss_rounds_per_second, config.miss_rounds_burst);
        Self {
            footing,
            index,
            reader: RegionReader {
                clients: Arc::new(clients),
                clock: Arc::clone(&clock),
                limits,
                metrics: metrics.clone(),
            },
            miss_rounds: MissRounds::default(),
            miss_budget: TokenBucket::new(rate, burst, Arc::clone(&clock)),
            clock,
            metrics,
            shared: SharedState::default(),
            examples: Examples::default(),
            config,
        }
    }

    /// With what it shares with other gateways of its region.
    #[must_use]
    pub fn with_shared_state(self, shared: SharedState) -> Self {
        Self { shared, ..self }
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// The wall clock of this gateway.
    #[must_use]
    pub fn now(&self) -> trace_model::UnixNanos {
        self.clock.now()
    }

    /// The spans of a trace from every region that holds a part, and how complete they are. Nothing
    /// found is an answer too: [`TraceAnswer::standing`] says what it proves.
    pub async fn find_trace(
        &self,
        context: &QueryContext,
        trace_id: TraceId,
    ) -> Result<Arc<TraceAnswer>, GatewayError> {
        let plan = self.plan(context, trace_id).await?;
        let answer = if plan.has_miss_round() {
            self.find_by_round(context, trace_id, plan).await?
        } else {
            let _room = self.admit(plan.asked.len())?;
            let caller = self.caller(context);
            Arc::new(self.reader.find_planned(&caller, context.left(), trace_id, plan).await)
        };
        self.metrics.count_answer(&answer);
        Ok(answer)
    }

    /// Several traces at once: look-ups and fan-out are shared. In the order asked. Meant for ids
    /// that were found, not guessed: they take nothing from the budget of unknown traces.
    pub(crate) async fn find_found(
        &self,
        context: &QueryContext,
        trace_ids: &[TraceId],
    ) -> Result<Vec<TraceAnswer>, GatewayError> {
        let look_up = self.look_up(context, trace_ids).await?;
        let plans: Vec<(TraceId, Plan)> = trace_ids
            .iter()
            .enumerate()
            .map(|(place, trace_id)| (*trace_id, self.route(context, look_up.as_ref(), place)))
            .collect();
        let _room = self.admit(self.reader.clients.len())?;
        let caller = self.caller(context);
        let answers = self.reader.find_many(&caller, context.left(), plans).await;
        answers.iter().for_each(|answer| self.metrics.count_answer(answer));
        Ok(answers)
    }

    /// Room for the beginning of an answer of each region, as long as the question runs: where there
    /// is none, it is refused before anyone is asked.
    pub(crate) fn admit(&self, regions: usize) -> Result<Share, GatewayError> {
        let bytes = (regions as u64).saturating_mul(FRAME_BYTES_TARGET as u64);
        Ok(self.config.answer_room.take(bytes)?)
    }

    pub(crate) fn caller(&self, context: &QueryContext) -> Caller {
        Caller { tenant: context.tenant.clone(), region: self.config.region.clone() }
    }

    async fn plan(&self, context: &QueryContext, trace_id: TraceId) -> Result<Plan, GatewayError> {
        let look_up = self.look_up(context, &[trace_id]).await?;
        Ok(self.route(context, look_up.as_ref(), 0))
    }

    /// What the index knows; `None` where it did not answer and the question can do without it.
    async fn look_up(
        &self,
        context: &QueryContext,
        trace_ids: &[TraceId],
    ) -> Result<Option<LookUp>, GatewayError> {
        let asked = self.index.look_up(&context.tenant, trace_ids);
        let answer = tokio::time::timeout(context.index_time(), asked).await;
        let late = || IndexError::Unavailable("it did not answer in time".to_owned());
        match answer.unwrap_or_else(|_| Err(late())) {
            Ok(look_up) if look_up.entries.len() == trace_ids.len() => Ok(Some(look_up)),
            Ok(_) => Err(IndexError::Invalid("other entries than asked for".to_owned()).into()),
            Err(error) if context.freshness == Freshness::Index => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "every region is asked without the index");
                self.metrics.index_failures.inc();
                Ok(None)
            }
        }
    }

    fn route(&self, context: &QueryContext, look_up: Option<&LookUp>, place: usize) -> Plan {
        let known = look_up.and_then(|look_up| {
            let entry = look_up.entries.get(place)?;
            Some((entry, look_up.regions.as_slice()))
        });
        route(&self.footing, known, context.freshness)
    }

    /// A round to every region that may hold the trace: shared where one is about to begin, paid
    /// from the budget otherwise.
    async fn find_by_round(
        &self,
        context: &QueryContext,
        trace_id: TraceId,
        plan: Plan,
    ) -> Result<Arc<TraceAnswer>, GatewayError> {
        let key = (context.tenant.clone(), trace_id);
        let patience = context.patience();
        if let Seat::Shared(round) = self.miss_rounds.find_seat(&key, &patience) {
            self.metrics.count_round(RoundKind::Shared);
            return Ok(round.await);
        }
        if !self.miss_budget.try_take() {
            self.metrics.count_round(RoundKind::Refused);
            return Err(GatewayError::MissBudget);
        }
        let room = self.admit(plan.asked.len())?;
        self.metrics.count_round(RoundKind::Own);
        let (reader, caller) = (self.reader.clone(), self.caller(context));
        let asked = context.clone();
        let work = async move {
            let _room = room;
            reader.find_planned(&caller, asked.left(), trace_id, plan).await
        };
        Ok(self.miss_rounds.begin(key, patience, work).await)
    }
}

impl RegionReader {
    async fn find_planned(
        &self,
        caller: &Caller,
        patience: Patience,
        trace_id: TraceId,
        plan: Plan,
    ) -> TraceAnswer {
        let plans = vec![(trace_id, plan)];
        let mut answers = self.find_many(caller, patience, plans).await;
        answers.pop().unwrap_or_else(|| TraceAnswer {
            spans: TraceSpans::new(trace_id),
            certificate: trace_model::Certificate::default(),
            held: Held::default(),
        })
    }

    /// Fan out, merge and certify for several plans: each region gets one question.
    pub(crate) async fn find_many(
        &self,
        caller: &Caller,
        patience: Patience,
        plans: Vec<(TraceId, Plan)>,
    ) -> Vec<TraceAnswer> {
        let asks = group_by_region(&plans);
        let limits = ReadLimits { patience, ..self.limits.clone() };
        let mut answers = fan_out(&self.clients, asks, caller, limits, &self.clock).await;
        self.metrics.count_regions(&answers);
        plans
            .iter()
            .map(|(trace_id, plan)| {
                let certificate = certify(plan, &answers, *trace_id);
                let (spans, held) = merge(&mut answers, *trace_id);
                TraceAnswer { spans, certificate, held }
            })
            .collect()
    }
}

/// One question for each region, with all traces that it is asked for, each once.
fn group_by_region(plans: &[(TraceId, Plan)]) -> BTreeMap<Region, RegionAsk> {
    let mut asks: BTreeMap<Region, RegionAsk> = BTreeMap::new();
    let mut seen: BTreeSet<(&Region, TraceId)> = BTreeSet::new();
    for (trace_id, plan) in plans {
        for (region, asked) in &plan.asked {
            if !seen.insert((region, *trace_id)) {
                continue;
            }
            let ask = asks.entry(region.clone()).or_default();
            ask.trace_ids.push(*trace_id);
            ask.placed.push(asked.placed);
            // A single guess makes the question one of guesses only when it is alone.
            ask.is_miss_round = asked.is_miss_round && plans.len() == 1;
        }
    }
    asks
}

/// The union of what all regions sent of one trace, and the room that their answers take.
fn merge(answers: &mut BTreeMap<Region, RegionAnswer>, trace_id: TraceId) -> (TraceSpans, Held) {
    let (mut spans, mut held) = (TraceSpans::new(trace_id), Held::default());
    for answer in answers.values_mut() {
        let Some(trace) = answer.traces.get_mut(&trace_id) else { continue };
        answer.held.iter().for_each(|share| held.hold(Arc::clone(share)));
        for span in trace.spans.drain(..) {
            spans.insert(span);
        }
    }
    (spans, held)
}
