//! Puts what a view holds in the place of what the cell has: counts, or raw spans.

use service_kit::config::CellConfig;

use crate::seam::replay::{ReplayGroup, ReplayRefusal};
use crate::wiring::engines;

/// What a group's swap exchanges.
#[cfg(feature = "clickhouse")]
fn swapped_by(group: ReplayGroup) -> Result<trace_store::clickhouse::Swapped, ReplayRefusal> {
    use trace_store::clickhouse::Swapped;

    match group {
        ReplayGroup::MetricsAggregator => Ok(Swapped::Counts),
        ReplayGroup::AnalyticsWriter => Ok(Swapped::Spans),
        ReplayGroup::StorageWriter
        | ReplayGroup::SearchIndexer
        | ReplayGroup::MetadataPublisher => {
            Err(ReplayRefusal::Usage(format!("--swap: nothing that {group} writes is swapped")))
        }
    }
}

/// Whether a swap out of this database was begun and cut off: then nothing is replayed into it, and the
/// swap is finished.
///
/// # Errors
/// [`ReplayRefusal::Usage`] where it is done; else what failed.
#[cfg(feature = "clickhouse")]
pub(crate) async fn is_swap_begun(
    config: &CellConfig,
    group: ReplayGroup,
    filled: &str,
) -> Result<bool, ReplayRefusal> {
    use anyhow::Context as _;
    use trace_store::clickhouse::{SwapState, swap_state};

    let (own, filled) = settings(config, filled)?;
    let state = swap_state(swapped_by(group)?, &own, &filled).await.context("asking ClickHouse")?;
    match state {
        SwapState::Open => Ok(false),
        SwapState::Begun => Ok(true),
        SwapState::Done => Err(ReplayRefusal::Usage(format!(
            "--into {}: what it was filled with is in use since a swap, and it holds what was there before",
            filled.database
        ))),
    }
}

/// Swaps what a group has filled into a database with what the cell has. Gives what was done, in words.
///
/// # Errors
/// [`ReplayRefusal::Usage`] where a process of the group runs, or the view lacks what the cell has; else
/// what failed.
#[cfg(feature = "clickhouse")]
pub(crate) async fn swap(
    config: &CellConfig,
    group: ReplayGroup,
    filled: &str,
    is_confirmed: bool,
) -> Result<Vec<String>, ReplayRefusal> {
    use std::sync::Arc;

    use anyhow::Context as _;
    use service_kit::SystemClock;
    use trace_store::clickhouse::{SwapState, compare, swap, swap_state};

    let what = swapped_by(group)?;
    refuse_whoever_writes(config, group).await?;
    let (own, filled) = settings(config, filled)?;
    if swap_state(what, &own, &filled).await.context("asking ClickHouse")? == SwapState::Open {
        let compared = compare(what, &own, &filled).await.context("comparing the two")?;
        refuse_what_lacks(&compared, &filled.database, is_confirmed)?;
    }
    let swapped = swap(what, &own, &filled, Arc::new(SystemClock::new()));
    Box::pin(swapped).await.context("swapping the tables")?;
    Ok(vec![format!(
        "{} has what {group} filled; what was there before is in {}, which may be dropped",
        own.database, filled.database
    )])
}

#[cfg(feature = "clickhouse")]
fn refuse_what_lacks(
    compared: &trace_store::clickhouse::Compared,
    filled: &str,
    is_confirmed: bool,
) -> Result<(), ReplayRefusal> {
    if let Some((partition, held, wanted)) = compared.behind.first() {
        return Err(ReplayRefusal::Usage(format!(
            "--swap: {filled} has partition {partition} up to {held}, the cell up to {wanted}: replay again \
             without --until"
        )));
    }
    let loses = match (compared.cell_begins, compared.begins) {
        (Some(cell), Some(view)) => cell < view,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if loses && !is_confirmed {
        let moment = |time: Option<trace_model::UnixNanos>| {
            time.map_or_else(|| "nowhere".to_owned(), |time| crate::cli::moment(time.0))
        };
        return Err(ReplayRefusal::Usage(format!(
            "--swap: the cell's begin at {}, those of {filled} at {}: what was before would be in {filled} \
             alone. With --yes it is done",
            moment(compared.cell_begins),
            moment(compared.begins),
        )));
    }
    Ok(())
}

#[cfg(feature = "clickhouse")]
fn settings(
    config: &CellConfig,
    filled: &str,
) -> Result<(trace_store::ClickhouseConfig, trace_store::ClickhouseConfig), ReplayRefusal> {
    let Some(clickhouse) = &config.stores.clickhouse else {
        return Err(ReplayRefusal::Usage("the cell has no store in ClickHouse".to_owned()));
    };
    let own = engines::clickhouse::settings(config, clickhouse);
    let filled = trace_store::ClickhouseConfig { database: filled.to_owned(), ..own.clone() };
    Ok((own, filled))
}

/// Who writes, or stands by to, is a member of the group.
#[cfg(all(feature = "clickhouse", feature = "kafka"))]
async fn refuse_whoever_writes(
    config: &CellConfig,
    group: ReplayGroup,
) -> Result<(), ReplayRefusal> {
    use anyhow::Context as _;
    use ingester::ANALYTICS_WRITER;
    use span_log::kafka::KafkaLog;
    use span_log::port::METRICS_AGGREGATOR;

    let Some(kafka) = &config.stores.kafka else {
        return Err(ReplayRefusal::Usage("the cell has no log in Kafka".to_owned()));
    };
    let settings = engines::kafka::settings(config, kafka)?;
    let id = match group {
        ReplayGroup::AnalyticsWriter => ANALYTICS_WRITER,
        ReplayGroup::StorageWriter
        | ReplayGroup::SearchIndexer
        | ReplayGroup::MetricsAggregator
        | ReplayGroup::MetadataPublisher => METRICS_AGGREGATOR,
    };
    let members = KafkaLog::members(&settings, id).await;
    match members.context("asking who writes")? {
        0 => Ok(()),
        members => Err(ReplayRefusal::Usage(format!(
            "--swap: {members} running process(es) take part in {group}: stop them (or leave the group out \
             of their `ingester.groups`), and swap again; one that was killed counts as running for \
             `kafka.session_timeout`"
        ))),
    }
}

#[cfg(all(feature = "clickhouse", not(feature = "kafka")))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn refuse_whoever_writes(_: &CellConfig, _: ReplayGroup) -> Result<(), ReplayRefusal> {
    Err(engines::lacking("stores.log: kafka", "kafka").into())
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(crate) async fn is_swap_begun(
    _: &CellConfig,
    _: ReplayGroup,
    _: &str,
) -> Result<bool, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(crate) async fn swap(
    _: &CellConfig,
    _: ReplayGroup,
    _: &str,
    _: bool,
) -> Result<Vec<String>, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}
