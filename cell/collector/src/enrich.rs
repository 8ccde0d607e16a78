//! The second stage: what we know about the spans beside what was sent.
//!
//! The envelope (tenant, region, collector, receive time, digest) stands once for the request. The
//! placement time is a pure function of a span and its receive time, so it is not stored: readers
//! compute it again, and what was sent is not touched.

use proto::BatchSource;
use trace_model::UnixNanos;
use trace_model::time::place;

use crate::validate::Validated;

/// Judged spans with their envelope.
#[derive(Debug)]
pub struct Enriched<'a> {
    /// The spans.
    pub validated: Validated<'a>,
    /// Their envelope.
    pub source: BatchSource,
    /// Spans whose own start cannot serve: placed at the receive time.
    pub placed_at_receive_time: u32,
}

/// Puts the envelope beside the spans and counts those whose start cannot be right.
#[must_use]
pub fn enrich(validated: Validated<'_>, source: BatchSource) -> Enriched<'_> {
    let received = source.receive_time;
    let misplaced = validated
        .spans
        .iter()
        .map(|span| (UnixNanos(span.header.start), UnixNanos(span.header.end)))
        .filter(|(start, end)| place(*start, *end, received).is_receive_time)
        .count();
    let placed_at_receive_time = u32::try_from(misplaced).unwrap_or(u32::MAX);
    Enriched { validated, source, placed_at_receive_time }
}
