//! The consumer groups of a cell, each made of its stores, and named in the readiness of the process.

use std::sync::Arc;

use ingester::metadata_publisher::{
    FixedPolicy, IndexPolicy, PublisherConfig, PublisherMaker, PublisherMetrics,
};
use ingester::metrics_aggregator::CrossBorder;
use ingester::{
    AggregatorConfig, AggregatorMaker, AggregatorMetrics, AggregatorParts, AnalyticsWriterMaker,
    EndsOf, GroupMaker, IngesterMetrics, IngesterParts, IngesterService, LagBoard, LogEnds,
    Retries, RunnerConfig, RunnerParts, SearchIndexerMaker, StorageWriterMaker,
};
use metadata_replicator::feed::grpc::TcpDialer;
use metadata_replicator::{OriginPeer, ReplicatorPeer};
use service_kit::Stage;
use service_kit::config::CellConfig;
use service_kit::config::cell::GroupKind;
use span_log::SteppedOver;

use super::keepers::Keepers;
use crate::seam::RoleContext;

/// What others need of the running groups.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) publishing: PublisherMetrics,
    /// The hand for calls across borders.
    pub(super) calls: CrossBorder,
    /// Dead letters that are to be tried again.
    pub(super) retries: Retries,
}

/// Starts the groups.
pub(super) async fn start(
    config: &CellConfig,
    keepers: &Keepers,
    (lag, stepped_over): (LagBoard, &Arc<SteppedOver>),
    context: &mut RoleContext,
    stage: &Stage,
) -> anyhow::Result<Groups> {
    let metrics = IngesterMetrics::default();
    let publishing = PublisherMetrics::default();
    metrics.register(&mut context.registry);
    publishing.register(&mut context.registry);
    let (groups, calls) = makers(config, keepers, context, &publishing);
    let retries = Retries::default();
    let runner = RunnerParts {
        log: Arc::clone(&keepers.log),
        dead_letters: Arc::clone(&keepers.dead_letters),
        stepped_over: Some(Arc::clone(stepped_over)),
        clock: Arc::clone(&context.clock),
        lag,
        metrics,
        retries: retries.clone(),
        config: RunnerConfig::default(),
    };
    let parts = IngesterParts { runner, groups };
    let service = IngesterService::start(&stage.tracker, &stage.stopping, parts).await?;
    for group in service.groups().to_vec() {
        let (checked, warned) = (service.clone(), service.clone());
        context.readiness.probe(group.0, move || checked.check(group));
        context.readiness.warn(group.0, move || warned.warning(group));
    }
    Ok(Groups { publishing, calls, retries })
}

/// What the index may carry out of the region: asked where rows are published, and again where what was
/// published is served.
pub(super) fn index_policy(config: &CellConfig) -> Arc<dyn IndexPolicy> {
    Arc::new(FixedPolicy(config.locality.index))
}

fn makers(
    config: &CellConfig,
    keepers: &Keepers,
    context: &mut RoleContext,
    publishing: &PublisherMetrics,
) -> (Vec<Arc<dyn GroupMaker>>, CrossBorder) {
    let identity = keepers.log.identity();
    let incarnation = identity.incarnation;
    let counting = AggregatorMetrics::default();
    counting.register(&mut context.registry);
    let (aggregator, calls) = AggregatorMaker::new(AggregatorParts {
        store: Arc::clone(&keepers.stores.metrics),
        log: (incarnation, identity.partitions),
        config: AggregatorConfig {
            spread_over: spread_over(config, keepers),
            ..AggregatorConfig::default()
        },
        metrics: counting,
    });
    let writer = Arc::clone(&keepers.stores.writer);
    let indexer = Arc::clone(&keepers.stores.indexer);
    let publisher = keepers.origin.as_ref().map(|origin| PublisherMaker {
        config: PublisherConfig {
            spread_over: spread_over(config, keepers),
            ..PublisherConfig::new(config.region.clone())
        },
        span_log: Arc::clone(&keepers.log),
        origin: Arc::clone(origin) as _,
        peer: replicators_copy(config),
        policy: index_policy(config),
        clock: Arc::clone(&context.clock),
        metrics: publishing.clone(),
    });
    let mut makers: Vec<(GroupKind, Arc<dyn GroupMaker>)> = vec![
        (GroupKind::StorageWriter, Arc::new(StorageWriterMaker { writer, incarnation })),
        (GroupKind::SearchIndexer, Arc::new(SearchIndexerMaker { indexer, incarnation })),
        (GroupKind::MetricsAggregator, Arc::new(aggregator)),
    ];
    makers.extend(publisher.map(|one| (GroupKind::MetadataPublisher, Arc::new(one) as _)));
    if let Some(writer) = keepers.stores.analytics.clone() {
        let maker = AnalyticsWriterMaker { writer, incarnation };
        makers.push((GroupKind::AnalyticsWriter, Arc::new(maker)));
    }
    makers.retain(|(kind, _)| config.groups.contains(kind));
    (makers.into_iter().map(|(_, maker)| maker).collect(), calls)
}

/// Of several collectors each has a part of a trace.
fn spread_over(config: &CellConfig, keepers: &Keepers) -> Option<Arc<dyn LogEnds>> {
    config.direct.as_ref()?;
    Some(Arc::new(EndsOf(Arc::clone(&keepers.log))))
}

/// Who gives the origin log back, should it be lost: the region's replicator.
fn replicators_copy(config: &CellConfig) -> Option<Arc<dyn OriginPeer>> {
    let url = config.replicator.as_ref()?.as_str().to_owned();
    Some(Arc::new(ReplicatorPeer { url, dialer: Arc::new(TcpDialer) }))
}
