//! Puts the counts of a view in the place of the cell's.

use service_kit::config::CellConfig;

use crate::seam::replay::ReplayRefusal;
use crate::wiring::engines;

/// Whether a swap out of this database was begun and cut off: then nothing is replayed into it, and the
/// swap is finished.
///
/// # Errors
/// [`ReplayRefusal::Usage`] where it is done; else what failed.
#[cfg(feature = "clickhouse")]
pub(crate) async fn is_swap_begun(
    config: &CellConfig,
    filled: &str,
) -> Result<bool, ReplayRefusal> {
    use anyhow::Context as _;
    use trace_store::clickhouse::{SwapState, swap_state};

    let (own, filled) = settings(config, filled)?;
    let state = swap_state(&own, &filled).await.context("asking ClickHouse")?;
    match state {
        SwapState::Open => Ok(false),
        SwapState::Begun => Ok(true),
        SwapState::Done => Err(ReplayRefusal::Usage(format!(
            "--into {}: its counts are in use since a swap, and it holds those from before",
            filled.database
        ))),
    }
}

/// Swaps the counts of a filled database with those of the cell's. Gives what was done, in words.
///
/// # Errors
/// [`ReplayRefusal::Usage`] where somebody counts, or the view lacks what the cell has; else what failed.
#[cfg(feature = "clickhouse")]
pub(crate) async fn swap_counts(
    config: &CellConfig,
    filled: &str,
    is_confirmed: bool,
) -> Result<Vec<String>, ReplayRefusal> {
    use anyhow::Context as _;
    use service_kit::SystemClock;
    use trace_store::clickhouse::{SwapState, compare_counts, swap_counts, swap_state};

    refuse_whoever_counts(config).await?;
    let (own, filled) = settings(config, filled)?;
    if swap_state(&own, &filled).await.context("asking ClickHouse")? == SwapState::Open {
        let compared = compare_counts(&own, &filled).await.context("comparing the counts")?;
        if let Some((partition, held, wanted)) = compared.behind.first() {
            return Err(ReplayRefusal::Usage(format!(
                "--swap: {} counts partition {partition} up to {held}, the cell up to {wanted}: replay again \
                 without --until",
                filled.database
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
                "--swap: the cell counts from {} on, {} from {}: what was counted before would be in {} \
                 alone. With --yes it is done",
                moment(compared.cell_begins),
                filled.database,
                moment(compared.begins),
                filled.database,
            )));
        }
    }
    swap_counts(&own, &filled, &SystemClock::new()).await.context("swapping the counts")?;
    Ok(vec![format!(
        "{} has the counts that were filled; those from before are in {}, which may be dropped",
        own.database, filled.database
    )])
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

/// Who counts, or stands by to, is a member of the group.
#[cfg(all(feature = "clickhouse", feature = "kafka"))]
async fn refuse_whoever_counts(config: &CellConfig) -> Result<(), ReplayRefusal> {
    use anyhow::Context as _;
    use span_log::kafka::KafkaLog;
    use span_log::port::METRICS_AGGREGATOR;

    let Some(kafka) = &config.stores.kafka else {
        return Err(ReplayRefusal::Usage("the cell has no log in Kafka".to_owned()));
    };
    let settings = engines::kafka::settings(config, kafka)?;
    let members = KafkaLog::members(&settings, METRICS_AGGREGATOR).await;
    match members.context("asking who counts")? {
        0 => Ok(()),
        members => Err(ReplayRefusal::Usage(format!(
            "--swap: {members} running process(es) take part in metrics-aggregator: stop them (or leave the \
             group out of their `ingester.groups`), and swap again; one that was killed counts as running \
             for `kafka.session_timeout`"
        ))),
    }
}

#[cfg(all(feature = "clickhouse", not(feature = "kafka")))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
async fn refuse_whoever_counts(_: &CellConfig) -> Result<(), ReplayRefusal> {
    Err(engines::lacking("stores.log: kafka", "kafka").into())
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(crate) async fn is_swap_begun(_: &CellConfig, _: &str) -> Result<bool, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}

#[cfg(not(feature = "clickhouse"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(crate) async fn swap_counts(
    _: &CellConfig,
    _: &str,
    _: bool,
) -> Result<Vec<String>, ReplayRefusal> {
    Err(engines::lacking("stores.metrics: clickhouse", "clickhouse").into())
}
