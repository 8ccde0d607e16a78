//! Search in what is written and not sealed yet: bounded by the size of a segment. A quick look
//! rules most spans out; only the rest are decoded.

use regex::bytes::Regex;
use rustc_hash::FxHashMap;
use trace_model::query::{Field, Filter};
use trace_model::time::place;
use trace_model::{AnyValue, ScopeContext, SearchQuery, SpanKind, StatusCode, UnixNanos};

use super::found::Found;
use super::leaf::{Test, leaf_of};
use super::pending::PendingBatch;
use super::state::{ErasedSet, is_erased};
use proto::{SpanBatch, SpanSlice};

/// Searches batches; gives the number of spans looked at.
pub(crate) fn scan(
    batches: &[PendingBatch],
    query: &SearchQuery,
    erased: &ErasedSet,
    found: &mut Found,
) -> u64 {
    let glance = Glance::new(&query.filter);
    let mut scanned = 0;
    for pending in batches {
        let batch = pending.logged.batch.as_ref();
        let source = batch.source();
        if source.tenant != query.tenant {
            continue;
        }
        let mut contexts = FxHashMap::default();
        for slice in pending.traces() {
            if is_erased(erased, &source.tenant, slice.trace_id) {
                continue;
            }
            for span in batch.spans_of(slice) {
                scanned += 1;
                let placed = place(span.start, span.end, source.receive_time).time;
                if query.range.contains(placed)
                    && glance.may_match(&query.filter, batch, span)
                    && matches(&query.filter, batch, span, &mut contexts)
                    && let Some(context) = batch.context_of(span)
                {
                    found.add(slice.trace_id, placed, &context.service, &source.region);
                }
            }
        }
    }
    scanned
}

type Contexts = FxHashMap<u32, Option<proto::decode::ReadContext>>;

fn matches(filter: &Filter, batch: &SpanBatch, span: &SpanSlice, contexts: &mut Contexts) -> bool {
    let context = contexts.entry(span.scope).or_insert_with(|| {
        batch.context_of(span).and_then(|context| proto::decode::read_context(context).ok())
    });
    let Some(context) = context else { return false };
    let read = proto::decode::read_span(batch.bytes_of(span), context);
    read.is_ok_and(|span| filter.matches(&span))
}

/// A verdict without decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    No,
    Maybe,
    Yes,
}

impl Verdict {
    const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Finders of the keys that the filter names.
struct Glance {
    keys: FxHashMap<String, Regex>,
}

impl Glance {
    fn new(filter: &Filter) -> Self {
        let mut keys = FxHashMap::default();
        collect_keys(filter, &mut keys);
        Self { keys }
    }

    fn may_match(&self, filter: &Filter, batch: &SpanBatch, span: &SpanSlice) -> bool {
        self.judge(filter, batch, span) != Verdict::No
    }

    fn judge(&self, filter: &Filter, batch: &SpanBatch, span: &SpanSlice) -> Verdict {
        match filter {
            Filter::All => Verdict::Yes,
            Filter::And(parts) => parts.iter().fold(Verdict::Yes, |verdict, part| match verdict {
                Verdict::No => Verdict::No,
                Verdict::Maybe | Verdict::Yes => min(verdict, self.judge(part, batch, span)),
            }),
            Filter::Or(parts) => parts.iter().fold(Verdict::No, |verdict, part| match verdict {
                Verdict::Yes => Verdict::Yes,
                Verdict::Maybe | Verdict::No => max(verdict, self.judge(part, batch, span)),
            }),
            Filter::Not(part) => match self.judge(part, batch, span) {
                Verdict::No => Verdict::Yes,
                Verdict::Maybe => Verdict::Maybe,
                Verdict::Yes => Verdict::No,
            },
            Filter::Compare { .. } | Filter::Matches { .. } | Filter::Exists(_) => leaf_of(filter)
                .map_or(Verdict::Maybe, |(field, test)| self.judge_leaf(field, test, batch, span)),
        }
    }

    fn judge_leaf(
        &self,
        field: &Field,
        test: Test<'_>,
        batch: &SpanBatch,
        span: &SpanSlice,
    ) -> Verdict {
        match field {
            Field::Service => Verdict::of(test.text(batch.service_of(span))),
            Field::Operation => Verdict::of(test.text(batch.name_of(span))),
            Field::Kind => {
                let kind = SpanKind::from_number(i32::from(span.kind));
                Verdict::of(test.word(kind as i64, kind.word()))
            }
            Field::Status => {
                let status = StatusCode::from_number(i32::from(span.status));
                Verdict::of(test.word(status as i64, status.word()))
            }
            Field::StatusMessage => Verdict::Maybe,
            Field::Duration => Verdict::of(test.value(&duration(span.start, span.end))),
            Field::Attribute { key, .. } => self.judge_attribute(key, batch, span),
        }
    }

    /// An attribute whose key stands nowhere in the bytes is not there.
    fn judge_attribute(&self, key: &str, batch: &SpanBatch, span: &SpanSlice) -> Verdict {
        let Some(finder) = self.keys.get(key) else { return Verdict::Maybe };
        let stands_in = |context: &ScopeContext| {
            finder.is_match(&context.resource) || finder.is_match(&context.scope)
        };
        let is_there = finder.is_match(batch.bytes_of(span))
            || batch.context_of(span).is_some_and(|context| stands_in(context));
        if is_there { Verdict::Maybe } else { Verdict::No }
    }
}

fn duration(start: UnixNanos, end: UnixNanos) -> AnyValue {
    AnyValue::Int(i64::try_from(end.since(start)).unwrap_or(i64::MAX))
}

const fn min(left: Verdict, right: Verdict) -> Verdict {
    match (left, right) {
        (Verdict::No, _) | (_, Verdict::No) => Verdict::No,
        (Verdict::Yes, Verdict::Yes) => Verdict::Yes,
        _ => Verdict::Maybe,
    }
}

const fn max(left: Verdict, right: Verdict) -> Verdict {
    match (left, right) {
        (Verdict::Yes, _) | (_, Verdict::Yes) => Verdict::Yes,
        (Verdict::No, Verdict::No) => Verdict::No,
        _ => Verdict::Maybe,
    }
}

fn collect_keys(filter: &Filter, keys: &mut FxHashMap<String, Regex>) {
    match filter {
        Filter::And(parts) | Filter::Or(parts) => {
            parts.iter().for_each(|part| collect_keys(part, keys));
        }
        Filter::Not(part) => collect_keys(part, keys),
        Filter::All | Filter::Compare { .. } | Filter::Matches { .. } | Filter::Exists(_) => {
            if let Some((Field::Attribute { key, .. }, _)) = leaf_of(filter)
                && let Ok(finder) = Regex::new(&regex::escape(key))
            {
                keys.insert(key.clone(), finder);
            }
        }
    }
}
