//! Spans as they are kept and given back, and the union of what several places hold of one trace.
//!
//! The merge is a set union by [`SpanKey`] with a deterministic choice of the envelope: commutative,
//! associative and idempotent, so that stores, tails and regions can be asked in any order, any
//! number of times.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::ids::{SpanId, TraceId};
use crate::names::Region;
use crate::time::UnixNanos;

/// A resource and an instrumentation scope as they were sent, shared by many spans.
///
/// `resource` holds all fields of the OTLP `ResourceSpans` but its `scope_spans`, `scope` all
/// fields of the `ScopeSpans` but its `spans`, unknown fields included, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeContext {
    /// `ResourceSpans` without `scope_spans`.
    pub resource: Bytes,
    /// `ScopeSpans` without `spans`.
    pub scope: Bytes,
    /// `service.name` of the resource.
    pub service: Arc<str>,
}

/// What we know about a span beside what was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Envelope {
    /// When a collector received it: wall clock of that collector.
    pub receive_time: UnixNanos,
    /// The region that holds it.
    pub region: Region,
    /// The collector that received it.
    pub collector: Arc<str>,
}

/// What makes a span one span within its trace. Content leaves out the envelope: a span exported
/// twice is one; spans that share an id and differ are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanKey {
    /// The span id.
    pub span_id: SpanId,
    /// The OTLP kind.
    pub kind: u8,
    /// Hash of resource, scope and span bytes ([`content_hash`]).
    pub content: u64,
}

/// A span as it is kept and given back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredSpan {
    /// Its identity.
    pub key: SpanKey,
    /// The OTLP `Span` message as sent.
    pub span: Bytes,
    /// Its resource and scope.
    pub context: Arc<ScopeContext>,
    /// What we know beside it.
    pub envelope: Arc<Envelope>,
}

/// xxh3-64 over resource, scope and span, each with its length before it. Stable: it is compared
/// between processes and releases.
#[must_use]
pub fn content_hash(resource: &[u8], scope: &[u8], span: &[u8]) -> u64 {
    content_hash_in(context_hash(resource, scope), span)
}

/// The part of [`content_hash`] that spans of one scope share.
#[must_use]
pub fn context_hash(resource: &[u8], scope: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [resource, scope] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest()
}

/// [`content_hash`] from the scope's [`context_hash`]: one pass over the span.
#[must_use]
pub fn content_hash_in(context_hash: u64, span: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(span, context_hash)
}

/// The spans that are held of one trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpans {
    trace_id: TraceId,
    spans: BTreeMap<SpanKey, StoredSpan>,
}

impl TraceSpans {
    /// A trace of which nothing is held yet.
    #[must_use]
    pub const fn new(trace_id: TraceId) -> Self {
        Self { trace_id, spans: BTreeMap::new() }
    }

    /// The trace.
    #[must_use]
    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// Puts a span in. Of one span with two envelopes the lesser envelope stays (earliest receive
    /// time, then region, then collector). Says whether the span was new.
    pub fn insert(&mut self, span: StoredSpan) -> bool {
        match self.spans.entry(span.key) {
            Entry::Vacant(slot) => {
                slot.insert(span);
                true
            }
            Entry::Occupied(mut slot) => {
                if span < *slot.get() {
                    slot.insert(span);
                }
                false
            }
        }
    }

    /// The union with what another place holds.
    pub fn merge(&mut self, other: Self) {
        for span in other.spans.into_values() {
            self.insert(span);
        }
    }

    /// The spans, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &StoredSpan> {
        self.spans.values()
    }

    /// The spans, in the order of their keys.
    pub fn into_spans(self) -> impl Iterator<Item = StoredSpan> {
        self.spans.into_values()
    }

    /// How many spans are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn stored(id: u8, content: u8, time: u64, region: u8) -> StoredSpan {
        let region = Region::new(["a", "b"][usize::from(region)]).unwrap();
        let span = Bytes::from(vec![id, content]);
        let key = SpanKey {
            span_id: SpanId::from_bytes([id; 8]).unwrap(),
            kind: 1,
            content: content_hash(b"r", b"s", &span),
        };
        let context = Arc::new(ScopeContext {
            resource: Bytes::from_static(b"r"),
            scope: Bytes::from_static(b"s"),
            service: "web".into(),
        });
        let envelope = Envelope { receive_time: UnixNanos(time), region, collector: "c".into() };
        StoredSpan { key, span, context, envelope: Arc::new(envelope) }
    }

    fn spans() -> impl Strategy<Value = TraceSpans> {
        vec((1_u8..6, 0_u8..3, 0_u64..4, 0_u8..2), 0..12).prop_map(|rows| {
            let mut trace = TraceSpans::new(TraceId::from_bytes([9; 16]).unwrap());
            for (id, content, time, region) in rows {
                trace.insert(stored(id, content, time, region));
            }
            trace
        })
    }

    fn union(mut left: TraceSpans, right: &TraceSpans) -> TraceSpans {
        left.merge(right.clone());
        left
    }

    proptest! {
        #[test]
        fn merge_is_commutative_associative_and_idempotent(
            a in spans(), b in spans(), c in spans()
        ) {
            prop_assert_eq!(union(a.clone(), &b), union(b.clone(), &a));
            prop_assert_eq!(union(union(a.clone(), &b), &c), union(a.clone(), &union(b, &c)));
            prop_assert_eq!(union(a.clone(), &a), a);
        }
    }

    #[test]
    fn spans_that_share_an_id_and_differ_are_both_kept() {
        let mut trace = TraceSpans::new(TraceId::from_bytes([9; 16]).unwrap());
        assert!(trace.insert(stored(1, 0, 5, 0)));
        assert!(trace.insert(stored(1, 1, 5, 0)));
        assert!(!trace.insert(stored(1, 1, 3, 1)));
        assert_eq!(trace.len(), 2);
    }
}
