//! ClickHouse's format `RowBinaryWithNamesAndTypes`, written: the engine compares names and types
//! with the table's and refuses what does not fit.

use std::fmt::Display;
use std::io::Write as _;

use bytes::Bytes;
use proto::wire::put_varint;

use super::table::Column;

/// Rows of one insert.
#[derive(Debug, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
}

impl Rows {
    /// No rows yet, of these columns.
    pub(super) fn of(columns: &[Column]) -> Self {
        let mut rows = Self::default();
        rows.count(columns.len());
        for column in columns {
            rows.text(column.name);
        }
        for column in columns {
            rows.text(column.kind);
        }
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for so many bytes: rows that grow by doubling are copied, into memory that nobody has touched.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Drops what was written behind this length.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub(super) fn finish(self) -> Bytes {
        self.bytes.into()
    }

    /// Bytes that were encoded before.
    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Columns that were written apart.
    #[inline]
    pub(super) fn append(&mut self, other: &Self) {
        self.raw(&other.bytes);
    }

    #[inline]
    pub(super) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    #[inline]
    pub(super) fn boolean(&mut self, value: bool) {
        self.byte(u8::from(value));
    }

    #[inline]
    pub(super) fn i16(&mut self, value: i16) {
        self.raw(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn f64(&mut self, value: f64) {
        self.raw(&value.to_le_bytes());
    }

    /// The length of an array or a map, whose items follow.
    #[inline]
    pub(super) fn count(&mut self, length: usize) {
        put_varint(&mut self.bytes, u64::try_from(length).unwrap_or(u64::MAX));
    }

    #[inline]
    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// A value as text, written in place.
    pub(super) fn display(&mut self, value: impl Display) {
        let start = self.bytes.len();
        self.byte(0);
        let _infallible = write!(self.bytes, "{value}");
        let length = self.bytes.len().saturating_sub(start).saturating_sub(1);
        match (u8::try_from(length), self.bytes.get_mut(start)) {
            // A length of one byte.
            (Ok(short), Some(place)) if short < 0x80 => *place = short,
            _ => {
                let text = self.bytes.split_off(start.saturating_add(1));
                self.bytes.truncate(start);
                self.bytes(&text);
            }
        }
    }

    /// Writes a number over the last eight bytes of each row; `ends` says where the rows end.
    pub(super) fn number_rows(&mut self, ends: &[usize], number: u64) {
        for end in ends {
            let place = end.saturating_sub(8)..*end;
            if let Some(last) = self.bytes.get_mut(place) {
                last.copy_from_slice(&number.to_le_bytes());
            }
        }
    }

    /// Bytes as lower-case hexadecimal text.
    #[inline]
    pub(super) fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        self.count(bytes.len().saturating_mul(2));
        for byte in bytes {
            self.bytes.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
    }
}
