//! The ports over gRPC: channels tuned for long distances, and size caps on every answer.

mod cell;
mod counted;
mod index;

use std::time::Duration;

use tonic::transport::{Endpoint, Error};

pub use cell::GrpcCellClient;
pub use index::GrpcMetadataIndex;

/// HTTP/2 windows that let 1 MB cross 80 ms in about one round trip (measured: 64 KB windows take
/// 16 of them).
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Longer than the longest round trip, shorter than anyone's patience.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// A dead connection is noticed within this and [`KEEP_ALIVE_TIME_MAX`].
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(5);

/// Largest message that is read from a cell or an index: a frame with a span as large as the
/// receivers take them (20 MiB).
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;

/// An endpoint with the settings that every connection between a gateway and a cell or an index
/// has. `connect_lazy` it, or connect it through a connector of one's own.
pub fn endpoint(url: &str) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIME_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIME_MAX)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests;
