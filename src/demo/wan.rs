//! The distance between regions: a forwarding TCP proxy for each ordered pair of regions, which
//! holds every byte for the one-way delay.
//!
//! Order is kept and throughput is not limited: bytes wait in a line, each until its own time.
//! What waits is bounded in bytes; then the sender waits too, as on a full window.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use service_kit::Stage;
use service_kit::listen::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use trace_model::Region;

/// Bytes under way in one direction of one connection: a window that 100 MB/s fill in 160 ms.
const WINDOW_BYTES: usize = 16 << 20;
/// Largest piece that is read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces under way in one direction of one connection.
const PIECES_MAX: usize = 8_192;
/// Connections over one proxy.
const CONNECTIONS_MAX: usize = 1_024;

/// Whether regions are far apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WanMode {
    /// All regions are beside each other.
    Off,
    /// Each pair is as far apart as its cities.
    #[default]
    Real,
}

/// Round-trip times between continents, in milliseconds: medians between cloud regions
/// (Dublin or Frankfurt, Virginia, Singapore, …), rounded.
const ROUND_TRIPS: [(&str, &str, u64); 10] = [
    ("eu", "us", 80),
    ("us", "ap", 150),
    ("eu", "ap", 220),
    ("us", "sa", 120),
    ("eu", "sa", 190),
    ("ap", "sa", 300),
    ("eu", "me", 90),
    ("eu", "af", 150),
    ("us", "ca", 20),
    ("ap", "me", 110),
];
/// Between two regions of one continent.
const ROUND_TRIP_NEAR: u64 = 30;
/// Between continents that the table does not name.
const ROUND_TRIP_FAR: u64 = 180;

impl WanMode {
    /// Round-trip time between two regions.
    pub(crate) fn round_trip(self, one: &Region, other: &Region) -> Duration {
        if self == Self::Off || one == other {
            return Duration::ZERO;
        }
        let continent =
            |region: &Region| region.as_str().split('-').next().unwrap_or_default().to_owned();
        let (one, other) = (continent(one), continent(other));
        if one == other {
            return Duration::from_millis(ROUND_TRIP_NEAR);
        }
        let known = ROUND_TRIPS.iter().find(|(first, second, _)| {
            (*first == one && *second == other) || (*first == other && *second == one)
        });
        Duration::from_millis(known.map_or(ROUND_TRIP_FAR, |(_, _, millis)| *millis))
    }
}

/// Starts a proxy to `upstream` and gives the address to use instead of it.
pub(crate) async fn start_proxy(
    upstream: SocketAddr,
    round_trip: Duration,
    stage: &Stage,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (tasks, stopping) = (stage.clone(), stage.stopping.clone());
    stage.spawn(async move {
        let serving = accept(listener, upstream, round_trip, tasks);
        stopping.run_until_cancelled(serving).await;
    });
    Ok(address)
}

async fn accept(listener: TcpListener, upstream: SocketAddr, round_trip: Duration, stage: Stage) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut acceptor = Acceptor::new(listener);
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let (near, _) = acceptor.accept().await;
        let stopping = stage.stopping.clone();
        stage.spawn(async move {
            stopping.run_until_cancelled(forward(near, upstream, round_trip)).await;
            drop(permit);
        });
    }
}

/// One connection. The far side is reached after the round trip that a handshake takes.
async fn forward(near: TcpStream, upstream: SocketAddr, round_trip: Duration) {
    tokio::time::sleep(round_trip).await;
    // Where the far side refuses, closing the near side says so.
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let one_way = round_trip / 2;
    let there = carry(near_read, far_write, one_way);
    let back = carry(far_read, near_write, one_way);
    // An error in one direction ends both: a reset is no half-close.
    drop(tokio::try_join!(there, back));
}

/// A piece under way: when it arrives, and its share of the window.
type Piece = (Instant, Bytes, OwnedSemaphorePermit);

async fn carry(
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    one_way: Duration,
) -> std::io::Result<()> {
    let (line_in, line_out) = mpsc::channel::<Piece>(PIECES_MAX);
    let sent = send(read, line_in, one_way);
    let received = receive(line_out, write, one_way);
    tokio::try_join!(sent, received).map(|_| ())
}

async fn send(
    mut read: OwnedReadHalf,
    line: mpsc::Sender<Piece>,
    one_way: Duration,
) -> std::io::Result<()> {
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        if (&mut read).take(PIECE_BYTES as u64).read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let arrives = Instant::now() + one_way;
        let piece = buffer.split().freeze();
        let bytes = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let closed = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let permit =
            Arc::clone(&window).acquire_many_owned(bytes).await.map_err(std::io::Error::other)?;
        line.send((arrives, piece, permit)).await.map_err(closed)?;
    }
}

async fn receive(
    mut line: mpsc::Receiver<Piece>,
    mut write: OwnedWriteHalf,
    one_way: Duration,
) -> std::io::Result<()> {
    while let Some((arrives, piece, permit)) = line.recv().await {
        tokio::time::sleep_until(arrives).await;
        write.write_all(&piece).await?;
        drop(permit);
    }
    // The end of the stream takes its time as well.
    tokio::time::sleep(one_way).await;
    write.shutdown().await
}

#[cfg(test)]
mod tests;
