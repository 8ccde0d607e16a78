//! The spans that a cell holds of one trace: live tail and stores, read so that nothing falls
//! between them.
//!
//! **Why there is no gap.** Let `c1` be what storage-writer had committed when the tail was read:
//! the tail gives every record from `c1` to its end. The store is read *after* it. Storage-writer
//! commits only what the store holds durably, and durable never shrinks, so the store's answer
//! holds every record below `c1` (and more, if a commit fell between the two reads: those records
//! come twice, and the merge is a set union). Read the other way round, a commit between the reads
//! would take records out of the tail that the store's answer did not hold yet.
//!
//! The argument rests on the store having what was committed. That is not believed but checked:
//! the tail says where it starts, and a partition's cover reaches to the tail's end only if the
//! store's cover reaches the tail's start. Otherwise (a store restored from an old backup, a lost
//! disk) only the store's own cover is claimed, and the certificate says what is missing.
//!
//! **A store that is away** hides nothing of what the tail has: the tail is given, and the answer says
//! that it lacks the store. It is never a whole one, whatever the covers say: also where the tail
//! begins with the log, the store may have spans of an earlier log.
//!
//! **A long trace** goes through in pieces: the tail with the first of the store's, then the others, each
//! read when its reader has taken the one before. The argument holds for each: they are all read after
//! the tail, and the cover is the first one's.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use trace_model::{Coverage, StoredSpan, TenantId, TimeRange, TraceId, TraceSpans, UnixNanos};
use trace_store::port::{RestOfTrace, StoreError, TracePieces, TraceRead};

use crate::losses::may_miss_spans;
use crate::port::{Lost, QuerierPorts, TailRead};
use crate::status::QuerierError;

/// What the cell has said of a trace, beside its spans.
#[derive(Clone, Debug)]
pub(crate) struct CellTrace {
    /// How many spans were given.
    pub(crate) spans: u64,
    /// How far the log is covered without a gap.
    pub(crate) covered: Coverage,
    /// A record or file that may belong to the trace could not be read.
    pub(crate) is_damaged: bool,
    /// Spans appended at or before this time may be gone by retention, of those that were asked
    /// about.
    pub(crate) expired_until: Option<UnixNanos>,
    /// The store, or a part of it, did not answer: these are the spans of the live tail and the rest.
    pub(crate) lacks_store: bool,
    /// Collectors that did not answer, by number.
    pub(crate) away: Vec<u32>,
}

/// How long the store is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreWait {
    /// Until then.
    Until(Instant),
    /// So long.
    For(Duration),
    /// Not at all: it let the same answer wait in vain.
    Never,
}

/// A trace whose reading has begun: the tail, and as much of the store as makes a piece.
#[derive(Debug)]
pub(crate) struct ReadingTrace {
    trace_id: TraceId,
    placed: Option<TimeRange>,
    tail: TailRead,
    lost: Lost,
    /// What the store has said so far, without the spans.
    stored: TraceRead,
    rest: Option<Box<dyn RestOfTrace>>,
    spans: u64,
    /// When the spans so far were received: the first and the last of them.
    received: Option<(UnixNanos, UnixNanos)>,
    is_store_silent: bool,
}

/// Reads a trace: the tail first, the store behind it. Gives the spans of the first piece; most traces
/// have no other. `placed`: between which times the asker knows its spans to be.
///
/// A store that is away, or does not answer in time, is no error: the answer says that it lacks it.
pub(crate) async fn find_trace(
    ports: &QuerierPorts,
    tenant: &TenantId,
    trace_id: TraceId,
    placed: Option<TimeRange>,
    store_wait: StoreWait,
) -> Result<(TraceSpans, ReadingTrace), QuerierError> {
    let mut tail = ports.tail.read_tail(tenant, trace_id).await?;
    let lost = ports.tail.lost();
    let pieces = from_store(store_wait, ports.traces.read_pieces(tenant, trace_id)).await?;
    let is_store_silent = pieces.is_none();
    let incarnation = tail.covered.incarnation;
    let pieces =
        pieces.unwrap_or_else(|| TracePieces { first: nothing_of(incarnation), rest: None });
    let TracePieces { first: mut stored, rest } = pieces;
    let mut found = std::mem::take(&mut stored.spans);
    found.append(&mut tail.spans);
    let mut reading = ReadingTrace {
        trace_id,
        placed,
        tail,
        lost,
        stored,
        rest,
        spans: 0,
        received: None,
        is_store_silent,
    };
    Ok((reading.take(found), reading))
}

impl ReadingTrace {
    /// Whether the store has given all that it has.
    pub(crate) const fn is_done(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether all of the store was silent: no use in asking it for the next trace of the same answer.
    pub(crate) const fn is_store_silent(&self) -> bool {
        self.is_store_silent
    }

    /// The spans of the next piece; none where all was read. One that the tail has as well comes again.
    pub(crate) async fn next_piece(
        &mut self,
        store_wait: StoreWait,
    ) -> Result<TraceSpans, QuerierError> {
        let Some(mut rest) = self.rest.take() else { return Ok(TraceSpans::new(self.trace_id)) };
        let piece = match from_store(store_wait, rest.next_piece()).await? {
            Some(Some(piece)) => piece,
            Some(None) => return Ok(TraceSpans::new(self.trace_id)),
            None => {
                self.is_store_silent = true;
                nothing_of(self.tail.covered.incarnation)
            }
        };
        if !self.is_store_silent {
            self.rest = Some(rest);
        }
        self.stored.is_damaged |= piece.is_damaged;
        self.stored.is_away |= piece.is_away;
        self.stored.expired_until = piece.expired_until.max(self.stored.expired_until);
        Ok(self.take(piece.spans))
    }

    /// Notes what is given.
    fn take(&mut self, found: Vec<StoredSpan>) -> TraceSpans {
        let mut spans = TraceSpans::new(self.trace_id);
        for span in found {
            spans.insert(span);
        }
        for span in spans.iter() {
            let at = span.envelope.receive_time;
            let (first, last) = self.received.unwrap_or((at, at));
            self.received = Some((first.min(at), last.max(at)));
        }
        self.spans = self.spans.saturating_add(spans.len() as u64);
        spans
    }

    /// What is said of the whole.
    pub(crate) fn said(&self, ports: &QuerierPorts) -> CellTrace {
        let Self { placed, tail, lost, stored, received, spans, .. } = self;
        // Asked behind the read: what was removed before that is known by now.
        let expired_until = stored.expired_until.and_then(|until| match placed {
            Some(range) => ports.traces.expired_within(*range, until),
            None => Some(until),
        });
        let is_damaged = tail.is_damaged || stored.is_damaged;
        CellTrace {
            spans: *spans,
            covered: join_covers(tail, &stored.covered),
            is_damaged: is_damaged || may_miss_spans(&lost.runs, *received),
            expired_until: expired_until.max(lost.expired_until),
            lacks_store: stored.is_away,
            away: tail.away.clone(),
        }
    }
}

/// What the store gives in its time; `None` where it is away.
async fn from_store<T>(
    wait: StoreWait,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<Option<T>, QuerierError> {
    let until = match wait {
        StoreWait::Until(until) => until,
        StoreWait::For(time) => Instant::now() + time,
        StoreWait::Never => return Ok(None),
    };
    let away = match timeout_at(until, asked).await {
        Ok(Ok(given)) => return Ok(Some(given)),
        Ok(Err(StoreError::Unavailable(reason))) => reason,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => "it did not answer in time".to_owned(),
    };
    tracing::warn!(reason = away, "the trace store is away: the live tail alone answers");
    Ok(None)
}

/// What is known of a store that is away.
fn nothing_of(incarnation: u64) -> TraceRead {
    TraceRead {
        spans: Vec::new(),
        covered: Coverage::none(incarnation),
        is_damaged: false,
        is_away: true,
        expired_until: None,
    }
}

/// The cover of both together. What the store covered of the log's earlier incarnations stays
/// beside it: the tail has nothing of those.
fn join_covers(tail: &TailRead, store: &Coverage) -> Coverage {
    let incarnation = tail.covered.incarnation;
    let mut covered = store.clone();
    covered.join(&Coverage::none(incarnation));
    for (partition, end) in &tail.covered.next {
        // Cover of another incarnation says nothing about this one's offsets.
        if store.next_in(incarnation, *partition) >= tail.from.next_in(incarnation, *partition) {
            covered.extend_in(incarnation, *partition, *end);
        }
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(incarnation: u64, next: &[(u32, u64)]) -> Coverage {
        Coverage { next: next.iter().copied().collect(), ..Coverage::none(incarnation) }
    }

    fn tail(from: &[(u32, u64)], covered: &[(u32, u64)]) -> TailRead {
        TailRead { from: cover(5, from), covered: cover(5, covered), ..TailRead::default() }
    }

    #[test]
    fn tail_and_store_that_meet_cover_to_the_tails_end() {
        let tail = tail(&[(0, 10), (1, 0)], &[(0, 30), (1, 4)]);
        for store in [10, 17, 30] {
            let covered = join_covers(&tail, &cover(5, &[(0, store)]));
            assert_eq!(covered, cover(5, &[(0, 30), (1, 4)]), "{store}");
        }
    }

    #[test]
    fn a_store_ahead_of_the_tail_counts_as_far_as_it_reaches() {
        let covered = join_covers(&tail(&[(0, 10)], &[(0, 30)]), &cover(5, &[(0, 44)]));
        assert_eq!(covered, cover(5, &[(0, 44)]));
    }

    #[test]
    fn a_gap_between_store_and_tail_is_not_covered_over() {
        let covered = join_covers(&tail(&[(0, 10)], &[(0, 30)]), &cover(5, &[(0, 9)]));
        assert_eq!(covered, cover(5, &[(0, 9)]));
    }

    #[test]
    fn a_store_of_an_older_incarnation_covers_that_one_and_nothing_of_this_log() {
        let old = cover(4, &[(0, 1_000)]);
        let both = |next: &[(u32, u64)]| {
            let mut both = cover(5, next);
            both.join(&old);
            both
        };
        assert_eq!(join_covers(&tail(&[(0, 10)], &[(0, 30)]), &old), both(&[]));
        assert_eq!(join_covers(&tail(&[(0, 0)], &[(0, 30)]), &old), both(&[(0, 30)]));
    }
}
