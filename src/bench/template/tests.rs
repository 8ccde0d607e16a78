//! Tests of the template: what leaves is a good request with ids of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SHAPE: Shape = Shape { spans: 512, spans_per_trace: 8 };
const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

fn spans(request: &ExportTraceServiceRequest) -> Vec<&Span> {
    let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
    groups.flat_map(|scope| &scope.spans).collect()
}

fn write(
    template: &Template,
    rng: &mut SmallRng,
) -> (ExportTraceServiceRequest, Vec<WrittenTrace>) {
    let (mut buffer, mut traces) = (Vec::new(), Vec::new());
    template.write(NOW, rng, &mut buffer, &mut traces);
    (ExportTraceServiceRequest::decode(buffer.as_slice()).unwrap(), traces)
}

#[test]
fn every_request_has_ids_of_its_own_and_whole_traces() {
    let template = Template::new(SHAPE, 1);
    let mut rng = SmallRng::seed_from_u64(2);
    let mut span_ids = BTreeSet::new();
    let mut trace_ids = BTreeSet::new();
    for _ in 0..5 {
        let (request, traces) = write(&template, &mut rng);
        let mut by_trace: BTreeMap<Vec<u8>, Vec<&Span>> = BTreeMap::new();
        for span in spans(&request) {
            assert!(span_ids.insert(span.span_id.clone()), "a span id twice");
            by_trace.entry(span.trace_id.clone()).or_default().push(span);
        }
        assert_eq!(traces.len(), 64);
        for trace in &traces {
            assert!(trace_ids.insert(trace.id), "a trace id twice");
            let held = &by_trace[trace.id.as_bytes().as_slice()];
            assert_eq!((held.len(), trace.spans), (8, 8));
            let ids: BTreeSet<_> = held.iter().map(|span| span.span_id.clone()).collect();
            let roots = held.iter().filter(|span| span.parent_span_id.is_empty()).count();
            assert_eq!(roots, 1);
            for span in held.iter().filter(|span| !span.parent_span_id.is_empty()) {
                assert!(ids.contains(&span.parent_span_id), "a parent of another trace");
            }
        }
    }
}

#[test]
fn spans_have_the_size_the_attributes_and_the_times_that_are_promised() {
    let template = Template::new(SHAPE, 1);
    let per_span = template.len() / SHAPE.spans;
    assert!((450..=650).contains(&per_span), "{per_span} bytes a span");
    let (request, traces) = write(&template, &mut SmallRng::seed_from_u64(3));
    assert_eq!(request.resource_spans.len(), 6);
    let sessions: BTreeSet<String> =
        traces.iter().map(|trace| String::from_utf8(trace.session.to_vec()).unwrap()).collect();
    assert_eq!(sessions.len(), 64);
    for span in spans(&request) {
        assert_eq!(span.attributes.len(), 10);
        assert!(span.start_time_unix_nano < span.end_time_unix_nano);
        assert!(NOW.0.abs_diff(span.start_time_unix_nano) < 2_000_000_000);
        let rare = span.attributes.iter().find(|pair| pair.key == RARE_KEY).unwrap();
        let Some(Value::StringValue(value)) = rare.value.clone().unwrap().value else { panic!() };
        assert!(sessions.contains(&value), "{value}");
    }
}

#[test]
fn a_lone_small_request_is_whole_too() {
    let template = Template::new(Shape { spans: 10, spans_per_trace: 8 }, 1);
    let (request, traces) = write(&template, &mut SmallRng::seed_from_u64(4));
    assert_eq!(spans(&request).len(), 10);
    assert_eq!(traces.iter().map(|trace| trace.spans).collect::<Vec<_>>(), [8, 2]);
}
