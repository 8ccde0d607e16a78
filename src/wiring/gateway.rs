//! A gateway: reads its region's replica of the index, asks cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway::grpc::{GrpcCellClient, GrpcMetadataIndex};
use gateway::port::{CellClient, MetadataIndex};
use gateway::shared_state::SharedState;
use gateway::{AnswerRoom, CellEndpoint, CollectorEndpoint, Gateway, Patience};
use service_kit::admin::MetricsPage;
use service_kit::config::GatewayConfig;
use service_kit::listen;

use super::serve::serve_admin;
use crate::seam::{RoleContext, RoleSnapshot, RunningRole};

/// Starts a gateway.
pub(crate) async fn start_gateway(
    config: GatewayConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("http");
    let index: Arc<dyn MetadataIndex> =
        Arc::new(GrpcMetadataIndex::connect_lazy(config.replicator.as_str())?);
    let settings = settings(&config);
    let mut cells: Vec<Arc<dyn CellClient>> = Vec::new();
    for cell in &config.cells {
        let (region, room) = (cell.region.clone(), settings.answer_room.clone());
        cells.push(Arc::new(GrpcCellClient::connect_lazy(region, cell.address.as_str(), room)?));
    }
    let connections_max = settings.connections_max;
    let clock = Arc::clone(&context.clock);
    let gateway = Gateway::new(settings, index, cells, clock, &mut context.registry);
    let serving = context.drain.stage("http");
    let shared = share(&config, &mut context).await?;
    let gateway = gateway.with_shared_state(shared);
    let listener = listen::bind(config.listen_http, context.change_port_with).await?;
    let http = listener.local_addr()?;
    let metrics = MetricsPage::from(context.registry);
    let health = service_kit::admin::router(context.readiness.clone(), metrics.clone());
    let router = gateway::http::router(Arc::new(gateway)).merge(health);
    let (stopping, tracker) = (serving.stopping.clone(), serving.tracker.clone());
    serving.spawn(async move {
        let served =
            gateway::http::serve(listener, router, connections_max, stopping, tracker).await;
        if let Err(error) = served {
            tracing::error!(%error, "the gateway's listener has ended");
        }
    });
    let admin = context.drain.stage("admin");
    let endpoints = (context.readiness.clone(), metrics);
    let change = context.change_port_with;
    let admin = serve_admin(config.listen_admin, change, endpoints, &admin).await?;
    ready.pass();
    Ok(RunningRole {
        endpoints: vec![("http", http), ("admin", admin)],
        drain: context.drain,
        snapshot: Box::new(RoleSnapshot::default),
    })
}

/// What the gateways of a region share, on a stage behind the requests that use it.
#[cfg(feature = "redis")]
async fn share(config: &GatewayConfig, context: &mut RoleContext) -> anyhow::Result<SharedState> {
    use anyhow::Context as _;
    use gateway::shared_state::SharedStateMetrics;
    use gateway::shared_state::redis::RedisState;

    let Some(redis) = &config.redis else { return Ok(SharedState::default()) };
    let settings = redis_settings(redis);
    let metrics = SharedStateMetrics::register(&mut context.registry);
    let stage = context.drain.stage("redis");
    let clock = Arc::clone(&context.clock);
    let tasks = (stage.tracker.clone(), stage.stopping.clone());
    let state = RedisState::start(settings, clock, metrics.clone(), tasks).await;
    let state = state.context("the section `redis`")?;
    Ok(SharedState {
        counters: Some(Arc::new(state.counters())),
        gateways: config.rate_limit.gateways,
        metrics,
    })
}

/// The section `redis` in the adapter's words.
#[cfg(feature = "redis")]
pub(super) fn redis_settings(
    redis: &service_kit::config::redis::RedisConfig,
) -> gateway::shared_state::redis::RedisConfig {
    use gateway::shared_state::redis::RedisConfig;

    let credentials = &redis.credentials;
    RedisConfig {
        tls: credentials.tls.clone(),
        user: credentials.user.clone(),
        password_file: credentials.password_file.clone(),
        prefix: redis.prefix.clone(),
        timeout: redis.timeout,
        connect_timeout: redis.connect_timeout,
        ..RedisConfig::at(redis.host.clone(), redis.port)
    }
}

#[cfg(not(feature = "redis"))]
async fn share(config: &GatewayConfig, _: &mut RoleContext) -> anyhow::Result<SharedState> {
    if config.redis.is_some() {
        return Err(super::engines::lacking("redis", "redis"));
    }
    Ok(SharedState::default())
}

fn settings(config: &GatewayConfig) -> gateway::GatewayConfig {
    let endpoint = |cell: &service_kit::config::RegionAddress| CellEndpoint {
        region: cell.region.clone(),
        endpoint: cell.address.as_str().to_owned(),
    };
    let cells = config.cells.iter().map(endpoint).collect();
    let collector = |one: &service_kit::config::gateway::CollectorAddress| CollectorEndpoint {
        region: one.region.clone(),
        otlp_grpc: one.otlp_grpc.as_ref().map(|url| url.as_str().to_owned()),
        otlp_http: one.otlp_http.as_ref().map(|url| url.as_str().to_owned()),
    };
    let query = &config.query;
    gateway::GatewayConfig {
        unindexed: config.unindexed.iter().cloned().collect::<BTreeSet<_>>(),
        collectors: config.collectors.iter().map(collector).collect(),
        patience: Patience { first_frame: query.deadline, total: query.timeout },
        timeout_max: query.timeout_max,
        pace_bytes_per_second: query.progress_bytes_min,
        search_lookback: query.lookback,
        search_limit: query.limit as usize,
        search_limit_max: query.limit_max as usize,
        answer_room: AnswerRoom::new(query.answer_bytes_max),
        requests_per_second: config.rate_limit.per_second,
        requests_burst: config.rate_limit.burst,
        connections_max: config.connections.connections_max as usize,
        ..gateway::GatewayConfig::new(config.region.clone(), cells)
    }
}

#[cfg(test)]
mod tests {
    use service_kit::config::{Config, Loaded, parse};

    use super::*;

    /// The interface's page, as users read it.
    const API: &str = include_str!("../../docs/API.md");
    const SMALLEST: &str = "kind: gateway\nregion: eu\nreplicator: h:1\ncells: [{region: eu, \
                            address: h:2}]\n";

    fn loaded(text: &str) -> (GatewayConfig, Loaded) {
        let loaded = parse("gateway.yaml", text).unwrap();
        let Config::Gateway(config) = loaded.config.clone() else { panic!("not a gateway") };
        (*config, loaded)
    }

    /// The table of keys in the page: key and default.
    fn documented() -> Vec<(&'static str, &'static str)> {
        let table =
            API.lines().skip_while(|line| *line != "| key | default | what it is |").skip(2);
        let rows = table.take_while(|line| line.starts_with('|'));
        let cells = rows.map(|line| {
            let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`')).skip(1);
            (cells.next().unwrap(), cells.next().unwrap())
        });
        cells.collect()
    }

    #[test]
    fn the_documented_defaults_are_those_in_force() {
        let (_, loaded) = loaded(SMALLEST);
        let in_force: Vec<(&str, &str)> = loaded
            .effective
            .values()
            .map(|(key, value, _)| (key, value))
            .filter(|(key, _)| key.starts_with("query.") || key.starts_with("rate_limit."))
            .collect();
        assert_eq!(documented(), in_force, "docs/API.md, and `farspan config print`");
    }

    #[test]
    fn a_gateway_without_a_file_has_the_same_defaults() {
        let (config, _) = loaded(SMALLEST);
        let (wired, own) = (settings(&config), gateway::GatewayConfig::new(config.region, vec![]));
        assert_eq!(wired.patience, own.patience);
        assert_eq!(wired.timeout_max, own.timeout_max);
        assert_eq!(wired.pace_bytes_per_second, own.pace_bytes_per_second);
        assert_eq!(wired.search_lookback, own.search_lookback);
        assert_eq!(wired.search_limit, own.search_limit);
        assert_eq!(wired.search_limit_max, own.search_limit_max);
        assert_eq!(wired.requests_per_second, own.requests_per_second);
        assert_eq!(wired.requests_burst, own.requests_burst);
        assert_eq!(wired.connections_max, own.connections_max);
        assert_eq!(wired.answer_room.bytes_max(), own.answer_room.bytes_max());
    }

    #[test]
    fn every_key_of_a_question_reaches_the_gateway() {
        let text = format!(
            "{SMALLEST}query: {{deadline: 3s, timeout: 4s, timeout_max: 5s, limit: 6, \
             limit_max: 7, answer_memory: 17MiB, lookback: 2h, progress_min: 1KiB}}\n\
             rate_limit: {{per_second: 8, burst: 9}}\n"
        );
        let wired = settings(&loaded(&text).0);
        let seconds = std::time::Duration::from_secs;
        assert_eq!(wired.patience, Patience { first_frame: seconds(3), total: seconds(4) });
        assert_eq!((wired.timeout_max, wired.search_lookback), (seconds(5), seconds(7_200)));
        assert_eq!((wired.search_limit, wired.search_limit_max), (6, 7));
        assert_eq!((wired.requests_per_second, wired.requests_burst), (8, 9));
        assert_eq!(wired.answer_room.bytes_max(), 17 << 20);
        assert_eq!(wired.pace_bytes_per_second, 1_024);
    }

    #[cfg(feature = "redis")]
    const SHARED: &str = "rate_limit: {gateways: 1}\n";

    #[cfg(feature = "redis")]
    async fn start_with(redis: &str) -> anyhow::Result<RunningRole> {
        let listen = "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}\n";
        let (config, _) = loaded(&format!("{SMALLEST}{listen}{SHARED}redis: {redis}\n"));
        start_gateway(config, RoleContext::new("listen")).await
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_gateway_starts_and_stops_while_its_redis_is_away() {
        // Nobody listens on port 1.
        let role = start_with("{url: 'redis://127.0.0.1:1'}").await.unwrap();
        let admin = role.endpoints.iter().find(|(name, _)| *name == "admin").unwrap().1;
        let shown = ask(admin, "/metrics").await;
        assert!(shown.contains("farspan_gateway_shared_state_connected 0"), "{shown}");
        let http = role.endpoints.iter().find(|(name, _)| *name == "http").unwrap().1;
        assert!(ask(http, "/").await.starts_with("HTTP/1.1 200"));
        let shown = ask(admin, "/metrics").await;
        let decided = "shared_limit_decisions_total{keeper=\"Own\",verdict=\"Admitted\"} 1";
        assert!(shown.contains(decided), "{shown}");
        role.drain.drain(std::time::Duration::from_secs(10)).await.unwrap();
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_gateway_whose_secret_cannot_be_read_says_which() {
        let redis = "{url: 'redis://127.0.0.1:1', user: me, password_file: no/such/file}";
        let error = format!("{:#}", start_with(redis).await.err().unwrap());
        assert!(error.starts_with("the section `redis`: cannot read no/such/file"), "{error}");
    }

    #[cfg(feature = "redis")]
    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn waits_that_contradict_each_other_and_keys_without_an_effect_are_refused() {
        let text = format!(
            "{SMALLEST}query: {{deadline: 9s, timeout: 8s, timeout_max: 7s, cache: 1MiB}}\n"
        );
        let faults = parse("gateway.yaml", &text).unwrap_err().to_string();
        for fault in ["query.deadline", "query.timeout: is longer", "query.cache: is not known"] {
            assert!(faults.contains(fault), "{faults}");
        }
    }
}
