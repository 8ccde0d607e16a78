//! Columns of numbers: frame of reference (the least value and offsets from it, in as many bytes as
//! the largest needs), the bytes of one weight together, so that the compressor sees the constant
//! high bytes as runs.
//!
//! Encoded: count, least value (varints), width in bytes (0 to 8), then `width` planes of `count`
//! bytes, least weight first.

use proto::wire::put_varint;

use super::cursor::{Corrupt, Cursor};

/// Most numbers in a column: a block holds a few thousand rows of at most 1,024 attributes.
const COUNT_MAX: usize = 1 << 24;

/// Appends the column.
pub(crate) fn encode(values: &[u64], output: &mut Vec<u8>) {
    let least = values.iter().copied().min().unwrap_or(0);
    let span = values.iter().copied().max().unwrap_or(0) - least;
    let width = u8::try_from((64 - span.leading_zeros()).div_ceil(8)).unwrap_or(8);
    put_varint(output, values.len() as u64);
    put_varint(output, least);
    output.push(width);
    for plane in 0..width {
        let shift = plane * 8;
        output.extend(values.iter().map(|value| low_byte((value - least) >> shift)));
    }
}

/// Reads a column.
pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Vec<u64>, Corrupt> {
    let count = cursor.length()?;
    let least = cursor.varint()?;
    let width = cursor.byte()?;
    if count > COUNT_MAX || width > 8 {
        return Err(Corrupt("a column of numbers that cannot be"));
    }
    let mut values = vec![least; count];
    for plane in 0..width {
        let shift = plane * 8;
        for (value, byte) in values.iter_mut().zip(cursor.take(count)?) {
            *value = value.wrapping_add(u64::from(*byte) << shift);
        }
    }
    Ok(values)
}

#[inline]
fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}

/// Signed to unsigned, small magnitudes first.
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Back from [`zigzag`].
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(values in proptest::collection::vec(any::<u64>(), 0..50), shift in 0_u32..64) {
            let values: Vec<u64> = values.into_iter().map(|value| value >> shift).collect();
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(decode(&mut cursor).unwrap(), values);
            prop_assert_eq!(cursor.remaining(), 0);
        }

        #[test]
        fn signs_round_trip(value in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }

        #[test]
        fn any_bytes_are_numbers_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(decode(&mut Cursor::new(&bytes)));
        }
    }

    #[test]
    fn a_constant_column_takes_no_space_per_value() {
        let mut bytes = Vec::new();
        encode(&[7; 2_000], &mut bytes);
        assert!(bytes.len() <= 4);
    }
}
