//! A region's cell: collector, span log, consumer groups, stores, querier and the region's origin log,
//! in one process; or one part of it, beside processes of the other parts.

use std::sync::Arc;

use collector::{Collector, CollectorConfig};
use ingester::metadata_publisher::{LetOut, PublisherMetrics};
use ingester::{LagBoard, Retries};
use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits};
use querier::{Querier, QuerierConfig, QuerierPorts};
use sampling::{HeadRules, RateSampler};
use service_kit::admin::MetricsPage;
use service_kit::config::CellConfig;
use service_kit::{Readiness, ReadyCheck, Stage, listen};
use span_log::{Seen, SpanLog, SteppedOver};
use tonic::service::Routes;

use super::border::join_calls;
use super::claim::Claim;
use super::feed::PublishersFeed;
use super::foreign;
use super::groups;
use super::house::keep_house;
use super::keepers::{self, Direct, Keepers, Opening};
use super::log_to_come::LogToCome;
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
    let stages = Stages::of(&context);
    // Who asks how the process is, and who sends, is answered from the first moment on.
    let metrics = MetricsPage::default();
    let admin = serve_admin_endpoints(&config, &context, &metrics, &stages.admin).await?;
    let log = Arc::new(LogToCome::default());
    let (mut endpoints, mut collector) = (Endpoints::new(), None);
    let stepped_over = Arc::new(SteppedOver::open(config.data_dir.join("stepped-over.jsonl"))?);
    if role.receives() {
        let log = Arc::clone(&log) as _;
        let receiving = receive(&config, log, &mut context, &stages.receivers, &mut endpoints);
        let receiving = receiving.await?;
        let taken = (&receiving, &stepped_over);
        foreign::start(&config, taken, &mut context, &stages.receivers)?;
        collector = Some(receiving);
    }
    let (lag, mut publishing) = (LagBoard::default(), PublisherMetrics::default());
    let readiness = context.readiness.clone();
    let hand_over = |opened: Arc<dyn SpanLog>| {
        close_at_the_end(Arc::clone(&opened), Some(directory), &stages.log);
        watch_log(&opened, &readiness);
        log.is_here(opened);
    };
    if role == CellRole::Collector {
        let mut opening = opening(&config, role, &mut context, (&ready, &metrics));
        let opened = keepers::open_log(&mut opening, Seen::default()).await?;
        let desk = OperatorDesk::of_collector(&config.data_dir, &opened, stepped_over).await?;
        operator::serve(desk, &config.data_dir, &stages.answering);
        hand_over(opened);
    } else {
        let keepers = opening(&config, role, &mut context, (&ready, &metrics));
        let keepers = keepers::open(keepers, hand_over);
        let keepers = keepers.await?;
        let running = (&mut endpoints, &lag, &mut publishing, stepped_over);
        run(&config, role, keepers, running, &mut context, &stages).await?;
    }
    crate::doctor::watch(&config, role, &mut context.registry, &stages.house);
    metrics.show(context.registry);
    endpoints.push(("admin", admin));
    ready.pass();
    Ok(RunningRole {
        endpoints,
        drain: context.drain,
        snapshot: Box::new(move || snapshot(collector.as_deref(), &publishing, &lag)),
    })
}

type Running<'a> = (&'a mut Endpoints, &'a LagBoard, &'a mut PublisherMetrics, Arc<SteppedOver>);

/// Starts what works on the log and answers, over what was opened.
async fn run(
    config: &CellConfig,
    role: CellRole,
    mut keepers: Keepers,
    (endpoints, lag, publishing, stepped_over): Running<'_>,
    context: &mut RoleContext,
    stages: &Stages,
) -> anyhow::Result<()> {
    let routes = internal_routes(config, role, &keepers, lag, context, &stages.answering);
    if let Some(routes) = routes {
        let address = (config.listen.internal, context.change_port_with);
        let bound = serve_grpc("cell", address, routes, &stages.answering).await?;
        endpoints.push(("cell gRPC", bound));
    }
    let mut retries = Retries::default();
    if role.consumes() {
        let noted = (lag.clone(), &stepped_over);
        let groups = groups::start(config, &keepers, noted, context, &stages.groups).await?;
        (*publishing, retries) = (groups.publishing, groups.retries);
        join_calls(config, &keepers, (groups.calls, lag), context, &stages.border)?;
    }
    let desk = OperatorDesk::new(&keepers, retries, stepped_over);
    operator::serve(desk, &config.data_dir, &stages.answering);
    keep_house(std::mem::take(&mut keepers.chores), &stages.house);
    for awaiting in keepers.awaiting {
        let (coming, stopping) =
            (awaiting.with(Arc::clone(&keepers.log)), stages.house.stopping.clone());
        stages.house.spawn(async move {
            stopping.run_until_cancelled(coming).await;
        });
    }
    Ok(())
}

/// Starts a collector over a span log that nothing reads, to measure receiving alone.
pub(crate) async fn start_receiver(
    config: CellConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("cell");
    let metrics = MetricsPage::default();
    let mut opening = opening(&config, CellRole::Collector, &mut context, (&ready, &metrics));
    let log = keepers::open_log(&mut opening, Seen::default()).await?;
    drop(opening);
    ready.pass();
    let (stages, mut endpoints) = (Stages::of(&context), Endpoints::new());
    let receiving = Arc::clone(&log);
    receive(&config, receiving, &mut context, &stages.receivers, &mut endpoints).await?;
    watch_log(&log, &context.readiness);
    close_at_the_end(log, None, &stages.log);
    Ok(RunningRole { endpoints, drain: context.drain, snapshot: Box::new(RoleSnapshot::default) })
}

fn opening<'a>(
    config: &'a CellConfig,
    role: CellRole,
    context: &'a mut RoleContext,
    (ready, metrics): (&'a ReadyCheck, &'a MetricsPage),
) -> Opening<'a> {
    let RoleContext { clock, readiness, registry, .. } = context;
    let (direct, chores, awaiting) = (Direct::default(), Vec::new(), Vec::new());
    Opening { config, role, clock, registry, readiness, ready, metrics, direct, chores, awaiting }
}

async fn serve_admin_endpoints(
    config: &CellConfig,
    context: &RoleContext,
    metrics: &MetricsPage,
    stage: &Stage,
) -> anyhow::Result<std::net::SocketAddr> {
    let shown = (context.readiness.clone(), metrics.clone());
    serve_admin(config.listen.admin, context.change_port_with, shown, stage).await
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
    // A request that its sender does not end must leave time for the stages behind the receivers.
    settings.drain_timeout = (config.drain_timeout / 4).min(settings.drain_timeout);
    settings.cors_origins.clone_from(&receiver.cors_origins);
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
        let let_out = LetOut::under(groups::index_policy(config), Arc::clone(origin) as _);
        let feed = PublishersFeed::of(config, let_out, lag.clone());
        let clock = Arc::clone(&context.clock);
        let limits = ServerLimits::default();
        let feeds = ReplicationServer::new([feed], clock, limits, stage.stopping.clone());
        routes.add_service(feeds.into_service());
    }
    if let Some(log) = &keepers.direct.collector {
        routes.add_service(span_log::direct::server(Arc::clone(log)));
    }
    let is_collector = keepers.direct.collector.is_some();
    let is_asked = role.answers() || keepers.origin.is_some() || is_collector;
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
fn watch_log(log: &Arc<dyn SpanLog>, readiness: &Readiness) {
    let log = Arc::clone(log);
    readiness.probe("span-log", move || log.health());
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
