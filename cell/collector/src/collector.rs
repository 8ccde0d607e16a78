//! A collector: its pipeline and its listeners.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use sampling::HeadSampler;
use span_log::port::SpanLog;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use trace_model::Clock;
use tracing::{debug, info, warn};

use crate::body::discard;
use crate::config::CollectorConfig;
use crate::error::ExportError;
use crate::listener::{Listener, Protocols};
use crate::metrics::CollectorMetrics;
use crate::pipeline::Pipeline;
use crate::status::{RefuseReason, refusal};
use crate::{cors, grpc, http as http_api};

/// A collector. Make one, then serve any number of listeners with it.
#[derive(Debug)]
pub struct Collector {
    config: CollectorConfig,
    pipeline: Pipeline,
    metrics: CollectorMetrics,
    is_refusing: AtomicBool,
    discarding: TaskTracker,
}

impl Collector {
    /// A collector into this log, whose metrics this registry shows.
    #[must_use]
    pub fn new(
        config: CollectorConfig,
        log: Arc<dyn SpanLog>,
        sampler: Arc<dyn HeadSampler>,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = CollectorMetrics::register(registry);
        let pipeline = Pipeline::new(&config, log, sampler, clock, metrics.clone());
        let (is_refusing, discarding) = (AtomicBool::new(false), TaskTracker::new());
        Arc::new(Self { config, pipeline, metrics, is_refusing, discarding })
    }

    /// Serves OTLP over gRPC (HTTP/2 with prior knowledge) until `stop` is cancelled and requests
    /// in flight have ended, at most the drain time later.
    pub async fn serve_grpc(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let collector = Arc::clone(&self);
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let collector = Arc::clone(&collector);
            async move { Ok::<_, Infallible>(grpc::handle(&collector, request).await) }
        });
        self.listener(Protocols::Http2).serve(listener, service, stop).await;
    }

    /// Serves OTLP over HTTP and Zipkin (HTTP/1 and HTTP/2), with the same end.
    pub async fn serve_http(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let collector = Arc::clone(&self);
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let collector = Arc::clone(&collector);
            async move { Ok::<_, Infallible>(http_api::handle(&collector, request).await) }
        });
        let service = tower::ServiceBuilder::new()
            .layer(cors::layer(&self.config.cors_origins))
            .service(service)
            .map_err(|error: Infallible| error);
        self.listener(Protocols::Http1And2).serve(listener, service, stop).await;
        // Their connections are closed, so these end at once.
        self.discarding.close();
        self.discarding.wait().await;
    }

    /// The stages, for callers within the process.
    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &CollectorMetrics {
        &self.metrics
    }

    pub(crate) const fn config(&self) -> &CollectorConfig {
        &self.config
    }

    /// Reads the rest of a refused body beside the answer. At most one a connection.
    pub(crate) fn discard(&self, body: Incoming) {
        self.discarding.spawn(discard(body));
    }

    /// Counts a refusal, and tells of the first of those that an operator can do something about.
    pub(crate) fn note_refusal(&self, error: &ExportError) {
        let reason = refusal(error).reason;
        self.metrics.count_refusal(reason);
        let is_ours = matches!(reason, RefuseReason::Log | RefuseReason::Internal);
        if is_ours && !self.is_refusing.swap(true, Ordering::Relaxed) {
            let cause = std::error::Error::source(error);
            warn!(%error, cause, "spans are refused; told once until some are taken again");
            return;
        }
        debug!(%error, "a request was refused");
    }

    /// Tells once that requests are taken again.
    pub(crate) fn note_success(&self) {
        if self.is_refusing.load(Ordering::Relaxed)
            && self.is_refusing.swap(false, Ordering::Relaxed)
        {
            info!("spans are taken again");
        }
    }

    fn listener(&self, protocols: Protocols) -> Listener {
        Listener {
            protocols,
            limits: self.config.connections,
            drain_timeout: self.config.drain_timeout,
            connections: self.metrics.connections.clone(),
        }
    }
}
