//! Content encodings, capped: a decompressor is stopped as soon as its output passes the limit, and
//! its output is taken from the account of what is in flight as it grows.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use crate::admission::Admitted;
use crate::error::ExportError;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952, of one or more members.
    Gzip,
    /// RFC 8878, of one or more frames.
    Zstd,
    /// RFC 1950 (zlib), which HTTP calls deflate.
    Deflate,
}

impl Encoding {
    /// The encoding of a header's value.
    pub(crate) fn from_header(name: &str) -> Result<Self, ExportError> {
        let name = name.trim();
        for (known, encoding) in [
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("zstd", Self::Zstd),
            ("deflate", Self::Deflate),
        ] {
            if name.eq_ignore_ascii_case(known) {
                return Ok(encoding);
            }
        }
        Err(ExportError::UnknownEncoding(name.chars().take(40).collect()))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
        }
    }
}

/// Largest zstd window that is taken, as a power of two: 8 MiB, which RFC 8878 asks every decoder
/// to support. A frame that wants more is refused before its window is allocated.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// How much output is asked for at a time.
const STEP_BYTES: usize = 64 << 10;

/// Decompresses a body to at most `bytes_max`.
pub(crate) fn decompress(
    body: Bytes,
    encoding: Encoding,
    bytes_max: usize,
    admitted: &mut Admitted,
) -> Result<Bytes, ExportError> {
    let malformed = ExportError::Compression(encoding.name());
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => {
            read_capped(MultiGzDecoder::new(body.as_ref()), malformed, bytes_max, admitted)
        }
        Encoding::Deflate => {
            read_capped(ZlibDecoder::new(body.as_ref()), malformed, bytes_max, admitted)
        }
        Encoding::Zstd => {
            let Ok(mut decoder) = zstd::stream::read::Decoder::with_buffer(body.as_ref()) else {
                return Err(malformed);
            };
            if decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).is_err() {
                return Err(malformed);
            }
            read_capped(decoder, malformed, bytes_max, admitted)
        }
    }
}

fn read_capped(
    mut decoder: impl Read,
    malformed: ExportError,
    bytes_max: usize,
    admitted: &mut Admitted,
) -> Result<Bytes, ExportError> {
    let mut output = Vec::new();
    loop {
        let filled = output.len();
        // One byte more than is allowed tells a body of just the limit from a longer one.
        let step = STEP_BYTES.min(bytes_max.saturating_sub(filled).saturating_add(1));
        output.resize(filled.saturating_add(step), 0);
        let Some(room) = output.get_mut(filled..) else { return Err(malformed) };
        let Ok(read) = decoder.read(room) else { return Err(malformed) };
        output.truncate(filled.saturating_add(read));
        if read == 0 {
            return Ok(Bytes::from(output));
        }
        if output.len() > bytes_max {
            return Err(ExportError::TooLarge { bytes_max });
        }
        admitted.take(read)?;
    }
}
