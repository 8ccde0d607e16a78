//! The gateway over HTTP: our own API, Jaeger's JSON API, and one plain page of endpoints.
//!
//! Requests are limited by address before anything else, then by the number being answered at
//! once. Handlers parse, ask the gateway, and render: what is asked and how complete it is, the
//! gateway alone decides.

mod certificate_json;
mod farspan;
mod farspan_json;
mod filter_text;
mod jaeger;
mod jaeger_filter;
mod jaeger_json;
mod limit;
mod otlp_json;
mod page;
mod params;
mod question;
mod red;
mod render;
mod reply;
mod serve;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::gateway::Gateway;

pub use reply::COMPLETENESS_HEADER;
pub use serve::serve;

/// Every route of the gateway, with its limits. It may be merged with other routers: the limits
/// stay with these routes. Health and metrics are not here; every process has them elsewhere.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let routes = Router::new()
        .route("/", get(page::index))
        .route("/api/farspan/v1/traces/{id}", get(farspan::trace))
        .route("/api/farspan/v1/search", get(farspan::search))
        .route("/api/farspan/v1/services", get(farspan::services))
        .route("/api/farspan/v1/operations", get(farspan::operations))
        .route("/api/farspan/v1/regions", get(farspan::regions))
        .route("/api/farspan/v1/summaries", get(farspan::summaries))
        .route("/api/farspan/v1/red", get(red::red))
        .route("/api/farspan/v1/edges", get(red::edges))
        .route("/api/farspan/v1/edges/traces", get(red::edge_traces))
        .route("/api/services", get(jaeger::services))
        .route("/api/services/{*rest}", get(jaeger::service_operations))
        .route("/api/operations", get(jaeger::operations))
        .route("/api/traces", get(jaeger::traces))
        .route("/api/traces/{id}", get(jaeger::trace))
        .route("/api/dependencies", get(jaeger::dependencies))
        .fallback(reply::no_such_path);
    limit::apply(routes, &gateway).with_state(gateway)
}

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod tests;
