//! One region's answer by trace id: read within its time and its limits, and believed only after it
//! was checked.
//!
//! The first frame has a deadline; after it the answer must keep a least pace, up to a total. What
//! came before a region went silent is kept, since each frame was checked by itself. What a region
//! sent before it talked nonsense is not: whoever lies once is not believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use proto::convert::query::{optional_time, region_outcome, unpack_frame};
use proto::v1;
use tokio::time::{Instant, timeout_at};
use trace_model::{Clock, Coverage, Region, RegionOutcome, StoredSpan, TraceId, UnixNanos};

use crate::config::Patience;
use crate::port::{CellClient, CellError, FrameStream, TraceAsk};
use crate::room::{AnswerRoom, Share};

/// What a region said of one trace.
#[derive(Clone, Debug, Default)]
pub struct RegionTrace {
    /// Its spans so far.
    pub spans: Vec<StoredSpan>,
    /// Its summary, once its last frame is in.
    pub summary: Option<RegionSummary>,
}

/// How a region summed its part up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSummary {
    /// What it let out.
    pub outcome: RegionOutcome,
    /// How far its stores and live tail reach.
    pub covered: Option<Coverage>,
    /// Damaged records may belong to the trace.
    pub is_damaged: bool,
    /// Its trace store did not answer.
    pub lacks_store: bool,
    /// Its collectors that did not answer, by number.
    pub away_collectors: Vec<u32>,
    /// Retention has removed spans that were appended at or before this time.
    pub expired_until: Option<UnixNanos>,
}

/// What a region said to a question.
#[derive(Clone, Debug, Default)]
pub struct RegionAnswer {
    /// By trace; traces without a summary were not finished.
    pub traces: BTreeMap<TraceId, RegionTrace>,
    /// Why it stopped before the end.
    pub failure: Option<CellError>,
    /// Time until its last byte.
    pub elapsed: Duration,
    /// The room that its spans take.
    pub(crate) held: Option<Arc<Share>>,
}

/// What one region may use up for one question.
#[derive(Clone, Debug)]
pub(crate) struct ReadLimits {
    pub(crate) patience: Patience,
    pub(crate) pace_bytes_per_second: u64,
    pub(crate) spans_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) room: AnswerRoom,
}

/// At the least pace, one frame of the usual size (256 KiB) is allowed this long.
const PACE_SLACK: Duration = Duration::from_secs(4);
/// What a span takes in memory beside its bytes: its keys, its places in a list and in the merge.
pub(crate) const SPAN_OVERHEAD_BYTES: u64 = 256;
/// How long the end of an answer is waited for behind its last summary: a peer sends both together.
const END_TIME_MAX: Duration = Duration::from_millis(100);
/// Frames without a span or a summary that are borne: none is ever needed.
const EMPTY_FRAMES_MAX: usize = 16;

/// Asks one region and reads its answer to the end, or to its limits.
pub(crate) async fn read_region(
    client: &dyn CellClient,
    ask: TraceAsk,
    limits: ReadLimits,
    clock: &dyn Clock,
) -> RegionAnswer {
    let started = clock.monotonic();
    let mut reading = Reading::new(client.region().clone(), &ask.trace_ids, limits);
    let failure = reading.read(client, ask).await.err();
    let (mut traces, mut share) = (reading.traces, reading.share);
    if matches!(failure, Some(CellError::Invalid(_))) {
        traces.clear();
        share.shrink(u64::MAX);
    }
    let elapsed = clock.monotonic().saturating_sub(started);
    RegionAnswer { traces, failure, elapsed, held: Some(Arc::new(share)) }
}

/// An answer in the reading.
struct Reading {
    region: Region,
    /// Traces whose summary is still to come, the next one last.
    expected: Vec<TraceId>,
    limits: ReadLimits,
    share: Share,
    traces: BTreeMap<TraceId, RegionTrace>,
    spans: usize,
    bytes: usize,
    empty_frames: usize,
}

impl Reading {
    fn new(region: Region, trace_ids: &[TraceId], limits: ReadLimits) -> Self {
        let expected = trace_ids.iter().rev().copied().collect();
        Self {
            region,
            expected,
            share: limits.room.share(),
            limits,
            traces: BTreeMap::new(),
            spans: 0,
            bytes: 0,
            empty_frames: 0,
        }
    }

    async fn read(&mut self, client: &dyn CellClient, ask: TraceAsk) -> Result<(), CellError> {
        let started = Instant::now();
        let total = started + self.limits.patience.total;
        let first = total.min(started + self.limits.patience.first_frame);
        let late = || CellError::TimedOut("no first frame in time".to_owned());
        let mut stream =
            timeout_at(first, client.find_traces(ask)).await.unwrap_or_else(|_| Err(late()))?;
        let frame = timeout_at(first, stream.next()).await.map_err(|_| late())?;
        self.take_next(frame)?;
        let paced_from = Instant::now();
        while !self.expected.is_empty() {
            let deadline = total.min(paced_from + self.paced_time());
            let slow = |_| CellError::TimedOut("the answer was too slow".to_owned());
            let frame = timeout_at(deadline, stream.next()).await.map_err(slow)?;
            self.take_next(frame)?;
        }
        self.check_end(stream, total.min(Instant::now() + END_TIME_MAX)).await
    }

    /// How long the bytes so far may have taken, with room for the next frame.
    fn paced_time(&self) -> Duration {
        let pace = self.limits.pace_bytes_per_second.max(1);
        let millis = (self.bytes as u64).saturating_mul(1_000) / pace;
        PACE_SLACK.saturating_add(Duration::from_millis(millis))
    }

    fn take_next(
        &mut self,
        frame: Option<Result<v1::FindTraceResponse, CellError>>,
    ) -> Result<(), CellError> {
        let frame = frame.ok_or_else(|| invalid("the answer ended without a summary"))??;
        self.take_frame(frame)
    }

    fn take_frame(&mut self, mut frame: v1::FindTraceResponse) -> Result<(), CellError> {
        let trace_id = *self.expected.last().ok_or_else(|| invalid("more than was asked for"))?;
        let summary = frame.summary.take();
        self.charge(&frame, summary.is_some())?;
        let spans = unpack_frame(frame, trace_id).map_err(|error| invalid(&error.to_string()))?;
        if spans.iter().any(|span| span.envelope.region != self.region) {
            return Err(invalid("a span that another region holds"));
        }
        let trace = self.traces.entry(trace_id).or_default();
        trace.spans.extend(spans);
        if let Some(summary) = summary {
            let count = trace.spans.len() as u64;
            trace.summary = Some(check_summary(&self.region, &summary, count)?);
            self.expected.pop();
        }
        Ok(())
    }

    /// Counts a frame against the limits, and takes room for it, before it is unpacked.
    fn charge(
        &mut self,
        frame: &v1::FindTraceResponse,
        has_summary: bool,
    ) -> Result<(), CellError> {
        let spans: usize = frame.spans.iter().map(|span| span.span.len()).sum();
        let scopes: usize = frame.scopes.iter().map(|scope| scope.scope.len()).sum();
        let resources: usize = frame.resources.iter().map(|resource| resource.len()).sum();
        let bytes = spans.saturating_add(scopes).saturating_add(resources);
        self.bytes = self.bytes.saturating_add(bytes);
        self.spans = self.spans.saturating_add(frame.spans.len());
        if frame.spans.is_empty() && !has_summary {
            self.empty_frames = self.empty_frames.saturating_add(1);
        }
        let (spans_max, bytes_max) = (self.limits.spans_max, self.limits.bytes_max);
        if self.spans > spans_max {
            return Err(invalid(&format!("more than {spans_max} spans")));
        }
        if self.bytes > bytes_max {
            return Err(invalid(&format!("more than {bytes_max} bytes")));
        }
        if self.empty_frames > EMPTY_FRAMES_MAX {
            return Err(invalid("frames without content"));
        }
        let overhead = (frame.spans.len() as u64).saturating_mul(SPAN_OVERHEAD_BYTES);
        let cost = (bytes as u64).saturating_add(overhead);
        Ok(self.share.grow(cost)?)
    }

    /// After the last summary the stream must end: a frame behind it is a lie about the whole.
    async fn check_end(&self, mut stream: FrameStream, by: Instant) -> Result<(), CellError> {
        match timeout_at(by, stream.next()).await {
            Ok(Some(Ok(_))) => Err(invalid("more than was asked for")),
            // All that was promised is here; how the connection ended does not change it.
            Ok(None | Some(Err(_))) | Err(_) => Ok(()),
        }
    }
}

fn check_summary(
    region: &Region,
    summary: &v1::FindTraceSummary,
    spans: u64,
) -> Result<RegionSummary, CellError> {
    if summary.region != region.as_str() {
        return Err(invalid("it answered under another region's name"));
    }
    let outcome = region_outcome(summary.outcome()).map_err(|error| invalid(&error.to_string()))?;
    if summary.span_count != spans {
        return Err(invalid("it counted other spans than it sent"));
    }
    if outcome == RegionOutcome::Forbidden && spans > 0 {
        return Err(invalid("it forbids what it sent"));
    }
    Ok(RegionSummary {
        outcome,
        covered: summary.coverage.clone().map(Coverage::from),
        // A cell that lacks its store sets both.
        is_damaged: summary.is_damaged && !summary.lacks_store,
        lacks_store: summary.lacks_store,
        away_collectors: summary.away_collectors.clone(),
        expired_until: optional_time(summary.expired_until_unix_nano),
    })
}

fn invalid(reason: &str) -> CellError {
    CellError::Invalid(reason.to_owned())
}

/// The region's client, shared by the questions of a gateway.
pub(crate) type SharedClient = Arc<dyn CellClient>;
