//! A gateway: reads its region's replica of the index, asks cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway::grpc::{GrpcCellClient, GrpcMetadataIndex};
use gateway::port::{CellClient, MetadataIndex};
use gateway::{AnswerRoom, CellEndpoint, Gateway, Patience};
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

fn settings(config: &GatewayConfig) -> gateway::GatewayConfig {
    let endpoint = |cell: &service_kit::config::RegionAddress| CellEndpoint {
        region: cell.region.clone(),
        endpoint: cell.address.as_str().to_owned(),
    };
    let cells = config.cells.iter().map(endpoint).collect();
    let query = &config.query;
    gateway::GatewayConfig {
        unindexed: config.unindexed.iter().cloned().collect::<BTreeSet<_>>(),
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
