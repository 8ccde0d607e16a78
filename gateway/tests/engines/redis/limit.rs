//! The limit by address over HTTP, at two gateways of a region, with Redis and without.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use gateway::grpc::GrpcMetadataIndex;
use gateway::shared_state::SharedState;
use gateway::{Gateway as Service, GatewayConfig};
use prometheus_client::registry::Registry;
use service_kit::SystemClock;
use tower::ServiceExt;
use trace_model::Region;

use super::Gateway;
use super::server::Server;

const BURST: u32 = 60;

/// A gateway that lets one address have 60 requests at once, and one a second.
fn router(shared: &Gateway) -> Router {
    let config = GatewayConfig {
        requests_per_second: 1,
        requests_burst: BURST,
        ..GatewayConfig::new(Region::new("eu").unwrap(), Vec::new())
    };
    // Nobody is asked: the page is the gateway's own.
    let index = Arc::new(GrpcMetadataIndex::connect_lazy("http://127.0.0.1:1").unwrap());
    let clock = Arc::new(SystemClock::new());
    let service = Service::new(config, index, Vec::new(), clock, &mut Registry::default());
    let shared = SharedState {
        counters: Some(shared.counters.clone()),
        gateways: 2,
        ..SharedState::default()
    };
    gateway::http::router(Arc::new(service.with_shared_state(shared)))
}

/// The status of one request, and how long to wait.
async fn ask(router: &Router, address: IpAddr) -> (StatusCode, Option<u64>) {
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address, 1)));
    let response = router.clone().oneshot(request).await.unwrap();
    let wait = response.headers().get("retry-after");
    (response.status(), wait.map(|wait| wait.to_str().unwrap().parse().unwrap()))
}

/// How many of so many requests, at either in turn, were let through.
async fn admitted(routers: &[Router; 2], requests: u32, address: [u8; 4]) -> u32 {
    let mut admitted = 0;
    for _ in 0..requests {
        for router in routers {
            match ask(router, address.into()).await {
                (StatusCode::OK, _) => admitted += 1,
                (StatusCode::TOO_MANY_REQUESTS, wait) => assert!(wait.unwrap() >= 1),
                (status, _) => panic!("{status}"),
            }
        }
    }
    admitted
}

#[tokio::test]
async fn an_address_has_one_limit_at_all_gateways_and_it_never_falls_open() {
    let server = Server::start("limit", &[]);
    let ends =
        [Gateway::connected(server.config()).await, Gateway::connected(server.config()).await];
    let routers = [router(&ends[0]), router(&ends[1])];
    let started = tokio::time::Instant::now();
    let slack = || 2 + started.elapsed().as_secs() as u32;
    let with = admitted(&routers, BURST, [10, 0, 0, 1]).await;
    assert!((BURST..=BURST + slack()).contains(&with), "{with}");

    server.signal("KILL");
    ends[0].is(false).await;
    ends[1].is(false).await;
    let more = admitted(&routers, BURST, [10, 0, 0, 1]).await;
    assert!(with + more <= BURST + 2 * slack(), "{with}, then {more}");
    // Another address: each gateway its half.
    let without = admitted(&routers, BURST, [10, 0, 0, 2]).await;
    assert!((BURST..=BURST + slack()).contains(&without), "{without}");

    server.start_again();
    ends[0].is(true).await;
    ends[1].is(true).await;
    let again = admitted(&routers, BURST * 2, [10, 0, 0, 3]).await;
    assert!((BURST..=BURST + slack()).contains(&again), "{again}");
}

#[tokio::test]
async fn a_stopped_redis_makes_no_request_fail() {
    let server = Server::start("limit-stopped", &[]);
    let end = Gateway::connected(server.config()).await;
    let router = router(&end);
    assert_eq!(ask(&router, [10, 0, 0, 1].into()).await.0, StatusCode::OK);
    server.signal("STOP");
    for last in 0..100 {
        assert_eq!(ask(&router, [10, 0, 1, last].into()).await.0, StatusCode::OK);
    }
    assert!(!end.state.is_connected());
}
