//! Listeners: admin endpoints and gRPC, each on a stage.

use std::net::SocketAddr;

use service_kit::admin::MetricsPage;
use service_kit::listen::Acceptor;
use service_kit::{Readiness, Stage, admin, listen};
use tonic::service::Routes;
use tonic::transport::Server;

/// Flow-control windows of connections between regions: at 80 ms and more the usual 64 KiB would
/// hold an answer of 1 MB for 16 round trips.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Calls at a time on one connection.
const STREAMS_MAX: u32 = 1_024;

/// Serves `/livez`, `/readyz` and `/metrics`.
pub(super) async fn serve_admin(
    address: SocketAddr,
    change_port_with: &str,
    (readiness, metrics): (Readiness, MetricsPage),
    stage: &Stage,
) -> anyhow::Result<SocketAddr> {
    let listener = listen::bind(address, change_port_with).await?;
    let bound = listener.local_addr()?;
    let router = admin::router(readiness, metrics);
    let stopping = stage.stopping.clone();
    let (limit, tracker) = (ADMIN_CONNECTIONS_MAX, stage.tracker.clone());
    stage.spawn(async move {
        if let Err(error) = ::gateway::http::serve(listener, router, limit, stopping, tracker).await
        {
            tracing::error!(%error, "the admin endpoints have ended");
        }
    });
    Ok(bound)
}

/// Connections to the admin endpoints: probes and scrapers.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Serves gRPC until the stage stops; running calls finish.
pub(super) async fn serve_grpc(
    what: &'static str,
    (address, change_port_with): (SocketAddr, &str),
    routes: Routes,
    stage: &Stage,
) -> anyhow::Result<SocketAddr> {
    let listener = listen::bind(address, change_port_with).await?;
    let bound = listener.local_addr()?;
    // Not tonic's own: an accept without file descriptors would end the server.
    let incoming = futures_util::stream::unfold(Acceptor::new(listener), async |mut acceptor| {
        let (stream, _) = acceptor.accept().await;
        Some((Ok::<_, std::io::Error>(stream), acceptor))
    });
    let stopping = stage.stopping.clone();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned());
    stage.spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, what, "a gRPC server has ended");
        }
    });
    Ok(bound)
}
