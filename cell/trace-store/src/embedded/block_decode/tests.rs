use std::sync::Arc;

use proptest::prelude::*;
use trace_model::TraceId;
use trace_model::merge::Envelope;
use trace_model::sampling_threshold::Threshold;

use super::*;
use crate::embedded::block_encode::{BlockEncoder, Row};
use crate::embedded::index_build::IndexBuilder;

fn envelope() -> Arc<Envelope> {
    Arc::new(Envelope {
        receive_time: UnixNanos(1_790_000_000_000_000_000),
        region: trace_model::Region::new("eu-west-1").unwrap(),
        collector: "c".into(),
    })
}

fn facts(trace: u8, id: u8) -> RowFacts {
    RowFacts {
        trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
        span_id: SpanId::from_bytes([id; 8]).unwrap(),
        start: u64::from(id) * 1_000,
        end: u64::from(id) * 900,
    }
}

/// A block of such traces; the bytes of a span need not be a span.
fn encode(traces: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut encoder = BlockEncoder::new().unwrap();
    let mut index = IndexBuilder::new();
    index.add_context(&"web".into(), Vec::new());
    let source = Source { envelope: envelope(), threshold: Threshold::KEEP_ALL };
    for (trace, spans) in (1_u8..).zip(traces) {
        let rows: Vec<Row<'_>> = (1_u8..)
            .zip(spans)
            .map(|(id, bytes)| Row {
                bytes,
                facts: facts(trace, id),
                kind: 0,
                status: 0,
                context: 0,
                source: &source,
                placed: 5,
            })
            .collect();
        encoder.push_trace(0, facts(trace, 1).trace_id, &rows, &mut index);
    }
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes).unwrap();
    bytes
}

fn read_all(bytes: Vec<u8>) -> Result<Vec<Vec<Vec<u8>>>, Corrupt> {
    let mut block = Block::open(bytes)?;
    let mut traces = Vec::new();
    for run in block.traces.clone() {
        let rows = block.rebuild(&run, run.first..run.first + run.rows)?;
        traces.push(rows.iter().map(|row| row.bytes.to_vec()).collect());
    }
    Ok(traces)
}

/// Each trace out of a block of which nothing else is read.
fn read_alone(bytes: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, Corrupt> {
    let runs = Block::open(bytes.to_vec())?.traces;
    let mut traces = Vec::new();
    for run in runs {
        let rows = Block::open(bytes.to_vec())?.rebuild_alone(&run)?;
        traces.push(rows.iter().map(|row| row.bytes.to_vec()).collect());
    }
    Ok(traces)
}

/// Fields that a span may have, in any order and any number, and noise.
fn any_span() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just(b"\x2a\x02op".to_vec()),
        Just(b"\x22\x08\x01\x01\x01\x01\x01\x01\x01\x01".to_vec()),
        Just(b"\x22\x08\x09\x09\x09\x09\x09\x09\x09\x09".to_vec()),
        Just(b"\x4a\x08\x0a\x01a\x12\x03\x0a\x01x".to_vec()),
        Just(b"\x4a\x07\x0a\x01a\x12\x02\x18\x05".to_vec()),
        Just(b"\x30\x03".to_vec()),
        Just(b"\x5a\x09\x09\x01\x02\x03\x04\x05\x06\x07\x08".to_vec()),
        Just(b"\xfa\x07\x01\x09".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(field, 0..6).prop_map(|fields| fields.concat())
}

fn any_traces() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let spans = proptest::collection::vec(any_span(), 1..8);
    proptest::collection::vec(spans, 1..6)
}

proptest! {
    #[test]
    fn a_block_gives_back_every_byte(traces in any_traces()) {
        let bytes = encode(&traces);
        prop_assert_eq!(&read_alone(&bytes).unwrap(), &traces);
        prop_assert_eq!(read_all(bytes).unwrap(), traces);
    }

    #[test]
    fn a_damaged_block_is_an_error_or_other_bytes_and_never_a_panic(
        traces in any_traces(), at in any::<prop::sample::Index>(), flip in 1_u8..
    ) {
        let mut bytes = encode(&traces);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        drop(read_alone(&bytes));
        drop(read_all(bytes));
    }
}
