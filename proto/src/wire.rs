//! A zero-copy walk over protobuf's wire format, and over OTLP's trace messages in particular (`otlp`).
//!
//! Nothing is allocated and nothing is decoded that was not asked for: a field is a number and a
//! slice of the input. Malformed input is an error, never a panic, and no length is trusted before
//! it is checked against what is there.
//! Source: Protocol Buffers, *Encoding*.

mod otlp;

pub use self::otlp::{SpanHeader, service_name, string_of, tags};

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A varint of more than ten bytes.
    #[error("a varint longer than ten bytes")]
    VarintTooLong,
    /// A field number of zero or a wire type that does not exist.
    #[error("a field tag that does not exist")]
    BadTag,
    /// A field has another wire type than its schema says.
    #[error("a field of the wrong wire type")]
    WrongType,
    /// A text is not UTF-8.
    #[error("a string that is not UTF-8")]
    NotUtf8,
    /// Messages are nested too deeply.
    #[error("messages nested too deeply")]
    TooDeep,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire types 3 and 4, deprecated groups: the bytes between the two tags.
    Group(&'a [u8]),
}

/// A field as it stands in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// The field's number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Tag and value as they stand: what is copied when a message is cut apart.
    pub raw: &'a [u8],
}

/// The fields of a message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Deepest nesting of groups that is skipped over.
const GROUP_DEPTH_MAX: usize = 32;

/// The fields of a message.
#[must_use]
pub const fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<FieldRef<'a>, WireError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest;
        match read_field(start) {
            Ok((number, value, rest)) => {
                self.rest = rest;
                let raw = start.get(..start.len().saturating_sub(rest.len())).unwrap_or(start);
                Some(Ok(FieldRef { number, value, raw }))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

#[inline(always)]
fn read_field(input: &[u8]) -> Result<(u32, Value<'_>, &[u8]), WireError> {
    let (tag, rest) = read_varint(input)?;
    let number = field_number(tag)?;
    let (value, rest) = read_value(tag & 7, number, rest)?;
    Ok((number, value, rest))
}

#[inline(always)]
fn field_number(tag: u64) -> Result<u32, WireError> {
    let number = u32::try_from(tag >> 3).map_err(|_| WireError::BadTag)?;
    if number == 0 || number > 0x1fff_ffff {
        return Err(WireError::BadTag);
    }
    Ok(number)
}

#[inline(always)]
fn read_value(wire_type: u64, number: u32, rest: &[u8]) -> Result<(Value<'_>, &[u8]), WireError> {
    match wire_type {
        0 => {
            let (value, rest) = read_varint(rest)?;
            Ok((Value::Varint(value), rest))
        }
        1 => {
            let (bytes, rest) = rest.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
            Ok((Value::Fixed64(u64::from_le_bytes(*bytes)), rest))
        }
        2 => {
            let (length, rest) = read_varint(rest)?;
            let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
            let (bytes, rest) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
            Ok((Value::Bytes(bytes), rest))
        }
        3 => {
            let (bytes, rest) = skip_group(rest, number, 0)?;
            Ok((Value::Group(bytes), rest))
        }
        5 => {
            let (bytes, rest) = rest.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
            Ok((Value::Fixed32(u32::from_le_bytes(*bytes)), rest))
        }
        _ => Err(WireError::BadTag),
    }
}

/// Reads one varint; gives it and the rest.
#[inline(always)]
pub fn read_varint(input: &[u8]) -> Result<(u64, &[u8]), WireError> {
    match input {
        [first, rest @ ..] if *first < 0x80 => Ok((u64::from(*first), rest)),
        [first, second, rest @ ..] if *second < 0x80 => {
            Ok((u64::from(*first & 0x7f) | (u64::from(*second) << 7), rest))
        }
        _ => read_long_varint(input),
    }
}

#[cold]
#[inline(never)]
fn read_long_varint(input: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut value = 0_u64;
    for (place, byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            if place == 9 && *byte > 1 {
                return Err(WireError::VarintTooLong);
            }
            return Ok((value, input.get(place + 1..).unwrap_or(&[])));
        }
    }
    Err(if input.len() < 10 { WireError::Truncated } else { WireError::VarintTooLong })
}

/// The content of a group up to its end tag, and the rest behind it.
#[cold]
#[inline(never)]
fn skip_group(input: &[u8], number: u32, depth: usize) -> Result<(&[u8], &[u8]), WireError> {
    if depth > GROUP_DEPTH_MAX {
        return Err(WireError::TooDeep);
    }
    let mut rest = input;
    loop {
        let content = input.len().saturating_sub(rest.len());
        let (tag, after_tag) = read_varint(rest)?;
        let found = field_number(tag)?;
        match tag & 7 {
            4 if found == number => return Ok((input.get(..content).unwrap_or(&[]), after_tag)),
            4 => return Err(WireError::BadTag),
            3 => rest = skip_group(after_tag, found, depth + 1)?.1,
            wire_type => rest = read_value(wire_type, found, after_tag)?.1,
        }
    }
}

/// Writes a varint.
#[inline]
pub fn put_varint(output: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        output.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    output.push((value & 0x7f) as u8);
}

/// Bytes that [`put_varint`] writes.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    // Seven bits a byte, and one byte for 0.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Writes a length-delimited field.
pub fn put_bytes_field(output: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_field_start(output, number, bytes.len());
    output.extend_from_slice(bytes);
}

/// Writes what stands before the content of a length-delimited field.
pub fn put_field_start(output: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(output, u64::from(number) << 3 | 2);
    put_varint(output, length as u64);
}

/// Bytes of a length-delimited field with a content of this length.
#[must_use]
pub const fn bytes_field_len(number: u32, length: usize) -> usize {
    varint_len((number as u64) << 3) + varint_len(length as u64) + length
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field.
    #[inline]
    pub const fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// The text of a length-delimited field.
    #[inline]
    pub fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8)
    }

    /// A fixed 64-bit number.
    #[inline]
    pub const fn fixed64(self) -> Result<u64, WireError> {
        match self {
            Value::Fixed64(value) => Ok(value),
            Value::Varint(_) | Value::Bytes(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// A fixed 32-bit number.
    #[inline]
    pub const fn fixed32(self) -> Result<u32, WireError> {
        match self {
            Value::Fixed32(value) => Ok(value),
            Value::Varint(_) | Value::Fixed64(_) | Value::Bytes(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }

    /// A varint.
    #[inline]
    pub const fn varint(self) -> Result<u64, WireError> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Fixed64(_) | Value::Bytes(_) | Value::Fixed32(_) | Value::Group(_) => {
                Err(WireError::WrongType)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_fields_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut raw = Vec::new();
            let mut failed = false;
            for field in fields(&bytes) {
                match field {
                    Ok(field) => raw.extend_from_slice(field.raw),
                    Err(_) => failed = true,
                }
            }
            prop_assert!(failed || raw == bytes);
            prop_assert!(bytes.starts_with(&raw));
        }

        #[test]
        fn varints_round_trip(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(read_varint(&bytes), Ok((value, &[][..])));
            prop_assert_eq!(bytes.len(), varint_len(value));
        }

        #[test]
        fn the_length_of_a_field_is_known_before_it_is_written(
            number in 1_u32..3_000,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut output = Vec::new();
            put_bytes_field(&mut output, number, &bytes);
            prop_assert_eq!(output.len(), bytes_field_len(number, bytes.len()));
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_truncated() {
        assert_eq!(SpanHeader::read(&[0x0a, 0xff, 0x01]), Err(WireError::Truncated));
        assert_eq!(read_varint(&[0xff; 10]), Err(WireError::VarintTooLong));
    }

    #[test]
    fn groups_are_skipped_and_bounded() {
        let mut deep = vec![0x0b; 100];
        deep.extend(vec![0x0c; 100]);
        assert_eq!(fields(&deep).next(), Some(Err(WireError::TooDeep)));
        let shallow = [0x0b, 0x10, 0x01, 0x0c, 0x10, 0x02];
        let numbers: Vec<_> =
            fields(&shallow).map(|field| field.map(|field| field.number)).collect();
        assert_eq!(numbers, [Ok(1), Ok(2)]);
    }
}
