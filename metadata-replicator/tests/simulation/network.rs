//! gRPC over the simulated network, and the simulation's time.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use metadata_replicator::ReplicatorError;
use metadata_replicator::feed::grpc::{Dialer, endpoint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Uri};
use trace_model::{Clock, UnixNanos};
use turmoil::net::{TcpListener, TcpStream};

/// Where every host serves.
pub(crate) const PORT: u16 = 7001;

/// The simulation's time, counted from a moment in 2026; a host's wall clock may be off.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    pub(crate) off_by: Duration,
    last: AtomicU64,
}

impl SimulatedClock {
    pub(crate) const fn off_by(off_by: Duration) -> Self {
        Self { off_by, last: AtomicU64::new(0) }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> UnixNanos {
        let elapsed = self.monotonic().saturating_sub(self.off_by);
        UnixNanos::from_millis(1_790_000_000_000).plus(elapsed.as_nanos() as u64)
    }

    fn monotonic(&self) -> Duration {
        // Outside of a host (between two steps) time stands still.
        let elapsed = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64);
        let last = self.last.fetch_max(elapsed, Ordering::SeqCst);
        Duration::from_nanos(last.max(elapsed))
    }
}

/// A simulated connection as tonic's server takes it.
pub(crate) struct Connection(TcpStream);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Connections as they come.
pub(crate) async fn incoming() -> io::Result<impl Stream<Item = io::Result<Connection>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Connection(stream));
        Some((accepted, listener))
    }))
}

/// Reaches peers over the simulated network.
#[derive(Debug)]
pub(crate) struct SimulatedDialer;

#[async_trait]
impl Dialer for SimulatedDialer {
    async fn dial(&self, url: &str) -> Result<Channel, ReplicatorError> {
        let connector = tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        });
        let channel = endpoint(url)?.connect_with_connector(connector).await;
        channel.map_err(|error| ReplicatorError::Peer(error.to_string()))
    }
}
