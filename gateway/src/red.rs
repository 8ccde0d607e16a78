//! Rates, errors and durations over all regions, and the traces of a call: the counts of every cell
//! are added up and its sketches merged. Percentiles are read from merged sketches and never merged
//! themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::DurationSketch;
use proto::convert::index::OTHER_SERVICE;
use proto::v1;
use trace_model::{Certificate, Region, SpanKind, StatusCode, TraceEntry, TraceId, UnixNanos};

use crate::ask_all::{DECODED_FACTOR, Part, SKETCH_FACTOR, check, decoded_bytes};
use crate::config::QueryContext;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::pages::{Page, all_pages, check_page};
use crate::port::{Caller, CellError, EdgeTraceAsk, RedAsk};
use crate::region_read::SharedClient;
use crate::room::Held;

/// Cells count by minute.
pub(crate) const MINUTE_NANOS: u64 = 60_000_000_000;
/// Most minutes that a question may touch: a week.
pub(crate) const MINUTES_MAX: u64 = 7 * 24 * 60;

/// A question for rates, errors and durations.
#[derive(Clone, Debug)]
pub struct RedRequest {
    /// Which series.
    pub ask: RedAsk,
    /// Minutes that make one point.
    pub step_minutes: u64,
}

/// Which spans are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedSeries {
    /// The service.
    pub service: Arc<str>,
    /// The operation; `None` in the roll-up over operations.
    pub operation: Option<Arc<str>>,
    /// The kind.
    pub kind: SpanKind,
    /// The status.
    pub status: StatusCode,
}

/// What was counted of a series from a time on, for one step.
#[derive(Clone, Debug, Default)]
pub struct RedPoint {
    /// Spans seen.
    pub seen: u64,
    /// Spans estimated from head sampling.
    pub estimated: f64,
    /// Their durations in nanoseconds.
    pub durations: DurationSketch,
    /// A trace of the slowest part.
    pub exemplar: Option<TraceId>,
}

/// Rates, errors and durations over all regions.
#[derive(Clone, Debug)]
pub struct RedAnswer {
    /// Each series' points, by the start of their step.
    pub series: BTreeMap<RedSeries, BTreeMap<UnixNanos, RedPoint>>,
    /// What each region had to say.
    pub certificate: Certificate,
    /// The room that it takes.
    pub held: Held,
}

/// A trace in which one service calls another.
#[derive(Clone, Debug)]
pub struct EdgeTrace {
    /// The trace.
    pub trace_id: TraceId,
    /// The regions that counted the call: those that hold the calling span.
    pub regions: BTreeSet<Region>,
    /// What the index knows of the trace; without contributions where it knows nothing.
    pub entry: TraceEntry,
}

/// Traces of a call, from all regions.
#[derive(Clone, Debug)]
pub struct EdgeTraceAnswer {
    /// The traces; those of which the index knows the start newest first, the others behind them.
    pub traces: Vec<EdgeTrace>,
    /// What each region had to say.
    pub certificate: Certificate,
    /// The room that it takes.
    pub held: Held,
}

impl RedPoint {
    /// Adds what another region, or another minute, counted.
    fn merge(&mut self, other: &Self) {
        let slowest = |point: &Self| point.durations.quantile(1.0).unwrap_or(-1.0);
        if self.exemplar.is_none() || slowest(other) > slowest(self) {
            self.exemplar = other.exemplar.or(self.exemplar);
        }
        self.seen = self.seen.saturating_add(other.seen);
        self.estimated += other.estimated;
        self.durations.merge(&other.durations);
    }
}

impl Gateway {
    /// Rates, errors and durations over all regions.
    pub async fn red(
        &self,
        context: &QueryContext,
        request: &RedRequest,
    ) -> Result<RedAnswer, GatewayError> {
        let range = request.ask.range;
        let minutes = range.end.since(range.start).div_ceil(MINUTE_NANOS);
        check_limit("the minutes of the range", minutes, MINUTES_MAX)?;
        check_limit("the minutes of a step", request.step_minutes, MINUTES_MAX)?;
        let (caller, room) = (self.caller(context), &self.config.answer_room);
        let ask = |client: SharedClient, time: Duration| {
            let caller = caller.clone();
            async move {
                let page = |after, time| ask_page(&client, &caller, &request.ask, after, time);
                all_pages(room, (time, context.left().total), page).await
            }
        };
        let mut gathered = self.ask_all_within(context, |patience| patience.total, ask).await?;
        gathered.say_of_cut(&uncounted());
        let step = request.step_minutes.saturating_mul(MINUTE_NANOS).max(MINUTE_NANOS);
        let mut series: BTreeMap<RedSeries, BTreeMap<UnixNanos, RedPoint>> = BTreeMap::new();
        for (key, minute, point) in gathered.take_items() {
            let start = UnixNanos(minute.0.checked_div(step).unwrap_or(0).saturating_mul(step));
            series.entry(key).or_default().entry(start).or_default().merge(&point);
        }
        gathered.found_or_unproven(series.is_empty())?;
        Ok(RedAnswer { series, certificate: gathered.certificate, held: gathered.held })
    }

    /// Traces in which one service calls another.
    pub async fn edge_traces(
        &self,
        context: &QueryContext,
        ask: &EdgeTraceAsk,
    ) -> Result<EdgeTraceAnswer, GatewayError> {
        check_limit("limit", ask.limit as u64, self.config.search_limit_max as u64)?;
        let caller = self.caller(context);
        let asked = |client: SharedClient, time: Duration| {
            let caller = caller.clone();
            async move {
                let answer = client.edge_traces(&caller, ask, time).await?;
                let outcome = check(client.region(), &answer.region, answer.outcome())?;
                let bytes = decoded_bytes(&answer, DECODED_FACTOR);
                let items = read_ids(&answer, ask.limit)?;
                Ok(Part::new(outcome, items, answer.reach, bytes))
            }
        };
        // What the index knows of the traces is looked up behind it.
        let mut gathered = self.ask_all(&context.keeping_back(), asked).await?;
        gathered.say_of_cut(&format!(
            "it keeps fewer traces of a call than there were, or {}",
            uncounted()
        ));
        let mut found: BTreeMap<TraceId, BTreeSet<Region>> = BTreeMap::new();
        for (region, trace_ids) in std::mem::take(&mut gathered.parts) {
            for trace_id in trace_ids {
                found.entry(trace_id).or_default().insert(region.clone());
            }
        }
        gathered.found_or_unproven(found.is_empty())?;
        let mut traces = self.known_traces(context, found).await;
        let start = |trace: &EdgeTrace| trace.entry.summary().min_start;
        traces.sort_by_cached_key(|trace| (std::cmp::Reverse(start(trace)), trace.trace_id));
        traces.truncate(ask.limit);
        Ok(EdgeTraceAnswer { traces, certificate: gathered.certificate, held: gathered.held })
    }

    /// The traces with what the index knows of them.
    async fn known_traces(
        &self,
        context: &QueryContext,
        found: BTreeMap<TraceId, BTreeSet<Region>>,
    ) -> Vec<EdgeTrace> {
        let ids: Vec<TraceId> = found.keys().copied().collect();
        let looked_up = self.index.look_up(&context.tenant, &ids);
        let looked_up = tokio::time::timeout(context.left().first_frame, looked_up).await;
        let entries = match looked_up {
            Ok(Ok(known)) => known.entries,
            Ok(Err(_)) | Err(_) => {
                self.metrics.index_failures.inc();
                Vec::new()
            }
        };
        let mut entries = entries.into_iter();
        let known = |(trace_id, regions)| {
            let entry = entries.next().unwrap_or_default();
            EdgeTrace { trace_id, regions, entry }
        };
        found.into_iter().map(known).collect()
    }
}

/// What counts lack that are cut.
pub(crate) fn uncounted() -> String {
    format!("names beyond those that it counts are under {OTHER_SERVICE}")
}

fn check_limit(what: &'static str, number: u64, max: u64) -> Result<(), GatewayError> {
    if (1..=max).contains(&number) {
        return Ok(());
    }
    Err(GatewayError::OutOfLimits { what, min: 1, max })
}

/// A page of points, checked.
async fn ask_page(
    client: &SharedClient,
    caller: &Caller,
    ask: &RedAsk,
    after: Option<v1::RedPlace>,
    time: Duration,
) -> Result<Page<(RedSeries, UnixNanos, RedPoint), v1::RedPlace>, CellError> {
    let answer = client.red(caller, ask, after.clone(), time).await?;
    let places = answer.points.iter().map(v1::RedPlace::from);
    check_page(places, after.as_ref(), answer.next.as_ref())?;
    let outcome = check(client.region(), &answer.region, answer.outcome())?;
    let bytes = decoded_bytes(&answer, SKETCH_FACTOR);
    let items = answer.points.into_iter().map(|point| read_point(point, ask));
    let items = items.collect::<Result<_, _>>()?;
    let part = Part::new(outcome, items, answer.reach, bytes);
    Ok(Page { part, next: answer.next })
}

/// A point, if it answers the question.
fn read_point(
    point: v1::RedPoint,
    ask: &RedAsk,
) -> Result<(RedSeries, UnixNanos, RedPoint), CellError> {
    let invalid = |reason: &str| CellError::Invalid(reason.to_owned());
    let minute = UnixNanos(point.minute_unix_nano);
    let last = minute.plus(MINUTE_NANOS.saturating_sub(1));
    let is_minute = minute.0.is_multiple_of(MINUTE_NANOS);
    if !is_minute || !ask.range.overlaps(minute, last) {
        return Err(invalid("counts of another time than asked for"));
    }
    if ask.service.as_ref().is_some_and(|service| **service != *point.service) {
        return Err(invalid("counts of another service than asked for"));
    }
    let sketch = point.durations.map(|sketch| DurationSketch::from_bytes(&sketch.ddsketch));
    let durations = sketch.transpose().map_err(|error| CellError::Invalid(error.to_string()))?;
    let exemplar = match point.exemplar_trace_id.as_ref() {
        [] => None,
        bytes => Some(TraceId::try_from(bytes).map_err(|_| invalid("an exemplar that is no id"))?),
    };
    let series = RedSeries {
        service: point.service.into(),
        operation: ask.by_operation.then(|| point.operation.into()),
        kind: SpanKind::from_number(i32::try_from(point.kind).unwrap_or(0)),
        status: StatusCode::from_number(i32::try_from(point.status).unwrap_or(0)),
    };
    let counted = RedPoint {
        seen: point.seen,
        estimated: point.estimated,
        durations: durations.unwrap_or_default(),
        exemplar,
    };
    Ok((series, minute, counted))
}

fn read_ids(answer: &v1::FindEdgeTracesResponse, limit: usize) -> Result<Vec<TraceId>, CellError> {
    if answer.trace_ids.len() > limit {
        return Err(CellError::Invalid("more traces than were asked for".to_owned()));
    }
    let ids = answer.trace_ids.iter().map(|id| TraceId::try_from(id.as_ref()));
    ids.collect::<Result<_, _>>().map_err(|error| CellError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests;
