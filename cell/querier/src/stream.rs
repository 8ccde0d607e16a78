//! Answers by trace id, as streams of frames: the last frame of a trace carries its summary.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use proto::convert::query::{FramePacker, InvalidMessage, id_bytes};
use proto::v1::{self, CellOutcome};
use tokio::time::Instant;
use tonic::Status;
use trace_model::TraceId;

use crate::answers::{Answer, Frames, bytes_of};
use crate::caller::{Access, Caller};
use crate::find_trace::{CellTrace, find_trace};
use crate::metrics::Query;
use crate::querier::Querier;
use crate::status::QuerierError;

/// Frames of an answer on the wire.
pub(crate) type FrameStream =
    Pin<Box<dyn Stream<Item = Result<v1::FindTraceResponse, Status>> + Send>>;

/// An answer, and what is still to be read for it.
struct Reading {
    querier: Querier,
    caller: Caller,
    query: Query,
    answer: Answer,
    ids: std::vec::IntoIter<TraceId>,
    deadline: Instant,
}

impl Querier {
    /// One trace: read before the answer begins, so that a failure is the call's.
    pub(crate) async fn stream_trace(
        &self,
        request: v1::FindTraceRequest,
        time: Duration,
    ) -> Result<FrameStream, QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let trace_id = read_id(&request.trace_id)?;
        let admitted = self.admit(time, request.is_miss_round)?;
        let deadline = admitted.deadline;
        let answer = self.answers.begin(deadline)?;
        self.read(&caller, trace_id, &answer, deadline).await?;
        self.count_answer(Query::FindTrace, caller.access(&self.config), &admitted);
        drop(admitted);
        let (querier, query) = (self.clone(), Query::FindTrace);
        let ids = Vec::new().into_iter();
        Ok(Reading { querier, caller, query, answer, ids, deadline }.into_stream())
    }

    /// Several traces, one after the other: the next is read when the one before is out. Between
    /// them, while it is the reader's turn, no place among the questions at work is held.
    pub(crate) fn stream_traces(
        &self,
        request: v1::FindTracesRequest,
        time: Duration,
    ) -> Result<FrameStream, QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let max = self.config.traces_per_request_max;
        if request.trace_ids.is_empty() || request.trace_ids.len() > max {
            return Err(QuerierError::OutOfLimits { what: "trace_ids", min: 1, max });
        }
        let ids = request.trace_ids.iter().map(|id| read_id(id)).collect::<Result<Vec<_>, _>>()?;
        let admitted = self.admit(time, false)?;
        let deadline = admitted.deadline;
        let answer = self.answers.begin(deadline)?;
        self.count_answer(Query::FindTraces, caller.access(&self.config), &admitted);
        drop(admitted);
        let (querier, query, ids) = (self.clone(), Query::FindTraces, ids.into_iter());
        Ok(Reading { querier, caller, query, answer, ids, deadline }.into_stream())
    }

    /// Reads one trace and puts it out, unless the policy lets nothing out: then nothing is read
    /// either. The caller holds a place among the questions at work.
    async fn read(
        &self,
        caller: &Caller,
        trace_id: TraceId,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<(), QuerierError> {
        answer.begin_work();
        if caller.access(&self.config) == Access::Forbidden {
            return answer.offer(pack(trace_id, None, self.forbidden()), 0);
        }
        let read = find_trace(&self.ports, &caller.tenant, trace_id);
        let timed = tokio::time::timeout_at(deadline, read).await;
        let found = timed.unwrap_or(Err(QuerierError::Deadline))?;
        self.metrics.spans.inc_by(found.spans.len() as u64);
        let (summary, bytes) = (self.summary_of(&found), bytes_of(&found.spans));
        answer.offer(pack(trace_id, Some(found), summary), bytes)
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

impl Reading {
    fn into_stream(self) -> FrameStream {
        Box::pin(stream::try_unfold(self, |mut reading| async move {
            match reading.next_frame().await {
                Ok(frame) => Ok(frame.map(|frame| (frame, reading))),
                Err(error) => Err(reading.querier.refuse(reading.query, error)),
            }
        }))
    }

    async fn next_frame(&mut self) -> Result<Option<v1::FindTraceResponse>, QuerierError> {
        loop {
            if let Some(frame) = self.answer.next_frame()? {
                return Ok(Some(frame));
            }
            let Some(trace_id) = self.ids.next() else { return Ok(None) };
            let _place = self.querier.wait_for_place(self.deadline).await?;
            self.querier.read(&self.caller, trace_id, &self.answer, self.deadline).await?;
        }
    }
}

fn read_id(bytes: &[u8]) -> Result<TraceId, QuerierError> {
    Ok(TraceId::try_from(bytes).map_err(InvalidMessage::from)?)
}

fn pack(trace_id: TraceId, found: Option<CellTrace>, summary: v1::FindTraceSummary) -> Frames {
    let last = v1::FindTraceResponse {
        trace_id: id_bytes(trace_id),
        summary: Some(summary),
        ..v1::FindTraceResponse::default()
    };
    let spans: Vec<_> = found.map(|found| found.spans.into_spans().collect()).unwrap_or_default();
    Box::new(FramePacker::new(trace_id, spans.into_iter()).chain(std::iter::once(last)))
}
