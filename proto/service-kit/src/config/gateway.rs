//! The configuration of a gateway.

use std::net::SocketAddr;
use std::time::Duration;

use trace_model::Region;

use super::cell::read_drain_timeout;
use super::listen::{ConnectionLimits, Listeners, TelemetryConfig, read_limits, read_telemetry};
use super::redis::{RedisConfig, read_redis};
use super::section::Section;
use super::setting::Bytes;
use super::{EngineUrl, RegionAddress, ServiceUrl, read_region_addresses};

/// A gateway: the global question.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// The region whose index replica it reads.
    pub region: Region,
    /// Whether addresses other than loopback may be bound.
    pub is_insecure: bool,
    /// Jaeger's HTTP API, ours, the page.
    pub listen_http: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub listen_admin: SocketAddr,
    /// The region's replicator.
    pub replicator: ServiceUrl,
    /// The cells of all regions, the own one among them.
    pub cells: Vec<RegionAddress>,
    /// Regions whose cells publish no index (`locality.index: none`): named as not provable, and
    /// no reason to call an answer partial.
    pub unindexed: Vec<Region>,
    /// Where applications send their spans: shown on the page at `/`, asked by nobody.
    pub collectors: Vec<CollectorAddress>,
    /// Limits of questions.
    pub query: QueryConfig,
    /// Requests a second that one address may send.
    pub rate_limit: RateLimitConfig,
    /// What the gateways of the region share lies there; `None`: each is alone.
    pub redis: Option<RedisConfig>,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Time to finish what is under way when the process stops.
    pub drain_timeout: Duration,
    /// Logging.
    pub telemetry: TelemetryConfig,
}

/// A region's collector as applications reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorAddress {
    /// The region.
    pub region: Region,
    /// OTLP over gRPC.
    pub otlp_grpc: Option<EngineUrl>,
    /// OTLP over HTTP.
    pub otlp_http: Option<EngineUrl>,
}

/// Limits of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryConfig {
    /// Until a region's first span, where a request does not say.
    pub deadline: Duration,
    /// Until the whole answer, where a request does not say.
    pub timeout: Duration,
    /// The longest `timeout` that a request may ask for.
    pub timeout_max: Duration,
    /// Slowest progress of a region once it has begun, in bytes a second.
    pub progress_bytes_min: u64,
    /// The range of a search that names none: so far back from now.
    pub lookback: Duration,
    /// Traces of a search of our own API that names no limit.
    pub limit: u32,
    /// Most traces of a search.
    pub limit_max: u32,
    /// Memory for answers, in bytes, over all questions at once.
    pub answer_bytes_max: u64,
}

/// A limit by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// Requests a second.
    pub per_second: u32,
    /// Requests at once on top.
    pub burst: u32,
    /// Gateways of the region that share the limit: while Redis is away each allows its part. Must be
    /// written where Redis is named: a wrong guess would let each allow the whole.
    pub gateways: u32,
}

pub(super) fn read(root: &mut Section<'_>) -> Option<GatewayConfig> {
    let region = root.required::<Region>("region");
    let is_insecure = root.value("insecure", false);
    let mut listeners = Listeners::new(is_insecure);
    let mut listen = root.section("listen");
    let listen_http = listeners.read(&mut listen, "http", 16_686);
    let listen_admin = listeners.read(&mut listen, "admin", 17_482);
    let connections = read_limits(&mut listen);
    listen.finish();
    let replicator = root.required::<ServiceUrl>("replicator");
    let cells = read_cells(root, region.as_ref());
    let unindexed: Vec<Region> = root.value("unindexed", Vec::new());
    for region in &unindexed {
        if !cells.iter().any(|cell| cell.region == *region) {
            root.refuse("unindexed", &format!("names {region}, which is not among `cells`"));
        }
    }
    let collectors = read_collectors(root);
    let query = read_query(root);
    let redis = read_redis(root);
    let rate_limit = read_rate_limit(root, matches!(redis, Some(None)));
    let drain_timeout = read_drain_timeout(root);
    let telemetry = read_telemetry(root);
    Some(GatewayConfig {
        region: region?,
        is_insecure,
        listen_http,
        listen_admin,
        replicator: replicator?,
        cells,
        unindexed,
        collectors,
        query,
        rate_limit,
        redis: redis?,
        connections,
        drain_timeout,
        telemetry,
    })
}

fn read_cells(root: &mut Section<'_>, own: Option<&Region>) -> Vec<RegionAddress> {
    let is_written = root.has("cells");
    let cells = read_region_addresses(root, "cells");
    if !is_written {
        root.refuse("cells", "is missing: a list of `{region, address}`, the own cell among them");
        return cells;
    }
    if let Some(own) = own
        && !cells.iter().any(|cell| cell.region == *own)
    {
        root.refuse("cells", &format!("lacks the gateway's own region, {own}"));
    }
    cells
}

fn read_collectors(root: &mut Section<'_>) -> Vec<CollectorAddress> {
    let mut collectors = Vec::new();
    for mut entry in root.sections("collectors") {
        let region = entry.required::<Region>("region");
        let otlp_grpc = read_http_url(&mut entry, "otlp_grpc");
        let otlp_http = read_http_url(&mut entry, "otlp_http");
        if !entry.has("otlp_grpc") && !entry.has("otlp_http") {
            entry.refuse("region", "needs `otlp_grpc`, `otlp_http` or both");
        }
        entry.finish();
        let Some(region) = region else { continue };
        collectors.push(CollectorAddress { region, otlp_grpc, otlp_http });
    }
    collectors
}

fn read_http_url(entry: &mut Section<'_>, key: &'static str) -> Option<EngineUrl> {
    let url = entry.optional::<EngineUrl>(key)?;
    if !url.as_str().starts_with("http") {
        entry.refuse(key, "is neither http:// nor https://");
    }
    Some(url)
}

fn read_query(root: &mut Section<'_>) -> QueryConfig {
    let mut section = root.section("query");
    let millis = Duration::from_millis;
    let seconds = Duration::from_secs;
    let deadline = section.within("deadline", seconds(2), millis(10)..=seconds(300));
    let timeout = section.within("timeout", seconds(30), millis(10)..=seconds(600));
    let timeout_max = section.within("timeout_max", seconds(120), millis(10)..=seconds(600));
    if deadline > timeout {
        section.refuse("deadline", "is longer than `query.timeout`");
    }
    if timeout > timeout_max {
        section.refuse("timeout", "is longer than `query.timeout_max`");
    }
    let limit = section.within("limit", 20, 1..=10_000);
    let limit_max = section.within("limit_max", 1_500, 1..=10_000);
    if limit > limit_max {
        section.refuse("limit", "is larger than `query.limit_max`");
    }
    let progress = section.within("progress_min", Bytes(64 << 10), Bytes(1)..=Bytes(1 << 30));
    let answers = section.within("answer_memory", Bytes(1 << 30), Bytes(16 << 20)..=Bytes(1 << 40));
    let minute = seconds(60);
    let query = QueryConfig {
        deadline,
        timeout,
        timeout_max,
        progress_bytes_min: progress.0,
        lookback: section.within("lookback", minute * 60, minute..=minute * 60 * 24 * 365),
        limit,
        limit_max,
        answer_bytes_max: answers.0,
    };
    section.finish();
    query
}

fn read_rate_limit(root: &mut Section<'_>, is_alone: bool) -> RateLimitConfig {
    let mut section = root.section("rate_limit");
    match (is_alone, section.has("gateways")) {
        (true, true) => section.refuse("gateways", "has no effect without `redis`"),
        (false, false) => root.refuse(
            "redis",
            "needs `rate_limit.gateways`: how many gateways of the region share the limits; while Redis is \
             away each gives its share",
        ),
        (true, false) | (false, true) => {}
    }
    let limit = RateLimitConfig {
        per_second: section.within("per_second", 200, 1..=1_000_000),
        burst: section.within("burst", 400, 1..=1_000_000),
        gateways: section.within("gateways", 1, 1..=1_000),
    };
    section.finish();
    limit
}
