//! A gateway: reads its region's replica of the index, asks cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway::grpc::{GrpcCellClient, GrpcMetadataIndex};
use gateway::port::{CellClient, MetadataIndex};
use gateway::{CellEndpoint, Gateway, Patience};
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
    let mut cells: Vec<Arc<dyn CellClient>> = Vec::new();
    for cell in &config.cells {
        let client = GrpcCellClient::connect_lazy(cell.region.clone(), cell.address.as_str())?;
        cells.push(Arc::new(client));
    }
    let settings = settings(&config);
    let connections_max = settings.connections_max;
    let clock = Arc::clone(&context.clock);
    let gateway = Gateway::new(settings, index, cells, clock, &mut context.registry);
    let serving = context.drain.stage("http");
    let listener = listen::bind(config.listen_http, context.change_port_with).await?;
    let http = listener.local_addr()?;
    let registry = Arc::new(context.registry);
    let health = service_kit::admin::router(context.readiness.clone(), Arc::clone(&registry));
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
    let endpoints = (context.readiness.clone(), registry);
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
        patience: Patience { first_frame: query.deadline, total: query.timeout_max },
        timeout_max: query.timeout_max,
        pace_bytes_per_second: query.progress_bytes_min,
        search_lookback: query.lookback,
        search_limit_max: query.limit_max as usize,
        requests_per_second: config.rate_limit.per_second,
        requests_burst: config.rate_limit.burst,
        connections_max: config.connections.connections_max as usize,
        ..gateway::GatewayConfig::new(config.region.clone(), cells)
    }
}
