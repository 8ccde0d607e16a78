//! Columns of numbers: frame of reference (the least value and offsets from it, in as many bytes as
//! the largest needs), the bytes of one weight together, so that the compressor sees the constant
//! high bytes as runs.
//!
//! Encoded: count, least value (varints), width in bytes (0 to 8), then `width` planes of `count`
//! bytes, least weight first.

use std::ops::Range;

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
    let planes = Planes::read(cursor)?;
    planes.window(0..planes.count)
}

/// A column in its bytes, for those who want few of its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes<'a> {
    pub(crate) count: usize,
    least: u64,
    /// One after the other, least weight first.
    bytes: &'a [u8],
}

impl<'a> Planes<'a> {
    pub(crate) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Corrupt> {
        let count = cursor.length()?;
        let least = cursor.varint()?;
        let width = cursor.byte()?;
        if count > COUNT_MAX || width > 8 {
            return Err(Corrupt("a column of numbers that cannot be"));
        }
        Ok(Self { count, least, bytes: cursor.take(count * usize::from(width))? })
    }

    fn planes(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        (0..).step_by(8).zip(self.bytes.chunks_exact(self.count.max(1)))
    }

    /// Some numbers side by side.
    pub(crate) fn window(&self, window: Range<usize>) -> Result<Vec<u64>, Corrupt> {
        let beyond = Corrupt("a column too short");
        let length = window.end.checked_sub(window.start).ok_or(beyond)?;
        if window.end > self.count {
            return Err(beyond);
        }
        let mut values = vec![self.least; length];
        for (shift, plane) in self.planes() {
            let bytes = plane.get(window.clone()).ok_or(beyond)?;
            for (value, byte) in values.iter_mut().zip(bytes) {
                *value = value.wrapping_add(u64::from(*byte) << shift);
            }
        }
        Ok(values)
    }

    /// One number.
    pub(crate) fn get(&self, place: usize) -> Result<u64, Corrupt> {
        let beyond = Corrupt("a column too short");
        if place >= self.count {
            return Err(beyond);
        }
        let mut value = self.least;
        for (shift, plane) in self.planes() {
            let byte = plane.get(place).ok_or(beyond)?;
            value = value.wrapping_add(u64::from(*byte) << shift);
        }
        Ok(value)
    }

    /// How many of the first so many are 0.
    pub(crate) fn zeros_before(&self, place: usize) -> usize {
        let place = place.min(self.count);
        if self.least != 0 {
            return 0;
        }
        let mut planes = self.planes().map(|(_, plane)| plane.get(..place).unwrap_or(&[]));
        let Some(lowest) = planes.next() else { return place };
        let Some(next) = planes.next() else { return count_zeros(lowest.iter().copied()) };
        let rest: Vec<&[u8]> = planes.collect();
        if rest.is_empty() {
            return count_zeros(lowest.iter().zip(next).map(|(low, high)| low | high));
        }
        let others =
            |at: usize| rest.iter().filter_map(|plane| plane.get(at)).fold(0, |a, b| a | b);
        let pairs = lowest.iter().zip(next).enumerate();
        count_zeros(pairs.map(|(at, (low, high))| low | high | others(at)))
    }

    /// The sum of the first so many.
    pub(crate) fn sum_before(&self, place: usize) -> u64 {
        let place = place.min(self.count);
        let mut sum = self.least.wrapping_mul(place as u64);
        for (shift, plane) in self.planes() {
            let bytes = plane.get(..place).unwrap_or(&[]);
            let of_plane: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            sum = sum.wrapping_add(of_plane << shift);
        }
        sum
    }
}

fn count_zeros(bytes: impl Iterator<Item = u8>) -> usize {
    bytes.filter(|byte| *byte == 0).count()
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
        fn numbers_read_few_at_a_time_are_those_read_at_once(
            values in proptest::collection::vec(0_u64..4, 1..50),
            shift in 0_u32..60,
            lift in 0_u64..2,
            ends in (0_usize..50, 0_usize..50),
        ) {
            let values: Vec<u64> = values.into_iter().map(|value| (value << shift) + lift).collect();
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);
            let planes = Planes::read(&mut Cursor::new(&bytes)).unwrap();
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let expected = values.get(first..last);
            let window = planes.window(first..last).ok();
            prop_assert_eq!(window.as_deref(), expected);
            prop_assert_eq!(planes.get(first).ok(), values.get(first).copied());
            let before = values.iter().take(first);
            prop_assert_eq!(planes.zeros_before(first), before.clone().filter(|value| **value == 0).count());
            prop_assert_eq!(planes.sum_before(first), before.fold(0, |sum: u64, value| sum.wrapping_add(*value)));
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
