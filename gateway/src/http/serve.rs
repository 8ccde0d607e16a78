//! The HTTP listener: HTTP/1 and h2 on one port, with limits on headers, connections and idleness,
//! and an end that lets running requests finish.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use service_kit::listen::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A request's head must be complete within this; also how long a connection may be idle.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// Largest request head.
const HEADER_BYTES_MAX: usize = 64 << 10;
const HEADER_BYTES_MAX_H2: u32 = 64 << 10;
/// Requests at once on one connection.
const STREAMS_MAX: u32 = 128;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// After the stop, running requests have this long to finish.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(8);

/// What a listener needs to serve connections.
#[derive(Clone)]
struct Serving {
    router: Router,
    builder: Builder<TrackedExecutor>,
    token: CancellationToken,
    tracker: TaskTracker,
}

/// Spawns a connection's tasks where the service waits for them.
#[derive(Clone, Debug)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

/// Serves until the token is cancelled: then no connection is accepted any more, running requests
/// finish, and the tracker's tasks end. More connections than `connections_max` wait in the
/// listener's backlog.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    token: CancellationToken,
    tracker: TaskTracker,
) -> io::Result<()> {
    let builder = connection_builder(&tracker);
    let serving = Serving { router, builder, token, tracker };
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut acceptor = Acceptor::new(listener);
    loop {
        let accepted = tokio::select! {
            () = serving.token.cancelled() => return Ok(()),
            accepted = accept(&mut acceptor, &permits) => accepted?,
        };
        let (stream, peer, permit) = accepted;
        let connection = serving.clone().serve_connection(stream, peer);
        drop(serving.tracker.spawn(async move {
            connection.await;
            drop(permit);
        }));
    }
}

async fn accept(
    acceptor: &mut Acceptor,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = acceptor.accept().await;
    Ok((stream, peer, permit))
}

fn connection_builder(tracker: &TaskTracker) -> Builder<TrackedExecutor> {
    let mut builder = Builder::new(TrackedExecutor(tracker.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX_H2)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    builder
}

impl Serving {
    async fn serve_connection(self, stream: TcpStream, peer: SocketAddr) {
        let router = self.router;
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.token.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN_TIME_MAX, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn slow() -> &'static str {
        tokio::time::sleep(Duration::from_millis(150)).await;
        "done"
    }

    async fn peer(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
        peer.ip().to_string()
    }

    async fn read(mut stream: TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn running_requests_finish_when_the_listener_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/slow", get(slow)).route("/peer", get(peer));
        let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
        let serving = serve(listener, router, 4, token.clone(), tracker.clone());
        let asking = async {
            let answer = read(TcpStream::connect(address).await.unwrap(), "/peer").await;
            assert!(answer.ends_with("127.0.0.1"), "{answer}");
            let running = read(TcpStream::connect(address).await.unwrap(), "/slow");
            let stopping = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                token.cancel();
            };
            let (answer, ()) = tokio::join!(running, stopping);
            assert!(answer.ends_with("done"), "{answer}");
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
        tracker.close();
        tokio::time::timeout(Duration::from_secs(5), tracker.wait()).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
