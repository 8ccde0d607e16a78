//! The parts of a sketch out of its encoded form and back: DataDog's `sketches-java` binary
//! encoding, as far as this crate's library writes it (index mapping, zero count, one store of index
//! deltas with counts, and the exact statistics).

use super::{BUCKET_RATIO, SketchParts};
use crate::wire::{WireError, put_varint, read_varint};

/// `γ f64, index offset f64`.
const MAPPING: u8 = 0x02;
/// `count var-double` of durations that are 0.
const ZEROS: u8 = 0x04;
/// `count varint`, then for each `index delta zigzag, count var-double`.
const BUCKETS: u8 = 0x05;
const SUM: u8 = 0x84;
const MIN: u8 = 0x88;
const MAX: u8 = 0x8c;
const COUNT: u8 = 0xa0;

/// Doubles are rotated by so many bits, so that small whole numbers end in zeros.
const ROTATION: u32 = 6;
/// A var-double has at most so many bytes; the last one carries 8 bits.
const VAR_DOUBLE_BYTES_MAX: u32 = 9;

impl Default for SketchParts {
    fn default() -> Self {
        Self {
            zeros: 0,
            buckets: Vec::new(),
            shortest: f64::INFINITY,
            longest: f64::NEG_INFINITY,
            total: 0.0,
        }
    }
}

pub(super) fn read(mut bytes: &[u8]) -> Result<SketchParts, WireError> {
    let mut parts = SketchParts::default();
    while let Some((flag, rest)) = bytes.split_first() {
        bytes = rest;
        match *flag {
            MAPPING => {
                read_double(&mut bytes)?;
                read_double(&mut bytes)?;
            }
            COUNT => {
                read_count(&mut bytes)?;
            }
            ZEROS => parts.zeros = read_count(&mut bytes)?,
            SUM => parts.total = read_double(&mut bytes)?,
            MIN => parts.shortest = read_double(&mut bytes)?,
            MAX => parts.longest = read_double(&mut bytes)?,
            BUCKETS => parts.buckets = read_buckets(&mut bytes)?,
            _ => return Err(WireError::Truncated),
        }
    }
    Ok(parts)
}

pub(super) fn write(parts: &SketchParts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + parts.buckets.len() * 4);
    for (flag, value) in [(MIN, parts.shortest), (MAX, parts.longest), (SUM, parts.total)] {
        bytes.push(flag);
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.push(MAPPING);
    bytes.extend_from_slice(&BUCKET_RATIO.to_le_bytes());
    bytes.extend_from_slice(&0.0_f64.to_le_bytes());
    if parts.zeros > 0 {
        bytes.push(ZEROS);
        put_count(&mut bytes, parts.zeros);
    }
    if !parts.buckets.is_empty() {
        bytes.push(BUCKETS);
        put_varint(&mut bytes, u64::try_from(parts.buckets.len()).unwrap_or(0));
    }
    let mut last = 0_i64;
    for (bucket, count) in &parts.buckets {
        let delta = i64::from(*bucket).saturating_sub(last);
        last = i64::from(*bucket);
        put_varint(&mut bytes, zigzag(delta));
        put_count(&mut bytes, *count);
    }
    bytes
}

fn read_buckets(bytes: &mut &[u8]) -> Result<Vec<(i32, u64)>, WireError> {
    let mut buckets = Vec::new();
    let mut index = 0_i64;
    for _ in 0..take_varint(bytes)? {
        index = index.saturating_add(unzigzag(take_varint(bytes)?));
        let bucket = i32::try_from(index).map_err(|_| WireError::Truncated)?;
        buckets.push((bucket, read_count(bytes)?));
    }
    Ok(buckets)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let (value, rest) = read_varint(bytes)?;
    *bytes = rest;
    Ok(value)
}

fn read_double(bytes: &mut &[u8]) -> Result<f64, WireError> {
    let (double, rest) = bytes.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
    *bytes = rest;
    Ok(f64::from_le_bytes(*double))
}

const fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// A count as a double whose leading bits come first, seven a byte.
#[expect(clippy::cast_precision_loss, reason = "the format counts in doubles")]
fn put_count(bytes: &mut Vec<u8>, count: u64) {
    let one = 1.0_f64.to_bits();
    let mut bits = (count as f64 + 1.0).to_bits().wrapping_sub(one).rotate_left(ROTATION);
    for _ in 1..VAR_DOUBLE_BYTES_MAX {
        let [seven, ..] = bits.to_be_bytes();
        bits <<= 7;
        if bits == 0 {
            bytes.push(seven >> 1);
            return;
        }
        bytes.push(seven >> 1 | 0x80);
    }
    let [last, ..] = bits.to_be_bytes();
    bytes.push(last);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and not negative; the cast saturates"
)]
fn read_count(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut bits = 0_u64;
    let mut shift = 57_u32;
    for place in 1..=VAR_DOUBLE_BYTES_MAX {
        let (next, rest) = bytes.split_first().ok_or(WireError::Truncated)?;
        *bytes = rest;
        if place == VAR_DOUBLE_BYTES_MAX {
            bits |= u64::from(*next);
            break;
        }
        bits |= u64::from(*next & 0x7f) << shift;
        if *next < 0x80 {
            break;
        }
        shift = shift.saturating_sub(7);
    }
    let value = f64::from_bits(bits.rotate_right(ROTATION).wrapping_add(1.0_f64.to_bits())) - 1.0;
    Ok(value.round() as u64)
}
