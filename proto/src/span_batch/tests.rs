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

/// Two services: one that only trace 2 uses, and one that all use.
fn shared_batch() -> SpanBatch {
    let spans: Vec<_> = [(1, 1, 0), (2, 2, 1), (3, 3, 0), (2, 4, 2), (3, 5, 2)]
        .map(|(trace, id, scope)| (trace, scope, span(trace, id, &format!("span-{id}"))))
        .into();
    let mut builder = SpanBatchBuilder::new();
    let shared = builder.add_resource(b"\x12\x06shared".to_vec());
    let scope = builder.add_scope(shared, b"\x12\x03one".to_vec());
    let own = builder.add_resource(b"\x12\x06canary".to_vec());
    builder.add_scope(own, b"\x12\x06secret".to_vec());
    builder.add_scope(shared, b"\x12\x03two".to_vec());
    assert_eq!(scope, 0);
    for (trace, scope, bytes) in &spans {
        let trace_id = TraceId::from_bytes([*trace; 16]).unwrap();
        builder.add_span(trace_id, Threshold::KEEP_ALL, *scope, bytes);
    }
    builder.finish(source()).unwrap()
}

fn holds(batch: &SpanBatch, bytes: &[u8]) -> bool {
    batch.encoded().windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn an_erased_trace_leaves_its_place_and_none_of_its_bytes() {
    let whole = shared_batch();
    let second = TraceId::from_bytes([2; 16]).unwrap();
    for secret in [b"canary".as_slice(), b"secret", b"span-2", b"span-4", &[2; 16]] {
        assert!(holds(&whole, secret), "the test would prove nothing");
    }
    let erased = whole.without_trace(second).unwrap().unwrap();
    for secret in [b"canary".as_slice(), b"secret", b"span-2", b"span-4", &[2; 16]] {
        assert!(!holds(&erased, secret), "{}", String::from_utf8_lossy(secret));
    }
    let read = SpanBatch::decode(erased.encoded().clone()).unwrap();
    assert_eq!((read.traces().len(), read.contexts().len()), (3, 2));
    assert!(read.traces()[1].is_erased() && !read.traces()[2].is_erased());
    let envelope = Arc::new(whole.envelope());
    for place in [0, 2] {
        let spans = |batch: &SpanBatch| -> Vec<_> {
            let spans = batch.spans_of(&batch.traces()[place]).iter();
            spans.map(|span| batch.stored_span(span, &envelope).unwrap()).collect()
        };
        assert_eq!(spans(&read), spans(&whole), "record {place} is as it was");
        assert_eq!(read.traces()[place].trace_id, whole.traces()[place].trace_id);
    }
    assert!(read.without_trace(second).unwrap().is_none());
}

#[test]
fn several_traces_can_be_erased_from_one_batch_whatever_ids_senders_choose() {
    // The ids that stand in erased places, as a sender may have chosen them too.
    let like_erased = |tail: u64| {
        let mut bytes = [0xff; 16];
        bytes[8..].copy_from_slice(&tail.to_be_bytes());
        TraceId::from_bytes(bytes).unwrap()
    };
    let ids: Vec<TraceId> = (0..6).map(like_erased).collect();
    let spans: Vec<_> = (1..=6).map(|id| span(9, id, "op")).collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(vec![]);
    let scope = builder.add_scope(resource, vec![]);
    for (trace_id, bytes) in ids.iter().zip(&spans) {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, bytes);
    }
    let mut batch = builder.finish(source()).unwrap();
    for (turn, trace_id) in ids.iter().enumerate() {
        batch = batch.without_trace(*trace_id).unwrap().unwrap();
        batch = SpanBatch::decode(batch.encoded().clone()).unwrap();
        let places: std::collections::BTreeSet<_> =
            batch.traces().iter().map(|trace| trace.trace_id).collect();
        assert_eq!((batch.traces().len(), places.len()), (6, 6));
        let left = batch.traces().iter().filter(|trace| !trace.is_erased());
        assert_eq!(left.map(|trace| trace.trace_id).collect::<Vec<_>>(), ids[turn + 1..]);
    }
    assert!(batch.spans().is_empty() && batch.contexts().is_empty());
}
