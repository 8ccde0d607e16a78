//! Scalars of proto3 JSON as protobuf fields. Each function says whether the value fits the field;
//! where it does not, nothing is written.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proto::wire::{put_bytes_field, put_varint};

use super::schema::{Field, Kind};

/// Either alphabet, with or without padding, as proto3 JSON takes them.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// `true` and `false`.
pub(super) fn put_bool(field: &Field, value: bool, output: &mut Vec<u8>) -> bool {
    if !matches!(field.kind, Kind::Bool) {
        return false;
    }
    put_number(field, u64::from(value), output);
    true
}

/// Integers, of whatever field that can hold them.
pub(super) fn put_integer(field: &Field, value: i128, output: &mut Vec<u8>) -> bool {
    match field.kind {
        Kind::Int64 => i64::try_from(value)
            .map(|value| put_number(field, value.cast_unsigned(), output))
            .is_ok(),
        // Negative numbers of an enumeration are sign-extended to 64 bits on the wire.
        Kind::Enum(_) => i32::try_from(value)
            .map(|value| put_number(field, i64::from(value).cast_unsigned(), output))
            .is_ok(),
        Kind::Uint32 => {
            u32::try_from(value).map(|value| put_number(field, value.into(), output)).is_ok()
        }
        Kind::Fixed32 => u32::try_from(value)
            .map(|value| put_fixed(field, 5, &value.to_le_bytes(), output))
            .is_ok(),
        Kind::Fixed64 => u64::try_from(value)
            .map(|value| put_fixed(field, 1, &value.to_le_bytes(), output))
            .is_ok(),
        #[expect(clippy::cast_precision_loss, reason = "JSON has one kind of number")]
        Kind::Double => {
            put_fixed(field, 1, &(value as f64).to_le_bytes(), output);
            true
        }
        Kind::Message(_) | Kind::Text | Kind::Hex | Kind::Base64 | Kind::Bool => false,
    }
}

/// Numbers with a fraction or an exponent; a whole one may stand for an integer.
pub(super) fn put_double(field: &Field, value: f64, output: &mut Vec<u8>) -> bool {
    if matches!(field.kind, Kind::Double) {
        put_fixed(field, 1, &value.to_le_bytes(), output);
        return true;
    }
    whole(value).is_some_and(|value| put_integer(field, value, output))
}

/// Texts: strings, ids, bytes, names of enumerations, and numbers written as strings.
pub(super) fn put_text(field: &Field, text: &str, output: &mut Vec<u8>) -> bool {
    match field.kind {
        Kind::Text => {
            put_bytes_field(output, field.number, text.as_bytes());
            true
        }
        Kind::Hex => put_decoded(field, from_hex(text), output),
        Kind::Base64 => {
            let decoded = BASE64.decode(text).or_else(|_| BASE64_URL.decode(text));
            put_decoded(field, decoded.ok(), output)
        }
        Kind::Enum(names) => names
            .iter()
            .find(|(name, _)| *name == text)
            .is_some_and(|(_, number)| put_integer(field, i128::from(*number), output)),
        Kind::Double => double_of(text).is_some_and(|value| put_double(field, value, output)),
        Kind::Int64 | Kind::Uint32 | Kind::Fixed32 | Kind::Fixed64 => match text.parse() {
            Ok(value) => put_integer(field, value, output),
            Err(_) => text.parse().is_ok_and(|value| put_double(field, value, output)),
        },
        Kind::Message(_) | Kind::Bool => false,
    }
}

fn double_of(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

/// The integer that a double is, where it is one of 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the range before")]
fn whole(value: f64) -> Option<i128> {
    /// 2^64: above every 64-bit integer.
    const BOUND: f64 = 18_446_744_073_709_551_616.0;
    let is_whole = value.abs() < BOUND && value.fract().abs() < f64::EPSILON;
    is_whole.then_some(value as i128)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(byte_of_hex).collect()
}

fn byte_of_hex(pair: &[u8]) -> Option<u8> {
    let [high, low] = pair else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

fn put_decoded(field: &Field, decoded: Option<Vec<u8>>, output: &mut Vec<u8>) -> bool {
    let Some(bytes) = decoded else { return false };
    put_bytes_field(output, field.number, &bytes);
    true
}

fn put_number(field: &Field, value: u64, output: &mut Vec<u8>) {
    put_varint(output, u64::from(field.number) << 3);
    put_varint(output, value);
}

fn put_fixed(field: &Field, wire_type: u64, bytes: &[u8], output: &mut Vec<u8>) {
    put_varint(output, u64::from(field.number) << 3 | wire_type);
    output.extend_from_slice(bytes);
}
