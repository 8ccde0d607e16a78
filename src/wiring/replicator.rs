//! A region's metadata replicator: follows every origin, answers the region's gateways.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use metadata_replicator::{Entropy, OriginEndpoint, Replica, ReplicaConfig, ReplicatorMetrics};
use service_kit::config::ReplicatorConfig;
use tonic::service::Routes;
use trace_model::location::RegionState;
use trace_model::{Clock, Region};

use super::serve::{serve_admin, serve_grpc};
use crate::seam::{IndexLag, RoleContext, RoleSnapshot, RunningRole};

/// Starts a region's metadata replicator.
pub(crate) async fn start_replicator(
    config: ReplicatorConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("index");
    let metrics = ReplicatorMetrics::default();
    metrics.register(&mut context.registry);
    let replica = open(&config, Arc::clone(&context.clock), metrics).await?;
    let change = context.change_port_with;
    let serving = context.drain.stage("index streams and look-ups");
    let services = replica.grpc_services(&serving.stopping);
    let routes = Routes::new(services.replication).add_service(services.index);
    let grpc = serve_grpc("index", (config.listen_grpc, change), routes, &serving).await?;
    let following = context.drain.stage("following origins");
    replica.spawn(&following.tracker, &following.stopping);
    let admin = context.drain.stage("admin");
    let endpoints = (context.readiness.clone(), context.registry.into());
    let admin = serve_admin(config.listen_admin, change, endpoints, &admin).await?;
    ready.pass();
    let (own, clock) = (config.region, context.clock);
    Ok(RunningRole {
        endpoints: vec![("index gRPC", grpc), ("admin", admin)],
        drain: context.drain,
        snapshot: Box::new(move || snapshot(&replica, &own, clock.as_ref())),
    })
}

async fn open(
    config: &ReplicatorConfig,
    clock: Arc<dyn Clock>,
    metrics: ReplicatorMetrics,
) -> anyhow::Result<Arc<Replica>> {
    let own =
        OriginEndpoint { region: config.region.clone(), url: config.cell.as_str().to_owned() };
    let peers = config.peers.iter().map(|peer| OriginEndpoint {
        region: peer.region.clone(),
        url: peer.address.as_str().to_owned(),
    });
    let origins = std::iter::once(own).chain(peers).collect();
    let mut replica = ReplicaConfig::new(config.region.clone(), &config.data_dir, origins);
    replica.retention = config.retention;
    let opening =
        move || Replica::open(replica, clock, Entropy::from_system(), metrics).map(Arc::new);
    let opened = tokio::task::spawn_blocking(opening).await?;
    opened.with_context(|| format!("opening the index in {}", config.data_dir.display()))
}

fn snapshot(replica: &Replica, own: &Region, clock: &dyn Clock) -> RoleSnapshot {
    let states = replica.list_regions();
    let others = states.into_iter().filter(|state| state.region != *own);
    RoleSnapshot {
        index: others.map(|state| index_lag(state, clock)).collect(),
        ..RoleSnapshot::default()
    }
}

fn index_lag(state: RegionState, clock: &dyn Clock) -> IndexLag {
    let as_of = state.watermark.as_ref().map(|watermark| watermark.as_of);
    let lag = as_of.map(|as_of| Duration::from_nanos(clock.now().since(as_of)));
    IndexLag { origin: state.region, lag, is_connected: state.is_connected }
}
