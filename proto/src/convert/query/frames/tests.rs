use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::wire::put_bytes_field;

fn trace(number: u8) -> TraceId {
    TraceId::from_bytes([number; 16]).unwrap()
}

fn span_bytes(trace: u8, id: u16, filler: usize) -> Bytes {
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, 1, &[trace; 16]);
    let [high, low] = id.to_be_bytes();
    put_bytes_field(&mut bytes, 2, &[1, 0, 0, 0, 0, 0, high, low]);
    put_bytes_field(&mut bytes, 5, &vec![b'n'; filler]);
    Bytes::from(bytes)
}

fn stored(id: u16, context: u8, envelope: u8, filler: usize) -> StoredSpan {
    let mut scope = Vec::new();
    put_bytes_field(&mut scope, 3, &[b'a' + context]);
    let context = ScopeContext {
        resource: Bytes::from_static(b""),
        scope: Bytes::from(scope),
        service: UNKNOWN_SERVICE.into(),
    };
    let span = span_bytes(9, id, filler);
    let hash = context_hash(&context.resource, &context.scope);
    StoredSpan {
        key: key_of(&span, hash, trace(9)).unwrap(),
        span,
        context: Arc::new(context),
        envelope: Arc::new(Envelope {
            receive_time: UnixNanos(u64::from(envelope)),
            region: Region::new("eu").unwrap(),
            collector: "c".into(),
        }),
    }
}

fn unpack_all(frames: Vec<v1::FindTraceResponse>) -> Vec<StoredSpan> {
    frames.into_iter().flat_map(|frame| unpack_frame(frame, trace(9)).unwrap()).collect()
}

proptest! {
    #[test]
    fn spans_cross_the_wire_unchanged_in_frames_of_bounded_size(
        rows in proptest::collection::vec((any::<u16>(), 0_u8..3, 0_u8..3, 0_usize..60_000), 0..40)
    ) {
        let spans: Vec<StoredSpan> = rows
            .iter()
            .map(|(id, context, envelope, filler)| stored(*id, *context, *envelope, *filler))
            .collect();
        let frames: Vec<_> = FramePacker::new(trace(9), spans.clone().into_iter()).collect();
        for frame in &frames {
            prop_assert!(frame.encoded_len() < FRAME_BYTES_TARGET + 1024);
            prop_assert!(!frame.spans.is_empty());
        }
        prop_assert_eq!(unpack_all(frames), spans);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(frame) = v1::FindTraceResponse::decode(noise.as_slice()) {
            drop(unpack_frame(frame, trace(9)));
        }
    }
}

#[test]
fn a_span_larger_than_a_frame_travels_alone() {
    let spans = vec![stored(1, 0, 0, 10), stored(2, 0, 0, FRAME_BYTES_TARGET * 2)];
    let frames: Vec<_> = FramePacker::new(trace(9), spans.clone().into_iter()).collect();
    assert_eq!(frames.len(), 2);
    assert_eq!(unpack_all(frames), spans);
}

#[test]
fn a_frame_shares_its_tables() {
    let one = stored(1, 0, 0, 10);
    let two = StoredSpan { span: span_bytes(9, 2, 10), ..one.clone() };
    let frames: Vec<_> = FramePacker::new(trace(9), [one, two].into_iter()).collect();
    assert_eq!(frames.len(), 1);
    let frame = &frames[0];
    assert_eq!((frame.resources.len(), frame.scopes.len(), frame.envelopes.len()), (1, 1, 1));
}

#[test]
fn another_traces_frame_and_another_traces_span_are_refused() {
    let frame = FramePacker::new(trace(9), std::iter::once(stored(1, 0, 0, 5))).next().unwrap();
    assert_eq!(unpack_frame(frame.clone(), trace(8)), Err(InvalidFrame::OtherTrace));
    let mut foreign = frame;
    foreign.spans[0].span = span_bytes(8, 1, 5);
    assert_eq!(unpack_frame(foreign, trace(9)), Err(InvalidFrame::OtherTracesSpan));
}

#[test]
fn an_index_outside_of_the_tables_is_refused() {
    let frame = FramePacker::new(trace(9), std::iter::once(stored(1, 0, 0, 5))).next().unwrap();
    let mut scope = frame.clone();
    scope.spans[0].scope = 7;
    assert_eq!(unpack_frame(scope, trace(9)), Err(InvalidFrame::Index));
    let mut envelope = frame.clone();
    envelope.spans[0].envelope = u32::MAX;
    assert_eq!(unpack_frame(envelope, trace(9)), Err(InvalidFrame::Index));
    let mut resource = frame;
    resource.scopes[0].resource = 1;
    assert_eq!(unpack_frame(resource, trace(9)), Err(InvalidFrame::Index));
}
