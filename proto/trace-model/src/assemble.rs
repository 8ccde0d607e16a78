//! From a heap of spans to a tree: roots, children in order, orphans, and per-region clock offsets.
//!
//! Assembly reads spans and judges nothing: what is missing is the certificate's word. It must
//! never loop or recurse without bound, whatever ids the spans carry (cycles, self-parents,
//! duplicate ids).

use std::collections::{BTreeMap, HashMap};

use crate::ids::SpanId;
use crate::names::Region;
use crate::span::{Span, SpanKind};
use crate::time::UnixNanos;

/// A span within an assembled trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceNode {
    /// The span.
    pub span: Span,
    /// The region that holds it.
    pub region: Region,
    /// Its parent's place in [`Trace::nodes`], if held.
    pub parent: Option<usize>,
    /// Its children's places, by start.
    pub children: Vec<usize>,
    /// Its parent id names a span that is not held.
    pub is_orphan: bool,
    /// Depth below its root, 0 for a root.
    pub depth: usize,
}

/// An assembled trace: nodes in the order of a waterfall (depth first, children by start).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// All spans.
    pub nodes: Vec<TraceNode>,
    /// Places of the spans without a held parent, by start.
    pub roots: Vec<usize>,
    /// By region, how far its clock seems ahead of the root's region, in nanoseconds. Estimated
    /// from call pairs that cross regions; shown beside the raw times, never instead of them.
    pub clock_offsets: BTreeMap<Region, i128>,
}

/// Assembles spans, given in any order.
#[must_use]
pub fn assemble(spans: Vec<(Span, Region)>) -> Trace {
    let mut rows = spans;
    rows.sort_by_key(|row| order_key(&row.0));
    let parents = find_parents(&rows);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut roots = Vec::new();
    for (place, parent) in parents.iter().enumerate() {
        match parent.and_then(|parent| children.get_mut(parent)) {
            Some(list) => list.push(place),
            None => roots.push(place),
        }
    }
    lay_out(rows, &parents, &children, &roots)
}

fn order_key(span: &Span) -> (UnixNanos, SpanId, SpanKind, UnixNanos) {
    (span.start, span.span_id, span.kind, span.end)
}

/// Each span's parent by place. Of several spans with the parent's id (Zipkin's shared spans) the
/// client side parents its server twin, and the server side parents everything else. Cycles are
/// cut at their first span in time order.
fn find_parents(rows: &[(Span, Region)]) -> Vec<Option<usize>> {
    let mut by_id: HashMap<SpanId, Vec<usize>> = HashMap::with_capacity(rows.len());
    for (place, (span, _)) in rows.iter().enumerate() {
        by_id.entry(span.span_id).or_default().push(place);
    }
    let mut parents: Vec<Option<usize>> = rows
        .iter()
        .enumerate()
        .map(|(place, (span, _))| parent_of(place, span, rows, &by_id))
        .collect();
    cut_cycles(&mut parents);
    parents
}

fn parent_of(
    place: usize,
    span: &Span,
    rows: &[(Span, Region)],
    by_id: &HashMap<SpanId, Vec<usize>>,
) -> Option<usize> {
    let kind_at = |candidate: usize| rows.get(candidate).map(|(span, _)| span.kind);
    let twins = by_id.get(&span.span_id)?;
    if span.kind == SpanKind::Server
        && let Some(client) = twins.iter().find(|twin| kind_at(**twin) == Some(SpanKind::Client))
    {
        return Some(*client);
    }
    let candidates = by_id.get(&span.parent_span_id?)?;
    let server = candidates.iter().find(|twin| kind_at(**twin) == Some(SpanKind::Server));
    server.or_else(|| candidates.first()).copied().filter(|parent| *parent != place)
}

/// Removes one edge of every cycle, walking each chain once.
fn cut_cycles(parents: &mut [Option<usize>]) {
    const UNSEEN: usize = usize::MAX;
    let mut seen_in = vec![UNSEEN; parents.len()];
    for start in 0..parents.len() {
        let mut place = start;
        while let Some(mark) = seen_in.get_mut(place) {
            if *mark == start {
                // Back on this very walk: a cycle. Its first span in time order becomes a root.
                cut_at_earliest(parents, place);
                break;
            }
            if *mark != UNSEEN {
                break;
            }
            *mark = start;
            let Some(Some(parent)) = parents.get(place).copied() else { break };
            place = parent;
        }
    }
}

fn cut_at_earliest(parents: &mut [Option<usize>], on_cycle: usize) {
    let mut earliest = on_cycle;
    let mut place = on_cycle;
    while let Some(Some(parent)) = parents.get(place).copied() {
        earliest = earliest.min(parent);
        place = parent;
        if place == on_cycle {
            break;
        }
    }
    if let Some(slot) = parents.get_mut(earliest) {
        *slot = None;
    }
}

/// Orders the spans depth first and translates places.
fn lay_out(
    rows: Vec<(Span, Region)>,
    parents: &[Option<usize>],
    children: &[Vec<usize>],
    roots: &[usize],
) -> Trace {
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    let mut stack: Vec<(usize, usize)> = roots.iter().rev().map(|root| (*root, 0)).collect();
    while let Some((place, depth)) = stack.pop() {
        order.push((place, depth));
        let below = children.get(place).map_or(&[][..], Vec::as_slice);
        stack.extend(below.iter().rev().map(|child| (*child, depth.saturating_add(1))));
    }
    let mut new_place = vec![0_usize; rows.len()];
    for (index, (old, _)) in order.iter().enumerate() {
        if let Some(slot) = new_place.get_mut(*old) {
            *slot = index;
        }
    }
    let translate = |old: usize| new_place.get(old).copied().unwrap_or(0);
    let mut rows: Vec<Option<(Span, Region)>> = rows.into_iter().map(Some).collect();
    let mut nodes = Vec::with_capacity(order.len());
    for (old, depth) in order {
        let Some((span, region)) = rows.get_mut(old).and_then(Option::take) else { continue };
        let parent = parents.get(old).copied().flatten();
        let below = children.get(old).map_or(&[][..], Vec::as_slice);
        nodes.push(TraceNode {
            is_orphan: parent.is_none() && span.parent_span_id.is_some(),
            span,
            region,
            parent: parent.map(translate),
            children: below.iter().map(|child| translate(*child)).collect(),
            depth,
        });
    }
    let roots = roots.iter().map(|root| translate(*root)).collect();
    let clock_offsets = clock_offsets(&nodes);
    Trace { nodes, roots, clock_offsets }
}

/// Offsets of regions' clocks against the first root's region: for each call that crosses from a
/// region whose offset is known, the median of how far the child's middle lies from the parent's
/// (Cristian's algorithm: the two legs of the network are taken as equal).
fn clock_offsets(nodes: &[TraceNode]) -> BTreeMap<Region, i128> {
    let mut samples: BTreeMap<(&Region, &Region), Vec<i128>> = BTreeMap::new();
    for node in nodes {
        let Some(parent) = node.parent.and_then(|parent| nodes.get(parent)) else { continue };
        if parent.region != node.region && is_call(&parent.span, &node.span) {
            let skew = middle(&node.span).saturating_sub(middle(&parent.span));
            samples.entry((&parent.region, &node.region)).or_default().push(skew);
        }
    }
    let mut offsets = BTreeMap::new();
    let Some(first) = nodes.first() else { return offsets };
    offsets.insert(first.region.clone(), 0);
    for _ in 0..samples.len() {
        for ((from, to), skews) in &mut samples {
            skews.sort_unstable();
            let Some(median) = skews.get(skews.len() / 2) else { continue };
            let Some(base) = offsets.get(*from).copied() else { continue };
            offsets.entry((*to).clone()).or_insert_with(|| base.saturating_add(*median));
        }
    }
    offsets
}

const fn is_call(parent: &Span, child: &Span) -> bool {
    matches!((parent.kind, child.kind), (SpanKind::Client, SpanKind::Server))
}

fn middle(span: &Span) -> i128 {
    i128::from(span.start.0).saturating_add(i128::from(span.end.0)) / 2
}

#[cfg(test)]
mod tests;
