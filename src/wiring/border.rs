//! Calls across regions: the joiner on the cell's own spans and the region's replicator.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use ingester::metrics_aggregator::CrossBorder;
use ingester::{
    BorderConfig, BorderJoiner, BorderMetrics, BorderParts, LookupError, OwnRows, ParentLookup,
    ParentSpan, ReplicatorAddress,
};
use metadata_replicator::Entropy;
use metadata_replicator::feed::grpc::TcpDialer;
use proto::wire::SpanHeader;
use service_kit::Stage;
use service_kit::config::CellConfig;
use span_log::SpanLog;
use trace_model::sampling_threshold::Threshold;
use trace_model::{SpanId, StoredSpan, TenantId, TraceId, UnixNanos};
use trace_store::port::TraceReader;

use super::keepers::Keepers;
use crate::seam::RoleContext;

/// Starts joining calls that enter other regions, where the cell knows its replicator.
pub(super) fn join_calls(
    config: &CellConfig,
    keepers: &Keepers,
    calls: CrossBorder,
    context: &mut RoleContext,
    stage: &Stage,
) -> anyhow::Result<()> {
    let Some(replicator) = &config.replicator else {
        tracing::info!("no `replicator`: calls across regions are not counted");
        return Ok(());
    };
    let metrics = BorderMetrics::default();
    metrics.register(&mut context.registry);
    let log = Arc::clone(&keepers.log);
    let mut border = BorderConfig::new(config.region.clone(), config.data_dir.join("border"));
    border.adjusted_count = adjusted_count(config.head.rate)?;
    let parts = BorderParts {
        config: border,
        own: Arc::new(OwnRows::new(Arc::clone(&keepers.origin) as _, log.identity())),
        parents: Arc::new(HeldSpans { log, store: Arc::clone(&keepers.stores.traces) }),
        calls: Arc::new(calls),
        clock: Arc::clone(&context.clock),
        metrics,
    };
    let replicator = ReplicatorAddress {
        url: replicator.as_str().to_owned(),
        dialer: Arc::new(TcpDialer),
        entropy: Arc::new(Entropy::from_system()),
    };
    let joiner = BorderJoiner::new(parts, replicator);
    stage.spawn(joiner.run(stage.tracker.clone(), stage.stopping.clone()));
    Ok(())
}

/// A cell that keeps nothing joins nothing: then the count does not matter.
fn adjusted_count(rate: f64) -> anyhow::Result<f64> {
    if rate <= 0.0 {
        return Ok(1.0);
    }
    Ok(Threshold::from_rate(rate).context("`head.rate`")?.adjusted_count())
}

/// The spans of the live tail, and behind it those of the store: in this order, as
/// `querier::find_trace` argues, nothing falls between the two.
#[derive(Debug)]
struct HeldSpans {
    log: Arc<dyn SpanLog>,
    store: Arc<dyn TraceReader>,
}

#[async_trait]
impl ParentLookup for HeldSpans {
    async fn parents_of(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
        spans: &[SpanId],
    ) -> Result<BTreeMap<SpanId, ParentSpan>, LookupError> {
        let tail = self.log.tail(tenant, trace_id).await;
        let tail = tail.map_err(|error| LookupError(error.to_string()))?;
        let stored = self.store.read_trace(tenant, trace_id).await;
        let stored = stored.map_err(|error| LookupError(error.to_string()))?;
        let held = stored.spans.into_iter().chain(tail.spans);
        let wanted = held.filter(|span| spans.contains(&span.key.span_id));
        Ok(wanted.map(|span| (span.key.span_id, parent(&span))).collect())
    }
}

/// A span as the calling side; of one whose times cannot be read only the service is known.
fn parent(span: &StoredSpan) -> ParentSpan {
    let times = SpanHeader::read(&span.span).map(|header| (header.start, header.end));
    let (start, end) = times.unwrap_or_default();
    let service = Arc::clone(&span.context.service);
    ParentSpan { service, start: UnixNanos(start), end: UnixNanos(end) }
}
