//! The days of a cell's search engine, for the command that shows and moves them.

use service_kit::config::CellConfig;

/// How many of the steps that are due are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    /// None: they are shown.
    None,
    /// The first one of each day.
    OneOfEachDay,
    /// All.
    All,
}

/// One day of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DayShown {
    /// The name by which it is read.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) tier: &'static str,
    /// Where it should be.
    pub(crate) due: &'static str,
    /// Its documents.
    pub(crate) documents: u64,
    /// Their bytes, without copies.
    pub(crate) bytes: u64,
    /// Its indices.
    pub(crate) indices: Vec<String>,
    /// What was done.
    pub(crate) done: Vec<String>,
    /// What comes next.
    pub(crate) next: Option<String>,
    /// Why a step failed.
    pub(crate) error: Option<String>,
}

/// All days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TiersShown {
    /// Who moves them.
    pub(crate) driver: &'static str,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
    /// By day.
    pub(crate) days: Vec<DayShown>,
}

/// Shows the days of a cell, and moves them first where that is wanted.
#[cfg(feature = "elasticsearch")]
pub(crate) async fn store_tiers(config: &CellConfig, moves: Moves) -> anyhow::Result<TiersShown> {
    use std::sync::Arc;

    use anyhow::Context as _;
    use trace_store::elasticsearch::{DayReport, ElasticsearchStore, TierDriver, TierSteps};

    let engine = config.stores.elasticsearch.as_ref();
    let engine = engine.context("`stores.search` is not elasticsearch: nothing has tiers")?;
    let settings = super::engines::elasticsearch::settings(config, engine);
    let clock = Arc::new(service_kit::SystemClock::new());
    let store = ElasticsearchStore::connect(settings, clock).await.context("the search engine")?;
    let report = match moves {
        Moves::None => store.tiers().await?,
        Moves::OneOfEachDay => store.move_tiers(TierSteps::OneOfEachDay).await?,
        Moves::All => store.move_tiers(TierSteps::All).await?,
    };
    let day = |day: DayReport| DayShown {
        name: day.name,
        tier: day.tier.word(),
        due: day.due.word(),
        documents: day.documents,
        bytes: day.bytes,
        indices: day.indices,
        done: day.done,
        next: day.next,
        error: day.error,
    };
    let driver = match report.driver {
        TierDriver::Auto => "auto",
        TierDriver::Ilm => "ilm",
        TierDriver::Own => "own",
        TierDriver::Off => "off",
    };
    let days = report.days.into_iter().map(day).collect();
    Ok(TiersShown { driver, notes: report.notes, days })
}

/// Another build does.
#[cfg(not(feature = "elasticsearch"))]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub(crate) async fn store_tiers(_: &CellConfig, _: Moves) -> anyhow::Result<TiersShown> {
    Err(super::engines::lacking("stores.search: elasticsearch", "elasticsearch"))
}
