//! What stands beside the spans of a record: its key, which names the partition, and the header
//! `farspan`, which carries what OTLP has no field for. Pure.
//!
//! ```text
//! key:    trace id [16] | tenant (text to the end)
//! header: version u8 = 1 | tenant | region | collector       (each: length as varint, text)
//!         receive time u64 LE | digest u64 LE | threshold varint | part varint
//! ```
//!
//! A new release reads every version that an old one wrote; readers are upgraded before writers.

use proto::BatchSource;
use proto::wire::{WireError, put_varint, read_varint};
use trace_model::sampling_threshold::Threshold;
use trace_model::{Region, TenantId, TraceId, UnixNanos};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::record::RecordFault;

/// Name of the header.
pub(crate) const HEADER: &str = "farspan";
const VERSION: u8 = 1;
/// Versions that a later release may write. A first byte beyond is not ours.
const VERSION_MAX: u8 = 31;
const TRACE_ID_BYTES: usize = 16;

/// The envelope of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// Where it comes from; the digest is the request's.
    pub(crate) source: BatchSource,
    /// The head-sampling threshold that the trace passed.
    pub(crate) threshold: Threshold,
    /// Which part of its request's spans of the trace this is, from 0.
    pub(crate) part: u64,
}

/// The key of a trace's records.
pub(crate) fn key_of(tenant: &TenantId, trace_id: TraceId) -> Vec<u8> {
    let mut key = Vec::with_capacity(TRACE_ID_BYTES + tenant.as_str().len());
    key.extend_from_slice(trace_id.as_bytes());
    key.extend_from_slice(tenant.as_str().as_bytes());
    key
}

/// The trace that a key names, if it is a key of ours.
pub(crate) fn trace_of(key: &[u8]) -> Option<(TenantId, TraceId)> {
    let (trace_id, tenant) = key.split_first_chunk::<TRACE_ID_BYTES>()?;
    let tenant = TenantId::new(std::str::from_utf8(tenant).ok()?).ok()?;
    Some((tenant, TraceId::from_bytes(*trace_id).ok()?))
}

/// The partition of a key: what Kafka's Java client and librdkafka's `murmur2` partitioner give.
pub(crate) fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// `MurmurHash2` as Kafka seeds it. (`org.apache.kafka.common.utils.Utils.murmur2`.)
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        mixed = (mixed ^ (mixed >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ mixed;
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The digest by which readers know a part again. Parts of one trace differ, or the second would
/// count as a repeat of the first.
pub(crate) fn digest_of_part(digest: u64, part: u64) -> u64 {
    if part == 0 { digest } else { xxh3_64_with_seed(&digest.to_le_bytes(), part) }
}

impl Envelope {
    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let BatchSource { tenant, region, collector, receive_time, digest } = &self.source;
        let texts = [tenant.as_str(), region.as_str(), collector];
        let length: usize = texts.iter().map(|text| text.len() + 2).sum();
        let mut header = Vec::with_capacity(length + 32);
        header.push(VERSION);
        for text in texts {
            put_varint(&mut header, text.len() as u64);
            header.extend_from_slice(text.as_bytes());
        }
        header.extend_from_slice(&receive_time.0.to_le_bytes());
        header.extend_from_slice(&digest.to_le_bytes());
        put_varint(&mut header, self.threshold.to_bits());
        put_varint(&mut header, self.part);
        header
    }

    /// Reads a header.
    pub(crate) fn decode(header: &[u8]) -> Result<Self, RecordFault> {
        let (version, mut rest) = header.split_first().ok_or(RecordFault::Envelope)?;
        match *version {
            VERSION => {}
            version if version > VERSION && version <= VERSION_MAX => {
                return Err(RecordFault::Newer(version));
            }
            _ => return Err(RecordFault::Envelope),
        }
        let tenant = TenantId::new(take_text(&mut rest)?).map_err(|_| RecordFault::Envelope)?;
        let region = Region::new(take_text(&mut rest)?).map_err(|_| RecordFault::Envelope)?;
        let collector = take_text(&mut rest)?.into();
        let receive_time = UnixNanos(take_u64(&mut rest)?);
        let digest = take_u64(&mut rest)?;
        let threshold = Threshold::from_bits(take_varint(&mut rest)?);
        let part = take_varint(&mut rest)?;
        if !rest.is_empty() {
            return Err(RecordFault::Envelope);
        }
        let source = BatchSource { tenant, region, collector, receive_time, digest };
        Ok(Self { source, threshold, part })
    }
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let (value, after) = read_varint(rest)?;
    *rest = after;
    Ok(value)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, WireError> {
    let (bytes, after) = rest.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
    *rest = after;
    Ok(u64::from_le_bytes(*bytes))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, WireError> {
    let length = usize::try_from(take_varint(rest)?).map_err(|_| WireError::Truncated)?;
    let (text, after) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| WireError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope() -> Envelope {
        let source = BatchSource {
            tenant: TenantId::new("team-a").unwrap(),
            region: Region::new("eu-west-1").unwrap(),
            collector: "collector-1".into(),
            receive_time: UnixNanos(1_790_000_000_000_000_000),
            digest: 0xfedc_ba98_7654_3210,
        };
        Envelope { source, threshold: Threshold::from_rate(0.25).unwrap(), part: 3 }
    }

    #[test]
    fn the_partition_is_the_one_that_kafkas_own_clients_choose() {
        // Values of Kafka's UtilsTest.
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash.cast_unsigned(), "{text}");
        }
        assert_eq!(partition_of(b"21", 1), 0);
    }

    #[test]
    fn a_key_names_its_trace_and_another_tenant_has_another_key() {
        let trace_id = TraceId::from_bytes([7; 16]).unwrap();
        let tenant = TenantId::new("a").unwrap();
        let key = key_of(&tenant, trace_id);
        assert_eq!(trace_of(&key), Some((tenant, trace_id)));
        assert_ne!(key, key_of(&TenantId::new("b").unwrap(), trace_id));
        for foreign in [&b""[..], &[7; 16], &[0; 20], b"0123456789abcdef\xff", b"no key of ours, ?"]
        {
            assert_eq!(trace_of(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn an_envelope_comes_back_and_a_newer_one_is_named() {
        let mut header = envelope().encode();
        assert_eq!(Envelope::decode(&header), Ok(envelope()));
        header.push(0);
        assert_eq!(Envelope::decode(&header), Err(RecordFault::Envelope));
        header[0] = 2;
        assert_eq!(Envelope::decode(&header), Err(RecordFault::Newer(2)));
        for foreign in [&[][..], &[0], b"text"] {
            assert_eq!(Envelope::decode(foreign), Err(RecordFault::Envelope));
        }
    }

    #[test]
    fn parts_have_digests_of_their_own() {
        let digests: Vec<u64> = (0..4).map(|part| digest_of_part(9, part)).collect();
        assert_eq!(digests[0], 9);
        assert!(digests.iter().skip(1).all(|digest| *digest != 9));
        assert_ne!(digests[1], digests[2]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_envelope_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(Envelope::decode(&bytes));
            let mut ours = envelope().encode();
            ours.truncate(bytes.len());
            prop_assert!(Envelope::decode(&ours).is_err() || ours == envelope().encode());
        }
    }
}
