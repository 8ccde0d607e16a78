//! Trace and span ids (W3C Trace Context, OTLP `trace.proto`): fixed size, never all zero.

use std::fmt;
use std::str::FromStr;

/// A trace id: 16 bytes, not all zero. 64-bit ids (Zipkin, old Jaeger) are padded on the left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// A span id: 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

/// Why bytes or text are not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The number of bytes or digits is wrong.
    #[error("an id of {found} {unit} where {expected} are needed")]
    Length {
        /// What was found.
        found: usize,
        /// What is needed.
        expected: &'static str,
        /// Bytes or hex digits.
        unit: &'static str,
    },
    /// A character is not a hex digit.
    #[error("an id with a character that is not a hex digit")]
    NotHex,
    /// All bytes are zero, which W3C and OTLP call invalid.
    #[error("an id of zeros only")]
    AllZero,
}

impl TraceId {
    /// The id of these bytes; all zero is refused.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, InvalidId> {
        if bytes == [0; 16] {
            return Err(InvalidId::AllZero);
        }
        Ok(Self(bytes))
    }

    /// The bytes, big-endian as on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SpanId {
    /// The id of these bytes; all zero is refused.
    pub fn from_bytes(bytes: [u8; 8]) -> Result<Self, InvalidId> {
        if bytes == [0; 8] {
            return Err(InvalidId::AllZero);
        }
        Ok(Self(bytes))
    }

    /// The bytes, big-endian as on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for TraceId {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        let array = <[u8; 16]>::try_from(bytes).map_err(|_| InvalidId::Length {
            found: bytes.len(),
            expected: "16",
            unit: "bytes",
        })?;
        Self::from_bytes(array)
    }
}

impl TryFrom<&[u8]> for SpanId {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        let array = <[u8; 8]>::try_from(bytes).map_err(|_| InvalidId::Length {
            found: bytes.len(),
            expected: "8",
            unit: "bytes",
        })?;
        Self::from_bytes(array)
    }
}

/// Takes every form that people paste: 32 or up to 16 hex digits, either case, with dashes (UUID),
/// and X-Ray's `1-xxxxxxxx-xxxxxxxxxxxxxxxxxxxxxxxx`.
impl FromStr for TraceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let text = text.trim();
        let text = match text.strip_prefix("1-") {
            Some(rest) if rest.len() == 33 => rest,
            _ => text,
        };
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        let expected = "32 or 1 to 16";
        if digits.is_empty() || (digits.len() > 16 && digits.len() != 32) {
            return Err(InvalidId::Length { found: digits.len(), expected, unit: "hex digits" });
        }
        let mut bytes = [0_u8; 16];
        for (place, digit) in digits.iter().rev().enumerate() {
            put_hex_digit(&mut bytes, place, *digit)?;
        }
        Self::from_bytes(bytes)
    }
}

impl FromStr for SpanId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 16 {
            return Err(InvalidId::Length {
                found: text.len(),
                expected: "16",
                unit: "hex digits",
            });
        }
        let mut bytes = [0_u8; 8];
        for (place, digit) in text.bytes().rev().enumerate() {
            put_hex_digit(&mut bytes, place, digit)?;
        }
        Self::from_bytes(bytes)
    }
}

/// Puts a hex digit `place` nibbles from the right end.
fn put_hex_digit(bytes: &mut [u8], place: usize, digit: u8) -> Result<(), InvalidId> {
    let value = (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let value = value.ok_or(InvalidId::NotHex)?;
    let slot = bytes.iter_mut().rev().nth(place / 2).ok_or(InvalidId::NotHex)?;
    *slot |= if place.is_multiple_of(2) { value } else { value << 4 };
    Ok(())
}

fn write_hex(bytes: &[u8], formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in bytes {
        write!(formatter, "{byte:02x}")?;
    }
    Ok(())
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, formatter)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, formatter)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, formatter)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "5759e988bd862e3fe1be46a994272793";

    #[test]
    fn every_pasted_form_is_the_same_trace() {
        let id: TraceId = HEX.parse().unwrap();
        for form in [
            HEX.to_uppercase(),
            format!(" {HEX}\n"),
            "5759e988-bd86-2e3f-e1be-46a994272793".to_owned(),
            "1-5759e988-bd862e3fe1be46a994272793".to_owned(),
        ] {
            assert_eq!(form.parse::<TraceId>(), Ok(id), "{form}");
        }
        assert_eq!(id.to_string(), HEX);
    }

    #[test]
    fn a_64_bit_id_is_padded_on_the_left() {
        let id: TraceId = "e1be46a994272793".parse().unwrap();
        assert_eq!(id.to_string(), "0000000000000000e1be46a994272793");
    }

    #[test]
    fn what_is_no_id_says_why() {
        assert_eq!("0".repeat(32).parse::<TraceId>(), Err(InvalidId::AllZero));
        assert_eq!("xyz".parse::<TraceId>(), Err(InvalidId::NotHex));
        assert!(matches!("1234567890123456789".parse::<TraceId>(), Err(InvalidId::Length { .. })));
        assert!(matches!("".parse::<TraceId>(), Err(InvalidId::Length { .. })));
        assert!(matches!("12".parse::<SpanId>(), Err(InvalidId::Length { .. })));
    }
}
