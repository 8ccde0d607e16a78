//! Answers by trace id, as streams of frames: the last frame of a trace carries its summary.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use proto::convert::query::{FramePacker, InvalidMessage, id_bytes};
use proto::v1::{self, CellOutcome};
use tokio::time::Instant;
use tonic::Status;
use trace_model::TraceId;

use crate::caller::{Access, Caller};
use crate::find_trace::{CellTrace, find_trace};
use crate::metrics::Query;
use crate::querier::{Admitted, Querier};
use crate::status::QuerierError;

/// Frames of an answer. The place that the question took goes with them, until the last is out.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<v1::FindTraceResponse, Status>> + Send>>;

impl Querier {
    /// One trace.
    pub(crate) async fn stream_trace(
        &self,
        request: v1::FindTraceRequest,
        time: Duration,
    ) -> Result<Frames, QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let trace_id = read_id(&request.trace_id)?;
        let admitted = self.admit(time, request.is_miss_round)?;
        let frames = self.read_frames(&caller, trace_id, admitted.deadline).await?;
        self.count_answer(Query::FindTrace, caller.access(&self.config), &admitted);
        Ok(hold(admitted, stream::iter(frames.map(Ok))))
    }

    /// Several traces, one after the other: the next is read when the one before is out.
    pub(crate) fn stream_traces(
        &self,
        request: v1::FindTracesRequest,
        time: Duration,
    ) -> Result<Frames, QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let max = self.config.traces_per_request_max;
        if request.trace_ids.is_empty() || request.trace_ids.len() > max {
            return Err(QuerierError::OutOfLimits { what: "trace_ids", min: 1, max });
        }
        let ids = request.trace_ids.iter().map(|id| read_id(id)).collect::<Result<Vec<_>, _>>()?;
        let admitted = self.admit(time, false)?;
        self.count_answer(Query::FindTraces, caller.access(&self.config), &admitted);
        let (querier, deadline) = (self.clone(), admitted.deadline);
        let frames = stream::iter(ids).then(move |trace_id| {
            let (querier, caller) = (querier.clone(), caller.clone());
            async move {
                let frames = querier.read_frames(&caller, trace_id, deadline).await;
                let frames = frames.map_err(|error| querier.refuse(Query::FindTraces, error))?;
                Ok::<_, Status>(stream::iter(frames.map(Ok)))
            }
        });
        Ok(hold(admitted, frames.try_flatten()))
    }

    /// Reads one trace, unless the policy lets nothing out: then nothing is read either.
    async fn read_frames(
        &self,
        caller: &Caller,
        trace_id: TraceId,
        deadline: Instant,
    ) -> Result<impl Iterator<Item = v1::FindTraceResponse> + Send + use<>, QuerierError> {
        if caller.access(&self.config) == Access::Forbidden {
            return Ok(pack(trace_id, None, self.forbidden()));
        }
        let read = find_trace(&self.ports, &caller.tenant, trace_id);
        let timed = tokio::time::timeout_at(deadline, read).await;
        let found = timed.unwrap_or(Err(QuerierError::Deadline))?;
        self.metrics.spans.inc_by(found.spans.len() as u64);
        let summary = self.summary_of(&found);
        Ok(pack(trace_id, Some(found), summary))
    }

    fn summary_of(&self, found: &CellTrace) -> v1::FindTraceSummary {
        v1::FindTraceSummary {
            outcome: CellOutcome::Answered.into(),
            coverage: Some((&found.covered).into()),
            span_count: found.spans.len() as u64,
            is_damaged: found.is_damaged,
            region: self.region_name(),
            expired_until_unix_nano: found.expired_until.map_or(0, |until| until.0),
        }
    }

    /// No spans, no coverage, no damage: all that a forbidden caller learns.
    fn forbidden(&self) -> v1::FindTraceSummary {
        v1::FindTraceSummary {
            outcome: CellOutcome::Forbidden.into(),
            region: self.region_name(),
            ..v1::FindTraceSummary::default()
        }
    }
}

fn read_id(bytes: &[u8]) -> Result<TraceId, QuerierError> {
    Ok(TraceId::try_from(bytes).map_err(InvalidMessage::from)?)
}

fn pack(
    trace_id: TraceId,
    found: Option<CellTrace>,
    summary: v1::FindTraceSummary,
) -> impl Iterator<Item = v1::FindTraceResponse> + Send {
    let last = v1::FindTraceResponse {
        trace_id: id_bytes(trace_id),
        summary: Some(summary),
        ..v1::FindTraceResponse::default()
    };
    let spans: Vec<_> = found.map(|found| found.spans.into_spans().collect()).unwrap_or_default();
    FramePacker::new(trace_id, spans.into_iter()).chain(std::iter::once(last))
}

fn hold(
    admitted: Admitted,
    frames: impl Stream<Item = Result<v1::FindTraceResponse, Status>> + Send + 'static,
) -> Frames {
    Box::pin(frames.inspect(move |_| {
        let _held: &Admitted = &admitted;
    }))
}
