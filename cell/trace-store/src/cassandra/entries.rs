//! What an index row says of its spans: operation, kind, placement time of each. Pure.
//!
//! ```text
//! version u8 = 1, then each: hash of the operation u64 | kind u8 | newest − placed (LEB128)
//! ```

use trace_model::UnixNanos;
use xxhash_rust::xxh3::xxh3_64;

use crate::port::StoreError;

const VERSION: u8 = 1;

/// A span in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// When it is placed.
    pub(super) placed: UnixNanos,
    /// Hash of its name.
    pub(super) operation: u64,
    /// Its kind.
    pub(super) kind: u8,
}

/// The hash of an operation's name.
pub(super) fn operation_hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Writes entries down, none of which is newer than `newest`.
pub(super) fn encode(newest: UnixNanos, entries: impl ExactSizeIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + entries.len() * 13);
    bytes.push(VERSION);
    for entry in entries {
        bytes.extend_from_slice(&entry.operation.to_le_bytes());
        bytes.push(entry.kind);
        let mut left = newest.since(entry.placed);
        while left >= 0x80 {
            bytes.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        bytes.push(left.to_le_bytes()[0]);
    }
    bytes
}

/// Reads entries.
pub(super) fn decode(newest: UnixNanos, bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let damaged = || StoreError::Damaged("an index row whose entries do not hold".to_owned());
    let (version, mut rest) = bytes.split_first().ok_or_else(damaged)?;
    if *version != VERSION {
        let file = "an index row".to_owned();
        return Err(StoreError::NewerFormat {
            file,
            found: u32::from(*version),
            known: u32::from(VERSION),
        });
    }
    let mut entries = Vec::with_capacity(rest.len() / 10);
    while !rest.is_empty() {
        let (operation, after) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (kind, after) = after.split_first().ok_or_else(damaged)?;
        let (back, after) = varint(after).ok_or_else(damaged)?;
        let operation = u64::from_le_bytes(*operation);
        entries.push(Entry { placed: newest.minus(back), operation, kind: *kind });
        rest = after;
    }
    Ok(entries)
}

fn varint(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = bytes.split_first()?;
        bytes = after;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some((value, bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_come_back_as_they_were(
            rows in vec((0_u64..9_000_000_000, any::<u64>(), 0_u8..6), 0..40)
        ) {
            let newest = UnixNanos(1_790_000_400_000_000_000);
            let entry = |(back, operation, kind)| Entry { placed: newest.minus(back), operation, kind };
            let entries: Vec<Entry> = rows.into_iter().map(entry).collect();
            prop_assert_eq!(decode(newest, &encode(newest, entries.iter().copied())).unwrap(), entries);
        }

        #[test]
        fn anything_else_is_an_error_and_no_panic(bytes in vec(any::<u8>(), 0..60)) {
            drop(decode(UnixNanos(7), &bytes));
        }
    }

    #[test]
    fn a_cut_or_newer_row_is_told() {
        let entry = Entry { placed: UnixNanos(5), operation: 1, kind: 2 };
        let bytes = encode(UnixNanos(900), [entry].into_iter());
        for length in 0..bytes.len() {
            let read = decode(UnixNanos(900), &bytes[..length]);
            assert!(read.is_err() || length == 1, "{length}");
        }
        let newer = decode(UnixNanos(900), &[9]);
        assert!(matches!(newer, Err(StoreError::NewerFormat { found: 9, .. })));
    }
}
