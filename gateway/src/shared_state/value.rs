//! Values as they are kept: compressed with zstd, checksummed, bounded.

use std::sync::Arc;

/// Largest value before compression, in bytes.
pub const RAW_BYTES_MAX: usize = 8 << 20;
/// Largest value as it is kept, in bytes.
pub const STORED_BYTES_MAX: usize = 1 << 20;

/// Version of the form below; another one is not read.
const FORM: u8 = 1;
/// Form, then the length before compression as a little-endian `u32`, then one zstd frame with its
/// checksum.
const HEAD_BYTES: usize = 5;
const LEVEL: i32 = 3;

/// Why a value is not kept, or what was kept is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitValue {
    /// Larger than a value may be.
    #[error("the value is larger than what is cached")]
    TooLarge,
    /// Not what was stored: damaged, or of another version.
    #[error("what is cached is damaged or of another version")]
    Damaged,
}

impl UnfitValue {
    /// Whether the same call may succeed later: the same bytes never fit.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::TooLarge | Self::Damaged => false,
        }
    }
}

/// A value as it is kept. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedValue(Arc<[u8]>);

impl CachedValue {
    /// Compresses.
    ///
    /// # Errors
    /// When the value is larger than is kept.
    pub fn pack(raw: &[u8]) -> Result<Self, UnfitValue> {
        if raw.len() > RAW_BYTES_MAX {
            return Err(UnfitValue::TooLarge);
        }
        let length = u32::try_from(raw.len()).map_err(|_| UnfitValue::TooLarge)?;
        let frame = compress(raw).map_err(|_| UnfitValue::TooLarge)?;
        if HEAD_BYTES + frame.len() > STORED_BYTES_MAX {
            return Err(UnfitValue::TooLarge);
        }
        let mut stored = Vec::with_capacity(HEAD_BYTES + frame.len());
        stored.push(FORM);
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&frame);
        Ok(Self(stored.into()))
    }

    /// Bytes that came out of a store; only their size and version are checked here.
    ///
    /// # Errors
    /// When they cannot be a value.
    pub fn from_stored(stored: Vec<u8>) -> Result<Self, UnfitValue> {
        if stored.len() > STORED_BYTES_MAX || stored.first() != Some(&FORM) {
            return Err(UnfitValue::Damaged);
        }
        Ok(Self(stored.into()))
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_stored(&self) -> &[u8] {
        &self.0
    }

    /// Decompresses, into no more memory than a value may have.
    ///
    /// # Errors
    /// When it is not what was packed.
    pub fn unpack(&self) -> Result<Vec<u8>, UnfitValue> {
        let damaged = UnfitValue::Damaged;
        let (head, frame) = self.0.split_first_chunk::<HEAD_BYTES>().ok_or(damaged)?;
        let [_, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| damaged)?;
        if length > RAW_BYTES_MAX {
            return Err(damaged);
        }
        let raw = zstd::bulk::decompress(frame, length).map_err(|_| damaged)?;
        if raw.len() == length { Ok(raw) } else { Err(damaged) }
    }
}

fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_is_small() {
        let raw = b"operation ".repeat(1_000);
        let value = CachedValue::pack(&raw).unwrap();
        assert!(value.as_stored().len() < raw.len() / 50);
        let stored = CachedValue::from_stored(value.as_stored().to_vec()).unwrap();
        assert_eq!(stored.unpack().unwrap(), raw);
        assert_eq!(CachedValue::pack(b"").unwrap().unpack().unwrap(), b"");
    }

    #[test]
    fn no_flipped_bit_is_read_as_a_value() {
        let raw: Vec<u8> = (0..=255).cycle().take(500).collect();
        let stored = CachedValue::pack(&raw).unwrap().as_stored().to_vec();
        for place in 0..stored.len() {
            for bit in 0..8 {
                let mut damaged = stored.clone();
                damaged[place] ^= 1 << bit;
                let read = CachedValue::from_stored(damaged).and_then(|value| value.unpack());
                assert!(read.is_err() || read.as_ref() == Ok(&raw), "byte {place}, bit {bit}");
            }
        }
        for length in 0..stored.len() {
            let cut = CachedValue::from_stored(stored[..length].to_vec());
            assert!(cut.and_then(|value| value.unpack()).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_too_large_or_claims_to_be_is_refused() {
        let mut noise = vec![0; STORED_BYTES_MAX + 1];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(CachedValue::pack(&noise), Err(UnfitValue::TooLarge));
        assert_eq!(CachedValue::pack(&vec![0; RAW_BYTES_MAX + 1]), Err(UnfitValue::TooLarge));
        let bomb = CachedValue::pack(&vec![0; RAW_BYTES_MAX]).unwrap();
        assert_eq!(bomb.unpack().unwrap().len(), RAW_BYTES_MAX);
        let mut claims = bomb.as_stored().to_vec();
        claims[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        let claims = CachedValue::from_stored(claims).unwrap();
        assert_eq!(claims.unpack(), Err(UnfitValue::Damaged));
        assert!(CachedValue::from_stored(noise).is_err());
    }
}
