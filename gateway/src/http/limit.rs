//! Limits before any work: by address (token bucket) in this process, then over all gateways of the
//! region where they share counters, and by the number of requests being answered.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use tokio::sync::Semaphore;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use super::render::hold_body;
use super::reply::ApiError;
use crate::gateway::Gateway;
use crate::metrics::{GatewayMetrics, RefusedBy};
use crate::shared_state::{AddressLimit, Quota, SharedState};

/// Addresses that have been quiet are forgotten this often: their buckets are full again.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The peer's address. Never a forwarded header, which anyone can write; of IPv6 the /64 that one
/// subscriber has, so that changing the address within it neither escapes nor grows the table.
#[derive(Clone, Copy, Debug)]
struct PeerAddress;

impl KeyExtractor for PeerAddress {
    type Key = IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<IpAddr, GovernorError> {
        Ok(Self::of(request))
    }
}

impl PeerAddress {
    fn of<T>(request: &Request<T>) -> IpAddr {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let address = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        // Without a connection (requests made within the process) all share one bucket.
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        }
    }
}

/// Puts the limits around the routes. A rate of 0 requests a second means no limit by address.
pub(super) fn apply(routes: Router<Arc<Gateway>>, gateway: &Gateway) -> Router<Arc<Gateway>> {
    let config = &gateway.config;
    let metrics = gateway.metrics.clone();
    let running = Arc::new(Running {
        permits: Arc::new(Semaphore::new(config.requests_running_max)),
        metrics: metrics.clone(),
    });
    let held = middleware::from_fn_with_state(config.answer_room.clone(), hold_body);
    let limited = routes.layer(held).layer(middleware::from_fn_with_state(running, bound_running));
    let mut builder = GovernorConfigBuilder::default().key_extractor(PeerAddress);
    let period = Duration::from_secs(1).checked_div(config.requests_per_second);
    builder.period(period.unwrap_or_default()).burst_size(config.requests_burst);
    let Some(governor) = builder.finish() else { return limited };
    let governor = Arc::new(governor);
    let limiter = Arc::clone(governor.limiter());
    // Behind the own limit: what that refuses costs the shared counters nothing.
    let shared = shared_limit(gateway);
    let limited = match &shared {
        Some(shared) => limited.layer(middleware::from_fn_with_state(shared.clone(), bound_shared)),
        None => limited,
    };
    let forgetting = Arc::new(Forgetting {
        forget: Box::new(move || {
            limiter.retain_recent();
            limiter.shrink_to_fit();
            if let Some(shared) = &shared {
                shared.limit.forget_quiet();
            }
        }),
        clock: Arc::clone(&gateway.clock),
        last_seconds: AtomicU64::new(0),
    });
    let layer = GovernorLayer::new(governor).error_handler(move |error| refuse(&error, &metrics));
    limited.layer(layer).layer(middleware::from_fn_with_state(forgetting, forget_quiet))
}

#[derive(Clone, Debug)]
struct Shared {
    limit: Arc<AddressLimit>,
    metrics: GatewayMetrics,
}

fn shared_limit(gateway: &Gateway) -> Option<Shared> {
    let SharedState { counters, gateways, metrics, .. } = &gateway.shared;
    let config = &gateway.config;
    let quota = Quota::new(config.requests_per_second, config.requests_burst);
    let (counters, clock) = (Arc::clone(counters.as_ref()?), Arc::clone(&gateway.clock));
    let limit = AddressLimit::new(counters, quota, *gateways, clock, metrics.clone());
    Some(Shared { limit: Arc::new(limit), metrics: gateway.metrics.clone() })
}

async fn bound_shared(
    State(shared): State<Shared>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if let Err(wait) = shared.limit.admit(PeerAddress::of(&request)).await {
        shared.metrics.count_refused(RefusedBy::SharedAddress);
        let message = "too many requests from this address to the region's gateways";
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        return ApiError::refused(StatusCode::TOO_MANY_REQUESTS, message, seconds).into_our_shape();
    }
    next.run(request).await
}

fn refuse(error: &GovernorError, metrics: &GatewayMetrics) -> Response<Body> {
    metrics.count_refused(RefusedBy::Address);
    match error {
        GovernorError::TooManyRequests { wait_time, .. } => {
            let message = "too many requests from this address";
            ApiError::refused(StatusCode::TOO_MANY_REQUESTS, message, *wait_time)
        }
        GovernorError::UnableToExtractKey | GovernorError::Other { .. } => {
            ApiError::internal("the peer's address is not known")
        }
    }
    .into_our_shape()
}

#[derive(Debug)]
struct Running {
    permits: Arc<Semaphore>,
    metrics: GatewayMetrics,
}

/// Counts down when the answer is out, or the request was given up.
struct Answering(prometheus_client::metrics::gauge::Gauge);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn bound_running(
    State(running): State<Arc<Running>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let Ok(_permit) = running.permits.try_acquire() else {
        running.metrics.count_refused(RefusedBy::Load);
        let message = "the gateway is answering as many requests as it can";
        return ApiError::refused(StatusCode::SERVICE_UNAVAILABLE, message, 1).into_our_shape();
    };
    running.metrics.running.inc();
    let _answering = Answering(running.metrics.running.clone());
    next.run(request).await
}

/// Keeps the table of addresses as small as the addresses that are active: `retain_recent` on the
/// requests' own clock, since without requests the table does not grow.
struct Forgetting {
    forget: Box<dyn Fn() + Send + Sync>,
    clock: Arc<dyn trace_model::Clock>,
    last_seconds: AtomicU64,
}

async fn forget_quiet(
    State(forgetting): State<Arc<Forgetting>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let now = forgetting.clock.monotonic().as_secs();
    let last = forgetting.last_seconds.load(Ordering::Relaxed);
    let is_due = now.saturating_sub(last) >= FORGET_EVERY.as_secs();
    let exchange = |last| {
        forgetting.last_seconds.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
    };
    if is_due && exchange(last).is_ok() {
        (forgetting.forget)();
    }
    next.run(request).await
}
