//! Columns of byte strings with a dictionary: each distinct value once, in the order of first
//! appearance, and a code per value.
//!
//! Encoded: codes (0: the next value that is new; *n*: the *n*-th distinct one), lengths of the
//! distinct values, both as columns of numbers, then their bytes. A column without repetition has
//! codes of zero alone, which cost nothing.

use std::ops::Range;

use hashbrown::HashTable;

use super::cursor::{Corrupt, Cursor};
use super::hash::value_hash;
use super::numbers::{self, Planes};

/// A column being filled.
#[derive(Debug, Default)]
pub(crate) struct TextColumn {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    hashes: Vec<u64>,
    table: HashTable<u32>,
    codes: Vec<u64>,
    lengths: Vec<u64>,
}

/// Where a value landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    /// Its place among the distinct values.
    pub(crate) place: u32,
    /// Its hash ([`value_hash`]).
    pub(crate) hash: u64,
    /// Seen for the first time.
    pub(crate) is_new: bool,
}

impl TextColumn {
    pub(crate) fn push(&mut self, value: &[u8]) -> Pushed {
        let hash = value_hash(value);
        let (bytes, ends, hashes) = (&self.bytes, &self.ends, &self.hashes);
        let same = |place: &u32| {
            hashes.get(*place as usize) == Some(&hash) && text_at(bytes, ends, *place) == value
        };
        if let Some(place) = self.table.find(hash, same).copied() {
            self.codes.push(u64::from(place) + 1);
            return Pushed { place, hash, is_new: false };
        }
        let place = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(value);
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        self.hashes.push(hash);
        self.lengths.push(value.len() as u64);
        let hashes = &self.hashes;
        self.table.insert_unique(hash, place, |place| {
            hashes.get(*place as usize).copied().unwrap_or_default()
        });
        self.codes.push(0);
        Pushed { place, hash, is_new: true }
    }

    pub(crate) fn encode(&self, output: &mut Vec<u8>) {
        numbers::encode(&self.codes, output);
        numbers::encode(&self.lengths, output);
        output.extend_from_slice(&self.bytes);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.hashes.clear();
        self.table.clear();
        self.codes.clear();
        self.lengths.clear();
    }
}

fn text_at<'a>(bytes: &'a [u8], ends: &[u32], place: u32) -> &'a [u8] {
    let place = place as usize;
    let end = ends.get(place).copied().unwrap_or(0) as usize;
    let start = place.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    bytes.get(start as usize..end).unwrap_or(&[])
}

/// A column read back.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Of each value its place among the distinct ones.
    pub(crate) places: Vec<u32>,
}

impl Texts {
    /// Reads a column out of its bytes, which it takes over.
    pub(crate) fn decode(bytes: Vec<u8>) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(&bytes);
        let codes = numbers::decode(&mut cursor)?;
        let lengths = numbers::decode(&mut cursor)?;
        let mut end = (bytes.len() - cursor.remaining()) as u64;
        let first = u32::try_from(end).map_err(|_| Corrupt("a column too large"))?;
        let mut ends = Vec::with_capacity(lengths.len() + 1);
        ends.push(first);
        for length in lengths {
            end = end.saturating_add(length);
            ends.push(u32::try_from(end).map_err(|_| Corrupt("a column too large"))?);
        }
        if end != bytes.len() as u64 {
            return Err(Corrupt("a column of another length"));
        }
        let places = places(&codes, ends.len() - 1)?;
        Ok(Self { bytes, ends, places })
    }

    /// Number of distinct values.
    pub(crate) const fn distinct_count(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }

    /// A distinct value.
    pub(crate) fn distinct(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let (Some(start), Some(end)) = (self.ends.get(place), self.ends.get(place + 1)) else {
            return &[];
        };
        self.bytes.get(*start as usize..*end as usize).unwrap_or(&[])
    }

    /// The value at a position of the column.
    pub(crate) fn get(&self, position: usize) -> Result<&[u8], Corrupt> {
        let place = self.places.get(position).ok_or(Corrupt("a column too short"))?;
        Ok(self.distinct(*place))
    }
}

/// Some values of a column side by side: all that a trace needs of it.
#[derive(Debug, Default)]
pub(crate) struct TextWindow {
    bytes: Vec<u8>,
    values: Vec<Range<usize>>,
}

impl TextWindow {
    /// Reads them out of the column's bytes, which it takes over.
    pub(crate) fn decode(bytes: Vec<u8>, window: Range<usize>) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(&bytes);
        let codes = Planes::read(&mut cursor)?;
        let lengths = Planes::read(&mut cursor)?;
        let first = (bytes.len() - cursor.remaining()) as u64;
        let mut fresh = codes.zeros_before(window.start);
        let mut values = Vec::with_capacity(window.len());
        for code in codes.window(window)? {
            let place = match usize::try_from(code).map_err(|_| TOO_LARGE)?.checked_sub(1) {
                Some(place) if place < fresh => place,
                Some(_) => return Err(Corrupt("a code ahead of its value")),
                None => {
                    fresh += 1;
                    fresh - 1
                }
            };
            let start = first.saturating_add(lengths.sum_before(place));
            let start = usize::try_from(start).map_err(|_| TOO_LARGE)?;
            let length = usize::try_from(lengths.get(place)?).map_err(|_| TOO_LARGE)?;
            values.push(start..start.saturating_add(length));
        }
        Ok(Self { bytes, values })
    }

    /// A value, counted from the first of the window.
    pub(crate) fn get(&self, place: usize) -> Result<&[u8], Corrupt> {
        let range = self.values.get(place).ok_or(Corrupt("a column too short"))?;
        self.bytes.get(range.clone()).ok_or(Corrupt("a column of another length"))
    }
}

const TOO_LARGE: Corrupt = Corrupt("a column too large");

fn places(codes: &[u64], distinct_count: usize) -> Result<Vec<u32>, Corrupt> {
    let mut fresh = 0_u64;
    let mut places = Vec::with_capacity(codes.len());
    for code in codes {
        let place = match code.checked_sub(1) {
            Some(place) if place < fresh => place,
            Some(_) => return Err(Corrupt("a code ahead of its value")),
            None => {
                fresh += 1;
                fresh - 1
            }
        };
        places.push(u32::try_from(place).map_err(|_| Corrupt("a code too large"))?);
    }
    if fresh != distinct_count as u64 {
        return Err(Corrupt("codes that do not fit their values"));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_round_trip(
            values in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..4), 0..80)
        ) {
            let mut column = TextColumn::default();
            for round in 0..2 {
                column.clear();
                for value in values.iter().skip(round) {
                    column.push(value);
                }
            }
            let mut bytes = Vec::new();
            column.encode(&mut bytes);
            let texts = Texts::decode(bytes).unwrap();
            let read: Vec<_> =
                (0..texts.places.len()).map(|at| texts.get(at).unwrap().to_vec()).collect();
            prop_assert_eq!(read, values.iter().skip(1).cloned().collect::<Vec<_>>());
        }

        #[test]
        fn texts_read_few_at_a_time_are_those_read_at_once(
            values in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..4), 1..60),
            ends in (0_usize..60, 0_usize..60),
        ) {
            let mut column = TextColumn::default();
            for value in &values {
                column.push(value);
            }
            let mut bytes = Vec::new();
            column.encode(&mut bytes);
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let window = TextWindow::decode(bytes, first..last);
            prop_assert_eq!(window.is_ok(), last <= values.len());
            let Ok(window) = window else { return Ok(()) };
            for (place, value) in values[first..last].iter().enumerate() {
                prop_assert_eq!(window.get(place).unwrap(), value.as_slice());
            }
            prop_assert!(window.get(last - first).is_err());
        }

        #[test]
        fn any_bytes_are_texts_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            ends in (0_usize..9, 0_usize..9),
        ) {
            drop(Texts::decode(bytes.clone()));
            if let Ok(window) = TextWindow::decode(bytes, ends.0..ends.1.max(ends.0)) {
                prop_assert!((0..99).any(|place| window.get(place).is_err()));
            }
        }
    }
}
