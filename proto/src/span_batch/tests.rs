use proptest::prelude::*;

use super::*;

fn source() -> BatchSource {
    BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "c1".into(),
        receive_time: UnixNanos(5),
        digest: 77,
    }
}

/// A span message with these ids and a name.
fn span(trace: u8, id: u8, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    crate::wire::put_bytes_field(&mut bytes, 1, &[trace; 16]);
    crate::wire::put_bytes_field(&mut bytes, 2, &[id; 8]);
    crate::wire::put_bytes_field(&mut bytes, 5, name.as_bytes());
    bytes
}

fn batch(rows: &[(u8, u8)]) -> (SpanBatch, Vec<Vec<u8>>) {
    let spans: Vec<_> = rows.iter().map(|(trace, id)| span(*trace, *id, "op")).collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(vec![]);
    let scope = builder.add_scope(resource, vec![]);
    for ((trace, _), bytes) in rows.iter().zip(&spans) {
        let trace_id = TraceId::from_bytes([*trace; 16]).unwrap();
        builder.add_span(trace_id, Threshold::KEEP_ALL, scope, bytes);
    }
    (builder.finish(source()).unwrap(), spans)
}

#[test]
fn a_span_whose_header_was_read_is_the_same_as_one_that_is_walked() {
    let (walked, spans) = batch(&[(1, 1), (2, 2), (1, 3)]);
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(vec![]);
    let scope = builder.add_scope(resource, vec![]);
    for bytes in &spans {
        let header = SpanHeader::read(bytes).unwrap();
        let trace_id = TraceId::try_from(header.trace_id).unwrap();
        builder.add_read_span(trace_id, Threshold::KEEP_ALL, scope, bytes, header);
    }
    let read = builder.finish(source()).unwrap();
    assert_eq!(read.encoded(), walked.encoded());
    assert_eq!(read.spans(), walked.spans());
}

proptest! {
    #[test]
    fn a_batch_reads_back_as_it_was_built(
        rows in proptest::collection::vec((1_u8..5, 1_u8..250), 0..60)
    ) {
        let (built, spans) = batch(&rows);
        let read = SpanBatch::decode(built.encoded().clone()).unwrap();
        prop_assert_eq!(read.traces(), built.traces());
        prop_assert_eq!(read.spans(), built.spans());
        prop_assert_eq!(read.source(), built.source());
        let mut found: Vec<_> = read.spans().iter().map(|span| read.bytes_of(span).to_vec()).collect();
        let mut sent = spans;
        found.sort();
        sent.sort();
        prop_assert_eq!(found, sent);
        for trace in read.traces() {
            for span in read.spans_of(trace) {
                prop_assert_eq!(read.bytes_of(span)[2..18].to_vec(), trace.trace_id.as_bytes().to_vec());
                prop_assert_eq!(read.name_of(span), "op");
            }
        }
    }

    #[test]
    fn any_bytes_are_a_batch_or_an_error(
        noise in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..400, flip in 0_usize..400
    ) {
        drop(SpanBatch::decode(Bytes::from(noise)));
        let (built, _) = batch(&[(1, 1), (2, 2), (1, 3)]);
        let mut bytes = built.encoded().to_vec();
        bytes.truncate(cut);
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 0x5a;
        }
        drop(SpanBatch::decode(Bytes::from(bytes)));
    }
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let error = SpanBatch::decode(Bytes::from_static(&[9])).unwrap_err();
    assert_eq!(error, InvalidBatch::Version(9));
}
