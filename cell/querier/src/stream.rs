//! Answers by trace id, as streams of frames: the last frame of a trace carries its summary.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use proto::convert::query::{FramePacker, InvalidMessage, id_bytes};
use proto::v1::{self, CellOutcome};
use tokio::time::Instant;
use tonic::Status;
use trace_model::{TimeRange, TraceId, TraceSpans};

use crate::answers::{Answer, Frames, bytes_of};
use crate::caller::{Access, Caller};
use crate::find_trace::{CellTrace, ReadingTrace, StoreWait, find_trace};
use crate::metrics::Query;
use crate::querier::Querier;
use crate::status::QuerierError;

/// Frames of an answer on the wire.
pub(crate) type FrameStream =
    Pin<Box<dyn Stream<Item = Result<v1::FindTraceResponse, Status>> + Send>>;

/// At most so long before the asker gives up, the store is no longer waited for.
const ANSWER_MARGIN_MAX: Duration = Duration::from_secs(1);
/// The second and later traces of an answer wait for the store so long: readers keep a pace.
const NEXT_STORE_WAIT_MAX: Duration = Duration::from_secs(2);

/// A trace that is asked for, and between which times the asker knows its spans to be.
#[derive(Clone, Copy, Debug)]
struct Asked {
    trace_id: TraceId,
    placed: Option<TimeRange>,
}

impl Asked {
    /// An empty range says as little as none.
    fn read(trace_id: &[u8], placed: Option<v1::TimeRange>) -> Result<Self, QuerierError> {
        let placed = placed.map(TimeRange::from).filter(|range| range.start < range.end);
        Ok(Self { trace_id: TraceId::try_from(trace_id).map_err(InvalidMessage::from)?, placed })
    }
}

/// An answer, and what is still to be read for it.
struct Reading {
    querier: Querier,
    caller: Caller,
    query: Query,
    answer: Answer,
    /// A trace of which pieces are to come, before the next one.
    begun: Option<ReadingTrace>,
    asked: std::vec::IntoIter<Asked>,
    limits: Limits,
}

/// Until when an answer is worked at.
#[derive(Clone, Copy, Debug)]
struct Limits {
    deadline: Instant,
    store_wait: StoreWait,
}

impl Limits {
    /// The store is waited for until shortly before the asker gives up: what the live tail has must
    /// reach it in time.
    fn new(deadline: Instant, time: Duration, first_frame_millis: u32) -> Self {
        let said = Duration::from_millis(first_frame_millis.into());
        let patience = if said.is_zero() { time } else { said.min(time) };
        let margin = (patience / 4).min(ANSWER_MARGIN_MAX);
        let begun = deadline.checked_sub(time).unwrap_or(deadline);
        Self { deadline, store_wait: StoreWait::Until(begun + patience.saturating_sub(margin)) }
    }

    /// What holds for what comes next in the same answer.
    fn after(self, read: Option<&ReadingTrace>) -> Self {
        let next = match read.is_some_and(|read| !read.is_done()) {
            // The asker has its first frame, and has been given enough to wait for more.
            true => StoreWait::Until(
                self.deadline.checked_sub(ANSWER_MARGIN_MAX).unwrap_or(self.deadline),
            ),
            false => StoreWait::For(NEXT_STORE_WAIT_MAX),
        };
        let is_silent = read.is_some_and(ReadingTrace::is_store_silent);
        let is_given_up = is_silent || self.store_wait == StoreWait::Never;
        Self { store_wait: if is_given_up { StoreWait::Never } else { next }, ..self }
    }
}

impl Querier {
    /// One trace: read before the answer begins, so that a failure is the call's.
    pub(crate) async fn stream_trace(
        &self,
        request: v1::FindTraceRequest,
        time: Duration,
    ) -> Result<FrameStream, QuerierError> {
        let caller = Caller::identify(request.caller)?;
        let asked = Asked::read(&request.trace_id, request.placed)?;
        let admitted = self.admit(time, request.is_miss_round)?;
        let limits = Limits::new(admitted.deadline, time, request.first_frame_millis);
        let answer = self.answers.begin(limits.deadline)?;
        let begun = self.begin_trace(&caller, asked, &answer, limits).await?;
        let limits = limits.after(begun.as_ref());
        self.count_answer(Query::FindTrace, caller.access(&self.config), &admitted);
        drop(admitted);
        let (querier, query) = (self.clone(), Query::FindTrace);
        let asked = Vec::new().into_iter();
        Ok(Reading { querier, caller, query, answer, begun, asked, limits }.into_stream())
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
        if !request.placed.is_empty() && request.placed.len() != request.trace_ids.len() {
            return Err(InvalidMessage::Missing("placed").into());
        }
        let placed = request.placed.into_iter().map(Some).chain(std::iter::repeat(None));
        let asked = request.trace_ids.iter().zip(placed);
        let asked = asked.map(|(id, placed)| Asked::read(id, placed));
        let asked = asked.collect::<Result<Vec<_>, _>>()?;
        let admitted = self.admit(time, false)?;
        let limits = Limits::new(admitted.deadline, time, request.first_frame_millis);
        let answer = self.answers.begin(limits.deadline)?;
        self.count_answer(Query::FindTraces, caller.access(&self.config), &admitted);
        drop(admitted);
        let (querier, query, begun) = (self.clone(), Query::FindTraces, None);
        let asked = asked.into_iter();
        Ok(Reading { querier, caller, query, answer, begun, asked, limits }.into_stream())
    }

    /// Reads a trace, or the first piece of a long one, and puts it out, unless the policy lets nothing
    /// out: then nothing is read either. The caller holds a place among the questions at work.
    async fn begin_trace(
        &self,
        caller: &Caller,
        asked: Asked,
        answer: &Answer,
        limits: Limits,
    ) -> Result<Option<ReadingTrace>, QuerierError> {
        let Asked { trace_id, placed } = asked;
        answer.begin_work();
        if caller.access(&self.config) == Access::Forbidden {
            answer.offer(last_frame(trace_id, self.forbidden()), 0)?;
            return Ok(None);
        }
        let read = find_trace(&self.ports, &caller.tenant, trace_id, placed, limits.store_wait);
        let timed = tokio::time::timeout_at(limits.deadline, read).await;
        let (spans, begun) = timed.unwrap_or(Err(QuerierError::Deadline))?;
        self.put_out(answer, spans, begun).map(Some)
    }

    /// Reads the next piece of a trace and puts it out. The caller holds a place among the questions at
    /// work.
    async fn go_on_with_trace(
        &self,
        mut begun: ReadingTrace,
        answer: &Answer,
        limits: Limits,
    ) -> Result<ReadingTrace, QuerierError> {
        answer.begin_work();
        let read = begun.next_piece(limits.store_wait);
        let timed = tokio::time::timeout_at(limits.deadline, read).await;
        let spans = timed.unwrap_or(Err(QuerierError::Deadline))?;
        self.put_out(answer, spans, begun)
    }

    /// Puts a piece out; with the last one goes what is said of the whole.
    fn put_out(
        &self,
        answer: &Answer,
        spans: TraceSpans,
        begun: ReadingTrace,
    ) -> Result<ReadingTrace, QuerierError> {
        let trace_id = spans.trace_id();
        self.metrics.spans.inc_by(spans.len() as u64);
        let bytes = bytes_of(&spans);
        let spans: Vec<_> = spans.into_spans().collect();
        let mut frames: Frames = Box::new(FramePacker::new(trace_id, spans.into_iter()));
        if begun.is_done() {
            let found = begun.said(&self.ports);
            self.metrics.answers_without_store.inc_by(found.lacks_store.into());
            frames = Box::new(frames.chain(last_frame(trace_id, self.summary_of(&found))));
        }
        answer.offer(frames, bytes)?;
        Ok(begun)
    }

    fn summary_of(&self, found: &CellTrace) -> v1::FindTraceSummary {
        v1::FindTraceSummary {
            outcome: CellOutcome::Answered.into(),
            coverage: Some((&found.covered).into()),
            span_count: found.spans,
            is_damaged: found.is_damaged || found.lacks_store,
            region: self.region_name(),
            expired_until_unix_nano: found.expired_until.map_or(0, |until| until.0),
            lacks_store: found.lacks_store,
            away_collectors: found.away.clone(),
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
            if let Some(begun) = self.begun.take().filter(|begun| !begun.is_done()) {
                let _place = self.querier.wait_for_place(self.limits.deadline).await?;
                let read = self.querier.go_on_with_trace(begun, &self.answer, self.limits);
                self.begun = Some(read.await?);
            } else {
                let Some(asked) = self.asked.next() else { return Ok(None) };
                let _place = self.querier.wait_for_place(self.limits.deadline).await?;
                let read = self.querier.begin_trace(&self.caller, asked, &self.answer, self.limits);
                self.begun = read.await?;
            }
            self.limits = self.limits.after(self.begun.as_ref());
        }
    }
}

/// The frame that ends a trace.
fn last_frame(trace_id: TraceId, summary: v1::FindTraceSummary) -> Frames {
    Box::new(std::iter::once(v1::FindTraceResponse {
        trace_id: id_bytes(trace_id),
        summary: Some(summary),
        ..v1::FindTraceResponse::default()
    }))
}
