//! Asking every reachable region the same at once: parts of those that answered, and a report of
//! each, those among them that the index knows and this gateway does not reach.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::convert::query::{missed_reason, optional_time, region_outcome};
use proto::v1;
use trace_model::completeness::Promise;
use trace_model::location::RegionState;
use trace_model::{Certificate, Region, RegionOutcome, RegionReport, Watermark, WriterId};

use crate::config::{Patience, QueryContext};
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::port::{CellError, IndexError};
use crate::region_read::SharedClient;
use crate::room::{Held, Share};

/// How much more memory a message takes than its bytes on the wire, about.
pub(crate) const DECODED_FACTOR: u64 = 2;
/// The same of sketches, whose bins lie packed on the wire.
pub(crate) const SKETCH_FACTOR: u64 = 8;

/// A checked part of an answer, from one region.
pub(crate) struct Part<T> {
    pub(crate) outcome: RegionOutcome,
    pub(crate) items: Vec<T>,
    /// How far into its log the region looked.
    pub(crate) reach: Option<v1::Reach>,
    /// About how much memory it takes, beside what has been taken.
    pub(crate) bytes: u64,
    /// What has been taken for it.
    pub(crate) taken: Option<Share>,
}

impl<T> Part<T> {
    /// A part for which nothing has been taken yet.
    pub(crate) const fn new(
        outcome: RegionOutcome,
        items: Vec<T>,
        reach: Option<v1::Reach>,
        bytes: u64,
    ) -> Self {
        Self { outcome, items, reach, bytes, taken: None }
    }
}

/// What all regions gave.
pub(crate) struct Gathered<T> {
    pub(crate) parts: Vec<(Region, Vec<T>)>,
    pub(crate) certificate: Certificate,
    pub(crate) held: Held,
}

impl<T> Gathered<T> {
    /// What was gathered, whoever gave it.
    pub(crate) fn take_items(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.parts).into_iter().flat_map(|(_, items)| items)
    }

    /// Says of answers that are cut what of.
    pub(crate) fn say_of_cut(&mut self, reason: &str) {
        let reports = self.certificate.regions.values_mut();
        for report in reports.filter(|report| report.is_cut && report.reason.is_none()) {
            report.reason = Some(reason.to_owned());
        }
    }

    /// Nothing found is never a stand-in for regions that failed.
    pub(crate) fn found_or_unproven(&self, is_empty: bool) -> Result<(), GatewayError> {
        if is_empty && self.certificate.has_failed_region() {
            return Err(GatewayError::Unproven(Box::new(self.certificate.clone())));
        }
        Ok(())
    }
}

impl Gateway {
    /// Asks every reachable region the same; `ask` is given how long it may take. What was promised is
    /// read before the cells are asked: it must not be younger than their answers.
    pub(crate) async fn ask_all<T, F>(
        &self,
        context: &QueryContext,
        ask: impl Fn(SharedClient, Duration) -> F,
    ) -> Result<Gathered<T>, GatewayError>
    where
        F: Future<Output = Result<Part<T>, CellError>>,
    {
        self.ask_all_within(context, |patience| patience.first_frame, ask).await
    }

    /// The same where an answer may take so long that begins in its time.
    pub(crate) async fn ask_all_within<T, F>(
        &self,
        context: &QueryContext,
        whole: fn(Patience) -> Duration,
        ask: impl Fn(SharedClient, Duration) -> F,
    ) -> Result<Gathered<T>, GatewayError>
    where
        F: Future<Output = Result<Part<T>, CellError>>,
    {
        let states = self.index_states(context).await;
        let (time, whole) = (context.left().first_frame, whole(context.left()));
        let mut share = self.admit(self.reader.clients.len())?;
        let admitted = share.bytes();
        let mut running = FuturesUnordered::new();
        for (region, client) in self.reader.clients.iter() {
            let asked = ask(Arc::clone(client), time);
            running.push(async move { (region, in_time(whole, asked).await) });
        }
        let (mut parts, mut certificate) = (Vec::new(), Certificate::default());
        while let Some((region, answer)) = running.next().await {
            let kept = answer
                .and_then(|part| share.grow(part.bytes).map(|()| part).map_err(CellError::from));
            match kept {
                Ok(part) => {
                    part.taken.into_iter().for_each(|taken| share.absorb(taken));
                    let state = states.iter().find(|state| state.region == *region);
                    certificate.add(report_reach(region, part.outcome, part.reach, state));
                    parts.push((region.clone(), part.items));
                }
                Err(error) => certificate.add(RegionReport {
                    reason: Some(error.to_string()),
                    ..RegionReport::new(region.clone(), error.outcome())
                }),
            }
        }
        share.shrink(admitted);
        // In the order of regions, not of their answers.
        parts.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.add_unreachable(states, &mut certificate);
        Ok(Gathered { parts, certificate, held: Held::from(share) })
    }

    /// What the index has of every region. Nothing where it does not answer: then it names and
    /// promises nothing, and the cells' own words count.
    pub(crate) async fn index_states(&self, context: &QueryContext) -> Vec<RegionState> {
        let asked = self.index.regions();
        let answer = tokio::time::timeout(context.index_time(), asked).await;
        let late = || IndexError::Unavailable("it did not answer in time".to_owned());
        match answer.unwrap_or_else(|_| Err(late())) {
            Ok(known) => known.regions,
            Err(error) => {
                tracing::warn!(%error, "the cells' own words count without the index");
                self.metrics.index_failures.inc();
                Vec::new()
            }
        }
    }

    /// Names the regions that the index knows and this gateway is not configured to reach.
    pub(crate) fn add_unreachable(&self, states: Vec<RegionState>, certificate: &mut Certificate) {
        for state in states {
            if !self.footing.reachable.contains(&state.region) {
                certificate.add(RegionReport {
                    reason: Some("not configured in this gateway".to_owned()),
                    ..RegionReport::new(state.region, RegionOutcome::Unavailable)
                });
            }
        }
    }
}

/// Lists and counts follow the log in steps of seconds. One that ends so shortly before the region's
/// published log is complete, as of its own time.
const STEP_NANOS: u64 = 30_000_000_000;

/// What a region's list or count amounts to, against what its index had published before it was asked.
fn report_reach(
    region: &Region,
    outcome: RegionOutcome,
    reach: Option<v1::Reach>,
    state: Option<&RegionState>,
) -> RegionReport {
    let reach = reach.unwrap_or_default();
    let watermark = state.and_then(|state| state.watermark.as_ref());
    let missed = missed_reason(&reach.missed_by);
    let is_missed = missed.is_some();
    let mut report = RegionReport {
        watermark: watermark.map(|watermark| watermark.as_of),
        covered: reach.coverage.map(Into::into),
        as_of: optional_time(reach.until_unix_nano),
        // A cell sets this one beside the other.
        is_cut: reach.is_cut && !is_missed,
        is_missed,
        reason: missed,
        ..RegionReport::new(region.clone(), outcome)
    };
    let Some(watermark) = watermark else { return with_a_time(report) };
    let is_in_step = report.as_of.is_some_and(|as_of| watermark.as_of.since(as_of) <= STEP_NANOS);
    if !is_in_step {
        report.promised = promises(watermark);
        report.forget_kept();
    }
    if !report.promised.is_empty() {
        return report;
    }
    // All that was published by then lies below what the region covers.
    let by_offsets = report.covered.is_some().then_some(watermark.as_of);
    report.as_of = report.as_of.or(by_offsets);
    with_a_time(report)
}

/// Of a region of which nobody knows how far its answer reaches, the answer is given and no more than
/// that is said: what it lacks may be anything.
fn with_a_time(report: RegionReport) -> RegionReport {
    if report.as_of.is_some() || report.outcome != RegionOutcome::Answered {
        return report;
    }
    let reason = Some("it does not say how far its answer reaches".to_owned());
    RegionReport { outcome: RegionOutcome::Unavailable, reason, ..report }
}

/// What a watermark promises of a whole log: everything below these offsets was acknowledged and
/// published. Its holes and the policy that may withhold do not matter here: offsets stay true.
pub(crate) fn promises(watermark: &Watermark) -> Vec<Promise> {
    let promise = |(partition, next): (&u32, &u64)| Promise {
        writer: WriterId {
            region: watermark.region.clone(),
            incarnation: watermark.incarnation,
            partition: *partition,
        },
        version: *next,
        last_append: watermark.as_of,
        min_start: None,
    };
    watermark.next.iter().map(promise).collect()
}

/// An answer within its time.
pub(crate) async fn in_time<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, CellError>>,
) -> Result<T, CellError> {
    let late = || CellError::TimedOut("no answer in time".to_owned());
    tokio::time::timeout(time, asked).await.unwrap_or_else(|_| Err(late()))
}

/// The outcome of an answer under the region's own name.
pub(crate) fn check(
    region: &Region,
    name: &str,
    outcome: v1::CellOutcome,
) -> Result<RegionOutcome, CellError> {
    check_name(region, name)?;
    region_outcome(outcome).map_err(|error| CellError::Invalid(error.to_string()))
}

/// Whether a region answers under its own name.
pub(crate) fn check_name(region: &Region, name: &str) -> Result<(), CellError> {
    if name == region.as_str() {
        return Ok(());
    }
    Err(CellError::Invalid("it answered under another region's name".to_owned()))
}

/// About how much memory a message takes.
pub(crate) fn decoded_bytes(message: &impl prost::Message, factor: u64) -> u64 {
    (message.encoded_len() as u64).saturating_mul(factor)
}
