//! Calls across regions: the joiner on the cell's own spans and the region's replicator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use ingester::metrics_aggregator::CrossBorder;
use ingester::{
    BorderConfig, BorderJoiner, BorderMetrics, BorderParts, LagBoard, LookupError, OwnRows,
    ParentLookup, ParentSpan, ReplicatorAddress,
};
use metadata_replicator::Entropy;
use metadata_replicator::feed::grpc::TcpDialer;
use proto::wire::SpanHeader;
use service_kit::Stage;
use service_kit::config::CellConfig;
use service_kit::config::cell::GroupKind;
use span_log::SpanLog;
use span_log::port::{METADATA_PUBLISHER, METRICS_AGGREGATOR};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_model::sampling_threshold::Threshold;
use trace_model::{SpanId, StoredSpan, TenantId, TraceId, UnixNanos};
use trace_store::port::TraceReader;

use super::keepers::Keepers;
#[cfg(feature = "kafka")]
use crate::seam::CellRole;
use crate::seam::RoleContext;

/// Whether this process counts and publishes is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts joining calls that enter other regions, where the cell knows its replicator and this process
/// may count them.
pub(super) fn join_calls(
    config: &CellConfig,
    keepers: &Keepers,
    (calls, lag): (CrossBorder, &LagBoard),
    context: &mut RoleContext,
    stage: &Stage,
) -> anyhow::Result<()> {
    let Some(replicator) = &config.replicator else {
        tracing::info!("no `replicator`: calls across regions are not counted");
        return Ok(());
    };
    let Some(origin) = keepers.origin.as_ref().filter(|_| counts(config)) else {
        tracing::info!("calls across regions are counted by another process of this cell");
        return Ok(());
    };
    let metrics = BorderMetrics::default();
    metrics.register(&mut context.registry);
    let log = Arc::clone(&keepers.log);
    let mut border = BorderConfig::new(config.region.clone(), config.data_dir.join("border"));
    border.adjusted_count = adjusted_count(config.head.rate)?;
    let parts = BorderParts {
        config: border,
        own: Arc::new(OwnRows::new(Arc::clone(origin) as _, log.identity())),
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
    let (tracker, stopping) = (stage.tracker.clone(), stage.stopping.clone());
    stage.spawn(join_in_turn(parts, replicator, lag.clone(), (tracker, stopping)));
    Ok(())
}

/// Whether a process looks for spans that no store has yet: to answer, or for the caller of a call that
/// another region has seen. To hold them costs a reading of the whole log, and memory.
#[cfg(feature = "kafka")]
pub(super) fn looks_at_fresh_spans(config: &CellConfig, role: CellRole) -> bool {
    role.answers() || (role.consumes() && config.replicator.is_some() && counts(config))
}

fn counts(config: &CellConfig) -> bool {
    config.groups.contains(&GroupKind::MetricsAggregator)
}

/// Joins while this process counts and publishes. One that stands by would pass calls that nobody has
/// counted yet.
async fn join_in_turn(
    parts: BorderParts,
    replicator: ReplicatorAddress,
    lag: LagBoard,
    (tracker, stopping): (TaskTracker, CancellationToken),
) {
    while !stopping.is_cancelled() {
        if has_turn(&lag) {
            let turn = stopping.child_token();
            let joiner = BorderJoiner::new(parts.clone(), replicator.clone());
            let joining = joiner.run(tracker.clone(), turn.clone());
            let ending = async {
                while has_turn(&lag) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                turn.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = joining => {}
                () = ending => {}
            }
        }
        let pause = tokio::time::sleep(LOOK_EVERY);
        if stopping.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

fn has_turn(lag: &LagBoard) -> bool {
    [METRICS_AGGREGATOR, METADATA_PUBLISHER]
        .into_iter()
        .all(|group| lag.of(group).is_some_and(|lag| !lag.is_standing_by))
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
        let found: BTreeMap<SpanId, ParentSpan> =
            wanted.map(|span| (span.key.span_id, parent(&span))).collect();
        told(found, spans, &tail.silent)
    }
}

/// A collector that is silent may have those that were not found, and no others.
fn told(
    found: BTreeMap<SpanId, ParentSpan>,
    asked: &[SpanId],
    silent: &[u32],
) -> Result<BTreeMap<SpanId, ParentSpan>, LookupError> {
    if !silent.is_empty() && asked.iter().any(|span| !found.contains_key(span)) {
        return Err(LookupError("a collector does not answer".to_owned()));
    }
    Ok(found)
}

/// A span as the calling side; of one whose times cannot be read only the service is known.
fn parent(span: &StoredSpan) -> ParentSpan {
    let times = SpanHeader::read(&span.span).map(|header| (header.start, header.end));
    let (start, end) = times.unwrap_or_default();
    let service = Arc::clone(&span.context.service);
    ParentSpan { service, start: UnixNanos(start), end: UnixNanos(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "kafka")]
    #[test]
    fn an_ingester_holds_fresh_spans_only_where_it_joins_calls_of_other_regions() {
        let holds = |role: CellRole, more: &str| {
            let text = format!(
                "kind: cell\nregion: a\nkafka: {{brokers: ['k:1']}}\ncassandra: {{nodes: ['c:1'], \
                 datacenter: d}}\nelasticsearch: {{urls: ['http://e:1']}}\nclickhouse: {{url: \
                 'http://h:1'}}\nprofile: growth\n{more}"
            );
            let parsed = service_kit::config::parse("cell.yaml", &text).unwrap();
            let service_kit::config::Config::Cell(config) = parsed.config else {
                panic!("no cell")
            };
            looks_at_fresh_spans(&config, role)
        };
        let (replicator, stores) =
            ("replicator: 'http://r:1'\n", "ingester: {groups: [storage-writer]}\n");
        assert!(holds(CellRole::Querier, "") && holds(CellRole::All, stores));
        assert!(!holds(CellRole::Collector, replicator));
        assert!(holds(CellRole::Ingester, replicator));
        assert!(!holds(CellRole::Ingester, ""));
        assert!(!holds(CellRole::Ingester, &format!("{replicator}{stores}")));
    }

    #[test]
    fn a_silent_collector_makes_only_those_wait_whose_parents_were_not_found() {
        let id = |byte: u8| SpanId::from_bytes([byte; 8]).unwrap();
        let (start, end) = (UnixNanos(1), UnixNanos(2));
        let found = BTreeMap::from([(id(1), ParentSpan { service: "web".into(), start, end })]);
        let count = |asked: &[SpanId], silent: &[u32]| {
            told(found.clone(), asked, silent).map(|found| found.len()).ok()
        };
        assert_eq!(count(&[id(1)], &[3]), Some(1));
        assert_eq!(count(&[id(1), id(2)], &[3]), None);
        assert_eq!(count(&[id(1), id(2)], &[]), Some(1));
    }
}
