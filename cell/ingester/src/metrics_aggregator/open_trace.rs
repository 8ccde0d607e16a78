//! What is remembered of one trace that may still get spans: its spans (for duplicates and as
//! parents) and the spans that wait for their parent.

use rustc_hash::FxHashMap;
use trace_model::{SpanKind, UnixNanos};

use super::edges::Callee;
use super::services::ServiceId;

/// Up to so many entries are scanned; more get an index.
const SCANNED_MAX: usize = 32;
/// Estimated bytes of a trace, of one of its spans and of a waiting span, indexes included.
pub(super) const TRACE_BYTES: usize = 224;
pub(super) const SPAN_BYTES: usize = 40;
pub(super) const WAITING_BYTES: usize = 72;
/// No further span.
const END: u32 = u32::MAX;

/// A span that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenSpan {
    pub(super) span_id: u64,
    /// Hash of its content, kind included.
    pub(super) content: u64,
    pub(super) service: ServiceId,
    pub(super) kind: u8,
    /// Place of the next span with the same id, in the index's order.
    next: u32,
}

/// A span whose parent was not seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) parent: u64,
    /// It names no parent and serves: only the calling half of a span that both sides share (as
    /// Zipkin's do) is its caller.
    pub(super) is_half: bool,
    pub(super) callee: Callee,
}

#[derive(Debug)]
enum WaitingSpans {
    Few(Vec<Waiting>),
    Many(FxHashMap<u64, Vec<Waiting>>),
}

/// One open trace.
#[derive(Debug)]
pub(super) struct OpenTrace {
    pub(super) first_seen: UnixNanos,
    pub(super) last_seen: UnixNanos,
    spans: Vec<OpenSpan>,
    /// First span of an id; `None` while spans are few.
    index: Option<Box<FxHashMap<u64, u32>>>,
    waiting: WaitingSpans,
    waiting_count: usize,
}

impl OpenTrace {
    pub(super) const fn new(now: UnixNanos) -> Self {
        Self {
            first_seen: now,
            last_seen: now,
            spans: Vec::new(),
            index: None,
            waiting: WaitingSpans::Few(Vec::new()),
            waiting_count: 0,
        }
    }

    /// Bytes that count towards the limit: by numbers of entries, so that a replay counts the same.
    pub(super) const fn bytes(&self) -> usize {
        TRACE_BYTES
            .saturating_add(self.spans.len().saturating_mul(SPAN_BYTES))
            .saturating_add(self.waiting_count.saturating_mul(WAITING_BYTES))
    }

    pub(super) fn spans(&self) -> &[OpenSpan] {
        &self.spans
    }

    /// Whether this very span was seen.
    #[inline]
    pub(super) fn has(&self, span_id: u64, content: u64) -> bool {
        self.of_id(span_id).any(|span| span.content == content)
    }

    /// Remembers a span.
    #[inline]
    pub(super) fn remember(&mut self, span_id: u64, content: u64, service: ServiceId, kind: u8) {
        let place = u32::try_from(self.spans.len()).unwrap_or(END);
        let mut next = END;
        if let Some(index) = &mut self.index {
            next = index.insert(span_id, place).unwrap_or(END);
        }
        self.spans.push(OpenSpan { span_id, content, service, kind, next });
        if self.index.is_none() && self.spans.len() > SCANNED_MAX {
            self.build_index();
        }
    }

    /// The service that called a span of `callee`: that of the parent. Of several spans with the
    /// parent's id (both halves of a shared span) the callee's own service, then the serving half.
    pub(super) fn caller(&self, waiting: &Waiting) -> Option<ServiceId> {
        let callee = waiting.callee.service;
        let mut found: Option<&OpenSpan> = None;
        for span in self.of_id(waiting.parent) {
            let is_calling = span.kind == SpanKind::Client as u8 && span.service != callee;
            if waiting.is_half {
                if is_calling {
                    return Some(span.service);
                }
                continue;
            }
            if span.service == callee {
                return Some(callee);
            }
            let is_better =
                |held: &OpenSpan| span.kind == SpanKind::Server as u8 && held.kind != span.kind;
            if found.is_none_or(is_better) {
                found = Some(span);
            }
        }
        found.map(|span| span.service)
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting_count = self.waiting_count.saturating_add(1);
        match &mut self.waiting {
            WaitingSpans::Few(few) => {
                few.push(waiting);
                if few.len() > SCANNED_MAX {
                    let mut many: FxHashMap<u64, Vec<Waiting>> = FxHashMap::default();
                    for waiting in few.drain(..) {
                        many.entry(waiting.parent).or_default().push(waiting);
                    }
                    self.waiting = WaitingSpans::Many(many);
                }
            }
            WaitingSpans::Many(many) => many.entry(waiting.parent).or_default().push(waiting),
        }
    }

    /// Takes out the spans that wait for this one.
    #[inline]
    pub(super) fn take_waiting(&mut self, parent: u64, taken: &mut Vec<Waiting>) {
        if self.waiting_count == 0 {
            return;
        }
        let before = taken.len();
        match &mut self.waiting {
            WaitingSpans::Few(few) => {
                taken.extend(few.extract_if(.., |waiting| waiting.parent == parent));
            }
            WaitingSpans::Many(many) => taken.extend(many.remove(&parent).unwrap_or_default()),
        }
        let count = taken.len().saturating_sub(before);
        self.waiting_count = self.waiting_count.saturating_sub(count);
    }

    pub(super) const fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    /// The spans that wait, for the checkpoint. Those of one parent keep their order.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        match &self.waiting {
            WaitingSpans::Few(few) => few.clone(),
            WaitingSpans::Many(many) => many.values().flatten().copied().collect(),
        }
    }

    /// Spans that wait for a parent of which something is known (not for a shared half).
    pub(super) fn unjoined(&self) -> usize {
        match &self.waiting {
            WaitingSpans::Few(few) => few.iter().filter(|waiting| !waiting.is_half).count(),
            WaitingSpans::Many(many) => {
                many.values().flatten().filter(|waiting| !waiting.is_half).count()
            }
        }
    }

    #[inline]
    fn of_id(&self, span_id: u64) -> impl Iterator<Item = &OpenSpan> {
        let (scanned, mut place) = match &self.index {
            None => (self.spans.as_slice(), END),
            Some(index) => (&[][..], index.get(&span_id).copied().unwrap_or(END)),
        };
        let chained = std::iter::from_fn(move || {
            let span = self.spans.get(place as usize)?;
            place = span.next;
            Some(span)
        });
        scanned.iter().filter(move |span| span.span_id == span_id).chain(chained)
    }

    fn build_index(&mut self) {
        let mut index: FxHashMap<u64, u32> = FxHashMap::default();
        for (place, span) in (0_u32..).zip(&mut self.spans) {
            span.next = index.insert(span.span_id, place).unwrap_or(END);
        }
        self.index = Some(Box::new(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callee(service: u32) -> Callee {
        Callee {
            service: ServiceId(service),
            is_error: false,
            bucket: 0,
            duration_nanos: 1,
            weight: 1.0,
        }
    }

    fn waiting(parent: u64, service: u32) -> Waiting {
        Waiting { parent, is_half: false, callee: callee(service) }
    }

    #[test]
    fn a_large_trace_finds_spans_parents_and_waiting_children_as_a_small_one_does() {
        for size in [5_u64, 10_000] {
            let mut trace = OpenTrace::new(UnixNanos(1));
            for id in 1..=size {
                trace.remember(id, id * 7, ServiceId(1), 1);
                trace.wait(waiting(1_000_000 + id, 2));
            }
            assert!(trace.has(size, size * 7) && !trace.has(size, 1) && !trace.has(size + 1, 1));
            assert_eq!(trace.caller(&waiting(3, 2)), Some(ServiceId(1)));
            assert_eq!(trace.caller(&waiting(size + 1, 2)), None);
            let mut taken = Vec::new();
            trace.take_waiting(1_000_003, &mut taken);
            trace.take_waiting(1_000_003, &mut taken);
            assert_eq!(
                (taken.len(), trace.waiting().len()),
                (1, usize::try_from(size).unwrap() - 1)
            );
        }
    }

    #[test]
    fn a_span_that_both_sides_share_has_the_calling_half_as_its_caller() {
        let (client, server) = (SpanKind::Client as u8, SpanKind::Server as u8);
        let mut trace = OpenTrace::new(UnixNanos(1));
        trace.remember(9, 1, ServiceId(1), client);
        trace.remember(9, 2, ServiceId(2), server);
        let half = Waiting { parent: 9, is_half: true, callee: callee(2) };
        assert_eq!(trace.caller(&half), Some(ServiceId(1)));
        assert_eq!(trace.caller(&waiting(9, 2)), Some(ServiceId(2)));
        assert_eq!(trace.caller(&waiting(9, 3)), Some(ServiceId(2)));
    }
}
