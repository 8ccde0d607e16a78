//! A region's cell: collector, span log, consumer groups, stores, querier and
//! the region's origin log, in one process.

use std::sync::Arc;

use collector::{Collector, CollectorConfig};
use ingester::LagBoard;
use ingester::metadata_publisher::PublisherMetrics;
use metadata_replicator::OriginFeed;
use metadata_replicator::feed::grpc::{ReplicationServer, ServerLimits};
use querier::{Querier, QuerierConfig, QuerierPorts};
use sampling::{HeadRules, RateSampler};
use service_kit::admin::MetricsPage;
use service_kit::config::CellConfig;
use service_kit::{ReadyCheck, Stage, listen};
use span_log::{Seen, SpanLog};
use tonic::service::Routes;

use super::border::join_calls;
use super::groups::{self, Groups};
use super::house::keep_house;
use super::keepers::{self, Keepers, Opening};
use super::log_to_come::LogToCome;
use super::operator::{self, OperatorDesk};
use super::ports::{LogAndGroups, LogTail};
use super::serve::{serve_admin, serve_grpc};
use crate::seam::{GroupLag, RoleContext, RoleSnapshot, RunningRole};

/// Starts a region's cell.
pub(crate) async fn start_cell(
    config: CellConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("cell");
    let stages = Stages::of(&context);
    // Who asks how the process is, and who sends, is answered from the first moment on.
    let metrics = MetricsPage::default();
    let admin = serve_admin_endpoints(&config, &context, &metrics, &stages.admin).await?;
    let log = Arc::new(LogToCome::default());
    let collector = collector(&config, Arc::clone(&log) as _, &mut context)?;
    let mut endpoints = serve_receivers(&config, &collector, &context, &stages.receivers).await?;
    let mut keepers = keepers::open(opening(&config, &mut context, &ready), |opened| {
        close_at_the_end(Arc::clone(&opened), &stages.log);
        log.is_here(opened);
    })
    .await?;
    let lag = LagBoard::default();
    let internal = internal_routes(&config, &keepers, &lag, &mut context, &stages.answering);
    let address = (config.listen.internal, context.change_port_with);
    endpoints.push(("cell gRPC", serve_grpc("cell", address, internal, &stages.answering).await?));
    let groups =
        groups::start(&config, &keepers, lag.clone(), &mut context, &stages.groups).await?;
    let Groups { publishing, calls, retries } = groups;
    join_calls(&config, &keepers, calls, &mut context, &stages.border)?;
    let desk = OperatorDesk::new(&keepers, retries);
    operator::serve(desk, &config.data_dir, &stages.answering);
    keep_house(std::mem::take(&mut keepers.chores), &stages.house);
    watch_log(&keepers.log, &context);
    metrics.show(context.registry);
    endpoints.push(("admin", admin));
    ready.pass();
    Ok(RunningRole {
        endpoints,
        drain: context.drain,
        snapshot: Box::new(move || snapshot(&collector, &publishing, &lag)),
    })
}

/// Starts a collector over a span log that nothing reads, to measure receiving alone.
pub(crate) async fn start_receiver(
    config: CellConfig,
    mut context: RoleContext,
) -> anyhow::Result<RunningRole> {
    let ready = context.readiness.check("cell");
    let mut opening = opening(&config, &mut context, &ready);
    let log = keepers::open_log(&mut opening, Seen::default()).await?;
    drop(opening);
    ready.pass();
    let stages = Stages::of(&context);
    let collector = collector(&config, Arc::clone(&log), &mut context)?;
    let endpoints = serve_receivers(&config, &collector, &context, &stages.receivers).await?;
    watch_log(&log, &context);
    close_at_the_end(log, &stages.log);
    Ok(RunningRole { endpoints, drain: context.drain, snapshot: Box::new(RoleSnapshot::default) })
}

fn opening<'a>(
    config: &'a CellConfig,
    context: &'a mut RoleContext,
    ready: &'a ReadyCheck,
) -> Opening<'a> {
    let RoleContext { clock, readiness, registry, .. } = context;
    Opening { config, clock, registry, readiness, ready, chores: Vec::new() }
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
    if !receiver.cors_origins.is_empty() {
        settings.cors_origins.clone_from(&receiver.cors_origins);
    }
    let rules = HeadRules { rate: config.head.rate, honour_flags: config.head.is_honouring_flags };
    let sampler = Arc::new(RateSampler::new(rules)?);
    let clock = Arc::clone(&context.clock);
    Ok(Collector::new(settings, log, sampler, clock, &mut context.registry))
}

type Endpoints = Vec<(&'static str, std::net::SocketAddr)>;

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

fn internal_routes(
    config: &CellConfig,
    keepers: &Keepers,
    lag: &LagBoard,
    context: &mut RoleContext,
    stage: &Stage,
) -> Routes {
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
    let querier = Querier::new(settings, ports, &mut context.registry);
    let feed: Arc<dyn OriginFeed> = Arc::clone(&keepers.origin) as _;
    let clock = Arc::clone(&context.clock);
    let limits = ServerLimits::default();
    let feeds = ReplicationServer::new([feed], clock, limits, stage.stopping.clone());
    Routes::new(querier::server(querier)).add_service(feeds.into_service())
}

/// A log whose threads have died refuses every sender: the process is not ready.
fn watch_log(log: &Arc<dyn SpanLog>, context: &RoleContext) {
    let log = Arc::clone(log);
    context.readiness.probe("span-log", move || log.health());
}

fn close_at_the_end(log: Arc<dyn SpanLog>, stage: &Stage) {
    let stopping = stage.stopping.clone();
    stage.spawn(async move {
        stopping.cancelled().await;
        if let Err(error) = log.close().await {
            tracing::error!(%error, "the span log did not close well");
        }
    });
}

fn snapshot(collector: &Collector, publishing: &PublisherMetrics, lag: &LagBoard) -> RoleSnapshot {
    let groups = lag.snapshot().into_iter().map(|lag| GroupLag {
        group: lag.group.0,
        records: lag.records,
        age: std::time::Duration::from_millis(lag.age_ms),
    });
    RoleSnapshot {
        spans: collector.metrics().accepted_spans.get(),
        traces: publishing.traces_opened.get(),
        groups: groups.collect(),
        index: Vec::new(),
    }
}
