//! A region's cell: collector, span log, consumer groups, stores, querier and the region's origin log,
//! in one process; or one part of it, beside processes of the other parts.

use std::sync::Arc;

use collector::{Collector, CollectorConfig};
use ingester::metadata_publisher::{FixedPolicy, LetOut, PublisherMetrics};
use ingester::{LagBoard, Retries};
use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits};
use querier::{Querier, QuerierConfig, QuerierPorts};
use sampling::{HeadRules, RateSampler};
use service_kit::config::CellConfig;
use service_kit::{Stage, listen};
use span_log::{Seen, SpanLog};
use tonic::service::Routes;

use super::border::join_calls;
use super::claim::Claim;
use super::feed::PublishersFeed;
use super::groups;
use super::keepers::{self, Keepers};
use super::operator::{self, OperatorDesk};
use super::ports::{LogAndGroups, LogTail};
use super::serve::{serve_admin, serve_grpc};
use crate::seam::{CellRole, GroupLag, RoleContext, RoleSnapshot, RunningRole};

/// Starts a region's cell, or one part of it.
pub(crate) async fn start_cell(
    config: CellConfig,
    role: CellRole,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("cell");
    let directory = Claim::on(&config.data_dir)?;
    if role == CellRole::Collector {
        let started = start_receiving(&config, &mut context).await?;
        ready.pass();
        return serve_receiving(config, started, directory, context).await;
    }
    let mut keepers = keepers::open(&config, role, &context.clock, &mut context.registry).await?;
    let stages = Stages::of(&context);
    let mut endpoints = Endpoints::new();
    let mut collector = None;
    if role.receives() {
        let log = Arc::clone(&keepers.log);
        let receiving = receive(&config, log, &mut context, &stages.receivers, &mut endpoints);
        collector = Some(receiving.await?);
    }
    let lag = LagBoard::default();
    let routes = internal_routes(&config, role, &keepers, &lag, &mut context, &stages.answering);
    if let Some(routes) = routes {
        let address = (config.listen.internal, context.change_port_with);
        let bound = serve_grpc("cell", address, routes, &stages.answering).await?;
        endpoints.push(("cell gRPC", bound));
    }
    let mut publishing = PublisherMetrics::default();
    let mut retries = Retries::default();
    if role.consumes() {
        let groups =
            groups::start(&config, &keepers, lag.clone(), &mut context, &stages.groups).await?;
        (publishing, retries) = (groups.publishing, groups.retries);
        join_calls(&config, &keepers, (groups.calls, &lag), &mut context, &stages.border)?;
    }
    let desk = OperatorDesk::new(&keepers, retries);
    operator::serve(desk, &config.data_dir, &stages.answering);
    keep_house(&mut keepers, &stages.house);
    watch_log(&keepers.log, &context);
    close_at_the_end(keepers.log, Some(directory), &stages.log);
    endpoints.push(("admin", admin(&config, &mut context, &stages.admin).await?));
    ready.pass();
    Ok(RunningRole {
        endpoints,
        drain: context.drain,
        snapshot: Box::new(move || snapshot(collector.as_deref(), &publishing, &lag)),
    })
}

/// What receives, and how it is stopped.
type Receiving = (Arc<dyn SpanLog>, Stages, Endpoints);

/// Starts a collector over a span log that nothing in this process reads.
async fn start_receiving(
    config: &CellConfig,
    context: &mut RoleContext,
) -> anyhow::Result<Receiving> {
    let (role, seen) = (CellRole::Collector, Seen::default());
    let opening = keepers::open_log(config, role, &context.clock, &mut context.registry, seen);
    let log = opening.await?;
    let stages = Stages::of(context);
    let mut endpoints = Endpoints::new();
    receive(config, Arc::clone(&log), context, &stages.receivers, &mut endpoints).await?;
    watch_log(&log, context);
    Ok((log, stages, endpoints))
}

async fn serve_receiving(
    config: CellConfig,
    (log, stages, mut endpoints): Receiving,
    directory: Claim,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    close_at_the_end(log, Some(directory), &stages.log);
    endpoints.push(("admin", admin(&config, &mut context, &stages.admin).await?));
    Ok(RunningRole { endpoints, drain: context.drain, snapshot: Box::new(RoleSnapshot::default) })
}

/// Starts a collector over a span log that nothing reads, to measure receiving alone.
pub(crate) async fn start_receiver(
    config: CellConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let (log, stages, endpoints) = start_receiving(&config, &mut context).await?;
    close_at_the_end(log, None, &stages.log);
    Ok(RunningRole { endpoints, drain: context.drain, snapshot: Box::new(RoleSnapshot::default) })
}

/// The parts of a cell in the order in which they stop.
#[derive(Debug)]
struct Stages {
    receivers: Stage,
    answering: Stage,
    border: Stage,
    groups: Stage,
    house: Stage,
    log: Stage,
    admin: Stage,
}

impl Stages {
    fn of(context: &RoleContext) -> Self {
        let drain = &context.drain;
        Self {
            receivers: drain.stage("receivers"),
            answering: drain.stage("answers"),
            border: drain.stage("calls across borders"),
            groups: drain.stage("consumer groups"),
            house: drain.stage("merging and retention"),
            log: drain.stage("span log"),
            admin: drain.stage("admin"),
        }
    }
}

fn collector(
    config: &CellConfig,
    log: Arc<dyn SpanLog>,
    context: &mut RoleContext,
) -> anyhow::Result<Arc<Collector>> {
    let receiver = &config.receiver;
    let name = format!("{}-collector", config.region);
    let mut settings = CollectorConfig::new(config.region.clone(), &name);
    settings.limits.spans_max = receiver.spans_max as usize;
    settings.limits.attributes_max = receiver.attributes_max as usize;
    settings.limits.value_bytes_max = usize::try_from(receiver.value_bytes_max)?;
    settings.limits.depth_max = receiver.depth_max as usize;
    settings.grpc_body_bytes_max = usize::try_from(receiver.grpc_body_bytes_max)?;
    settings.http_body_bytes_max = usize::try_from(receiver.http_body_bytes_max)?;
    settings.admission.in_flight_bytes_max = usize::try_from(receiver.in_flight_bytes_max)?;
    settings.connections.connections_max = receiver.connections.connections_max as usize;
    settings.connections.head_timeout = receiver.connections.header_timeout;
    settings.connections.idle_timeout = receiver.connections.idle_timeout;
    settings.body_timeout = receiver.request_timeout;
    if !receiver.cors_origins.is_empty() {
        settings.cors_origins.clone_from(&receiver.cors_origins);
    }
    let rules = HeadRules { rate: config.head.rate, honour_flags: config.head.is_honouring_flags };
    let sampler = Arc::new(RateSampler::new(rules)?);
    let clock = Arc::clone(&context.clock);
    Ok(Collector::new(settings, log, sampler, clock, &mut context.registry))
}

type Endpoints = Vec<(&'static str, std::net::SocketAddr)>;

/// Makes a collector and its listeners.
async fn receive(
    config: &CellConfig,
    log: Arc<dyn SpanLog>,
    context: &mut RoleContext,
    stage: &Stage,
    endpoints: &mut Endpoints,
) -> anyhow::Result<Arc<Collector>> {
    let collector = collector(config, log, context)?;
    endpoints.extend(serve_receivers(config, &collector, context, stage).await?);
    Ok(collector)
}

async fn admin(
    config: &CellConfig,
    context: &mut RoleContext,
    stage: &Stage,
) -> anyhow::Result<std::net::SocketAddr> {
    let registry = std::mem::take(&mut context.registry);
    let served = (context.readiness.clone(), Arc::new(registry));
    serve_admin(config.listen.admin, context.change_port_with, served, stage).await
}

async fn serve_receivers(
    config: &CellConfig,
    collector: &Arc<Collector>,
    context: &RoleContext,
    stage: &Stage,
) -> anyhow::Result<Endpoints> {
    let change = context.change_port_with;
    let grpc = listen::bind(config.listen.otlp_grpc, change).await?;
    let http = listen::bind(config.listen.otlp_http, change).await?;
    let zipkin = listen::bind(config.listen.zipkin, change).await?;
    let endpoints = vec![
        ("OTLP gRPC", grpc.local_addr()?),
        ("OTLP HTTP", http.local_addr()?),
        ("Zipkin", zipkin.local_addr()?),
    ];
    stage.spawn(Arc::clone(collector).serve_grpc(grpc, stage.stopping.clone()));
    for listener in [http, zipkin] {
        stage.spawn(Arc::clone(collector).serve_http(listener, stage.stopping.clone()));
    }
    Ok(endpoints)
}

/// What gateways and replicators ask this process for; `None` where that is nothing.
fn internal_routes(
    config: &CellConfig,
    role: CellRole,
    keepers: &Keepers,
    lag: &LagBoard,
    context: &mut RoleContext,
    stage: &Stage,
) -> Option<Routes> {
    let mut routes = Routes::builder();
    if role.answers() {
        routes.add_service(querier::server(querier(config, keepers, lag, context)));
    }
    if let Some(origin) = &keepers.origin {
        let policy = Arc::new(FixedPolicy(config.locality.index));
        let let_out = LetOut::under(policy, Arc::clone(origin) as _);
        let feed = PublishersFeed::of(config, let_out, lag.clone());
        let clock = Arc::clone(&context.clock);
        let limits = ServerLimits::default();
        let feeds = ReplicationServer::new([feed], clock, limits, stage.stopping.clone());
        routes.add_service(feeds.into_service());
    }
    let is_asked = role.answers() || keepers.origin.is_some();
    is_asked.then(|| routes.routes())
}

fn querier(
    config: &CellConfig,
    keepers: &Keepers,
    lag: &LagBoard,
    context: &mut RoleContext,
) -> Querier {
    let log = Arc::clone(&keepers.log);
    let dead_letters = Arc::clone(&keepers.dead_letters);
    let ports = QuerierPorts {
        traces: Arc::clone(&keepers.stores.traces),
        search: Arc::clone(&keepers.stores.search),
        catalog: Arc::clone(&keepers.stores.catalog),
        metrics: Arc::clone(&keepers.stores.metrics),
        tail: Arc::new(LogTail { log: Arc::clone(&log), dead_letters: Arc::clone(&dead_letters) }),
        status: Arc::new(LogAndGroups { log, lag: lag.clone(), dead_letters }),
        clock: Arc::clone(&context.clock),
    };
    let mut settings = QuerierConfig::new(config.region.clone());
    settings.locality = config.locality;
    settings.queries_max = config.querier.concurrency as usize;
    Querier::new(settings, ports, &mut context.registry)
}

/// A log whose threads have died refuses every sender: the process is not ready.
fn watch_log(log: &Arc<dyn SpanLog>, context: &RoleContext) {
    let log = Arc::clone(log);
    context.readiness.probe("span-log", move || log.health());
}

fn keep_house(keepers: &mut Keepers, stage: &Stage) {
    for chore in std::mem::take(&mut keepers.chores) {
        let stopping = stage.stopping.clone();
        stage.spawn(async move {
            while stopping.run_until_cancelled(tokio::time::sleep(chore.every)).await.is_some() {
                if let Err(error) = (chore.run)().await {
                    tracing::warn!(error = format!("{error:#}"), "{} failed", chore.what);
                }
            }
        });
    }
}

fn close_at_the_end(log: Arc<dyn SpanLog>, directory: Option<Claim>, stage: &Stage) {
    let stopping = stage.stopping.clone();
    stage.spawn(async move {
        // Nobody else may have the directory before the log is closed.
        let _directory = directory;
        stopping.cancelled().await;
        if let Err(error) = log.close().await {
            tracing::error!(%error, "the span log did not close well");
        }
    });
}

fn snapshot(
    collector: Option<&Collector>,
    publishing: &PublisherMetrics,
    lag: &LagBoard,
) -> RoleSnapshot {
    let groups = lag.snapshot().into_iter().map(|lag| GroupLag {
        group: lag.group.0,
        records: lag.records,
        age: std::time::Duration::from_millis(lag.age_ms),
    });
    RoleSnapshot {
        spans: collector.map_or(0, |one| one.metrics().accepted_spans.get()),
        traces: publishing.traces_opened.get(),
        groups: groups.collect(),
        index: Vec::new(),
    }
}
