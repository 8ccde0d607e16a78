//! Tests of assembly.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ids::TraceId;
use crate::span::{Resource, Scope, StatusCode};

fn span(id: u8, parent: Option<u8>, start: u64, kind: SpanKind) -> Span {
    Span {
        trace_id: TraceId::from_bytes([7; 16]).unwrap(),
        span_id: SpanId::from_bytes([id; 8]).unwrap(),
        parent_span_id: parent.map(|parent| SpanId::from_bytes([parent; 8]).unwrap()),
        trace_state: String::new(),
        flags: 0,
        name: format!("op-{id}"),
        kind,
        start: UnixNanos(start),
        end: UnixNanos(start + 10),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: Vec::new(),
        dropped_events_count: 0,
        links: Vec::new(),
        dropped_links_count: 0,
        status: StatusCode::Unset,
        status_message: String::new(),
        resource: Arc::new(Resource::default()),
        scope: Arc::new(Scope::default()),
    }
}

fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

fn names(trace: &Trace) -> Vec<&str> {
    trace.nodes.iter().map(|node| node.span.name.as_str()).collect()
}

#[test]
fn children_follow_their_parent_in_order_of_start() {
    let rows = [(3, Some(1), 30), (4, Some(2), 25), (2, Some(1), 20), (1, None, 10)];
    let rows = rows
        .into_iter()
        .map(|(id, parent, start)| (span(id, parent, start, SpanKind::Internal), region("eu")))
        .collect();
    let trace = assemble(rows);
    assert_eq!(names(&trace), ["op-1", "op-2", "op-4", "op-3"]);
    assert_eq!(trace.nodes.iter().map(|node| node.depth).collect::<Vec<_>>(), [0, 1, 2, 1]);
}

#[test]
fn a_span_whose_parent_is_missing_is_an_orphan_root() {
    let trace = assemble(vec![(span(2, Some(1), 5, SpanKind::Server), region("eu"))]);
    assert_eq!(trace.roots, [0]);
    assert!(trace.nodes[0].is_orphan);
}

#[test]
fn shared_span_ids_make_the_client_parent_of_its_server_twin() {
    let rows = vec![
        (span(1, None, 1, SpanKind::Client), region("eu")),
        (span(1, None, 2, SpanKind::Server), region("us")),
        (span(2, Some(1), 3, SpanKind::Internal), region("us")),
    ];
    let trace = assemble(rows);
    assert_eq!(trace.nodes[1].parent, Some(0));
    assert_eq!(trace.nodes[2].parent, Some(1));
}

#[test]
fn a_skewed_region_shows_its_offset() {
    let mut child = span(2, Some(1), 10_002, SpanKind::Server);
    child.end = UnixNanos(10_008);
    let trace =
        assemble(vec![(span(1, None, 0, SpanKind::Client), region("eu")), (child, region("us"))]);
    assert_eq!(trace.clock_offsets.get(&region("us")), Some(&10_000));
}

proptest! {
    /// Whatever the parent ids (cycles, self-parents, duplicates): every span appears once, every
    /// node hangs below a root, and the order of input changes nothing.
    #[test]
    fn any_heap_of_spans_becomes_a_forest(
        rows in vec((1_u8..12, proptest::option::of(1_u8..12), 0_u64..5, 0_i32..6), 0..40),
        turn in 0_usize..40,
    ) {
        let spans: Vec<_> = rows
            .iter()
            .map(|(id, parent, start, kind)| {
                (span(*id, *parent, *start, SpanKind::from_number(*kind)), region("eu"))
            })
            .collect();
        let trace = assemble(spans.clone());
        prop_assert_eq!(trace.nodes.len(), spans.len());
        for (place, node) in trace.nodes.iter().enumerate() {
            match node.parent {
                Some(parent) => {
                    prop_assert!(parent < place);
                    prop_assert_eq!(trace.nodes[parent].depth + 1, node.depth);
                    prop_assert!(trace.nodes[parent].children.contains(&place));
                }
                None => prop_assert!(trace.roots.contains(&place)),
            }
        }
        let mut turned = spans;
        if !turned.is_empty() {
            let by = turn % turned.len();
            turned.rotate_left(by);
        }
        prop_assert_eq!(assemble(turned).nodes.len(), trace.nodes.len());
    }
}
