//! A dead letter as bytes.
//!
//! ```text
//! magic "FSDEADLT" | version u32 LE | crc32c of what follows u32 LE
//! group, reason (each: varint length, text) | incarnation, partition, first, next (varints)
//! append time u64 LE | the batch's encoded form
//! ```

use bytes::Bytes;
use proto::SpanBatch;
use proto::wire::{put_varint, read_varint};
use trace_model::{LogRange, UnixNanos};

use super::{DeadLetter, DeadLetterError};

const MAGIC: &[u8; 8] = b"FSDEADLT";
pub(super) const VERSION: u32 = 1;
/// Magic, version and checksum.
const HEADER_BYTES: usize = 16;
/// Longest reason kept, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1_024;
pub(super) fn encode(batch: &DeadLetter) -> Vec<u8> {
    let encoded = &batch.encoded;
    let mut body = Vec::with_capacity(encoded.len().saturating_add(256));
    put_text(&mut body, &batch.group);
    put_text(&mut body, &batch.reason);
    for number in
        [batch.incarnation, u64::from(batch.range.partition), batch.range.first, batch.range.next]
    {
        put_varint(&mut body, number);
    }
    body.extend_from_slice(&batch.append_time.0.to_le_bytes());
    body.extend_from_slice(encoded);
    let mut letter = Vec::with_capacity(body.len().saturating_add(HEADER_BYTES));
    letter.extend_from_slice(MAGIC);
    letter.extend_from_slice(&VERSION.to_le_bytes());
    letter.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    letter.extend_from_slice(&body);
    letter
}

fn put_text(output: &mut Vec<u8>, text: &str) {
    put_varint(output, u64::try_from(text.len()).unwrap_or(0));
    output.extend_from_slice(text.as_bytes());
}

pub(super) fn shortened(reason: &str) -> &str {
    let end =
        (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    end.and_then(|end| reason.get(..end)).unwrap_or("")
}

/// The letter, and its batch.
pub(super) fn decode(
    sequence: u64,
    bytes: Vec<u8>,
) -> Result<(DeadLetter, SpanBatch), DeadLetterError> {
    let damaged = |reason| DeadLetterError::Damaged { sequence, reason };
    let bytes = Bytes::from(bytes);
    let (header, body) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| damaged("it is cut short"))?;
    let (magic, rest) = header.split_first_chunk::<8>().ok_or_else(|| damaged("no header"))?;
    let (version, crc) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("no header"))?;
    if magic != MAGIC {
        return Err(damaged("it does not start as a dead letter"));
    }
    let found = u32::from_le_bytes(*version);
    if found > VERSION {
        return Err(DeadLetterError::NewerFormat { sequence, found });
    }
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return Err(damaged("its checksum does not fit"));
    }
    let (mut letter, rest) = read_fields(body).ok_or_else(|| damaged("its fields do not fit"))?;
    letter.encoded = bytes.slice_ref(rest);
    let batch = SpanBatch::decode(letter.encoded.clone());
    let batch = batch.map_err(|_| damaged("its batch cannot be read"))?;
    Ok((letter, batch))
}

fn read_fields(body: &[u8]) -> Option<(DeadLetter, &[u8])> {
    let (group, rest) = read_text(body)?;
    let (reason, rest) = read_text(rest)?;
    let (incarnation, rest) = read_varint(rest).ok()?;
    let (partition, rest) = read_varint(rest).ok()?;
    let (first, rest) = read_varint(rest).ok()?;
    let (next, rest) = read_varint(rest).ok()?;
    let (append_time, rest) = rest.split_first_chunk::<8>()?;
    let range = LogRange { partition: u32::try_from(partition).ok()?, first, next };
    let append_time = UnixNanos(u64::from_le_bytes(*append_time));
    let letter =
        DeadLetter { group, reason, incarnation, range, append_time, encoded: Bytes::new() };
    Some((letter, rest))
}

fn read_text(input: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = read_varint(input).ok()?;
    let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}
