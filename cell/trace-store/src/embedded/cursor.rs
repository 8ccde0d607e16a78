//! Reading the parts of a block or an index out of bytes, where every count is checked against what
//! the input can back.

use proto::wire::read_varint;

/// Bytes that are not what they should be: damage, since a checksum stands over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// A place in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Corrupt("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Corrupt> {
        let (byte, rest) = self.rest.split_first().ok_or(Corrupt("cut short"))?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Corrupt("cut short"))?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Corrupt> {
        let (value, rest) = read_varint(self.rest).map_err(|_| Corrupt("a bad varint"))?;
        self.rest = rest;
        Ok(value)
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Corrupt> {
        u32::try_from(self.varint()?).map_err(|_| Corrupt("a number too large"))
    }

    pub(crate) fn length(&mut self) -> Result<usize, Corrupt> {
        usize::try_from(self.varint()?).map_err(|_| Corrupt("a length too large"))
    }

    /// A count of things that take at least `bytes_min` each.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, Corrupt> {
        let count = self.length()?;
        if count.saturating_mul(bytes_min) > self.rest.len() {
            return Err(Corrupt("a count beyond the input"));
        }
        Ok(count)
    }

    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.length()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Corrupt> {
        std::str::from_utf8(self.sized()?).map_err(|_| Corrupt("a text that is not UTF-8"))
    }
}

/// Writes length and bytes.
pub(crate) fn put_sized(output: &mut Vec<u8>, bytes: &[u8]) {
    proto::wire::put_varint(output, bytes.len() as u64);
    output.extend_from_slice(bytes);
}
