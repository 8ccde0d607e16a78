//! Search in what is written and not sealed yet: bounded by the size of a segment. A quick look
//! rules most spans out; only the rest are decoded.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::bytes::Regex;
use rustc_hash::FxHashMap;
use trace_model::query::{Field, Filter};
use trace_model::time::place;
use trace_model::{
    AnyValue, Region, ScopeContext, SearchQuery, SpanKind, StatusCode, TimeRange, TraceId,
    UnixNanos,
};

use super::leaf::{Test, leaf_of};
use super::pending::PendingBatch;
use super::state::{ErasedSet, is_erased};
use crate::StoreError;
use crate::questions::GoOn;
use proto::{SpanBatch, SpanSlice};

/// Called for each span that matches: trace, placement time, service, region.
pub(crate) type Note<'a> = &'a mut dyn FnMut(TraceId, UnixNanos, &Arc<str>, &Region);

/// A question that batches are searched for.
pub(crate) struct Scanner<'a> {
    query: &'a SearchQuery,
    erased: &'a ErasedSet,
    glance: Glance,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(query: &'a SearchQuery, erased: &'a ErasedSet) -> Self {
        Self { query, erased, glance: Glance::new(&query.filter) }
    }

    /// Searches a batch, or only some of its traces; gives the number of spans looked at.
    pub(crate) fn scan(
        &self,
        pending: &PendingBatch,
        range: TimeRange,
        only: Option<&BTreeSet<TraceId>>,
        go_on: GoOn<'_>,
        note: Note<'_>,
    ) -> Result<u64, StoreError> {
        let batch = pending.logged.batch.as_ref();
        let source = batch.source();
        if source.tenant != self.query.tenant {
            return Ok(0);
        }
        let filter = &self.query.filter;
        let mut scanned = 0;
        let mut contexts = FxHashMap::default();
        for slice in pending.traces() {
            go_on()?;
            let is_meant = only.is_none_or(|only| only.contains(&slice.trace_id));
            if !is_meant || is_erased(self.erased, &source.tenant, slice.trace_id) {
                continue;
            }
            for span in batch.spans_of(slice) {
                scanned += 1;
                let placed = place(span.start, span.end, source.receive_time).time;
                if range.contains(placed)
                    && self.glance.may_match(filter, batch, span)
                    && matches(filter, batch, span, &mut contexts)
                    && let Some(context) = batch.context_of(span)
                {
                    note(slice.trace_id, placed, &context.service, &source.region);
                }
            }
        }
        Ok(scanned)
    }
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
