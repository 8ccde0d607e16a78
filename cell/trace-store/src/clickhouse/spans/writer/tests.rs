//! What is taken of a log, without an engine behind it.

use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use proto::{BatchSource, SpanBatchBuilder};
use trace_model::sampling_threshold::Threshold;
use trace_model::{LogRange, Region};

use super::*;

const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);
const INCARNATION: u64 = 7;
const MINUTE: u64 = 60_000_000_000;

fn trace_id(trace: u8) -> TraceId {
    TraceId::from_bytes([trace; 16]).unwrap()
}

/// A request of traces of two spans each.
fn request(digest: u64, traces: &[u8]) -> Arc<proto::SpanBatch> {
    let span = |trace: u8, id: u8| otlp::Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: "work".to_owned(),
        start_time_unix_nano: NOW.0,
        end_time_unix_nano: NOW.0 + 1,
        ..otlp::Span::default()
    };
    let spans: Vec<(u8, Vec<u8>)> = traces
        .iter()
        .flat_map(|trace| [1, 2].map(|id| (*trace, span(*trace, id).encode_to_vec())))
        .collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (trace, span) in &spans {
        builder.add_span(trace_id(*trace), Threshold::KEEP_ALL, scope, span);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
        receive_time: NOW,
        digest,
    };
    Arc::new(builder.finish(source).unwrap())
}

/// A request where the log has it.
fn logged(first: u64, batch: &Arc<proto::SpanBatch>) -> LoggedBatch {
    let next = first + batch.traces().len() as u64;
    LoggedBatch {
        incarnation: INCARNATION,
        range: LogRange { partition: 0, first, next },
        append_time: NOW.plus(first * MINUTE / 10),
        batch: Arc::clone(batch),
    }
}

/// A writer that has entered a partition.
fn writer(next: u64, doubt: Option<Range>) -> Writer {
    let mut writer = Writer::of_log(INCARNATION, Erased::default());
    enter(&mut writer, next, doubt);
    writer
}

fn enter(writer: &mut Writer, done: u64, doubt: Option<Range>) {
    let window = writer.window_of(0, done);
    let held = Partition { next: done, doubt, open: None, last_bytes: 0, window };
    writer.partitions.insert(0, held);
}

fn take(writer: &mut Writer, logged: &LoggedBatch) {
    let config = ClickhouseConfig::new("http://127.0.0.1:1", "none");
    writer.take(&config, logged, NOW);
}

/// Ends what is open; gives range and spans of the run.
fn cut(writer: &mut Writer) -> (Range, usize) {
    writer.end(0);
    let run = writer.cut.pop_front().unwrap();
    (run.range, run.spans)
}

const fn range(first: u64, next: u64) -> Range {
    Range { first, next }
}

#[test]
fn a_repeated_request_is_not_written_again_and_its_records_count_as_taken() {
    let mut writer = writer(0, None);
    let sent = request(1, &[1, 2]);
    take(&mut writer, &logged(0, &sent));
    take(&mut writer, &logged(2, &sent));
    assert_eq!(cut(&mut writer), (range(0, 4), 4));
    assert_eq!((writer.partitions[&0].next, writer.metrics.repeated_spans.get()), (4, 4));
    // A run of nothing but repeats has its range and no block.
    take(&mut writer, &logged(4, &sent));
    writer.end(0);
    let run = writer.cut.pop_front().unwrap();
    assert_eq!((run.range, run.spans, run.blocks.len()), (range(4, 6), 0, 0));
}

#[test]
fn other_requests_of_the_same_traces_are_written_and_so_is_what_a_repeat_has_more() {
    let mut writer = writer(0, None);
    take(&mut writer, &logged(0, &request(1, &[1])));
    take(&mut writer, &logged(1, &request(2, &[1])));
    take(&mut writer, &logged(2, &request(1, &[1, 2])));
    assert_eq!(cut(&mut writer), (range(0, 4), 6));
    assert_eq!(writer.metrics.repeated_spans.get(), 2);
}

#[test]
fn records_that_are_given_again_are_no_repeats() {
    let mut writer = writer(0, None);
    let sent = request(1, &[1, 2]);
    for _ in 0..3 {
        take(&mut writer, &logged(0, &sent));
    }
    assert_eq!(cut(&mut writer), (range(0, 2), 4));
    assert_eq!(writer.metrics.repeated_spans.get(), 0);
}

#[test]
fn an_erased_trace_is_refused_before_it_is_looked_for() {
    let mut writer = writer(0, None);
    writer.erased.add(&TenantId::default(), trace_id(1));
    let sent = request(1, &[1, 2]);
    take(&mut writer, &logged(0, &sent));
    take(&mut writer, &logged(2, &sent));
    assert_eq!(cut(&mut writer), (range(0, 4), 2));
    let metrics = &writer.metrics;
    assert_eq!((metrics.erased_spans.get(), metrics.repeated_spans.get()), (4, 2));
}

#[test]
fn a_run_in_doubt_is_cut_at_its_place_and_lacks_nothing_though_no_window_is_left() {
    let (sent, other) = (request(1, &[1]), request(2, &[2]));
    let mut first = writer(0, None);
    take(&mut first, &logged(0, &sent));
    assert_eq!(cut(&mut first), (range(0, 1), 2));
    let records = [logged(1, &sent), logged(2, &other), logged(3, &other)];
    records.iter().for_each(|record| take(&mut first, record));
    first.end(0);
    let begun = first.cut.pop_front().unwrap();
    assert_eq!((begun.range, begun.spans), (range(1, 4), 2));
    // The next process does not know what was stored before: its try has the repeat as well, under
    // the same number, so that one of both is stored.
    let mut next = writer(1, Some(begun.range));
    records.iter().for_each(|record| take(&mut next, record));
    let again = next.cut.pop_front().unwrap();
    assert_eq!((again.range, again.spans), (begun.range, 4));
    assert_eq!(again.number(), begun.number());
    assert!(again.is_in_doubt);
}

#[test]
fn a_turn_goes_on_with_what_is_stored_of_the_last_one_and_with_nothing_that_is_not() {
    let sent = request(1, &[1, 2]);
    // Where less is stored than was taken nothing is known: what is not stored is written, and at worst a
    // repeat of what is.
    for (done, written, repeated) in [(2, 0, 4), (1, 4, 2), (0, 4, 4)] {
        let mut last = writer(0, None);
        take(&mut last, &logged(0, &sent));
        let mut next = Writer::of_log(INCARNATION, Erased::default());
        next.go_on_from(&mut last);
        enter(&mut next, done, None);
        take(&mut next, &logged(0, &sent));
        take(&mut next, &logged(2, &sent));
        assert_eq!(cut(&mut next), (range(done, 4), written), "{done}");
        assert_eq!(next.metrics.repeated_spans.get(), repeated, "{done}");
    }
}

#[test]
fn another_log_is_written_whole() {
    let sent = request(1, &[1, 2]);
    let mut last = writer(0, None);
    take(&mut last, &logged(0, &sent));
    let mut next = Writer::of_log(INCARNATION + 1, Erased::default());
    next.go_on_from(&mut last);
    enter(&mut next, 2, None);
    take(&mut next, &logged(2, &sent));
    assert_eq!(cut(&mut next), (range(2, 4), 4));
}
