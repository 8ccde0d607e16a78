use proptest::prelude::*;
use proto::{BatchSource, SpanBatchBuilder};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId};

use super::*;

const BINDING: Binding = Binding { salt: 11, segment: 3 };

/// A batch with one span for each name, each of its own trace.
fn batch(names: &[Vec<u8>]) -> Arc<SpanBatch> {
    let rows: Vec<(TraceId, Vec<u8>)> = (1_u8..)
        .zip(names)
        .map(|(number, name)| {
            let mut span = Vec::new();
            proto::wire::put_bytes_field(&mut span, 1, &[number; 16]);
            proto::wire::put_bytes_field(&mut span, 2, &[number; 8]);
            proto::wire::put_bytes_field(&mut span, 5, name);
            (TraceId::from_bytes([number; 16]).unwrap(), span)
        })
        .collect();
    let mut builder = SpanBatchBuilder::new();
    let resource = builder.add_resource(Vec::new());
    let scope = builder.add_scope(resource, Vec::new());
    for (trace_id, span) in &rows {
        builder.add_span(*trace_id, Threshold::KEEP_ALL, scope, span);
    }
    let source = BatchSource {
        tenant: TenantId::default(),
        region: Region::new("eu-west-1").unwrap(),
        collector: "collector-1".into(),
        receive_time: UnixNanos(5),
        digest: 1,
    };
    Arc::new(builder.finish(source).unwrap())
}

fn block(groups: &[Vec<Arc<SpanBatch>>], position: u64) -> Vec<u8> {
    let sections: Vec<Section> = groups.iter().map(|group| Section::pack(group)).collect();
    let mut bytes = Vec::new();
    let stamp = Stamp { segment_first: 30, first_offset: 40, append_time: UnixNanos(9) };
    put_block(&mut bytes, sections.iter(), BINDING, position, stamp);
    assert_eq!(bytes.len() as u64, block_bytes(sections.iter()));
    bytes
}

fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec("[ -~]{0,40}".prop_map(String::into_bytes), 1..6)
}

proptest! {
    #[test]
    fn a_block_reads_back_as_it_was_written(
        groups in proptest::collection::vec(proptest::collection::vec(names(), 1..4), 1..5)
    ) {
        let groups: Vec<Vec<Arc<SpanBatch>>> =
            groups.iter().map(|group| group.iter().map(|names| batch(names)).collect()).collect();
        let bytes = block(&groups, 8_192);
        prop_assert_eq!(bytes.len() as u64 % PAGE, 0);
        let Parsed::Header(header) = BlockHeader::parse(&bytes, BINDING, 8_192) else {
            panic!("its own header is not read");
        };
        prop_assert_eq!((header.first_offset, header.append_time), (40, UnixNanos(9)));
        prop_assert_eq!(header.segment_first, 30);
        prop_assert_eq!(header.block_bytes as usize, bytes.len());
        let mut offset = 40;
        for (place, group) in header.places(0).iter().zip(&groups) {
            prop_assert_eq!(place.first_offset, offset);
            let start = usize::try_from(place.position).unwrap();
            let stored = &bytes[start..start + place.entry.stored_bytes as usize];
            let read = unpack(&place.entry, stored).unwrap();
            prop_assert_eq!(read.len(), group.len());
            for (read, written) in read.iter().zip(group) {
                prop_assert_eq!(read.encoded(), written.encoded());
                offset += written.traces().len() as u64;
            }
        }
        prop_assert_eq!(header.next_offset(), offset);
    }

    #[test]
    fn a_block_is_none_at_another_place(position in 0_u64..64, salt in 12_u64.., segment in 4_u64..) {
        let bytes = block(&[vec![batch(&[b"op".to_vec()])]], 64 * PAGE);
        let elsewhere = BlockHeader::parse(&bytes, BINDING, position * PAGE);
        prop_assert_eq!(elsewhere, Parsed::Nothing);
        for binding in [Binding { salt, ..BINDING }, Binding { segment, ..BINDING }] {
            prop_assert_eq!(BlockHeader::parse(&bytes, binding, 64 * PAGE), Parsed::Nothing);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        stored_bytes in any::<u32>(), raw_bytes in 0_u32..100_000, batches in any::<u32>()
    ) {
        drop(BlockHeader::parse(&noise, BINDING, 0));
        let checksum = crc32c::crc32c(&noise);
        let entry = SectionEntry { stored_bytes, raw_bytes, records: 1, batches, checksum };
        prop_assert!(unpack(&entry, &noise).is_err());
        let fitting = SectionEntry { stored_bytes: short(noise.len()), ..entry };
        drop(unpack(&fitting, &noise));
    }
}

#[test]
fn a_header_cut_short_asks_for_the_rest_of_its_table() {
    let groups: Vec<_> = (0..300).map(|_| vec![batch(&[b"op".to_vec()])]).collect();
    let bytes = block(&groups, 0);
    let Parsed::Needs(needed) = BlockHeader::parse(&bytes[..PAGE_BYTES], BINDING, 0) else {
        panic!("a table of 300 sections does not fit a page");
    };
    assert!(matches!(BlockHeader::parse(&bytes[..needed], BINDING, 0), Parsed::Header(_)));
}

#[test]
fn what_does_not_shrink_is_kept_plain() {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..400)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from((state >> 40) % 94).unwrap() + 33
        })
        .collect();
    let noisy = batch(&[noise]);
    let section = Section::pack(&[Arc::clone(&noisy)]);
    assert!(section.entry.stored_bytes <= section.entry.raw_bytes + 4);
    let read = unpack(&section.entry, &section.stored).unwrap();
    assert_eq!(read[0].encoded(), noisy.encoded());
}
