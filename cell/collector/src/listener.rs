//! Connections: accepted within a limit, served by hyper, closed when idle, drained at the end.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::metrics::gauge::Gauge;
use service_kit::listen::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, warn};

use crate::config::ConnectionLimits;

/// Flow-control windows of HTTP/2 and its largest frame: measured, not guessed. Smaller ones make a
/// request of a few hundred kilobytes wait for its sender's acknowledgements.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Streams that a peer may open and reset before they are looked at (rapid reset).
const PENDING_RESETS_MAX: usize = 32;
/// Silence after which a peer is asked whether it is still there, and how long it may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// HTTP/2 with prior knowledge, as gRPC wants.
    Http2,
    /// Whatever the peer begins with.
    Http1And2,
}

/// How connections are served.
#[derive(Debug)]
pub(crate) struct Listener {
    /// What is spoken.
    pub protocols: Protocols,
    /// Limits of connections.
    pub limits: ConnectionLimits,
    /// How long requests in flight may take at the end.
    pub drain_timeout: Duration,
    /// Shows the open connections.
    pub connections: Gauge,
}

impl Listener {
    /// Accepts and serves until `stop`, then drains.
    pub(crate) async fn serve<S, B>(
        self,
        listener: TcpListener,
        service: S,
        stop: CancellationToken,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let server = Arc::new(self.server());
        let tracker = TaskTracker::new();
        let abort = CancellationToken::new();
        let permits = Arc::new(Semaphore::new(self.limits.connections_max));
        let mut acceptor = Acceptor::new(listener);
        while let Some((stream, permit)) = accept(&mut acceptor, &permits, &stop).await {
            let connection = Connection {
                server: Arc::clone(&server),
                idle_timeout: self.limits.idle_timeout,
                stop: stop.clone(),
                abort: abort.clone(),
            };
            let open = OpenConnection::new(&self.connections, permit);
            tracker.spawn(connection.serve(stream, service.clone(), open));
        }
        drop(acceptor);
        tracker.close();
        if timeout(self.drain_timeout, tracker.wait()).await.is_err() {
            warn!(connections = tracker.len(), "connections did not drain in time");
            abort.cancel();
            tracker.wait().await;
        }
    }

    fn server(&self) -> Builder<TokioExecutor> {
        let mut server = Builder::new(TokioExecutor::new());
        if self.protocols == Protocols::Http2 {
            server = server.http2_only();
        }
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_buf_size(usize::try_from(self.limits.head_bytes_max).unwrap_or(32 << 10));
        server
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(self.limits.streams_max)
            .max_header_list_size(self.limits.head_bytes_max)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        server
    }
}

/// The next connection, once there is room for it; `None` at the end.
async fn accept(
    acceptor: &mut Acceptor,
    permits: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = tokio::select! {
        permit = Arc::clone(permits).acquire_owned() => permit.ok()?,
        () = stop.cancelled() => return None,
    };
    tokio::select! {
        (stream, _) = acceptor.accept() => Some((stream, permit)),
        () = stop.cancelled() => None,
    }
}

/// A connection that counts as open until it is dropped.
#[derive(Debug)]
struct OpenConnection {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(gauge: &Gauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

struct Connection {
    server: Arc<Builder<TokioExecutor>>,
    idle_timeout: Duration,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Connection {
    async fn serve<S, B>(self, stream: TcpStream, service: S, _open: OpenConnection)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let service = hyper::service::service_fn({
            let activity = Arc::clone(&activity);
            move |request| activity.during(service.clone().call(request))
        });
        let mut connection =
            pin!(self.server.serve_connection(TokioIo::new(stream), service).into_owned());
        let first_check = tokio::time::Instant::now() + self.idle_timeout;
        let mut idle_check = interval_at(first_check, self.idle_timeout);
        idle_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_closing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(error, "a connection ended with an error");
                    }
                    return;
                }
                () = self.abort.cancelled() => return,
                () = self.stop.cancelled(), if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = idle_check.tick() => {
                    if !activity.was_idle() {
                        continue;
                    }
                    // A peer that does not take its leave either is cut off at the next check.
                    if is_closing {
                        return;
                    }
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Whether requests were in flight on a connection.
#[derive(Debug, Default)]
struct Activity {
    in_flight: AtomicUsize,
    begun: AtomicU64,
    begun_at_check: AtomicU64,
}

impl Activity {
    /// Runs a request, which counts as in flight meanwhile.
    fn during<F: Future>(self: &Arc<Self>, request: F) -> impl Future<Output = F::Output> + use<F> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(Arc::clone(self));
        async move {
            let _in_flight = in_flight;
            request.await
        }
    }

    /// Whether nothing was in flight, and nothing begun, since the last check.
    fn was_idle(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let had_begun = self.begun_at_check.swap(begun, Ordering::Relaxed);
        begun == had_begun && self.in_flight.load(Ordering::Relaxed) == 0
    }
}

struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
