//! Cuts the spans of a trace into batches, each of which can be read by itself. Pure.

use scylla::value::MaybeUnset;
use trace_model::ScopeContext;

use super::plan::{Item, TraceItems};
use super::rows::{PART_CONTEXT, PART_SPAN, SpanRow};

/// Most rows of a batch.
pub(super) const BATCH_ROWS_MAX: usize = 64;
/// A batch is closed at so many bytes. Cassandra's limits for batches are meant for those of several
/// partitions; Scylla warns at 128 KiB.
pub(super) const BATCH_BYTES_MAX: usize = 64 << 10;
/// About what a row takes beside the bytes in it.
pub(super) const ROW_BYTES: usize = 100;

/// The rows of one request, all of one partition, and their bytes.
#[derive(Debug)]
pub(super) struct RowBatch<R> {
    pub(super) rows: Vec<R>,
    pub(super) bytes: usize,
}

/// A context within a batch: how many spans need it and how long they live.
struct Needed<'a> {
    context: &'a ScopeContext,
    hash: i64,
    spans: usize,
    ttl: i32,
    timestamp: i64,
}

/// Batches of these spans of a trace for one shard, until they have so many bytes; the last may reach
/// beyond. Gives the spans that are left.
pub(super) fn span_batches<'r>(
    trace: &'r TraceItems<'r>,
    items: &'r [Item<'r>],
    (shard, bytes_max): (i32, u64),
) -> (Vec<RowBatch<SpanRow<'r>>>, &'r [Item<'r>]) {
    let mut batches = Vec::with_capacity(items.len() / BATCH_ROWS_MAX + 1);
    let (mut rest, mut written) = (items, 0_u64);
    while !rest.is_empty() && written < bytes_max {
        let (needed, count, bytes) = fill(rest);
        let (chunk, after) = rest.split_at(count);
        rest = after;
        written = written.saturating_add(bytes as u64);
        batches.push(RowBatch { rows: rows_of(trace, shard, chunk, &needed), bytes });
    }
    (batches, rest)
}

/// How many of the items fit into a batch, at least one, and the contexts that they need.
fn fill<'r>(items: &[Item<'r>]) -> (Vec<Needed<'r>>, usize, usize) {
    let mut needed: Vec<Needed<'r>> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for item in items {
        let known = needed.iter().position(|needed| needed.hash == item.context_hash);
        let context = item.context;
        let own = item.bytes.len() + ROW_BYTES;
        let more = match known {
            Some(_) => own,
            None => own + context.resource.len() + context.scope.len() + ROW_BYTES,
        };
        let is_full = count + needed.len() + 2 > BATCH_ROWS_MAX || bytes + more > BATCH_BYTES_MAX;
        if count > 0 && is_full {
            break;
        }
        count += 1;
        bytes += more;
        let (ttl, timestamp) = (item.source.ttl, item.source.timestamp);
        match known.and_then(|at| needed.get_mut(at)) {
            Some(needed) => {
                needed.spans += 1;
                needed.ttl = needed.ttl.max(ttl);
                needed.timestamp = needed.timestamp.max(timestamp);
            }
            None => {
                let hash = item.context_hash;
                needed.push(Needed { context, hash, spans: 1, ttl, timestamp });
            }
        }
    }
    (needed, count, bytes)
}

/// Contexts that several spans need as rows, then the spans, with the others in them.
fn rows_of<'r>(
    trace: &'r TraceItems<'r>,
    shard: i32,
    items: &'r [Item<'r>],
    needed: &[Needed<'r>],
) -> Vec<SpanRow<'r>> {
    let partition = (trace.tenant.as_str(), trace.trace_id.as_bytes().as_slice(), shard);
    let is_shared = |needed: &&Needed<'r>| needed.spans > 1;
    let mut rows = Vec::with_capacity(items.len() + needed.len());
    rows.extend(needed.iter().filter(is_shared).map(|needed| SpanRow {
        resource: MaybeUnset::Set(&needed.context.resource),
        scope: MaybeUnset::Set(&needed.context.scope),
        ..SpanRow::bare(partition, (PART_CONTEXT, needed.hash), (needed.ttl, needed.timestamp))
    }));
    for item in items {
        let lifetime = (item.source.ttl, item.source.timestamp);
        let content = item.key.content.cast_signed();
        let mut row = SpanRow {
            span: MaybeUnset::Set(item.bytes),
            context: MaybeUnset::Set(item.context_hash),
            envelopes: MaybeUnset::Set(&item.source.envelope),
            span_id: item.key.span_id.as_bytes(),
            kind: item.key.kind.cast_signed(),
            ..SpanRow::bare(partition, (PART_SPAN, content), lifetime)
        };
        let shared = needed.iter().filter(is_shared).any(|needed| needed.hash == item.context_hash);
        if !shared {
            row.resource = MaybeUnset::Set(&item.context.resource);
            row.scope = MaybeUnset::Set(&item.context.scope);
        }
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cassandra::plan::samples::{NOW, logged};
    use crate::cassandra::plan::{Plan, sources};

    const SERVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    proptest! {
        #[test]
        fn every_batch_is_bounded_and_holds_what_its_spans_need(
            spans in vec((0_usize..8, 0_usize..40_000), 1..150),
            bytes_max in 1_u64..3_000_000
        ) {
            let named = |(service, length): &(usize, usize)| (SERVICES[*service], "n".repeat(*length));
            let names: Vec<_> = spans.iter().map(named).collect();
            let logged = [logged(&names, NOW)];
            let (sources, expired) = sources(&logged, 1_000_000_000, NOW);
            let plan = Plan::of(&sources, |_, _| false);
            prop_assert_eq!((expired, plan.traces.len()), (0, 1));
            let (mut batches, mut rest) = (Vec::new(), plan.traces[0].items.as_slice());
            while !rest.is_empty() {
                let (some, after) = span_batches(&plan.traces[0], rest, (3, bytes_max));
                let all_but_one = some.iter().rev().skip(1).map(|batch| batch.bytes as u64);
                prop_assert!(!some.is_empty() && all_but_one.sum::<u64>() < bytes_max);
                batches.extend(some);
                rest = after;
            }
            let mut seen = BTreeSet::new();
            for batch in &batches {
                prop_assert!(batch.rows.len() <= BATCH_ROWS_MAX);
                let spans = batch.rows.iter().filter(|row| row.part == PART_SPAN);
                prop_assert!(batch.bytes <= BATCH_BYTES_MAX || spans.clone().count() == 1);
                let contexts: BTreeSet<i64> = batch
                    .rows
                    .iter()
                    .filter(|row| row.part == PART_CONTEXT)
                    .map(|row| row.content)
                    .collect();
                for row in spans {
                    let MaybeUnset::Set(context) = row.context else { panic!("no context") };
                    let is_inside = matches!(row.resource, MaybeUnset::Set(_));
                    prop_assert!(is_inside != contexts.contains(&context));
                    prop_assert!(row.shard == 3 && seen.insert((row.span_id, row.content)));
                }
            }
            prop_assert_eq!(seen.len(), spans.len());
        }
    }
}
