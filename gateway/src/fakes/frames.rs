//! What a cell answers by trace id, in its manner.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proto::convert::query::{FramePacker, id_bytes};
use proto::v1;
use trace_model::{Coverage, TraceId};

use super::{FakeCell, INCARNATION, Manner, NOW, id, region, span};
use crate::port::{CellError, FrameStream};

impl FakeCell {
    fn frames(&self, trace_id: TraceId) -> Vec<Result<v1::FindTraceResponse, CellError>> {
        let manner = self.manner();
        let mut spans = self.spans.lock().unwrap().get(&trace_id).cloned().unwrap_or_default();
        let mut coverage = Coverage::none(INCARNATION);
        coverage.extend(0, spans.len() as u64);
        if manner == Manner::Behind && spans.pop().is_some() {
            coverage = Coverage::none(INCARNATION);
            coverage.extend(0, spans.len() as u64);
        }
        if manner == Manner::Expiring {
            spans.truncate(1);
        }
        if manner == Manner::Forbidding {
            spans.clear();
        }
        if manner == Manner::OtherRegionsSpans {
            spans.push(span(trace_id, 900, &region("elsewhere")));
        }
        let count = spans.len() as u64;
        let mut frames: Vec<_> = FramePacker::new(trace_id, spans.into_iter()).collect();
        let name =
            if manner == Manner::OtherRegionsName { "elsewhere" } else { self.region.as_str() };
        let outcome = match manner {
            Manner::Forbidding => v1::CellOutcome::Forbidden,
            _ => v1::CellOutcome::Answered,
        };
        frames.push(v1::FindTraceResponse {
            trace_id: id_bytes(trace_id),
            summary: Some(v1::FindTraceSummary {
                away_collectors: Vec::new(),
                outcome: outcome.into(),
                coverage: Some((&coverage).into()),
                span_count: if manner == Manner::Miscounting { count + 1 } else { count },
                is_damaged: matches!(manner, Manner::Damaged | Manner::LackingStore),
                lacks_store: manner == Manner::LackingStore,
                region: name.to_owned(),
                expired_until_unix_nano: if manner == Manner::Expiring { NOW.0 } else { 0 },
            }),
            ..v1::FindTraceResponse::default()
        });
        frames.into_iter().map(Ok).collect()
    }

    pub(super) fn stream(&self, trace_ids: &[TraceId]) -> FrameStream {
        let frames: Vec<_> = trace_ids.iter().flat_map(|id| self.frames(*id)).collect();
        let first = trace_ids[0];
        let one = self.one_frame(first, first);
        match self.manner() {
            Manner::HangingAfterAFrame => stream::iter([Ok(one)]).chain(stream::pending()).boxed(),
            Manner::ResetAfterAFrame => {
                let reset = CellError::Unavailable("reset".to_owned());
                stream::iter([Ok(one), Err(reset)]).boxed()
            }
            Manner::EndingWithoutSummary => stream::iter([Ok(one)]).boxed(),
            Manner::OtherTrace => stream::iter([Ok(self.one_frame(id(0xee), id(0xee)))]).boxed(),
            Manner::OtherTracesSpan => stream::iter([Ok(self.one_frame(first, id(0xee)))]).boxed(),
            Manner::Garbage => {
                let mut garbage = one;
                garbage.spans[0].span = Bytes::from_static(&[0xff; 40]);
                stream::iter([Ok(garbage)]).boxed()
            }
            Manner::Endless => stream::repeat_with(move || Ok(one.clone())).boxed(),
            Manner::EndlessEmptyFrames => {
                let empty = v1::FindTraceResponse { spans: vec![], ..one };
                stream::repeat_with(move || Ok(empty.clone())).boxed()
            }
            Manner::GoingOnAfterTheSummary => {
                stream::iter(frames).chain(stream::iter([Ok(one)])).boxed()
            }
            Manner::HangingAfterTheSummary => stream::iter(frames).chain(stream::pending()).boxed(),
            _ => stream::iter(frames).boxed(),
        }
    }

    fn one_frame(&self, trace_id: TraceId, spans_of: TraceId) -> v1::FindTraceResponse {
        let spans = std::iter::once(span(spans_of, 700, &self.region));
        let mut frame = FramePacker::new(trace_id, spans).next().unwrap();
        frame.trace_id = id_bytes(trace_id);
        frame
    }
}
