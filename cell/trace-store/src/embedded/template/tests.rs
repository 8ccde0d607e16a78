use proptest::prelude::*;

use super::put::put_field;
use super::*;
use proto::wire::put_varint;

fn facts() -> RowFacts {
    RowFacts {
        trace_id: TraceId::from_bytes([3; 16]).unwrap(),
        span_id: SpanId::from_bytes([4; 8]).unwrap(),
        start: 1_700_000_000_000_000_000,
        end: 1_700_000_000_000_500_000,
    }
}

fn round_trip(span: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    read_parts(span, &facts(), &mut parts);
    let mut output = Vec::new();
    for part in &parts {
        put_part(&mut output, part, &facts());
    }
    output
}

/// A varint with needless bytes behind.
fn long_varint(value: u64, extra: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, value);
    for _ in 0..extra {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(0);
    }
    bytes
}

/// A field of any number, type and encoding, canonical or not.
fn any_field() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..20);
    (1_u64..20, 0_usize..6, payload, any::<u64>(), 0_usize..2, 0_usize..2).prop_map(
        |(number, wire_type, payload, value, long_tag, long_length)| {
            let wire_type = [0_u64, 1, 2, 3, 5, 2][wire_type];
            let mut bytes = long_varint(number << 3 | wire_type, long_tag);
            match wire_type {
                0 => bytes.extend(long_varint(value >> (value % 60), long_length)),
                1 => bytes.extend(value.to_le_bytes()),
                2 => {
                    bytes.extend(long_varint(payload.len() as u64, long_length));
                    bytes.extend(payload);
                }
                3 => put_varint(&mut bytes, number << 3 | 4),
                _ => bytes.extend(&value.to_le_bytes()[..4]),
            }
            bytes
        },
    )
}

/// A field as a sender would write it.
fn usual_field() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        "[a-z]{0,12}".prop_map(|text| {
            let mut bytes = Vec::new();
            put_field(&mut bytes, 0x0a, text.as_bytes());
            bytes
        }),
        any::<u64>().prop_map(|number| [vec![0x18], long_varint(number, 0)].concat()),
        any::<u64>().prop_map(|bits| [vec![0x21], bits.to_le_bytes().to_vec()].concat()),
        any::<bool>().prop_map(|flag| vec![0x10, u8::from(flag)]),
        Just(vec![]),
        Just(vec![0x2a, 0]),
        Just(vec![0x3a, 2, 9, 9]),
    ];
    let attribute = ("[a-z.]{0,9}", value).prop_map(|(key, value)| {
        let mut payload = Vec::new();
        put_field(&mut payload, 0x0a, key.as_bytes());
        put_field(&mut payload, 0x12, &value);
        let mut bytes = Vec::new();
        put_field(&mut bytes, 0x4a, &payload);
        bytes
    });
    let fixed = prop_oneof![
        Just([vec![0x0a, 16], vec![3; 16]].concat()),
        Just([vec![0x12, 8], vec![4; 8]].concat()),
        Just([vec![0x22, 8], vec![7; 8]].concat()),
        Just(vec![0x22, 0]),
        Just([vec![0x2a, 2], b"op".to_vec()].concat()),
        Just(vec![0x30, 3]),
        Just([vec![0x39], facts().start.to_le_bytes().to_vec()].concat()),
        Just([vec![0x41], facts().end.to_le_bytes().to_vec()].concat()),
        Just([vec![0x5a, 12, 0x09], 77_u64.to_le_bytes().to_vec(), b"\x12\x01x".to_vec()].concat()),
        Just(vec![0x6a, 2, 0x0a, 0]),
        Just(vec![0x7a, 0]),
        Just(vec![0x7a, 2, 0x18, 2]),
        Just(vec![0x7a, 5, 0x12, 1, b'm', 0x18, 2]),
        Just(vec![0x85, 0x01, 1, 1, 0, 0]),
        Just(vec![0x50, 9]),
    ];
    prop_oneof![attribute, fixed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_sequence_of_fields_comes_back_byte_for_byte(
        list in proptest::collection::vec(prop_oneof![any_field(), usual_field()], 0..12)
    ) {
        let span = list.concat();
        prop_assert_eq!(round_trip(&span), span);
    }

    #[test]
    fn any_bytes_come_back_byte_for_byte(span in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(round_trip(&span), span);
    }

    #[test]
    fn what_senders_usually_write_is_taken_apart(
        list in proptest::collection::vec(usual_field(), 1..6)
    ) {
        let span = list.concat();
        let mut parts = Vec::new();
        read_parts(&span, &facts(), &mut parts);
        let is_repeated = |field: &Vec<u8>| [0x4a, 0x5a, 0x6a].contains(&field[0]);
        let mut scalars: Vec<u8> =
            list.iter().filter(|field| !is_repeated(field)).map(|field| field[0]).collect();
        scalars.sort_unstable();
        if scalars.windows(2).all(|pair| pair[0] != pair[1]) {
            prop_assert_eq!(parts.len(), list.len());
            prop_assert!(parts.iter().all(|part| part.tag.code != Code::Whole));
        }
        prop_assert_eq!(round_trip(&span), span);
    }
}

#[test]
fn an_integer_keeps_its_order_in_the_column() {
    let bits = |value: i64| value.cast_unsigned() ^ SIGN;
    assert!(bits(-5) < bits(-1) && bits(-1) < bits(0) && bits(0) < bits(9));
}
