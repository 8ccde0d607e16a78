//! A replay beside a running cell: the log read without a group, and the stores written as that group
//! writes them, or a view beside them.

use std::sync::Arc;

use ingester::{Replay, ReplayParts};
use service_kit::SystemClock;
use service_kit::config::CellConfig;
use span_log::SpanLog;
use tokio_util::sync::CancellationToken;
use trace_model::{Clock, Coverage, LogRange};

use crate::seam::replay::{ReplayGroup, ReplayRefusal, ReplayRequest};

mod ranges;
mod swap;
mod targets;

pub(crate) use swap::{is_swap_begun, swap};

use ranges::resolve;
use targets::Target;

/// A replay that is ready to run.
#[derive(Debug)]
pub(crate) struct PreparedReplay {
    /// The log, to be closed afterwards.
    pub(crate) log: Arc<dyn SpanLog>,
    pub(crate) replay: Replay,
    pub(crate) ranges: Vec<LogRange>,
    /// The name of the store or view.
    pub(crate) into: String,
    /// The same, and in which engine.
    pub(crate) what: String,
    pub(crate) warnings: Vec<String>,
}

/// Opens log and store, and finds the records that are meant.
///
/// # Errors
/// [`ReplayRefusal::Usage`] for what cannot be replayed so; else what failed.
pub(crate) async fn prepare_replay(
    config: &CellConfig,
    request: &ReplayRequest,
    stop: CancellationToken,
) -> Result<PreparedReplay, ReplayRefusal> {
    refuse_what_cannot_be(config, request)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let log = open_log(config, Arc::clone(&clock)).await?;
    let target = Box::pin(targets::open(config, request, &*log, Arc::clone(&clock))).await;
    let prepared = match target {
        Ok(target) => prepare(request, &log, target, clock, stop).await,
        Err(refusal) => Err(refusal),
    };
    if prepared.is_err() {
        drop(log.close().await);
    }
    prepared
}

async fn prepare(
    request: &ReplayRequest,
    log: &Arc<dyn SpanLog>,
    target: Target,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<PreparedReplay, ReplayRefusal> {
    let Target { handler, into, what, held, position } = target;
    let mut resolved = resolve(request, &**log, &held, clock.now()).await?;
    if let Some(position) = &position {
        resolved.go_on_from(position);
    }
    if request.into.is_some() {
        refuse_gaps(&resolved.ranges, &held, log.identity().incarnation, &into)?;
    }
    let ranges = resolved.ranges;
    let parts = ReplayParts {
        log: Arc::clone(log),
        clock,
        handler,
        ranges: ranges.clone(),
        records_per_second: request.records_per_second.map(std::num::NonZero::get),
    };
    let (log, warnings) = (Arc::clone(log), resolved.warnings);
    Ok(PreparedReplay { log, replay: Replay::new(parts, stop), ranges, into, what, warnings })
}

/// A view says how far it holds the log: with records missing in between that would not be true.
fn refuse_gaps(
    ranges: &[LogRange],
    view: &Coverage,
    incarnation: u64,
    into: &str,
) -> Result<(), ReplayRefusal> {
    for LogRange { partition, first, .. } in ranges {
        let held = view.next_in(incarnation, *partition);
        if held > 0 && *first > held {
            return Err(ReplayRefusal::Usage(format!(
                "--from: {into} holds partition {partition} up to {held}; from {first} on, the records \
                 between would be missing and called held. Leave --from out to go on from where it ends"
            )));
        }
    }
    Ok(())
}

fn refuse_what_cannot_be(
    config: &CellConfig,
    request: &ReplayRequest,
) -> Result<(), ReplayRefusal> {
    let stores = &config.stores;
    let refused = match request.group {
        ReplayGroup::MetadataPublisher => Some(
            "the index is no function of the log alone: what was published carries its versions and the \
             decisions of other regions. An origin log that was lost is given back by the region's replicator",
        ),
        _ if stores.kafka.is_none() => Some(
            "the embedded log is files of the one process that runs the cell. Its groups read on from \
             what their stores hold: a store that was lost is filled again when the cell is started, as \
             far back as the log is kept (`log.retention`)",
        ),
        ReplayGroup::StorageWriter if stores.cassandra.is_none() => {
            Some("spans are kept in files of the one process that runs the cell")
        }
        ReplayGroup::SearchIndexer if stores.is_searched_by_tables() => {
            Some("traces are found by the tables that storage-writer fills: replay that group")
        }
        ReplayGroup::SearchIndexer if stores.elasticsearch.is_none() => {
            Some("the search index is files of the one process that runs the cell")
        }
        ReplayGroup::MetricsAggregator if stores.clickhouse.is_none() => {
            Some("counts are kept in files of the one process that runs the cell")
        }
        ReplayGroup::AnalyticsWriter
            if stores.clickhouse.as_ref().is_none_or(|engine| !engine.is_keeping_spans) =>
        {
            Some("this cell keeps no raw spans (`clickhouse.spans`)")
        }
        ReplayGroup::StorageWriter
        | ReplayGroup::SearchIndexer
        | ReplayGroup::MetricsAggregator
        | ReplayGroup::AnalyticsWriter => None,
    };
    refused.map_or(Ok(()), |why| {
        Err(ReplayRefusal::Usage(format!("--group {}: {why}", request.group)))
    })
}

/// The log, read by nobody's group. What storage-writer has committed is known, so that a record that is
/// damaged and was stored long ago is not called lost.
#[cfg(feature = "kafka")]
async fn open_log(
    config: &CellConfig,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn SpanLog>, ReplayRefusal> {
    use anyhow::Context as _;
    use span_log::kafka::{KafkaConfig, KafkaLog};
    use span_log::{Seen, port::STORAGE_WRITER};

    let Some(kafka) = &config.stores.kafka else {
        return Err(ReplayRefusal::Usage("the cell has no log in Kafka".to_owned()));
    };
    let settings = super::engines::kafka::settings(config, kafka)?;
    let settings = KafkaConfig {
        groups: vec![STORAGE_WRITER],
        required_groups: Vec::new(),
        client_id: format!("farspan-replay-{}", config.region),
        member: None,
        tail: None,
        ..settings
    };
    let log = KafkaLog::open(settings, Seen::default(), clock).await;
    Ok(log.context("opening the span log in Kafka")?)
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn open_log(_: &CellConfig, _: Arc<dyn Clock>) -> Result<Arc<dyn SpanLog>, ReplayRefusal> {
    Err(super::engines::lacking("stores.log: kafka", "kafka").into())
}
