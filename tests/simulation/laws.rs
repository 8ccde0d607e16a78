//! The laws of an answer: complete or says what is missing, and never more than was sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gateway::{Freshness, SearchPage, Standing, TraceAnswer};
use span_log::SpanLog;
use trace_model::{
    Region, RegionOutcome, RegionReport, SpanId, TenantId, TraceId, UnixNanos, Verdict,
};

use crate::ledger::{Acknowledged, World};

/// A question, with what was true when it began.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) trace_id: TraceId,
    pub(crate) freshness: Freshness,
    /// Acknowledged before: what an answer may not hide.
    acknowledged: Acknowledged,
    /// Regions whose contribution the gateway's replica held before.
    indexed: BTreeSet<Region>,
    own: Region,
}

impl Question {
    pub(crate) fn begin(
        world: &World,
        own: Region,
        trace_id: TraceId,
        freshness: Freshness,
    ) -> Self {
        let indexed = world.indexed(&own, trace_id);
        Self { trace_id, freshness, acknowledged: world.acknowledged(trace_id), indexed, own }
    }

    /// Which law the answer breaks, if any.
    pub(crate) async fn judge(&self, world: &World, answer: &TraceAnswer) -> Result<(), String> {
        let held = self.held_once(world, answer)?;
        let is_complete = answer.certificate.verdict() == Verdict::Complete;
        for (region, report) in &answer.certificate.regions {
            self.nothing_hidden(region, report, &held)?;
            self.absence_is_true(world, region, report).await?;
            let must_answer = *region == self.own
                || self.indexed.contains(region)
                || self.freshness == Freshness::Now;
            if is_complete && must_answer && report.outcome != RegionOutcome::Answered {
                return Err(format!("complete, but {region} is {:?}", report.outcome));
            }
        }
        if is_complete && self.freshness == Freshness::Now {
            self.all_held(&held)?;
        }
        let is_absent = answer.standing() == Standing::NotFound;
        if is_absent && self.freshness == Freshness::Now && !self.acknowledged.is_empty() {
            return Err("not found, and yet acknowledged".to_owned());
        }
        Ok(())
    }

    /// Every span was sent as it is, to where it is said to be from, and is there once.
    fn held_once(
        &self,
        world: &World,
        answer: &TraceAnswer,
    ) -> Result<BTreeMap<SpanId, Bytes>, String> {
        let sent = world.sent(self.trace_id);
        let mut held = BTreeMap::new();
        for span in answer.spans.iter() {
            let span_id = span.key.span_id;
            let known = sent.get(&span_id).ok_or_else(|| format!("{span_id} was never sent"))?;
            if known.bytes != span.span {
                return Err(format!("{span_id} is not as it was sent"));
            }
            let region = &span.envelope.region;
            if !known.regions.contains(region) {
                return Err(format!("{span_id} was never sent to {region}"));
            }
            if !answer.certificate.regions.contains_key(region) {
                return Err(format!("{span_id} is from {region}, which the certificate lacks"));
            }
            if held.insert(span_id, span.span.clone()).is_some() {
                return Err(format!("{span_id} is there twice"));
            }
        }
        Ok(held)
    }

    /// A region that is called whole hides nothing that it had acknowledged, whatever the verdict
    /// over all.
    fn nothing_hidden(
        &self,
        region: &Region,
        report: &RegionReport,
        held: &BTreeMap<SpanId, Bytes>,
    ) -> Result<(), String> {
        if report.outcome != RegionOutcome::Answered || !report.is_whole() {
            return Ok(());
        }
        let hidden = self
            .acknowledged
            .iter()
            .find(|(span_id, regions)| regions.contains(region) && !held.contains_key(*span_id));
        hidden.map_or(Ok(()), |(span_id, _)| Err(format!("{region} is whole without {span_id}")))
    }

    /// Where the index alone says that a region holds nothing, nothing was appended there up to the
    /// watermark that is shown.
    async fn absence_is_true(
        &self,
        world: &World,
        region: &Region,
        report: &RegionReport,
    ) -> Result<(), String> {
        if report.outcome != RegionOutcome::Pruned || report.has_hole {
            return Ok(());
        }
        world.count(|figures| figures.pruned += 1);
        let as_of = report.watermark.ok_or("pruned without a watermark")?;
        match first_append(world, region, self.trace_id).await {
            Some(appended) if appended <= as_of => {
                Err(format!("{region} is pruned as of {as_of:?}, but held it at {appended:?}"))
            }
            _ => Ok(()),
        }
    }

    fn all_held(&self, held: &BTreeMap<SpanId, Bytes>) -> Result<(), String> {
        let hidden = self.acknowledged.keys().find(|span_id| !held.contains_key(*span_id));
        hidden.map_or(Ok(()), |span_id| Err(format!("complete without {span_id}")))
    }
}

/// Which law a search for everything breaks, if any: a region that is called whole found all that
/// its log took until the time that it shows, and until its watermark.
pub(crate) async fn judge_search(world: &World, page: &SearchPage) -> Result<(), String> {
    for (region, report) in &page.certificate.regions {
        if report.outcome != RegionOutcome::Answered || !report.is_whole() {
            continue;
        }
        let until = report.as_of.max(report.watermark).unwrap_or_default();
        let found = |trace_id: TraceId| {
            page.matches.iter().any(|one| one.trace_id == trace_id && one.regions.contains(region))
        };
        for trace_id in appended_until(world, region, until).await {
            if !found(trace_id) {
                return Err(format!("{region} is whole as of {until} without {trace_id}"));
            }
        }
    }
    Ok(())
}

/// Traces of which the region's log took a record until then.
async fn appended_until(world: &World, region: &Region, until: UnixNanos) -> BTreeSet<TraceId> {
    let Some(log) = world.log_of(region) else { return BTreeSet::new() };
    let batches = log.read(0, 0, usize::MAX).await.unwrap_or_default();
    let until = batches.iter().filter(|logged| logged.append_time <= until);
    until.flat_map(|logged| logged.batch.traces()).map(|trace| trace.trace_id).collect()
}

/// When the region's log took the first record of the trace.
async fn first_append(world: &World, region: &Region, trace_id: TraceId) -> Option<UnixNanos> {
    let batches = world.log_of(region)?.read(0, 0, usize::MAX).await.unwrap_or_default();
    let tenant = TenantId::default();
    let mut own = batches.iter().filter(|logged| logged.batch.source().tenant == tenant);
    let first =
        own.find(|logged| logged.batch.traces().iter().any(|trace| trace.trace_id == trace_id));
    first.map(|logged| logged.append_time)
}

/// Whether an answer is all that one can wish for: complete, and every acknowledged span in it.
pub(crate) fn is_whole(world: &World, trace_id: TraceId, answer: &TraceAnswer) -> bool {
    let held: BTreeSet<SpanId> = answer.spans.iter().map(|span| span.key.span_id).collect();
    let acknowledged: BTreeSet<SpanId> = world.acknowledged(trace_id).into_keys().collect();
    answer.certificate.verdict() == Verdict::Complete && held == acknowledged
}
