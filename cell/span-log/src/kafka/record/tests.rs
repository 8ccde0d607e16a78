use opentelemetry_proto::tonic::trace::v1::TracesData;
use proptest::prelude::*;
use prost::Message as _;
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};

use super::super::envelope::key_of;
use super::*;

fn source() -> BatchSource {
    BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "collector-1".into(),
        receive_time: UnixNanos(5),
        digest: 77,
    }
}

fn trace_id(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

/// A span with a field that no schema knows.
fn span(trace: u8, id: u64, name_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, tags::SPAN_TRACE_ID, trace_id(trace).as_bytes());
    put_bytes_field(&mut bytes, tags::SPAN_SPAN_ID, &(id + 1).to_be_bytes());
    put_bytes_field(&mut bytes, tags::SPAN_NAME, &vec![b'n'; name_bytes]);
    put_bytes_field(&mut bytes, 900, b"of the future");
    bytes
}

/// A frame of a resource or scope: its first field with a field that no schema knows.
fn frame(text: &str) -> Vec<u8> {
    let mut inner = Vec::new();
    put_bytes_field(&mut inner, 901, text.as_bytes());
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, 1, &inner);
    put_bytes_field(&mut bytes, 3, b"https://schema.example/1");
    bytes
}

/// Spans as (trace, scope, bytes of its name), in scopes 0 to 3 of resources 0 and 1.
fn batch(rows: &[(u8, u32, usize)]) -> SpanBatch {
    let numbered = (0_u64..).zip(rows);
    let spans: Vec<_> = numbered.map(|(id, (trace, _, bytes))| span(*trace, id, *bytes)).collect();
    let mut builder = SpanBatchBuilder::new();
    for resource in 0..2 {
        builder.add_resource(frame(&format!("resource {resource}")));
    }
    for scope in 0..4 {
        builder.add_scope(scope / 2, frame(&format!("scope {scope}")));
    }
    for ((trace, scope, _), bytes) in rows.iter().zip(&spans) {
        builder.add_span(trace_id(*trace), Threshold::from_rate(0.5).unwrap(), *scope, bytes);
    }
    builder.finish(source()).unwrap()
}

fn payloads(batch: &SpanBatch, trace: &TraceSlice, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let mut writer = RecordWriter::default();
    writer.payloads(batch, trace, bytes_max, |payload| payloads.push(payload.to_vec())).unwrap();
    payloads
}

fn header(trace: &TraceSlice, part: u64) -> Vec<u8> {
    Envelope { source: source(), threshold: trace.threshold, part }.encode()
}

/// Each span with its resource and scope frame.
fn contents(batch: &SpanBatch, trace: &TraceSlice) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let of = |span: &SpanSlice| {
        let (resource, scope) = frames(batch, span.scope);
        (resource.to_vec(), scope.to_vec(), batch.bytes_of(span).to_vec())
    };
    batch.spans_of(trace).iter().map(of).collect()
}

fn decode(
    key: Option<&[u8]>,
    header: Option<&[u8]>,
    payload: &[u8],
) -> Result<SpanBatch, RecordFault> {
    super::decode(&mut KnownContexts::default(), key, header, payload)
}

fn decode_part(trace: &TraceSlice, part: u64, payload: &[u8]) -> Result<SpanBatch, RecordFault> {
    let key = key_of(&TenantId::default(), trace.trace_id);
    decode(Some(&key), Some(&header(trace, part)), payload)
}

proptest! {
    #[test]
    fn spans_and_frames_come_back_as_they_were_in_records_of_bounded_size(
        rows in proptest::collection::vec((1_u8..4, 0_u32..4, 0_usize..400), 1..40),
        bytes_max in 700_usize..4_000,
    ) {
        let batch = batch(&rows);
        for trace in batch.traces() {
            let mut found = Vec::new();
            for (part, payload) in (0..).zip(payloads(&batch, trace, bytes_max)) {
                prop_assert!(payload.len() <= bytes_max);
                let decoded = decode_part(trace, part, &payload).unwrap();
                prop_assert_eq!(decoded.traces().len(), 1);
                let only = decoded.traces().first().unwrap();
                prop_assert_eq!((only.trace_id, only.threshold), (trace.trace_id, trace.threshold));
                let expected = BatchSource { digest: digest_of_part(77, part), ..source() };
                prop_assert_eq!(decoded.source(), &expected);
                found.extend(contents(&decoded, only));
            }
            prop_assert_eq!(found, contents(&batch, trace));
        }
    }

    #[test]
    fn any_reader_of_otlp_understands_a_record(
        rows in proptest::collection::vec((1_u8..2, 0_u32..4, 0_usize..40), 1..20),
    ) {
        let batch = batch(&rows);
        let trace = batch.traces().first().unwrap();
        let payload = payloads(&batch, trace, 900_000).remove(0);
        let read = TracesData::decode(payload.as_slice()).unwrap();
        let scopes = read.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let spans: Vec<_> = scopes.flat_map(|scope| &scope.spans).collect();
        prop_assert_eq!(spans.len(), rows.len());
        for (span, (_, _, name_bytes)) in spans.iter().zip(&rows) {
            prop_assert_eq!(span.trace_id.as_slice(), trace.trace_id.as_bytes());
            prop_assert_eq!(span.name.len(), *name_bytes);
        }
        prop_assert_eq!(&read.resource_spans[0].schema_url, "https://schema.example/1");
    }

    #[test]
    fn any_payload_is_a_trace_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let batch = batch(&[(1, 0, 5)]);
        let trace = batch.traces().first().unwrap();
        prop_assert!(decode_part(trace, 0, &bytes).is_err());
    }
}

#[test]
fn neighbouring_scopes_of_one_resource_share_its_frame() {
    let batch = batch(&[(1, 0, 5), (1, 0, 5), (1, 1, 5), (1, 2, 5)]);
    let payload = payloads(&batch, batch.traces().first().unwrap(), 900_000).remove(0);
    let read = TracesData::decode(payload.as_slice()).unwrap();
    let shape: Vec<Vec<usize>> = read
        .resource_spans
        .iter()
        .map(|resource| resource.scope_spans.iter().map(|scope| scope.spans.len()).collect())
        .collect();
    assert_eq!(shape, [vec![2, 1], vec![1]]);
}

#[test]
fn a_span_that_no_record_can_hold_is_named_with_its_size() {
    let batch = batch(&[(1, 0, 10), (1, 0, 5_000)]);
    let trace = batch.traces().first().unwrap();
    let result = RecordWriter::default().payloads(&batch, trace, 1_000, |_| {});
    assert!(matches!(result, Err(Uncuttable { bytes }) if bytes > 5_000), "{result:?}");
    assert_eq!(uncuttable(&batch, 1_000), result.err().map(|uncuttable| uncuttable.bytes));
    assert_eq!(uncuttable(&batch, 6_000), None);
}

#[test]
fn foreign_records_are_told_apart_by_what_is_wrong() {
    let batch = batch(&[(1, 0, 5)]);
    let trace = batch.traces().first().unwrap();
    let payload = payloads(&batch, trace, 900_000).remove(0);
    let key = key_of(&TenantId::default(), trace.trace_id);
    let header = header(trace, 0);
    assert!(decode(Some(&key), Some(&header), &payload).is_ok());
    let faults = [
        (decode(Some(&key), None, &payload), RecordFault::NoEnvelope),
        (decode(None, Some(&header), &payload), RecordFault::Key),
        (decode(Some(b"k"), Some(&header), &payload), RecordFault::Key),
        (decode(Some(&key), Some(&[9]), &payload), RecordFault::Newer(9)),
        (decode(Some(&key), Some(b"text"), &payload), RecordFault::Envelope),
        (decode(Some(&key), Some(&header), b""), RecordFault::Payload),
        (decode(Some(&key), Some(&header), b"garbage"), RecordFault::Payload),
    ];
    for (found, expected) in faults {
        assert_eq!(found.unwrap_err(), expected);
    }
    let other = key_of(&TenantId::default(), trace_id(9));
    assert_eq!(decode(Some(&other), Some(&header), &payload).unwrap_err(), RecordFault::Payload);
    let other = key_of(&TenantId::new("other").unwrap(), trace.trace_id);
    assert_eq!(decode(Some(&other), Some(&header), &payload).unwrap_err(), RecordFault::Key);
}
